"""The pictures of the report on axes of matplotlib, which is imported when one is drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rankjax._arguments import one_of
from rankjax.bounds import Table
from rankjax.report._analysis import Analysis
from rankjax.report._pictures import spectra_picture, spectrum_picture
from rankjax.report._rank_map import Rank, rank_map, short_rank
from rankjax.report._row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = {"explicit": "#2ea378", "dominant": "#e28c28"}
_MOST_NUMBERS = 30  # columns of a map with the ranks written into it


def plot_spectrum(row: Row, *, base: Row | None = None, ax: Axes | None = None) -> Axes:
    """One spectrum, ``sigma_i / sigma_1`` over ``i``, both logarithmic, with its fitted tail.

    Args:
        row: from ``analyze``.
        base: the same matrix of another checkpoint, drawn in grey.
        ax: where to draw; default: a new figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    ax = _axes(ax)
    spectrum_picture(row, base).draw(ax)
    ax.set_title(row.path)
    return ax


def plot_spectra(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """All spectra over each other, colored from the first matrix to the last.

    Args:
        analysis: from ``analyze``.
        ax: where to draw; default: a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: an analysis without matrices.
    """
    _some(analysis)
    ax = _axes(ax)
    spectra_picture(analysis).draw(ax)
    return ax


def plot_rank_map(analysis: Analysis, rank: Rank = "energy_99", *, ax: Axes | None = None) -> Axes:
    """Ranks over depth and kind of module; the color is the share of the full rank.

    The first number in the path of a matrix is its depth, the rest its kind. With more than 60
    kinds (experts) other numbers count as one, and the median is shown.

    Args:
        analysis: from ``analyze``.
        rank: ``"energy_99"`` (the smallest that keeps 99 % of the squared Frobenius norm),
            ``"effective"``, ``"stable"`` or ``"numerical"``.
        ax: where to draw; default: a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: an unknown rank, an analysis without matrices.
    """
    one_of(rank, "rank", Rank)
    _some(analysis)
    found = rank_map(analysis.rows, rank)
    ax = _axes(ax)
    shares = np.array(
        [[math.nan if cell is None else cell.share for cell in line] for line in found.cells]
    )
    image = ax.imshow(shares, aspect="auto", cmap="viridis")
    if len(found.depths) <= _MOST_NUMBERS:
        middle = (np.nanmin(shares) + np.nanmax(shares)) / 2
        for i, line in enumerate(found.cells):
            for j, cell in enumerate(line):
                if cell is not None:
                    color = "black" if cell.share > middle else "white"
                    ax.text(j, i, short_rank(cell.rank), color=color, ha="center", va="center")
    labels = ["none" if depth is None else str(depth) for depth in found.depths]
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(found.kinds)), found.kinds)
    ax.set(xlabel="depth", title=found.name)
    ax.figure.colorbar(image, ax=ax, label="share of the full rank")
    return ax


def plot_bounds(table: Table, *, ax: Axes | None = None) -> Axes:
    """The logarithms of all finite bounds as bars, explicit ones and dominant terms apart.

    Args:
        table: from ``compare``.
        ax: where to draw; default: a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a table without a finite bound.
    """
    rows = [row for row in table.sorted().rows() if math.isfinite(row["log10"])]
    if not rows:
        raise ValueError("table: holds no finite bound")
    rows.sort(key=lambda row: row["kind"] == "dominant")
    ax = _axes(ax)
    for kind, color in _KINDS.items():
        places = [i for i, row in enumerate(rows) if row["kind"] == kind]
        ax.barh(places, [rows[i]["log10"] for i in places], color=color, label=kind)
    ax.set_yticks(range(len(rows)), [row["bound"] for row in rows])
    ax.invert_yaxis()
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.set_xlabel("log10 of the value")
    ax.legend()
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'rankjax[plot]'") from error
    return plt.subplots(layout="constrained")[1]


def _some(analysis: Analysis) -> None:
    if not analysis.rows:
        raise ValueError("analysis: holds no matrix")
