"""The Schatten power of a matrix or a batch of them: the function that everything else is about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import known_scalar, non_negative, one_of
from rankjax._explicit_axes import automatic
from rankjax.matrix._canonical import Canonical, canonicalize
from rankjax.matrix._derivative_rule import Engine, spectral_value
from rankjax.matrix._scalar_power import EpsMode, SchattenPower
from rankjax.matrix.engines import Method, check_eps, resolve
from rankjax.matrix.spectrum import default_rtol


@partial(jax.jit, static_argnames=("function", "engine"))
def _power(matrix: Array, p: Array, eps: Array, function: SchattenPower, engine: Engine) -> Array:
    return spectral_value(function, engine, matrix, p, eps)


def _finite(matrix: Array) -> Array:
    """1, or NaN for a matrix with an infinite (or NaN) entry: as a decomposition would answer."""
    return jnp.where(jnp.all(jnp.isfinite(matrix), axis=(-2, -1)), 1, jnp.nan).astype(matrix.dtype)


def power_of(
    matrix: Array, p: ArrayLike, eps: ArrayLike, eps_mode: EpsMode, method: Method
) -> Array:
    """Of a canonical matrix, by the engine for the numbers that are known."""
    check_eps(method, eps, eps_mode, matrix.dtype)
    batch = matrix.shape[:-2]
    p_known, eps_known = known_scalar(p), known_scalar(eps)
    engine = resolve(
        method, shape=matrix.shape, dtype=matrix.dtype, p=p_known, eps=eps_known, eps_mode=eps_mode
    )
    if 0 in matrix.shape:
        return jnp.zeros(batch, matrix.dtype)
    if p_known == 2:
        return jnp.sum(matrix * matrix, axis=(-2, -1)) * _finite(matrix)
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, eps))
    rtol = default_rtol(max(matrix.shape[-2:]), matrix.dtype)
    return _power(matrix, p_, eps_, SchattenPower(eps_mode=eps_mode, rtol=rtol), engine)


def checked(
    a: ArrayLike, axes: Sequence[int], eps: ArrayLike, eps_mode: EpsMode, method: Method
) -> Canonical:
    """The matrix, after the checks of all arguments but ``p``."""
    one_of(method, "method", Method)
    one_of(eps_mode, "eps_mode", EpsMode)
    non_negative(eps, "eps")
    return canonicalize(a, axes)


@automatic
def schatten_power(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    axes: Sequence[int] = (-2, -1),
    method: Method = "auto",
) -> Float[Array, "..."]:
    """``|A|_{S_p}^p = sum_i sigma_i^p``, or its smoothed form to train with.

    * ``eps = 0``, the *hard* form: singular values ``<= max(m, n) * machine eps * sigma_1`` count
      as zero, in the value and (for ``p < 2``) in the derivative, so ``p = 0`` is the numerical
      rank. Convention at zero for ``p < 2``: the derivative in those directions is 0.
    * ``eps > 0``: ``sum_i [(sigma_i^2 + e^2)^(p/2) - e^p]``, smooth everywhere, with gradient
      ``p A (A^T A + e^2 I)^(p/2 - 1)``. ``eps_mode="relative"``: ``e = eps * sigma_1``, held
      constant under differentiation; ``"absolute"``: ``e = eps``.

    Args:
        p: exponent >= 0, finite; a number or an array that broadcasts with the batch;
            may be traced.
        eps: smoothing >= 0, like ``p``. 1e-2 is a good relative value for training.

    Raises:
        ValueError: a concrete relative eps below what the method can (``"auto"`` and ``"svd"`` take
            any).
        NotImplementedError: a third derivative.

    First and second derivatives (forward and reverse) with respect to ``a``, ``p`` and ``eps`` are
    exact at repeated and zero singular values. Cost: one decomposition.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0, 0.0]))
        >>> round(float(schatten_power(a, p=0.5)), 3)
        3.0
        >>> round(float(schatten_power(a, p=0)), 3)
        2.0
    """
    matrix, dtype = checked(a, axes, eps, eps_mode, method)
    non_negative(p, "p")
    return power_of(matrix, p, eps, eps_mode, method).astype(dtype)
