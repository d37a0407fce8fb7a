"""Pairs of leaves whose product updates a weight (LoRA), under the names of every library."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rankjax.network._named import Named
from rankjax.network._view import View

# kernel_lora_a (Qwix), lora_kernel_a (Keras), lora_a (NNX): (in, r) and (r, out).
_JAX = re.compile(r"((?:.*_)?lora_(?:.*_)?)([ab])")
# lora_A (PEFT), lora_down (kohya): (r, in) and (out, r), also as convolutions.
_TORCH = re.compile(r"((?:.*_)?lora_(?:.*_)?)(A|B|down|up)")
_DIFFUSERS = re.compile(r"(?:.*_)?lora\d*(?:_.*)?")  # to_q.lora.down


@dataclass(frozen=True)
class Pair:
    """Two leaves whose product, left times right, is the update of one weight.

    Attributes:
        left: path of the factor ``(out, r)``.
        right: path of the factor ``(r, in)``.
        root: what both paths share: the weight that they update.
    """

    left: str
    right: str
    root: str


def factor(leaf: Named) -> tuple[tuple[str, ...], str, bool] | None:
    """``(what identifies the pair, "left" or "right", named as in torch)`` of a factor."""
    keys = leaf.keys
    found = _JAX.fullmatch(keys[-1])
    if found:
        return (*keys[:-1], found[1]), "right" if found[2] == "a" else "left", False
    for i in range(max(0, len(keys) - 3), len(keys)):
        found = _TORCH.fullmatch(keys[i])
        after_lora = keys[i] in {"down", "up"} and i and _DIFFUSERS.fullmatch(keys[i - 1])
        if found or after_lora:
            side = found[2] if found else keys[i]
            root = (*keys[:i], found[1] if found else "", *keys[i + 1 :])
            return root, "right" if side in {"A", "down"} else "left", True
    return None


def pairs(leaves: Iterable[Named]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs among the leaves, and the paths of factors without a partner."""
    sides: dict[tuple[str, ...], dict[str, str]] = {}
    for leaf in leaves:
        found = factor(leaf)
        if found:
            sides.setdefault(found[0], {})[found[1]] = leaf.path
    whole = [(root, two) for root, two in sides.items() if len(two) == 2]
    single = [path for two in sides.values() if len(two) == 1 for path in two.values()]
    return tuple(Pair(two["left"], two["right"], _weight(root)) for root, two in whole), tuple(
        single
    )


def views(left: Named, right: Named) -> tuple[View, View] | None:
    """How both are seen as matrices with the same inner axis; ``None`` where that is not plain."""
    b, a = left.shape, right.shape
    of_left = factor(left)
    if of_left is None or min(len(a), len(b)) < 2:
        return None
    if of_left[2]:
        found = View((0,), tuple(range(1, len(b)))), View((0,), tuple(range(1, len(a))))
        return found if found[0].matrix_shape(b)[1] == a[0] else None
    # In a stack the members are counted by the first axis, or, as MaxText does it, by the second.
    possible = []
    if min(len(a), len(b)) >= 3:
        possible = [axis for axis in (0, 1) if a[axis] == b[axis] and a[-1] == b[1 - axis]]
    if len(possible) > 1 or (not possible and a[-1] != b[0]):
        return None
    rest_a = [i for i in range(len(a) - 1) if i not in possible]
    rest_b = [i for i in range(len(b)) if i not in possible]
    stacked = tuple(possible)
    return (
        View(tuple(rest_b[1:]), (rest_b[0],), stacked),
        View((len(a) - 1,), tuple(rest_a), stacked),
    )


def _weight(root: tuple[str, ...]) -> str:
    # Of the factor's own key what is not lora: kernel of kernel_lora_ and of lora_kernel_.
    words = [key.replace("lora_", "").rstrip("_") if key.endswith("_") else key for key in root]
    return "/".join(word for word in words if word and word not in {"weight", "default", "lora"})
