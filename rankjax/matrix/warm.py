"""Gradients for training loops: the Gram eigenbasis is carried from step to step.

Between two steps of an optimiser ``A`` moves by 1e-3 or so, and the eigenvectors ``V`` of
``A^T A`` hardly at all. In the old basis ``C = V^T (A^T A) V`` is nearly diagonal, and the matrix
function that the gradient needs is, to first order in its off-diagonal part,

    q(C)_ij = q[c_ii, c_jj] c_ij  (i != j),      q(C)_ii = q(c_ii),

with the divided difference ``q[x, y] = (q(x) - q(y)) / (x - y)`` (Daleckii and Krein). That is four
matrix products and no decomposition. The error is of second order in the drift: call ``refresh``
every ten steps or so (``drift`` in the state says how far the basis is off; it costs nothing).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rankjax.matrix import gram, spectrum
from rankjax.matrix.canonical import EPS_MODES, canonicalize, non_negative, one_of
from rankjax.matrix.decompose import eigh, matmul, transpose
from rankjax.matrix.powers import SchattenPower


class WarmState(NamedTuple):
    """What is carried: a pytree of arrays, fit for an Optax state.

    Attributes:
        basis: ``(..., k, k)``, the eigenvectors of the smaller Gram matrix at the last refresh, in
            float32 or float64.
        drift: ``(...)``, off-diagonal part of the Gram matrix in this basis, relative to
            ``sigma_1^2`` (Frobenius norm), at the last step.
    """

    basis: Array
    drift: Array


def refresh(a: ArrayLike, /, *, axes: tuple[int, int] = (-2, -1)) -> WarmState:
    """A state that is exact at ``a``. Cost: one ``eigh`` of the smaller Gram matrix.

    Args:
        a: a matrix or a batch of matrices.
        axes: the (out, in) axes of the matrix.

    Returns:
        The state; same shapes and dtypes whatever the values, so it can live in ``lax.cond``.

    Raises:
        ValueError: wrong rank, axes or dtype.

    Not differentiable (a state is data). A matrix that is not finite gives a NaN state.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> value, gradient, state = step(a, refresh(a), p=1.0, eps=0.0)
        >>> round(float(value), 3)
        5.0
    """
    matrix, _ = canonicalize(a, axes)
    small, _, _ = gram.tall(matrix)
    if 0 in matrix.shape:
        k = small.shape[-1]
        basis = jnp.broadcast_to(jnp.eye(k, dtype=matrix.dtype), (*matrix.shape[:-2], k, k))
        return WarmState(basis, jnp.zeros(matrix.shape[:-2], matrix.dtype))
    small = small / gram.safe_unit(small)[..., None, None]
    _, v = eigh(matmul(transpose(small), small))
    return WarmState(v, jnp.zeros(matrix.shape[:-2], matrix.dtype))


init = refresh


def step(
    a: ArrayLike,
    state: WarmState,
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike,
    eps_mode: str = "relative",
    axes: tuple[int, int] = (-2, -1),
) -> tuple[Array, Array, WarmState]:
    """``schatten_power(a)`` and its gradient, to first order in the drift since the refresh.

    Args:
        a: a matrix or a batch of matrices.
        state: from ``refresh`` on an earlier ``a`` of the same shape.
        p: exponent >= 0, may be traced.
        eps: smoothing; raised to the floor of the Gram engine, ``sqrt(machine eps)``.
        eps_mode: ``"relative"`` (to the largest singular value in the carried basis) or
            ``"absolute"``.
        axes: the (out, in) axes of the matrix.

    Returns:
        The power ``(...)``, its gradient (shape and dtype of ``a``), the state with its ``drift``.

    Raises:
        ValueError: wrong rank, axes, dtype or eps_mode; a concrete negative p or eps.

    Cost: four products, no decomposition: ``W = A V``, ``W^T W`` and two on the way back (from
    ``m = 3 n`` on ``A^T A``, four of the size of ``V`` and one more, which is less). Do not
    differentiate it: it *is* the derivative.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> _, gradient, _ = step(a, init(a), p=2.0, eps=0.1)
        >>> [round(float(g), 3) for g in jnp.diag(gradient)]
        [8.0, 2.0]
    """
    non_negative(p, "p")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EPS_MODES)
    matrix, dtype = canonicalize(a, axes)
    batch = matrix.shape[:-2]
    if 0 in matrix.shape:
        return jnp.zeros(batch, dtype), jnp.zeros_like(jnp.asarray(a)), state
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, eps))
    small, _, turned = gram.tall(matrix)
    v = state.basis
    # Either way round; W = A V saves two products of the size of V, and costs one of the size of A.
    through_w = small.shape[-2] < 3 * small.shape[-1]
    if through_w:
        unit = gram.safe_unit(small)
        small = matmul(small / unit[..., None, None], v)
        rotated = matmul(transpose(small), small)
    else:
        small, unit, g = gram.gram_matrix(small)
        rotated = matmul(transpose(v), matmul(g, v))
    diagonal = jnp.maximum(jnp.diagonal(rotated, axis1=-2, axis2=-1), 0)
    eye = jnp.eye(v.shape[-1], dtype=v.dtype)
    off = rotated - diagonal[..., None] * eye
    # Tables only need sigma_1 in front: the order of the others is free.
    s = jnp.sqrt(diagonal)
    function = SchattenPower(eps_mode, spectrum.default_rtol(max(matrix.shape[-2:]), matrix.dtype))
    function, scale, arguments = gram.at_floor(function, unit, s, p_, eps_, matrix.dtype)
    tables = function.tables(*arguments)
    relative = off * ((unit / scale) ** 2)[..., None, None]
    middle = tables.squared * relative * (1 - eye) + tables.ratio[..., None, :] * eye
    weight = matmul(middle, transpose(v))
    weight = weight if through_w else matmul(v, weight)
    gradient = matmul(small * (unit / scale)[..., None, None], weight)
    gradient = transpose(gradient) if turned else gradient
    value = jnp.sum(function.value(*arguments), axis=-1)
    # To second order: the trace of phi sees the off-diagonal part through q[c_i, c_j] / 2.
    value = value + jnp.sum(tables.squared * relative**2, axis=(-2, -1)) / 4
    top = jnp.max(diagonal, axis=-1)
    drift = jnp.sqrt(jnp.sum(off**2, axis=(-2, -1))) / jnp.where(top == 0, 1, top)
    gradient = (scale ** (p_ - 1))[..., None, None] * gradient
    gradient = jnp.moveaxis(gradient, (-2, -1), axes).astype(dtype)
    return (scale**p_ * value).astype(dtype), gradient, WarmState(v, drift)
