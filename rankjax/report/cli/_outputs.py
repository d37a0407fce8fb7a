"""The files that a command writes: checked before the work starts, written when it is done."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import typer

from rankjax.report._whole_files import partial_of, write_whole

_STDOUT = Path("-")


class Outputs:
    """The files that options name, ``-`` for standard output.

    Args:
        inputs: what the command reads; not to be overwritten.
        targets: the path that each option names; ``None`` for an option that is not given.

    Raises:
        ValueError: a path that cannot be written, that is read, or that is named twice.
    """

    def __init__(self, inputs: Sequence[Path | None], **targets: Path | None) -> None:
        self._targets = {f"--{name}": path for name, path in targets.items() if path is not None}
        for option, path in self._targets.items():
            if path != _STDOUT:
                _check(option, path)
                if any(_same(path, given) for given in inputs if given is not None):
                    raise ValueError(f"{option}: {path} is an input; name another file")
        for (one, path), (other, second) in combinations(self._targets.items(), 2):
            if _same(path, second):
                what = "standard output" if path == _STDOUT else f"the file {path}"
                raise ValueError(f"{other}: {what} is taken by {one} already")

    @property
    def printed(self) -> bool:
        """Whether standard output belongs to one of the options."""
        return _STDOUT in self._targets.values()

    def write(self, option: str, text: Callable[[], str]) -> None:
        """Write or print what an option asks for, if it is given."""
        path = self._targets.get(option)
        if path == _STDOUT:
            typer.echo(text().removesuffix("\n"))
        elif path is not None:
            write_whole(path, text().removesuffix("\n") + "\n")
            say_written(path)


def say_written(path: Path, more: str = "") -> None:
    """One line on standard error for a file that was written."""
    typer.echo(f"written: {path}{more}", err=True)


def check_new_folder(option: str, folder: Path) -> None:
    """Raise ``ValueError`` if a folder cannot be made, or written to where it is there."""
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise ValueError(f"{option}: {place} is a file, must be a folder")
        _try_writing(place / "adapter")
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written: {error.strerror}") from None


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists() and _STDOUT not in (one, other):
        return os.path.samefile(one, other)
    return os.path.realpath(one) == os.path.realpath(other)


def _check(option: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise ValueError(f"{option}: {path} is a folder; name a file")
        if not path.parent.is_dir():
            raise ValueError(f"{option}: there is no folder {path.parent}")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path.is_file() or not path.exists():
            _try_writing(Path(os.path.realpath(path)))
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be written: {error.strerror}") from None


def _try_writing(path: Path) -> None:
    # Permissions are not all: quotas, read-only disks and long names show when one tries.
    partial = partial_of(path)
    partial.touch()
    partial.unlink()
