"""``rankjax analyze``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rankjax import report
from rankjax.report._adapter import check_adapter, write_checked
from rankjax.report._rank_plan import DEFAULT_ENERGY, check_shares
from rankjax.report._sorting import SortKey
from rankjax.report._terminal import rich_report
from rankjax.report.cli._options import (
    CsvOption,
    HtmlOption,
    JsonOption,
    LayoutOption,
    OnlyOption,
    PathArgument,
    PowerOption,
    ReferenceOption,
    SkipOption,
)
from rankjax.report.cli._outputs import Outputs, check_new_folder, say_written
from rankjax.report.cli._screen import clear_errors, console, progress_bar


def analyze(
    path: PathArgument,
    p: PowerOption = [0.5],  # noqa: B006 - typer reads it, nothing changes it
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Measure tables of embeddings, too.")
    ] = False,
    only: OnlyOption = [],  # noqa: B006
    skip: SkipOption = [],  # noqa: B006
    max_size: Annotated[
        int | None, typer.Option(min=1, help="Leave out matrices with more entries.")
    ] = None,
    sort: Annotated[
        SortKey, typer.Option(help="Order of the rows; of numbers the largest first.")
    ] = "path",
    keep: Annotated[
        Path | None,
        typer.Option(
            help="A folder for singular values as they become known: run again, an interrupted "
            "analysis goes on where it stopped."
        ),
    ] = None,
    json: JsonOption = None,
    csv: CsvOption = None,
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
        check_shares(energy, budget)
        pattern = write if write is None or str(write) == "-" or write.suffix == ".json" else None
        folder = write if pattern is None else None
        outputs = Outputs([path, reference], json=json, csv=csv, html=html, write=pattern)
        if folder is not None:
            if budget is not None:
                raise ValueError("--budget: a smaller adapter is written at an energy, no budget")
            check_new_folder("--write", folder)
        checkpoint = report.load(path)
        adapter = None if folder is None else check_adapter(checkpoint, folder)
        with progress_bar() as progress:
            measured = partial(
                report.analyze, p=p, layout=layout, embeddings=embeddings, only=only, skip=skip,
                max_size=max_size, keep=keep, progress=progress,
            )  # fmt: skip
            found = measured(checkpoint, reference=reference).sorted(sort)
            base = measured(reference).sorted(sort) if html and reference and found.rows else None
        plan = None
        if pattern is not None or energy is not None or budget is not None:
            plan = report.plan_ranks(found, energy=energy, budget=budget)
        if not outputs.printed:
            console().print(rich_report(found, plan))
        outputs.write("--json", found.to_json)
        outputs.write("--csv", found.to_csv)
        outputs.write("--html", lambda: report.html_report(found, plan=plan, base=base))
        if plan is not None:
            outputs.write("--write", plan.to_json)
        if adapter is not None:
            share = DEFAULT_ENERGY if energy is None else energy
            before, after = write_checked(adapter, share).parameters
            say_written(adapter.folder, f", {after:,} of {before:,} parameters")
    if not found.rows:
        raise typer.Exit(1)
