"""The rank-sparse bound by chaining: covers of the network on the sample, at many scales.

The large singular values of a layer are covered as matrices of low rank, the small ones as a ball
that the sample sees an ellipsoid of. All constants, all numbers chosen after training, and their
cost are in the formula; the proof is on the theory page of the documentation.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.bounds._facts import Facts, check_delta, log
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
)
from rankjax.bounds._result import BoundResult
from rankjax.matrix import spectrum
from rankjax.network import Measured, Sample

#: Without exponents, the class is bounded in all of these powers at once.
POWERS = np.array([0.0, 0.5, 1.0, 2.0])
#: Radii of the covers, the trivial one of a single point first.
SCALES = 0.5 * 2.0 ** (-np.arange(41) / 2)
_ROUNDS = 2  # of sharing the error out over the layers
_LARGEST = 60.0  # logarithm of a number of nats; a net of all entries is smaller


def rank_sparse_chained(
    measured: Measured, sample: Sample, p: Array | None, gamma: Array, delta: float
) -> BoundResult:
    """See ``rank_sparse``; ``p`` ``(layers,)``, or None for all of ``POWERS``."""
    check_delta(delta)
    facts = Facts(measured, sample)
    facts.positions  # noqa: B018  (for its error)
    return _evaluate(measured, sample, p, gamma, delta)


@partial(jax.jit, static_argnames=("delta",))
def _evaluate(
    measured: Measured, sample: Sample, p: Array | None, gamma: Array, delta: float
) -> BoundResult:
    facts = Facts(measured, sample)
    n, position = facts.n, PER_OCTAVE * jnp.log2(gamma)
    margin = exactly(jnp.floor(position + ROOM), position)
    cover = _Cover(facts, p)
    scales = facts.number(SCALES)
    nats = cover(margin * STEP - math.log(2) / 2 + jnp.log(scales[1:]))
    parts, radius = chain(scales, nats, n)
    code = cover.code + of_integer(margin) + math.log(1 / delta)
    rest = 2 * radius + 3 * jnp.sqrt(code / (2 * n))
    outward = 1 + 64 * jnp.finfo(n.dtype).eps
    return facts.result(
        jnp.log((2 * jnp.sum(parts) + rest) * outward), 2 * parts,
        name="rank_sparse_chained", kind="explicit", quantity="gap", source=SOURCE,
        parts="value = sum of parts + rest",
        terms={
            "margin": jnp.exp2(margin / PER_OCTAVE),
            "rademacher": jnp.sum(parts) + radius,
            "radius": radius,
            "rest": rest,
        },
    )  # fmt: skip


def chain(scales: Array, nats: Array, n: Array) -> tuple[Array, Array]:
    """A bound of the Rademacher complexity of functions into ``[0, 1]``, from covers.

    ::

        e_K + sqrt(2 / n) (sqrt(C_1) / 2 + sum_{k > 1} (e_{k-1} + e_k) sqrt(C_k))

    for the best ``e_1 > ... > e_K`` of the scales, by dynamic programming.

    Args:
        scales: ``(scales + 1,)``, falling; the first is 1/2, the radius of a cover of one point.
        nats: ``(scales, layers)``: their sum is ``C``, the logarithm of a cover's size.
        n: the number of examples.

    Returns:
        What the layers have in the sum, ``(layers,)``, and ``e_K``.
    """
    totals = jnp.sum(nats, axis=1, keepdims=True)
    each = nats * jnp.sqrt(2 / (n * jnp.where(totals > 0, totals, 1)))
    index = np.arange(scales.shape[0])

    def link(sums: Array, j: Array) -> tuple[Array, None]:
        lengths = scales + jnp.where(index > 0, scales[j], 0)
        found = jnp.sum(sums, axis=1) + lengths * jnp.sum(each[j - 1])
        i = jnp.argmin(jnp.where(index < j, found, jnp.inf))
        return sums.at[j].set(sums[i] + lengths[i] * each[j - 1]), None

    start = jnp.zeros((scales.shape[0], nats.shape[1]), nats.dtype)
    sums, _ = jax.lax.scan(link, start, jnp.asarray(index[1:]))
    last = 1 + jnp.argmin(jnp.sum(sums, axis=1)[1:] + scales[1:])
    return sums[last], scales[last]


class _Cover(Layers):
    """Logarithms of the sizes of covers of all networks like the measured one, on the sample."""

    def __init__(self, facts: Facts, p: Array | None):
        super().__init__(facts)
        layers = self.log_norm.shape[0]
        given = jnp.tile(facts.number(POWERS)[:, None], layers) if p is None else p[None]
        self.p = jnp.where(given <= 2, given, jnp.nan)
        norm, size = (integer(x / STEP) for x in (self.log_norm, self.log_size))
        self.norm, self.size = norm * STEP, size * STEP
        soft = jnp.maximum(integer(self._log_soft_rank() / STEP), 0)
        self.soft = soft * STEP
        # A soft rank is between 1 and the number of singular values.
        points = jnp.ceil(jnp.log(self.most) / STEP) + 2
        #: Nats of the numbers that say which networks.
        self.code = jnp.sum(of_integer(norm) + of_integer(size) + len(given) * jnp.log(points))
        # A net of low rank has all lower ranks; of several matrices, it must know each.
        several = self.measured.static(lambda layer: layer.parallel) > 1
        self.of_ranks = jnp.where(several, self.of_ranks, 0)
        # The root of the mean square of the inputs' norms.
        log_data = jnp.maximum(log(facts.number(facts.sample.frobenius)), -60.0)
        log_data = log_data - jnp.log(facts.n) / 2
        self.log_reach = log_data + jnp.sum(facts.times * (facts.log_lipschitz + self.norm))

    def _log_soft_rank(self) -> Array:
        """``log sum_i (sigma_i / a)^p`` with ``a`` the rounded norm, ``(powers, layers)``."""
        sums, start = [], 0
        layers = self.measured.structure.layers
        for layer, sigma in zip(layers, self.measured.sigma_moved, strict=True):
            part = slice(start, start + sigma.shape[0])
            start += sigma.shape[0]
            # What rounding left of 0 is none.
            rtol = spectrum.default_rtol(max(layer.matrix_shape), sigma.dtype)
            kept = sigma > rtol * jnp.max(sigma, axis=-1, keepdims=True, initial=0)
            ratio = log(jnp.where(kept, sigma, 1)) - self.size[part, None, None]
            power = jnp.exp(self.p[:, part, None, None] * jnp.where(kept, ratio, 0)[None])
            sums.append(jnp.sum(jnp.where(kept[None], power, 0), axis=(2, 3)))
        return log(jnp.concatenate(sums, axis=1))

    def __call__(self, log_eps: Array) -> Array:
        """``(scales, layers)`` nats for outputs within ``eps``, in the mean over the sample."""
        times = self.facts.times[None]
        even = 1 / self.facts.depth
        # Size of the matrix over its error, for the whole error of the output.
        ratio = self.size - self.norm + self.log_gather + self.log_reach
        ratio = ratio[None] - log_eps[:, None]

        def share(_: int, shares: Array) -> Array:
            nats = jax.lax.stop_gradient(self._at(ratio - jnp.log(shares)))
            total = jnp.sum(times * nats, axis=1, keepdims=True)
            some = total > 0
            return 0.1 * even + 0.9 * jnp.where(some, nats / jnp.where(some, total, 1), even)

        shares = jax.lax.fori_loop(0, _ROUNDS, share, jnp.full_like(ratio, even))
        return times * self._at(ratio - jax.lax.stop_gradient(jnp.log(shares)))

    def _at(self, ratio: Array) -> Array:
        """Of one use each, for ``ratio`` the logarithm of size over error, ``(scales, layers)``."""
        ratio = ratio + SLACK
        direct = self.entries[None] * _log1p_exp(ratio + math.log(2))
        whole = jnp.log(self.rows) + jnp.min(self.soft, axis=0)
        best = jnp.minimum(direct, _of_ball(whole[None] + 2 * ratio))
        # From here on (scales, powers, layers).
        rows, sides, of_ranks = (x[None, None] for x in (self.rows, self.sides, self.of_ranks))
        soft, p, over = self.soft[None], self.p[None], ratio[:, None]

        def shorter(best: Array, logs: Array) -> tuple[Array, None]:
            small = over - logs[0]
            net = sides * _log1p_exp(over - logs[1] + math.log(4))
            # What is below its share is dropped, or what is below the threshold that balances the
            # two covers is covered as a ball; ``lift`` is the logarithm of threshold over share.
            lift = p * net / (2 * (2 - p + 1e-3) * rows)
            lift = jnp.minimum(jnp.log(jnp.maximum(lift, 1)) / 2, jnp.maximum(small, 0))
            tail = jnp.log(rows) + soft + 2 * lift + p * (small - lift)
            dropped = self._count(soft + p * small) * net
            covered = self._count(soft + p * (small - lift)) * net + _of_ball(tail)
            nats = jnp.minimum(dropped, covered) + of_ranks
            return jnp.minimum(best, jnp.min(nats, axis=1)), None

        logs = self.facts.number(np.log([(x, 1 - x) for x in SPLITS]))
        best, _ = jax.lax.scan(shorter, best, logs)
        return jnp.where(ratio <= 0, 0, best)

    def _count(self, log_count: Array) -> Array:
        count = jnp.exp(jnp.minimum(log_count, _LARGEST))
        count = exactly(jnp.floor(count * (1 + SLACK)), count)
        most = self.most[None, None]
        return jnp.where(count < most, count, most)


def _of_ball(log_q: Array) -> Array:
    """``2 Q + 1 + log(1 + 2 Q)``: what a sample sees of a Frobenius ball."""
    q = 2 * jnp.exp(jnp.minimum(log_q, _LARGEST))
    return q + 1 + jnp.log1p(q)


def _log1p_exp(x: Array) -> Array:
    return jnp.logaddexp(0.0, x)
