"""Odd functions of the singular values by products only, chosen when the program runs.

Each rung of a ladder maps ``X`` to ``a X + b X R + c X R^2``, ``R = X^T X``: an odd polynomial that
grows all over [0, 1], doubles what is near 0 and leaves 1 where it is. After five rungs singular
values from 0.01 on are spread out over [0, 1]. What the rungs pass through, and a polynomial of
degree 31 at the end, are together a basis in which a function that is smooth except near
``-(8e-3)^2``, as a function of ``sigma^2``, is fitted to a few 1e-4: powers of the smoothed
``sigma``, and what a flow along their gradient does. The fit is one product of a constant matrix
with the values of the function at some points.

There is no decomposition, no loop and no LAPACK call: on a GPU nothing that the host has to wait
for, and the whole can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._linear_algebra import identity, matmul, transpose

LEAST_EPS = 8e-3  # below, what is smooth is so on a scale that five rungs do not reach
RUNGS = 5
# x -> a x + b x^3 + c x^5 with slope 2 at 0, at least 0.15 on [0, 1], and 0.43 at 1, which it
# leaves in place: a singular value that was taken for a little less does no harm.
A, B, C = 2.0, -1.7176243038723213, 0.7176243038723213
CUSHION = 1.01  # sigma_1 is known from below
_BLOCKS = 4  # of four terms each, in the last polynomial
# Singular values that are small and vanish in the rounding of the others are not fitted.
_CUT = 1e-6

T = TypeVar("T")


def _last(y: T, one: T, product: Callable[[Any, Any], Any]) -> tuple[list[T], T]:
    """Chebyshev polynomials ``T_0 .. T_3`` and ``T_4`` of ``y``."""
    second = 2 * product(y, y) - one
    third = 2 * product(y, second) - y
    return [one, y, second, third], 2 * product(second, second) - one


@cache
def points() -> np.ndarray:
    """Where functions are asked: singular values relative to the largest, which is the last."""
    return np.union1d(np.geomspace(1e-3, 1, 160), np.linspace(0, 1, 97)[1:])


def basis(x: np.ndarray) -> np.ndarray:
    """The functions that are fitted, ``(..., count)``, of numbers ``x`` in units of the ladder."""
    found = []
    for _ in range(RUNGS):
        r = x * x
        found += [x, x * r]
        x = A * x + x * r * (B + C * r)
    terms, step = _last(2 * x * x - 1, np.ones_like(x), np.multiply)
    found += [x * term * step**j for j in range(_BLOCKS) for term in terms]
    return np.stack(found, -1)


@cache
def _to_weights() -> np.ndarray:
    """From values at ``points`` to the weights of the basis, by least squares.

    Values near 0 count relative to ``x``, as far as ``LEAST_EPS``: there a function that is fitted
    is all but linear.
    """
    x = points()
    strength = np.sqrt(x * x + LEAST_EPS**2) / x
    return np.linalg.pinv(basis(x / CUSHION) * strength[:, None], rcond=_CUT) * strength


def weights(values: Array) -> Array:
    """Weights ``(..., count)`` of a function with ``values`` ``(..., points)``."""
    return matmul(values[..., None, :], jnp.asarray(_to_weights().T, values.dtype))[..., 0, :]


def combined(x: Array, weights: Array) -> Array:
    """``U f(Sigma) V^T`` of a tall ``x = U Sigma V^T`` ``(..., m, n)``.

    Args:
        x: with singular values in [0, 1], ``1 / CUSHION`` the largest.
        weights: of ``f``.

    Cost: 23 products of the size of ``x^T x``, 11 of them of ``x`` itself.
    """
    weight = (w[..., None, None] for w in jnp.moveaxis(weights, -1, 0))
    total = jnp.zeros_like(x)
    for _ in range(RUNGS):
        r = matmul(transpose(x), x)
        xr = matmul(x, r)
        total = total + next(weight) * x + next(weight) * xr
        x = A * x + B * xr + C * matmul(xr, r)
    r = matmul(transpose(x), x)
    one = identity(r)
    terms, step = _last(2 * r - one, one, matmul)
    blocks = [sum(next(weight) * term for term in terms) for _ in range(_BLOCKS)]
    last = blocks.pop()
    while blocks:
        last = matmul(last, step) + blocks.pop()
    return total + matmul(x, last)
