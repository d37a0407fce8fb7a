"""The surrogate: an upper bound of what it stands for, scale-free, differentiable."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import gammaln

from rankjax.certificates import surrogate, trace_network
from rankjax.certificates.theorem._counting import Counter
from rankjax.certificates.theorem._distances import unit
from tests.certificates.networks import NETWORKS

NAMES = ["dense", "convolutional", "residual"]


@cache
def traced(name):
    """A network, its sample, and its surrogate, compiled once for all precisions."""
    apply, params, x = NETWORKS[name]()
    x = jnp.asarray(x)
    network = trace_network(params, x, apply=apply)
    y = jnp.argmax(apply(params, x), axis=1)

    def value(params, precision, **options):
        return surrogate(network, params, x, y, precision=precision, n=10**5, **options)

    return jax.jit(value), network, params, x, y


def case(name, bits=9.0):
    compiled, network, params, x, y = traced(name)
    precision = dict.fromkeys(network.leaves.paths, jnp.asarray(bits))

    def value(params, precision=precision, **options):
        return compiled(params, precision, **options)

    return value, network, params, np.asarray(x), np.asarray(y), precision


def rms_step(leaf, bits):
    return math.sqrt(np.mean(np.square(leaf))) * 2 ** (1 - bits)


@pytest.mark.parametrize("bits", [2.0, 6.0, 14.0])
@pytest.mark.parametrize("name", NAMES)
def test_soft_count_is_at_least_the_hard_one(name, bits):
    value, network, params, x, y, _ = case(name, bits)
    weights = network.leaves.vector(params)
    steps = np.concatenate(
        [np.full(leaf.size, rms_step(leaf, bits)) for leaf in map(np.asarray, params.values())]
    )
    counter = Counter(network)
    gains, pairs = counter.norms(weights)
    distances = np.array([unit(distance, steps) for distance in network.distances])
    observed = network.observe(weights, x, y)
    hard = counter(observed, gains, pairs, distances[None])[0] / len(y)
    for temperature in (1e-4, 1e-2, 1.0):
        assert float(value(params, temperature=temperature).error) >= hard - 1e-12
    # Cold, and away from the limit, the two agree on examples that are right.
    if hard == 0:
        assert float(value(params, temperature=1e-7).error) < 1e-6


def test_nats_by_hand():
    value, _, params, _, _, _ = case("dense", bits=3.0)
    total = 0.0
    for leaf in map(np.asarray, params.values()):
        z = np.abs(leaf) / rms_step(leaf, 3.0)
        no, yes = leaf.size, z.sum()
        total += gammaln(no + yes + 1) + math.log(math.pi) - gammaln(no + 0.5) - gammaln(yes + 0.5)
        total += math.log(2) * np.minimum(z, 1).sum()
    assert float(value(params).nats) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    value, _, params, _, _, precision = case(name, bits=16.0)

    def loss(params, precision):
        return value(params, precision, temperature=0.05).value

    check_grads(
        jax.jit(loss), (params, precision), order=1, modes=("fwd", "rev"), rtol=2e-2, atol=1e-5
    )
    slopes = jax.jit(jax.grad(loss, argnums=1))(params, precision)
    assert all(np.isfinite(float(s)) for s in slopes.values())


def test_float32_and_dead_units_have_finite_gradients():
    _, network, params, x, y = traced.__wrapped__("dense")  # what was traced in float64 stays there
    precision = network.leaves.paths
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    params["a_bias"] = jnp.full(8, -100.0, jnp.float32)  # nothing passes the ReLU

    def loss(params):
        return surrogate(
            network, params, jnp.asarray(x, jnp.float32), np.asarray(y),  # pyright: ignore[reportArgumentType]
            precision={k: jnp.float32(9.0) for k in precision}, n=1000,
        ).value  # fmt: skip

    with jax.enable_x64(False):
        slopes = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.all(jnp.isfinite(s))) for s in jax.tree.leaves(slopes))


def test_scaling_a_layer_and_back_changes_nothing():
    value, _, params, _, _, _ = case("dense")
    params = {**params, "a_bias": jnp.zeros(8), "b_bias": jnp.zeros(3)}
    other = {**params, "a": 7 * params["a"], "b": params["b"] / 7}
    np.testing.assert_allclose(value(other).value, value(params).value, rtol=1e-9)


def test_one_compilation_for_all_temperatures_and_bits():
    value, _, params, _, _, precision = case("dense")
    traces = []

    @jax.jit
    def loss(params, precision, temperature):
        traces.append(None)
        return value(params, precision, temperature=temperature).value

    for number in (1.0, 2.0, 3.0):
        bits = {path: b + number for path, b in precision.items()}
        assert np.isfinite(float(loss(params, bits, 0.01 * number)))
    assert len(traces) == 1


def test_every_leaf_needs_a_precision():
    value, _, params, _, _, precision = case("dense")
    precision.pop("a_bias")
    with pytest.raises(ValueError, match=r"precision: lacks \['a_bias'\]"):
        value(params, precision)


@pytest.mark.parametrize("zero", [("c",), ("b",), ("a", "b", "c")])
def test_layers_of_zeros_have_finite_derivatives(zero):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"a": (6, 8), "b": (8,), "c": (8, 3)}
    params = {
        name: jnp.zeros(shape) if name in zero else jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    x, y = jax.random.normal(jax.random.key(1), (20, 6)), jnp.arange(20) % 3

    def apply(p, x):
        return jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"]

    network = trace_network(params, x, apply=apply)

    def loss(params, precision):
        return surrogate(network, params, x, y, precision=precision, n=1000).value

    value, slopes = jax.value_and_grad(loss, (0, 1))(params, dict.fromkeys(params, 4.0))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((value, slopes)))
