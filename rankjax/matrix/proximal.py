"""Proximal maps of Schatten powers, and projections: steps towards low rank without a gradient.

Each acts on the singular values (von Neumann: for a unitarily invariant penalty the proximal map
keeps the singular vectors). They are made to be applied between optimiser steps. First derivatives,
by the matrix and by ``p``, ``weight`` and ``radius``, are right also at repeated and zero singular
values, wherever no singular value is at a threshold (the maps of ``rankjax.matrix.functions``;
``project_rank`` goes through the vectors and is NaN at repeated and zero values). Second
derivatives are right for the closed forms and not defined for Newton's.

Shared: ``axes`` are the (out, in) axes; float16 and bfloat16 are computed in float32 and cast back;
empty matrices stay; a matrix that is not finite becomes NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.matrix.canonical import (
    Canonical,
    canonicalize,
    concrete,
    float_array,
    non_negative,
    one_of,
)
from rankjax.matrix.decompose import SVD, svd
from rankjax.matrix.divided import Scalar
from rankjax.matrix.functions import map_at
from rankjax.matrix.meshes import automatic
from rankjax.matrix.spectral import outer

METHODS = ("auto", "svd")
_AXES = (-2, -1)
_NEWTON_STEPS = 40


def _soft(s: Array, weight: Array) -> Array:
    return jnp.maximum(s - weight, 0)


def _rank(s: Array, weight: Array) -> Array:
    return jnp.where(s * s > 2 * weight, s, 0)


def _ridge(s: Array, weight: Array) -> Array:
    return s / (1 + 2 * weight)


def _half(s: Array, weight: Array) -> Array:
    """Xu, Chang, Xu and Zhang, "L1/2 regularization", TNNLS 2012; their lambda is 2 weight."""
    lam = 2 * weight
    keep = s > 54 ** (1 / 3) / 4 * lam ** (2 / 3)
    safe = jnp.where(keep, s, 1)
    cosine = jnp.where(keep, lam / 8 * (safe / 3) ** -1.5, 0)
    x = 2 / 3 * safe * (1 + jnp.cos(2 / 3 * (np.pi - jnp.arccos(cosine))))
    return jnp.where(keep, x, 0)


def _two_thirds(s: Array, weight: Array) -> Array:
    """Cao, Sun and Xu, "Fast image deconvolution using closed-form thresholding", JVCI 2013."""
    lam = jnp.where(weight > 0, 2 * weight, 1)
    keep = s > 2 / 3 * (3 * lam**3) ** 0.25
    safe = jnp.where(keep, s, lam**0.75 * 2)
    angle = jnp.arccosh(27 / 16 * safe**2 * lam**-1.5)
    a = 2 / 3**0.5 * lam**0.25 * jnp.cosh(angle / 3) ** 0.5
    x = ((a + jnp.sqrt(2 * safe / a - a * a)) / 2) ** 3
    return jnp.where(weight > 0, jnp.where(keep, x, 0), s)


def _newton(s: Array, weight: Array, p: Array) -> Array:
    """The scalar equation ``x - s + weight p x^(p-1) = 0`` from a side where Newton is monotone.

    ``p < 1``: convex, from ``s``, and 0 below the threshold. ``1 < p < 2``: concave, from below.
    ``p >= 2``: convex, from above.
    """
    active = (weight > 0) & (s > 0)
    w, value = jnp.where(active, weight, 1), jnp.where(active, s, 1)
    below, above = p < 1, p > 1
    q = jnp.where(below, p, 0.5)
    edge = jnp.where(below, (2 * w * (1 - q)) ** (1 / (2 - q)), 0)
    reached = value > jnp.where(below, edge + w * q * jnp.where(below, edge, 1) ** (q - 1), 0)
    r = jnp.where(above, p, 2)
    root = lambda factor: (value / (factor * w * r)) ** (1 / (r - 1))  # noqa: E731
    start = jnp.where(r < 2, jnp.minimum(value / 2, root(2)), jnp.minimum(value, root(1)))
    tiny = float(jnp.finfo(s.dtype).tiny)
    start = jnp.where(above, jnp.maximum(start, tiny), value)

    def newton(x: Array) -> Array:
        slope = w * p * x ** (p - 1)
        new = x - (x - value + slope) / (1 + (p - 1) * slope / x)
        return jnp.clip(new, jnp.maximum(jax.lax.stop_gradient(edge), tiny), None)

    x = jax.lax.fori_loop(
        0,
        _NEWTON_STEPS,
        lambda _, x: newton(x),
        jax.lax.stop_gradient(start),
    )
    # One more step from a constant start has the derivative of the solution (implicit function).
    x = newton(jax.lax.stop_gradient(x))
    x = jnp.where(p == 1, _soft(value, w), jnp.where(p == 0, _rank(value, w), x))
    reached = reached | (p == 0)
    return jnp.where(active, jnp.where(reached, x, 0), jnp.where(s > 0, s, s * 0))


def prox_power(s: ArrayLike, /, *, p: ArrayLike, weight: ArrayLike) -> Array:
    """``argmin_{x >= 0} (x - s)^2 / 2 + weight x^p``, elementwise for ``s >= 0``.

    Closed forms for a known p in {0, 1/2, 2/3, 1, 2} (0 keeps ``s`` where ``s^2 > 2 weight``), for
    any other p >= 0 Newton from the side where it is monotone. At a threshold, where two minimisers
    tie, the answer is 0.

    Args:
        s: values >= 0, any shape (negative ones are not checked).
        p: exponent >= 0; may be traced (then Newton serves all).
        weight: >= 0, broadcasts with ``s``; may be traced.

    Returns:
        The shape of ``s`` broadcast with p and weight, in the dtype of ``s``.

    Raises:
        ValueError: a concrete negative p or weight; ``s`` not real floating.

    Differentiable in all arguments (implicit function theorem) off the threshold.

    Example:
        >>> import jax.numpy as jnp
        >>> [round(float(x), 3) for x in prox_power(jnp.array([3.0, 1.0]), p=1.0, weight=1.5)]
        [1.5, 0.0]
    """
    non_negative(p, "p")
    non_negative(weight, "weight")
    array = float_array(s, name="s")
    dtype = array.dtype
    value = array.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else array
    w = jnp.asarray(weight, value.dtype)
    known = concrete(p)
    if known is not None and known.ndim == 0 and (closed := _closed_form(float(known))):
        return jnp.broadcast_to(
            closed(value, w), jnp.broadcast_shapes(value.shape, w.shape)
        ).astype(dtype)
    return _newton(value, w, jnp.asarray(p, value.dtype)).astype(dtype)


def _closed_form(p: float) -> Callable[[Array, Array], Array] | None:
    if abs(p - 2 / 3) < 1e-7:  # 2/3 is no floating point number
        return _two_thirds
    return {0.0: _rank, 0.5: _half, 1.0: _soft, 2.0: _ridge}.get(p)


@dataclass(frozen=True)
class _Prox:
    """``prox_power`` as an odd function of one singular value, for a known or a given p."""

    p: float | None

    def __call__(self, s: Array, weight: Array, *p: Array) -> Array:
        return prox_power(s, p=p[0] if self.p is None else self.p, weight=weight)


def _clip(s: Array, radius: Array) -> Array:
    return jnp.minimum(s, radius)


def _restored(image: Array, changed: Array, given: Canonical, axes: Sequence[int]) -> Array:
    # A matrix that is inside already is returned as it is, not rounded by the decomposition.
    result = jnp.where(changed[..., None, None], image, given.matrix)
    return jnp.moveaxis(result, (-2, -1), tuple(axes)).astype(given.dtype)


def _image(h: Scalar, factors: SVD, matrix: Array, args: tuple[Array, ...]) -> Array:
    """``U h(Sigma) V^T`` with parameters that are scalars or of the batch shape."""
    if all(x.ndim == 0 for x in args):
        return map_at(h, factors, matrix, args)
    batch = matrix.shape[:-2]
    args = tuple(jnp.broadcast_to(x, batch) for x in args)

    def run(factors: SVD, matrix: Array, *args: Array) -> Array:
        return map_at(h, factors, matrix, args)

    for _ in batch:
        run = jax.vmap(run)
    return run(factors, matrix, *args)


def _factors(matrix: Array) -> SVD:
    return svd(jax.lax.stop_gradient(matrix))


def prox_schatten(
    a: ArrayLike,
    /,
    *,
    p: ArrayLike,
    weight: ArrayLike,
    axes: Sequence[int] = _AXES,
    method: str = "auto",
) -> Array:
    """``argmin_X |X - A|_F^2 / 2 + weight |X|_{S_p}^p``: ``prox_power`` of the singular values.

    For ``p = 1`` singular value thresholding, for ``p = 0`` hard thresholding (rank).

    Args:
        a: a matrix or a batch of matrices.
        p: exponent >= 0, a scalar or of the batch shape, may be traced.
        weight: >= 0, like p.
        axes: the (out, in) axes of the matrix.
        method: ``"auto"`` or ``"svd"`` (the same: zeroing a singular value needs its vectors).

    Returns:
        Shape and dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes, dtype or method; a concrete negative p or weight.

    Cost: one SVD and a product.

    Example:
        >>> import jax.numpy as jnp
        >>> x = prox_schatten(jnp.diag(jnp.array([3.0, 1.0])), p=1.0, weight=1.5)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [1.5, 0.0]
    """
    one_of(method, "method", METHODS)

    given = canonicalize(a, axes)
    matrix = given.matrix
    if 0 in matrix.shape:
        return jnp.asarray(a)
    non_negative(p, "p")
    non_negative(weight, "weight")
    known = concrete(p)
    scalar = float(known) if known is not None and known.ndim == 0 else None
    args = (weight,) if scalar is not None else (weight, p)
    args = tuple(jnp.asarray(x, matrix.dtype) for x in args)
    factors = _factors(matrix)
    image = _image(_Prox(scalar), factors, matrix, args)
    changed = _Prox(scalar)(factors.s, *(x[..., None] for x in args)) != factors.s
    return _restored(image, jnp.any(changed, axis=-1), given, axes)


def _onto_ball(
    nearest: Callable[[SVD, Array, Array], tuple[Array, Array]],
    a: ArrayLike,
    radius: ArrayLike,
    axes: Sequence[int],
) -> Array:
    """``nearest`` of factors, matrix and radius: the projection, and whether ``a`` is inside."""
    non_negative(radius, "radius")
    given = canonicalize(a, axes)
    if 0 in given.matrix.shape:
        return jnp.asarray(a)
    matrix = given.matrix
    image, inside = nearest(_factors(matrix), matrix, jnp.asarray(radius, matrix.dtype))
    return _restored(image, ~inside, given, axes)


def project_spectral_ball(
    a: ArrayLike, /, radius: ArrayLike, *, axes: Sequence[int] = _AXES
) -> Array:
    """The nearest matrix (Frobenius) with ``|X| <= radius``: singular values are clipped.

    Args:
        a: a matrix or a batch of matrices.
        radius: >= 0, a scalar or of the batch shape, may be traced.
        axes: the (out, in) axes of the matrix.

    Returns:
        Shape and dtype of ``a``; ``a`` itself where it is inside.

    Raises:
        ValueError: wrong rank, axes or dtype; a concrete negative radius.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project_spectral_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [2.0, 1.0]
    """

    def clipped(factors: SVD, matrix: Array, r: Array) -> tuple[Array, Array]:
        return _image(_clip, factors, matrix, (r,)), factors.s[..., 0] <= r

    return _onto_ball(clipped, a, radius, axes)


@automatic
def project_nuclear_ball(
    a: ArrayLike, /, radius: ArrayLike, *, axes: Sequence[int] = _AXES
) -> Array:
    """The nearest matrix (Frobenius) with ``|X|_* <= radius``: all values lowered by one amount.

    Args:
        a: a matrix or a batch of matrices.
        radius: >= 0, a scalar or of the batch shape, may be traced.
        axes: the (out, in) axes of the matrix.

    Returns:
        Shape and dtype of ``a``; ``a`` itself where it is inside.

    Raises:
        ValueError: wrong rank, axes or dtype; a concrete negative radius.

    Source: projection on the simplex, Duchi et al., ICML 2008.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project_nuclear_ball(jnp.diag(jnp.array([3.0, 1.0])), 2.0)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [2.0, 0.0]
    """

    def lowered(factors: SVD, matrix: Array, r: Array) -> tuple[Array, Array]:
        # The values themselves with their derivative u^T dA v.
        moved = matrix - jax.lax.stop_gradient(matrix)
        s = factors.s + jnp.einsum("...mk,...mn,...kn->...k", factors.u, moved, factors.vt)
        total = jnp.cumsum(s, axis=-1)
        by = (total - r[..., None]) / jnp.arange(1, s.shape[-1] + 1, dtype=s.dtype)
        # How many stay positive; at least one, so that radius 0 lowers all to 0.
        stay = jnp.maximum(jnp.sum(s > by, axis=-1, keepdims=True), 1)
        amount = jnp.take_along_axis(by, stay - 1, axis=-1)[..., 0]
        return _image(_soft, factors, matrix, (amount,)), total[..., -1] <= r

    return _onto_ball(lowered, a, radius, axes)


def project_rank(a: ArrayLike, /, rank: ArrayLike, *, axes: Sequence[int] = _AXES) -> Array:
    """The nearest matrix of rank <= ``rank`` in every unitarily invariant norm (Eckart-Young).

    Args:
        a: a matrix or a batch of matrices.
        rank: an integer >= 0, a scalar or of the batch shape, may be traced.
        axes: the (out, in) axes of the matrix.

    Returns:
        Shape and dtype of ``a``.

    Raises:
        ValueError: wrong rank of the array, axes or dtype; a concrete negative rank.

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
    keep = jnp.arange(factors.s.shape[-1]) < jnp.asarray(rank)[..., None]
    image = outer(factors, jnp.where(keep, factors.s, factors.s * 0))
    return _restored(image, jnp.any(~keep, axis=-1) | jnp.isnan(factors.s[..., 0]), given, axes)
