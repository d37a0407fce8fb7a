"""Does low rank help against wrong labels? MLPs on MNIST with a part of the labels random.

    python benchmarks/label_noise.py [--noise 0.2 0.4 0.6] [--seeds 0 1 2] [--picture FILE.png]

An MLP 784-512-512-10 is trained by Adam with a cosine schedule. The labels of training and
validation images are replaced, each with the probability of the noise, by one of the ten classes
at random; test labels are clean. Ways to train:

- plain, and with decoupled weight decay;
- nuclear flow and Schatten flow (p = 1/2) after the step, once per epoch;
- a target rank for both hidden kernels: ``project_rank(..., by=steps / 5)`` every two epochs.

All but plain have three strengths. The one with the best accuracy on the *noisy* validation set at
the end of training, for the first seed, is taken for every seed; nothing is chosen by test images.
For each run: clean test accuracy at the end, and at the epoch with the best noisy validation
accuracy (early stopping); ranks of the hidden kernels. What a way adds to the time of a step is the
median ratio of two epochs to two plain ones, measured in turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from results import headline, write_results
from rich.console import Console
from rich.table import Table

from examples.datasets import load_mnist
from rankjax import describe
from rankjax.training import apply_schatten_flow, project_rank

WIDTH, BATCH, RATE, VALIDATION = 512, 128, 1e-3, 2000
HIDDEN = ("0/kernel", "1/kernel")

Params = dict[str, dict[str, jax.Array]]


@dataclass(frozen=True)
class Data:
    """Standardized images; the labels of the test images alone are clean."""

    x: jax.Array
    y: jax.Array
    x_validation: jax.Array
    y_validation: jax.Array
    x_test: jax.Array
    y_test: jax.Array


def noisy(noise: float, seed: int, examples: int) -> Data:
    mnist, rng = load_mnist(), np.random.default_rng(seed)
    taken = rng.permutation(len(mnist.x_train))[: examples + VALIDATION]
    x, y = mnist.x_train[taken].reshape(len(taken), -1), mnist.y_train[taken]
    y = np.where(rng.random(len(y)) < noise, rng.integers(10, size=len(y)), y)
    mean, scale = x[:examples].mean(), x[:examples].std()
    x, x_test = (x - mean) / scale, (mnist.x_test.reshape(-1, 784) - mean) / scale
    parts = (x[:examples], y[:examples], x[examples:], y[examples:], x_test, mnist.y_test)
    return Data(*map(jnp.asarray, parts))


def initial(key: jax.Array) -> Params:
    shapes = [(784, WIDTH), (WIDTH, WIDTH), (WIDTH, 10)]
    return {
        str(i): {
            "kernel": jax.random.normal(jax.random.fold_in(key, i), shape) * (2 / shape[0]) ** 0.5,
            "bias": jnp.zeros(shape[1]),
        }
        for i, shape in enumerate(shapes)
    }


def apply(params: Params, x: jax.Array) -> jax.Array:
    for i in range(2):
        x = jax.nn.relu(x @ params[str(i)]["kernel"] + params[str(i)]["bias"])
    return x @ params["2"]["kernel"] + params["2"]["bias"]


def ways(steps: int, epoch: int) -> dict[str, tuple[list[float], Callable[[float], Any]]]:
    """Strengths to choose from, and the optimizer of each."""
    rate = optax.cosine_decay_schedule(RATE, steps)

    def flow(p: float) -> Callable[[float], Any]:
        return lambda w: optax.chain(
            optax.adam(rate), apply_schatten_flow(describe, w, p=p, every=epoch)
        )

    def rank(r: float) -> Any:
        ranks = dict.fromkeys(HIDDEN, int(r))
        projection = project_rank(describe, ranks, by=steps // 5, every=2 * epoch)
        return optax.chain(optax.adam(rate), projection)

    return {
        "plain": ([0.0], lambda _: optax.adam(rate)),
        "weight decay": ([1.0, 3.0, 10.0], lambda w: optax.adamw(rate, weight_decay=w)),
        "nuclear flow": ([3e-4, 1e-3, 3e-3], flow(1.0)),
        "Schatten flow, p = 1/2": ([1e-4, 3e-4, 1e-3], flow(0.5)),
        "target rank": ([8, 16, 32], rank),
    }


def make_epoch(optimizer: Any, data: Data) -> Callable[..., tuple[Params, Any]]:
    def loss(params: Params, rows: jax.Array) -> jax.Array:
        logits = apply(params, data.x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.y[rows]).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def run_epoch(params: Params, state: Any, order: jax.Array) -> tuple[Params, Any]:
        def step(carry: tuple[Params, Any], rows: jax.Array):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order)[0]

    return run_epoch


def train(optimizer: Any, data: Data, seed: int, epochs: int) -> dict[str, Any]:
    params = initial(jax.random.key(seed))
    state, run_epoch = optimizer.init(params), make_epoch(optimizer, data)

    @jax.jit
    def accuracy(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jnp.argmax(apply(params, x), -1) == y)

    rng, curve = np.random.default_rng(seed), []
    steps = len(data.x) // BATCH
    for _ in range(epochs):
        order = rng.permutation(len(data.x))[: steps * BATCH].reshape(steps, BATCH)
        params, state = run_epoch(params, state, jnp.asarray(order))
        curve.append([
            float(accuracy(params, data.x_validation, data.y_validation)),
            float(accuracy(params, data.x_test, data.y_test)),
        ])  # fmt: skip
    best = max(range(epochs), key=lambda e: curve[e][0])
    kernels = [np.asarray(params[path[0]]["kernel"]) for path in HIDDEN]
    values = [np.linalg.svd(kernel, compute_uv=False) for kernel in kernels]
    return {
        "test_at_end": curve[-1][1],
        "validation_at_end": curve[-1][0],
        "test_at_best_validation": curve[best][1],
        "best_epoch": best + 1,
        "ranks": [int(np.sum(s > 1e-3 * s[0])) for s in values],
        "test_curve": [round(test, 4) for _, test in curve],
    }


def time_ratios(data: Data, strengths: dict[str, float], rounds: int) -> dict[str, list[float]]:
    """Of each way, the ratios of two of its epochs to two plain ones in turns, sorted."""
    steps = len(data.x) // BATCH
    order = jnp.arange(steps * BATCH).reshape(steps, BATCH)
    makers = {way: make for way, (_, make) in ways(2 * steps * (rounds + 1), steps).items()}
    runs, seconds = {}, {}
    for way, strength in strengths.items():
        optimizer = makers[way](strength)
        params = initial(jax.random.key(0))
        runs[way] = [make_epoch(optimizer, data), params, optimizer.init(params)]
        seconds[way] = []
    for _ in range(2 * rounds + 2):
        for way, (run_epoch, params, state) in runs.items():
            start = time.perf_counter()
            runs[way][1:] = jax.block_until_ready(run_epoch(params, state, order))
            seconds[way].append(time.perf_counter() - start)
    # Two epochs are a round, since that is the longest period; the first round compiles.
    pairs = {way: np.reshape(times, (-1, 2)).sum(1)[1:] for way, times in seconds.items()}
    return {way: sorted((times / pairs["plain"]).tolist()) for way, times in pairs.items()}


def all_runs(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    rows, epoch = [], options.examples // BATCH
    for noise in options.noise:
        data = {seed: noisy(noise, seed, options.examples) for seed in options.seeds}
        first = options.seeds[0]
        for way, (strengths, make) in ways(epoch * options.epochs, epoch).items():
            tried = {
                strength: train(make(strength), data[first], first, options.epochs)
                for strength in strengths
            }
            best = max(strengths, key=lambda strength: tried[strength]["validation_at_end"])
            for seed in options.seeds:
                result = tried[best]
                if seed != first:
                    result = train(make(best), data[seed], seed, options.epochs)
                row = {"noise": noise, "way": way, "strength": best, "seed": seed, **result}
                if seed == first:
                    row["validation_of_strengths"] = {
                        f"{s:g}": run["validation_at_end"] for s, run in tried.items()
                    }
                rows.append(row)
                console.print(
                    f"noise {noise:g}, {way} {best:g}, seed {seed}: "
                    f"{100 * result['test_at_end']:.2f} % at the end, "
                    f"{100 * result['test_at_best_validation']:.2f} % stopped early"
                )
    # The strengths decide nothing about the time.
    ratios = time_ratios(data[first], {row["way"]: row["strength"] for row in rows}, options.rounds)
    for row in rows:
        row["time_ratios"] = ratios[row["way"]]
    return rows


def summary(rows: list[dict[str, Any]]) -> Table:
    table = Table("noise", "way", "strength", "test % at the end", "stopped early", "ranks", "time")
    for noise, way in dict.fromkeys((row["noise"], row["way"]) for row in rows):
        mine = [row for row in rows if (row["noise"], row["way"]) == (noise, way)]
        middle = {
            key: 100 * statistics.median(row[key] for row in mine)
            for key in ("test_at_end", "test_at_best_validation")
        }
        table.add_row(
            f"{noise:g}", way, f"{mine[0]['strength']:g}", f"{middle['test_at_end']:.2f}",
            f"{middle['test_at_best_validation']:.2f}",
            ", ".join(map(str, mine[0]["ranks"])),
            f"{statistics.median(mine[0]['time_ratios']):.2f}",
        )  # fmt: skip
    return table


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Clean test accuracy over the epochs, one panel per noise; a band from least to most."""
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    figure = Figure(figsize=(1 + 3.2 * len(noises), 3.4), layout="constrained")
    panels = figure.subplots(1, len(noises), sharey=True, squeeze=False)[0]
    for noise, axes in zip(noises, panels, strict=True):
        for i, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
            runs = [r for r in rows if (r["noise"], r["way"]) == (noise, way)]
            curves = 100 * np.asarray([run["test_curve"] for run in runs])
            epochs = np.arange(1, curves.shape[1] + 1)
            axes.plot(epochs, np.median(curves, 0), color=f"C{i}", linewidth=1.6, label=way)
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=f"C{i}", alpha=0.15)
        axes.set_title(f"{100 * noise:.0f} % of the labels random", fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(linewidth=0.4)
    panels[0].set_ylabel("test accuracy, %")
    panels[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.2, 0.4, 0.6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7, help="of the timing")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    console = Console(width=120)
    console.print(headline())
    rows = all_runs(options, console)
    console.print(summary(rows))
    write_results(rows)
    if options.picture:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()
