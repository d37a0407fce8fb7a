"""Proximal maps of Schatten powers: steps towards low rank without a gradient.

Each acts on the singular values (von Neumann: for a unitarily invariant penalty the proximal map
keeps the singular vectors). They are made to be applied between optimizer steps. First derivatives,
by the matrix and by ``p``, ``weight`` and ``radius``, are right also at repeated and zero singular
values, wherever no singular value is at a threshold. A second derivative by the matrix is a
``NotImplementedError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import float_array, known_scalar, non_negative, one_of
from rankjax._linear_algebra import SVD, matmul, svd, transpose, triangle
from rankjax.matrix._canonical import Canonical, canonicalize
from rankjax.matrix._derivative_rule import outer
from rankjax.matrix._divided_differences import Scalar
from rankjax.matrix._scaling import tall
from rankjax.matrix._spectral_functions import map_at

ProxMethod = Literal["auto", "svd"]
_NEWTON_STEPS = 40


def soft_threshold(s: Array, weight: Array) -> Array:
    return jnp.maximum(s - weight, 0)


def _rank(s: Array, weight: Array) -> Array:
    return jnp.where(s * s > 2 * weight, s, 0)


def _ridge(s: Array, weight: Array) -> Array:
    return s / (1 + 2 * weight)


def _newton(s: Array, weight: Array, p: Array) -> Array:
    """The scalar equation ``x - s + weight p x^(p-1) = 0`` from a side where Newton is monotone.

    ``p < 1``: convex, from ``s``, and 0 below the threshold. ``p > 1``: in ``u = log x`` the
    equation ``log(x + weight p x^(p-1)) = log s`` is convex (a log of a sum of exponentials), from
    where the larger of its two terms alone reaches ``s``.
    """
    active = (weight > 0) & (s > 0)
    w, value = jnp.where(active, weight, 1), jnp.where(active, s, 1)
    below, above = p < 1, p > 1
    q = jnp.where(below, p, 0.5)
    edge = jnp.where(below, (2 * w * (1 - q)) ** (1 / (2 - q)), 0)
    reached = value > jnp.where(below, edge + w * q * jnp.where(below, edge, 1) ** (q - 1), 0)
    r = jnp.where(above, p, 2)
    least = jnp.maximum(jax.lax.stop_gradient(edge), float(jnp.finfo(s.dtype).tiny))
    start = jnp.minimum(value, (value / (w * r)) ** (1 / (r - 1)))
    start = jnp.where(above, jnp.maximum(start, least), value)

    def newton(x: Array) -> Array:
        slope = w * p * x ** (p - 1)
        return jnp.maximum(x - (x - value + slope) / (1 + (p - 1) * slope / x), least)

    def newton_of_logarithm(x: Array) -> Array:
        slope = w * r * x ** (r - 1)
        step = jnp.log((x + slope) / value) * (x + slope) / (x + (r - 1) * slope)
        return jnp.maximum(x * jnp.exp(-step), least)

    x = jax.lax.fori_loop(
        0,
        _NEWTON_STEPS,
        lambda _, x: jnp.where(above, newton_of_logarithm(x), newton(x)),
        jax.lax.stop_gradient(start),
    )
    # One more step from a constant start has the derivative of the solution (implicit function).
    x = newton(jax.lax.stop_gradient(x))
    x = jnp.where(p == 1, soft_threshold(value, w), jnp.where(p == 0, _rank(value, w), x))
    reached = reached | (p == 0)
    return jnp.where(active, jnp.where(reached, x, 0), jnp.where(s > 0, s, s * 0))


def prox_power(
    s: Float[ArrayLike, "..."], /, *, p: ArrayLike, weight: ArrayLike
) -> Float[Array, "..."]:
    """``argmin_{x >= 0} (x - s)^2 / 2 + weight x^p``, elementwise for ``s >= 0``.

    Closed forms for a known p in {0, 1, 2} (0 keeps ``s`` where ``s^2 > 2 weight``), for any other
    p >= 0 Newton from the side where it is monotone. At a threshold, where two minimizers tie, the
    answer is 0.

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
    numbers = (jnp.asarray(x, value.dtype) for x in (weight, p))
    value, w, p_ = jnp.broadcast_arrays(value, *numbers)
    closed = _CLOSED.get(known_scalar(p))
    x = _newton(value, w, p_) if closed is None else closed(value, w)
    return x.astype(dtype)


_CLOSED: dict[float | None, Callable[[Array, Array], Array]] = {
    0.0: _rank,
    1.0: soft_threshold,
    2.0: _ridge,
}


@dataclass(frozen=True)
class _Prox:
    """``prox_power`` as an odd function of one singular value, for a known or a given p."""

    p: float | None

    def __call__(self, s: Array, weight: Array, *p: Array) -> Array:
        return prox_power(s, p=p[0] if self.p is None else self.p, weight=weight)


def restored(image: Array, changed: Array, given: Canonical, axes: Sequence[int]) -> Array:
    # A matrix that is inside already is returned as it is, not rounded by the decomposition.
    result = jnp.where(changed[..., None, None].astype(bool), image, given.matrix)
    return jnp.moveaxis(result, (-2, -1), tuple(axes)).astype(given.dtype)


def image_of(h: Scalar, factors: SVD, matrix: Array, args: tuple[Array, ...]) -> Array:
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


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def shrunk(h: Scalar, a: Array, args: tuple[Array, ...]) -> tuple[Array, Array]:
    """``U h(Sigma) V^T`` for ``0 <= h(s) <= s``, and whether any singular value is changed.

    Of a matrix much taller than wide, ``a = Q R``, the singular values and ``V`` are those of
    ``R``, and ``a V diag(h(s) / s) V^T`` needs neither ``Q`` nor ``U``: half the time.
    """
    matrix, turned = tall(a)
    much_taller = matrix.shape[-2] >= 2 * matrix.shape[-1]
    factors = svd(triangle(matrix) if much_taller else matrix)
    values, changed = _new_values(h, factors.s, args)
    if much_taller:
        ratio = values / jnp.where(factors.s == 0, 1, factors.s)
        factors = factors._replace(u=transpose(factors.vt))
        image = matmul(matrix, outer(factors, ratio))
    else:
        image = outer(factors, values)
    return (transpose(image) if turned else image), changed


def _shrunk_jvp(h: Scalar, primals: Any, tangents: Any) -> Any:
    (a, args), (da, dargs) = primals, tangents
    factors = svd(jax.lax.stop_gradient(a))
    # Nothing is computed for what nobody differentiates by.
    live = [i for i, tangent in enumerate(dargs) if not isinstance(tangent, SymbolicZero)]

    def image(a: Array, *moving: Array) -> Array:
        new = dict(enumerate(args)) | dict(zip(live, moving, strict=True))
        return image_of(h, factors, a, tuple(new.values()))

    da = jnp.zeros_like(a) if isinstance(da, SymbolicZero) else da
    at = (a, *(args[i] for i in live))
    value, tangent = jax.jvp(image, at, (da, *(dargs[i] for i in live)))
    changed = _new_values(h, factors.s, args)[1]
    return (value, changed), (tangent, 0 * changed)


shrunk.defjvp(_shrunk_jvp, symbolic_zeros=True)


def _new_values(h: Scalar, s: Array, args: tuple[Array, ...]) -> tuple[Array, Array]:
    """``h(s)``, and 1 where that is another matrix (0: a number has a tangent)."""
    values = h(s, *(jnp.broadcast_to(x, s.shape[:-1])[..., None] for x in args))
    return values, jnp.any(values != s, axis=-1).astype(s.dtype)


def prox_schatten(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    p: ArrayLike,
    weight: ArrayLike,
    axes: Sequence[int] = (-2, -1),
    method: ProxMethod = "auto",
) -> Float[Array, "... m n"]:
    """``argmin_X |X - A|_F^2 / 2 + weight |X|_{S_p}^p``: ``prox_power`` of the singular values.

    For ``p = 1`` singular value thresholding, for ``p = 0`` hard thresholding (rank).

    Args:
        p: exponent >= 0, a scalar or of the batch shape, may be traced.
        weight: >= 0, like p.
        method: ``"auto"`` or ``"svd"`` (the same: zeroing a singular value needs its vectors).

    Cost: one SVD and a product.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = prox_schatten(jnp.diag(jnp.array([3.0, 1.0])), p=1.0, weight=1.5)
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [1.5, 0.0]
    """
    one_of(method, "method", ProxMethod)

    given = canonicalize(a, axes)
    matrix = given.matrix
    if 0 in matrix.shape:
        return jnp.asarray(a)
    non_negative(p, "p")
    non_negative(weight, "weight")
    scalar = known_scalar(p)
    args = (weight,) if scalar is not None else (weight, p)
    args = tuple(jnp.asarray(x, matrix.dtype) for x in args)
    image, changed = shrunk(_Prox(scalar), matrix, args)
    return restored(image, changed, given, axes)
