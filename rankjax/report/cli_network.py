"""The network and the data of a command: a checkpoint, its forward function, a file of examples."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rankjax.report.cli_analyze import LayoutOption, clear_errors, fail

DataOption = Annotated[
    Path, typer.Option(help="npz with x (examples first) and y (integer labels).")
]
ApplyOption = Annotated[
    str | None, typer.Option(help="module:function with function(params, x) -> logits.")
]
SequentialOption = Annotated[
    str | None,
    typer.Option(help='The network in words, such as "dense relu dense", in place of --apply.'),
]


@contextmanager
def opened(
    path: Path,
    data: Path,
    apply: str | None,
    sequential: str | None,
    layout: LayoutOption,
    reference: Path | None,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """``(network, x, y)``; what goes wrong inside is reported without a traceback."""
    if (apply is None) == (sequential is None):
        fail("give either --apply module:function or --sequential 'dense relu dense'")
    with clear_errors():
        from rankjax.report.bounds_of import read_data, read_network

        x, y = read_data(data)
        layout_name = layout.value if layout else None
        function = None if apply is None else _imported(apply)
        try:
            yield (
                read_network(
                    path, x, apply=function, words=sequential, layout=layout_name,
                    reference=reference,
                ),
                x,
                y,
            )  # fmt: skip
        except (OSError, ValueError, MemoryError, typer.Exit):
            raise
        except Exception as error:  # whatever a function of the user may raise
            fail(f"{apply or sequential} failed: {type(error).__name__}: {error}{_where(error)}")


def _imported(spec: str) -> Callable[[Any, Any], Any]:
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        fail(f"--apply: got {spec!r}, must be module:function")
    # As for "python -m": modules of the folder that one is in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        fail(f"--apply: cannot import {spec!r}: {type(error).__name__}: {error}{_where(error)}")
    if not callable(found):
        fail(f"--apply: {spec!r} is no function, but {type(found).__name__}")
    return found


def _where(error: Exception) -> str:
    """The last line outside of packages: the user's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and "rankjax" not in f.filename
           and not f.filename.startswith("<") and "importlib" not in f.filename]  # fmt: skip
    return f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
