"""``rankjax analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankjax import report
from rankjax.report._rank_plan import DEFAULT_ENERGY
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
    energy: Annotated[
        float | None,
        typer.Option(help="Recommend ranks that keep this share of each matrix's energy."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Recommend ranks that keep this share of the parameters in all."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            help="Write the recommended ranks as JSON (a name in .json; - prints it), or of a LoRA "
            "adapter a smaller one with its rank_pattern. Default energy 0.99."
        ),
    ] = None,
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
        pattern = write is not None and (str(write) == "-" or write.suffix == ".json")
        plan = None
        if pattern or energy is not None or budget is not None:
            plan = report.plan_ranks(found, energy=energy, budget=budget)
        if str(json) == "-":
            typer.echo(found.to_json())
        elif str(write) == "-" and plan is not None:
            typer.echo(plan.to_json())
        else:
            console().print(rich_report(found, plan))
        written = {"JSON": (json, found.to_json), "CSV": (csv, found.to_csv),
                   "HTML": (html, lambda: report.html_report(found))}  # fmt: skip
        for what, (target, text) in written.items():
            if target is not None and str(target) != "-":
                target.write_text(text(), encoding="utf-8")
                typer.echo(f"{what}: {target}", err=True)
        if write is not None and plan is not None and write.suffix == ".json":
            write.write_text(plan.to_json() + "\n", encoding="utf-8")
            typer.echo(f"ranks: {write}", err=True)
        elif write is not None and not pattern:
            if budget is not None:
                raise ValueError("--budget: a smaller adapter is written at an energy, no budget")
            share = DEFAULT_ENERGY if energy is None else energy
            smaller = report.write_smaller_adapter(path, write, energy=share)
            before, after = smaller.parameters
            typer.echo(f"adapter: {write}, {after:,} of {before:,} parameters", err=True)
    if not found.rows:
        raise typer.Exit(1)
