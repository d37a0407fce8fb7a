"""The engine of rational functions: a sum of shifted inverses instead of eigenvectors.

The gradient of the smoothed power is ``p A M^(p/2-1)``, ``M = A^T A + e^2 I``. On the interval of
the spectrum the power is, to some 1e-4, a sum of a few inverses,

    x^(p/2-1) = w_c + sum_k w_k(p) / (x + tau_k),

with shifts ``tau_k`` in geometric progression that serve all ``p`` in (0, 2], and weights that are
a polynomial of ``p`` (so ``p`` may be traced). The inverses are made of products (``inverses``).
Like the Gram engine this one loses half of the digits when it squares ``A``, but nothing more: it
is as exact on low rank as on any other spectrum.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.matrix import gram
from rankjax.matrix.decompose import matmul, transpose
from rankjax.matrix.inverses import sum_of_inverses
from rankjax.matrix.iterative import top_eigenvalue
from rankjax.matrix.powers import SchattenPower
from rankjax.matrix.spectral import Engine, First

LEAST_EPS = 8e-3
_SHIFTS = 6
_DEGREE = 24  # of the weights as polynomials of p


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Shifts ``(k,)``, and weights ``(degree + 1, k + 1)`` as Chebyshev series in ``p - 1``.

    Least squares of what the error of ``x^(p/2-1)`` does to the gradient, at many points of
    ``[e^2 / (1 + e^2), 1]``, e a little below the least eps. At the end, where matrices of low
    rank have all of their spectrum, it is all but exact.
    """
    low = (0.9 * LEAST_EPS) ** 2
    shifts = np.concatenate([[0], np.geomspace(1.7 * low, 1.1, _SHIFTS - 1)])
    x = np.geomspace(low, 1, 600)[:, None]
    basis = np.concatenate([1 / (x + shifts), np.ones_like(x)], axis=1)
    singular_value = np.sqrt((x - low) / x)  # in units of the root of x
    singular_value[-1] *= 100
    angles = (np.arange(_DEGREE + 1) + 0.5) * np.pi / (_DEGREE + 1)
    values = []
    for p in 1 + np.cos(angles):
        effect = basis * x ** (1 - p / 2) * singular_value
        size = np.linalg.norm(effect, axis=0)
        values.append(np.linalg.lstsq(effect / size, singular_value[:, 0], rcond=1e-11)[0] / size)
    transform = 2 / (_DEGREE + 1) * np.cos(np.arange(_DEGREE + 1)[:, None] * angles)
    transform[0] /= 2
    return shifts, transform @ np.asarray(values)


def weights(p: Array) -> Array:
    """Weights of the inverses, and of the constant at the end, ``(..., k + 1)``."""
    order = jnp.arange(_DEGREE + 1, dtype=p.dtype)
    angle = jnp.arccos(jnp.clip(p - 1, -1, 1))[..., None]
    return jnp.cos(order * angle) @ jnp.asarray(_table()[1], p.dtype)


def _first(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, First]:
    a, _, turned = gram.tall(a)
    a, unit, m = gram.gram_matrix(a)
    top = jnp.sqrt(top_eigenvalue(m))
    absolute = function.eps_mode == "absolute"
    scale = jnp.maximum(top, eps / unit) if absolute else top
    zero = scale == 0
    scale = jnp.where(zero, 1, scale)
    e = jnp.maximum(eps / (unit * scale) if absolute else eps, LEAST_EPS)
    # In these units the spectrum of M ends at 1, and that of m at 1 - e^2.
    wide = 1 + e * e
    m = m / (scale * scale * wide)[..., None, None]
    low = (e * e / wide)[..., None]
    shifts = low + jnp.asarray(_table()[0], a.dtype)
    w = weights(p)
    total, diagonals = sum_of_inverses(m, shifts, w[..., :-1])

    # tr m X_k; with it the zeros of the spectrum add nothing, whatever the error at e^2.
    traces = jnp.sum(1 - jnp.moveaxis(shifts, -1, 0)[..., None] * diagonals, axis=-1)
    parts = w[..., :-1] * jnp.moveaxis(traces, 0, -1) / shifts
    squares = jnp.trace(m, axis1=-2, axis2=-1) * w[..., -1]
    value = wide ** (p / 2) * (squares + jnp.sum(parts * (shifts - low), axis=-1))
    by_eps = -p * wide ** ((p - 1) / 2) * jnp.sqrt(low[..., 0]) * jnp.sum(parts, axis=-1)

    x = total + w[..., -1, None, None] * jnp.eye(m.shape[-1], dtype=m.dtype)
    strength = p * wide ** (p / 2 - 1) / scale
    gradient = matmul(a, strength[..., None, None] * x)
    first = First(
        jnp.where(zero, 0, value),
        transpose(gradient) if turned else gradient,
        jnp.full_like(value, jnp.nan),  # by p: the engine ``for_p`` answers instead
        jnp.where(zero, 0, by_eps),
    )
    return unit * scale, first


def _value(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, Array]:
    scale, first = _first(function, a, p, eps)
    return scale, first.value


RATIONAL = Engine(_value, _first, gram.GRAM.second, for_p=gram.GRAM)
