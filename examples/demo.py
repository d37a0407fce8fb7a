"""``make demo``: train plainly and with the bound in the loss, and leave a folder to look at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.numpy
import typer
from rich.console import Console

from examples import certify_training, datasets, demo_network
from examples.demo_plots import draw_demo
from examples.demo_table import print_demo
from examples.demo_training import QUICK, Settings, run_demo
from examples.output_folder import OutOption, SeedOption
from examples.progress import training_progress
from rankjax.network.internal import paths_and_leaves


def demo(
    dataset: Annotated[
        Literal["auto", "mnist", "digits"],
        typer.Option(help="auto: MNIST, or digits where MNIST is not available."),
    ] = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="A small network, under a minute.")
    ] = False,
    out: OutOption = Path("demo-report"),
    weight: Annotated[
        float | None, typer.Option(min=0, help="Factor of log(bound) in the loss.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Train one network plainly and once more with the rank-sparse bound in its loss.

    The folder of the report gets pictures, results.json, both networks, a small network trained for
    its certificate, the training data, and network.py with the forward functions.
    """
    console = Console()
    settings = replace(QUICK if quick else Settings(), seed=seed)
    if weight is not None:
        settings = replace(settings, weight=weight)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    try:
        data = datasets.load("mnist" if dataset == "auto" else dataset)
    except datasets.DatasetUnavailableError as error:
        if dataset != "auto":
            raise SystemExit(f"demo: {error}") from None
        console.print(f"{error}\nGoing on with the digits of scikit-learn.", highlight=False)
        data = datasets.load("digits")
    with training_progress(console) as progress:
        results, trained = run_demo(data, settings, progress)
        small = certify_training.small_settings(data, seed)
        task = certify_training.make_task(data, small)
        certified = certify_training.train(task, "certificate", small, progress)
    console.print(results["structure"], highlight=False)
    print_demo(results, console)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    draw_demo(results, out)
    for name, params in {**trained, "small": certified}.items():
        _save(params, out / f"{name}.safetensors")
    np.savez_compressed(out / "data.npz", x=data.x_train, y=data.y_train)
    np.savez_compressed(out / "small-data.npz", x=np.asarray(task.x), y=np.asarray(task.y))
    shutil.copyfile(demo_network.__file__, out / "network.py")
    names = ", ".join(sorted(path.name for path in out.iterdir()))
    console.print(f"{out}: {names}", highlight=False)


def _save(params: Any, path: Path) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in paths_and_leaves(params)}
    safetensors.numpy.save_file(arrays, path)


if __name__ == "__main__":
    typer.run(demo)
