"""The networks of this folder, as functions of what its safetensors files hold."""

import jax
from jax import Array


def apply(params: dict[str, Array], x: Array) -> Array:
    """Logits of ``plain.safetensors`` and ``rank-sparse.safetensors`` for images ``(n, ...)``."""
    x = x.reshape(len(x), -1)
    for layer in ("first", "second"):
        x = jax.nn.relu(x @ params[f"{layer}/kernel"] + params[f"{layer}/bias"][None])
    return x @ params["last/kernel"] + params["last/bias"][None]


def small(params: dict[str, Array], x: Array) -> Array:
    """Logits of ``small.safetensors`` for the images of ``small-data.npz``."""
    return jax.nn.relu(x.reshape(len(x), -1) @ params["hidden/kernel"]) @ params["last/kernel"]
