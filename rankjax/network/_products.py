"""Pairs of factors (LoRA) as one layer: the matrix ``B A`` that they add to a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._linear_algebra import matmul
from rankjax.network._expressions import Effect
from rankjax.network._factors import pairs
from rankjax.network._left_out import LeftOut, Reason
from rankjax.network._named import Named
from rankjax.network._structure import Layer
from rankjax.network._view import View

_STEP = "the product of two factors (LoRA), without its scale"


def joined(leaves: Sequence[Layer | LeftOut]) -> list[Layer | LeftOut]:
    """The same, each pair of factors as the layer ``B A`` in place of the first of them."""
    layers = {x.path: x for x in leaves if isinstance(x, Layer) and x.effect is None}
    taken = {"/".join(Named(x.path, x.shape).keys) for x in leaves}
    product_of: dict[str, Layer] = {}
    for pair in pairs(Named(x.path, x.shape) for x in layers.values())[0]:
        left, right = layers[pair.left], layers[pair.right]
        if left.matrix_shape[1] == right.matrix_shape[0] and left.stacked == right.stacked:
            path = pair.root or pair.left
            while pair.root and path in taken:  # of the weight that is updated
                path += " (update)"
            taken.add(path)
            product_of[pair.left] = product_of[pair.right] = _product(path, left, right)
    found: list[Layer | LeftOut] = []
    placed: set[str] = set()
    for x in leaves:
        product = product_of.get(x.path)
        if product is None:
            found.append(x)
            continue
        if product.path not in placed:
            placed.add(product.path)
            found.append(product)
        if x.path != product.path:
            text = f"part of the matrix of {product.path!r}, which is computed from it"
            found.append(LeftOut(x.path, x.shape, Reason.PART, text))
    return found


def factors_of(layers: Iterable[Layer]) -> dict[str, tuple[Layer, Layer]]:
    """The factors ``(out, r)`` and ``(r, in)`` of the layers that are such products, by path."""
    found = {}
    for layer in layers:
        if layer.effect is not None and layer.effect.factors is not None:
            (b, a), (left, right) = layer.leaves, layer.effect.factors
            found[layer.path] = Layer(*b, left), Layer(*a, right)
    return found


def _product(path: str, left: Layer, right: Layer) -> Layer:
    shape = left.matrix_shape[0], right.matrix_shape[1]
    stacked = left.view.stacked != ()
    view = View((1,), (2,), (0,)) if stacked else View((0,), (1,))
    window = len(right.view.in_) > 1  # of a convolution, or heads
    effect = Effect(
        (left.path, right.path), (left.shape, right.shape), (_STEP,), f"{left.view} {right.view}",
        _formed(left, right, stacked), (left.view, right.view),
    )  # fmt: skip
    whole = (left.stacked, *shape) if stacked else shape
    return Layer(path, whole, view, positions=None if window else 1, effect=effect)


def _formed(left: Layer, right: Layer, stacked: bool) -> Callable[[Mapping[str, Any]], Array]:
    def compute(leaves: Mapping[str, Any]) -> Array:
        b, a = (at_least_float32(x.matrix(jnp.asarray(leaves[x.path]))) for x in (left, right))
        product = matmul(b, a)[:, 0]
        return product if stacked else product[0]

    return compute
