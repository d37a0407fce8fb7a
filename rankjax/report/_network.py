"""A network that was read from disk: its checkpoint, its forward function, its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankjax.network import Structure, describe
from rankjax.network.internal import paths_and_leaves
from rankjax.report._matrices_by_name import Layout, is_floating, matrices_by_name
from rankjax.report._sequential import sequential
from rankjax.report.checkpoints import Checkpoint, CheckpointError, load, read_npz, shown


@dataclass(frozen=True)
class Network:
    """A checkpoint with its forward function.

    Attributes:
        checkpoint: as read.
        params: its arrays, half precision made float32.
        structure: from ``describe`` with the forward function.
        apply: the forward function.
        reference: like ``params``, or ``None``.
    """

    checkpoint: Checkpoint
    params: Any
    structure: Structure
    apply: Callable[[Any, Any], Any]
    reference: Any = None


def read_data(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """``x`` (as float32) and ``y`` (integers) of an npz file.

    Raises:
        CheckpointError: a file that cannot be read, or without them.
    """
    if not path.is_file():
        raise CheckpointError(f"{shown(str(path))}: no such file")
    arrays, unread = read_npz(path)
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        held = sorted(map(shown, arrays))
        whys = "".join(f"; {shown(leaf.path)}: {shown(leaf.text)}" for leaf in unread)
        raise CheckpointError(f"{path} must hold x and y, it holds {held}{whys}")
    x, y = arrays["x"], arrays["y"]
    if x.dtype.kind not in "biuf" or x.ndim < 2 or not np.isfinite(x).all():
        raise CheckpointError(
            f"{path}: x has shape {x.shape} of {x.dtype.name}, must be finite numbers with the "
            "examples first"
        )
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1] or not y.size:
        raise CheckpointError(
            f"{path}: y has shape {y.shape} of {y.dtype.name}, must be {len(x)} integers (and at "
            "least one), like x"
        )
    return x.astype(np.float32), y.astype(np.int64)


def read_network(
    path: Path,
    x: np.ndarray,
    *,
    apply: Callable[[Any, Any], Any] | None = None,
    words: str | None = None,
    layout: Layout | None = None,
    reference: Path | None = None,
    activations: Mapping[str, float] | None = None,
) -> Network:
    """Read a checkpoint and follow its weights through the forward function.

    Args:
        path: see ``load``.
        x: examples.
        apply: ``apply(params, x) -> logits``; or
        words: see ``sequential``.
        layout: see ``matrices_by_name``; for ``words`` only.
        reference: another checkpoint with the same paths and shapes.
        activations: Lipschitz constants by name, of jitted functions that ``apply`` calls (see
            ``describe``) or of ``words`` (see ``sequential``).

    Raises:
        ValueError: what ``load``, ``sequential`` and ``describe`` raise, weights that are not
            finite.
    """
    checkpoint = load(path)
    params = _in_float32(checkpoint)
    lipschitz: Any = None
    if words is not None:
        by_name = matrices_by_name(dict(paths_and_leaves(params)), layout=layout)
        network = sequential(words, by_name, params, activations=activations)
        features = int(np.prod(x.shape[1:]))
        expected = by_name.layers[0].matrix_shape[1]
        if features != expected:
            first = by_name.layers[0].path
            raise ValueError(f"{first} takes {expected} inputs, an example has {features} numbers")
        apply, lipschitz, activations = network.apply, network.lipschitz, None
    assert apply is not None
    structure = describe(
        params, apply=apply, example=x[:1], lipschitz=lipschitz, activations=activations
    )
    for matrix, layer in zip(structure.matrices(params), structure.layers, strict=True):
        if not np.isfinite(matrix).all():
            raise ValueError(f"{shown(layer.path)} holds entries that are not finite")
    base = None if reference is None else _in_float32(load(reference))
    return Network(checkpoint, params, structure, apply, base)


def _in_float32(checkpoint: Checkpoint) -> Any:
    def converted(leaf: Any) -> Any:
        narrow = hasattr(leaf, "dtype") and is_floating(leaf.dtype) and leaf.dtype.itemsize < 4
        return leaf.astype(np.float32) if narrow else leaf

    return jax.tree.map(converted, checkpoint.tree)
