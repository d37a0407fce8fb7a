"""A small network, its data and one training step, with numbers that do not depend on devices."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from rankjax import describe
from rankjax.training import add_schatten_decay, schatten_penalty

SIZES = (16, 32, 32, 32, 8)


def parameters(dtype=np.float64):
    """Layers of three shapes, the middle one twice; NumPy arrays, so on no device yet."""
    rng = np.random.default_rng(0)
    return {
        str(i): {
            "kernel": (rng.normal(size=(m, n)) / np.sqrt(m)).astype(dtype),
            "bias": np.zeros(n, dtype),
        }
        for i, (m, n) in enumerate(pairwise(SIZES))
    }


def shardings():
    """Both axes of the kernels are cut; a bias goes with the outputs."""
    layers = range(len(SIZES) - 1)
    return {str(i): {"kernel": P("fsdp", "tensor"), "bias": P("tensor")} for i in layers}


def batch(dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.normal(size=(16, SIZES[0])).astype(dtype), rng.normal(size=(16, SIZES[-1])).astype(
        dtype
    )


def structure():
    return describe(parameters())


def loss(params, data, whole=lambda w: w):
    x, y = data
    for i in range(len(SIZES) - 1):
        layer = params[str(i)]
        x = jnp.tanh(x @ whole(layer["kernel"]) + whole(layer["bias"])[None])
    return jnp.mean((x - y) ** 2)


def make_step(where, way, whole=lambda w: w):
    """Optimiser and step; ``where`` is the structure, ``way`` how it is regularised."""
    if way == "decay":
        decay = add_schatten_decay(where, 0.05, p=0.5)
        optimiser = optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(1e-2))
        objective = lambda params, data: loss(params, data, whole)  # noqa: E731
    else:
        optimiser = optax.adam(1e-2)

        def objective(params, data):
            penalty = schatten_penalty(where, params, p=0.5, weight=0.05)
            return loss(params, data, whole) + penalty

    def step(params, state, data):
        value, gradient = jax.value_and_grad(objective)(params, data)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return optimiser, step
