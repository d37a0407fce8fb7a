"""``rankjax analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankjax import report
from rankjax.report._terminal import rich_report
from rankjax.report.cli._options import (
    HtmlOption,
    LayoutOption,
    PathArgument,
    PowerOption,
    ReferenceOption,
)
from rankjax.report.cli._screen import clear_errors, console, progress_bar


def analyze(
    path: PathArgument,
    p: PowerOption = [0.5],  # noqa: B006 - typer reads it, nothing changes it
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Measure tables of embeddings, too.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Write everything, spectra included; - prints it."),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table.")] = None,
    html: HtmlOption = None,
    write: Annotated[
        Path | None,
        typer.Option(help="A LoRA adapter: write a smaller one, with its rank_pattern, here."),
    ] = None,
    energy: Annotated[
        float, typer.Option(help="Share of the energy of each update that --write keeps.")
    ] = 0.99,
) -> None:
    """Norms, ranks, tails and possible savings of every weight matrix of a checkpoint."""
    with clear_errors():
        with progress_bar() as progress:
            found = report.analyze(
                path,
                p=p,
                layout=layout,
                embeddings=embeddings,
                reference=reference,
                progress=progress,
            )
        if str(json) == "-":
            typer.echo(found.to_json())
        else:
            console().print(rich_report(found))
        written = {"JSON": (json, found.to_json), "CSV": (csv, found.to_csv),
                   "HTML": (html, lambda: report.html_report(found))}  # fmt: skip
        for what, (target, text) in written.items():
            if target is not None and str(target) != "-":
                target.write_text(text(), encoding="utf-8")
                typer.echo(f"{what}: {target}", err=True)
        if write is not None:
            smaller = report.write_smaller_adapter(path, write, energy=energy)
            before, after = smaller.parameters
            typer.echo(f"adapter: {write}, {after:,} of {before:,} parameters", err=True)
    if not found.rows:
        raise typer.Exit(1)
