"""``rankjax compare``: the table of all bounds for a checkpoint and a file of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankjax import bounds, report
from rankjax.report.cli._opened import opened
from rankjax.report.cli._options import (
    ApplyOption,
    DataOption,
    HtmlOption,
    LayoutOption,
    PathArgument,
    ReferenceOption,
    SequentialOption,
)
from rankjax.report.cli._screen import console, progress_bar


def compare(
    path: PathArgument,
    data: DataOption,
    apply: ApplyOption = None,
    sequential: SequentialOption = None,
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    gamma: Annotated[
        float | None, typer.Option(help="The margin; default: the one that costs 1 % accuracy.")
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
    with opened(path, data, apply, sequential, layout, reference) as (network, x, y):
        table = bounds.compare(
            network.structure, network.params, x, y, apply=network.apply,
            reference=network.reference, gamma=gamma, delta=delta,
        )  # fmt: skip
        if str(json) == "-":
            typer.echo(table.to_json())
        else:
            out = console()
            out.print(str(network.structure))
            out.print(str(table.sorted()))
        if json is not None and str(json) != "-":
            json.write_text(table.to_json(), encoding="utf-8")
        if markdown is not None:
            markdown.write_text(report.markdown_table(table, breakdown=True), encoding="utf-8")
        if html is not None:
            with progress_bar() as progress:
                found = report.analyze(
                    network.checkpoint, structure=network.structure, progress=progress
                )
            html.write_text(report.html_report(found, table), encoding="utf-8")
