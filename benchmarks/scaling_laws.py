"""The scaling laws of the bounds, numerically: slopes in width, rank and depth, and the role of p.

Networks of exact rank: square layers ``U V^T`` with orthonormal factors, all non-zero singular
values 1. Slopes are those of ``log(bound^2 n)`` (the sample complexity at a fixed accuracy) when
one of width, rank and depth grows and the others stay. Then p from 0 to infinity on a network
trained on MNIST or on digits with weight decay and spectral norms at most 1, each layer's optimum
marked.

    python benchmarks/scaling_laws.py --out docs/images
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from examples.datasets import DatasetUnavailableError, load_digits, load_mnist
from rankjax.bounds import (
    BoundResult,
    frobenius,
    low_rank,
    one_inf,
    optimal_p,
    pac_bayes_spectral,
    parameter_count,
    path_norm,
    rank_sparse,
    sample_complexity,
    spectral,
    vc,
)
from rankjax.matrix import project_spectral_ball
from rankjax.network import Measured, Sample, describe, measure

Bound = Callable[[Measured, Sample], BoundResult]
BOUNDS: dict[str, Bound] = {
    "rank_sparse, p = 0": lambda m, s: rank_sparse(m, s, p=0.0, gamma=1.0),
    "rank_sparse, p = 1": lambda m, s: rank_sparse(m, s, p=1.0, gamma=1.0),
    "rank_sparse, p = 2": lambda m, s: rank_sparse(m, s, p=2.0, gamma=1.0),
    "parameter_count": lambda m, s: parameter_count(m, s),
    "vc": lambda m, s: vc(m, s),
    "spectral": lambda m, s: spectral(m, s, gamma=1.0),
    "pac_bayes_spectral": lambda m, s: pac_bayes_spectral(m, s, gamma=1.0),
    "low_rank": lambda m, s: low_rank(m, s, gamma=1.0),
    "frobenius": lambda m, s: frobenius(m, s, gamma=1.0),
    "one_inf": lambda m, s: one_inf(m, s, gamma=1.0),
    "path_norm, order 1": lambda m, s: path_norm(m, s, gamma=1.0),
}
TEMPERATURE = 20.0  # networks of norm <= 1 have small logits
DECAY = 2e-2  # in the loss; it makes the layers nearly low-rank
GRIDS = {"width": (32, 64, 128, 256), "rank": (4, 8, 16, 32), "depth": (2, 4, 6, 8)}
BASE = {"width": 64, "rank": 8, "depth": 4}
# What the formulas say for these networks; "-": more than a power.
EXPECTED = {
    "rank_sparse, p = 0": ("1", "1", "2"), "rank_sparse, p = 1": ("1", "2/3", "2"),
    "rank_sparse, p = 2": ("1", "1/2", "2"), "parameter_count": ("2", "0", "2"),
    "vc": ("2 + log", "0", "2 + log"), "spectral": ("1", "1", "3"),
    "pac_bayes_spectral": ("1", "1", "3"), "low_rank": ("1", "2", "2"),
    "frobenius": ("0", "L = 4", "r^L: -"), "one_inf": ("~0", "~L = 4", "~r^L: -"),
    "path_norm, order 1": ("-", "-", "-"),
}  # fmt: skip


def exact_rank(width: int, rank: int, depth: int, seed: int = 0) -> dict[str, Any]:
    """Parameters of a chain of square layers of exact rank, singular values 1."""
    rng = np.random.default_rng(seed)
    params = {}
    for i in range(depth):
        u, _ = np.linalg.qr(rng.normal(size=(width, rank)))
        v, _ = np.linalg.qr(rng.normal(size=(width, rank)))
        params[f"layer{i:02d}"] = {"kernel": jnp.asarray(u @ v.T)}
    return params


def chain(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The ReLU network of these layers."""
    *hidden, last = (params[name]["kernel"] for name in sorted(params))
    for kernel in hidden:
        x = jax.nn.relu(x @ kernel)
    return x @ last


def slopes() -> dict[str, dict[str, float]]:
    """Least-squares slopes of log(bound^2 n), by bound and axis."""
    found: dict[str, dict[str, float]] = {name: {} for name in BOUNDS}
    for axis, grid in GRIDS.items():
        logs: dict[str, list[float]] = {name: [] for name in BOUNDS}
        for value in grid:
            sizes = {**BASE, axis: value}
            params, example = exact_rank(**sizes), jnp.ones((1, sizes["width"]))
            structure = describe(params, apply=chain, example=example)
            measured = measure(structure, params, apply=chain, example=example)
            sample = Sample.of_size(10000, inf_radius=1.0, dimension=sizes["width"])
            for name, bound in BOUNDS.items():
                logs[name].append(2 * float(bound(measured, sample).terms["log"]))
        for name, values in logs.items():
            found[name][axis] = float(np.polyfit(np.log(grid), values, 1)[0])
    return found


def improvements(width: int = 256, depth: int = 4) -> str:
    """How many fewer examples rank_sparse (p = 0) asks for than parameter_count."""
    rows = ["| rank | examples, rank_sparse | examples, parameter_count | ratio * 2 | W / r |"]
    rows.append("|--:|--:|--:|--:|--:|")
    for name, rank in (("W", width), ("sqrt W", math.isqrt(width)), ("1", 1)):
        params = exact_rank(width, rank, depth)
        measured = measure(describe(params), params)
        ours, theirs = (
            sample_complexity(
                lambda n, bound=bound, measured=measured: bound(measured, Sample.of_size(n)), 0.1
            )
            for bound in (BOUNDS["rank_sparse, p = 0"], BOUNDS["parameter_count"])
        )
        rows.append(f"| {name} = {rank} | {ours:.4g} | {theirs:.4g} | {2 * theirs / ours:.4g} | "
                    f"{width / rank:.4g} |")  # fmt: skip
    return "\n".join(rows)


def trained(epochs: int) -> tuple[Measured, Sample, str]:
    """A small network trained with weight decay in its loss, with its measurements."""
    try:
        data = load_mnist()
    except DatasetUnavailableError:
        data = load_digits()
    x, y = data.x_train.reshape(len(data.x_train), -1), data.y_train
    sizes = [x.shape[1], 256, 256, 256, 10]
    keys = jax.random.split(jax.random.key(0), 4)
    make = jax.nn.initializers.he_normal()
    params = {
        f"layer{i}": {"kernel": make(k, (a, b), jnp.float32)}
        for i, (k, a, b) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
    }

    def apply(params, x):
        for i in range(3):
            x = jax.nn.relu(x @ params[f"layer{i}"]["kernel"])
        return x @ params["layer3"]["kernel"]

    batch = 256
    per_epoch = len(x) // batch
    schedule = optax.cosine_decay_schedule(1e-3, epochs * per_epoch)
    optimizer = optax.adam(schedule)
    structure = describe(params, apply=apply, example=x[:1])

    @jax.jit
    def project(params):
        matrices = [project_spectral_ball(a, 1 - 1e-5) for a in structure.matrices(params)]
        return structure.replace(params, matrices)

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            logits = TEMPERATURE * apply(p, x)
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return entropy + DECAY / 2 * sum(jnp.sum(jnp.square(a)) for a in jax.tree.leaves(p))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for i in range(per_epoch):
            index = order[i * batch : (i + 1) * batch]
            params, state = step(params, state, x[index], y[index])
            if i % 10 == 0:
                params = project(params)
    params = project(params)
    sample = Sample.from_data(structure, params, x, y, apply=apply)
    words = f"{data.name}, {epochs} epochs, train error {float(sample.error()):.4f}"
    return measure(structure, params), sample, words


def over_p(measured: Measured, sample: Sample, path: Path, words: str) -> str:
    """Each layer's term for p from 0 to infinity (drawn over w = 2/(p+2)), the optimum marked."""
    grid = np.concatenate([np.linspace(0, 1, 41), np.geomspace(1.05, 100, 60), [np.inf]])
    w = 2 / (grid + 2)
    figure = Figure(figsize=(10, 4), layout="constrained")
    rows = [
        "| form | layer | optimal p | part at p = 0 | at the optimum | at p = 2 | at infinity |"
    ]
    rows.append("|---|---|--:|--:|--:|--:|--:|")
    for axes, form in zip(figure.subplots(1, 2), ("plain", "augmented"), strict=True):
        parts = np.stack(
            [np.asarray(rank_sparse(measured, sample, p=p, form=form).per_layer) for p in grid]
        )
        best = np.asarray(optimal_p(measured, sample, form=form, p_max=100.0))
        at_best = np.asarray(
            rank_sparse(measured, sample, p=jnp.asarray(best), form=form).per_layer
        )
        for i, name in enumerate(measured.structure.names):
            (line,) = axes.plot(w, parts[:, i], label=name)
            axes.plot(2 / (best[i] + 2), at_best[i], "o", color=line.get_color())
            two = parts[np.argmin(np.abs(grid - 2)), i]
            rows.append(f"| {form} | {name} | {best[i]:.3g} | {parts[0, i]:.3g} | {at_best[i]:.3g} "
                        f"| {two:.3g} | {parts[-1, i]:.3g} |")  # fmt: skip
        axes.set_yscale("log")
        ticks = [0.0, 0.5, 1.0, 2.0, 5.0, math.inf]
        axes.set_xticks([2 / (p + 2) for p in ticks], ["0", "1/2", "1", "2", "5", "inf"])
        axes.invert_xaxis()
        axes.set_xlabel("p (axis: 2/(p+2), where each curve is log-convex)")
        axes.set_ylabel("part of the layer (dominant term)")
        axes.set_title(f"rank_sparse, {form}", fontsize=10)
        axes.legend(fontsize=8)
        axes.grid(linewidth=0.4)
    figure.suptitle(words, fontsize=9)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("report"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{platform.machine()}, jax {jax.__version__}, numpy {np.__version__}\n")
    print(f"slopes of log(bound^2 n); base {BASE}, grids {GRIDS}\n")
    print("| bound | in W | expected | in r | expected | in L | expected |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, found in slopes().items():
        cells = [f"{found[a]:.2f} | {e}" for a, e in zip(GRIDS, EXPECTED[name], strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\nexamples for a bound of 0.1 (dominant terms):\n\n{improvements()}\n")
    measured, sample, words = trained(options.epochs)
    print(words + "\n")
    print(over_p(measured, sample, options.out / "bound_over_p.png", words))


if __name__ == "__main__":
    main()
