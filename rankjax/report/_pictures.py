"""The spectra of a report, one by one and all over each other."""

from __future__ import annotations

import math
from html import escape

from rankjax.report._analysis import Analysis
from rankjax.report._row import Row
from rankjax.report._spectra import tail_range
from rankjax.report._svg import Line, Plot, Scale, thinned
from rankjax.report.checkpoints import shown

_LEAST = 1e-4  # of the largest singular value: where the spectra are cut
# Colors that can be seen on white and on black.
_GREY, _ACCENT, _FIT = "#8b95a0", "#2b8fbd", "#d1495b"
_RAMP = ((98, 92, 200), (43, 143, 189), (46, 163, 120), (150, 170, 50), (226, 140, 40))


def spectrum_picture(row: Row, base: Row | None = None) -> Plot:
    """One spectrum on log axes, with the fit of its tail and the rank of 90 % energy."""
    longest = max(len(one.singular_values) for one in (row, base or row))
    plot = _spectrum_axes(row.path, longest, 230, 165, left=38)
    if base is not None:
        plot.lines.append(Line(_unit(base), _GREY, "base"))
    plot.lines.append(Line(_unit(row), _ACCENT, shown(row.path), 1.8))
    if math.isfinite(row.tail_exponent):
        first, last = tail_range(row.numerical_rank)
        # The line of least squares goes through the mean of the logarithms.
        logs = [math.log(row.singular_values[i - 1]) for i in range(first, last + 1)]
        middle = sum(map(math.log, range(first, last + 1))) / len(logs)
        height = sum(logs) / len(logs) - math.log(row.singular_values[0])
        ends = [
            (float(i), math.exp(height - row.tail_exponent * (math.log(i) - middle)))
            for i in (first, last)
        ]
        name = f"tail: i^-{row.tail_exponent:.2f}, R^2 = {row.tail_fit:.2f}"
        plot.lines.append(Line(ends, _FIT, name, dashed=True))
    if row.rank_at[0]:
        plot.vertical(row.rank_at[0], _GREY, f"90 % of the energy: rank {row.rank_at[0]}")
    return plot


def spectra_picture(analysis: Analysis) -> Plot:
    """All spectra over each other, colored by depth."""
    longest = max(len(row.singular_values) for row in analysis.rows)
    plot = _spectrum_axes("all matrices", longest, 420, 300, left=40)
    for i, row in enumerate(analysis.rows):
        plot.lines.append(Line(_unit(row), _ramp(i, len(analysis.rows)), shown(row.path), 1.2))
    return plot


def spectra_legend(analysis: Analysis) -> str:
    """First, middle and last matrix with their colors, as HTML."""
    last = len(analysis.rows) - 1
    items = "".join(
        f'<li><i style="background:{_ramp(i, last + 1)}"></i>{escape(shown(analysis.rows[i].path))}'
        "</li>"
        for i in sorted({0, (last + 1) // 2, last})
    )
    return f'<ul class="legend">{items}</ul>'


def _spectrum_axes(title: str, length: int, width: int, height: int, *, left: int) -> Plot:
    return Plot(
        f"Spectrum of {shown(title)}",
        Scale(1, max(length, 2), left, width - 10),
        Scale(_LEAST, 1, height - 34, 22),
        width,
        height,
        "index i",
        "σ_i / σ_1",  # noqa: RUF001
    )


def _unit(row: Row) -> list[tuple[float, float]]:
    top = row.singular_values[0] if len(row.singular_values) else 0.0
    if not top > 0:
        return []
    points = [(float(i), s / top) for i, s in thinned(list(row.singular_values))]
    kept = [point for point in points if point[1] >= _LEAST]
    # Down to the frame, where the rest would be.
    return kept if len(kept) == len(points) else [*kept, (points[len(kept)][0], _LEAST)]


def _ramp(i: int, count: int) -> str:
    place = i / max(count - 1, 1) * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    share = place - low
    mixed = (round(a + share * (b - a)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)
