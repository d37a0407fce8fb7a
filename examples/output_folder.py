"""The folder that a command writes to, tried before the work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(f"cannot write to {folder}: {error.strerror}") from None
    return folder


OutOption = Annotated[Path, typer.Option(help="Folder of the report.", callback=_writable)]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**31 - 1, help="Initialization and order of the examples.")
]
