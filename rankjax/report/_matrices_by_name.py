"""Which leaves of a checkpoint are weight matrices: the rule of ``describe`` without ``apply``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankjax._arguments import one_of
from rankjax.network import Layer, LeftOut, Structure
from rankjax.network.internal import Layout, Named, factors_of, joined, layers_by_name


def matrices_by_name(
    leaves: Mapping[str, Any],
    *,
    layout: Layout | None = None,
    embeddings: bool = False,
    whole: bool = True,
) -> Structure:
    """The weight matrices among the leaves of a checkpoint, in natural order of their paths.

    Args:
        leaves: arrays by path, keys joined by ``/`` or ``.``.
        layout: ``"flax"``: (in, out), convolutions (*window, in, out); ``"torch"`` or
            ``"equinox"``: (out, in), convolutions (out, in, *window); then every leaf with two axes
            is a matrix, whatever its name, unless it is a bias, a scale, a table or state; where
            experts or heads have more axes, it says which of them is put in.
            ``None``: names, and the leaves beside a leaf, decide.
        embeddings: include tables of embeddings, seen as (features, entries).
        whole: whether these are all leaves; of a part, no kernel is taken for that of the image.

    Returns:
        A ``Structure``; other leaves are in its ``left_out``, each with the reason. Two factors of
        LoRA are one layer, their product without its scale.

    Raises:
        ValueError: for an unknown layout.
    """
    if layout is not None:
        one_of(layout, "layout", Layout)
    by_path = layers_by_name(leaves, layout=layout, embeddings=embeddings, whole=whole)
    found = joined(list(by_path.values()))
    return Structure(
        tuple(one for one in found if isinstance(one, Layer)),
        tuple(one for one in found if isinstance(one, LeftOut)),
    )


def is_floating(dtype: np.dtype) -> bool:
    """Also bfloat16 and the float8 types, which NumPy does not know as floating."""
    return jnp.issubdtype(dtype, jnp.floating)


def guessed_layout(structure: Structure) -> str:
    """What the names say: ``flax``, ``torch or equinox``, a mixture, or nothing."""
    first = set()
    factors = factors_of(structure.layers)
    for layer in structure.layers:
        layer = factors.get(layer.path, (layer,))[0]
        named = Named(layer.path, layer.shape)
        if not named.is_table:
            order = named.order or ("out in" if 0 in layer.view.out else "in out")
            first.add("torch or equinox" if order == "out in" else "flax")
    return " and ".join(sorted(first)) or "none"
