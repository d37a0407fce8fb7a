"""Guarantees of MLPs of growing width: what does a wider network cost?

MLPs 196-W-10 on MNIST (each image averaged over 2x2 pixels and scaled by itself) are trained as
integers for their certificate, and certified on all 60000 training images at delta = 0.01. Three
ways to store them:

- ``direct``: every weight as an integer;
- ``factors``: the hidden layer is a product of two integer factors of rank r;
- ``random basis``: the hidden layer is ``U C`` and the last one ``D V``. U (W x r) and V (q x W)
  are random, fixed by the seed 0 before the data were seen, and cost nothing; C (r x 196) and
  D (10 x q) are stored. The network is an MLP of width W and rank r all the same.

    python benchmarks/width.py --picture docs/images/width.svg
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from results import headline, write_results

from examples.certify_training import normalized
from examples.datasets import load_mnist
from rankjax.certificates import Schedule, compress
from rankjax.certificates.file import count_errors
from rankjax.network import describe

INPUTS, CLASSES, RANK, FEATURES = 196, 10, 24, 64
TRIED = 16
Params = dict[str, jax.Array]


def direct(params: Params, x: jax.Array) -> jax.Array:
    return _scaled_relu(x @ params["hidden"]) @ params["last"] / 8


def factors(params: Params, x: jax.Array) -> jax.Array:
    return _scaled_relu((x @ params["right"]) @ params["left"]) @ params["last"] / 8


def random_basis(basis: tuple[jax.Array, jax.Array], params: Params, x: jax.Array) -> jax.Array:
    left, right = basis
    return (_scaled_relu((x @ params["hidden"]) @ left) @ right) @ params["last"] / 8


def _scaled_relu(h: jax.Array) -> jax.Array:
    """ReLU, scaled for each example by itself: the logits then have one size at every width."""
    h = jax.nn.relu(h)
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + 1e-6)


def network(way: str, width: int, seed: int) -> tuple[Any, Params]:
    """The forward function and the numbers to begin with."""
    shapes = {
        "direct": {"hidden": (INPUTS, width), "last": (width, CLASSES)},
        "factors": {
            "right": (INPUTS, RANK), "left": (RANK, width), "last": (width, CLASSES)
        },
        "random basis": {"hidden": (INPUTS, RANK), "last": (FEATURES, CLASSES)},
    }[way]  # fmt: skip
    rng = np.random.default_rng(seed)
    params = {
        name: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }
    if way != "random basis":
        return {"direct": direct, "factors": factors}[way], params
    fixed = np.random.default_rng(0)
    left = fixed.normal(size=(RANK, width)) / np.sqrt(RANK)
    right = fixed.normal(size=(width, FEATURES)) / np.sqrt(width)
    basis = jnp.asarray(left, jnp.float32), jnp.asarray(right, jnp.float32)
    return partial(random_basis, basis), params


def run(data: Any, way: str, width: int, seed: int, epochs: int) -> dict[str, Any]:
    started = time.perf_counter()
    # Root mean square 1 instead of norm 1.
    x, x_test = (
        normalized(images, 2).reshape(len(images), -1) * np.float32(np.sqrt(INPUTS))
        for images in (data.x_train, data.x_test)
    )
    apply, params = network(way, width, seed)
    structure = describe(params, axes=dict.fromkeys(params, ((1,), (0,))))
    stored = compress(
        structure, params, exponent=0, apply=apply, x=x, y=data.y_train,
        schedule=Schedule(epochs=epochs, learning_rate=0.08, rate_weight=2, power=0.5, seed=seed),
    )  # fmt: skip
    found = stored.certificate(apply, x, data.y_train, delta=0.01, tried=TRIED)
    row = {
        "stored as": way,
        "width": width,
        "seed": seed,
        "integers": sum(a.size for a in params.values()),
        "non_zero": sum(a.non_zero for a in stored.arrays.values()),
        "nats": found.nats,
        "train error": found.empirical,
        "test error": count_errors(apply, stored.params, x_test, data.y_test) / len(x_test),
        "true error at most": found.value,
        "seconds": time.perf_counter() - started,
    }
    print("| " + " | ".join(_cell(value) for value in row.values()) + " |", flush=True)
    return row


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and value < 1 else str(value)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One curve per way: the median over seeds, and each seed as a dot."""
    figure, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for way, color in zip(("direct", "factors", "random basis"), ("C3", "C1", "C0"), strict=True):
        mine = [row for row in rows if row["stored as"] == way]
        widths = sorted({row["width"] for row in mine})
        values = [[r["true error at most"] for r in mine if r["width"] == w] for w in widths]
        ax.plot(widths, [statistics.median(v) for v in values], "-", color=color, label=way)
        for width, found in zip(widths, values, strict=True):
            ax.plot([width] * len(found), found, ".", color=color)
    ax.set_xscale("log", base=2)
    ax.set_xlabel("width")
    ax.set_ylabel("true error at most")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.legend(title="hidden layer stored as")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--ways", nargs="+", default=["direct", "factors", "random basis"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    data = load_mnist()
    print(f"{headline()}; delta 0.01, {options.epochs} epochs, rank {RANK}\n")
    rows = []
    for way in options.ways:
        for width in options.widths:
            for seed in options.seeds:
                rows.append(run(data, way, width, seed, options.epochs))
                write_results(rows)
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
