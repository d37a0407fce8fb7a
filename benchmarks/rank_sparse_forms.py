"""The forms of the rank-sparse bound, and the parameter count, of networks trained on MNIST.

MLPs 784-W-W-10 without biases (each image scaled to norm 1) are trained with weight decay: as they
are, and with hidden layers that are products of two factors of rank r. Bounds are of the matrices
themselves, at the margin that costs 1 % of the training accuracy; the one-scale form chooses its
own.

    python benchmarks/rank_sparse_forms.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import headline, write_results

from examples.certify_training import normalized
from examples.datasets import load_mnist
from rankjax.bounds import parameter_count, rank_sparse
from rankjax.network import Sample, describe, measure

SCALE = 30.0  # of the logits in the loss: the networks' norms stay small
NETWORKS = [(256, None), (256, 32), (256, 8), (1024, 8), (256, 4)]
FORMS = {
    "plain": {"form": "plain"},
    "tail": {"form": "tail"},
    "one-scale (error)": {"kind": "explicit"},
    "chained (gap)": {"kind": "explicit", "form": "chained"},
    "chained, p = 0": {"kind": "explicit", "form": "chained", "p": 0.0},
}


def start(width: int, rank: int | None, seed: int) -> dict[str, Any]:
    """Matrices (in, out), or pairs of factors of them."""
    rng = np.random.default_rng(seed)
    sizes = [784, width, width, 10]
    params = {}
    for name, n, m in zip("abc", sizes[:-1], sizes[1:], strict=True):
        matrix = rng.normal(size=(n, m)) * np.sqrt(2 / n)
        if rank and name != "c":
            u, s, vt = np.linalg.svd(matrix, full_matrices=False)
            root = np.sqrt(s[:rank])
            params[name] = [u[:, :rank] * root, root[:, None] * vt[:rank]]
        else:
            params[name] = [matrix]
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    for name in sorted(params):
        for factor in params[name]:
            x = x @ factor
        x = jax.nn.relu(x) if name != "c" else x
    return x


def train(params: Any, x: np.ndarray, y: np.ndarray, epochs: int, decay: float) -> Any:
    steps = epochs * (len(x) // 256)
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=decay)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = SCALE * apply(params, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(epochs):
        for batch in rng.permutation(len(x))[: len(x) // 256 * 256].reshape(-1, 256):
            params, state = step(params, state, x[batch], y[batch])
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description="The forms of the rank-sparse bound, on MNIST.")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--decay", type=float, default=0.05)
    options = parser.parse_args()
    print(headline())
    data = load_mnist()
    x, test = (normalized(a, 1).reshape(-1, 784) for a in (data.x_train, data.x_test))
    y = np.asarray(data.y_train)
    rows = []
    for width, rank in NETWORKS:
        trained = train(start(width, rank, 0), x, y, options.epochs, options.decay)
        kernels = {k: {"kernel": reduce(jnp.matmul, v)} for k, v in trained.items()}
        as_lists = lambda p, x: apply({k: [v["kernel"]] for k, v in p.items()}, x)  # noqa: E731
        structure = describe(kernels, apply=as_lists, example=x[:1])
        sample = Sample.from_data(structure, kernels, x, y, apply=as_lists)
        measured = measure(structure, kernels)
        wrong = np.mean(np.argmax(as_lists(kernels, test), 1) != np.asarray(data.y_test))
        row = {
            "width": width, "rank": rank, "test_error": float(wrong),
            "train_error": float(sample.error()), "margin": float(sample.margin_at(0.01)),
            "norms": np.asarray(measured.operator_norm).tolist(),
            "parameter count": float(parameter_count(measured, sample).value),
        }  # fmt: skip
        for name, form in FORMS.items():
            row[name] = float(rank_sparse(measured, sample, delta=0.01, **form).value)
        rows.append(row)
        print(row, flush=True)
    write_results(rows)


if __name__ == "__main__":
    main()
