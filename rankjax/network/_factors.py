"""Leaves of adapters by their names: pairs whose product updates a weight (LoRA), and others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rankjax.network._named import Named, Order
from rankjax.network._stacks import PROJECTIONS_OUT
from rankjax.network._view import View

# kernel_lora_a (Qwix), lora_kernel_a (Keras), lora_a (NNX, torchtune), lora_A (PEFT), lora_down
# (kohya); with a key more where the factor is a layer of its own: lora_A/weight, lora_a/kernel.
_FACTOR = re.compile(r"((?:.*_)?lora_(?:.*_)?|lora(?=[AB]))([aA]|[bB]|down|up)")
_BELOW_LORA = re.compile(r"(?:.*_)?lora\d*(?:_.*)?")  # to_q.lora.down, q_einsum/lora/a
_RIGHT, _LEFT = {"a", "A", "down"}, {"b", "B", "up"}
# What makes something else than a product: DoRA, AdaLoRA, LoHa, LoKr, OFT, VeRA, several B of one
# A, and the other adapters of PEFT.
_OTHERS = re.compile(
    r"lora_mid|lora_[ERS]|(.*_)?lora_latent_mapping|dora_scale|(lora_)?magnitude(_vector)?|hada_[wt].*|lokr_[wt].*|b?oft_.*|"
    r"(poly_)?lora_[abAB][0-9]+|poly_lora_[AB]|[a-z]+lora_.*|hra_u|c3a_kernel|(bone|miss)_block|"
    r"(vera|ia3|fourierft|waveft|shira|road)_.*|trainable_tokens_.*"
)
# One number beside both factors, other than alpha, which is divided by the rank.
_FACTORS_OF_THE_WHOLE = ("scale", "scalar", "scaling", "lora_scale", "lora_scaling", "gain")


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
    places = list(reversed(range(max(0, len(keys) - 3), len(keys))))
    for i in places:  # before the others: of lora_A.b.weight, b is the name of the adapter
        found = _FACTOR.fullmatch(keys[i])
        if found:
            return _at(leaf, i, found[1], found[2])
    for i in places:
        if i and keys[i] in _RIGHT | _LEFT and _BELOW_LORA.fullmatch(keys[i - 1]):
            return _at(leaf, i, "", keys[i])
    return None


def _at(leaf: Named, i: int, prefix: str, side: str) -> _Factor:
    keys = leaf.keys
    order = leaf.order if i + 1 < len(keys) else None
    return _Factor((*keys[:i], prefix, *keys[i + 1 :]), keys[:i], side, order)


def others(leaves: Iterable[Named]) -> dict[str, tuple[str, ...]]:
    """What belongs to updates that are no plain products, with the keys of the module."""
    found = {}
    for leaf in leaves:
        for i, key in enumerate(leaf.keys):
            # A layer may be called magnitude; that of DoRA is a vector.
            if _OTHERS.fullmatch(key) and (key != "magnitude" or len(leaf.shape) < 2):
                found[leaf.path] = leaf.keys[:i]
    return found


def not_plain(leaves: Sequence[Named]) -> dict[str, str]:
    """The leaves of adapters that are no update ``B A`` by themselves, and why."""
    found = others(leaves)
    of_module = {keys: path for path, keys in found.items()}
    whys = dict.fromkeys(found, "a part of an update that is no plain product")
    whole, single = pairs(leaf for leaf in leaves if len(leaf.shape) > 1 and leaf.path not in found)
    by_keys = {leaf.keys: leaf for leaf in leaves}
    for pair in whole:
        magnitudes = by_keys.get((*pair.module, "m"))  # DoRA of MLX
        if magnitudes is not None and len(magnitudes.shape) == 1:
            of_module[pair.module] = magnitudes.path
        for name in _FACTORS_OF_THE_WHOLE:
            number = by_keys.get((*pair.module, name))
            if number is not None and all(n == 1 for n in number.shape):
                of_module[pair.module] = number.path
        if pair.module in of_module:
            key = Named(of_module[pair.module], ()).keys[len(pair.module)]
            why = f"{key} changes the product: not the update B A alone"
            whys |= dict.fromkeys((pair.left, pair.right), why)
    for path, module in single.items():
        alone = "one factor of an update (LoRA) without the other: no matrix by itself"
        whys[path] = whys[of_module[module]] if module in of_module else alone
    return whys


def pairs(leaves: Iterable[Named]) -> tuple[tuple[Pair, ...], dict[str, tuple[str, ...]]]:
    """The pairs among the leaves; factors without a partner, with the keys before them."""
    sides: dict[tuple[str, ...], dict[str, tuple[str, _Factor]]] = {}
    for leaf in leaves:
        found = _factor(leaf)
        if found:
            side = "right" if found.side in _RIGHT else "left"
            sides.setdefault(found.root, {})[side] = leaf.path, found
    whole, single = [], {}
    for root, two in sides.items():
        if len(two) < 2:
            single |= {path: factor.module for path, factor in two.values()}
        else:
            (left, of_left), (right, _) = two["left"], two["right"]
            whole.append(Pair(left, right, _weight(root), of_left.module))
    return tuple(whole), single


_UNFIT = "does not fit the other factor of its update (LoRA)"
_LAST_AXIS = (
    "updates the last axis of a kernel of several axes (EinsumDense): no product of matrices, "
    "unless all of its outputs are there"
)


def views(left: Named, right: Named) -> tuple[View, View] | str:
    """How both are seen as matrices with the same inner axis, or why that is not plain."""
    named = _factor(left)
    if named is None or min(len(left.shape), len(right.shape)) < 2:
        return _UNFIT
    keras = named.root[-1].startswith("lora_") and (len(left.shape), len(right.shape)) == (2, 3)
    if keras and not PROJECTIONS_OUT.fullmatch(left.parent):
        return _LAST_AXIS
    of = {"out in": _torch(left, right), "in out": _jax(left, right)}
    if named.order is not None:
        return of[named.order] or _UNFIT
    torch = of["out in"] or (_torch_stack(left, right) if named.side in {"B", "up"} else None)
    found = [both for both in (torch, of["in out"]) if both is not None]
    if len(found) == 2:
        # Both fit a square weight. The rank is the smaller size; where it is not, the names tell.
        ranks = [both[0].matrix_shape(left.shape)[1] for both in found]
        first = ranks[0] < ranks[1] or (ranks[0] == ranks[1] and named.side in {"B", "up"})
        return found[0 if first else 1]
    return found[0] if found else _UNFIT


def _torch_stack(left: Named, right: Named) -> tuple[View, View] | None:
    b, a = left.shape, right.shape
    fits = len(b) == len(a) == 3 and b[0] == a[0] and b[2] == a[1]
    return (View((1,), (2,), (0,)), View((1,), (2,), (0,))) if fits else None


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
