"""Guarantees for any network on MNIST: hold-out, Pick-to-Learn, disagreement, at delta = 0.01.

A network with one hidden layer of 128 units (``--architecture cnn``: two convolutions with 16 and
32 channels) on images pooled to 14 x 14, and a larger one, 512 units or 48 and 96 channels. The
60000 training images are dealt out at random:

- ``hold-out``: trained on 50000, measured once on the other 10000;
- ``Pick-to-Learn``: the first network is trained on 20000; the picks come from the other 40000, and
  each step also sees a minibatch of the 20000, so that the network does not forget;
- ``disagreement``: the large network, trained on all 60000, is certified through the network of
  Pick-to-Learn, by the 10000 test images without their labels; each part has half of delta.

The test images with their labels enter the column of test errors only. ``--tried`` pays for the
settings that were tried before these on the same images, here and in the other rows.

    python benchmarks/guarantees.py                       # a minute or two on 2 cores
    python benchmarks/guarantees.py --architecture cnn    # ten minutes
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import headline, write_results

from examples.certify_training import Settings, Task, error_of, make_task, train
from examples.datasets import Dataset, load_mnist
from rankjax.certificates import Picked, Picking, certify_by, hold_out, pick_to_learn

DELTA = 0.01
PICKING = Picking(rounds=70, group=16, growth=0.05, steps=120, minibatch=64)
REPLAYED = 192  # of the first network's own examples, per step


def part(data: Dataset, index: np.ndarray) -> Dataset:
    return replace(data, x_train=data.x_train[index], y_train=data.y_train[index])


def weights_of(params: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(params))


def pick(first: Task, params: Any, rest: Task, seed: int, tried: int) -> Picked:
    def loss(params, x, y, key):
        index = jax.random.randint(key, (REPLAYED,), 0, len(first.x))
        x = jnp.concatenate([x, first.x[index]])
        y = jnp.concatenate([y, first.y[index]])
        return optax.softmax_cross_entropy_with_integer_labels(first.apply(params, x), y).mean()

    def progress(state, left):
        if int(state.round) % 10 == 0 or left == 0:
            print(f"  round {int(state.round)}: {int(state.count)} picked, {left} left", flush=True)

    return pick_to_learn(
        params, rest.x, rest.y, apply=first.apply, optimizer=optax.adam(1e-3), loss=loss,
        picking=replace(PICKING, seed=seed), delta=DELTA / 2, tried=tried, progress=progress,
    )  # fmt: skip


SIZES = {"mlp": ((128,), (512,)), "cnn": ((16, 32), (48, 96))}


def run(
    data: Dataset, architecture: str, seed: int, epochs: int, tried: int
) -> list[dict[str, Any]]:
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    sizes, larger = SIZES[architecture]
    small = Settings(
        architecture=architecture, sizes=sizes, epochs=epochs, learning_rate=0.03, seed=seed
    )
    large = replace(small, sizes=larger)
    rows = []

    def record(route, params, task, found, started):
        rows.append(
            {
                "route": route,
                "architecture": architecture,
                "seed": seed,
                "weights": weights_of(params),
                "test error": error_of(params, task.x_test, task.y_test, apply=task.apply),
                "counted": found.errors,
                "picked": getattr(found, "picked", None),
                "of": found.n,
                "true error at most": found.value,
                "seconds": time.perf_counter() - started,
            }
        )
        print(line(rows[-1]), flush=True)

    started = time.perf_counter()
    trained, held_back = (make_task(part(data, i), small) for i in (order[:50000], order[50000:]))
    params = train(trained, "plain", small)
    found = hold_out(
        params, held_back.x, held_back.y, apply=trained.apply, delta=DELTA, tried=tried
    )
    record("hold-out", params, trained, found, started)

    started = time.perf_counter()
    first, rest = (make_task(part(data, i), small) for i in (order[:20000], order[20000:]))
    twice = replace(small, epochs=2 * epochs)
    picked = pick(first, train(first, "plain", twice), rest, seed, tried)
    at_delta = replace(picked.certificate, delta=DELTA).settled()
    record("Pick-to-Learn", picked.params, first, at_delta, started)

    started = time.perf_counter()
    whole = make_task(data, large)
    params = train(whole, "plain", large)
    by = certify_by(
        params, whole.x_test, apply=whole.apply, surrogate=picked.params,
        surrogate_apply=first.apply, certificate=picked.certificate, delta=DELTA, tried=tried,
    )  # fmt: skip
    record("disagreement", params, whole, by, started)
    return rows


COLUMNS = ("route", "architecture", "seed", "weights", "test error", "counted", "picked", "of",
           "true error at most", "seconds")  # fmt: skip


def line(row: dict[str, Any]) -> str:
    cells = [f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--architecture", choices=tuple(SIZES), default="mlp")
    parser.add_argument("--epochs", type=int, default=10, help="on the 50000 and the 60000 images")
    parser.add_argument("--tried", type=int, default=4, help="settings tried on these images")
    options = parser.parse_args()
    data = load_mnist()
    print(f"{headline()}; delta {DELTA}\n")
    print("| " + " | ".join(COLUMNS) + " |\n|---|---|" + "--:|" * (len(COLUMNS) - 2))
    rows = []
    for seed in options.seeds:
        rows += run(data, options.architecture, seed, options.epochs, options.tried)
        write_results(rows)


if __name__ == "__main__":
    main()
