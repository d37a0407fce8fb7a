"""Weights that are stored as 8 bit codes with scales beside them: multiplied when they are read.

``weight_scale_inv`` (DeepSeek, one per block of 128 x 128), ``weight_scale`` (one per tensor, row
or block; also MXFP8), ``scale_weight``: whatever the name, weight = codes * scale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.network.internal import (
    SCALE_NAMES,
    Named,
    is_code,
    parent_and_name,
    scales_by_weight,
)

_BLOCK = 128


@dataclass(frozen=True)
class Scaled:
    """An array that is multiplied when it is asked for; its dtype is that of the codes."""

    codes: np.ndarray
    scale: np.ndarray
    blocks: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.codes.shape

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.codes.size

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return self.codes.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        scale = self.scale.astype(np.float32)
        for axis, (block, size) in enumerate(zip(self.blocks, self.shape, strict=True)):
            if scale.shape[axis] > 1:
                scale = np.repeat(scale, block, axis).take(range(size), axis)
        return (self.codes.astype(np.float32) * scale).astype(dtype or np.float32)


def with_scales(
    leaves: Mapping[str, np.ndarray], unread: Collection[str]
) -> tuple[dict[str, Any], dict[str, LeftOut]]:
    """The leaves, those with scales beside them as ``Scaled``; those whose scales are not known.

    Args:
        leaves: arrays by path.
        unread: paths of arrays that could not be read: scales among them.
    """
    found: dict[str, Any] = dict(leaves)
    refused: dict[str, LeftOut] = {}
    beside = scales_by_weight([*leaves, *unread])
    for path, codes in leaves.items():
        held = beside.get(path, [])
        if not (held and is_code(codes.dtype) and codes.ndim > 1 and codes.size):
            continue
        scale = leaves.get(held[0])
        # Without their places, so that the weights of one reason are listed together.
        names = [parent_and_name(one)[1] for one in held]
        known = {form.format(parent_and_name(path)[1]) for form in SCALE_NAMES}
        if len(held) > 1:
            why = ": what to do with both is not known"
        elif scale is None or names[0] not in known:
            why = ", which is not known"
        else:
            product = _multiplied(path, codes, scale)
            if isinstance(product, Scaled):
                found[path] = product
                continue
            why = f", {product}"
        why = f"stored with {' and '.join(names)}{why}"
        text = f"{codes.dtype.name} {why}"
        refused[path] = LeftOut(path, codes.shape, Reason.NOT_READ, text)
    return found, refused


def _multiplied(path: str, codes: np.ndarray, scale: np.ndarray) -> Scaled | str:
    """The weight, or why its scale is none that is known."""
    if not jnp.issubdtype(scale.dtype, jnp.floating):
        return f"which holds {scale.dtype.name}"
    grid = _grid(path, codes.shape, scale)
    if grid is None:
        return "of a shape that does not tell its blocks"
    blocks = []
    for n, count in zip(codes.shape, grid.shape, strict=True):
        if count == 1:
            blocks.append(n)
        elif -(-n // _BLOCK) == count:
            blocks.append(_BLOCK)
        elif count and n % count == 0:
            blocks.append(n // count)
        else:
            return "of a shape that does not tell its blocks"
    largest = np.abs(scale.astype(np.float64)).max() * float(jnp.finfo(codes.dtype).max)
    if not largest < np.finfo(np.float32).max:
        return "which holds entries that are not finite, or too large"
    return Scaled(codes, grid, tuple(blocks))


def _grid(path: str, shape: tuple[int, ...], scale: np.ndarray) -> np.ndarray | None:
    """The scale with as many axes as the weight."""
    rank = len(shape)
    if scale.size == 1:
        return scale.reshape((1,) * rank)
    if scale.ndim == 1:
        axes = [axis for axis in range(rank) if shape[axis] == scale.size]
        if rank == 2 and len(axes) == 2:  # one per output
            axes = [1 if Named(path, shape).order == "in out" else 0]
        if len(axes) != 1:
            return None
        return scale.reshape([-1 if axis == axes[0] else 1 for axis in range(rank)])
    if scale.ndim == rank:
        return scale
    # Of experts: one number per row of each.
    fits = scale.shape == shape[: scale.ndim]
    return scale.reshape(scale.shape + (1,) * (rank - scale.ndim)) if fits else None
