"""Test error against the parameters that are kept, on three small networks.

    python benchmarks/compress_networks.py [--case mnist fashion-mnist transformer] [--picture FILE]

Unmodified Flax Linen code: an MLP 784-512-512-10 on MNIST and on Fashion-MNIST, and a transformer
of two blocks (d = 96) that reads the 28 rows of an MNIST image as tokens. Trained by Adam with a
cosine schedule, then cut with ``factorize(budget=...)`` to a share of the entries of all weight
matrices:

- ``truncated``: the plain network, each matrix to its largest singular values;
- ``data-aware``: the plain network, each matrix by the second moments of its outputs on 2000
  training images (``moments=``);
- ``data-aware, tuned``: then the factors are trained for one more epoch, run by ``lowrank``;
- ``trained low rank``: trained with a nuclear flow after the step (once per epoch), truncated.

Each row: test error, entries of the whole tree, and what ``lowrank(apply)`` needs for 1024 images:
milliseconds (a median; the ratio is to the dense network in the same round) and the MiB of
arguments, results and temporaries.
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
from flax import linen as nn
from matplotlib.figure import Figure
from results import headline, write_results
from rich.console import Console
from rich.table import Table

from examples.datasets import load
from rankjax import describe
from rankjax.network import OutputMoments
from rankjax.training import apply_schatten_flow, factorize, lowrank

BATCH, RATE, CALIBRATION = 128, 1e-3, 2000
WAYS = ("truncated", "data-aware", "data-aware, tuned", "trained low rank")


class MLP(nn.Module):
    """784-512-512-10."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(512)(x))
        return nn.Dense(10)(x)


class Transformer(nn.Module):
    """Two blocks of attention and a hidden layer over the rows of an image."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(96)(x[..., 0])
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(96)(nn.gelu(nn.Dense(384)(nn.LayerNorm()(x))))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


@dataclass(frozen=True)
class Case:
    """A network, its data, and how long and how strongly it is trained."""

    network: nn.Module
    data: str
    examples: int
    epochs: int
    flow: float


CASES = {
    "mnist": Case(MLP(), "mnist", 60000, 5, 1e-4),
    "fashion-mnist": Case(MLP(), "fashion-mnist", 60000, 5, 1e-4),
    "transformer": Case(Transformer(), "mnist", 20000, 5, 1e-4),
}


def trained(
    run: Callable[[Any, Any], Any], params: Any, optimizer: Any, x: Any, y: Any, epochs: int
) -> Any:
    def loss(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(run(params, x), y).mean()

    @jax.jit
    def epoch(params: Any, state: Any, order: Any) -> Any:
        def step(carry: Any, rows: Any):
            params, state = carry
            slope = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = optimizer.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order)[0]

    rng, steps, state = np.random.default_rng(0), len(x) // BATCH, optimizer.init(params)
    for _ in range(epochs):
        order = rng.permutation(len(x))[: steps * BATCH].reshape(steps, BATCH)
        params, state = epoch(params, state, jnp.asarray(order))
    return params


def error(run: Callable[[Any, Any], Any], params: Any, x: Any, y: Any) -> float:
    wrong = jax.jit(lambda p, x, y: jnp.sum(jnp.argmax(run(p, x), -1) != y))
    pieces = range(0, len(x), 1000)
    return float(sum(wrong(params, x[i : i + 1000], y[i : i + 1000]) for i in pieces)) / len(x)


def trees(case: Case, seed: int, budgets: list[float]) -> dict[tuple[str, float], Any]:
    """The dense network and every small one."""
    data = load(case.data)
    x, y = jnp.asarray(data.x_train[: case.examples]), jnp.asarray(data.y_train[: case.examples])
    apply, first = case.network.apply, case.network.init(jax.random.key(seed), x[:1])
    structure = describe(first, apply=apply, example=x[:2])
    epoch = len(x) // BATCH
    adam = partial(optax.adam, optax.cosine_decay_schedule(RATE, case.epochs * epoch))
    plain = trained(apply, first, adam(), x, y, case.epochs)
    flow = apply_schatten_flow(structure, case.flow, p=1.0, every=epoch)
    low = trained(apply, first, optax.chain(adam(), flow), x, y, case.epochs)
    moments = OutputMoments.from_data(structure, plain, x[:CALIBRATION], apply=apply)
    tuning = optax.adam(optax.cosine_decay_schedule(RATE / 2, epoch))
    found: dict[tuple[str, float], Any] = {("dense", 1.0): plain, ("trained low rank", 1.0): low}
    for budget in budgets:
        aware = factorize(structure, plain, budget=budget, moments=moments)
        found |= {
            ("truncated", budget): factorize(structure, plain, budget=budget),
            ("data-aware", budget): aware,
            ("data-aware, tuned", budget): trained(lowrank(apply), aware, tuning, x, y, 1),
            ("trained low rank", budget): factorize(structure, low, budget=budget),
        }
    return found


def costs(case: Case, found: dict[tuple[str, float], Any], rounds: int) -> dict[Any, Any]:
    """Time and memory of 1024 images; the forms of one budget differ by their ranks alone."""
    x = jnp.asarray(load(case.data).x_test[:1024])
    programs, times = {}, {}
    for key, params in found.items():
        if key[0] in ("dense", "truncated", "data-aware"):
            run = case.network.apply if key[0] == "dense" else lowrank(case.network.apply)
            programs[key] = jax.jit(run).lower(params, x).compile()
            times[key] = []
    for _ in range(rounds + 1):
        for key, compiled in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(found[key], x))
            times[key].append(time.perf_counter() - start)
    dense = times["dense", 1.0][1:]
    rows = {}
    for key, compiled in programs.items():
        memory = compiled.memory_analysis()
        size = memory.argument_size_in_bytes + memory.output_size_in_bytes
        mine = times[key][1:]
        ratios = [a / b for a, b in zip(mine, dense, strict=True)]
        rows[key] = {
            "ms": 1e3 * statistics.median(mine),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
            "mib": (size + memory.temp_size_in_bytes) / 2**20,
        }
    return rows


def all_runs(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    rows = []
    for name in options.case:
        case = CASES[name]
        test = load(case.data)
        x, y = jnp.asarray(test.x_test), jnp.asarray(test.y_test)
        for seed in options.seeds:
            found = trees(case, seed, options.budgets)
            measured = costs(case, found, options.rounds) if seed == options.seeds[0] else {}
            for (way, budget), params in found.items():
                dense = budget == 1.0
                run = case.network.apply if dense else lowrank(case.network.apply)
                rows.append({
                    "case": name,
                    "way": way,
                    "budget": budget,
                    "seed": seed,
                    "parameters": int(sum(np.size(a) for a in jax.tree.leaves(params))),
                    "error": error(run, params, x, y),
                    **measured.get((way, budget), {}),
                })  # fmt: skip
            console.print(f"{name}, seed {seed} is done")
    return rows


def summary(rows: list[dict[str, Any]]) -> Table:
    table = Table("network", "weights", "kept", "parameters", "test error %", "ratio", "MiB")
    for case, way, budget in dict.fromkeys((r["case"], r["way"], r["budget"]) for r in rows):
        mine = [r for r in rows if (r["case"], r["way"], r["budget"]) == (case, way, budget)]
        errors = [100 * row["error"] for row in mine]
        ratio, mib = mine[0].get("ratio"), mine[0].get("mib")
        table.add_row(
            case, way, f"{100 * budget:.0f} %", f"{mine[0]['parameters']:,}",
            f"{statistics.median(errors):.2f} ({min(errors):.2f}-{max(errors):.2f})",
            "" if ratio is None else f"{ratio:.2f}", "" if mib is None else f"{mib:.1f}",
        )  # fmt: skip
    return table


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Test error over the parameters that are kept, one panel per network; medians of seeds."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(1 + 3.4 * len(cases), 3.6), layout="constrained")
    for case, axes in zip(cases, figure.subplots(1, len(cases), squeeze=False)[0], strict=True):
        mine = [row for row in rows if row["case"] == case]
        full = next(row["parameters"] for row in mine if row["way"] == "dense")
        dense = 100 * statistics.median(row["error"] for row in mine if row["way"] == "dense")
        axes.axhline(dense, color="black", linewidth=1, label="dense")
        for i, way in enumerate(WAYS):
            points = {}
            for row in mine:
                if row["way"] == way and row["budget"] < 1:
                    points.setdefault(row["budget"], []).append(row)
            share = [
                100 * statistics.median(r["parameters"] for r in of) / full
                for of in points.values()
            ]
            errors = [100 * statistics.median(r["error"] for r in of) for of in points.values()]
            axes.plot(share, errors, f"C{i}o-", markersize=4, linewidth=1.4, label=way)
        axes.set_yscale("log")
        axes.set_title(case, fontsize=10)
        axes.set_xlabel("parameters kept, %")
        worst = 100 * max(row["error"] for row in mine)
        ticks = [t for t in (1, 2, 3, 5, 10, 12, 15, 20, 30, 50, 90) if 0.8 * dense <= t <= worst]
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(linewidth=0.4)
        if case == cases[0]:
            axes.set_ylabel("test error, %")
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.4, 0.25, 0.15, 0.08])
    parser.add_argument("--rounds", type=int, default=15)
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
