"""``rankjax compare``: the table of all bounds for a checkpoint and a file of data."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from rankjax import bounds, report
from rankjax.report._bounds_terminal import rich_bounds, rich_structure
from rankjax.report.cli._lipschitz import constants
from rankjax.report.cli._opened import opened
from rankjax.report.cli._options import (
    ApplyOption,
    DataOption,
    HtmlOption,
    JsonOption,
    LayoutOption,
    LipschitzOption,
    MarkdownOption,
    PathArgument,
    ReferenceOption,
    SequentialOption,
)
from rankjax.report.cli._outputs import Outputs
from rankjax.report.cli._screen import clear_errors, console, progress_bar


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
    lipschitz: LipschitzOption = [],  # noqa: B006 - typer reads it, nothing changes it
    json: JsonOption = None,
    markdown: MarkdownOption = None,
    html: HtmlOption = None,
) -> None:
    """Every bound for a checkpoint and its data, in one table.

    The function of --apply gets what the checkpoint holds: nested dictionaries (msgpack, Orbax) or
    one dictionary of full names (safetensors, npz), half precision made float32.
    """
    with clear_errors():
        outputs = Outputs([path, data, reference], json=json, markdown=markdown, html=html)
        told = constants(lipschitz)
    with opened(path, data, apply, sequential, layout, reference, told) as (network, x, y):
        table = bounds.compare(
            network.structure, network.params, x, y, apply=network.apply,
            reference=network.reference, gamma=gamma, delta=delta,
        )  # fmt: skip
        if told:
            given = ", ".join(f"{name} is {c:g}-Lipschitz" for name, c in told.items())
            fact = ("Given by --lipschitz, not proved", given)
            table = replace(table, facts=(*table.facts, fact))
        if not outputs.printed:
            out = console()
            out.print(rich_structure(network.structure))
            out.print(rich_bounds(table))
        outputs.write("--json", table.to_json)
        outputs.write("--markdown", lambda: report.markdown_table(table.sorted(), breakdown=True))

        def page() -> str:
            with progress_bar() as progress:
                found = report.analyze(
                    network.checkpoint, structure=network.structure, progress=progress
                )
            return report.html_report(found, table)

        outputs.write("--html", page)
