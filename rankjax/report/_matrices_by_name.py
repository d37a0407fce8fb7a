"""Which leaves of a checkpoint are weight matrices: told by their names alone.

``describe`` follows a forward function, or knows the names of one framework; a checkpoint is only
names and shapes, of any framework, with keys joined by ``/`` or by ``.``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from rankjax._arguments import one_of
from rankjax.network import Layer, LeftOut, Structure, View
from rankjax.network.axes import view_by_name

Layout = Literal["flax", "torch", "equinox"]  # how weights are stored
_IN_OUT, _OUT_IN = "kernel", "weight"  # the names by which ``view_by_name`` knows the two
_TORCH_WEIGHT = re.compile(r"(.+_)?weight(_.+)?")  # also in_proj_weight, weight_ih_l0
_LOOKUP = re.compile(r"embed|^wte|^wpe")


def matrices_by_name(
    leaves: Mapping[str, Any], *, layout: Layout | None = None, embeddings: bool = False
) -> Structure:
    """The weight matrices among the leaves of a checkpoint, in natural order of their paths.

    Args:
        leaves: arrays by path, keys joined by ``/`` or ``.``.
        layout: ``"flax"``: (in, out), convolutions (*window, in, out); ``"torch"`` or
            ``"equinox"``: (out, in), convolutions (out, in, *window); then every leaf with two axes
            or more is a matrix, whatever its name, unless it is a bias, a scale, a table or state.
            ``None``: the last key decides, ``kernel`` or ``weight``.
        embeddings: include tables of embeddings, seen as (features, entries).

    Returns:
        A ``Structure``; other leaves are in its ``left_out``, each with the reason.

    Raises:
        ValueError: for an unknown layout.
    """
    if layout is not None:
        one_of(layout, "layout", Layout)
    spec: list[Layer] = []
    left_out: list[LeftOut] = []
    for path in sorted(leaves, key=_natural):
        leaf = leaves[path]
        shape = tuple(leaf.shape)
        view = _view(path, shape, np.dtype(leaf.dtype), layout, embeddings)
        if isinstance(view, View):
            spec.append(Layer(path, shape, view))
        else:
            left_out.append(LeftOut(path, shape, view))
    return Structure(tuple(spec), tuple(left_out))


def is_floating(dtype: np.dtype) -> bool:
    """Also bfloat16 and the float8 types, which NumPy does not know as floating."""
    return jnp.issubdtype(dtype, jnp.floating)


def guessed_layout(structure: Structure) -> str:
    """What the names say: ``flax``, ``torch or equinox``, a mixture, or nothing."""
    first = {
        "torch or equinox" if layer.view.out == (0,) else "flax"
        for layer in structure.spec
        if not _is_lookup(_keys(layer.path), len(layer.shape))
    }
    return " and ".join(sorted(first)) or "none"


def _keys(path: str) -> list[str]:
    keys = re.split(r"[/.]", path)
    # A saved NNX state has a level more, for the value of each variable.
    return keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys


def _is_lookup(keys: list[str], rank: int) -> bool:
    # A kernel with more axes under such a name is the convolution that makes patches.
    return rank == 2 and any(_LOOKUP.search(key.lower()) for key in keys[-2:])


def _view(
    path: str, shape: tuple[int, ...], dtype: np.dtype, layout: Layout | None, embeddings: bool
) -> View | str:
    keys, rank = _keys(path), len(shape)
    if not is_floating(dtype):
        return f"holds {dtype.name}, not floating point weights"
    if rank >= 2 and 0 in shape:
        return "empty"
    if _is_lookup(keys, rank):
        table = "embedding: a lookup table, not a matrix applied to activations"
        return View(out=(1,), in_=(0,)) if embeddings else table
    name, parent = keys[-1], keys[-2] if len(keys) > 1 else ""
    if _TORCH_WEIGHT.fullmatch(name):
        name = _OUT_IN
    if rank > 2 and parent.lower().startswith("embed"):
        parent = "conv"
    known = (*keys[:-2], parent, name)
    view = view_by_name("/".join(known), shape)
    if rank < 2:
        return view
    unknown = isinstance(view, str) and view.startswith("not recognised")
    if layout is None:
        return f"{view}; a layout (flax, torch, equinox) includes it" if unknown else view
    if isinstance(view, View) or unknown or view.startswith("a kernel with 3 axes"):
        name = _IN_OUT if layout == "flax" else _OUT_IN
        return view_by_name("/".join((*known[:-1], name)), shape)
    return view


def _natural(path: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``layer.2`` before ``layer.10``; digits beyond ASCII are letters."""
    parts = re.split(r"([0-9]+)", path)
    return [(0, int(part[:18])) if i % 2 else (1, part) for i, part in enumerate(parts)]
