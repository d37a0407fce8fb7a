"""Gradients for training loops: the Gram eigenbasis is carried from step to step.

Between two steps of an optimizer ``A`` moves by 1e-3 or so, and the eigenvectors ``V`` of
``A^T A`` hardly at all. In the old basis ``C = V^T (A^T A) V`` is nearly diagonal, and the matrix
function that the gradient needs is, to first order in its off-diagonal part,

    q(C)_ij = q[c_ii, c_jj] c_ij  (i != j),      q(C)_ii = q(c_ii),

with the divided difference ``q[x, y] = (q(x) - q(y)) / (x - y)`` (Daleckii and Krein). That is four
matrix products and no decomposition. The error is of second order in the drift, and is estimated
from the same table: where it would exceed the tolerance, the basis is renewed at that very step.
How far ``A`` has moved does not tell: at p = 1/2 a drift of 1e-2 is an error of 3 % on a Gaussian
matrix and of 400 % on one of rank 8.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import non_negative, one_of
from rankjax._linear_algebra import anywhere, eigh, identity, matmul, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode, SchattenPower
from rankjax.matrix._scaling import at_floor, gram_matrix, safe_unit, tall
from rankjax.matrix.spectrum import default_rtol

_SIGNS = 8  # vectors that estimate the error
# Over flat, Gaussian, low-rank and power-law spectra and p from 1/4 to 3/2, for errors up to 2 %,
# the estimate was 0.4 to 2.8 times the error.
_SAFETY = 2.5


class WarmState(NamedTuple):
    """The carried state: a pytree of arrays, fit for an Optax state.

    Attributes:
        basis: ``(..., k, k)``, the eigenvectors of the smaller Gram matrix at the last refresh, in
            float32 or float64.
        error: ``(...)``, the estimated error of the gradient in the carried basis, relative to its
            norm (Frobenius), at the last step; above the tolerance the basis was renewed there.
    """

    basis: Array
    error: Array


def refresh(a: Float[ArrayLike, "... m n"], /, *, axes: tuple[int, int] = (-2, -1)) -> WarmState:
    """A state that is exact at ``a``. Cost: one ``eigh`` of the smaller Gram matrix.

    Returns:
        The state; same shapes and dtypes whatever the values, so it can live in ``lax.cond``.

    Not differentiable (a state is data). A matrix that is not finite gives a NaN state.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> value, gradient, state = step(a, refresh(a), p=1.0, eps=0.0)
        >>> round(float(value), 3)
        5.0
    """
    matrix, _ = canonicalize(a, axes)
    small, _ = tall(matrix)
    if 0 in matrix.shape:
        k = small.shape[-1]
        basis = jnp.broadcast_to(jnp.eye(k, dtype=matrix.dtype), (*matrix.shape[:-2], k, k))
        return WarmState(basis, jnp.zeros(matrix.shape[:-2], matrix.dtype))
    small = small / safe_unit(small)[..., None, None]
    _, v = eigh(matmul(transpose(small), small))
    return WarmState(v, jnp.zeros(matrix.shape[:-2], matrix.dtype))


init = refresh


def step(
    a: Float[ArrayLike, "... m n"],
    state: WarmState,
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike,
    eps_mode: EpsMode = "relative",
    axes: tuple[int, int] = (-2, -1),
    tolerance: ArrayLike = 0.01,
) -> tuple[Float[Array, "..."], Float[Array, "... m n"], WarmState]:
    """``schatten_power(a)`` and its gradient, within ``tolerance``, mostly without a decomposition.

    Args:
        state: from ``refresh`` on an earlier ``a`` of the same shape.
        p: exponent >= 0, may be traced.
        eps: smoothing; raised to the floor of the Gram engine, ``sqrt(machine eps)``.
        eps_mode: ``"relative"`` (to the largest singular value in the carried basis) or
            ``"absolute"``.
        tolerance: relative error of the gradient (Frobenius norm) from which the basis is renewed,
            by an estimate that was at least 0.4 of it in all tests; infinity: never.

    Returns:
        The power ``(...)``, its gradient (shape and dtype of ``a``), the state with its ``error``
        and with a new basis where one was needed.

    Cost: four products, ``W = A V``, ``W^T W`` and two on the way back (from ``m = 3 n`` on
    ``A^T A``, four of the size of ``V`` and one more, which is less), and where the basis is
    renewed an ``eigh`` of the smaller Gram matrix and half of the products once more. In a batch,
    and under a ``vmap``, all matrices renew their basis as soon as one has to (``lax.cond`` on
    whether any has): batches of matrices that move at very different speeds are better taken
    apart. Do not differentiate it: it *is* the derivative.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> _, gradient, _ = step(a, init(a), p=2.0, eps=0.1)
        >>> [round(float(g), 3) for g in jnp.diag(gradient)]
        [8.0, 2.0]
    """
    non_negative(p, "p")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EpsMode)
    matrix, dtype = canonicalize(a, axes)
    batch = matrix.shape[:-2]
    if 0 in matrix.shape:
        return jnp.zeros(batch, dtype), jnp.zeros_like(jnp.asarray(a)), state
    parameters = tuple(jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, eps))
    first = partial(_rotated, matrix, p=parameters[0], eps=parameters[1], eps_mode=eps_mode)
    parts, error = first(state.basis)

    def renewed(_: Any) -> tuple[_Parts, Array]:
        basis = refresh(matrix).basis
        return first(basis)[0], basis

    # Before the gradient is made, so that it need not be held meanwhile.
    parts, v = jax.lax.cond(
        anywhere(~(_SAFETY * error <= tolerance)),  # NaN, too
        renewed,
        lambda found: found,
        (parts, state.basis),
    )
    weight = matmul(parts.middle, transpose(v))
    weight = weight if _through_w(parts.small) else matmul(v, weight)
    gradient = parts.scale[..., None, None] * matmul(parts.small, weight)
    gradient = transpose(gradient) if matrix.shape[-2] < matrix.shape[-1] else gradient
    gradient = jnp.moveaxis(gradient, (-2, -1), axes).astype(dtype)
    return parts.value.astype(dtype), gradient, WarmState(v, error)


class _Parts(NamedTuple):
    """Of the gradient ``scale small middle V^T`` (``scale small V middle V^T``), and the power."""

    small: Array  # W = A V or, from m = 3 n on, A
    middle: Array  # q(C) to first order
    scale: Array
    value: Array


def _through_w(small: Array) -> bool:
    """W = A V saves two products of the size of V, and costs one of the size of A."""
    return small.shape[-2] < 3 * small.shape[-1]


def _rotated(
    matrix: Array, v: Array, *, p: Array, eps: Array, eps_mode: EpsMode
) -> tuple[_Parts, Array]:
    """What the gradient is made of in the basis ``v``, and its estimated relative error there."""
    small, _ = tall(matrix)
    if _through_w(small):
        unit = safe_unit(small)
        small = matmul(small / unit[..., None, None], v)
        rotated = matmul(transpose(small), small)
    else:
        small, unit, g = gram_matrix(small)
        rotated = matmul(transpose(v), matmul(g, v))
    diagonal = jnp.maximum(jnp.diagonal(rotated, axis1=-2, axis2=-1), 0)
    eye = identity(v)
    # Tables only need sigma_1 in front: the order of the others is free.
    s = jnp.sqrt(diagonal)
    function = SchattenPower(eps_mode, default_rtol(max(matrix.shape[-2:]), matrix.dtype))
    function, scale, arguments = at_floor(function, unit, s, p, eps, matrix.dtype)
    tables = function.tables(*arguments)
    relative = rotated * ((unit / scale) ** 2)[..., None, None]
    change = tables.squared * relative * (1 - eye)
    value = jnp.sum(function.value(*arguments), axis=-1)
    # To second order: the trace of phi sees the off-diagonal part through q[c_i, c_j] / 2.
    value = value + jnp.sum(change * relative, axis=(-2, -1)) / 4
    error = _second_order(change, tables.ratio, arguments[0], p)
    middle = change + tables.ratio[..., None, :] * eye
    # Its own units stay with the scale: a copy of A less.
    return _Parts(small, middle, scale ** (p - 1) * (unit / scale), scale**p * value), error


def _second_order(change: Array, q: Array, s: Array, p: Array) -> Array:
    """Size of the next term of the gradient, relative to the gradient.

    The next term of ``q(C)`` is made of second divided differences. Those of ``q = p t^-r``,
    ``r = 1 - p/2``, are ``q[x, y] q[y, z] / q(y)`` exactly for r = 1, and near the diagonal
    ``(1 + r) / 2r`` times that: the term is about ``X diag(1/q) X`` with the first, ``X``. Its
    Frobenius norm, with ``S`` in front, is estimated with signs (Hutchinson), without a product.
    """
    r = jnp.abs(1 - p / 2)
    factor = jnp.where(r > 0, (1 + r) / jnp.where(r > 0, 2 * r, 1), 0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(q.shape[-1], _SIGNS))
    z = matmul(change, jnp.asarray(signs, q.dtype))
    inverse = jnp.where(q != 0, 1 / jnp.where(q != 0, q, 1), 0)
    z = s[..., :, None] * matmul(change, inverse[..., :, None] * z)
    term = jnp.sqrt(jnp.sum(z * z, axis=(-2, -1)) / _SIGNS)
    whole = jnp.sqrt(jnp.sum((s * q) ** 2, axis=-1))
    return factor * term / jnp.where(whole == 0, 1, whole)
