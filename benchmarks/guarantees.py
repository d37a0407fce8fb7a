"""Guarantees for any network: hold-out, Pick-to-Learn, disagreement, at delta = 0.01.

Networks of two 3x3 convolutions and a hidden layer on all 28x28 pixels, trained on images that are
moved by up to two pixels at random: a small one, and one of more than a million weights. The 60000
training images are dealt out at random:

- ``hold-out``: trained on 50000, measured once on the other 10000;
- ``Pick-to-Learn``: the first network is trained on 20000; the picks come from the other 40000, and
  each step also sees a minibatch of the 20000, so that the network does not forget;
- ``disagreement``: the larger network, trained on all 60000, is certified through the network of
  Pick-to-Learn, by the 10000 test images without their labels; each part has half of delta;
- ``disagreement, file`` (with ``--files``): the same through the network in a file that
  ``compressed_certificate.py`` has left in this folder.

The test images with their labels enter the column of test errors only. ``--tried`` pays for the
settings that were tried before these on the same images, here and in the other rows.

    python benchmarks/guarantees.py
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import compressed_certificate as in_a_file
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from results import headline, write_results

from examples.datasets import Dataset, load
from rankjax.certificates import Picked, Picking, certify_by, hold_out, pick_to_learn
from rankjax.certificates.file import count_errors

DELTA = 0.01
STORED = {"mnist": "upright", "fashion-mnist": "edges"}  # pipelines of compressed_certificate.py
BATCH = 128
REPLAYED = 192  # of the first network's own examples, per step of Pick-to-Learn
MOVES = 2  # pixels, of the training images
SMALL, LARGE = (16, 32, 128), (24, 48, 448)  # channels of both convolutions, hidden units
EPOCHS = 10  # on the 50000 and the 60000 images; twice as many on the 20000
RATE = 5e-4  # Adam's, while the picked examples are trained on; it falls to 0
PICKING = Picking(rounds=32, group=16, growth=0.05, steps=120, minibatch=64)

Params = dict[str, Array]


def _random(rng: np.random.Generator, *shape: int) -> Array:
    """A weight for ReLU behind it (He et al. 2015)."""
    return jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])), jnp.float32)


def apply(params: Params, x: Array) -> Array:
    for name in ("first", "second"):
        x = jax.nn.relu(_convolution(x, params[name]) + params[f"{name} bias"])
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["hidden"] + params["hidden bias"])
    return hidden @ params["last"]


def initial(rng: np.random.Generator, sizes: tuple[int, ...]) -> Params:
    first, second, hidden = sizes
    biases = {"first bias": first, "second bias": second, "hidden bias": hidden}
    return {
        "first": _random(rng, 3, 3, 1, first),
        "second": _random(rng, 3, 3, first, second),
        "hidden": _random(rng, 49 * second, hidden),
        "last": _random(rng, hidden, 10),
    } | {name: jnp.zeros(size, jnp.float32) for name, size in biases.items()}


def _convolution(x: Array, kernel: Array) -> Array:
    """3x3, as one product of patches: in a loop on a CPU, XLA derives it much faster."""
    n, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], -1
    )
    return (patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])).reshape(
        n, height, width, -1
    )


def moved(x: Array, key: Array) -> Array:
    """Each image by some pixels in both directions, at random."""
    by = jax.random.randint(key, (len(x), 2), 0, 2 * MOVES + 1)
    padded = jnp.pad(x, ((0, 0), (MOVES, MOVES), (MOVES, MOVES), (0, 0)))
    return jax.vmap(lambda image, by: jax.lax.dynamic_slice(image, (*by, 0), x.shape[1:]))(
        padded, by
    )


def entropy(params: Params, x: Array, y: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()


def train(size: tuple[int, ...], x: Array, y: Array, epochs: int, seed: int) -> Params:
    steps = len(x) // BATCH
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, epochs * steps), weight_decay=1e-4)

    @jax.jit
    def epoch(params, state, order, keys):
        def step(carry, item):
            (params, state), (chosen, key) = carry, item
            slopes = jax.grad(entropy)(params, moved(x[chosen], key), y[chosen])
            updates, state = optimizer.update(slopes, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), (order, keys))[0]

    rng = np.random.default_rng(seed)
    params = initial(rng, size)
    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(seed), epochs):
        order = rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH)
        params, state = epoch(params, state, jnp.asarray(order), jax.random.split(key, steps))
    return params


def pick(params: Params, first: Any, rest: Any, seed: int, tried: int) -> Picked:
    own_x, own_y = first

    def loss(params, x, y, key):
        draw, *noise = jax.random.split(key, 3)
        index = jax.random.randint(draw, (REPLAYED,), 0, len(own_x))
        x = jnp.concatenate([moved(x, noise[0]), moved(own_x[index], noise[1])])
        return entropy(params, x, jnp.concatenate([y, own_y[index]]))

    def progress(state, left):
        if int(state.round) % 10 == 0 or left == 0:
            print(f"  round {int(state.round)}: {int(state.count)} picked, {left} left", flush=True)

    steps = PICKING.rounds * PICKING.steps
    return pick_to_learn(
        params, *rest, apply=apply, loss=loss,
        optimizer=optax.adam(optax.cosine_decay_schedule(RATE, steps)),
        picking=replace(PICKING, seed=seed), delta=DELTA / 2, tried=tried, progress=progress,
    )  # fmt: skip


def run(data: Dataset, seed: int, tried: int, files: Path | None) -> list[dict[str, Any]]:
    x, y, x_test, y_test = map(jnp.asarray, (data.x_train, data.y_train, data.x_test, data.y_test))
    order = np.random.default_rng(seed).permutation(len(x))
    rows = []

    def record(route, params, found, started):
        rows.append(
            {
                "route": route,
                "data": data.name,
                "seed": seed,
                "weights": sum(a.size for a in jax.tree.leaves(params)),
                "test error": count_errors(apply, params, x_test, y_test) / len(x_test),
                "counted": found.errors,
                "picked": getattr(found, "picked", None),
                "of": found.n,
                "true error at most": found.value,
                "seconds": time.perf_counter() - started,
            }
        )
        print(line(rows[-1]), flush=True)

    started = time.perf_counter()
    own, rest = order[:50000], order[50000:]
    params = train(SMALL, x[own], y[own], EPOCHS, seed)
    found = hold_out(params, x[rest], y[rest], apply=apply, delta=DELTA, tried=tried)
    record("hold-out", params, found, started)

    started = time.perf_counter()
    own, rest = order[:20000], order[20000:]
    params = train(SMALL, x[own], y[own], 2 * EPOCHS, seed)
    picked = pick(params, (x[own], y[own]), (x[rest], y[rest]), seed, tried)
    at_delta = replace(picked.certificate, delta=DELTA).settled()
    record("Pick-to-Learn", picked.params, at_delta, started)

    started = time.perf_counter()
    params = train(LARGE, x, y, EPOCHS, seed)
    by = partial(certify_by, params, x_test, apply=apply, delta=DELTA, tried=tried)
    found = by(surrogate=picked.params, surrogate_apply=apply, certificate=picked.certificate)
    record("disagreement", params, found, started)

    if files is not None:
        started = time.perf_counter()
        surrogate = stored_surrogate(files, data.name, seed, x, y)
        record("disagreement, file", params, by(**surrogate), started)
    return rows


def stored_surrogate(files: Path, data: str, seed: int, x: Array, y: Array) -> dict[str, Any]:
    stored = in_a_file.stored(files, data, STORED[data], seed)

    def apply(params, x):
        return in_a_file.apply(params, in_a_file.prepare(x[..., 0], STORED[data]))

    certificate = stored.certificate(apply, x, y, delta=DELTA / 2, tried=in_a_file.TRIED)
    return {"surrogate": stored.params, "surrogate_apply": apply, "certificate": certificate}


COLUMNS = ("route", "data", "seed", "weights", "test error", "counted", "picked",
           "of", "true error at most", "seconds")  # fmt: skip


def line(row: dict[str, Any]) -> str:
    cells = [f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=tuple(STORED), default="mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tried", type=int, default=16, help="settings tried on these images")
    parser.add_argument("--files", type=Path, help="the folder of compressed_certificate.py")
    options = parser.parse_args()
    print(f"{headline()}; delta {DELTA}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|---|---|---|" + "--:|" * (len(COLUMNS) - 2))
    data, rows = load(options.data), []
    for seed in options.seeds:
        rows += run(data, seed, options.tried, options.files)
        write_results(rows, "" if options.data == "mnist" else f"_{options.data}")


if __name__ == "__main__":
    main()
