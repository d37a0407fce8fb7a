"""``make certify-demo``: train plainly, with weight decay and for the certificate; certify each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from examples import datasets
from examples.certify_training import MLP_SETTINGS, Settings, run_certify_demo, small_settings
from examples.output_folder import OutOption, SeedOption
from examples.progress import training_progress


def certify_demo(
    architecture: Annotated[Literal["cnn", "mlp"], typer.Option(help="The network.")] = "cnn",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    seed: SeedOption = 0,
    digits: Annotated[
        bool, typer.Option("--digits", help="The digits of scikit-learn and the mlp.")
    ] = False,
    out: OutOption = Path("certify-report"),
) -> None:
    """Train a network plainly, with weight decay and for its certificate; certify each."""
    try:
        data = datasets.load("digits" if digits else "mnist")
    except datasets.DatasetUnavailableError as error:
        raise SystemExit(f"certify-demo: {error}") from None
    settings = MLP_SETTINGS if architecture == "mlp" else Settings()
    settings = small_settings(data, seed) if digits else replace(settings, seed=seed)
    settings = replace(settings, epochs=epochs or settings.epochs)
    screen = Console(highlight=False, markup=False)
    with training_progress(screen) as progress:
        results = run_certify_demo(data, settings, progress)
    table = Table(
        title=f"{results['dataset']}, {results['parameters']} weights, delta {settings.delta}"
    )
    names = ("training", "train error", "test error", "counted", "nats", "true error at most", "s")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right")
    for route in results["routes"]:
        table.add_row(
            route["route"], f"{route['train_error']:.4f}", f"{route['test_error']:.4f}",
            f"{route['counted_error']:.4f}", f"{route['nats']:.0f}",
            f"{route['certificate']:.4f}", f"{route['seconds'] + route['certify_seconds']:.0f}",
        )  # fmt: skip
    screen.print(table)
    screen.print(results["routes"][-1]["text"])
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    screen.print(f"Report: {out / 'results.json'}")


if __name__ == "__main__":
    typer.run(certify_demo)
