"""How a leaf is seen as a matrix, told by its name and its number of axes.

Never by the sizes of the axes. Where the forward function is at hand, ``_tracing`` decides by what
the leaf does.
"""

from __future__ import annotations

import re
from typing import Literal

from rankjax.network._left_out import LeftOut, Reason
from rankjax.network._view import View

Layout = Literal["flax", "torch", "equinox"]  # how weights are stored

# Kernels that put the output axes last, as Flax and Haiku do, and those that put them first.
_IN_OUT = {"kernel", "w", "lora_a", "lora_b"}
_OUT_IN = "weight"
_TORCH_WEIGHT = re.compile(r"(.+_)?weight(_.+)?")  # also in_proj_weight, weight_ih_l0
_LOOKUPS = {"embedding", "embeddings", "pos_embedding", "cls", "cls_token"}
_TABLE = re.compile(r"embed|^wte|^wpe")
_PROJECTIONS_IN = {"query", "key", "value", "q_proj", "k_proj", "v_proj", "qkv"}
_PROJECTIONS_OUT = {"out", "o_proj", "out_proj"}
_VECTORS = {"bias": Reason.BIAS, "scale": Reason.SCALE}  # also with two axes, in a stack
_STATE = {"batch_stats", "cache", "opt_state"}


def view_by_name(
    path: str,
    shape: tuple[int, ...],
    *,
    layout: Layout | None = None,
    embeddings: bool = False,
    saved: bool = False,
) -> View | LeftOut:
    """The view that a path and a number of axes imply, or the reason why there is none.

    Args:
        path: keys joined by ``/`` or ``.``.
        shape: the leaf's shape.
        layout: how weights are stored; then every leaf with two axes or more is a matrix, whatever
            its name, unless it is a bias, a scale, a table or state. ``None``: the last key
            decides, ``kernel`` or ``weight``.
        embeddings: tables of embeddings are matrices, too: (features, entries).
        saved: the names are those of a checkpoint, where also ``in_proj_weight`` is a weight of
            torch; in a tree at hand it may be anything.

    Example:
        >>> view_by_name("Dense_0/kernel", (784, 100))
        View(out=(1,), in_=(0,), stacked=(), parallel=())
        >>> view_by_name("Conv_0/kernel", (3, 3, 16, 32))
        View(out=(3,), in_=(0, 1, 2), stacked=(), parallel=())
        >>> view_by_name("Dense_0/bias", (100,)).text
        'a bias, not a weight matrix'
    """
    keys, rank = _keys(path), len(shape)
    name, parent = _last_two(keys)
    if set(keys) & _STATE:
        return LeftOut(path, shape, Reason.STATE)
    if is_table(path, shape):
        return View(out=(1,), in_=(0,)) if embeddings else LeftOut(path, shape, Reason.TABLE)
    if name in _LOOKUPS:
        return LeftOut(path, shape, Reason.TABLE)
    if name in _VECTORS:
        return LeftOut(path, shape, _VECTORS[name])
    if rank < 2:
        return LeftOut(path, shape, Reason.VECTOR)
    if "depthwise" in parent:
        return LeftOut(path, shape, Reason.DEPTHWISE)
    torch_weight = name == _OUT_IN or (saved and _TORCH_WEIGHT.fullmatch(keys[-1]) is not None)
    if layout is None and not torch_weight and name not in _IN_OUT:
        text = f"{Reason.UNKNOWN_NAME.value} {keys[-1]!r}"
        return LeftOut(path, shape, Reason.UNKNOWN_NAME, text)
    if layout in {"torch", "equinox"} or (layout is None and torch_weight):
        return View(out=(0,), in_=tuple(range(1, rank)))
    if rank == 2:
        return View(out=(1,), in_=(0,))
    if rank == 3 and parent in _PROJECTIONS_IN:
        return View(out=(1, 2), in_=(0,))
    if rank >= 4 or parent in _PROJECTIONS_OUT or "conv" in parent or parent.startswith("embed"):
        return View(out=(rank - 1,), in_=tuple(range(rank - 1)))
    return LeftOut(path, shape, Reason.AMBIGUOUS)


def is_table(path: str, shape: tuple[int, ...]) -> bool:
    """Whether the name is that of a table of embeddings.

    With more than two axes it is the convolution that makes patches. A table of Flax is called
    ``embedding``; a ``kernel`` of ``patch_embed`` is a dense layer.
    """
    name, parent = _last_two(_keys(path))
    found = _TABLE.search(parent)
    of_parent = found is not None and (name not in _IN_OUT or found.start() == 0)
    return len(shape) == 2 and (of_parent or _TABLE.search(name) is not None)


def is_convolution(path: str, view: View) -> bool:
    """Whether a view by name is a convolution's, whose positions a tree does not tell."""
    name, parent = _last_two(_keys(path))
    back = len(view.in_) == 2 and parent in _PROJECTIONS_OUT and name in _IN_OUT
    return len(view.in_) > 1 and not back


def _keys(path: str) -> list[str]:
    keys = re.split(r"[/.]", path)
    # A saved NNX state has a level more, for the value of each variable.
    return keys[:-1] if len(keys) > 1 and keys[-1] == "value" else keys


def _last_two(keys: list[str]) -> tuple[str, str]:
    return keys[-1].lower(), keys[-2].lower() if len(keys) > 1 else ""
