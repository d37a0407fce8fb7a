"""NumPy archives, without pickles and without bombs."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import CheckpointError, check_expansion, shown


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """The arrays of an archive by name; and the members that were not read, with the reason.

    Raises:
        CheckpointError: a truncated or damaged archive, or one that would unpack to far more than
            it stores.
    """
    arrays: dict[str, np.ndarray] = {}
    unread: list[LeftOut] = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            if len({name.removesuffix(".npy") for name in members}) < len(archive.infolist()):
                raise CheckpointError(f"{path} holds a name twice")
            check_expansion(sum(members.values()), path.stat().st_size, str(path))
        # Opened here, because np.load leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            for name in stored.files:
                found = _member(stored, name)
                if isinstance(found, str):
                    unread.append(LeftOut(name, (), Reason.NOT_READ, found))
                else:
                    arrays[name] = found
    except CheckpointError:
        raise
    except Exception as error:  # NumPy's parser and zlib raise errors of many kinds
        raise CheckpointError(f"{path} is truncated or damaged: {shown(str(error))}") from None
    return arrays, unread


def _member(stored: np.lib.npyio.NpzFile, name: str) -> np.ndarray | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            found = stored[name]
    except ValueError as error:
        if "allow_pickle=False" in str(error):
            return "Python objects, which only a pickle can hold: never loaded"
        raise
    if not isinstance(found, np.ndarray):
        return "no array of NumPy"
    if found.dtype.kind not in "biufc":
        return f"dtype {found.dtype}: bfloat16 is lost in such a file, save it as float32"
    return found
