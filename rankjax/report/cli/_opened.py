"""The network and the data of a command: a checkpoint, its forward function, a file of examples."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import typer

from rankjax.report._matrices_by_name import Layout
from rankjax.report._network import Network, read_data, read_network
from rankjax.report.cli._screen import clear_errors, fail


@contextmanager
def opened(
    path: Path,
    data: Path,
    apply: str | None,
    sequential: str | None,
    layout: Layout | None,
    reference: Path | None,
    lipschitz: Mapping[str, float] | None = None,
) -> Iterator[tuple[Network, np.ndarray, np.ndarray]]:
    """``(network, x, y)``; what goes wrong inside is reported without a traceback."""
    if (apply is None) == (sequential is None):
        fail("give either --apply module:function or --sequential 'dense relu dense'")
    with clear_errors():
        x, y = read_data(data)
        function = None if apply is None else _imported(apply)
        try:
            network = read_network(
                path,
                x,
                apply=function,
                words=sequential,
                layout=layout,
                reference=reference,
                activations=lipschitz,
            )
            yield network, x, y
        except (OSError, ValueError, MemoryError, typer.Exit):
            raise
        except Exception as error:  # whatever a function of the user may raise
            fail(f"{apply or sequential} failed: {type(error).__name__}: {error}{_where(error)}")


def _imported(spec: str) -> Callable[[Any, Any], Any]:
    module_name, _, name = spec.rpartition(":")
    if not module_name or not name:
        fail(f"--apply: got {spec!r}, must be module:function or file.py:function")
    try:
        found: Any = _module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        fail(f"--apply: cannot import {spec!r}: {type(error).__name__}: {error}{_where(error)}")
    if not callable(found):
        fail(f"--apply: {spec!r} is no function, but {type(found).__name__}")
    return found


def _module(name: str) -> ModuleType:
    folder = os.getcwd()  # as for "python -m": modules of the folder that one is in
    if name.endswith(".py"):  # as for "python file.py": modules of its folder
        folder, name = str(Path(name).resolve().parent), Path(name).stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def _where(error: Exception) -> str:
    """The last line outside of packages: the user's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and "rankjax" not in f.filename
           and not f.filename.startswith("<") and "importlib" not in f.filename]  # fmt: skip
    return f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
