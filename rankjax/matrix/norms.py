"""Schatten powers and norms of a matrix or a batch of them.

Shared by all: ``axes = (out, in)`` are the two axes of the matrix, all others are batch; float16
and bfloat16 are computed in float32 and cast back; an empty matrix gives 0; a NaN or infinite
entry gives NaN for that matrix, in value and gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.matrix import engines, gram, lanczos, spectral, spectrum
from rankjax.matrix.canonical import (
    EPS_MODES,
    Canonical,
    canonicalize,
    concrete,
    non_negative,
    one_of,
    positive,
)
from rankjax.matrix.gram import values
from rankjax.matrix.meshes import automatic
from rankjax.matrix.powers import SchattenPower

_EXACT = ("auto", "svd", "lanczos")
_AXES = (-2, -1)
_SMALL_EXPONENT = 4


@automatic
def singular_values(a: ArrayLike, /, *, axes: Sequence[int] = _AXES, method: str = "auto") -> Array:
    """All singular values, descending.

    Args:
        a: a matrix or a batch of matrices.
        axes: the (out, in) axes of the matrix.
        method: ``"svd"``, also meant by ``"auto"``, or ``"gram"``: roots of the eigenvalues of
            ``A^T A``, about twice as fast (more on tall matrices), where values (and derivatives)
            under ``sqrt(machine eps) * sigma_1`` do not matter.

    Returns:
        ``(..., min(m, n))`` in the dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes, dtype or method.

    The first derivative is ``d sigma_i = u_i^T dA v_i``, finite everywhere; at a repeated value it
    is one choice among the possible bases, exact for every symmetric smooth function of the values.
    The second derivative of single values does not exist at repeated ones and is NaN or infinite
    there: differentiate ``schatten_power`` twice, not a sum of these. Cost: one SVD.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(s), 3) for s in singular_values(jnp.array([[0.0, 3.0], [4.0, 0.0]]))]
        [4.0, 3.0]
    """
    one_of(method, "method", ("auto", "svd", "gram"))
    matrix, dtype = canonicalize(a, axes)
    return _singular_values(matrix, gram=method == "gram").astype(dtype)


@partial(jax.jit, static_argnames="gram")
def _singular_values(matrix: Array, gram: bool = False) -> Array:
    return values(matrix) if gram else spectral.values(matrix)


@partial(jax.jit, static_argnames=("function", "engine"))
def _power(
    matrix: Array, p: Array, eps: Array, function: SchattenPower, engine: spectral.Engine
) -> Array:
    return spectral.spectral_value(function, engine, matrix, p, eps)


_even_power = jax.jit(engines.even_power, static_argnames="p")


def _finite(matrix: Array) -> Array:
    """1, or NaN for a matrix with an infinite (or NaN) entry: as a decomposition would answer."""
    return jnp.where(jnp.all(jnp.isfinite(matrix), axis=(-2, -1)), 1, jnp.nan).astype(matrix.dtype)


def _known(value: ArrayLike) -> float | None:
    array = concrete(value)
    return float(array) if array is not None and array.ndim == 0 else None


def _schatten_power(
    matrix: Array, p: ArrayLike, eps: ArrayLike, eps_mode: str, method: str
) -> Array:
    batch = matrix.shape[:-2]
    p_known, eps_known = _known(p), _known(eps)
    engine = engines.resolve(
        method, shape=matrix.shape, dtype=matrix.dtype, p=p_known, eps=eps_known, eps_mode=eps_mode
    )
    if 0 in matrix.shape:
        return jnp.zeros(batch, matrix.dtype)
    if p_known == 2 or (p_known in engines.EVEN_POWERS and eps_known == 0 and method == "auto"):
        return _even_power(matrix, p=int(p_known or 2)) * _finite(matrix)
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, eps))
    rtol = spectrum.default_rtol(max(matrix.shape[-2:]), matrix.dtype)
    return _power(matrix, p_, eps_, SchattenPower(eps_mode=eps_mode, rtol=rtol), engine)


def _check(
    a: ArrayLike, axes: Sequence[int], eps: ArrayLike, eps_mode: str, method: str
) -> Canonical:
    one_of(method, "method", engines.METHODS)
    one_of(eps_mode, "eps_mode", EPS_MODES)
    non_negative(eps, "eps")
    return canonicalize(a, axes)


@automatic
def schatten_power(
    a: ArrayLike,
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: str = "relative",
    axes: Sequence[int] = _AXES,
    method: str = "auto",
) -> Array:
    """``|A|_{S_p}^p = sum_i sigma_i^p``, or its smoothed form to train with.

    * ``eps = 0``, the *hard* form: singular values ``<= max(m, n) * machine eps * sigma_1`` count
      as zero, in the value and (for ``p < 2``) in the derivative, so ``p = 0`` is the numerical
      rank. Convention at zero for ``p < 2``: the derivative in those directions is 0.
    * ``eps > 0``: ``sum_i [(sigma_i^2 + e^2)^(p/2) - e^p]``, smooth everywhere, with gradient
      ``p A (A^T A + e^2 I)^(p/2 - 1)``. ``eps_mode="relative"``: ``e = eps * sigma_1``, held
      constant under differentiation; ``"absolute"``: ``e = eps``.

    Args:
        a: a matrix or a batch of matrices.
        p: exponent >= 0, finite; a number or an array that broadcasts with the batch;
            may be traced.
        eps: smoothing >= 0, like ``p``. 1e-2 is a good relative value for training.
        eps_mode: ``"relative"`` or ``"absolute"``.
        axes: the (out, in) axes of the matrix.
        method: ``"auto"``, ``"svd"``, ``"gram"``, ``"rational"``, ``"iterative"``; see
            ``rankjax.matrix.engines``.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes, dtype, method or eps_mode; a concrete negative p or eps.

    First and second derivatives (forward and reverse) with respect to ``a``, ``p`` and ``eps`` are
    exact at repeated and zero singular values. Cost: one decomposition.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0, 0.0]))
        >>> round(float(schatten_power(a, p=0.5)), 3)
        3.0
        >>> round(float(schatten_power(a, p=0)), 3)
        2.0
    """
    matrix, dtype = _check(a, axes, eps, eps_mode, method)
    non_negative(p, "p")
    return _schatten_power(matrix, p, eps, eps_mode, method).astype(dtype)


def _norm_unit(matrix: Array, p: np.ndarray | None) -> Array:
    """A constant to divide by (the norm is homogeneous: it takes no part in derivatives).

    The largest entry is within ``sqrt(m n)`` of ``sigma_1``, near enough for small exponents; a
    large or unknown one needs ``sigma_1`` itself.
    """
    constant = jax.lax.stop_gradient(matrix)
    if p is not None and np.all(p <= _SMALL_EXPONENT):
        return gram.safe_unit(constant)
    top = spectrum.largest(_singular_values(constant))
    return jnp.where(top == 0, 1, top)


@automatic
def schatten_norm(
    a: ArrayLike,
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: str = "relative",
    axes: Sequence[int] = _AXES,
    method: str = "auto",
) -> Array:
    """``|A|_{S_p} = (sum_i sigma_i^p)^(1/p)``; a quasi-norm for ``p < 1``.

    The root of ``schatten_power`` (see there for ``eps``), computed in units of ``sigma_1``: it
    overflows only where the norm itself does. ``p = inf`` must be concrete. The derivative at a
    matrix whose norm is 0 is 0 by convention.

    Args:
        a: a matrix or a batch of matrices.
        p: exponent > 0, may be traced; ``inf`` (concrete) for the spectral norm, which ignores eps.
        eps: smoothing >= 0.
        eps_mode: ``"relative"`` or ``"absolute"``.
        axes: the (out, in) axes of the matrix.
        method: ``"auto"``, ``"svd"``, ``"gram"``, ``"rational"``, ``"iterative"``; see
            ``rankjax.matrix.engines``.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: as ``schatten_power``, and a concrete ``p <= 0``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> round(float(schatten_norm(a, p=0.5)), 3)
        9.0
        >>> round(float(schatten_norm(a, p=float("inf"))), 3)
        4.0
    """
    positive(p, "p")
    known = concrete(p)
    if known is not None and known.ndim == 0 and known == float("inf"):
        _check(a, axes, eps, eps_mode, method)
        return spectral_norm(a, axes=axes)
    matrix, dtype = _check(a, axes, eps, eps_mode, method)
    if 0 in matrix.shape:
        return jnp.zeros(matrix.shape[:-2], dtype)
    safe = _norm_unit(matrix, known)
    if eps_mode == "absolute" and _known(eps) != 0:
        eps = jnp.asarray(eps, matrix.dtype) / safe
    power = _schatten_power(matrix / safe[..., None, None], p, eps, eps_mode, method)
    zero = power == 0
    root = jnp.where(zero, 1, power) ** (1 / jnp.asarray(p, matrix.dtype))
    return (safe * jnp.where(zero, 0, root)).astype(dtype)


@automatic
def spectral_norm(a: ArrayLike, /, *, axes: Sequence[int] = _AXES, method: str = "auto") -> Array:
    """``|A| = sigma_1``, the largest gain ``|Ax| / |x|``.

    The gradient is ``u_1 v_1^T`` (one subgradient where ``sigma_1`` is repeated; 0 at 0).

    Args:
        a: a matrix or a batch of matrices.
        axes: the (out, in) axes of the matrix.
        method: ``"auto"`` or ``"svd"`` (the same), or ``"lanczos"``: a lower bound from 32 steps of
            ``spectral_norm_bounds``, which also says how good it is.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes, dtype or method.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(spectral_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        4.0
    """
    one_of(method, "method", _EXACT)
    if method == "lanczos":
        return lanczos.spectral_norm_bounds(a, axes=axes).value
    matrix, dtype = canonicalize(a, axes)
    top = spectrum.largest(_singular_values(matrix))
    return jnp.where(top == 0, 0, top).astype(dtype)


def nuclear_norm(
    a: ArrayLike,
    /,
    *,
    axes: Sequence[int] = _AXES,
    eps: ArrayLike = 0.0,
    eps_mode: str = "relative",
    method: str = "auto",
) -> Array:
    """``|A|_* = sum_i sigma_i``: ``schatten_power`` at ``p = 1``, which is its own root.

    Args:
        a: a matrix or a batch of matrices.
        axes: the (out, in) axes of the matrix.
        eps: smoothing >= 0.
        eps_mode: ``"relative"`` or ``"absolute"``.
        method: ``"auto"``, ``"svd"``, ``"gram"``, ``"rational"``, ``"iterative"``; see
            ``rankjax.matrix.engines``.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: as ``schatten_power``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(nuclear_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        7.0
    """
    return schatten_power(a, p=1.0, eps=eps, eps_mode=eps_mode, axes=axes, method=method)


@automatic
def frobenius_norm(a: ArrayLike, /, *, axes: Sequence[int] = _AXES) -> Array:
    """``|A|_F = sqrt(sum_ij a_ij^2)``, without a decomposition.

    Computed in units of the largest entry (1e20 and 1e-20 are safe in float32); the derivative at
    the zero matrix is 0 by convention.

    Args:
        a: a matrix or a batch of matrices.
        axes: the (out, in) axes of the matrix.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(frobenius_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        5.0
    """
    matrix, dtype = canonicalize(a, axes)
    if 0 in matrix.shape:
        return jnp.zeros(matrix.shape[:-2], dtype)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix), axis=(-2, -1)))
    largest = jnp.where(jnp.isinf(largest), jnp.nan, largest)
    unit = jnp.where(largest == 0, 1, largest)
    square = jnp.sum((matrix / unit[..., None, None]) ** 2, axis=(-2, -1))
    zero = square == 0
    return (unit * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))).astype(dtype)
