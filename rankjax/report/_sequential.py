"""A plain network from words: ``"dense relu dense"`` and the matrices of a checkpoint, in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax.network import Layer, Reason, Structure
from rankjax.network.internal import check_structure, paths_and_leaves

# With the smallest Lipschitz constants that hold (gelu and silu: rounded up).
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "relu": (jax.nn.relu, 1.0),
    "tanh": (jnp.tanh, 1.0),
    "sigmoid": (jax.nn.sigmoid, 0.25),
    "gelu": (jax.nn.gelu, 1.13),
    "silu": (jax.nn.silu, 1.1),
}
_MATRIX = re.compile(r"(.*?)([^/.]+)(/value)?", re.DOTALL)


@dataclass(frozen=True)
class Sequential:
    """A network of dense layers, ready for ``describe``.

    Attributes:
        apply: ``apply(params, x) -> outputs``; inputs are flattened.
        lipschitz: Lipschitz constants of what follows each matrix, by path.
    """

    apply: Callable[[Any, Any], Array]
    lipschitz: dict[str, float]


def sequential(
    words: str,
    structure: Structure,
    params: Any,
    *,
    activations: Mapping[str, float] | None = None,
) -> Sequential:
    """The network that ``words`` describe, with the matrices of ``structure`` in their order.

    Args:
        words: ``dense`` and activations, separated by spaces. Each ``dense`` takes the next matrix,
            and the bias beside it (``bias`` or ``b``) where there is one.
        structure: the matrices, from ``matrices_by_name``.
        params: the parameters.
        activations: Lipschitz constants of words, in place of the library's own (relu and tanh 1,
            sigmoid 0.25, gelu 1.13, silu 1.1), not below them.

    Raises:
        ValueError: an unknown word, a constant below the known one, or another number of ``dense``
            than of matrices; matrices whose sizes do not follow on each other.
    """
    check_structure(structure, params)
    names = words.split()
    allowed = ["dense", *ACTIVATIONS]
    for name in names:
        if name not in allowed:
            raise ValueError(f"sequential: got {name!r}, must be one of {allowed}")
    constants = {name: constant for name, (_, constant) in ACTIVATIONS.items() if name in names}
    for name, given in (activations or {}).items():
        if name not in constants:
            raise ValueError(f"activations: {name!r} is no activation of {words!r}")
        if given < constants[name]:
            raise ValueError(
                f"activations[{name!r}]: got {given:g}, its largest slope is {constants[name]:g} "
                "already"
            )
        constants[name] = given
    matrices = structure.layers
    adapters = [layer.path for layer in matrices if layer.effect is not None]
    adapters += [leaf.path for leaf in structure.left_out if leaf.why is Reason.OTHER_USE]
    if adapters:
        raise ValueError(f"sequential: {adapters[0]!r} is of an adapter, no layer: merge it first")
    if names.count("dense") != len(matrices) or not matrices:
        raise ValueError(
            f"sequential: got {names.count('dense')} times 'dense' for {len(matrices)} matrices: "
            f"{[layer.path for layer in matrices]}"
        )
    for before, after in pairwise(matrices):
        if before.matrix_shape[0] != after.matrix_shape[1]:
            raise ValueError(
                f"sequential: {before.path} has {before.matrix_shape[0]} outputs, "
                f"{after.path} takes {after.matrix_shape[1]} inputs; is the layout right?"
            )
    shapes = {path: jnp.shape(leaf) for path, leaf in paths_and_leaves(params)}
    biases = {layer.path: _bias_of(layer, shapes) for layer in matrices}
    remaining = iter(matrices)
    plan: list[Layer | str] = [next(remaining) if n == "dense" else n for n in names]

    def apply(params: Any, x: Array) -> Array:
        leaves = dict(paths_and_leaves(params))
        x = x.reshape(x.shape[0], -1)
        for step in plan:
            if isinstance(step, Layer):
                kernel = leaves[step.path]
                x = x @ (kernel if step.view.in_ == (0,) else kernel.T)
                bias = biases[step.path]
                x = x if bias is None else x + leaves[bias].reshape(*[1] * (x.ndim - 1), -1)
            else:
                x = ACTIVATIONS[step][0](x)
        return x

    lipschitz: dict[str, float] = {}
    last = ""
    for step in plan:
        if isinstance(step, Layer):
            last = step.path
            lipschitz[last] = 1.0
        elif last:
            lipschitz[last] *= constants[step]
    return Sequential(apply, lipschitz)


def _bias_of(layer: Layer, shapes: dict[str, tuple[int, ...]]) -> str | None:
    found = _MATRIX.fullmatch(layer.path)
    if found is None:
        return None
    stem, name, value = found[1], found[2], found[3] or ""
    # w1 has b1 beside it, in_weight has in_bias.
    spellings = ["bias", "b", name.replace("weight", "bias"), name.replace("kernel", "bias"),
                 re.sub(r"^[wW]", "b", name)]  # fmt: skip
    for spelling in spellings:
        path = f"{stem}{spelling}{value}"
        if path != layer.path and shapes.get(path) == (layer.matrix_shape[0],):
            return path
    return None
