"""``rankjax compare``: the table of all bounds for a checkpoint and a file of data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankjax.report.cli_analyze import (
    HtmlOption,
    LayoutOption,
    PathArgument,
    ReferenceOption,
    console,
    progress_bar,
)
from rankjax.report.cli_network import ApplyOption, DataOption, SequentialOption, opened


def compare(
    path: PathArgument,
    data: DataOption,
    apply: ApplyOption = None,
    sequential: SequentialOption = None,
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
    with opened(path, data, apply, sequential, layout, reference) as (network, x, y):
        from rankjax.report.bounds_of import bounds_of

        table = bounds_of(network, x, y, gamma=gamma, delta=delta)
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
