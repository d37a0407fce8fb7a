"""Keras files: HDF5, alone (``.weights.h5``, ``.h5``) or in a zip archive (``.keras``)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import (
    DTYPES,
    CheckpointError,
    check_expansion,
    checked_shape,
    number_of_bytes,
    shown,
)

_WEIGHTS = "model.weights.h5"


def read_keras(path: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of a file by name; and what was not read.

    Raises:
        CheckpointError: a damaged file, or without the package ``h5py``.
    """
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise CheckpointError(
            f"{shown(str(path))} is HDF5 (Keras): pip install h5py, which reads it"
        ) from None
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    try:
        with h5py.File(_content(path), "r") as file:
            stored = path.stat().st_size
            unpacked = 0

            def take(name: str, item: Any) -> None:
                nonlocal unpacked
                if not isinstance(item, h5py.Dataset):
                    return
                what = f"{path}, {shown(name)!r}"
                shape = checked_shape(list(item.shape or ()), what)
                why = ""
                if item.dtype.name not in DTYPES:
                    why = f"dtype {shown(str(item.dtype))} is not read"
                elif item.external or item.is_virtual:
                    why = "its numbers are in another file"
                if why:
                    unread.append(LeftOut(name, shape, Reason.NOT_READ, why))
                    return
                unpacked += number_of_bytes(shape, item.dtype)
                check_expansion(unpacked, stored, str(path))
                arrays[name] = np.asarray(item[()])

            file.visititems(take)  # follows no link, neither soft nor external
    except CheckpointError:
        raise
    except Exception as error:  # HDF5 raises errors of many kinds
        raise CheckpointError(
            f"{shown(str(path))} is HDF5 (Keras), truncated or damaged: {shown(str(error))}"
        ) from None
    return arrays, unread


def _content(path: Path) -> Path | io.BytesIO:
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(_WEIGHTS)
        check_expansion(member.file_size, path.stat().st_size, str(path))
        return io.BytesIO(archive.read(member))
