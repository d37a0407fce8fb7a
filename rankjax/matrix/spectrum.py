"""Functions of singular values that are already known.

Everything here takes ``sigma`` of shape ``(..., k)``: non-negative, in descending order, as
``singular_values`` returns it. One decomposition therefore serves every norm and every rank.

The *hard* form counts a singular value as zero when it is at most ``rtol * sigma_1``: below that a
floating point decomposition returns noise, which a power ``p < 1`` would blow up
(``(1e-7) ** 0.5 = 3e-4`` for each of the thousand values that should be 0).

First derivatives are finite everywhere. Second derivatives *through singular values* are those of
the single values: at repeated ones use the functions of the matrix (``schatten_power``) instead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import non_negative, one_of
from rankjax.matrix._scalar_power import EpsMode, SchattenPower
from rankjax.matrix._scaling import divisor as divisor


def default_rtol(size: int, dtype: jnp.dtype) -> float:
    """``size * machine epsilon``: what counts as zero relative to the largest singular value."""
    return max(size, 1) * float(jnp.finfo(dtype).eps)


def largest(sigma: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """``sigma_1`` of shape ``(...)``; 0 for an empty spectrum."""
    if sigma.shape[-1] == 0:
        return jnp.zeros(sigma.shape[:-1], sigma.dtype)
    return sigma[..., 0]


def unit(sigma: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """``sigma / sigma_1``: at most 1, exactly 1 at the top; all zero at a zero spectrum.

    The derivative stays finite there.
    """
    top = largest(sigma)[..., None]
    # A power of two, exact, where 1 / sigma_1 would be subnormal and flushed to 0.
    shrink = jnp.where(top > divisor(top), 1 / 16, 1).astype(sigma.dtype)
    u = sigma * shrink / jnp.where(top == 0, 1, top * shrink)  # == lets a NaN through
    # Rounded as a product with the reciprocal it may miss 1 by an ulp: nothing, to an infinite p.
    exact = jnp.where((sigma >= top) & (top > 0), 1, jnp.minimum(u, 1))
    return u + jax.lax.stop_gradient(exact - u)


def power_sum(
    sigma: Float[Array, "*batch k"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    rtol: float | None = None,
) -> Float[Array, "*batch"]:
    """``sum_i sigma_i^p``, or with ``eps > 0`` ``sum_i [(sigma_i^2 + e^2)^(p/2) - e^p]``.

    ``e = eps * sigma_1`` (``eps_mode="relative"``, held constant under differentiation) or
    ``e = eps`` (``"absolute"``). With ``eps = 0`` values up to ``rtol * sigma_1`` count as zero,
    so ``p = 0`` gives the numerical rank.

    Args:
        sigma: ``(..., k)``, descending.
        p: exponent >= 0, a number or anything that broadcasts with the batch; may be traced.
        eps: smoothing >= 0, like ``p``.
        rtol: what counts as zero; default ``k * machine epsilon`` (pass
            ``default_rtol(max(m, n), dtype)`` where the shape of the matrix is known).

    Returns:
        ``(...)``.

    Raises:
        ValueError: a concrete negative ``p`` or ``eps``, an unknown ``eps_mode``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(power_sum(jnp.array([4.0, 1.0, 0.0]), p=0.5)), 3)
        3.0
    """
    non_negative(p, "p")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EpsMode)
    dtype = sigma.dtype
    batch = sigma.shape[:-1]
    rtol = default_rtol(sigma.shape[-1], dtype) if rtol is None else rtol
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, dtype), batch)[..., None] for x in (p, eps))
    function = SchattenPower(eps_mode=eps_mode, rtol=rtol)
    top = jax.lax.stop_gradient(largest(sigma))[..., None]
    return jnp.sum(function.value(sigma, top, p_, eps_), axis=-1)


def numerical_rank(
    sigma: Float[Array, "*batch k"], /, *, rtol: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    """How many ``sigma_i > rtol * sigma_1``, as ``sigma``'s dtype; NaN for a NaN spectrum.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(numerical_rank(jnp.array([2.0, 1.0, 1e-30]))), 3)
        2.0
    """
    rtol = default_rtol(sigma.shape[-1], sigma.dtype) if rtol is None else rtol
    top = jax.lax.stop_gradient(largest(sigma))
    count = jnp.sum(sigma > rtol * top[..., None], axis=-1).astype(sigma.dtype)
    return jnp.where(jnp.isnan(top), top, count)


def stable_rank(sigma: Float[Array, "*batch k"], /) -> Float[Array, "*batch"]:
    """``sum_i sigma_i^2 / sigma_1^2`` in ``[1, rank]``; 0 for the zero matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(stable_rank(jnp.array([2.0, 1.0, 1.0]))), 3)
        1.5
    """
    return jnp.sum(unit(sigma) ** 2, axis=-1)


def soft_rank(
    sigma: Float[Array, "*batch k"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    rtol: float | None = None,
) -> Float[Array, "*batch"]:
    """``power_sum(sigma) / sigma_1^p``: in ``[1, rank]`` for ``eps = 0``; 0 for the zero matrix.

    Computed from ``sigma / sigma_1``, so it neither overflows nor underflows. Invariant under
    scaling, with ``eps_mode="relative"`` also when smoothed: the smoothed power of the *unit*
    spectrum is taken, with ``e`` held constant.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(soft_rank(jnp.array([4.0, 1.0]), p=0.5)), 3)
        1.5
    """
    top = largest(sigma)
    if eps_mode == "absolute":
        eps = jnp.asarray(eps, sigma.dtype) / jax.lax.stop_gradient(jnp.where(top == 0, 1, top))
    else:
        one_of(eps_mode, "eps_mode", EpsMode)
        non_negative(eps, "eps")
    return power_sum(unit(sigma), p=p, eps=eps, eps_mode="relative", rtol=rtol)


def effective_rank(sigma: Float[Array, "*batch k"], /) -> Float[Array, "*batch"]:
    """``exp(-sum_i q_i log q_i)``, ``q = sigma / sum(sigma)``; 0 for the zero matrix.

    Source: Roy and Vetterli, "The effective rank" (EUSIPCO 2007).

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(effective_rank(jnp.array([1.0, 1.0, 0.0]))), 3)
        2.0
    """
    u = unit(sigma)
    total = jnp.sum(u, axis=-1, keepdims=True)
    q = u / jnp.where(total == 0, 1, total)
    # q log q has an infinite slope at 0: a zero value contributes neither value nor derivative.
    terms = jnp.where(q == 0, 0, q * jnp.log(jnp.where(q == 0, 1, q)))
    entropy = jnp.exp(-jnp.sum(terms, axis=-1))
    return jnp.where(total[..., 0] == 0, 0, entropy)
