"""NumPy archives, without pickles and without bombs."""

from __future__ import annotations

import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from rankjax.network import LeftOut
from rankjax.report.checkpoints.errors import (
    CheckpointError,
    check_expansion,
    checked_shape,
    number_of_bytes,
    shown,
)

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of an archive by name; and the members that were not read, with the reason.

    Raises:
        CheckpointError: a truncated or damaged archive, one that would unpack to far more than it
            stores, or a torch checkpoint (which is a pickle in a zip archive).
    """
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.filename.split("/")[-1] == "data.pkl" for member in members):
                raise CheckpointError(f"{path} is a torch checkpoint, a pickle. {NO_PICKLES}")
            unpacked = sum(member.file_size for member in members)
            check_expansion(unpacked, path.stat().st_size, str(path))
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise CheckpointError(f"{path} holds {shown(name)!r} twice")
                found = _member(archive, member, f"{path}, {shown(name)!r}")
                if isinstance(found, str):
                    unread.append(LeftOut(name, (), found))
                else:
                    arrays[name] = found
    except CheckpointError:
        raise
    except (
        ValueError, OSError, EOFError, RuntimeError, NotImplementedError, OverflowError,
        SyntaxError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path} is truncated or damaged: {shown(str(error))}") from None
    return arrays, unread


NO_PICKLES = (
    "Pickles run code when they are loaded, so they are never read. Where you trust the file, "
    "convert it: safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
    "'model.safetensors'), or numpy.savez for plain arrays."
)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> np.ndarray | str:
    if not member.filename.endswith(".npy"):
        return "no array (its name does not end in .npy)"
    with archive.open(member) as file:
        shape, fortran, dtype = _array_header(file, what)
        if dtype.hasobject:
            return "Python objects, which only a pickle can hold: never loaded"
        if dtype.kind not in "biufc":
            return f"dtype {dtype}: bfloat16 is lost in such a file, save it as float32"
        expected = number_of_bytes(shape, dtype)
        if file.tell() + expected != member.file_size:
            raise CheckpointError(
                f"{what}: {shape} of {dtype} takes {expected} bytes, "
                f"the archive holds {member.file_size - file.tell()}"
            )
        array = np.frombuffer(file.read(expected), dtype)
        return array.reshape(shape, order="F" if fortran else "C")


def _array_header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise CheckpointError(f"{what}: format {version} of its header is not read")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2
        try:
            shape, fortran, dtype = _HEADERS[version](file)
        except Exception as error:  # of the parser of Python, which NumPy uses: of many kinds
            raise CheckpointError(f"{what}: damaged header: {shown(str(error))}") from None
    return checked_shape(shape, what), fortran, dtype
