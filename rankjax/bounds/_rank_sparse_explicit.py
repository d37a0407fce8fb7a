"""The rank-sparse bound with every constant: few large singular values make a short code.

A matrix with k singular values above t is coded as one of rank k, and the rest moves the network's
output by little. All constants, all numbers chosen after training, and their cost are in the
formula; the proof is on the theory page of the documentation.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.bounds._binary_kl import kl_inverse
from rankjax.bounds._facts import Facts, check_delta, exp, log
from rankjax.bounds._result import BoundResult
from rankjax.matrix import spectrum
from rankjax.network import Measured, Sample

SOURCE = "derived for this library after Ledent, Alves, Lei, NeurIPS 2025 (theory page)"
#: Shares of a layer's error that the dropped singular values get; the code has the rest.
_SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)
_PER_OCTAVE = 8  # grid points of what is coded as a power of two
_STEP = math.log(2) / _PER_OCTAVE
# The margins that are tried, below the largest of the sample: four octaves, twelve more roughly.
_BELOW = np.concatenate([np.arange(32), 32 + 4 * np.arange(24)])
_ROUNDS = 3  # of sharing the error out over the layers
_ROOM = 1e-3  # of a grid point, and
_SLACK = 1e-4  # of a logarithm: they cover the rounding of logarithms in float32


class Coded(NamedTuple):
    """Layers as they are described, ``(layers,)`` each.

    Attributes:
        nats: the length of the description.
        rank: how many singular values are kept, over all parallel matrices.
        log_error: the logarithm of ``e_l``, how far the description may be from the matrix.
    """

    nats: Array
    rank: Array
    log_error: Array


def rank_sparse_explicit(
    measured: Measured, sample: Sample, p: Array | None, gamma: ArrayLike | None, delta: float
) -> BoundResult:
    """See ``rank_sparse``; ``p`` ``(layers,)``, or None for the exact counts."""
    check_delta(delta)
    facts = Facts(measured, sample, gamma)
    margins = facts.known("margins")
    facts.positions  # noqa: B018  (for its error)
    if gamma is None:
        top = jnp.max(jnp.where(margins > 1e-30, margins, 1e-30))
        tried = jnp.floor(_PER_OCTAVE * jnp.log2(top) - _ROOM) - facts.number(_BELOW)
    else:
        tried = jnp.floor(_PER_OCTAVE * jnp.log2(facts.gamma) + _ROOM)[None]
    return _evaluate(measured, sample, p, tried, delta)


@partial(jax.jit, static_argnames=("delta",))
def _evaluate(
    measured: Measured, sample: Sample, p: Array | None, tried: Array, delta: float
) -> BoundResult:
    facts = Facts(measured, sample)
    n, margins = facts.n, facts.known("margins")
    radius = _integer(_PER_OCTAVE * jnp.log2(jnp.maximum(facts.number(sample.radius), 1e-30)))
    code = _Code(facts, p, radius * _STEP)
    confidence = math.log(1 / delta)

    def at(exponent: Array) -> tuple[Array, Coded, Array]:
        coded = code(jnp.exp2(exponent / _PER_OCTAVE))
        share = jnp.mean(~(margins > jnp.exp2(exponent / _PER_OCTAVE)))  # NaN is no margin
        nats = jnp.sum(coded.nats) + _of_integer(exponent) + _of_integer(radius)
        outward = 1 + 64 * jnp.finfo(nats.dtype).eps
        value = kl_inverse(share.astype(nats.dtype), outward * (nats + confidence) / n)
        return jnp.minimum(value * outward, 1), coded, share

    values = jax.lax.stop_gradient(jax.lax.map(lambda e: at(e)[0], tried))
    chosen = tried[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))]
    value, coded, share = at(chosen)
    return facts.result(
        log(value), coded.nats / n, name="rank_sparse", kind="explicit", quantity="error",
        source=SOURCE, parts="value = kl^{-1}(margin error, sum of parts + rest)",
        terms={
            "margin": jnp.exp2(chosen / _PER_OCTAVE),
            "margin_error": share,
            "rank": coded.rank,
            "error": exp(coded.log_error),
            "rest": (_of_integer(chosen) + _of_integer(radius) + confidence) / n,
        },
    )  # fmt: skip


class _Code:
    """Code lengths of a network for a margin."""

    def __init__(self, facts: Facts, p: Array | None, log_radius: Array):
        measured = facts.measured
        self.facts, self.p, self.measured = facts, p, measured
        static = measured.static
        rows, columns = (static(lambda layer, i=i: layer.matrix_shape[i]) for i in (0, 1))
        blocks = static(lambda layer: layer.parallel)
        gather = static(lambda x: x.convolution.gather_norm if x.convolution is not None else 1.0)
        self.sides = facts.number(rows + columns)
        self.entries = facts.number(blocks * rows * columns)
        self.most = facts.number(blocks * np.minimum(rows, columns))
        self.of_ranks = facts.number(blocks * np.log(np.minimum(rows, columns) + 1))
        self.log_gather = jnp.log(facts.number(gather))
        # Any upper bound of the norm will do: one that is not 0 keeps the quotients finite.
        self.log_norm = jnp.maximum(log(measured.operator_norm), -60.0)
        tops = tuple(jnp.max(s, -1, initial=0) for s in measured.sigma_moved)
        self.log_size = jnp.maximum(log(measured.per_layer(tops, jnp.max)), -120.0)
        factors = facts.times * (facts.log_lipschitz + self.log_norm)
        self.log_reach = log_radius + jnp.sum(factors)

    def __call__(self, gamma: Array) -> Coded:
        # prod_l (1 + d_l)^(uses) = 1 + gamma / (2 sqrt(2) reach), with a share of its logarithm
        # for each layer.
        log_room = _log_log1p_exp(jnp.log(gamma / math.sqrt(8)) - self.log_reach) - _SLACK
        even = self.facts.times / self.facts.depth

        def share(_: int, shares: Array) -> Array:
            nats = jax.lax.stop_gradient(self._of_room(log_room + jnp.log(shares)).nats)
            return 0.1 * even + 0.9 * nats / jnp.sum(nats)

        shares = jax.lax.fori_loop(0, _ROUNDS, share, even)
        return self._of_room(log_room + jnp.log(shares))

    def _of_room(self, log_room: Array) -> Coded:
        """Of layers that may change the output by factors ``exp(exp(log_room))``."""
        relative = _log_expm1_exp(log_room - jnp.log(self.facts.times))
        log_error = relative + self.log_norm - self.log_gather
        point = log_error >= self.log_size + _SLACK
        size = _integer(self.log_size / _STEP)
        start = math.log(3) + _of_integer(size)

        def net(log_error: Array, factor: float) -> tuple[Array, Array]:
            """Code of the resolution, and the logarithm of a net's size per dimension."""
            steps = _integer(jnp.maximum(size - log_error / _STEP, 0))
            return _of_natural(steps), jnp.logaddexp(0.0, steps * _STEP + math.log(factor))

        cost, dimension = net(log_error, 2.0)
        direct = start + cost + self.entries * dimension

        def shorter(best: tuple[Array, Array], logs: Array) -> tuple[tuple[Array, Array], None]:
            nats, rank = best
            kept = self._above(log_error + logs[0])
            cost, dimension = net(log_error + logs[1], 4.0)
            low = start + cost + self.of_ranks + kept * self.sides * dimension
            return (jnp.minimum(nats, low), jnp.where(low < nats, kept, rank)), None

        logs = self.facts.number(np.log([(x, 1 - x) for x in _SPLITS]))
        (nats, rank), _ = jax.lax.scan(shorter, (direct, self.most), logs)
        nats, rank = jnp.where(point, math.log(3), nats), jnp.where(point, 0, rank)
        return Coded(nats, rank, log_error)

    def _above(self, log_tail: Array) -> Array:
        """How many singular values are above, at most."""
        counts, start = [], 0
        for sigma in self.measured.sigma_moved:
            part = slice(start, start + sigma.shape[0])
            start += sigma.shape[0]
            tail = log_tail[part, None, None] - _SLACK
            above = log(sigma) > tail
            if self.p is None:
                counts.append(jnp.sum(above, axis=(1, 2)).astype(tail.dtype))
                continue
            # What rounding left of 0 counts only where it is above.
            rtol = spectrum.default_rtol(sigma.shape[-1], sigma.dtype)
            kept = above | (sigma > rtol * jnp.max(sigma, axis=-1, keepdims=True, initial=0))
            ratios = self.p[part, None, None] * (log(jnp.where(kept, sigma, 1)) - tail)
            power = jnp.sum(jnp.where(kept, exp(jnp.minimum(ratios, 60.0)), 0), axis=(1, 2))
            counts.append(_exactly(jnp.floor(power * (1 + _SLACK)), power))
        count = jnp.concatenate(counts)
        return jnp.where(count < self.most, count, self.most)


def _log_log1p_exp(x: Array) -> Array:
    """``log(log(1 + exp(x)))``, rounded down where ``x`` is small."""
    small = x < -15
    return jnp.where(small, x - 1e-6, jnp.log(jnp.logaddexp(0.0, jnp.where(small, 0.0, x))))


def _log_expm1_exp(x: Array) -> Array:
    """``log(exp(exp(x)) - 1)``, rounded down where ``x`` is small."""
    small = x < -15
    y = jnp.exp(jnp.where(small, 0.0, x))
    return jnp.where(small, x, y + jnp.log(-jnp.expm1(-y)))


def _exactly(value: Array, smooth: Array) -> Array:
    """``value`` with the derivative of ``smooth``."""
    finite = jnp.where(jnp.isfinite(smooth), smooth, 0)
    return value + (finite - jax.lax.stop_gradient(finite))


def _integer(value: Array) -> Array:
    """The next integer, with the derivative of what was rounded up."""
    return _exactly(jnp.ceil(value + _ROOM), value)


def _of_integer(value: Array) -> Array:
    """Nats of an integer: weights ``2 / (3 (|j| + 1) (|j| + 2))`` sum to 1 over all."""
    size = jnp.abs(value)
    return jnp.log(1.5 * (size + 1) * (size + 2))


def _of_natural(value: Array) -> Array:
    """Nats of a natural number: weights ``1 / ((j + 1) (j + 2))`` sum to 1."""
    return jnp.log((value + 1) * (value + 2))
