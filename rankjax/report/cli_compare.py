"""``rankjax compare``: the table of all bounds for a checkpoint and a file of data."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rankjax.report.cli_analyze import (
    HtmlOption,
    LayoutOption,
    PathArgument,
    ReferenceOption,
    clear_errors,
    console,
    fail,
    progress_bar,
)


def compare(
    path: PathArgument,
    data: Annotated[Path, typer.Option(help="npz with x (examples first) and y (integer labels).")],
    apply: Annotated[
        str | None, typer.Option(help="module:function with function(params, x) -> logits.")
    ] = None,
    sequential: Annotated[
        str | None,
        typer.Option(help='The network in words, such as "dense relu dense", in place of --apply.'),
    ] = None,
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    gamma: Annotated[
        float | None, typer.Option(help="The margin; default: what costs 1 % of the accuracy.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Confidence of the explicit bounds.")] = 0.05,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the table, all terms included; - prints.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table.")] = None,
    html: HtmlOption = None,
) -> None:
    """Every bound for a checkpoint and its data, in one table.

    The function of --apply gets what the checkpoint holds: nested dictionaries (msgpack, Orbax) or
    one dictionary of full names (safetensors, npz), half precision made float32.
    """
    if (apply is None) == (sequential is None):
        fail("give either --apply module:function or --sequential 'dense relu dense'")
    with clear_errors():
        from rankjax.report.bounds_of import Network, bounds_of, read_data, read_network

        x, y = read_data(data)
        layout_name = layout.value if layout else None
        function = None if apply is None else _imported(apply)
        try:
            network: Network = read_network(
                path, x, apply=function, words=sequential, layout=layout_name, reference=reference
            )
            table = bounds_of(network, x, y, gamma=gamma, delta=delta)
        except (OSError, ValueError, MemoryError):
            raise
        except Exception as error:  # whatever a function of the user may raise
            fail(f"{apply or sequential} failed: {type(error).__name__}: {error}{_where(error)}")
        if str(json) == "-":
            typer.echo(table.to_json())
        else:
            out = console()
            out.print(str(network.structure))
            out.print(table.sorted())
        if json is not None and str(json) != "-":
            json.write_text(table.to_json(), encoding="utf-8")
        if markdown is not None:
            markdown.write_text(table.to_markdown(breakdown=True), encoding="utf-8")
        if html is not None:
            from rankjax.report.analyze import analyze

            with progress_bar() as progress:
                found = analyze(network.checkpoint, structure=network.structure, progress=progress)
            found.to_html(html, table=table)


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
