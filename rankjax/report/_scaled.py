"""Weights that are stored as 8 bit codes with scales beside them: multiplied when they are read.

``weight_scale_inv`` (DeepSeek, one per block of 128 x 128), ``weight_scale`` (one per tensor, row
or block; also MXFP8), ``scale_weight``: whatever the name, weight = codes * scale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rankjax.network import LeftOut, Reason

_SCALES = ("_scale_inv", "_scale")
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
    for path, codes in leaves.items():
        if codes.dtype.itemsize != 1 or codes.ndim < 2 or codes.dtype.kind == "b":
            continue
        stem, dot, name = path.rpartition("." if "." in path else "/")
        beside = [*(path + end for end in _SCALES), f"{stem}{dot}scale_{name}"]
        more = [path + "_scale_2", path + "_zero_point"]
        held = [other for other in (*beside, *more) if other in leaves or other in unread]
        if not held or codes.dtype.kind in "iu":
            continue
        known = held[0] in leaves and held[0] in beside
        why = "" if known else f"stored with {held[0]}, which is not known"
        if len(held) > 1:
            why = f"stored with {' and '.join(held)}: what to do with both is not known"
        scale = leaves.get(held[0])
        blocks = None if scale is None else _blocks(codes.shape, scale)
        if not why and (scale is None or blocks is None):
            why = f"stored with {held[0]}, of a shape that does not tell its blocks"
        if why or scale is None or blocks is None:
            refused[path] = LeftOut(path, codes.shape, Reason.NOT_READ, f"{codes.dtype.name} {why}")
        else:
            grid = scale.reshape([-(-n // b) for n, b in zip(codes.shape, blocks, strict=True)])
            found[path] = Scaled(codes, grid, blocks)
    return found, refused


def _blocks(shape: tuple[int, ...], scale: np.ndarray) -> tuple[int, ...] | None:
    """How many entries share a scale, by axis."""
    if scale.dtype.kind in "biu":
        return None
    if scale.size == 1:
        return shape
    grid = scale.shape
    if len(grid) == 1 and grid[0] == shape[-2]:
        grid = (grid[0], 1)  # per row
    grid = (1,) * (len(shape) - len(grid)) + grid
    blocks = []
    for n, count in zip(shape, grid, strict=False):
        if count == 1:
            blocks.append(n)
        elif -(-n // _BLOCK) == count:
            blocks.append(_BLOCK)
        elif count and n % count == 0:
            blocks.append(n // count)
        else:
            return None
    return tuple(blocks) if len(grid) == len(shape) else None
