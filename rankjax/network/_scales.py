"""Which leaves are the scales of which weights, told by their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp

_SCALE = re.compile(r"scal|absmax|zero_?point", re.IGNORECASE)
#: How a scale is named after its leaf.
SCALE_NAMES = ("{}_scale_inv", "{}_scale", "scale_{}")
# Of the inputs (ModelOpt, AWQ, SmoothQuant) or the outputs (scaled weight standardization, muP), or
# of a grid that the weight is rounded to: what acts on the data is the weight with it.
_OF_FLOATS = (
    "gain", "{}_gain", "{}_multiplier", "{}_g",
    "pre_quant_scale", "input_quantizer._pre_quant_scale", "input_quantizer/_pre_quant_scale",
    "smooth_scale", "smooth_scales", "smoothing_scale", "smoother", "scaling_factor",
    "{}_fake_quant.scale", "{}_fake_quant/scale", "{}_quantizer._amax", "{}_quantizer/_amax",
    "sv0",  # the norm that the weight is divided by (BigGAN)
)  # fmt: skip
# Of weights that are scaled by hand (weight normalization, spectral normalization, muP), or of a
# norm before them: beside one matrix alone, that is not told.
_OF_ONE = ("scale", "g", "gamma", "alpha", "u")
_BLOCKS = {16, 32, 64, 128}
_OF_ACTIVATIONS = re.compile(r"_?(in|out)put|_?act(ivation)?s?_|_?grad|[qkv]_scale|kv_")


def is_code(dtype: Any) -> bool:
    """Whether numbers of that type are a weight only together with a scale, where one is beside."""
    return dtype.itemsize == 1 and jnp.issubdtype(dtype, jnp.floating)


def scales_by_weight(paths: Collection[str]) -> dict[str, list[str]]:
    """The paths of the scales of each leaf: of those beside it or below it whose name says so."""
    beside: dict[str, dict[str, str]] = {}
    for path in sorted(paths):
        parent, name = parent_and_name(path)
        beside.setdefault(parent, {})[name] = path
    found: dict[str, list[str]] = {}
    for parent, held in beside.items():
        scales = [name for name in held if _SCALE.search(name)]
        for scale in scales:
            if _OF_ACTIVATIONS.match(scale):
                continue
            others = [name for name in held if name not in scales]
            # down_proj_scale is that of down_proj, and scales that of all that is beside it.
            length = max((len(name) for name in others if name in scale), default=0)
            of = [held[n] for n in others if not length or (n in scale and len(n) == length)]
            for weight in (*of, parent):
                found.setdefault(weight, []).append(held[scale])
    return found


def scale_beside(path: str, leaves: Mapping[str, Any]) -> str | None:
    """The name of a scale of that leaf, where one of its name and of a shape that fits is there."""
    shape = tuple(leaves[path].shape)
    for name, scale in _beside(path, leaves, (*SCALE_NAMES, *_OF_FLOATS)):
        if _fits(tuple(scale.shape), shape):
            return name
    for name, scale in _beside(path, leaves, _OF_ONE):
        if _fits(tuple(scale.shape), shape) and _is_only_matrix(path, leaves):
            return name
    return None


def _is_only_matrix(path: str, leaves: Mapping[str, Any]) -> bool:
    """Whether no other leaf beside that one has several rows and columns."""
    place = parent_and_name(path)[0]
    held = (
        leaf
        for other, leaf in leaves.items()
        if other.startswith(place) and parent_and_name(other)[0] == place
    )
    return sum(len(leaf.shape) > 1 and min(leaf.shape) > 1 for leaf in held) == 1


def _beside(
    path: str, leaves: Mapping[str, Any], forms: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    """The leaves beside that one that are named after it, with their names."""
    place, name = parent_and_name(path)
    start = path[: len(place) + 1] if place else ""
    for form in forms:
        other = form.format(name)
        found = leaves.get(start + other + path[len(start) + len(name) :])
        if found is not None:
            yield other, found


def _fits(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """One number in all, per row, per column or per block."""
    if all(n == 1 for n in scale):
        return True
    if len(scale) < len(shape):
        return (len(scale) == 1 and scale[0] in shape) or scale == shape[: len(scale)]
    return len(scale) == len(shape) and all(
        count in {1, n, -(-n // 128)} or (count and n % count == 0 and n // count in _BLOCKS)
        for count, n in zip(scale, shape, strict=True)
    )


def parent_and_name(path: str) -> tuple[str, str]:
    """What holds a leaf, and its name."""
    path = re.sub(r"[./](raw_)?value$", "", path)  # of an NNX state
    end = max(path.rfind("."), path.rfind("/"))
    return path[: max(end, 0)], path[end + 1 :]
