"""Small networks of every kind that the recursion knows: ``(apply, params, x)``."""

from functools import wraps

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

RNG = np.random.default_rng(0)


def seeded(make):
    """The same network at every call, whichever test comes first."""

    @wraps(make)
    def made():
        global RNG
        RNG = np.random.default_rng(0)
        return make()

    return made


def weight(*shape):
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))


@seeded
def dense():
    params = {"a": weight(6, 8), "a_bias": weight(8), "b": weight(8, 3), "b_bias": weight(3)}

    def apply(p, x):
        return jnp.maximum(x @ p["a"] + p["a_bias"][None], 0) @ p["b"] + p["b_bias"][None]

    return apply, params, RNG.normal(size=(20, 6))


def convolve(x, kernel, stride=1, padding="SAME", groups=1, dilation=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


@seeded
def convolutional():
    params = {
        "a": weight(3, 3, 2, 4), "a_bias": weight(4), "b": weight(2, 2, 2, 6), "c": weight(24, 3),
    }  # fmt: skip

    def apply(p, x):
        h = jax.nn.relu(convolve(x, p["a"]) + p["a_bias"][None, None, None])
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        h = jnp.tanh(convolve(h, p["b"], 1, "VALID", groups=2, dilation=2))
        h = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME") / 4
        return h.reshape(len(x), -1) @ p["c"]

    return apply, params, RNG.normal(size=(20, 8, 8, 2))


@seeded
def residual():
    params = {"a": weight(5, 5), "b": weight(5, 7), "c": weight(7, 5), "out": weight(10, 4)}

    def apply(p, x):
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # before any weight: anything goes
        h = x + jnp.sin(x @ p["a"])
        h = h - jax.nn.sigmoid(h @ p["b"]) @ p["c"] * 0.5
        h = jnp.concatenate([jnp.abs(h), jnp.clip(h, -0.5, 0.5)], axis=1)
        return h @ p["out"]

    return apply, params, RNG.normal(size=(20, 5))


@seeded
def scanned():
    params = {"stack": weight(3, 5, 5), "stack_bias": weight(3, 5), "out": weight(5, 2)}

    def apply(p, x):
        def layer(h, weights):
            kernel, bias = weights
            return h + jax.nn.relu(h @ kernel + bias[None]), None

        h, _ = lax.scan(layer, x, (p["stack"], p["stack_bias"]))
        return h @ p["out"]

    return apply, params, RNG.normal(size=(20, 5))


@seeded
def tokens():
    params = {"a": weight(4, 6), "a_bias": weight(6), "out": weight(6, 3)}

    def apply(p, x):  # a dense layer at each of five tokens, then their mean
        return jnp.mean(jax.nn.relu(x @ p["a"] + p["a_bias"][None, None]), axis=1) @ p["out"]

    return apply, params, RNG.normal(size=(20, 5, 4))


NETWORKS = {f.__name__: f for f in (dense, convolutional, residual, scanned, tokens)}
