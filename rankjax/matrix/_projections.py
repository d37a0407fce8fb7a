"""Projections: the nearest matrix in a ball or of a rank.

Each acts on the singular values, like the maps of ``_proximal_maps``; see there for what is shared.
``project_rank`` differentiates through the singular vectors: its derivative is NaN at repeated and
zero values.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import non_negative
from rankjax._explicit_axes import automatic
from rankjax._linear_algebra import svd
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._derivative_rule import outer
from rankjax.matrix._proximal_maps import image_of, restored, shrunk, soft_threshold


def _clip(s: Array, radius: Array) -> Array:
    return jnp.minimum(s, radius)


def project_spectral_ball(
    a: Float[ArrayLike, "... m n"], /, radius: ArrayLike, *, axes: Sequence[int] = (-2, -1)
) -> Float[Array, "... m n"]:
    """The nearest matrix (Frobenius) with ``|X| <= radius``: singular values are clipped.

    Args:
        radius: >= 0, a scalar or of the batch shape, may be traced.

    Returns:
        ``a`` itself where it is inside.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project_spectral_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [2.0, 1.0]
    """
    non_negative(radius, "radius")
    given = canonicalize(a, axes)
    if 0 in given.matrix.shape:
        return jnp.asarray(a)
    r = jnp.asarray(radius, given.matrix.dtype)
    image, changed = shrunk(_clip, given.matrix, (r,))
    return restored(image, changed, given, axes)


@automatic
def project_nuclear_ball(
    a: Float[ArrayLike, "... m n"], /, radius: ArrayLike, *, axes: Sequence[int] = (-2, -1)
) -> Float[Array, "... m n"]:
    """The nearest matrix (Frobenius) with ``|X|_* <= radius``: all values lowered by one amount.

    Args:
        radius: >= 0, a scalar or of the batch shape, may be traced.

    Returns:
        ``a`` itself where it is inside.

    Source: projection on the simplex, Duchi et al., ICML 2008.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project_nuclear_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [2.0, 0.0]
    """
    non_negative(radius, "radius")
    given = canonicalize(a, axes)
    matrix = given.matrix
    if 0 in matrix.shape:
        return jnp.asarray(a)
    factors = svd(jax.lax.stop_gradient(matrix))
    # The values themselves with their derivative u^T dA v.
    moved = matrix - jax.lax.stop_gradient(matrix)
    s = factors.s + jnp.einsum("...mk,...mn,...kn->...k", factors.u, moved, factors.vt)
    total = jnp.cumsum(s, axis=-1)
    count = jnp.broadcast_to(jnp.arange(1, s.shape[-1] + 1, dtype=s.dtype), s.shape)
    r = jnp.broadcast_to(jnp.asarray(radius, s.dtype), s.shape[:-1])
    by = (total - r[..., None]) / count
    # How many stay positive; at least one, so that radius 0 lowers all to 0.
    stay = jnp.maximum(jnp.sum(s > by, axis=-1, keepdims=True), 1)
    amount = jnp.take_along_axis(by, stay - 1, axis=-1)[..., 0]
    image = image_of(soft_threshold, factors, matrix, (amount,))
    return restored(image, ~(total[..., -1] <= r), given, axes)


def project_rank(
    a: Float[ArrayLike, "... m n"], /, rank: ArrayLike, *, axes: Sequence[int] = (-2, -1)
) -> Float[Array, "... m n"]:
    """The nearest matrix of rank <= ``rank`` in every unitarily invariant norm (Eckart-Young).

    Args:
        rank: an integer >= 0, a scalar or of the batch shape, may be traced.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project_rank(jnp.diag(jnp.array([3.0, 1.0])), 1)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [3.0, 0.0]
    """
    non_negative(rank, "rank")

    given = canonicalize(a, axes)
    if 0 in given.matrix.shape:
        return jnp.asarray(a)
    factors = svd(given.matrix)
    index = jnp.broadcast_to(jnp.arange(factors.s.shape[-1]), factors.s.shape)
    keep = index < jnp.broadcast_to(jnp.asarray(rank), factors.s.shape[:-1])[..., None]
    image = outer(factors, jnp.where(keep, factors.s, factors.s * 0))
    return restored(image, jnp.any(~keep, axis=-1) | jnp.isnan(factors.s[..., 0]), given, axes)
