"""The largest singular value from products with vectors: Golub-Kahan Lanczos, with its error.

One implementation for matrices (``spectral_norm_bounds``) and for operators that are only given as
functions (convolutions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import positive
from rankjax._linear_algebra import HIGHEST, matmul, svd, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scaling import safe_unit

_SQUARINGS = 5


class Triplet(NamedTuple):
    """``A v = value u`` with unit vectors (0 for the zero operator).

    Attributes:
        u: left vector.
        value: ``|A v|``, never above the norm of ``A`` but for rounding.
        v: right vector.
        residual: ``|A^T u - value v|``; a singular value is within ``residual / sqrt(2)``.
    """

    u: Array
    value: Array
    v: Array
    residual: Array


def _normal(x: Array, least: ArrayLike = 0.0) -> tuple[Array, Array]:
    """``x`` at unit length and its length; both 0 where that is at most ``least``."""
    norm = jnp.linalg.norm(x)
    # not(<=): NaN goes through. What is left of an exhausted Krylov space is noise, not
    # orthogonal to the basis, and must not be blown up to unit length.
    kept = ~(norm <= least)
    return jnp.where(kept, x / jnp.where(kept, norm, 1), 0), jnp.where(kept, norm, 0)


def top_triplet(
    forward: Callable[[Array], Array],
    backward: Callable[[Array], Array],
    start: Array,
    steps: int,
) -> Triplet:
    """``steps`` of Golub-Kahan bidiagonalisation with full orthogonalisation, done twice.

    ``forward`` is ``x -> A x``, ``backward`` its transpose, on flat vectors, in units in which the
    squares of ``A`` neither overflow nor vanish. Not differentiable: write the value as
    ``u^T A v`` with constant vectors, that is its derivative. Source: Golub and Kahan, "Calculating
    the singular values and pseudo-inverse of a matrix", SINUM 1965.
    """
    dtype = start.dtype
    tiny = 1000 * float(jnp.finfo(dtype).eps)
    rows = jax.eval_shape(forward, start).shape[0]
    first, _ = _normal(start)
    # Made of A, so that under ``shard_map`` the loop begins with what varies as A does.
    zero = 0 * forward(first)[:1]
    vs = (jnp.zeros((steps + 1, start.size), dtype) + zero[None]).at[0].set(first)
    us = jnp.zeros((steps, rows), dtype) + zero[None]

    def orthogonal(x: Array, basis: Array) -> tuple[Array, Array]:
        noise = tiny * jnp.linalg.norm(x)
        for _ in range(2):
            inner = jnp.matmul(basis, x, precision=HIGHEST)
            x = x - jnp.matmul(inner, basis, precision=HIGHEST)
        return _normal(x, noise)

    def step(state: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], tuple]:
        us, vs = state
        u, alpha = orthogonal(forward(vs[k]), us)
        us = us.at[k].set(u)
        v, beta = orthogonal(backward(u), vs)
        return (us, vs.at[k + 1].set(v)), (alpha, beta)

    (us, vs), (alpha, beta) = jax.lax.scan(step, (us, vs), jnp.arange(steps))
    # U^T A V: above the diagonal stand the lengths that the backward products left.
    small = svd(jnp.diag(alpha) + jnp.diag(beta[:-1], 1))
    v, _ = _normal(jnp.matmul(small.vt[0], vs[:steps], precision=HIGHEST))
    u, value = _normal(forward(v))
    return Triplet(u, value, v, jnp.linalg.norm(backward(u) - value * v))


class SpectralNormBounds(NamedTuple):
    """Bounds of ``sigma_1`` without a decomposition of ``A``; up to rounding.

    Attributes:
        value: a lower bound, in practice equal to ``sigma_1`` when the residual is small.
        residual: some singular value lies in ``value +- residual``.
        upper: a guaranteed upper bound.
    """

    value: Array
    residual: Array
    upper: Array


def spectral_norm_bounds(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    steps: int = 32,
    key: Array | None = None,
    axes: Sequence[int] = (-2, -1),
) -> SpectralNormBounds:
    """Lower bound, residual and upper bound of ``sigma_1`` from products alone.

    * ``value = |A v|`` at the best vector of a Krylov space of ``steps`` dimensions;
    * ``residual = |A^T u - value v| / sqrt(2)``, ``u = A v / value``: the symmetric matrix
      ``[[0, A], [A^T, 0]]`` has an eigenvalue that near to ``value`` (Parlett, "The symmetric
      eigenvalue problem", theorem 4.5.1). That it is the largest is likely, not certain;
    * ``upper = (tr (A^T A)^64)^(1/128)`` by squaring the smaller Gram matrix: at most
      ``min(m, n)^(1/128)`` (5 % at 512) above ``sigma_1``.

    Args:
        steps: Lanczos steps >= 1 (static); more than ``min(m, n)`` are not done.
        key: a ``jax.random`` key for the start vector, shared by a batch; default ``key(0)``.

    Raises:
        ValueError: ``steps < 1``.

    The derivative of ``value`` is ``u v^T`` (0 at the zero matrix); those of ``residual`` and
    ``upper`` are 0. Cost: ``2 steps`` products with a vector and six products of the smaller Gram
    matrix (not computed where ``upper`` is not used under ``jit``).

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> bounds = spectral_norm_bounds(jnp.diag(jnp.array([4.0, 1.0])))
        >>> [round(float(x), 3) + 0.0 for x in bounds]
        [4.0, 0.0, 4.0]
    """
    positive(steps, "steps")
    matrix, dtype = canonicalize(a, axes)
    if 0 in matrix.shape:
        zero = jnp.zeros(matrix.shape[:-2], dtype)
        return SpectralNormBounds(zero, zero, zero)
    key = jax.random.key(0) if key is None else key
    bounds = _bounds(matrix, key, min(steps, *matrix.shape[-2:]))
    return SpectralNormBounds(*(x.astype(dtype) for x in bounds))


@partial(jax.jit, static_argnums=2)
def _bounds(matrix: Array, key: Array, steps: int) -> SpectralNormBounds:
    constant = jax.lax.stop_gradient(matrix)
    unit = safe_unit(constant)
    scaled = constant / unit[..., None, None]
    start = jax.random.normal(key, (matrix.shape[-1],), matrix.dtype)

    def one(a: Array) -> Triplet:
        return top_triplet(
            lambda x: jnp.matmul(a, x, precision=HIGHEST),
            lambda y: jnp.matmul(y, a, precision=HIGHEST),
            start,
            steps,
        )

    flat = jax.vmap(one)(scaled.reshape(-1, *scaled.shape[-2:]))
    found = Triplet(*(x.reshape(*matrix.shape[:-2], *x.shape[1:]) for x in flat))
    # The value is linear in the matrix once u and v are constant: the derivative is u v^T.
    outer = found.u[..., :, None] * found.v[..., None, :]
    value = jnp.sum(outer * (matrix / unit[..., None, None]), axis=(-2, -1)) * unit
    return SpectralNormBounds(value, found.residual / 2**0.5 * unit, _upper(scaled) * unit)


def _upper(a: Array) -> Array:
    """``|G^(2^j)|_F^(1 / 2^(j+1))`` of the Gram matrix, each power in units of its own norm."""
    g = matmul(transpose(a), a) if a.shape[-2] >= a.shape[-1] else matmul(a, transpose(a))
    log = jnp.zeros(a.shape[:-2], a.dtype)
    for j in range(_SQUARINGS + 1):
        norm = jnp.sqrt(jnp.sum(g * g, axis=(-2, -1)))
        log = log + jnp.log(norm) / 2**j
        if j < _SQUARINGS:
            g = g / jnp.where(norm == 0, 1, norm)[..., None, None]
            g = matmul(g, g)
    return jnp.exp(log / 2)
