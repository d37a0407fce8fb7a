"""The comparison of Ledent, Alves and Lei (2025) at the size of a small machine: train, then bound.

Networks without biases: MLPs of 5 layers on MNIST, and convolutional networks with 3 convolutions
and 5 dense layers on MNIST and on an MNIST-M-style colour set, for several widths. References are
0. The margin is the largest one that costs at most 1 % of the training accuracy.

    python benchmarks/paper_comparison.py                # train what is missing, then the table
    python benchmarks/paper_comparison.py --train-only

Each finished network is kept in the cache folder, so an interrupted experiment goes on where it
stopped. Every layer, as a linear map, is kept at norm <= 1 by projection: after each step its
singular values above 1 are cut down to 1. An SVD a step would cost more than the step, so the
DIRECTIONS leading singular vectors are followed from step to step by one step of block power
iteration. (To divide a layer by its norm instead shrinks all its singular values whenever the first
exceeds 1, step after step: such MLPs ended with few directions and 92-93 % accuracy.) Power
iteration underestimates, so at the end an exact projection decides: the table shows the largest
exact norm before and after it. Networks that are 1-Lipschitz have small logits: the loss sees them
times TEMPERATURE.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bar_chart import bar_chart
from colour_digits import load_colour_digits
from results import headline, write_results

from examples.datasets import Dataset, load_mnist
from examples.wheels import cache_folder
from rankjax.bounds import Table, compare
from rankjax.matrix import project_spectral_ball
from rankjax.network import Perturbed, describe, measure
from rankjax.report import markdown_table

TEMPERATURE = {"MLP": 20.0, "CNN": 100.0}
DIRECTIONS = 16
NOISE_SCALES = (0.004, 0.016, 0.03)
CHANNELS = (16, 32, 32)
DENSE_LAYERS = 5


@dataclass(frozen=True)
class Run:
    """One network of the comparison."""

    architecture: str  # "MLP" or "CNN"
    dataset: str  # "mnist" or "mnist-m-style"
    width: int
    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its file in the cache."""
        return f"{self.architecture}-{self.dataset}-{self.width}-epochs{self.epochs}"


def runs(epochs_mlp: int, epochs_cnn: int, cnn_widths: list[int]) -> list[Run]:
    mlps = [Run("MLP", "mnist", width, epochs_mlp) for width in (200, 600, 1000)]
    cnns = [
        Run("CNN", dataset, width, epochs_cnn)
        for dataset in ("mnist", "mnist-m-style")
        for width in cnn_widths
    ]
    return mlps + cnns


def initialise(run: Run, shape: tuple[int, ...]) -> dict[str, dict[str, jax.Array]]:
    """Flax-like parameters: ``{"conv_0": {"kernel": ...}, "dense_0": ...}``."""
    height, width, channels = shape
    kernels: dict[str, tuple[int, ...]] = {}
    if run.architecture == "CNN":
        for i, out in enumerate(CHANNELS):
            kernels[f"conv_{i}"] = (3, 3, channels, out)
            height, width, channels = (height + 1) // 2, (width + 1) // 2, out
    units = [height * width * channels, *[run.width] * (DENSE_LAYERS - 1), 10]
    for i in range(DENSE_LAYERS):
        kernels[f"dense_{i}"] = (units[i], units[i + 1])
    keys = jax.random.split(jax.random.key(run.seed), len(kernels))
    make = jax.nn.initializers.he_normal()
    pairs = zip(keys, kernels.items(), strict=True)
    return {name: {"kernel": make(key, size, jnp.float32)} for key, (name, size) in pairs}


def apply(params: Any, x: jax.Array) -> jax.Array:
    for i in range(len(CHANNELS)):
        if f"conv_{i}" in params:
            kernel = params[f"conv_{i}"]["kernel"]
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
            x = jax.nn.relu(x)
    x = x.reshape(x.shape[0], -1)
    for i in range(DENSE_LAYERS):
        x = x @ params[f"dense_{i}"]["kernel"]
        x = jax.nn.relu(x) if i < DENSE_LAYERS - 1 else x
    return x


def first_directions(matrix: jax.Array) -> jax.Array:
    """Right singular vectors to start the block power iteration from."""
    _, _, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return vh[:DIRECTIONS].T


def clip(matrix: jax.Array, radius: float, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cut the followed singular values down to ``radius``; also returns the new directions."""
    u, _ = jnp.linalg.qr(matrix @ v)
    small = u.T @ matrix  # its singular values are estimates, never too large
    squares, w = jnp.linalg.eigh(small @ small.T)
    sigma = jnp.sqrt(jnp.maximum(squares, 1e-12))
    cut = jnp.maximum(0, 1 - radius / sigma)
    matrix = matrix - (u @ w) @ (cut[:, None] * (w.T @ small))
    v, _ = jnp.linalg.qr(small.T)
    return matrix, v


def train(run: Run, data: Dataset) -> dict[str, Any]:
    """Train one network, or read it from the cache."""
    folder = cache_folder() / "paper_comparison"
    folder.mkdir(exist_ok=True)
    path = folder / f"{run.name}.npz"
    if path.exists():
        return _load(path)
    params = initialise(run, data.x_train.shape[1:])
    structure = describe(params, apply=apply, example=data.x_train[:1])
    gather = [layer.gather_norm for layer in structure.layers]
    per_epoch = len(data.x_train) // run.batch_size
    steps = run.epochs * per_epoch
    optimizer = optax.adam(optax.cosine_decay_schedule(run.learning_rate, steps))

    def loss(params, x, y):
        logits = TEMPERATURE[run.architecture] * apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def project(params, directions):
        pairs = zip(structure.matrices(params), gather, directions, strict=True)
        done = [clip(m[0, 0], 1 / factor, q) for m, factor, q in pairs]
        matrices = [matrix[None, None] for matrix, _ in done]
        return structure.replace(params, matrices), [q for _, q in done]

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, state, directions, x, y):
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state, params)
        params, directions = project(optax.apply_updates(params, updates), directions)
        return params, state, directions, value

    rng = np.random.default_rng(run.seed)
    norms = measure(structure, params).operator_norm
    scaled = [m / norm for m, norm in zip(structure.matrices(params), norms, strict=True)]
    params = structure.replace(params, scaled)
    directions = [first_directions(m[0, 0]) for m in structure.matrices(params)]
    state = optimizer.init(params)
    started = time.perf_counter()
    for epoch in range(run.epochs):
        order, total = rng.permutation(len(data.x_train)), 0.0
        for i in range(per_epoch):
            index = order[i * run.batch_size : (i + 1) * run.batch_size]
            params, state, directions, value = step(
                params, state, directions, data.x_train[index], data.y_train[index]
            )
            total += float(value)
        seconds = time.perf_counter() - started
        print(f"{run.name}: epoch {epoch + 1}/{run.epochs}, mean loss {total / per_epoch:.3f}, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip
    before = measure(structure, params).operator_norm
    pairs = zip(structure.matrices(params), gather, strict=True)
    # A rounding error below 1, not above.
    exact = [project_spectral_ball(m, (1 - 1e-5) / factor) for m, factor in pairs]
    params = structure.replace(params, exact)
    after = measure(structure, params).operator_norm
    facts = {
        **asdict(run),
        "seconds": time.perf_counter() - started,
        "temperature": TEMPERATURE[run.architecture],
        "norm_before_last_projection": float(before.max()),
        "norm": float(after.max()),
        "train_accuracy": _accuracy(params, data.x_train, data.y_train),
        "test_accuracy": _accuracy(params, data.x_test, data.y_test),
    }
    arrays = {name: np.asarray(layer["kernel"]) for name, layer in params.items()}
    scratch = path.with_suffix(".part.npz")
    np.savez(scratch, facts=np.array(json.dumps(facts)), **arrays)  # pyright: ignore
    scratch.replace(path)
    print(f"{run.name}: train {facts['train_accuracy']:.4f}, test {facts['test_accuracy']:.4f}, "
          f"largest norm {facts['norm_before_last_projection']:.6f} -> {facts['norm']:.6f}, "
          f"{facts['seconds']:.0f} s", flush=True)  # fmt: skip
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        params = {k: {"kernel": jnp.asarray(stored[k])} for k in stored.files if k != "facts"}
    return {"facts": facts, "params": params}


@jax.jit
def _right(params, x, y):
    return jnp.argmax(apply(params, x), -1) == y


def _accuracy(params: Any, x: np.ndarray, y: np.ndarray, batch: int = 2000) -> float:
    parts = [_right(params, x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
    return float(jnp.concatenate(parts).mean())


def evaluate(run: Run, trained: dict[str, Any], data: Dataset, noise_draws: int) -> Table:
    """All bounds of one network, with M = 0 and the margin at 1 % of the training accuracy."""
    params, facts = trained["params"], trained["facts"]
    structure = describe(params, apply=apply, example=data.x_train[:1])
    started = time.perf_counter()
    perturbed = None
    if noise_draws:
        perturbed = Perturbed.from_data(
            params, data.x_train, data.y_train, apply=apply, scales=NOISE_SCALES, draws=noise_draws
        )
    table = compare(structure, params, data.x_train, data.y_train, apply=apply, perturbed=perturbed)
    shown = (
        ("network", run.name),
        ("epochs", run.epochs),
        ("train accuracy", f"{facts['train_accuracy']:.4f}"),
        ("test accuracy", f"{facts['test_accuracy']:.4f}"),
        ("largest exact norm before and after the last projection",
         f"{facts['norm_before_last_projection']:.6f}, {facts['norm']:.6f}"),
        ("training seconds", f"{facts['seconds']:.0f}"),
        ("seconds for the bounds, compilation included", f"{time.perf_counter() - started:.1f}"),
    )  # fmt: skip
    return replace(table, facts=shown)


def summary(tables: dict[str, Table]) -> str:
    """One Markdown table, log10 of every bound, one column a network."""
    kinds = {(r.name, r.kind): r.quantity for t in tables.values() for r in t.results}
    rows = ["| bound | kind | quantity | " + " | ".join(tables) + " |"]
    rows.append("|---|---|---|" + "--:|" * len(tables))
    first = next(iter(tables.values()))

    def place(key):
        found = [row["log10"] for row in first.rows() if (row["bound"], row["kind"]) == key]
        return key[1], found[0] if found else 1e9

    for key in sorted(kinds, key=place):
        cells = []
        for table in tables.values():
            found = [row["log10"] for row in table.rows() if (row["bound"], row["kind"]) == key]
            cells.append(f"{found[0]:.2f}" if found else "-")
        rows.append(f"| {key[0]} | {key[1]} | {kinds[key]} | " + " | ".join(cells) + " |")
    for label in ("epochs", "train accuracy", "test accuracy"):
        cells = [str(dict(table.facts)[label]) for table in tables.values()]
        rows.append(f"| *{label}* | | | " + " | ".join(cells) + " |")
    gammas = [f"{table.gamma:.3g}" for table in tables.values()]
    rows.append("| *margin at 1 %* | | | " + " | ".join(gammas) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs-mlp", type=int, default=8)
    parser.add_argument("--epochs-cnn", type=int, default=6)
    parser.add_argument("--cnn-widths", type=int, nargs="+", default=[200, 600])
    parser.add_argument("--noise-draws", type=int, default=50, help="for pac_bayes_gaussian")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("report/paper_comparison"))
    options = parser.parse_args()
    print(headline(), flush=True)
    data = {"mnist": load_mnist, "mnist-m-style": load_colour_digits}
    loaded: dict[str, Dataset] = {}
    tables: dict[str, Table] = {}
    for run in runs(options.epochs_mlp, options.epochs_cnn, options.cnn_widths):
        if run.dataset not in loaded:
            loaded[run.dataset] = data[run.dataset]()
        trained = train(run, loaded[run.dataset])
        if not options.train_only:
            table = evaluate(run, trained, loaded[run.dataset], options.noise_draws)
            tables[f"{run.architecture} {run.dataset} {run.width}"] = table
            print(f"\n{markdown_table(table.sorted())}\n", flush=True)
    if options.train_only:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"\nlog10 of every bound:\n\n{summary(tables)}\n")
    write_results([{"network": name} | json.loads(t.to_json()) for name, t in tables.items()])
    for name, table in tables.items():
        text = markdown_table(table.sorted(), breakdown=True)
        (options.out / f"{name.replace(' ', '-')}.md").write_text(text)
    for architecture in ("MLP", "CNN"):
        chosen = {name: t for name, t in tables.items() if name.startswith(architecture)}
        if chosen:
            title = (
                f"{architecture}: bounds at the margin that costs 1 % of training accuracy, M = 0"
            )
            bar_chart(chosen, options.out / f"bounds_{architecture.lower()}.png", title=title)


if __name__ == "__main__":
    main()
