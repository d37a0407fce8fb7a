"""Why a bound has no value (NaN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankjax.bounds._result import BoundResult
from rankjax.network import Structure


def dead_layers(structure: Structure, params: Any) -> list[str]:
    """Layers of which a matrix is 0 everywhere, with how many where it is not all of them."""
    found = []
    for layer, matrices in zip(structure.layers, structure.matrices(params), strict=True):
        dead = ~np.any(np.asarray(matrices), axis=(-2, -1))
        if dead.all():
            found.append(layer.path)
        elif dead.any():
            found.append(f"{layer.path} ({int(dead.sum())} of {dead.size} matrices)")
    return found


def why_undefined(
    results: Sequence[BoundResult], structure: Structure, params: Any
) -> tuple[tuple[str, str], ...]:
    """A fact for a table: which of its values are NaN, and why; nothing if none is."""
    groups: dict[str, list[str]] = {}
    undefined = [result for result in results if math.isnan(float(result.value))]
    dead = dead_layers(structure, params) if undefined else []
    for result in undefined:
        parts = zip(result.layers, np.asarray(result.per_layer), strict=True)
        nowhere = [layer for layer, part in parts if np.isnan(part)]
        if result.name.startswith("path_norm") and not structure.homogeneous:
            why = "the trace does not show a positively homogeneous network"
        elif dead:
            why = f"the weights of {', '.join(dead)} are 0 everywhere"
        elif 0 < len(nowhere) < len(result.layers):
            why = f"a term of {', '.join(nowhere)} is not defined"
        else:
            why = "a term of its formula is not defined for these weights or data"
        groups.setdefault(why, []).append(f"{result.name}, {result.kind}")
    text = "; ".join(f"{why} ({'; '.join(names)})" for why, names in groups.items())
    return (("Not defined (nan)", text),) if text else ()
