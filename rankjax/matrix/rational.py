"""The engine of rational functions: a tridiagonal form instead of eigenvectors.

The gradient of the smoothed power is ``p A M^(p/2-1)``, ``M = A^T A + e^2 I``. On the interval of
the spectrum the power is, to about 1e-5, a sum of a few inverses

    x^(p/2-1) = w_c + sum_k w_k(p) / (x + tau_k),

with shifts ``tau_k`` in geometric progression that serve all ``p`` in (0, 2], and weights that are
a polynomial of ``p`` (so ``p`` may be traced). Of the tridiagonal form of ``M`` (``tridiagonal``)
the sum costs ``n^2`` operations a shift; the reduction and the way back are about half of a full
eigendecomposition. Like the Gram matrix it loses half of the digits, and there are no eigenvectors
to correct: where an estimate from the histogram of the spectrum sees that rounding could exceed
1e-3 (low rank, small p), the Gram engine takes over at run time. From p = 1/2 on it does without
its correction: 1e-3 off on low rank, up to 2e-3 where half of the singular values vanish.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.matrix import gram, tridiagonal
from rankjax.matrix.decompose import anywhere, matmul, transpose
from rankjax.matrix.powers import SchattenPower
from rankjax.matrix.spectral import Engine, First

ACCURACY = 1e-3  # of the gradient, relatively, above which the Gram engine takes over
_PLAIN_FROM = 0.5  # the p from which it does so without the correction, which costs as much again
_LEAST_EPS = 8e-3
_SHIFTS = 10  # besides the shift 0 and the constant; 1e-5 from the least eps on
_DEGREE = 24  # of the weights as polynomials of p
_BINS = 48


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Shifts ``(k,)``, and weights ``(degree + 1, k + 1)`` as Chebyshev series in ``p - 1``.

    Least squares of the relative error at many points of ``[e^2 / (1 + e^2), 1]``, e the
    least eps.
    """
    low = _LEAST_EPS**2 / (1 + _LEAST_EPS**2)
    shifts = np.concatenate([[0], np.geomspace(0.2 * low, 4, _SHIFTS)])
    x = np.geomspace(low, 1, 600)[:, None]
    basis = np.concatenate([1 / (x + shifts), np.ones_like(x)], axis=1)
    angles = (np.arange(_DEGREE + 1) + 0.5) * np.pi / (_DEGREE + 1)
    values = []
    for p in 1 + np.cos(angles):
        relative = basis * x ** (1 - p / 2)
        size = np.linalg.norm(relative, axis=0)
        values.append(np.linalg.lstsq(relative / size, np.ones(len(x)), rcond=1e-11)[0] / size)
    transform = 2 / (_DEGREE + 1) * np.cos(np.arange(_DEGREE + 1)[:, None] * angles)
    transform[0] /= 2
    return shifts, transform @ np.asarray(values)


def weights(p: Array) -> Array:
    """Weights of the inverses, and of the constant at the end, ``(..., k + 1)``."""
    order = jnp.arange(_DEGREE + 1, dtype=p.dtype)
    angle = jnp.arccos(jnp.clip(p - 1, -1, 1))[..., None]
    return jnp.cos(order * angle) @ jnp.asarray(_table()[1], p.dtype)


class _Scaled:
    """``A`` and ``T`` in units in which the spectrum of ``M`` ends at 1."""

    def __init__(self, function: SchattenPower, a: Array, p: Array, eps: Array):
        _, unit, self.gram = gram.gram_matrix(a)
        self.a, self.unit = a, unit
        t = tridiagonal.reduce(self.gram)
        top = jnp.sqrt(tridiagonal.top_eigenvalue(t))
        absolute = function.eps_mode == "absolute"
        scale = jnp.maximum(top, eps / unit) if absolute else top
        self.zero = scale == 0
        scale = jnp.where(self.zero, 1, scale)
        e = jnp.maximum(eps / (unit * scale) if absolute else eps, _LEAST_EPS)
        self.scale, self.e, self.p, self.wide = scale * unit, e, p, 1 + e * e
        squared = (scale * scale * self.wide)[..., None]
        self.t = t._replace(diagonal=t.diagonal / squared, off=t.off / squared)
        shifts = jnp.asarray(_table()[0], a.dtype)
        self.shifts = (e * e / self.wide)[..., None] + shifts
        self.inverses = tridiagonal.inverses(self.t, self.shifts)
        self.weights = weights(p)

    def sums(self) -> tuple[Array, Array]:
        """The power and its derivative by eps, in units of ``scale``."""
        # tr T X_k; with it the zeros of the spectrum add nothing, whatever the error at e^2.
        traces = jnp.sum(1 - self.shifts * self.inverses.diagonal, axis=0)
        low = self.shifts[..., :1]
        w = self.weights[..., :-1] * traces / self.shifts
        squares = jnp.sum(self.t.diagonal, axis=-1) * self.weights[..., -1]
        value = squares + jnp.sum(w * (self.shifts - low), axis=-1)
        by_eps = -self.p * jnp.sqrt(low[..., 0]) * jnp.sum(w, axis=-1)
        value, by_eps = self.wide ** (self.p / 2) * value, self.wide ** ((self.p - 1) / 2) * by_eps
        return jnp.where(self.zero, 0, value), jnp.where(self.zero, 0, by_eps)

    def gradient(self) -> Array:
        w = self.weights
        n = self.t.diagonal.shape[-1]
        constant = w[..., -1, None, None] * jnp.eye(n, dtype=w.dtype)
        x = tridiagonal.rotate(self.t, tridiagonal.sum_of(self.inverses, w[..., :-1]) + constant)
        strength = self.p * self.wide ** (self.p / 2 - 1)
        # The copy of A in these units is made last: it need not be kept beside what came before.
        return matmul(self.a / self.scale[..., None, None], strength[..., None, None] * x)

    def noise(self, function: SchattenPower) -> Array:
        """What rounding is expected to do to the gradient, relatively: an upper estimate.

        Entry ``(i, j)`` of ``A^T A`` in the eigenbasis is taken to be off by some roundings of
        ``sigma_1 max(sigma_i, sigma_j) / sqrt(n)`` and the gradient by what the divided differences
        make of it, over a histogram of the spectrum. Some is 60: 6 to 60 were seen on Gaussian,
        low-rank, flat, polynomially and exponentially decaying spectra of 64 to 1024.
        """
        n = self.t.diagonal.shape[-1]
        edges = jnp.asarray(np.geomspace(1e-6, 2, _BINS), self.p.dtype)
        count = jnp.diff(tridiagonal.counts_below(self.t, edges), axis=-1, prepend=0)
        count = count.astype(self.p.dtype)
        middle = jnp.concatenate([jnp.zeros_like(edges[:1]), jnp.sqrt(edges[1:] * edges[:-1])])
        s = jnp.sqrt(middle * self.wide[..., None])
        top = jnp.ones_like(self.p)[..., None]
        tables = function.tables(s, top, self.p[..., None], self.e[..., None])
        larger = jnp.maximum(s[..., :, None], s[..., None, :])
        effect = (s[..., :, None] * tables.squared * larger) ** 2
        total = jnp.sum(count * matmul(effect, count[..., None])[..., 0], axis=-1)
        size = jnp.sum(count * (s * tables.ratio) ** 2, axis=-1)
        rounding = 30 * float(jnp.finfo(self.p.dtype).eps)
        return rounding * jnp.sqrt(total / jnp.where(size == 0, 1, n * size))


def _value(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, Array]:
    scaled = _Scaled(function, gram.tall(a)[0], p, eps)
    return scaled.scale, scaled.sums()[0]


def _first(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, First]:
    a, _, turned = gram.tall(a)
    scaled = _Scaled(function, a, p, eps)
    absolute = function.eps_mode == "absolute"
    smoothing = scaled.e * scaled.scale if absolute else scaled.e

    value, by_eps = scaled.sums()
    inside = (p > 0) & (p <= 2)

    def here(_: Array) -> tuple[Array, First]:
        return scaled.scale, First(value, scaled.gradient(), jnp.full_like(value, jnp.nan), by_eps)

    def there(polish: bool, a: Array) -> tuple[Array, First]:
        a = a / scaled.unit[..., None, None]
        scale, first = gram.of_gram(function, a, scaled.unit, scaled.gram, p, smoothing, polish)
        # The sums are the more exact ones where they hold; in the units of the other engine.
        ratio = scaled.scale / scale
        own = value * ratio**p, by_eps * ratio ** (p - 1 if absolute else p)
        first = first._replace(
            value=jnp.where(inside, own[0], first.value),
            by_eps=jnp.where(inside, own[1], first.by_eps),
        )
        return scale, first

    # One way for the whole batch. NaN, too, goes to the Gram engine.
    elsewhere = anywhere(~(inside & (scaled.noise(function) <= ACCURACY)))
    polished = anywhere(~(p >= _PLAIN_FROM))
    way = jnp.where(elsewhere, jnp.where(polished, 2, 1), 0)
    scale, first = jax.lax.switch(way, [here, partial(there, False), partial(there, True)], a)
    gradient = transpose(first.gradient) if turned else first.gradient
    return scale, first._replace(gradient=gradient)


RATIONAL = Engine(_value, _first, gram.GRAM.second, for_p=gram.GRAM)
