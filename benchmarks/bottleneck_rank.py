"""Ranks of weights and of activations, layer by layer, over training and over depth.

Bias-free ReLU networks of several depths are trained with Adam on 10000 images of MNIST (or,
without it, of scikit-learn's digits); the loss has ``decay / 2 sum_l |A_l|_F^2``, the weight decay
of the theory. Ranks are measured on 1000 of the training images: those of the inputs of every
layer, and those of its weights.

    python benchmarks/bottleneck_rank.py --out docs/images/bottleneck_rank.png
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from examples.datasets import DatasetUnavailableError, load_digits, load_mnist
from rankjax.network import activation_ranks, describe, measure, weight_ranks

WIDTH = 128
BATCH = 128
RTOL = 1e-2  # of the numerical rank


def apply(params: Any, x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    names = sorted(params)
    for name in names[:-1]:
        x = jax.nn.relu(x @ params[name]["kernel"])
    return x @ params[names[-1]]["kernel"]


def train(x, y, depth: int, decay: float, epochs: int, seed: int = 0) -> dict[str, Any]:
    """Train one network; ranks at the start and after every epoch."""
    sizes = [int(np.prod(x.shape[1:])), *[WIDTH] * (depth - 1), 10]
    keys = jax.random.split(jax.random.key(seed), depth)
    make = jax.nn.initializers.he_normal()
    params = {
        f"layer{i:02d}": {"kernel": make(k, (a, b), jnp.float32)}
        for i, (k, a, b) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
    }
    structure = describe(params, apply=apply, example=x[:1])
    per_epoch = len(x) // BATCH
    schedule = optax.cosine_decay_schedule(1e-3, epochs * per_epoch)
    optimizer = optax.adam(schedule)

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, state, batches_x, batches_y):
        def step(carry, batch):
            params, state = carry

            def loss(p):
                logits = apply(p, batch[0])
                entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
                squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(p)]
                return entropy.mean() + decay / 2 * sum(squares)

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), (batches_x, batches_y))[0]

    rng, state = np.random.default_rng(seed), optimizer.init(params)
    history: dict[str, list[Any]] = {"weights": [], "activations": []}
    for number in range(epochs + 1):
        weights = weight_ranks(measure(structure, params), rtol=RTOL)
        inputs = activation_ranks(structure, params, x[:1000], apply=apply, rtol=RTOL)
        history["weights"].append(jax.device_get(weights))
        history["activations"].append(jax.device_get(inputs))
        if number < epochs:
            order = rng.permutation(len(x))[: per_epoch * BATCH].reshape(per_epoch, BATCH)
            params, state = epoch(params, state, x[order], y[order])
    accuracy = float(jnp.mean(jnp.argmax(apply(params, jnp.asarray(x)), -1) == y))
    return {"history": history, "accuracy": accuracy, "depth": depth, "decay": decay}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Above: the deepest network over training; below: all of them at the end, over depth."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    rows = figure.subplots(2, 3)
    deep = runs[-1]
    colours = {"effective": "#084594", "stable": "#d94801", "numerical": "#238b45"}
    for axes, (what, name) in zip(
        rows[0],
        (("weights", "effective"), ("activations", "effective"), ("activations", "stable")),
        strict=True,
    ):
        table = np.stack([ranks[name] for ranks in deep["history"][what]])
        image = axes.imshow(table.T, aspect="auto", origin="lower", cmap="viridis")
        axes.set_title(f"{name} rank of {what}, depth {deep['depth']}", fontsize=9)
        axes.set_xlabel("epoch")
        axes.set_ylabel("layer")
        figure.colorbar(image)
    styles = ("-", "--", ":", "-.")
    for axes, (what, name) in zip(
        rows[1],
        (("weights", "effective"), ("activations", "effective"), ("activations", "numerical")),
        strict=True,
    ):
        for style, run in zip(styles, runs, strict=False):
            last = run["history"][what][-1][name]
            place = np.arange(len(last)) / (len(last) - 1)
            label = f"depth {run['depth']}, decay {run['decay']:g}"
            axes.plot(place, last, style, color=colours[name], label=label, marker="o", ms=3)
        axes.set_yscale("log")
        axes.set_title(f"{name} rank of {what} after training", fontsize=9)
        axes.set_xlabel("place of the layer (0 first, 1 last)")
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--decay", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("report/bottleneck_rank.png"))
    options = parser.parse_args()
    try:
        data = load_mnist()
    except DatasetUnavailableError as error:
        print(error)
        data = load_digits()
    x, y = data.x_train[:10000], data.y_train[:10000]
    print(
        f"{platform.machine()}, jax {jax.__version__}, {data.name}, {len(x)} examples, "
        f"width {WIDTH}, {options.epochs} epochs, numerical rank at {RTOL:g} of the largest\n"
    )
    print("| depth | weight decay | train accuracy | what | rank | by layer, first to last |")
    print("|--:|--:|--:|---|---|---|")
    runs = []
    for depth, decay in ((4, options.decay), (8, options.decay), (12, 0.0), (12, options.decay)):
        run = train(x, y, depth, decay, options.epochs)
        runs.append(run)
        for what in ("weights", "activations"):
            for name in ("numerical", "stable", "effective"):
                values = " ".join(f"{v:.3g}" for v in run["history"][what][-1][name])
                print(f"| {depth} | {decay:g} | {run['accuracy']:.4f} | {what} | {name} | "
                      f"{values} |", flush=True)  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, options.out)


if __name__ == "__main__":
    main()
