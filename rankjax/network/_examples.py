"""Labeled examples: how many there are, their batches, their margins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._linear_algebra import largest


def number_of_examples(x: Any, y: np.ndarray, batch_size: int) -> int:
    """n, after checking that labels and inputs fit together."""
    sizes = {a.shape[0] if np.ndim(a) else None for a in jax.tree.leaves(x)}
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.size == 0:
        raise ValueError(
            f"y: got shape {y.shape} of {y.dtype}, must be a non-empty vector of integers"
        )
    if sizes != {len(y)}:
        raise ValueError(f"x: got leading axes {sizes}, must all be {len(y)}, the length of y")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, must be at least 1")
    return len(y)


def number_of_inputs(x: Any, batch_size: int) -> int:
    """n, of inputs without labels.

    Raises:
        ValueError: for leaves without a common leading axis, no examples, or no batch.
    """
    sizes = {a.shape[0] if np.ndim(a) else None for a in jax.tree.leaves(x)}
    n = sizes.pop() if len(sizes) == 1 else None
    if not n:
        raise ValueError(
            f"x: got {jax.tree.map(np.shape, x)}, must be arrays with one leading axis of at "
            "least one example"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, must be at least 1")
    return n


def one_of(example: Any) -> Any:
    """A batch of one example, by shapes and dtypes.

    Raises:
        ValueError: for a leaf that is no array with a leading example axis.
    """

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                f"example: got {leaf!r}, must be arrays with a leading example axis; bind what is "
                "no array, as in lambda params, x: network(params, x, train=False)"
            )
        return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(one, example)


def batches(n: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of one batch after another, and how many of them count.

    All have ``batch_size`` entries, so that nothing is compiled anew for the last one: it is filled
    up with the last example.
    """
    for start in range(0, n, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), n - 1)
        yield index, min(batch_size, n - start)


def check_labels(y: np.ndarray, classes: int) -> None:
    """Raise ``ValueError`` unless the labels are those of the classes that ``apply`` returns."""
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"y: got labels from {y.min()} to {y.max()}; apply returns {classes} classes, so "
            f"allowed are 0 to {classes - 1}"
        )


def logits_of_one(output: Any) -> Array:
    """What ``apply`` returns for a batch of one example, as ``(classes,)``."""
    if not hasattr(output, "shape"):
        raise ValueError(
            f"apply: got {type(output).__name__} as outputs, must be one array of logits; take it "
            "out of what the network returns, as in lambda params, x: network(params, x)[0]"
        )
    logits = jnp.asarray(output)
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ValueError(
            f"apply: got outputs of shape {logits.shape} for one example, "
            "must be logits of shape (1, classes) with at least 2 classes"
        )
    return logits[0]


def margin_of(logits: Array, y: Array) -> Array:
    """``f(x)_y - max_{j != y} f(x)_j`` of one example."""
    others = jnp.where(jnp.arange(logits.shape[0]) == y, -jnp.inf, logits)
    return logits[y] - largest(others)
