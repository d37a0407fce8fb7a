"""Files that are no checkpoints, or none that is read: by name, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankjax.report.checkpoints._errors import CheckpointError, shown

_MAGIC = {
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself: run git lfs pull",
    b"GGUF": "GGUF, which is not read",
    b"\x1f\x8b": "gzip: unpack it first",
}
_EQUINOX = (
    "arrays one after the other without names, as equinox.tree_serialise_leaves writes them: load "
    "it with equinox.tree_deserialise_leaves and pass the module"
)


def refuse_foreign(path: Path) -> None:
    """Refuse what the first bytes (of Equinox: the name) show to be something else.

    Raises:
        CheckpointError: a pointer of git-lfs, a page of HTML, an Equinox file, GGUF, gzip, a single
            array, an empty file.
    """
    with path.open("rb") as file:
        head = file.read(64)
        name = shown(str(path))
        if not head:
            raise CheckpointError(f"{name} is empty")
        if path.suffix.lower() == ".eqx":
            raise CheckpointError(f"{name} holds {_EQUINOX}")
        for magic, what in _MAGIC.items():
            if head.startswith(magic):
                raise CheckpointError(f"{name} is {what}")
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise CheckpointError(
                f"{name} is a page of HTML, not the file itself: the download went wrong (a login, "
                "a wrong address)"
            )
        if head.startswith(np.lib.format.MAGIC_PREFIX):
            file.seek(0)
            if _more_follows(file, path.stat().st_size):
                raise CheckpointError(f"{name} holds {_EQUINOX}")
            raise CheckpointError(
                f"{name} is a single NumPy array: numpy.savez makes an archive with a name for it"
            )


def _more_follows(file, size: int) -> bool:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0}[version]  # fmt: skip
        shape, _, dtype = read(file)
        return file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize < size
    except Exception:  # NumPy's parser raises errors of many kinds; then it is no such file
        return False
