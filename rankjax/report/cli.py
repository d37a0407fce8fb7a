"""The command line, ``rankjax``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

# OpenBLAS threads wait by spinning: beside other work on few cores that is many times slower than
# one thread. It reads this once, when JAX loads it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import typer
    from rich.console import Console
except ImportError as error:  # pragma: no cover - needs an environment without the extra
    raise SystemExit(
        f"rankjax: {error}. The command line needs: pip install 'rankjax[report]'"
    ) from None

from rankjax.report.cli_analyze import analyze
from rankjax.report.cli_certify import certify, certify_demo
from rankjax.report.cli_compare import compare
from rankjax.report.cli_progress import training_progress

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Schatten quasi-norms and rank-sparse generalization bounds."""


app.command()(analyze)
app.command()(compare)
app.command()(certify)
app.command()(certify_demo)


class DatasetName(StrEnum):
    """Data sets that the demo can train on."""

    auto = "auto"
    mnist = "mnist"
    digits = "digits"


@app.command()
def demo(
    dataset: Annotated[
        DatasetName, typer.Option(help="auto: MNIST, or digits where MNIST is not to be had.")
    ] = DatasetName.auto,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small network, under a minute.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("demo-report"),
    weight: Annotated[
        float | None, typer.Option(min=0, help="Factor of log(bound) in the loss.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    seed: Annotated[int, typer.Option(help="Initialisation and order of the examples.")] = 0,
) -> None:
    """Train one network plainly and once more with the rank-sparse bound in its loss."""
    from rankjax.report import datasets
    from rankjax.report.demo import QUICK, Settings, run_demo
    from rankjax.report.demo_table import print_demo
    from rankjax.report.plots import draw_demo

    console = Console()
    settings = replace(QUICK if quick else Settings(), seed=seed)
    if weight is not None:
        settings = replace(settings, weight=weight)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    try:
        data = datasets.load("mnist" if dataset is DatasetName.auto else dataset.value)
    except datasets.DatasetUnavailableError as error:
        if dataset is not DatasetName.auto:
            raise SystemExit(f"rankjax: {error}") from None
        console.print(f"{error}\nGoing on with the digits of scikit-learn.", highlight=False)
        data = datasets.load("digits")
    with training_progress(console) as progress:
        results = run_demo(data, settings, progress)
    console.print(results["structure"], highlight=False)
    print_demo(results, console)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    pictures = draw_demo(results, out)
    names = ", ".join(path.name for path in pictures)
    console.print(f"Report: {out / 'results.json'} and {names}", highlight=False)
