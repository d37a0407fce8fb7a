"""Gradients for training loops: the matrix function that the gradient needs is kept for a while.

The gradient of the smoothed Schatten power is ``A P`` with

    P = p (A^T A + e^2 I)^{p/2 - 1}

of the smaller side. ``P`` is computed once (``refresh``); for the following steps of an optimiser
the gradient is one product of it with the matrix of the day (``step``). For ``p <= 2`` a frozen
``P`` is the curvature of a quadratic upper bound that touches the power at the refresh (iteratively
reweighted least squares: Daubechies, DeVore, Fornasier and Gunturk, CPAM 2010; for matrices Mohan
and Fazel, JMLR 2012): a descent along ``A P`` still lowers the power, shrinks towards 0 without
crossing it, and pushes back what noise brings into the directions that are gone. A gradient kept
as it is does neither. As an approximation of the gradient it is of first order in the drift, with
an error of the size of the kept gradient's; ``rankjax.matrix.warm`` is of second order, for four
products.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rankjax.matrix import gram, spectrum
from rankjax.matrix.canonical import EPS_MODES, canonicalize, non_negative, one_of
from rankjax.matrix.decompose import eigh, matmul, svd, transpose
from rankjax.matrix.powers import SchattenPower
from rankjax.matrix.spectral import in_units

METHODS = ("gram", "svd")


class FrozenState(NamedTuple):
    """What is carried: a pytree of arrays, fit for an Optax state.

    Attributes:
        preconditioner: ``(..., k, k)``, ``P`` of the smaller side, in float32 or float64. Its
            largest entry, ``p e^{p-2}``, overflows float32 only where ``sigma_1`` is below 1e-17.
    """

    preconditioner: Array


def refresh(
    a: ArrayLike,
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike,
    eps_mode: str = "relative",
    axes: tuple[int, int] = (-2, -1),
    method: str = "gram",
) -> FrozenState:
    """A state whose ``step`` is exact at ``a``.

    Args:
        a: a matrix or a batch of matrices.
        p: exponent >= 0, may be traced.
        eps: smoothing, may be traced.
        eps_mode: ``"relative"`` (to the largest singular value) or ``"absolute"``.
        axes: the (out, in) axes of the matrix.
        method: ``"gram"``: one ``eigh`` of the smaller Gram matrix, eps raised to its floor
            ``sqrt(machine eps)``; ``"svd"``: one SVD, any eps.

    Returns:
        The state; same shapes and dtypes whatever the values, so it can live in ``lax.cond``.

    Raises:
        ValueError: wrong rank, axes, dtype, method or eps_mode; a concrete negative p or eps.

    Not differentiable (a state is data). A matrix that is not finite gives a NaN state.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> state = refresh(a, p=1.0, eps=0.0)
        >>> [round(float(g), 3) for g in jnp.diag(step(a, state))]
        [1.0, 1.0]
        >>> [round(float(g), 3) for g in jnp.diag(step(1.1 * a, state))]
        [1.1, 1.1]
    """
    non_negative(p, "p")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EPS_MODES)
    one_of(method, "method", METHODS)
    matrix, _ = canonicalize(a, axes)
    batch = matrix.shape[:-2]
    small, _, _ = gram.tall(matrix)
    if 0 in matrix.shape:
        k = small.shape[-1]
        return FrozenState(jnp.zeros((*batch, k, k), matrix.dtype))
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, eps))
    function = SchattenPower(eps_mode, spectrum.default_rtol(max(matrix.shape[-2:]), matrix.dtype))
    if method == "svd":
        unit = gram.safe_unit(small)
        _, s, vt = svd(small / unit[..., None, None])
        scale, arguments = in_units(
            function, s, p_, eps_ / unit if eps_mode == "absolute" else eps_
        )
        scale, v = scale * unit, transpose(vt)
    else:
        _, unit, g = gram.gram_matrix(small)
        eigenvalues, v = eigh(g)
        s, v = jnp.sqrt(jnp.maximum(eigenvalues[..., ::-1], 0)), v[..., ::-1]
        function, scale, arguments = gram.at_floor(function, unit, s, p_, eps_, matrix.dtype)
    q = function.ratio(*arguments) * (scale ** (p_ - 2))[..., None]
    return FrozenState(matmul(v * q[..., None, :], transpose(v)))


init = refresh


def step(a: ArrayLike, state: FrozenState, /, *, axes: tuple[int, int] = (-2, -1)) -> Array:
    """The gradient of ``schatten_power`` at ``a`` as the frozen state sees it: ``A P``.

    Args:
        a: a matrix or a batch of matrices.
        state: from ``refresh`` on an earlier ``a`` of the same shape; ``p`` and ``eps`` are those
            of the refresh.
        axes: the (out, in) axes of the matrix.

    Returns:
        Shape and dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes or dtype.

    Cost: one product of the size of the matrix, no decomposition. Do not differentiate it: it *is*
    the derivative.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> [round(float(g), 3) for g in jnp.diag(step(a, refresh(a, p=2.0, eps=0.1)))]
        [8.0, 2.0]
    """
    matrix, dtype = canonicalize(a, axes)
    p = state.preconditioner  # symmetric
    wide = matrix.shape[-2] < matrix.shape[-1]
    gradient = matmul(p, matrix) if wide else matmul(matrix, p)
    return jnp.moveaxis(gradient, (-2, -1), axes).astype(dtype)
