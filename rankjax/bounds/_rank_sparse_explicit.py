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
from rankjax.bounds._rank_sparse_code import (
    PER_OCTAVE,
    ROOM,
    SLACK,
    SOURCE,
    SPLITS,
    STEP,
    Layers,
    exactly,
    integer,
    of_integer,
    of_natural,
)
from rankjax.bounds._result import BoundResult
from rankjax.matrix import spectrum
from rankjax.network import Measured, Sample

# The margins that are tried, below the largest of the sample: four octaves, twelve more roughly.
_BELOW = np.concatenate([np.arange(32), 32 + 4 * np.arange(24)])
_ROUNDS = 3  # of sharing the error out over the layers


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
        tried = jnp.floor(PER_OCTAVE * jnp.log2(top) - ROOM) - facts.number(_BELOW)
    else:
        tried = jnp.floor(PER_OCTAVE * jnp.log2(facts.gamma) + ROOM)[None]
    return _evaluate(measured, sample, p, tried, delta)


@partial(jax.jit, static_argnames=("delta",))
def _evaluate(
    measured: Measured, sample: Sample, p: Array | None, tried: Array, delta: float
) -> BoundResult:
    facts = Facts(measured, sample)
    n, margins = facts.n, facts.known("margins")
    radius = integer(PER_OCTAVE * jnp.log2(jnp.maximum(facts.number(sample.radius), 1e-30)))
    code = _Code(facts, p, radius * STEP)
    confidence = math.log(1 / delta)

    def at(exponent: Array) -> tuple[Array, Coded, Array]:
        coded = code(jnp.exp2(exponent / PER_OCTAVE))
        share = jnp.mean(~(margins > jnp.exp2(exponent / PER_OCTAVE)))  # NaN is no margin
        nats = jnp.sum(coded.nats) + of_integer(exponent) + of_integer(radius)
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
            "margin": jnp.exp2(chosen / PER_OCTAVE),
            "margin_error": share,
            "rank": coded.rank,
            "error": exp(coded.log_error),
            "rest": (of_integer(chosen) + of_integer(radius) + confidence) / n,
        },
    )  # fmt: skip


class _Code(Layers):
    """Code lengths of a network for a margin."""

    def __init__(self, facts: Facts, p: Array | None, log_radius: Array):
        super().__init__(facts)
        self.p = p
        factors = facts.times * (facts.log_lipschitz + self.log_norm)
        self.log_reach = log_radius + jnp.sum(factors)

    def __call__(self, gamma: Array) -> Coded:
        # prod_l (1 + d_l)^(uses) = 1 + gamma / (2 sqrt(2) reach), with a share of its logarithm
        # for each layer.
        log_room = _log_log1p_exp(jnp.log(gamma / math.sqrt(8)) - self.log_reach) - SLACK
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
        point = log_error >= self.log_size + SLACK
        size = integer(self.log_size / STEP)
        start = math.log(3) + of_integer(size)

        def net(log_error: Array, factor: float) -> tuple[Array, Array]:
            """Code of the resolution, and the logarithm of a net's size per dimension."""
            steps = integer(jnp.maximum(size - log_error / STEP, 0))
            return of_natural(steps), jnp.logaddexp(0.0, steps * STEP + math.log(factor))

        cost, dimension = net(log_error, 2.0)
        direct = start + cost + self.entries * dimension

        def shorter(best: tuple[Array, Array], logs: Array) -> tuple[tuple[Array, Array], None]:
            nats, rank = best
            kept = self._above(log_error + logs[0])
            cost, dimension = net(log_error + logs[1], 4.0)
            low = start + cost + self.of_ranks + kept * self.sides * dimension
            return (jnp.minimum(nats, low), jnp.where(low < nats, kept, rank)), None

        logs = self.facts.number(np.log([(x, 1 - x) for x in SPLITS]))
        (nats, rank), _ = jax.lax.scan(shorter, (direct, self.most), logs)
        nats, rank = jnp.where(point, math.log(3), nats), jnp.where(point, 0, rank)
        return Coded(nats, rank, log_error)

    def _above(self, log_tail: Array) -> Array:
        """How many singular values are above, at most."""
        counts, start = [], 0
        for sigma in self.measured.sigma_moved:
            part = slice(start, start + sigma.shape[0])
            start += sigma.shape[0]
            tail = log_tail[part, None, None] - SLACK
            above = log(sigma) > tail
            if self.p is None:
                counts.append(jnp.sum(above, axis=(1, 2)).astype(tail.dtype))
                continue
            # What rounding left of 0 counts only where it is above.
            rtol = spectrum.default_rtol(sigma.shape[-1], sigma.dtype)
            kept = above | (sigma > rtol * jnp.max(sigma, axis=-1, keepdims=True, initial=0))
            ratios = self.p[part, None, None] * (log(jnp.where(kept, sigma, 1)) - tail)
            power = jnp.sum(jnp.where(kept, exp(jnp.minimum(ratios, 60.0)), 0), axis=(1, 2))
            counts.append(exactly(jnp.floor(power * (1 + SLACK)), power))
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
