"""The engine of a ladder: odd functions of the singular values by products only, fitted as it runs.

Each rung maps ``X`` to ``a X + b X R + c X R^2``, ``R = X^T X``: an odd polynomial that grows all
over [0, 1], doubles what is near 0 and leaves 1 where it is. After five rungs singular values from
0.01 on are spread out over [0, 1]. What the rungs pass through, and a polynomial of degree 31 at
the end, are together a basis in which a function of ``sigma^2`` that is smooth except near
``-(8e-3)^2`` is fitted to a few 1e-4: the slope of a smoothed power, and what a flow along it takes
away (``loops._flow``). The fit is one product of a constant matrix with the values of the function
at some points, so that ``p`` and ``eps`` may be traced.

There is no decomposition, no loop and no LAPACK call: on a GPU nothing that the host has to wait
for, and the whole can be part of a CUDA graph. The matrix is not squared: what is rounded is ``X``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._linear_algebra import identity, matmul, transpose
from rankjax.matrix._derivative_rule import Engine, First
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix._scaling import gram_matrix, tall
from rankjax.matrix.engines._gram import GRAM
from rankjax.matrix.engines._top_eigenvalue import units

LEAST_EPS = 8e-3  # below, what is smooth is so on a scale that five rungs do not reach
RUNGS = 5
# x -> a x + b x^3 + c x^5 with slope 2 at 0, at least 0.15 on [0, 1], and 0.43 at 1, which it
# leaves in place: a singular value that was taken for a little less does no harm.
A, B, C = 2.0, -1.7176243038723213, 0.7176243038723213
CUSHION = 1.01  # sigma_1 is known from below
_BLOCKS = 4  # of four terms each, in the last polynomial
# Singular values that are small and vanish in the rounding of the others are not fitted.
_CUT = 1e-6
_AT_ZERO = (1, -1, 1, -1, 1)  # T_0 T_4, .., T_3 T_4 and T_4^2 at -1, which is a singular value of 0


@cache
def points() -> np.ndarray:
    """Where functions are asked: singular values relative to the largest, which is the last."""
    return np.union1d(np.geomspace(1e-3, 1, 160), np.linspace(0, 1, 97)[1:])


def points_like(x: Array) -> Array:
    """``points`` along the last axis of ``x``."""
    return jnp.asarray(points(), x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def climb(x: Any, r: Any, one: Any, product: Callable[[Any, Any], Any], turned: Any) -> Any:
    """Yields what is combined, in this order; of matrices, or of numbers that stand for them.

    Args:
        x: where the ladder begins, with singular values up to ``1 / CUSHION``.
        r: ``x^T x``.
        one: the identity like ``r``.
        product: of two matrices.
        turned: transposes.
    """
    for _ in range(RUNGS):
        xr = product(x, r)
        yield x, r, xr
        x = A * x + B * xr + C * product(xr, r)
        r = product(turned(x), x)
    y = 2 * r - one
    second = 2 * product(y, y) - one
    third = 2 * product(y, second) - y
    yield x, (one, y, second, third), 2 * product(second, second) - one


def _fit(functions: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """From values at ``points`` to weights, by least squares."""
    return np.linalg.pinv(functions * strength[:, None], rcond=_CUT) * strength


@cache
def _to_weights() -> tuple[np.ndarray, np.ndarray]:
    """For odd and for even functions.

    Values near 0 count relative to ``x`` or ``x^2``, as far as ``LEAST_EPS``: there the functions
    that are fitted are all but linear, or squares.
    """
    s = points()
    x = s / CUSHION
    odd, even = [], []
    *rungs, (top, terms, step) = climb(x, x * x, np.ones_like(x), np.multiply, lambda x: x)
    for value, r, xr in rungs:
        odd += [value, xr]
        even += [r, r * r, xr * xr]
    odd += [top * term * step**j for j in range(_BLOCKS) for term in terms]
    even += [x * top * term for term in terms]
    even += [term * step - sign for term, sign in zip((*terms, step), _AT_ZERO, strict=True)]
    near = np.sqrt(s * s + LEAST_EPS**2) / s
    return _fit(np.stack(odd, -1), near), _fit(np.stack(even, -1), near / s)


def odd_weights(values: Array) -> Array:
    """Weights of the odd function with ``values`` ``(..., points)``."""
    return _times(values, _to_weights()[0])


def even_weights(values: Array) -> Array:
    """Weights of the even function, 0 at 0, with ``values`` ``(..., points)``."""
    return _times(values, _to_weights()[1])


def _times(values: Array, to_weights: np.ndarray) -> Array:
    return matmul(values[..., None, :], jnp.asarray(to_weights.T, values.dtype))[..., 0, :]


@partial(jax.jit, inline=True)  # traced once per shape, of some 25 times
def product(x: Array, y: Array) -> Array:
    """``x y``, on NVIDIA GPUs by the units for bfloat16.

    Both factors are split into three parts of 8 bits, of whose products the three largest are
    summed up in float32: an error of 1.5e-5, and at 4096 x 4096 a quarter of the time of float32.
    """
    return jax.lax.platform_dependent(x, y, cuda=_in_parts, default=matmul)


def _in_parts(x: Array, y: Array) -> Array:
    if x.dtype != jnp.float32:
        return matmul(x, y)
    return jnp.matmul(x, y, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3)


def combined(x: Array, r: Array, odd: Array, even: Array | None = None) -> tuple[Array, Array]:
    """``U f(Sigma) V^T`` of a tall ``x = U Sigma V^T`` ``(..., m, n)``, and ``sum_i g(sigma_i)``.

    Args:
        x: with singular values in [0, 1], ``1 / CUSHION`` the largest.
        r: ``x^T x``.
        odd: the weights of ``f``.
        even: the weights of ``g``; None: 0.

    Cost: 22 products of the size of ``r``, 11 of them of ``x``; one more with ``even``.
    """
    weight = (w[..., None, None] for w in jnp.moveaxis(odd, -1, 0))
    one = identity(r)
    total = jnp.zeros_like(x)
    sums: list[Array] = []
    *rungs, (top, terms, step) = climb(x, r, one, product, transpose)
    for value, square, cube in rungs:
        total = total + next(weight) * value + next(weight) * cube
        sums += [_sum(square * one), _sum(square * square), _sum(cube * cube)]
    blocks = [_summed([next(weight) * term for term in terms]) for _ in range(_BLOCKS)]
    last = blocks.pop()
    while blocks:
        last = product(last, step) + blocks.pop()
    total = total + product(top, last)
    if even is None:
        return total, jnp.zeros_like(x[..., 0, 0])
    both = product(transpose(x), top)
    sums += [_sum(both * term) for term in terms]
    pairs = zip((*terms, step), _AT_ZERO, strict=True)
    sums += [_sum(term * step - sign * one) for term, sign in pairs]
    return total, jnp.sum(even * jnp.stack(sums, -1), axis=-1)


def _summed(terms: list[Array]) -> Array:
    return reduce(jnp.add, terms)


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=(-2, -1))


def _first(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, First]:
    a, turned = tall(a)
    a, unit, m = gram_matrix(a)
    top, scale, e = units(function, m, unit, eps, LEAST_EPS, unrolled=True)
    zero = top == 0
    p_, e_ = p[..., None], e[..., None]
    s = points_like(p_)
    slope = p_ * s * (s * s + e_ * e_) ** (p_ / 2 - 1)
    power = e_**p_ * jnp.expm1(p_ / 2 * jnp.log1p((s / e_) ** 2))
    length = (CUSHION * scale)[..., None, None]
    gradient, value = combined(
        a / length, m / (length * length), odd_weights(slope), even_weights(power)
    )
    # The power is homogeneous in sigma and eps together.
    along = jnp.sum(a * gradient, axis=(-2, -1)) / scale
    first = First(
        jnp.where(zero, 0, value),
        transpose(gradient) if turned else gradient,
        jnp.full_like(top, jnp.nan),  # by p: the engine ``for_p`` answers instead
        jnp.where(zero, 0, (p * value - along) / e),
    )
    return unit * scale, first


def _value(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, Array]:
    scale, first = _first(function, a, p, eps)
    return scale, first.value


LADDER = Engine(_value, _first, GRAM.second, for_p=GRAM)
