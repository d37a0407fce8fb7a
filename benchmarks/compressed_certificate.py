"""The compressed certificate: a guarantee for a network in a file of some 200 bytes.

Small convolutional networks are trained as integers for their certificate (error against code
length), saved, loaded again, and certified on all 60000 training images at delta = 0.01; every bit
of the file counts. Their convolutions turn each stored filter by eight times 45 degrees, so that a
few filters do for many (Cohen and Welling 2016). Three pipelines, which differ in what is fixed
before the data are seen. Each treats every image by itself:

- ``pixels``: the middle 24x24 pixels, scaled to root mean square 1;
- ``edges``: the network's first convolution is replaced by fixed ones, 8 rectified directional
  derivatives (Sobel's kernels);
- ``upright``: each image is first centred, sheared and scaled so that its own second moments are
  upright and of one size; then as ``edges``.

The number of structures that were tried on the images while this was written is paid for
(``--tried``).

    python benchmarks/compressed_certificate.py
    python benchmarks/compressed_certificate.py --data fashion-mnist
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results import headline, write_results

from examples.datasets import Dataset, load
from rankjax.certificates import CompressedNetwork, Schedule, compress
from rankjax.certificates.file import count_errors
from rankjax.network import Structure, describe

DIRECTIONS = 8
TRIED = 256  # structures and inputs seen on these samples, generously rounded up

# Stored filters of the convolutions; each makes one channel per direction.
NETWORKS: dict[str, dict[str, tuple[int, ...]]] = {
    "mnist": {"pixels": (1, 2), "edges": (2,), "upright": (2,)},
    "fashion-mnist": {"pixels": (1, 3), "edges": (3,)},
}


@partial(jax.jit, static_argnames="pipeline")
def prepare(images: jax.Array, pipeline: str) -> jax.Array:
    """Images ``(n, 28, 28)``, one by one, to what networks see: ``(n, side, side, channels)``."""

    def one(image):
        if pipeline == "upright":
            image = upright(image)
        if pipeline == "pixels":
            return scaled(image[2:26, 2:26, None])
        return jnp.moveaxis(scaled(windows(derivatives(image))), 0, -1)

    return jax.vmap(one)(images)


def scaled(values: jax.Array) -> jax.Array:
    return values * jax.lax.rsqrt(jnp.mean(jnp.square(values)) + 1e-6)


def upright(image: jax.Array) -> jax.Array:
    """Centred, sheared along the rows until rows and columns are uncorrelated, and scaled."""
    place = jnp.arange(28.0)
    mass = image.sum() + 1e-6
    row, column = (image.sum(1) @ place) / mass, (image.sum(0) @ place) / mass
    down, right = place - row, place - column
    height = (image.sum(1) @ jnp.square(down)) / mass
    shear = (down @ image @ right) / mass / (height + 1e-6)
    width = (image.sum(0) @ jnp.square(right)) / mass - jnp.square(shear) * height
    # Halfway to a width that is fixed, within 40 % of what the height asks for.
    tall, wide = jnp.sqrt(height + 1e-3) / 5, jnp.sqrt(width + 1e-3) / 3.5
    wide = jnp.sqrt(tall * jnp.clip(wide, 0.6 * tall, 1.4 * tall))
    middle = place - 13.5
    rows = jnp.broadcast_to((row + tall * middle)[:, None], (28, 28))
    columns = column + wide * middle[None, :] + (shear * tall * middle)[:, None]
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


def windows(channels: jax.Array) -> jax.Array:
    """24x24 to 6x6: averages over windows of 8x8 that overlap and weigh their middle most."""
    weights = jnp.array([1.0, 2, 3, 4, 4, 3, 2, 1]) / 20
    padded = jnp.pad(channels, ((0, 0), (2, 2), (2, 2)) + ((0, 0),) * (channels.ndim - 3))
    columns = sum(weights[i] * padded[:, :, i : i + 21 : 4] for i in range(8))
    return sum(weights[i] * columns[:, i : i + 21 : 4] for i in range(8))


RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))  # clockwise, as angles grow


def turned(kernel: jax.Array) -> jax.Array:
    """Filters ``(9, directions, inputs, outputs)`` in eight positions: ``(9 ..., 8 outputs)``.

    A turn by 45 degrees moves the outer weights one place along the ring, and the directions of the
    inputs by one.
    """
    ring = np.array([3 * i + j for i, j in RING])
    positions = []
    for turn in range(DIRECTIONS):
        place = np.arange(9)
        place[ring] = np.roll(ring, turn)
        moved = kernel[place]
        positions.append(jnp.roll(moved, turn, 1) if kernel.shape[1] > 1 else moved)
    return jnp.concatenate(positions, -1).reshape(-1, DIRECTIONS * kernel.shape[-1])


def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """3x3 convolutions, each scaled, rectified and pooled, and a dense layer.

    The example axis is the last one inside: with so few channels that is many times faster.
    """
    h = jnp.moveaxis(x, 0, -1).transpose(2, 0, 1, 3)
    for name in sorted(params)[:-1]:
        channels, height, width, n = h.shape
        padded = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        rows = jnp.concatenate(patches).reshape(9 * channels, -1)
        h = (turned(params[name]).T @ rows).reshape(-1, height, width, n)
        h = h * jax.lax.rsqrt(jnp.mean(jnp.square(h), (0, 1, 2), keepdims=True) + 1e-6)
        h = jax.nn.relu(h)
        if height == 24:
            h = windows(h)
        else:
            h = h.reshape(len(h), height // 2, 2, width // 2, 2, n).max((2, 4))
    return (params["dense"].T @ h.reshape(-1, h.shape[-1])).T / 8


def initial(data: str, pipeline: str, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    directions, before = (1, 1) if pipeline == "pixels" else (DIRECTIONS, 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, after in enumerate(NETWORKS[data][pipeline]):
        shapes[f"conv{number}"] = (9, directions, before, after)
        directions, before = DIRECTIONS, after
    shapes["dense"] = (9 * DIRECTIONS * before, 10)
    params = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
    if pipeline == "pixels":  # a random filter may be zero on every image once it is rectified
        params["conv0"] = np.outer([1, 2, 1], [-1, 0, 1]).reshape(params["conv0"].shape)
    return {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}


def structure_of(params: dict[str, jax.Array]) -> Structure:
    """Output axis last, all others are inputs."""
    axes = {name: ((a.ndim - 1,), tuple(range(a.ndim - 1))) for name, a in params.items()}
    return describe(params, axes=axes)


def path_of(folder: Path, data: str, pipeline: str, seed: int) -> Path:
    return folder / f"{data}_{pipeline}_{seed}.rankjax"


def stored(folder: Path, data: str, pipeline: str, seed: int) -> CompressedNetwork:
    """A network that this script has left in a folder."""
    params = initial(data, pipeline, seed)
    return CompressedNetwork.load(
        path_of(folder, data, pipeline, seed), structure_of(params), params
    )


def run(
    data: Dataset, pipeline: str, seed: int, schedule: Schedule, tried: int, folder: Path
) -> dict[str, Any]:
    started = time.perf_counter()

    def prepared(images):
        parts = [
            np.asarray(prepare(images[i : i + 1000, ..., 0], pipeline))
            for i in range(0, len(images), 1000)
        ]
        return np.concatenate(parts)

    x, x_test = prepared(data.x_train), prepared(data.x_test)
    params = initial(data.name, pipeline, seed)
    network = compress(
        structure_of(params),
        params,
        exponent=0,
        apply=apply,
        x=x,
        y=data.y_train,
        schedule=schedule,
    )
    path = path_of(folder, data.name, pipeline, seed)
    network.save(path)
    loaded = stored(folder, data.name, pipeline, seed)
    certificate = loaded.certificate(apply, x, data.y_train, delta=0.01, tried=tried)
    test = count_errors(apply, loaded.params, x_test, data.y_test) / len(x_test)
    weights = sum(leaf.size for leaf in params.values())
    non_zero = sum(array.non_zero for array in loaded.arrays.values())
    seconds = time.perf_counter() - started
    print(
        f"| {data.name} | {pipeline} | {seed} | {non_zero} of {weights} | {path.stat().st_size} | "
        f"{certificate.nats:.0f} | {certificate.empirical:.4f} | {test:.4f} | "
        f"**{certificate.value:.4f}** | {seconds:.0f} |",
        flush=True,
    )
    return {
        "data": data.name, "input": pipeline, "seed": seed, "weights": weights,
        "non_zero": non_zero, "bytes": path.stat().st_size, "nats": certificate.nats,
        "train_error": certificate.empirical, "test_error": test,
        "certificate": certificate.value, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["mnist"], choices=list(NETWORKS))
    parser.add_argument("--pipelines", nargs="+", choices=list(NETWORKS["mnist"]))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=0.08)
    parser.add_argument("--rate-weight", type=float, default=2.0)
    parser.add_argument("--power", type=float, default=0.5)
    parser.add_argument("--tried", type=int, default=TRIED)
    parser.add_argument("--out", type=Path, default=Path("report"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{headline()}, 60000 examples, delta 0.01, "
        f"{options.epochs} epochs, log {options.tried} nats for structures tried\n"
    )
    print("| data | input | seed | non-zero weights | bytes | nats | train error | test error | "
          "certificate | seconds |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    rows = []
    for data in map(load, options.data):
        for pipeline in options.pipelines or NETWORKS[data.name]:
            for seed in options.seeds:
                schedule = Schedule(
                    epochs=options.epochs, learning_rate=options.learning_rate,
                    rate_weight=options.rate_weight, power=options.power, seed=seed,
                )  # fmt: skip
                rows.append(run(data, pipeline, seed, schedule, options.tried, options.out))
                write_results(rows)


if __name__ == "__main__":
    main()
