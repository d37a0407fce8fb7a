"""Updates of low rank (LoRA) among the leaves: measured as scale * B A, which is never formed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rankjax.network import Layer, LeftOut, Reason, Structure
from rankjax.network.internal import Named, pairs
from rankjax.report._spectra import Spectrum, in_float64

_SIDE = re.compile(r"lora_(embedding_)?[AB]\b|lora_(up|down)\b|lora\w*[./](up|down)\b")
# What makes of the two factors something else than a scaled product.
_OTHERS = re.compile(r"lora_mid|lora_E\b|dora_scale|lora_magnitude_vector")


@dataclass(frozen=True)
class Update:
    """Two factors whose product, times ``scale``, is added to a weight.

    Attributes:
        path: the weight that is updated.
        left: the factor ``(out, r)``.
        right: the factor ``(r, in)``.
        scale: alpha / r (of rsLoRA: alpha / sqrt(r)), ``None`` where nothing tells alpha.
    """

    path: str
    left: Layer
    right: Layer
    scale: float | None

    @property
    def rank(self) -> int:
        """The rank that the factors allow."""
        return self.left.matrix_shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.left.matrix_shape[0], self.right.matrix_shape[1]


def take_updates(
    structure: Structure, leaves: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[list[Update], Structure]:
    """The updates of a structure, and the structure without their factors.

    Args:
        structure: matrices by name, the factors among them.
        leaves: arrays by path.
        config: PEFT's ``adapter_config.json``, or nothing.

    Raises:
        ValueError: a config with entries of another form.
    """
    layers = {layer.path: layer for layer in structure.layers}
    others = {path[: m.start()]: path for path in leaves if (m := _OTHERS.search(path))}
    found, taken, left_out = [], set(), []
    for pair in pairs([Named(layer.path, layer.shape) for layer in structure.layers])[0]:
        left, right = layers[pair.left], layers[pair.right]
        if left.matrix_shape[1] != right.matrix_shape[0] or left.stacked != right.stacked:
            continue
        taken |= {pair.left, pair.right}
        place = factor_place(pair.left)
        if place in others:
            text = f"{others[place]} changes the product: not the update B A alone"
            for layer in (left, right):
                left_out.append(LeftOut(layer.path, layer.shape, Reason.OTHER_USE, text))
            continue
        scale = _scale(place, left.matrix_shape[1], leaves, config)
        found.append(Update(pair.root or pair.left, left, right, scale))
    for path in set(others.values()) & set(layers):
        taken.add(path)
        text = "a part of an update that is no plain product"
        left_out.append(LeftOut(path, layers[path].shape, Reason.OTHER_USE, text))
    rest = tuple(layer for layer in structure.layers if layer.path not in taken)
    return found, replace(structure, layers=rest, left_out=(*structure.left_out, *left_out))


def _scale(
    place: str | None, rank: int, leaves: Mapping[str, Any], config: Mapping[str, Any]
) -> float | None:
    if place is None:
        return None
    alpha = leaves.get(f"{place}alpha")  # of kohya, beside the factors
    if alpha is not None and np.size(alpha) == 1:
        return float(np.asarray(alpha).reshape(())) / rank
    alpha = _of_module(place, config.get("alpha_pattern") or {}, config.get("lora_alpha"))
    if alpha is None:
        return None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"adapter_config.json: lora_alpha is {alpha!r}, must be a number")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def factor_place(path: str) -> str | None:
    """What comes before the factor in a path of PEFT or kohya; ``None`` for other names."""
    found = _SIDE.search(path)
    return None if found is None else path[: found.start()]


def module_of(place: str) -> str:
    """PEFT's name of a module: of the path of a factor, what comes before the factor."""
    return place.removeprefix("base_model.model.").rstrip("./")


def _of_module(place: str, pattern: Any, default: Any) -> Any:
    """As PEFT does it: the first key that is the module's name, or its end (an expression)."""
    if not isinstance(pattern, Mapping):
        raise ValueError(f"adapter_config.json: alpha_pattern is {pattern!r}, must be an object")
    module = module_of(place)
    for key, value in pattern.items():
        if module == key or module.endswith(f".{key}") or key == f"^{module}$":
            return value
    return default


def matrices_of(layer: Layer, leaf: Any) -> np.ndarray:
    """``(stacked, parallel, out, in)``, a view in NumPy (``Layer.matrix`` compiles per shape)."""
    return (
        np.asarray(leaf)
        .transpose(layer.view.order)
        .reshape(layer.stacked, layer.parallel, *layer.matrix_shape)
    )


def core_of(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """A square matrix of the inner size with the singular values of ``b @ a`` that are not 0.

    With ``B = Q_1 R_1`` and ``A^T = Q_2 R_2`` it is ``R_1 R_2^T``.
    """
    left, right = (np.asarray(np.linalg.qr(x, "r")) for x in (b, a.T))
    return left @ right.T


def spectrum_of_product(
    scale: float,
    b: np.ndarray,
    a: np.ndarray,
    reference: tuple[float, np.ndarray, np.ndarray] | None = None,
) -> Spectrum:
    """The spectrum of ``scale * b @ a``, or of its difference from another product.

    Cost: ``O((out + in) r^2)``.
    """
    b, a = scale * in_float64(b), in_float64(a)
    size = min(b.shape[0], a.shape[1])
    if reference is None:
        return Spectrum(np.linalg.svd(core_of(b, a), compute_uv=False)[:size])
    other, d, c = reference
    d, c = other * in_float64(d), in_float64(c)
    norm = float(np.linalg.norm(core_of(d, c)))
    # B A - D C is the product of (B, -D) and (A; C).
    core = core_of(np.concatenate([b, -d], 1), np.concatenate([a, c]))
    # What rounding leaves of two equal products; their entries are exact, as they are stored.
    noise = 64 * np.finfo(float).eps * (norm + float(np.linalg.norm(core_of(b, a))))
    return Spectrum(np.linalg.svd(core, compute_uv=False)[:size], noise, norm)
