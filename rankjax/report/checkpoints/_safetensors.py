"""Safetensors: the package of that name checks a file, then its arrays are mapped from disk.

The package's own NumPy arrays would be copies, and it has none of float8.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import DTYPES, CheckpointError, checked_shape, shown

_LARGEST_INDEX = 100_000_000
_NAMES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of a file by name, mapped from disk and not copied; and what was not read.

    Raises:
        CheckpointError: a file that the package refuses, arrays of one name, or without the package
            ``safetensors``.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(f"{path}: {error}; pip install 'rankjax[report]'") from None
    try:
        # Checks every shape, offset and length against the bytes that are there.
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or no safetensors file: {shown(str(error))}"
        ) from None
    file = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    for name, entry in _json(file[8:start].tobytes(), path).items():
        if name == "__metadata__":
            continue
        stored, shape = entry["dtype"], checked_shape(entry["shape"], f"{path}, {shown(name)!r}")
        if stored not in _NAMES:
            why = f"dtype {shown(repr(stored))} is not read"
            unread.append(LeftOut(name, shape, Reason.NOT_READ, why))
        elif count := math.prod(shape):
            place = start + entry["data_offsets"][0]
            dtype = DTYPES[_NAMES[stored]]
            arrays[name] = np.frombuffer(file, dtype, count, place).reshape(shape)
        else:
            arrays[name] = np.empty(shape, DTYPES[_NAMES[stored]])
    return arrays, unread


def _json(raw: bytes, path: Path) -> dict[str, Any]:
    """A JSON object; of a name that is there twice, other readers would each take another one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path} names an array twice")
        return found

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no JSON text: {shown(str(error))}") from None
    return found if isinstance(found, dict) else {}


def read_sharded(index: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of all files that a ``*.safetensors.index.json`` names.

    Raises:
        CheckpointError: an index that is no such index or points out of its folder, or any file.
    """
    if index.stat().st_size > _LARGEST_INDEX:
        raise CheckpointError(f"{index} has {index.stat().st_size} bytes: too large for an index")
    weight_map = _json(index.read_bytes(), index).get("weight_map")
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
