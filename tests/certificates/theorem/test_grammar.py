"""No network moves further than its limits, whatever it is composed of."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rankjax.certificates.theorem._network import Network
from tests.certificates.theorem.grammar import draw
from tests.certificates.theorem.moves import Watched

MANY = int(os.environ.get("RANKJAX_GRAMMAR", "10000"))
SHARES: list[float] = []


def check(drawn, seed):
    """The largest share of its limit that any difference of logits was seen to move."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 2))
    network = Network(drawn.apply, drawn.params, x[None])
    coded = network.leaves.vector(drawn.params)
    watched = Watched(network, coded, x)
    label = int(rng.integers(network.classes))

    def forward(weights):
        return watched.forward(drawn.exact, drawn.params, weights)

    base = np.asarray(forward(jnp.asarray(coded)))
    largest = 0.0

    def share(change):
        nonlocal largest
        distances = watched.distances(coded + change - coded)
        limits = watched.limits(distances, label)
        moved = np.asarray(forward(jnp.asarray(coded + change))) - base
        differences = np.abs(moved[label] - moved)
        others = np.arange(len(moved)) != label
        if not np.isfinite(limits).all():
            return 0.0
        # Four logits are computed, each off by at most what the recursion itself bounds.
        noise = 0.0
        if np.any((differences > limits)[others]):
            noise = np.sqrt(2) * (off(watched, coded) + off(watched, coded + change))
        over = differences - limits - noise
        assert not np.any(over[others] > 0), (drawn.names, over, limits, noise)
        found = float(np.max((differences / np.maximum(limits, 1e-300))[others]))
        largest = max(largest, found)
        return found

    for size in (1e-4, 0.03, 0.5):
        share(size * rng.normal(size=len(coded)))
        share(size * rank_one(network, rng))
    climb(share, rank_one(network, rng), rng)
    return largest


def off(watched, weights):
    recorder, _, tag, _ = watched.network._read(jnp.asarray(weights), jnp.asarray(watched.x))
    return float(recorder.moved(tag).rounding)


def rank_one(network, rng):
    parts = []
    for shape in network.leaves.shapes:
        part = rng.normal(size=shape[-1:])
        for size in shape[-2::-1]:
            part = rng.normal(size=(size, *(1,) * part.ndim)) * part
        parts.append(part.ravel() * (rng.random() < 0.7))
    return np.concatenate(parts)


def climb(share, change, rng):
    """Ascent on the share: along differences of it in random directions, as steps succeed."""
    change = 0.02 * change
    best, step = share(change), 0.01
    for _ in range(8):
        direction = rng.normal(size=len(change))
        ahead, behind = share(change + step * direction), share(change - step * direction)
        if max(ahead, behind) > best:
            best = max(ahead, behind)
            change = change + step * direction * (1 if ahead > behind else -1)
            step *= 1.5
        else:
            step /= 2


def settled(examples):
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@settled(300)
@given(st.data(), st.integers(0, 2**32))
def drawn_networks(data, seed):
    SHARES.append(check(draw(lambda options: data.draw(st.sampled_from(options)), seed), seed))


def test_no_network_moves_beyond_its_limits():
    SHARES.clear()
    drawn_networks()
    assert len(SHARES) >= 300
    # The limits are not so loose that anything would pass.
    assert np.mean(np.array(SHARES) > 0.2) > 0.3
    assert max(SHARES) > 0.9


@pytest.mark.slow
def test_no_network_of_many_moves_beyond_its_limits():
    for number in range(MANY):
        rng = np.random.default_rng([number, 1])
        check(draw(lambda options, rng=rng: options[rng.integers(len(options))], number), number)
        if number % 500 == 499:
            jax.clear_caches()  # shapes seen once would fill the memory
