"""Checkpoints of every kind with the same small network, made by the libraries themselves."""

import flax.serialization
import jax.numpy as jnp
import numpy as np
import safetensors.numpy


def weights(seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "Dense_0": {"kernel": draw(6, 5), "bias": draw(5)},
        "Dense_1": {"kernel": draw(5, 3), "bias": draw(3)},
        "step": np.int32(7),
    }


def flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= (
            flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def save_npz(tree, path):
    np.savez(path, **flat(tree))


def save_safetensors(tree, path):
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in flat(tree).items()}, path)


def save_msgpack(tree, path):
    path.write_bytes(flax.serialization.to_bytes(tree))


def save_orbax(tree, path, **options):
    import orbax.checkpoint

    arrays = {key: {k: jnp.asarray(v) for k, v in value.items()} if isinstance(value, dict)
              else value for key, value in tree.items()}  # fmt: skip
    with orbax.checkpoint.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(path.resolve(), arrays)


WRITERS = {
    "w.npz": save_npz,
    "w.safetensors": save_safetensors,
    "w.msgpack": save_msgpack,
}
