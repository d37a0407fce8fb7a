"""What the commands print fits the terminal, with every name and number whole."""

import re

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rankjax.bounds import Kind, compare
from rankjax.network import describe
from rankjax.report import analyze, plan_ranks
from rankjax.report._bounds_terminal import rich_bounds, rich_structure
from rankjax.report._terminal import rich_report
from rankjax.report.cli import app
from tests.bounds import networks

STEM = "model/encoder/layers_0/feed_forward_of_a_long_name/"


def printed(what, width):
    screen = Console(width=width, force_terminal=True, color_system=None)
    with screen.capture() as capture:
        screen.print(what)
    return re.sub(r"\x1b\[\d*m", "", capture.get())


@pytest.mark.parametrize("width", [80, 50])
def test_no_table_is_cut_or_wider_than_the_terminal(width):
    rng = np.random.default_rng(0)
    tree = {f"{STEM}{i}/kernel": rng.standard_normal((20, 30)) for i in range(3)}
    found = analyze(tree, p=[0.25, 1], reference={k: a + 1e-5 for k, a in tree.items()})
    text = printed(rich_report(found, plan_ranks(found, energy=0.5)), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    names = "".join(row[1].strip() for row in rows)
    assert all(path in names for path in tree)
    numbers = {cell.strip() for row in rows for cell in row[2:]}
    assert {"30 x 20", f"{found.rows[0].schatten_norm[0]:.3g}"} <= numbers


def test_the_tables_of_compare_are_apart_and_not_cut():
    params = {f"{STEM}{name}": leaf for name, leaf in networks.chain([3, 5, 4, 2]).items()}
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = np.asarray(networks.apply(params, x)).argmax(-1)
    structure = describe(params, apply=networks.apply, example=x[:1])
    table = compare(structure, params, x, y, apply=networks.apply)
    layers, text = printed(rich_structure(structure), 80), printed(rich_bounds(table), 80)
    assert "…" not in layers + text
    assert max(map(len, (layers + text).splitlines())) <= 80
    assert "Lipschitz after" in layers
    explicit, dominant = text.split("Dominant terms, for comparison only")
    kinds: tuple[Kind, Kind] = ("explicit", "dominant")
    for part, kind in zip((explicit, dominant), kinds, strict=True):
        rows = [line.split("│") for line in part.splitlines() if line.startswith("│")]
        assert [row[1].strip() for row in rows] == [
            r.name for r in table.sorted().only(kind).results
        ]


def test_no_color_is_respected(tmp_path):
    np.savez(tmp_path / "w.npz", **{"a/kernel": np.array([[np.nan, 1.0]])})  # pyright: ignore[reportArgumentType]
    colors = {}
    for value in (None, "1"):
        env = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": value}
        result = CliRunner().invoke(app, ["analyze", str(tmp_path / "w.npz")], env=env)
        assert "NOT FINITE" in result.stdout
        colors[value] = set(re.findall(r"\x1b\[[\d;]*3\d[\d;]*m", result.stdout))
    assert colors[None]
    assert not colors["1"]
