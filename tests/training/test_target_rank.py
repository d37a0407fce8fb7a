# pyright: reportArgumentType=false, reportOperatorIssue=false

"""The rank that is named is the rank that comes out, on three networks and in four ways."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from rankjax.network import describe, measure
from rankjax.training import effective_params, factorize, lowrank, project_rank

STEPS, EVERY = 60, 5


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(48)(x))
        return nn.Dense(10)(x)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x[..., None]))
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):  # rows of pixels are tokens
        x = nn.Dense(32)(x)
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(10)(x.mean(1))


NETWORKS = {"mlp": MLP, "convolutions": ConvNet, "transformer": Transformer}


@pytest.fixture(autouse=True)
def ordinary_types():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield  # the framework itself mixes dtypes


def trained(network, x, y, optimizer, params, state=None):
    state = optimizer.init(params) if state is None else state

    @jax.jit
    def step(params, state):
        def loss(params):
            outputs = network.apply(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    # No scan: on CPUs, convolutions are many times slower inside of one.
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_named_rank_is_reached_and_held(name):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = jnp.asarray(digits.images[:256] / 16, jnp.float32)
    y = jnp.asarray(digits.target[:256])
    network = NETWORKS[name]()
    params = network.init(jax.random.key(0), x[:1])
    structure = describe(params, apply=network.apply, example=x[:1])
    full = {layer.path: min(layer.matrix_shape) for layer in structure.layers}
    warm, _ = trained(network, x, y, optax.adam(2e-3), params)
    budget = effective_params(structure, warm, budget=0.4).ranks
    assert budget
    some = next(iter(full))
    named = {
        "number": (7, dict.fromkeys(full, 7)),
        "share": (0.5, {path: k // 2 for path, k in full.items()}),
        "mapping": ({some: 3}, {some: 3}),
        "budget": (budget, budget),
    }
    for rank, asked in named.values():
        optimizer = optax.chain(
            optax.adam(2e-3), project_rank(structure, rank, by=STEPS // 2, every=EVERY)
        )
        reached, state = trained(network, x, y, optimizer, warm)
        held, _ = trained(network, x, y, optimizer, reached, state)
        for params in (reached, held):
            measured = measure(structure, params)
            for path, k in asked.items():
                sigma = np.asarray(measured[path].sigma)
                found = np.sum(sigma > 1e-4 * sigma.max())
                want = min(k, full[path])
                assert abs(found - want) <= 0.1 * want, (rank, path, found, want)
        # The rank in place, the network has learnt, and its factors are the network.
        accuracy = float((network.apply(held, x).argmax(-1) == y).mean())
        assert accuracy > 0.8, accuracy
        small = factorize(structure, held, ranks=asked)
        outputs, expected = lowrank(network.apply)(small, x), network.apply(held, x)
        assert np.abs(outputs - expected).max() <= 1e-3 * np.abs(expected).max()
