"""``rankjax certify``: a guarantee for a checkpoint; ``rankjax certify-demo``: train for one."""

from __future__ import annotations

import json as json_module
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rankjax.report.cli_analyze import (
    LayoutOption,
    PathArgument,
    ReferenceOption,
    console,
)
from rankjax.report.cli_network import ApplyOption, DataOption, SequentialOption, opened
from rankjax.report.cli_progress import training_progress


class Form(StrEnum):
    """The inequality of the certificate."""

    kl = "kl"
    hoeffding = "hoeffding"


class Architecture(StrEnum):
    """Networks of the demo."""

    cnn = "cnn"
    mlp = "mlp"


def certify(
    path: PathArgument,
    data: DataOption,
    apply: ApplyOption = None,
    sequential: SequentialOption = None,
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    delta: Annotated[float, typer.Option(help="Probability that the bound fails.")] = 0.01,
    form: Annotated[Form, typer.Option(help="The inequality.")] = Form.kl,
    tried: Annotated[
        int, typer.Option(min=1, help="Architectures or codes tried on this sample.")
    ] = 1,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the certificate; - prints it.")
    ] = None,
) -> None:
    """A bound on the true error of a checkpoint, with every constant.

    DATA must be all that the network was trained on; --reference weights must not depend on it.
    """
    with opened(path, data, apply, sequential, layout, reference) as (network, x, y):
        from rankjax.certificates import certify as certify_network
        from rankjax.certificates import verify

        mine = (network.structure, network.params, x, y)
        told = {"silu": 1.1} if sequential else None  # what JAX's own function is known to have
        options = {"apply": network.apply, "reference": network.reference, "activations": told}
        found = certify_network(*mine, delta=delta, form=form.value, tried=tried, **options)
        verify(found, *mine, **options)
        if str(json) == "-":
            typer.echo(found.to_json())
            return
        console().print(str(found), highlight=False, markup=False)
        if json is not None:
            json.write_text(found.to_json(), encoding="utf-8")


def certify_demo(
    architecture: Annotated[Architecture, typer.Option(help="The network.")] = Architecture.cnn,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    seed: Annotated[int, typer.Option(help="Initialisation and order of the examples.")] = 0,
    digits: Annotated[
        bool, typer.Option("--digits", help="The digits of scikit-learn and the mlp.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("certify-report"),
) -> None:
    """Train a network plainly, with weight decay and for its certificate; certify each."""
    from rich.table import Table

    from rankjax.report import datasets
    from rankjax.report.certify_demo import MLP_SETTINGS, Settings, run_certify_demo

    settings = MLP_SETTINGS if architecture is Architecture.mlp or digits else Settings()
    settings = replace(settings, seed=seed, epochs=epochs or settings.epochs)
    if digits:  # 8x8 pixels: too small for the convolutions
        settings = replace(settings, pool=1, batch_size=64)
    try:
        images = datasets.load("digits" if digits else "mnist")
    except datasets.DatasetUnavailableError as error:
        raise SystemExit(f"rankjax: {error}") from None
    screen = console()
    with training_progress(screen) as progress:
        results = run_certify_demo(images, settings, progress)
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
    screen.print(results["routes"][-1]["text"], highlight=False, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json_module.dumps(results, indent=1), encoding="utf-8")
    screen.print(f"Report: {out / 'results.json'}", highlight=False)
