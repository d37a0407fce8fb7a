"""Files that are no checkpoints, or none that is read: by name, with what to do about it."""

from __future__ import annotations

import codecs
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
_DOWNLOAD = ", not the file itself: the download went wrong (a login, a wrong address)"


def refuse_foreign(path: Path) -> None:
    """Refuse what the first bytes (of Equinox: the name) show to be something else.

    Raises:
        CheckpointError: a pointer of git-lfs, a page of HTML or another text, an Equinox file,
            GGUF, gzip, a single array, an empty file.
    """
    with path.open("rb") as file:
        head = file.read(64)
        name = shown(str(path))
        if not head:
            raise CheckpointError(f"{name} is empty")
        text = head.removeprefix(codecs.BOM_UTF8).lstrip()
        for magic, what in _MAGIC.items():
            if text.startswith(magic):
                raise CheckpointError(f"{name} is {what}")
        if text.lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
            raise CheckpointError(f"{name} is a page of HTML{_DOWNLOAD}")
        suffix = path.suffix.lower()
        if suffix == ".eqx":
            raise CheckpointError(f"{name} holds {_EQUINOX}")
        # Both begin with bytes that are no text, in files of any size.
        if (
            suffix in {".safetensors", ".msgpack"}
            and text.isascii()
            and text.decode().isprintable()
        ):
            raise CheckpointError(f"{name} holds the text {shown(text.decode())!r}{_DOWNLOAD}")
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
