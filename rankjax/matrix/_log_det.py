"""The logarithm of the determinant of ``I + A^T A / e^2``: a smooth stand-in for the rank."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import one_of, positive
from rankjax._linear_algebra import SVD, svd
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._scaling import divisor, tall
from rankjax.matrix._spectral_functions import sum_at


def _of_one(s: Array) -> Array:
    return jnp.log1p(s * s)


def log_det(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    eps: ArrayLike,
    eps_mode: EpsMode = "relative",
    axes: Sequence[int] = (-2, -1),
) -> Float[Array, "..."]:
    """``log det(I + A^T A / e^2) = sum_i log(sigma_i^2 + e^2) - log e^2``.

    The limit of ``2 / p`` times the smoothed ``schatten_power`` for ``p -> 0``: it grows with the
    number of singular values above ``e`` and hardly with their size.

    Args:
        eps: smoothing > 0, a scalar or of the batch shape, may be traced.
        eps_mode: ``"relative"``: ``e = eps * sigma_1``, held constant under differentiation by
            ``a``; ``"absolute"``: ``e = eps``.

    First and second derivatives (forward and reverse), by ``a`` and ``eps``, are exact at repeated
    and zero singular values. Gradient: ``2 A (A^T A + e^2 I)^{-1}``. Cost: one SVD. Source: Fazel,
    Hindi, Boyd, "Log-det heuristic for matrix rank minimization", ACC 2003.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([3.0, 1.0]))
        >>> round(float(log_det(a, eps=1.0, eps_mode="absolute")), 4)  # log 10 + log 2
        2.9957
    """
    one_of(eps_mode, "eps_mode", EpsMode)
    positive(eps, "eps")
    matrix, dtype = canonicalize(a, axes)
    batch = matrix.shape[:-2]
    if 0 in matrix.shape:
        return jnp.zeros(batch, dtype)
    matrix, _ = tall(matrix)
    factors = svd(jax.lax.stop_gradient(matrix))
    e = jnp.broadcast_to(jnp.asarray(eps, matrix.dtype), batch)
    if eps_mode == "relative":
        top = factors.s[..., 0]
        e = e * jnp.where(top == 0, 1, top)  # == lets a NaN through
    # In units of e; the decomposition is that of the matrix, its values rescaled. By a power of two
    # first, which is exact, where 1 / e would be subnormal and flushed to 0.
    shrink = jnp.where(e > divisor(e), 1 / 16, 1).astype(e.dtype)
    e, shrunk = e * shrink, matrix * shrink[..., None, None]
    values = factors.s * shrink[..., None] / jax.lax.stop_gradient(e)[..., None]
    scaled = SVD(factors.u, values, factors.vt)
    return sum_at(_of_one, scaled, shrunk / e[..., None, None], ()).astype(dtype)
