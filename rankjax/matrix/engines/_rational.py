"""The engine of rational functions: a sum of shifted inverses instead of eigenvectors.

The gradient of the smoothed power is ``p A M^(p/2-1)``, ``M = A^T A + e^2 I``. On the interval of
the spectrum the power is, to some 5e-4, a square and a few inverses,

    x^(p/2-1) = c_0(p) + c_1(p) x + c_2(p) x^2 + sum_k w_k(p) / (x + tau_k),

with shifts ``tau_k`` that serve all ``p`` in (0, 2], and weights that are a polynomial of ``p`` (so
``p`` may be traced). The inverses are made of products (``_shifted_inverses``). Like the Gram
engine this one loses half of the digits when it squares ``A``, but nothing more: it is as exact on
low rank as on any other spectrum.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._linear_algebra import identity, matmul, transpose
from rankjax.matrix._derivative_rule import Engine, First
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix._scaling import gram_matrix, tall
from rankjax.matrix.engines._gram import GRAM
from rankjax.matrix.engines._shifted_inverses import sum_of_inverses
from rankjax.matrix.engines._top_eigenvalue import units

LEAST_EPS = 8e-3
LOW = (0.9 * LEAST_EPS) ** 2  # where the fit begins: a little below the least eps
# Found by benchmarks/rational_shifts.py. The largest error of any p is 7e-4.
SHIFTS = LOW * np.array([0, 1.736, 21.11, 213.1, 2201])
_POWERS = 3  # 1, x and x^2
_DEGREE = 24  # of the weights as polynomials of p


def fit(p: float, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(k + 3,)`` of the inverses and of ``1, x, x^2``, and the errors that are left.

    Least squares of what the error of ``x^(p/2-1)`` does to the gradient, relative to it, at many
    points of ``[e^2 / (1 + e^2), 1]``. At the end, where matrices of low rank have all of their
    spectrum, it is all but exact.
    """
    x = np.geomspace(LOW, 1, 600)[:, None]
    basis = np.concatenate([1 / (x + shifts), x ** np.arange(_POWERS)], axis=1) * x ** (1 - p / 2)
    singular_value = np.sqrt((x - LOW) / x)  # in units of the root of x
    strength = np.where(x == x[-1], 100, singular_value)
    effect = basis * strength
    size = np.linalg.norm(effect, axis=0)
    weights = np.linalg.lstsq(effect / size, strength[:, 0], rcond=1e-11)[0] / size
    return weights, (basis @ weights - 1) * singular_value[:, 0]


@cache
def _table() -> np.ndarray:
    """Weights ``(degree + 1, k + 3)`` as Chebyshev series in ``p - 1``."""
    angles = (np.arange(_DEGREE + 1) + 0.5) * np.pi / (_DEGREE + 1)
    values = [fit(p, SHIFTS)[0] for p in 1 + np.cos(angles)]
    transform = 2 / (_DEGREE + 1) * np.cos(np.arange(_DEGREE + 1)[:, None] * angles)
    transform[0] /= 2
    return transform @ np.asarray(values)


def weights(p: Array) -> Array:
    """Weights of the inverses, and of ``1, x, x^2`` at the end, ``(..., k + 3)``."""
    order = jnp.arange(_DEGREE + 1, dtype=p.dtype)
    angle = jnp.arccos(jnp.clip(p - 1, -1, 1))
    return jnp.cos(jnp.multiply.outer(angle, order)) @ jnp.asarray(_table(), p.dtype)


def _first(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, First]:
    a, turned = tall(a)
    a, unit, m = gram_matrix(a)
    top, scale, e = units(function, m, unit, eps, LEAST_EPS)
    # In these units the spectrum of M = m + low I ends at 1.
    wide = 1 + e * e
    low = e * e / wide
    m = m / (scale * scale * wide)[..., None, None]
    shifts = jnp.add.outer(low, jnp.asarray(SHIFTS, a.dtype))
    w = weights(p)
    w, (c0, c1, c2) = w[..., :-_POWERS], jnp.moveaxis(w[..., -_POWERS:], -1, 0)
    total, diagonals = sum_of_inverses(m, shifts, w)
    # The same polynomial in m instead of M.
    c0, c1 = c0 + low * (c1 + low * c2), c1 + 2 * low * c2
    square = matmul(m, m)

    # Sums over the spectrum of x r(x) - low r(low), and of r(x) - r(low). From tr m X_k: with it
    # the zeros of the spectrum add nothing, whatever the error at e^2.
    traces = jnp.sum(1 - shifts[..., None] * diagonals, axis=-1)
    parts = w * traces / shifts
    trace1 = jnp.trace(m, axis1=-2, axis2=-1)
    trace2, trace3 = (jnp.sum(m * x, axis=(-2, -1)) for x in (m, square))
    slopes = c1 * trace1 + c2 * trace2
    values = c0 * trace1 + c1 * trace2 + c2 * trace3 + low * slopes
    values = values + jnp.sum(parts * (shifts - low[..., None]), axis=-1)
    by_eps = p * wide ** ((p - 1) / 2) * jnp.sqrt(low) * (slopes - jnp.sum(parts, axis=-1))

    c0, c1, c2 = (c[..., None, None] for c in (c0, c1, c2))
    x = total + c0 * identity(m) + c1 * m + c2 * square
    strength = p * wide ** (p / 2 - 1) / scale
    gradient = matmul(a, strength[..., None, None] * x)
    zero = top == 0
    first = First(
        jnp.where(zero, 0, wide ** (p / 2) * values),
        transpose(gradient) if turned else gradient,
        jnp.full_like(top, jnp.nan),  # by p: the engine ``for_p`` answers instead
        jnp.where(zero, 0, by_eps),
    )
    return unit * scale, first


def _value(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, Array]:
    scale, first = _first(function, a, p, eps)
    return scale, first.value


RATIONAL = Engine(_value, _first, GRAM.second, for_p=GRAM)
