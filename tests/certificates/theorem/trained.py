"""Small trained networks with their certificates, made once per test process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from rankjax import describe
from rankjax.certificates.theorem import Certificate, certify


@dataclass(frozen=True, eq=False)
class Trained:
    """A network, its sample and its certificate."""

    apply: Any
    params: Any
    x: np.ndarray
    y: np.ndarray
    certificate: Certificate
    reference: Any = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As ``certify`` and ``verify`` take them."""
        return describe(self.params, apply=self.apply, example=self.x), self.params, self.x, self.y

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Leaves by path."""
        return by_path(self.params)


def by_path(params: Any) -> dict[str, np.ndarray]:
    """Leaves of two nested dictionaries by path."""
    return {f"{a}/{b}": np.asarray(leaf) for a, part in params.items() for b, leaf in part.items()}


def dense_network(params, x):
    h = jax.nn.relu(x @ params["inner"]["kernel"] + params["inner"]["bias"][None])
    return h @ params["outer"]["kernel"] + params["outer"]["bias"][None]


def convolutional_network(params, x):
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        if "bias" in params[name]:
            x = x + params[name]["bias"][None, None, None]
        x = jax.nn.relu(x)
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
    return x.reshape(len(x), -1) @ params["dense"]["kernel"]


def _made(apply, params, x, y) -> Trained:
    structure = describe(params, apply=apply, example=x)
    return Trained(apply, params, x, y, certify(structure, params, x, y, apply=apply))


def _fitted(features, y):
    """The last layer by least squares; a bias of the mean."""
    wanted = np.eye(int(y.max()) + 1)[y]
    mean = wanted.mean(axis=0)
    kernel = np.linalg.lstsq(features, wanted - mean, rcond=None)[0]
    return jnp.asarray(kernel), jnp.asarray(mean)


def _digits():
    x, y = load_digits(return_X_y=True)
    images = x.reshape(-1, 8, 8, 1) / 16
    return images, y


@lru_cache
def dense() -> Trained:
    """Digits of 4 x 4 pixels; biases in both layers."""
    images, y = _digits()
    x = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(y), 16)
    rng = np.random.default_rng(0)
    inner = {"kernel": jnp.asarray(rng.normal(size=(16, 20)) / 4), "bias": jnp.full(20, 0.1)}
    features = np.maximum(x @ np.asarray(inner["kernel"]) + 0.1, 0)
    kernel, bias = _fitted(features, y)
    return _made(dense_network, {"inner": inner, "outer": {"kernel": kernel, "bias": bias}}, x, y)


@lru_cache
def convolutional() -> Trained:
    """The network of the demo, on digits of 8 x 8 pixels; one bias; odd or even."""
    images, y = _digits()
    draw = partial(np.random.default_rng(1).normal)
    params = {
        "conv1": {"kernel": jnp.asarray(draw(size=(3, 3, 1, 4)) / 2), "bias": jnp.full(4, 0.1)},
        "conv2": {"kernel": jnp.asarray(draw(size=(2, 2, 4, 16)) / 3)},
        "dense": {"kernel": jnp.eye(16)},
    }
    features = np.asarray(convolutional_network(params, jnp.asarray(images)))
    params["dense"] = {"kernel": _fitted(features, y % 2)[0]}
    return _made(convolutional_network, params, images, y % 2)


@lru_cache
def near_reference() -> Trained:
    """Two classes, two labels wrong; the first kernel is its reference and a matrix of rank 1."""
    rng = np.random.default_rng(2)
    y = rng.integers(2, size=3000)
    direction = rng.normal(size=40)
    direction /= np.linalg.norm(direction)
    x = 0.2 * rng.normal(size=(3000, 40)) + np.where(y == 1, 1.0, -1.0)[:, None] * direction
    y[:2] = 1 - y[:2]  # two labels that nothing predicts
    right = rng.normal(size=20)
    right /= np.linalg.norm(right)
    kernel = 0.05 * rng.normal(size=(40, 20))
    reference = {
        "inner": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(20)},
        "outer": {"kernel": jnp.zeros((20, 2)), "bias": jnp.zeros(2)},
    }
    params = {
        "inner": {"kernel": jnp.asarray(kernel + np.outer(direction, right)), "bias": jnp.ones(20)},
        "outer": {"kernel": jnp.asarray(np.stack([-right, right], 1)), "bias": jnp.zeros(2)},
    }
    structure = describe(params, apply=dense_network, example=x)
    certificate = certify(structure, params, x, y, apply=dense_network, reference=reference)
    return Trained(dense_network, params, x, y, certificate, reference)
