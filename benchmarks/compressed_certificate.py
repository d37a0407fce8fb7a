"""The compressed certificate on full MNIST: a guarantee for a network in a file of 250 bytes.

Small convolutional networks are trained as integers for their certificate (error against code
length), saved, loaded again, and certified on all 60000 training images at delta = 0.01; every bit
of the file counts. Three pipelines, which differ in what is fixed before the data are seen. Each
treats every image by itself:

- ``pixels``: the middle 24x24 pixels, averaged over 2x2, scaled to root mean square 1;
- ``upright``: each image is first centred and sheared so that its own second moments are upright;
- ``oriented``: of the upright image, the 8 rectified directional derivatives (Sobel's kernels),
  averaged over 4x4 and scaled; the network's first convolution is replaced by these fixed ones.

The number of structures that were tried on MNIST while this was written is paid for (``--tried``).

    python benchmarks/compressed_certificate.py
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from results import headline, write_results

from examples.datasets import load_mnist
from rankjax.certificates import CompressedNetwork, Schedule, compress
from rankjax.certificates.file import count_errors
from rankjax.network import describe

DIRECTIONS = 8
TRIED = 64  # structures and inputs seen on this sample, generously rounded up

# (channels of the convolutions, inputs of the dense layer)
NETWORKS = {"pixels": (1, (6, 8)), "upright": (1, (6, 8)), "oriented": (DIRECTIONS, (12,))}


@partial(jax.jit, static_argnames="pipeline")
def prepare(images: jax.Array, pipeline: str) -> jax.Array:
    """Images ``(n, 28, 28)``, one by one, to what networks see: ``(n, side, side, channels)``."""

    def one(image):
        if pipeline != "pixels":
            image = upright(image)
        channels = image[None, 2:26, 2:26] if pipeline != "oriented" else derivatives(image)
        window = 4 if pipeline == "oriented" else 2
        count, side = len(channels), 24 // window
        pooled = channels.reshape(count, side, window, side, window).mean((2, 4))
        return jnp.moveaxis(scaled(pooled), 0, -1)

    return jax.vmap(one)(images)


def scaled(values: jax.Array) -> jax.Array:
    return values * jax.lax.rsqrt(jnp.mean(jnp.square(values)) + 1e-6)


def upright(image: jax.Array) -> jax.Array:
    """Centred, and sheared along the rows until rows and columns are uncorrelated."""
    place = jnp.arange(28.0)
    mass = image.sum() + 1e-6
    row, column = (image.sum(1) @ place) / mass, (image.sum(0) @ place) / mass
    down, right = place - row, place - column
    shear = (down @ image @ right) / ((image.sum(1) @ jnp.square(down)) + 1e-6)
    middle = place - 13.5
    rows = jnp.broadcast_to((row + middle)[:, None], (28, 28))
    columns = column + middle[None, :] + shear * middle[:, None]
    return jax.scipy.ndimage.map_coordinates(image, [rows, columns], order=1)


def derivatives(image: jax.Array) -> jax.Array:
    """``(directions, 24, 24)``: positive parts of the directional derivatives."""
    part = image[1:27, 1:27]
    smooth_rows = part[:-2] + 2 * part[1:-1] + part[2:]
    smooth_columns = part[:, :-2] + 2 * part[:, 1:-1] + part[:, 2:]
    right = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    down = smooth_columns[2:] - smooth_columns[:-2]
    angles = 2 * math.pi / DIRECTIONS * jnp.arange(DIRECTIONS)[:, None, None]
    return jax.nn.relu(jnp.cos(angles) * right + jnp.sin(angles) * down)


def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """3x3 convolutions, each scaled, rectified and max-pooled by 2, and a dense layer.

    The example axis is the last one inside: with so few channels that is many times faster.
    """
    h = jnp.moveaxis(x, 0, -1).transpose(2, 0, 1, 3)
    for name in sorted(params)[:-1]:
        channels, height, width, n = h.shape
        padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        rows = jnp.concatenate(patches).reshape(9 * channels, -1)
        h = (params[name].T @ rows).reshape(-1, height, width, n)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), (0, 1, 2), keepdims=True) + 1e-6)
        h = jax.nn.relu(h).reshape(len(h), height // 2, 2, width // 2, 2, n).max((2, 4))
    return (params["dense"].T @ h.reshape(-1, h.shape[-1])).T / 8


def initial(pipeline: str, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    before, channels = NETWORKS[pipeline]
    shapes = {}
    for number, after in enumerate(channels):
        shapes[f"conv{number}"] = (9 * before, after)
        before = after
    shapes["dense"] = (9 * before, 10)
    return {
        name: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def run(data, pipeline: str, seed: int, schedule: Schedule, tried: int, folder: Path) -> None:
    started = time.perf_counter()

    def prepared(images):
        parts = [
            np.asarray(prepare(images[i : i + 1000, ..., 0], pipeline))
            for i in range(0, len(images), 1000)
        ]
        return np.concatenate(parts)

    x, x_test = prepared(data.x_train), prepared(data.x_test)
    params = initial(pipeline, seed)
    structure = describe(params, axes=dict.fromkeys(params, ((1,), (0,))))
    network = compress(
        structure, params, exponent=0, apply=apply, x=x, y=data.y_train, schedule=schedule
    )
    path = folder / f"mnist_{pipeline}_{seed}.rankjax"
    network.save(path)
    loaded = CompressedNetwork.load(path, structure, params)
    certificate = loaded.certificate(apply, x, data.y_train, delta=0.01, tried=tried)
    test = count_errors(apply, loaded.params, x_test, data.y_test) / len(x_test)
    weights = sum(leaf.size for leaf in params.values())
    non_zero = sum(array.non_zero for array in loaded.arrays.values())
    seconds = time.perf_counter() - started
    print(
        f"| {pipeline} | {seed} | {non_zero} of {weights} | {path.stat().st_size} | "
        f"{certificate.nats:.0f} | {certificate.empirical:.4f} | {test:.4f} | "
        f"**{certificate.value:.4f}** | {seconds:.0f} |",
        flush=True,
    )
    return {
        "input": pipeline, "seed": seed, "weights": weights, "non_zero": non_zero,
        "bytes": path.stat().st_size, "nats": certificate.nats,
        "train_error": certificate.empirical, "test_error": test,
        "certificate": certificate.value, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pipelines", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=0.08)
    parser.add_argument("--rate-weight", type=float, default=2.0)
    parser.add_argument("--tried", type=int, default=TRIED)
    parser.add_argument("--out", type=Path, default=Path("report"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_mnist()
    print(
        f"{headline()}, {len(data.x_train)} examples, delta 0.01, "
        f"{options.epochs} epochs, log {options.tried} nats for structures tried\n"
    )
    print("| input | seed | non-zero weights | bytes | nats | train error | test error | "
          "certificate | seconds |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    rows = []
    for pipeline in options.pipelines:
        for seed in options.seeds:
            schedule = Schedule(
                epochs=options.epochs, learning_rate=options.learning_rate,
                rate_weight=options.rate_weight, seed=seed,
            )  # fmt: skip
            rows.append(run(data, pipeline, seed, schedule, options.tried, options.out))
    write_results(rows)


if __name__ == "__main__":
    main()
