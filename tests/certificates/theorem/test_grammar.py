"""No network moves further than its limits, whatever it is composed of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jax import lax

from rankjax.certificates.theorem._network import Network
from tests.certificates.theorem.grammar import draw
from tests.certificates.theorem.moves import Watched


def check(drawn, number):
    """The largest share of its limit that any difference of logits was seen to move."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(3, 2))
    network = Network(drawn.apply, drawn.params, x[None])
    coded = network.leaves.vector(drawn.params)
    watched = Watched(network, coded, x, drawn.exact, drawn.params)
    label = int(rng.integers(network.classes))
    base = watched.forward(coded)
    largest = 0.0

    def share(change):
        nonlocal largest
        distances = watched.distances(coded + change - coded)
        limits = watched.limits(distances, label)
        moved = watched.forward(coded + change) - base
        differences = np.abs(moved[label] - moved)
        others = np.arange(len(moved)) != label
        if not np.isfinite(limits).all():
            return 0.0
        # Four logits are computed, each off by at most what the recursion itself bounds.
        noise = 0.0
        if np.any((differences > limits)[others]):
            noise = np.sqrt(2) * (watched.off(coded) + watched.off(coded + change))
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


# --- small networks where the limit is attained -----------------------------------------------


def shares(apply, params, x, change, label=0):
    """``(classes,)`` shares of the limits that a change of the weights attains."""
    network = Network(apply, params, x[None])
    watched = Watched(network, network.leaves.vector(params), x, apply, params)
    flat = network.leaves.vector(change)
    moved = watched.forward(watched.coded + flat) - watched.forward(watched.coded)
    found = np.abs(moved[label] - moved) / watched.limits(watched.distances(flat), label)
    return np.delete(found, label)


def head(p, x):
    return (p["w"] * x[0, :1]) @ p["a"] + p["b"]


def test_heads_are_sound_and_tight():
    x = np.ones((1, 1))
    h, a = np.array([[0.6, -0.8]]), np.array([[1.0, -2.0], [0.5, 1.5]])
    params = {"w": h, "a": a, "b": np.array([0.3, -0.3])}
    zero = jax.tree.map(np.zeros_like, params)
    across = (a[:, 0] - a[:, 1]) / np.linalg.norm(a[:, 0] - a[:, 1])
    # Each distance alone, and the product of the first two where nothing else is left.
    rows = np.stack([h[0], -h[0]], axis=1)
    small = 0.1
    for subtract in (False, True):

        def apply(p, x, subtract=subtract):
            return p["b"] - (p["w"] * x[0, :1]) @ p["a"] if subtract else head(p, x)

        for params_at, change in (
            (params, {**zero, "w": small * across[None]}),
            (params, {**zero, "a": small * rows}),
            (params, {**zero, "b": small * np.array([1.0, -1.0])}),
            (zero, {**zero, "w": small * h, "a": small * rows}),
        ):
            found = shares(apply, params_at, x, change)
            assert 1 - 1e-6 <= found[0] <= 1 + 1e-9
    # No last layer: sqrt(2) times how far the logits move.
    found = shares(
        lambda p, x: p["w"] * x[0, :1], {"w": h}, x, {"w": small * np.array([[1.0, -1.0]])}
    )
    assert 1 - 1e-6 <= found[0] <= 1 + 1e-9
    # A layer inside, where the coded weights are 0: (G + d) E = d E.
    inner = {"w": np.zeros((1, 2)), "a": np.zeros((2, 2))}
    change = {"w": small * h, "a": small * np.outer(h[0], [1.0, -1.0]) / np.sqrt(2)}
    found = shares(lambda p, x: ((p["w"] * x[0, :1]) @ p["a"]) * 1.0, inner, x, change)
    assert 1 - 1e-6 <= found[0] <= 1 + 1e-9
    # Two matrices side by side, the second of which moves.
    pair = {"a": np.ones((2, 2, 2))}
    change = {"a": np.stack([np.zeros((2, 2)), np.diag([1.0, -1.0])])}
    found = shares(
        lambda p, x: (
            jnp.einsum("bi,bij->bj", jnp.array([[0.0, 0.0], [1.0, 1.0]]) * x[0], p["a"])[1:] * 1.0
        ),
        pair,
        x,
        change,
    )
    assert 1 - 1e-6 <= found[0] <= 1 + 1e-9


def test_loops_and_results_of_several():
    x, rng = np.ones((1, 3)), np.random.default_rng(0)
    params = {"t": rng.normal(size=(3, 2))}

    def shrinking(p, x):
        return lax.scan(lambda c, _: (c * 1e-3, c), x[0] @ p["t"], None, length=3)[1].sum(0)

    def collected(p, x):
        rows = lax.scan(lambda n, w: (n + 1, jnp.where(n < 2, w, 1e-3 * w)), 0, p["t"])[1]
        return x[0] @ rows

    def in_parts(p, x):
        first, second = jnp.split(p["t"], [1])
        return 1e-3 * x[0][:, :1] @ first + x[0][:, 1:] @ second

    for apply in (shrinking, collected, in_parts):
        for row in range(3):
            change = np.zeros((3, 2))
            change[row] = [1.0, -1.0]
            assert np.all(shares(apply, params, x, {"t": change}) <= 1 + 1e-9)


def test_casts_are_the_identity():
    x, t = np.ones((1, 1)), np.array([[1 + 2.0**-20, 1 - 2.0**-20]])
    for cast in (
        lambda v: v.astype(jnp.bfloat16).astype(float),
        lambda v: v.astype(jnp.float16).astype(float),
        lambda v: lax.reduce_precision(v, 8, 1),
    ):
        network = Network(lambda p, x, cast=cast: x[0] @ cast(p["t"]), {"t": t}, x[None])
        watched = Watched(network, network.leaves.vector({"t": t}), x)
        np.testing.assert_allclose(watched.logits, t[0], rtol=1e-15)


# --- random ones ------------------------------------------------------------------------------


def test_no_network_moves_beyond_its_limits():
    shares = []

    @seed(0)
    @settings(
        max_examples=100, database=None, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    @given(st.data(), st.integers(0, 2**32))
    def networks(data, number):
        drawn = draw(lambda options: data.draw(st.sampled_from(options)), number)
        shares.append(check(drawn, number))
        if len(shares) % 50 == 0:
            jax.clear_caches()  # every small program that was compiled is kept otherwise

    networks()
    assert len(shares) >= 100
    # The limits are not so loose that anything would pass.
    assert np.mean(np.array(shares) > 0.2) > 0.3
    assert max(shares) > 0.9


LANES = [pytest.mark.slow] * 2 + [pytest.mark.long] * 18


@pytest.mark.parametrize("block", [pytest.param(i, marks=m) for i, m in enumerate(LANES)])
def test_no_network_of_ten_thousand_moves_beyond_its_limits(block):
    for number in range(500 * block, 500 * (block + 1)):
        rng = np.random.default_rng([number, 1])
        check(draw(lambda options, rng=rng: options[rng.integers(len(options))], number), number)
        if number % 50 == 49:
            jax.clear_caches()
