"""Safetensors: eight bytes of length, a JSON header, the bytes of the arrays.

Read here and not by the package of that name: NumPy has no bfloat16 of its own, and every promise
of the header is checked before it is believed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network import LeftOut
from rankjax.report.checkpoints.errors import (
    DTYPES,
    CheckpointError,
    checked_shape,
    number_of_bytes,
    shown,
)

_LARGEST_HEADER = 100_000_000  # the limit of the format
_NAMES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of a file by name, mapped from disk and not copied; and what was not read.

    Raises:
        CheckpointError: where the header and the bytes do not agree in every point.
    """
    size = path.stat().st_size
    if size < 8:
        raise CheckpointError(f"{path} is truncated: {size} bytes, not even a header length")
    file = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > _LARGEST_HEADER:
        raise CheckpointError(
            f"{path}: its header would take {length} bytes, allowed are {_LARGEST_HEADER}"
        )
    if length > size - 8:
        raise CheckpointError(
            f"{path} is truncated: a header of {length} bytes in a file of {size} bytes"
        )
    header = _header(file[8 : 8 + length].tobytes(), path)
    data = file[8 + length :]
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        what = f"{path}, {shown(name)!r}"
        shape, begin, end = _entry(entry, what, len(data))
        spans.append((begin, end, name))
        stored = entry.get("dtype")
        if not isinstance(stored, str) or stored not in _NAMES:
            unread.append(LeftOut(name, shape, f"dtype {shown(repr(stored))} is not read"))
            continue
        dtype = DTYPES[_NAMES[stored]]
        if end - begin != number_of_bytes(shape, dtype):
            raise CheckpointError(
                f"{what}: {shape} of {stored} takes {number_of_bytes(shape, dtype)} bytes, "
                f"its offsets hold {end - begin}"
            )
        count = math.prod(shape)
        arrays[name] = (
            np.frombuffer(data, dtype, count, begin).reshape(shape)
            if count
            else np.empty(shape, dtype)
        )
    _check_spans(spans, len(data), path)
    return arrays, unread


def _header(raw: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path}: its header names an array twice")
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its header is no JSON text ({shown(str(error))}); is it a safetensors file?"
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no JSON object")
    return header


def _entry(entry: Any, what: str, size: int) -> tuple[tuple[int, ...], int, int]:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{what}: its entry in the header is no JSON object")
    shape = checked_shape(entry.get("shape"), what)
    offsets = entry.get("data_offsets")
    if not (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(x) is int for x in offsets)
        and 0 <= offsets[0] <= offsets[1]
    ):
        raise CheckpointError(f"{what}: got data_offsets {shown(repr(offsets))}")
    if offsets[1] > size:
        raise CheckpointError(
            f"{what}: the file is truncated or damaged: it ends at byte {offsets[1]} of the data, "
            f"there are {size}"
        )
    return shape, offsets[0], offsets[1]


def _check_spans(spans: list[tuple[int, int, str]], size: int, path: Path) -> None:
    """The format allows neither overlaps nor holes: both hide something."""
    place = 0
    for begin, end, name in sorted(spans):
        if begin != place:
            wrong = "overlap" if begin < place else "leave a hole"
            raise CheckpointError(
                f"{path}, {shown(name)!r}: its data {wrong} at byte {min(begin, place)}"
            )
        place = end
    if place != size:
        raise CheckpointError(f"{path}: {size - place} bytes at its end belong to no array")


def read_sharded(index: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of all files that a ``*.safetensors.index.json`` names.

    Raises:
        CheckpointError: an index that is no such index or points out of its folder, or any file.
    """
    if index.stat().st_size > _LARGEST_HEADER:
        raise CheckpointError(f"{index} has {index.stat().st_size} bytes: too large for an index")
    weight_map = _header(index.read_bytes(), index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files")
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {shown(name)!r}: must be a file of its folder")
        part = index.parent / name
        if not part.is_file():
            raise CheckpointError(f"{index} names {shown(name)!r}, which is not there")
        more, not_read = read_safetensors(part)
        twice = sorted(set(more) & set(arrays))
        if twice:
            raise CheckpointError(f"{index}: {shown(twice[0])!r} is in two of its files")
        arrays |= more
        unread += not_read
    missing = sorted(set(weight_map) - set(arrays) - {leaf.path for leaf in unread})
    if missing:
        raise CheckpointError(f"{index} promises {shown(missing[0])!r}, which no file holds")
    return arrays, unread
