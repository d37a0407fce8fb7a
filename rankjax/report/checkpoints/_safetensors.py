"""Safetensors: the package of that name checks a file, then its arrays are mapped from disk.

The package's own NumPy arrays would be copies, and it has none of float8.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import DTYPES, CheckpointError, checked_shape, shown
from rankjax.report.checkpoints._json import json_object

_NAMES = {
    "BOOL": "bool", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
}  # fmt: skip


def read_safetensors(
    path: Path,
) -> tuple[dict[str, np.ndarray], list[LeftOut], dict[str, str]]:
    """The arrays of a file by name, mapped from disk and not copied; what was not read; metadata.

    Raises:
        CheckpointError: a file that the package refuses, arrays of one name, or without the package
            ``safetensors``.
    """
    metadata = _checked(path)
    file = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(file[:8].tobytes(), "little")
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    for name, entry in json_object(file[8:start].tobytes(), path).items():
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
    return arrays, unread, metadata


def _checked(path: Path) -> dict[str, str]:
    """What the header says beside the arrays, of a file that the package does not refuse."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(f"{path}: {error}; pip install 'rankjax[report]'") from None
    try:
        # Checks every shape, offset and length against the bytes that are there.
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated, damaged or no safetensors file: {shown(str(error))}"
        ) from None
