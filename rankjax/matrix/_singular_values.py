"""Singular values alone, by an SVD or from the Gram matrix, with a derivative that is finite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import one_of
from rankjax._explicit_axes import automatic
from rankjax._linear_algebra import eigh, eigvalsh, matmul, svd, svdvals, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scaling import gram_floor, gram_matrix, roots, tall

SingularValueMethod = Literal["auto", "svd", "gram"]


@automatic
def singular_values(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    axes: Sequence[int] = (-2, -1),
    method: SingularValueMethod = "auto",
) -> Float[Array, "... k"]:
    """All singular values, descending.

    Args:
        method: ``"svd"``, also meant by ``"auto"``, or ``"gram"``: roots of the eigenvalues of
            ``A^T A``, about twice as fast (more on tall matrices), where values (and derivatives)
            under ``sqrt(machine eps) * sigma_1`` do not matter.

    Returns:
        ``(..., min(m, n))``.

    The first derivative is ``d sigma_i = u_i^T dA v_i``, finite everywhere; at a repeated value it
    is one choice among the possible bases, exact for every symmetric smooth function of the values.
    The second derivative of single values does not exist at repeated ones and is NaN or infinite
    there: differentiate ``schatten_power`` twice, not a sum of these. Cost: one SVD.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(s), 3) for s in singular_values(jnp.array([[0.0, 3.0], [4.0, 0.0]]))]
        [4.0, 3.0]
    """
    one_of(method, "method", SingularValueMethod)
    matrix, dtype = canonicalize(a, axes)
    return singular_values_of(matrix, gram=method == "gram").astype(dtype)


@partial(jax.jit, static_argnames="gram")
def singular_values_of(matrix: Array, gram: bool = False) -> Array:
    """Of a canonical matrix, by an SVD or from the Gram matrix."""
    return _by_gram(matrix) if gram else _by_svd(matrix)


@jax.custom_jvp
def _by_svd(a: Array) -> Array:
    """Singular values of canonical ``a``; the rule needs no differences at first order."""
    return svdvals(a)


@_by_svd.defjvp
def _by_svd_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (a,), (da,) = primals, tangents
    u, s, vt = svd(a)
    return s, jnp.einsum("...mk,...mn,...kn->...k", u, da, vt)


@jax.custom_jvp
def _by_gram(a: Array) -> Array:
    """Singular values of canonical ``a`` as roots of the Gram matrix's eigenvalues.

    Values under ``sqrt(machine eps) * sigma_1`` are noise; their derivative is 0.
    """
    if 0 in a.shape:
        return jnp.zeros((*a.shape[:-2], min(a.shape[-2:])), a.dtype)
    a, _ = tall(a)
    _, unit, gram = gram_matrix(a)
    return unit[..., None] * roots(eigvalsh(gram))


@_by_gram.defjvp
def _by_gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (a,), (da,) = primals, tangents
    if 0 in a.shape:
        return _by_gram(a), jnp.zeros((*a.shape[:-2], min(a.shape[-2:])), a.dtype)
    a, turned = tall(a)
    da = transpose(da) if turned else da
    a, unit, gram = gram_matrix(a)
    eigenvalues, v = eigh(gram)
    v, s = v[..., ::-1], roots(eigenvalues)
    kept = s > gram_floor(a.dtype) * s[..., :1]
    # u_i = A v_i / sigma_i, so d sigma_i = u_i^T dA v_i without the left singular vectors.
    u = matmul(a, v) * jnp.where(kept, 1 / jnp.where(kept, s, 1), 0)[..., None, :]
    return unit[..., None] * s, jnp.einsum("...mk,...mn,...nk->...k", u, da, v)
