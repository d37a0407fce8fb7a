"""Pairs of leaves whose product updates a weight (LoRA), under the names of every library."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rankjax.network._named import Named, Order
from rankjax.network._view import View

# kernel_lora_a (Qwix), lora_kernel_a (Keras), lora_a (NNX, torchtune), lora_A (PEFT), lora_down
# (kohya); with a key more where the factor is a layer of its own: lora_A/weight, lora_a/kernel.
_FACTOR = re.compile(r"((?:.*_)?lora_(?:.*_)?|lora(?=[AB]))([aA]|[bB]|down|up)")
_BELOW_LORA = re.compile(r"(?:.*_)?lora\d*(?:_.*)?")  # to_q.lora.down, q_einsum/lora/a
_RIGHT, _LEFT = {"a", "A", "down"}, {"b", "B", "up"}


@dataclass(frozen=True)
class Pair:
    """Two leaves whose product, left times right, is the update of one weight.

    Attributes:
        left: path of the factor ``(out, r)``.
        right: path of the factor ``(r, in)``.
        root: what both paths share: the weight that they update.
        module: the keys before the factor.
    """

    left: str
    right: str
    root: str
    module: tuple[str, ...]


@dataclass(frozen=True)
class _Factor:
    root: tuple[str, ...]  # what identifies the pair
    module: tuple[str, ...]
    side: str
    order: Order | None  # "out in": (out, r) and (r, in); "in out": (in, r) and (r, out)


def _factor(leaf: Named) -> _Factor | None:
    keys = leaf.keys
    for i in reversed(range(max(0, len(keys) - 3), len(keys))):
        found = _FACTOR.fullmatch(keys[i])
        if found:
            prefix, side = found[1], found[2]
        elif i and keys[i] in _RIGHT | _LEFT and _BELOW_LORA.fullmatch(keys[i - 1]):
            prefix, side = "", keys[i]
        else:
            continue
        root = (*keys[:i], prefix, *keys[i + 1 :])
        order = leaf.order if i + 1 < len(keys) else None
        return _Factor(root, keys[:i], side, order)
    return None


def pairs(leaves: Iterable[Named]) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """The pairs among the leaves, and the paths of factors without a partner."""
    sides: dict[tuple[str, ...], dict[str, tuple[str, _Factor]]] = {}
    for leaf in leaves:
        found = _factor(leaf)
        if found:
            side = "right" if found.side in _RIGHT else "left"
            sides.setdefault(found.root, {})[side] = leaf.path, found
    whole, single = [], []
    for root, two in sides.items():
        if len(two) < 2:
            single += [path for path, _ in two.values()]
        else:
            (left, of_left), (right, _) = two["left"], two["right"]
            whole.append(Pair(left, right, _weight(root), of_left.module))
    return tuple(whole), tuple(single)


def views(left: Named, right: Named) -> tuple[View, View] | None:
    """How both are seen as matrices with the same inner axis; ``None`` where that is not plain."""
    named = _factor(left)
    if named is None or min(len(left.shape), len(right.shape)) < 2:
        return None
    of = {"out in": _torch(left, right), "in out": _jax(left, right)}
    if named.order is not None:
        return of[named.order]
    found = [both for both in of.values() if both is not None]
    if len(found) == 2:
        # Both fit a square weight. The rank is the smaller size; where it is not, the names tell.
        ranks = [both[0].matrix_shape(left.shape)[1] for both in found]
        torch = ranks[0] < ranks[1] or (ranks[0] == ranks[1] and named.side in {"B", "up"})
        return found[0 if torch else 1]
    return found[0] if found else None


def _torch(left: Named, right: Named) -> tuple[View, View] | None:
    b, a = left.shape, right.shape
    found = View((0,), tuple(range(1, len(b)))), View((0,), tuple(range(1, len(a))))
    return found if found[0].matrix_shape(b)[1] == a[0] else None


def _jax(left: Named, right: Named) -> tuple[View, View] | None:
    b, a = left.shape, right.shape
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
