"""``--lipschitz NAME=NUMBER`` of ``compare`` and ``certify``."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from rankjax.network.internal import ACTIVATIONS
from rankjax.report.cli import app
from rankjax.report.cli._lipschitz import KNOWN, constants

MODULE = """
import jax
import jax.numpy as jnp

@jax.jit
def bump(x):
    return x * jnp.exp(-x * x)

def apply(params, x):
    return bump(x @ params["a/kernel"]) @ params["b/kernel"]
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (4, 2)))
    x = rng.standard_normal((40, 3)).astype(np.float32)
    h = x @ a
    np.savez("w.npz", **{"a/kernel": a, "b/kernel": b})  # pyright: ignore[reportArgumentType]
    np.savez("data.npz", x=x, y=np.argmax((h * np.exp(-h * h)) @ b, 1))
    (tmp_path / "vouched_net.py").write_text(MODULE)
    return ["w.npz", "--data", "data.npz"]


def run(*arguments):
    return CliRunner().invoke(app, [*arguments])


def test_compare_takes_the_constant_and_says_that_it_is_not_proved(network):
    options = [*network, "--apply", "vouched_net.py:apply", "--json", "-"]
    plain = json.loads(run("compare", *options).stdout)
    assert "explicit" not in {row["kind"] for row in plain["bounds"]}
    found = json.loads(run("compare", *options, "--lipschitz", "bump=1.5").stdout)
    more = json.loads(run("compare", *options, "--lipschitz", "bump=3").stdout)
    assert found["facts"]["Given by --lipschitz, not proved"] == "bump is 1.5-Lipschitz"
    values = [
        next(row["value"] for row in table["bounds"]
             if (row["bound"], row["kind"]) == ("one_inf", "explicit"))
        for table in (found, more)
    ]  # fmt: skip
    assert values[1] == pytest.approx(2 * values[0], rel=1e-3)


def test_certify_takes_it_too(network):
    options = [*network, "--apply", "vouched_net.py:apply"]
    result = run("certify", *options, "--lipschitz", "bump=1")
    assert result.exit_code == 0, result.output
    assert "bump is 1-Lipschitz" in result.stdout


def test_words_take_it_where_it_is_not_below_the_known_constant(network):
    options = ["compare", *network, "--sequential", "dense gelu dense", "--gamma", "1"]
    result = run(*options, "--lipschitz", "gelu=2.125")
    assert result.exit_code == 0, result.output
    assert "2.125 │" in result.stdout
    low = run(*options, "--lipschitz", "gelu=1")
    assert (low.exit_code, low.stdout) == (1, "")
    assert "activations['gelu']: got 1, its largest slope is 1.13 already" in low.stderr
    other = run(*options, "--lipschitz", "silu=2")
    assert "activations: 'silu' is no activation of 'dense gelu dense'" in other.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["gelu"], "--lipschitz: got 'gelu', must be NAME=NUMBER"),
        (["=1"], "--lipschitz: got '=1', must be NAME=NUMBER"),
        (["gelu=large"], "--lipschitz: got 'gelu=large', must be NAME=NUMBER"),
        (["a=1", "a=2"], "--lipschitz: 'a' is given twice"),
    ],
)
def test_other_forms_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        constants(given)


def test_the_help_lists_the_constants_of_the_library():
    text = " ".join(CliRunner().invoke(app, ["compare", "--help"]).output.split())
    assert KNOWN in text
    assert all(name.split(",")[0] in KNOWN for name in ACTIVATIONS)
    assert "silu 1.0999, " in KNOWN
