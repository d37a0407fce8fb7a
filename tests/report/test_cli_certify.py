"""``rankjax certify`` as it is typed."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from rankjax.certificates import Certificate, certify_all, compress
from rankjax.report import read_network
from rankjax.report.cli import app


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A checkpoint that separates two blobs, its data, and a module with its forward function."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=3000)
    x = rng.normal(size=(3000, 4)) * 0.2 + np.where(y[:, None] == 1, 1.0, -1.0)
    first, second = np.full((3, 4), 0.5), np.array([[-1.0] * 3, [1.0] * 3])
    both = {"0.weight": np.concatenate([first, -first]), "1.weight": np.hstack([second, -second])}
    np.savez(tmp_path / "w.npz", **{name: a.astype(np.float32) for name, a in both.items()})  # pyright: ignore[reportArgumentType]
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y)
    (tmp_path / "certified_net.py").write_text(
        "import jax\nimport jax.numpy as jnp\n\ndef apply(p, x):\n"
        "    return jax.nn.relu(x @ p['0.weight'].T) @ p['1.weight'].T\n"
        "\ndef strange(p, x):\n    return jnp.sign(x @ p['0.weight'].T) @ p['1.weight'].T\n"
    )
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "160"})


def test_words_and_functions_give_the_same_certificate(files):
    options = ["w.npz", "--data", "data.npz", "--json", "-"]
    words = run("certify", *options, "--sequential", "dense relu dense")
    function = run("certify", *options, "--apply", "certified_net:apply")
    assert words.exit_code == function.exit_code == 0, words.output + function.output
    found = Certificate.from_json(words.stdout)
    assert found == Certificate.from_json(function.stdout)
    assert found.value < 0.2
    assert found.n == 3000


def test_the_certificate_is_printed_and_written(files):
    result = run("certify", "w.npz", "--data", "data.npz", "--sequential", "dense relu dense",
                 "--delta", "0.1", "--json", "out.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    written = Certificate.from_json((files / "out.json").read_text())
    above = math.ceil(1e4 * written.value) / 1e4
    assert f"true error <= {above:.4f} with probability >= 0.9" in result.output
    assert "assumptions" in result.output
    assert written.delta == 0.1


def test_all_guarantees_in_one_table(files):
    with np.load("data.npz") as data:
        x, y = data["x"], data["y"]
    np.savez("data.npz", x=x[:2000], y=y[:2000])
    np.savez("fresh.npz", x=x[2000:], y=y[2000:])
    words, mine = "dense relu dense", ("w.npz", "--data", "data.npz")
    network = read_network(files / "w.npz", x, words=words)
    small = compress(network.structure, network.params)
    small.save("small.file")
    options = ["--all", "--held-out", "fresh.npz", "--stored", "small.file", "--delta", "0.02"]
    result = run("certify", *mine, "--sequential", words, *options, "--json", "all.json")
    assert result.exit_code == 0, result.output
    assert "all of them hold at once with probability >= 0.98" in result.output
    expected = certify_all(
        network.structure, network.params, x[:2000], y[:2000], apply=network.apply, delta=0.02,
        held_out=(x[2000:], y[2000:]), unlabeled=x[2000:], stored=small, joint=True,
    )  # fmt: skip
    written = json.loads((files / "all.json").read_text())
    assert len(expected) == 5
    for row, route in zip(written["routes"], expected, strict=True):
        assert row["name"] == route.name
        assert row["guarantee"]["value"] == route.guarantee.value


def test_more_files_are_for_the_table(files):
    result = run("certify", "w.npz", "--data", "data.npz", "--sequential", "dense relu dense",
                 "--held-out", "data.npz")  # fmt: skip
    assert result.exit_code == 1
    assert "only with --all" in result.output


def test_what_cannot_be_certified_is_said(files):
    result = run("certify", "w.npz", "--data", "data.npz", "--apply", "certified_net:strange")
    assert result.exit_code == 1
    assert "activations=" in result.output
    assert "Traceback" not in result.output
