"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the name of ``path`` once all is written.

    What goes wrong inside leaves ``path`` as it was. Links are followed; devices and pipes are
    written to directly.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    partial = partial_of(path)
    try:
        yield partial
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The name that a file has until it is complete, in the same folder."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}.partial")


def write_whole(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with whole_file(path) as partial:
        try:
            partial.write_text(text, encoding="utf-8")
        except OSError as error:  # of a full disk, which names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
