"""Ranks over depth, and the pictures on axes of matplotlib."""

import sys
from typing import Any

import numpy as np
import pytest

from rankjax.bounds import BoundResult, Table
from rankjax.report import analyze, plot_bounds, plot_rank_map, plot_spectra, plot_spectrum
from rankjax.report._rank_map import rank_map, short_rank

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt: Any = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def places(*paths):
    """Kinds, depths, and the paths in their cells."""
    tree = {path: np.eye(3) for path in paths}
    found = rank_map(analyze(tree, layout="flax").rows, "numerical")
    cells = [[cell and cell.text.split(":")[0] for cell in line] for line in found.cells]
    return found.kinds, found.depths, cells


def test_the_first_number_is_the_depth_and_the_rest_the_kind():
    assert places("h/10/attn/q/kernel", "h/2/attn/q/kernel", "h/2/mlp/kernel") == (
        ("attn/q", "mlp"), (2, 10),
        [["h/2/attn/q/kernel", "h/10/attn/q/kernel"], ["h/2/mlp/kernel", None]],
    )  # fmt: skip
    assert places("Dense_0/kernel", "Dense_1/kernel")[:2] == (("Dense_*/kernel",), (0, 1))
    # Matrices of the same name in encoder and decoder stay apart.
    kinds, depths, _ = places("enc.0.q.w", "enc.1.q.w", "enc.0.k.w", "dec.0.q.w")
    assert kinds == ("dec.*.q.w", "enc.*.k.w", "enc.*.q.w")
    assert depths == (0, 1)
    assert places("h.0.q", "h.1.q", "head")[1] == (0, 1, None)
    assert places("first", "last")[:2] == (("first", "last"), (None,))
    # A number in the middle of a name, or one that all share, is no depth.
    assert places("gpt2/conv2d/a", "gpt2/conv2d/b")[1] == (None,)
    assert places("gpt2/h/0/q", "gpt2/h/1/q")[1] == (0, 1)
    assert places("a" + "9" * 5000, "b")[1] == (None,)


def test_members_of_a_stack_are_its_depths():
    stacked = {"layers/mlp/kernel": np.random.default_rng(0).standard_normal((4, 5, 3))}
    structure_rows = analyze(stacked | {"layers/mlp/bias": np.ones((4, 3))}).rows
    found = rank_map(structure_rows, "numerical")
    assert found.depths == (0, 1, 2, 3)
    assert len(found.kinds) == 1


def test_many_experts_become_one_kind_with_their_median():
    def tree(count):
        return {
            f"h/{i}/experts/{j}/kernel": np.diag((np.arange(100) <= j) * 1.0)
            for i in range(2) for j in range(count)
        }  # fmt: skip

    few = rank_map(analyze(tree(3)).rows, "numerical")
    assert few.kinds == ("experts/0", "experts/1", "experts/2")
    many = rank_map(analyze(tree(61)).rows, "numerical")
    assert many.kinds == ("experts/*",)
    assert [cell and cell.rank for cell in many.cells[0]] == [31, 31]
    assert "60 more (median)" in many.cells[0][0].text


def test_the_share_is_that_of_the_largest_possible_rank():
    found = rank_map(analyze({"kernel": np.diag([1.0, 1, 0, 0])[:, :3]}).rows, "numerical")
    assert found.shares() == [pytest.approx(2 / 3)]
    assert [short_rank(rank) for rank in (3, 3.25, 31.4, 1024.0)] == ["3", "3.2", "31", "1024"]


def tree(noise=0.0):
    rng = np.random.default_rng(0)
    return {
        f"layers_{i}/{kind}/kernel": (
            rng.standard_normal((30, 8 - 2 * i)) @ rng.standard_normal((8 - 2 * i, 20))
            + noise * rng.standard_normal((30, 20))
        ).astype(np.float32)
        for i in range(3) for kind in ("q", "up")
    }  # fmt: skip


def test_a_spectrum_shows_the_singular_values_of_its_row():
    row, base = (analyze(tree(noise)).rows[0] for noise in (0.1, 0.0))
    ax: Any = plot_spectrum(row, base=base)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_title() == row.path
    curves = {line.get_label(): line for line in ax.get_lines()}
    for name, one in ((row.path, row), ("base", base)):
        x, y = curves[name].get_data()
        kept = one.singular_values / one.singular_values[0]
        np.testing.assert_allclose(y, np.maximum(kept[: len(y)], 1e-4))
        np.testing.assert_array_equal(x, np.arange(1, len(x) + 1))
    assert any(name.startswith("tail: i^-") for name in curves)
    (mark,) = [line for name, line in curves.items() if "energy" in name]
    assert list(mark.get_xdata()) == [row.rank_at[0]] * 2


def test_given_axes_are_used_and_returned():
    found = analyze(tree(0.1))
    _, axes = plt.subplots(2, 2)
    assert plot_spectrum(found.rows[0], ax=axes[0, 0]) is axes[0, 0]
    assert plot_spectra(found, ax=axes[0, 1]) is axes[0, 1]
    assert plot_rank_map(found, ax=axes[1, 0]) is axes[1, 0]
    assert [line.get_label() for line in axes[0, 1].get_lines()] == [r.path for r in found.rows]


@pytest.mark.parametrize("rank", ["energy_99", "effective", "stable", "numerical"])
def test_a_map_has_a_cell_per_matrix(rank):
    found = analyze(tree(0.1))
    ax: Any = plot_rank_map(found, rank)
    value = {"energy_99": lambda row: row.rank_at[2], "effective": lambda row: row.effective_rank,
             "stable": lambda row: row.stable_rank,
             "numerical": lambda row: row.numerical_rank}[rank]  # fmt: skip
    expected = np.array([value(row) for row in found.rows]).reshape(3, 2).T
    np.testing.assert_allclose(ax.images[0].get_array(), expected / 20)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["q", "up"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert [text.get_text() for text in ax.texts] == [short_rank(x) for x in expected.ravel()]


def table(*rows):
    results = [
        BoundResult(np.float64(value), np.ones(1), {}, name, kind, "source", ("kernel",))  # pyright: ignore[reportArgumentType]
        for name, kind, value in rows
    ]
    return Table(tuple(results), 0.5, 100)


def test_bounds_are_bars_of_their_logarithms_explicit_ones_first():
    rows = [("a", "dominant", 10.0), ("b", "explicit", 1e3), ("c", "dominant", 1.0),
            ("d", "explicit", np.nan), ("e", "dominant", np.inf)]  # fmt: skip
    ax: Any = plot_bounds(table(*rows))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c", "a"]
    widths = {kind.get_label(): [bar.get_width() for bar in kind] for kind in ax.containers}
    assert widths == {"explicit": [pytest.approx(3)], "dominant": [0, pytest.approx(1)]}


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    empty = analyze({"bias": np.ones(3)})
    for draw in (plot_spectra, plot_rank_map):
        with pytest.raises(ValueError, match="analysis: holds no matrix"):
            draw(empty)
    with pytest.raises(ValueError, match="table: holds no finite bound"):
        plot_bounds(table(("a", "explicit", np.nan)))
    with pytest.raises(ValueError, match="rank"):
        plot_rank_map(analyze(tree()), "soft")  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'rankjax\[plot\]'"):
        plot_spectra(analyze(tree()))
