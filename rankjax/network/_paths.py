"""Leaves of a parameter tree by path, the same for every framework."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax


def path_string(path: Sequence[Any]) -> str:
    """Keys joined by ``/``, without the ``.value`` that NNX variables add to the end."""
    keys = list(path)
    if keys and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name == "value":
        keys.pop()
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def paths_and_leaves(params: Any) -> list[tuple[str, Any]]:
    """All leaves of a tree with their path strings."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(path_string(path), leaf) for path, leaf in flat]


def array_paths(params: Any) -> list[str]:
    """The paths of the array leaves, in the order of ``split_arrays``."""
    return [path for path, leaf in paths_and_leaves(params) if hasattr(leaf, "shape")]


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``Dense_2`` before ``Dense_10``; digits beyond ASCII are letters."""
    parts = re.split(r"([0-9]+)", path)
    return [(0, int(part[:18])) if i % 2 else (1, part) for i, part in enumerate(parts)]


@dataclass(frozen=True)
class Skeleton:
    """A tree without its arrays: hashable, so it can be a static argument of ``jax.jit``.

    Equinox modules hold functions, flags and numbers as leaves; those must not be traced.
    """

    treedef: Any
    other: tuple[Any, ...]

    def fill(self, arrays: Sequence[Any]) -> Any:
        """The tree with these arrays in the places of its own."""
        remaining = iter(arrays)
        leaves = [next(remaining) if leaf is _ARRAY else leaf for leaf in self.other]
        return jax.tree.unflatten(self.treedef, leaves)


_ARRAY = "an array stands here"


def split_arrays(params: Any) -> tuple[list[Any], Skeleton]:
    """The array leaves of a tree, and the rest of it."""
    leaves, treedef = jax.tree.flatten(params)
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]
    other = tuple(_ARRAY if hasattr(leaf, "shape") else leaf for leaf in leaves)
    return arrays, Skeleton(treedef, other)
