"""Whether cheaper training for low rank ends where the decay at every step does.

    python benchmarks/training_quality.py [--seeds 3] [--epochs 5] [--width 256] [--only NAME ...]

An MLP is trained equally on MNIST with the decay at every step and with each cheaper setting, over
several seeds: test accuracy and soft ranks of the layers at the end. What they cost:
``training_overhead.py``.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table
from training_overhead import EPS, P, Setting, cross_entropy, mlp, mlp_params, optimizer, report

from examples.datasets import load_mnist
from rankjax.network import describe, measure
from rankjax.training import add_schatten_decay, apply_schatten_flow, proximal_schatten


def training_settings(weight, rate, batch):
    every = {128: (20, 100, 200, 500), 1024: (10, 20, 50, 100)}.get(batch, (20, 100))

    def make(**options):
        return lambda s: add_schatten_decay(s, weight, p=P, eps=EPS, **options)

    return {
        "no decay": Setting(),
        "every step": Setting(inside=make()),
        **{f"every={k}": Setting(inside=make(every=k)) for k in every},
        "refresh=20": Setting(inside=make(refresh=20)),
        **{
            f"flow every={k}": Setting(
                last=lambda s, k=k: apply_schatten_flow(s, rate * weight, p=P, eps=EPS, every=k)
            )
            for k in every
        },
        # The proximal step has no learning rate: its strength is that of rate * weight.
        "proximal every=100": Setting(
            last=lambda s: proximal_schatten(s, rate * weight, p=P, every=100)
        ),
    }


def train_one(setting, data, options, seed):
    widths = (784, options.width, options.width, options.width, 10)
    params = mlp_params(jax.random.key(seed), widths)
    structure = describe(params)
    chain = optimizer(setting, structure)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, y):
        slope = jax.grad(lambda p: cross_entropy(mlp(p, x), y))(params)
        updates, state = chain.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    x = data.x_train.reshape(len(data.x_train), -1)[: options.examples]
    y = data.y_train[: options.examples]
    rng, state = np.random.default_rng(seed), chain.init(params)
    start = time.perf_counter()
    for _ in range(options.epochs):
        order = rng.permutation(len(x))
        for first in range(0, len(x) - options.batch + 1, options.batch):
            rows = order[first : first + options.batch]
            params, state = step(params, state, x[rows], y[rows])
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    predicted = jnp.argmax(mlp(params, data.x_test.reshape(len(data.x_test), -1)), -1)
    accuracy = float(jnp.mean(predicted == data.y_test))
    ranks = [float(rank) for rank in measure(structure, params).soft_rank(P, eps=EPS)]
    return {"accuracy": accuracy, "soft_ranks": ranks, "seconds": seconds}


def train_all(options, console):
    data = load_mnist()
    settings = training_settings(options.weight, 1e-3, options.batch)
    table = Table(
        title=f"MNIST, 784-3x{options.width}-10, batch {options.batch}, {options.epochs} epochs, "
        f"weight {options.weight}, p = {P}; mean (standard deviation) of {options.seeds} seeds"
    )
    for column in ("setting", "test accuracy %", "soft ranks of the layers", "seconds"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    rows = []
    for name in options.only or settings:
        runs = [train_one(settings[name], data, options, seed) for seed in range(options.seeds)]
        rows.append({"setting": name, "runs": runs})
        ranks = np.asarray([run["soft_ranks"] for run in runs]).T
        table.add_row(
            name,
            _mean([100 * run["accuracy"] for run in runs], 2),
            ", ".join(_mean(layer, 1) for layer in ranks),
            _mean([run["seconds"] for run in runs], 0),
        )
        console.print(f"{name} is done")
    console.print(table)
    return rows


def _mean(values, digits):
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ({spread:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", help="settings by name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=60000)
    parser.add_argument("--weight", type=float, default=3.0, help="of the decay")
    options = parser.parse_args()
    report(partial(train_all, options))


if __name__ == "__main__":
    main()
