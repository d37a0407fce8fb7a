"""Path norms by a forward pass of the absolute (or squared) weights on ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax.network._left_out import Reason
from rankjax.network._paths import path_string
from rankjax.network._structure import Structure


def path_norms(
    structure: Structure, params: Any, example: Any, *, apply: Callable[[Any, Any], Any]
) -> Array:
    """``(2,)``: for order 1 and 2, the largest over outputs of ``(sum |path|^order)^(1/order)``.

    Non-negative activations pass ReLU, max and average pooling as the theory of path norms wants
    them to. Whether the network is positively homogeneous is checked by a second input, 2 instead
    of 1: NaN if not. Biases (and all else that is added) are set to 0.
    """
    return jnp.stack([_forward(structure, params, example, apply, order) for order in (1, 2)])


def path_norms_of_chain(structure: Structure, matrices: Sequence[Array]) -> Array | None:
    """The same from the matrices alone; ``None`` unless they are a plain chain of dense layers."""
    if not _is_chain(structure, matrices):
        return None
    members = [at_least_float32(a)[i, 0] for a in matrices for i in range(a.shape[0])]
    return jnp.stack([_chain(members, order) for order in (1, 2)])


def _is_chain(structure: Structure, matrices: Sequence[Array]) -> bool:
    shapes = []
    for layer, matrix in zip(structure.layers, matrices, strict=True):
        if layer.parallel != 1 or layer.uses != 1 or layer.positions != 1 or layer.convolution:
            return False
        shapes += [matrix.shape[-2:]] * matrix.shape[0]
    return all(a[0] == b[1] for a, b in itertools.pairwise(shapes))


def _chain(members: Sequence[Array], order: int) -> Array:
    v = jnp.ones(members[0].shape[-1], members[0].dtype)
    for a in members:
        v = jnp.dot(_power(a, order), v.astype(a.dtype), precision=jax.lax.Precision.HIGHEST)
    return _root(jnp.max(v), order)


def _forward(structure: Structure, params: Any, example: Any, apply, order: int) -> Array:
    zero = {leaf.path for leaf in structure.left_out if leaf.why is Reason.ADDED}

    def replaced(path, leaf):
        if not hasattr(leaf, "shape") or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.zeros_like(leaf) if path_string(path) in zero else _power(leaf, order)

    powered = jax.tree_util.tree_map_with_path(replaced, params)

    def run(level: float) -> Array:
        x = jax.tree.map(lambda a: jnp.full((1, *a.shape[1:]), level, a.dtype), example)
        return jnp.asarray(apply(powered, x))

    once, twice = run(1.0), run(2.0)
    scale = jnp.max(jnp.abs(twice))
    same = jnp.max(jnp.abs(twice - 2 * once)) <= 1e-3 * scale
    return at_least_float32(jnp.where(same, _root(jnp.max(once), order), jnp.nan))


def _power(a: Array, order: int) -> Array:
    return jnp.abs(a) if order == 1 else jnp.square(a)


def _root(value: Array, order: int) -> Array:
    if order == 1:
        return value
    return jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1)), value)
