"""``rankjax analyze`` and ``rankjax compare`` as they are typed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import rankjax
from rankjax.bounds import compare
from rankjax.network import describe
from rankjax.report import analyze, html_report, plan_ranks
from rankjax.report.cli import app
from tests.report.checkpoints import WRITERS, flat, save_npz, weights


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_version_and_completion():
    assert run("--version").output == f"rankjax {rankjax.__version__}\n"
    assert "--install-completion" in run("--help").output
    assert "Exit codes: 0 success" in run("--help").output


@pytest.mark.parametrize("name", WRITERS)
def test_analyze_prints_and_writes_what_the_library_finds(tmp_path, name):
    WRITERS[name](weights(), tmp_path / name)
    outputs = [f"--{kind}={tmp_path / f'out.{kind}'}" for kind in ("json", "csv", "html")]
    result = run("analyze", tmp_path / name, "--p", 0.25, "--p", 1, *outputs)
    assert result.exit_code == 0
    expected = analyze(tmp_path / name, p=[0.25, 1])
    assert (tmp_path / "out.json").read_text() == expected.to_json() + "\n"
    assert (tmp_path / "out.csv").read_text() == expected.to_csv()
    assert (tmp_path / "out.html").read_text().strip() == html_report(expected).strip()
    for words in ("Dense_0/kernel", "5 x 6", "Schatten 0.25", "soft 1", "a bias", "int32"):
        assert words in result.output


def test_json_on_standard_output_is_nothing_else(tmp_path):
    save_npz(weights(), tmp_path / "w.npz")
    document = json.loads(run("analyze", tmp_path / "w.npz", "--json", "-").stdout)
    assert len(document["matrices"]) == 2


def test_recommended_ranks_are_printed_and_written(tmp_path):
    left, right = np.ones((30, 1)), np.arange(1.0, 41)[None]
    np.savez(tmp_path / "w.npz", **{"a/kernel": left @ right, "b/kernel": np.eye(20)})  # pyright: ignore[reportArgumentType]
    result = run("analyze", tmp_path / "w.npz", "--energy", 0.9, "--write", tmp_path / "r.json")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text()) == {"a/kernel": 1}
    assert "factorize 1 of 2 leaves; 470 of 1,600 parameters remain (29%)" in result.output
    assert "100.00%" in result.output
    assert f"written: {tmp_path / 'r.json'}" in result.stderr
    printed = run("analyze", tmp_path / "w.npz", "--budget", 0.3, "--write", "-")
    assert json.loads(printed.stdout) == {"a/kernel": 1}
    bad = run("analyze", tmp_path / "w.npz", "--budget", 0.01)
    assert bad.exit_code == 1
    assert "budget: got 0.01, rank 1 everywhere needs 0.0688 already" in bad.stderr
    run("analyze", tmp_path / "w.npz", "--energy", 0.9, "--html", tmp_path / "r.html")
    found = analyze(tmp_path / "w.npz")
    page = html_report(found, plan=plan_ranks(found, energy=0.9))
    assert (tmp_path / "r.html").read_text().strip() == page.strip() != html_report(found).strip()


def test_the_page_of_a_difference_shows_its_reference_beside_it(tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    rng = np.random.default_rng(0)
    for path in (a, b):
        np.savez(path, **{"x/kernel": rng.standard_normal((5, 4)), "y/kernel": np.eye(3)})  # pyright: ignore[reportArgumentType]
    run("analyze", a, "--reference", b, "--only", "x/*", "--html", tmp_path / "r.html")
    found = analyze(a, reference=b, only=["x/*"])
    page = html_report(found, base=analyze(b, only=["x/*"]))
    assert (tmp_path / "r.html").read_text().strip() == page.strip()


def test_reference_layout_and_embeddings(tmp_path):
    save_npz(weights(0), tmp_path / "a.npz")
    save_npz(weights(1), tmp_path / "b.npz")
    result = run("analyze", tmp_path / "a.npz", "--reference", tmp_path / "b.npz", "--json", "-")
    document = json.loads(result.stdout)
    a, b = (flat(weights(i))["Dense_0/kernel"].astype(float) for i in (0, 1))
    found = document["matrices"][0]
    assert found["frobenius_norm"] == pytest.approx(np.linalg.norm(a - b))
    assert found["relative_change"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))
    np.savez(tmp_path / "c.npz", w1=np.ones((3, 4)), **{"tok_embed.weight": np.ones((9, 2))})  # pyright: ignore[reportArgumentType]
    plain = run("analyze", tmp_path / "c.npz")
    assert plain.exit_code == 1
    assert "No weight matrix was found" in plain.output
    both = run("analyze", tmp_path / "c.npz", "--layout", "torch", "--embeddings", "--json", "-")
    shapes = {m["path"]: (m["out"], m["in"]) for m in json.loads(both.stdout)["matrices"]}
    assert shapes == {"w1": (3, 4), "tok_embed.weight": (2, 9)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.npz"], "nothing.npz: no such file or folder"),
        (["cut.npz"], "is truncated or no archive"),
        (["bad.safetensors"], "no safetensors file: "),
        (["w.pkl"], "looks like a pickle"),
        (["w.npz", "--p", "0"], "p: got 0.0, must be > 0"),
        (["w.npz", "--p", "nan"], "p: got nan, must be > 0"),
        (["w.npz", "--reference", "cut.npz"], "is truncated or no archive"),
        (["w.npz", "--html", "no/such/folder/x.html"], "there is no folder no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_npz(weights(), tmp_path / "w.npz")
    (tmp_path / "cut.npz").write_bytes(b"PJ" + (tmp_path / "w.npz").read_bytes()[2:50])
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04.")
    result = run("analyze", *arguments)
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("rankjax: ")
    assert message in last
    assert "Traceback" not in result.output


MODULE = """
import jax

def apply(params, x):
    layers = params if "Dense_0" not in params else {
        f"{i}/{k}": v for i, d in params.items() if hasattr(d, "items") for k, v in d.items()}
    x = jax.nn.relu(x @ layers["Dense_0/kernel"] + layers["Dense_0/bias"][None])
    return x @ layers["Dense_1/kernel"] + layers["Dense_1/bias"][None]

def fails(params, x):
    return params["missing"]

number = 3
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A folder with a checkpoint, data that it classifies as they are labelled, and a module."""
    monkeypatch.chdir(tmp_path)
    tree = weights()
    x = np.random.default_rng(2).standard_normal((50, 6)).astype(np.float32)
    hidden = np.maximum(x @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"], 0)
    y = np.argmax(hidden @ tree["Dense_1"]["kernel"] + tree["Dense_1"]["bias"], 1)
    np.savez("data.npz", x=x, y=y)
    for name, write in WRITERS.items():
        write(tree, tmp_path / name)
    (tmp_path / "my_network.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    return tree, x, y


def same_bounds(found, expected, rel):
    assert (found["n"], len(found["bounds"])) == (50, len(expected["bounds"]))
    assert len(expected["bounds"]) > 15
    assert found["gamma"] == pytest.approx(expected["gamma"], rel=rel)
    for one, other in zip(found["bounds"], expected["bounds"], strict=True):
        assert one["bound"] == other["bound"]
        if one["bound"] == "compression" and rel > 1e-4:
            continue  # its cushions are measured along random directions, others in float64
        assert one["value"] == pytest.approx(other["value"], rel=rel)


def test_compare_is_the_table_of_the_library(network, tmp_path):
    tree, x, y = network
    # The same function and paths here and there: one compilation serves both.
    result = run("compare", "w.safetensors", "--data", "data.npz", "--apply",
                 "my_network:apply", "--json", "-")  # fmt: skip
    assert result.exit_code == 0
    import my_network  # pyright: ignore[reportMissingImports]

    params = {key: tree[key] for key in ("Dense_0", "Dense_1")}
    structure = describe(params, apply=my_network.apply, example=x[:1])
    table = compare(structure, params, x, y, apply=my_network.apply)
    expected = json.loads(table.to_json())
    same_bounds(json.loads(result.stdout), expected, 1e-5)
    # As a process of its own, with the ordinary promotion of dtypes, and from words.
    command = [sys.executable, "-c", "from rankjax.report.cli import app; app()", "compare",
               "w.msgpack", "--data", "data.npz", "--sequential", "dense relu dense",
               "--html", "r.html", "--markdown", "t.md", "--json", "t.json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path,
                          env={**os.environ, "JAX_ENABLE_X64": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("Dense_1/kernel", "rank_sparse", "n = 50", "Kind 'dominant'"):
        assert words in done.stdout
    same_bounds(json.loads((tmp_path / "t.json").read_text()), expected, 1e-3)
    assert "| rank_sparse |" in (tmp_path / "t.md").read_text()
    written = [line for line in done.stderr.splitlines() if line.startswith("written: ")]
    assert written == ["written: t.json", "written: t.md", "written: r.html"]
    page = (tmp_path / "r.html").read_text()
    assert 'id="bounds"' in page
    assert 'id="spectra"' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --apply module:function or --sequential"),
        (["--apply", "my_network:apply", "--sequential", "dense"], "give either"),
        (["--apply", "my_network"], "must be module:function"),
        (["--apply", "no_such_module:apply"], "ModuleNotFoundError"),
        (["--apply", "my_network:nothing"], "has no attribute 'nothing'"),
        (["--apply", "my_network:number"], "is no function, but int"),
        (["--apply", "my_network:fails"], "KeyError: 'missing' (line 11 of "),
        (["--sequential", "dense swish dense"], "got 'swish', must be one of ['dense', 'relu'"),
        (["--sequential", "dense relu"], "1 times 'dense' for 2 matrices"),
        (["--sequential", "dense dense", "--layout", "torch"], "is the layout right?"),
        (["--sequential", "dense dense", "--gamma", "-1"], "must be > 0"),
        (["--sequential", "dense dense", "--delta", "2"], "delta"),
        (["--sequential", "dense dense", "--data", "no.npz"], "no such file"),
        (["--sequential", "dense dense", "--data", "w.npz"], "must hold x and y, it holds ['Dense"),
        (["--sequential", "dense dense", "--data", "floats.npz"], "must be 4 integers"),
        (["--sequential", "dense dense", "--data", "nan.npz"], "must be finite numbers"),
        (["--sequential", "dense dense", "--data", "wide.npz"], "takes 6 inputs, an example has 7"),
        (["--sequential", "dense dense", "--reference", "floats.npz"], "reference does not fit"),
    ],
)
def test_compare_says_what_is_wrong(network, arguments, message):
    np.savez("floats.npz", x=np.ones((4, 6)), y=np.ones(4))
    np.savez("nan.npz", x=np.full((4, 6), np.nan), y=np.zeros(4, int))
    np.savez("wide.npz", x=np.ones((4, 7)), y=np.zeros(4, int))
    data = [] if "--data" in arguments else ["--data", "data.npz"]
    result = run("compare", "w.npz", *data, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_weights_that_are_not_finite_are_named(network, tmp_path):
    tree, _, _ = network
    tree["Dense_1"]["kernel"][0, 0] = np.nan
    save_npz(tree, tmp_path / "nan.npz")
    result = run("compare", "nan.npz", "--data", "data.npz", "--sequential", "dense relu dense")
    assert result.exit_code == 1
    assert "Dense_1/kernel holds entries that are not finite" in result.stderr


def test_help():
    for command in ([], ["analyze"], ["compare"]):
        result = run(*command, "--help")
        assert result.exit_code == 0
    assert "analyze" in run("--help").output


def test_shares_are_checked_before_anything_is_read(tmp_path):
    for options in (["--energy", 1.5], ["--budget", 0], ["--energy", 0.9, "--budget", 0.5]):
        result = run("analyze", tmp_path / "nothing", *options)
        assert result.exit_code == 1
        assert "got" in result.stderr or "not both" in result.stderr


def test_names_of_what_is_left_out_are_whole(tmp_path):
    long = "model.layers.0.self_attention.a_module_of_a_long_name.projection_of_queries.bias"
    np.savez(tmp_path / "w.npz", **{long: np.ones(3), "w.kernel": np.ones((3, 4))})
    assert long in run("analyze", tmp_path / "w.npz").output
    assert long in run("analyze", tmp_path / "w.npz", "--only", long).stderr
