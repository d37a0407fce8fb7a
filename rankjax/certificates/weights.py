"""The weights that a certificate codes, read out of the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates.recursion import Recursion, axes_of
from rankjax.network.paths import paths_and_leaves
from rankjax.network.structure import Structure


def read_weights(
    structure: Structure, program: Recursion, params: Any, reference: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """The weights as the certificate sees them, in float64.

    Returns:
        Per path: the leaf, as ``(members, m, n)`` or as a bias of its own shape; the same of leaf
        minus reference; and the shape of each member.

    Raises:
        ValueError: if ``structure`` leaves a matrix out or sees it with other axes than ``apply``,
            or if ``reference`` does not fit.
    """
    known = {layer.path: layer for layer in structure.spec}
    missing = [path for path in program.matrices if path not in known]
    if missing:
        raise ValueError(
            f"structure: leaves out {missing}, which apply multiplies with the data; a certificate "
            "must code every weight"
        )
    for path, view in zip(program.matrices, program.views, strict=True):
        if axes_of(known[path].view) != view:
            raise ValueError(
                f"structure: {path!r} has axes {axes_of(known[path].view)}, apply uses {view}; "
                "make the structure with describe(params, apply=..., example=...)"
            )
    mine = _leaves(params)
    theirs = {path: np.zeros(leaf.shape) for path, leaf in mine.items()}
    if reference is not None:
        theirs = _leaves(reference)
        wrong = [p for p in mine if p not in theirs or theirs[p].shape != mine[p].shape]
        if wrong:
            raise ValueError(f"reference: lacks {wrong}, or has another shape there")
    leaves, moved, shapes = {}, {}, {}
    for path in (*program.matrices, *program.biases):
        leaf, difference = mine[path], mine[path] - theirs[path]
        if path in program.biases:
            leaves[path], moved[path], shapes[path] = leaf, difference, (leaf.size,)
            continue
        layer = known[path]
        shapes[path] = layer.matrix_shape
        with jax.enable_x64(True):
            stack = [np.asarray(layer.matrix(jnp.asarray(a))) for a in (leaf, difference)]
        leaves[path], moved[path] = (a.reshape(-1, *layer.matrix_shape) for a in stack)
    return leaves, moved, shapes


def _leaves(params: Any) -> dict[str, np.ndarray]:
    pairs = paths_and_leaves(params)
    return {path: np.asarray(leaf, np.float64) for path, leaf in pairs if hasattr(leaf, "shape")}
