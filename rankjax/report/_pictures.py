"""The pictures of a report: spectra, ranks over depth, bounds."""

from __future__ import annotations

import math
import re
from html import escape
from typing import Any

from rankjax.bounds import Table
from rankjax.report._analysis import Analysis, Row
from rankjax.report._spectra import tail_range
from rankjax.report._svg import Plot, Scale, thinned
from rankjax.report.checkpoints import shown

PALETTE = (
    "#0b6e99", "#d1495b", "#3c8d53", "#8a5fbf", "#c77f1a", "#4a5a6a", "#7a8b2a", "#b0508f",
)  # fmt: skip
_LEAST = 1e-4  # of the largest singular value: where the spectra are cut
_GREY, _ACCENT, _FIT = "#9aa3ad", "#0b6e99", "#d1495b"
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (233, 190, 30))


def roles(analysis: Analysis) -> dict[str, list[int]]:
    """Rows by what they are called apart from numbers: the same matrix of different layers."""
    found: dict[str, list[int]] = {}
    for i, row in enumerate(analysis.rows):
        found.setdefault(re.sub(r"[0-9]+", "*", row.path), []).append(i)
    return found


def spectrum_panel(row: Row) -> str:
    """One spectrum on log axes, with the fit of its tail and the rank of 90 % energy."""
    plot = _spectrum_axes(row.path, len(row.singular_values), 230, 165, left=38)
    plot.line(_unit(row), _ACCENT, title=shown(row.path), width=1.8)
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
        plot.line(ends, _FIT, title=name, dashed=True)
    if row.rank_at[0]:
        plot.vertical(row.rank_at[0], _GREY, f"90 % of the energy: rank {row.rank_at[0]}")
    return plot.text()


def spectra_overview(analysis: Analysis) -> str:
    """All spectra over each other, colored by depth."""
    longest = max(len(row.singular_values) for row in analysis.rows)
    plot = _spectrum_axes("All spectra", longest, 620, 380, left=52)
    for i, row in enumerate(analysis.rows):
        plot.line(_unit(row), _ramp(i, len(analysis.rows)), title=shown(row.path), width=1.2)
    return plot.text()


def spectra_legend(analysis: Analysis) -> str:
    """First and last matrix with their colors."""
    chosen = sorted({0, len(analysis.rows) // 2, len(analysis.rows) - 1})
    return _legend([(_ramp(i, len(analysis.rows)), analysis.rows[i].path) for i in chosen])


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


def rank_pictures(analysis: Analysis) -> list[tuple[str, str]]:
    """``(heading, picture)`` of each rank over depth, a line for the matrices of one role."""
    quantities: list[tuple[str, list[float]]] = [
        ("numerical rank", [float(row.numerical_rank) for row in analysis.rows]),
        ("effective rank", [row.effective_rank for row in analysis.rows]),
        ("stable rank", [row.stable_rank for row in analysis.rows]),
    ]
    quantities += [
        (f"soft rank, p = {p:g}", [row.soft_rank[k] for row in analysis.rows])
        for k, p in enumerate(analysis.p)
    ]
    drawn = []
    for name, values in quantities:
        positive = [v for v in values if v > 0 and math.isfinite(v)]
        low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
        # At least a factor of two to see, so that rounding does not look like a trend.
        middle = math.sqrt(low * high)
        low, high = min(low / 1.1, middle / 1.5), max(high * 1.1, middle * 1.5)
        plot = Plot(
            f"{name} of every matrix in order",
            Scale(0.5, len(values) + 0.5, 44, 450, log=False, whole=True),
            Scale(low, high, 190, 22),
            460, 225, "matrix, in the order of the table", name,
        )  # fmt: skip
        for (role, members), color in zip(roles(analysis).items(), _colors(analysis), strict=True):
            points = [(i + 1.0, values[i]) for i in members if values[i] > 0]
            plot.line(points, color, title=shown(role), dots=len(values) <= 120)
        drawn.append((name, plot.text()))
    return drawn


def rank_legend(analysis: Analysis) -> str:
    """The roles with their colors."""
    return _legend(list(zip(_colors(analysis), roles(analysis), strict=True)))


def _colors(analysis: Analysis) -> list[str]:
    """A color for each of the most frequent roles, grey for the others."""
    found = roles(analysis)
    first = sorted(found, key=lambda role: -len(found[role]))[: len(PALETTE)]
    return [PALETTE[first.index(role)] if role in first else _GREY for role in found]


def _legend(entries: list[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><i style="background:{color}"></i>{escape(shown(name))}</li>'
        for color, name in entries
    )
    return f'<ul class="legend">{items}</ul>'


def bound_bars(table: Table) -> str:
    """Every bound as a bar of its logarithm; dominant terms and explicit bounds apart."""
    rows: list[dict[str, Any]] = [
        row for row in table.sorted().rows() if math.isfinite(row["log10"])
    ]
    if not rows:
        return "<p>No bound is finite.</p>"
    rows.sort(key=lambda row: (row["kind"], row["log10"]))
    low = min(0.0, math.floor(min(row["log10"] for row in rows)))
    high = max(1.0, math.ceil(max(row["log10"] for row in rows)))
    height = 24 * len(rows) + 50
    scale = Scale(low, high, 240, 640, log=False)
    parts = [f'<svg viewBox="0 0 720 {height}" width="720" height="{height}" role="img" '
             'aria-label="Bounds">']  # fmt: skip
    bottom = height - 34
    for tick in scale.ticks():
        parts.append(
            f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="6" '
            f'y2="{bottom}"/><text x="{scale(tick):.1f}" y="{bottom + 14}" text-anchor="middle">'
            f"{tick:g}</text>"
        )
    for i, row in enumerate(rows):
        top = 8 + 24 * i
        left, right = sorted((scale(0), scale(row["log10"])))
        color = "#c77f1a" if row["kind"] == "dominant" else "#3c8d53"
        name, source = escape(shown(row["bound"], 40)), escape(shown(row["source"]))
        parts.append(
            f'<text x="232" y="{top + 13}" text-anchor="end">{name}</text>'
            f'<rect x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" height="16" '
            f'fill="{color}"><title>{source}</title></rect>'
            f'<text x="{right + 6:.1f}" y="{top + 13}">{row["value"]:.2g}</text>'
        )
    parts.append(
        f'<line x1="{scale(0):.1f}" x2="{scale(0):.1f}" y1="6" y2="{bottom}" stroke="#333"/>'
        f'<text class="label" x="440" y="{height - 4}" text-anchor="middle">log10 of the value'
        "</text></svg>"
    )
    legend = _legend([("#c77f1a", "dominant term: compares networks, guarantees nothing"),
                      ("#3c8d53", "explicit bound, with its constants")])  # fmt: skip
    return "".join(parts) + legend
