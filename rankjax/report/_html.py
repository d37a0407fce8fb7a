"""One HTML file that says everything: nothing loaded, one script, every text of a file escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from importlib.resources import files

from rankjax.bounds import Table
from rankjax.report._analysis import NOTES, Analysis
from rankjax.report._bound_table import by_kind
from rankjax.report._columns import (
    PLAN_HEADINGS,
    cells,
    headings,
    plan_cells,
    plan_line,
    summary_line,
)
from rankjax.report._markup import data_table, heat_map, items, path, text
from rankjax.report._pictures import spectra_legend, spectra_picture, spectrum_picture
from rankjax.report._rank_map import RANKS, rank_map
from rankjax.report._rank_plan import DEFAULT_ENERGY, RankPlan, plan_ranks
from rankjax.report._row import Row

_MOST_PANELS = 400


def html_report(
    analysis: Analysis,
    table: Table | None = None,
    plan: RankPlan | None = None,
    *,
    base: Analysis | None = None,
) -> str:
    """A page with recommended ranks, bounds, ranks over depth, every matrix and its spectrum.

    The page is one file that loads nothing. Its tables can be sorted and filtered, it follows the
    color scheme of the reader, and it can be read without its script.

    Args:
        analysis: from ``analyze``.
        table: from ``compare``; adds the bounds, explicit ones and dominant terms apart.
        plan: from ``plan_ranks``; default: the ranks that keep 99 % of the energy.
        base: the analysis of the checkpoint that ``analysis`` was fine-tuned from, or of its
            reference; puts both side by side.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.report import analyze
        >>> html_report(analyze({"kernel": jnp.eye(3)}))[:15]
        '<!DOCTYPE html>'
    """
    style, script = (
        (files("rankjax.report") / name).read_text("utf-8") for name in ("report.css", "report.js")
    )
    # Second line of defense behind escaping: a browser runs this script alone, and loads nothing.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    partners = {} if base is None else {row.path: row for row in base.rows}
    sections = [_summary(analysis, plan or plan_ranks(analysis))]
    if table is not None:
        sections.append(_bounds(table))
    if analysis.rows:
        sections.append(_plan(analysis, plan))
        if base is not None:
            sections.append(_side_by_side(analysis, base, partners))
        sections += [_map(analysis, base), _rows(analysis), _spectra(analysis, partners)]
    sections.append(_left_out(analysis))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Weights of {text(analysis.source)}</title><style>\n{style}</style></head>\n"
        f"<body><main><h1>Weights of {path(analysis.source)}</h1>\n"
        + "\n".join(sections)
        + f"\n</main><script>{script}</script></body></html>\n"
    )


def _summary(analysis: Analysis, plan: RankPlan) -> str:
    total = analysis.summary()
    before, after = plan.parameters
    cards = [
        ("matrices", f"{total['matrices']:,}"),
        ("parameters in them", f"{total['parameters_in_matrices']:,}"),
        ("parameters in all", f"{total['parameters']:,}"),
        ("of their parameters remain at the recommended ranks", f"{after / max(before, 1):.0%}"),
        ("saved by these ranks", _size(plan.bytes_saved)),
        ("leaves left out", f"{total['left_out']:,}"),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cards)
    warning = ""
    if analysis.not_finite:
        lines = (
            f"<code>{text(path)}</code>: {bad:,} of {size:,} entries"
            for path, bad, size in analysis.not_finite
        )
        warning = f'<div class="warning"><b>Not finite</b>{items(lines)}</div>'
    return (
        f'<section id="summary"><p>{text(summary_line(analysis))}</p>'
        f'<div class="cards">{boxes}</div>{warning}</section>'
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _plan(analysis: Analysis, plan: RankPlan | None) -> str:
    how = ""
    if plan is None:
        plan = plan_ranks(analysis)
        how = f" Every matrix keeps {DEFAULT_ENERGY:.0%} of its energy."
    if analysis.reference is not None:
        how += " These are ranks of the difference, kept as two factors beside the reference."
    # A list of full ranks would recommend nothing.
    rows = [(path(cut.path), plan_cells(cut)) for cut in plan.cuts] if plan.ranks else []
    found = data_table("Recommended ranks", ("path", *PLAN_HEADINGS), rows) if rows else ""
    return (
        f'<section id="plan"><h2>Recommended ranks</h2><p>{text(plan_line(plan) + how)}</p>{found}'
        "</section>"
    )


def _bounds(bounds: Table) -> str:
    logs = [row["log10"] for row in bounds.rows() if math.isfinite(row["log10"])]
    low, high = min([0.0, *logs]), max([1e-9, *logs])
    parts = []
    for title, part in by_kind(bounds.sorted()):
        rows = [
            (
                f"{path(row['bound'])}{_bar(row['log10'], low, high)}",
                (f"{row['log10']:z.2f}", f"{row['value']:.3g}", row["quantity"], row["source"]),
            )
            for row in part.rows()
        ]
        columns = ("bound", "log10", "value", "quantity", "source")
        parts.append(f"<h3>{text(title)}</h3>" + data_table(title, columns, rows, "bounds"))
    remarks = items(map(text, (bounds.NOTE, *bounds.remarks())))
    return (
        f'<section id="bounds"><h2>Bounds at n = {bounds.n:,}, margin {bounds.gamma:.4g}</h2>'
        f'{"".join(parts)}<div class="notes">{remarks}</div></section>'
    )


def _bar(log: float, low: float, high: float) -> str:
    """From 1 to the value, on the scale of all logarithms."""
    if not math.isfinite(log):
        return ""
    left, right = ((x - low) / (high - low) for x in sorted((0.0, log)))
    return f'<i class="bar" style="--from:{left:.1%};--to:{right:.1%}"></i>'


def _side_by_side(analysis: Analysis, base: Analysis, partners: dict[str, Row]) -> str:
    names = ("Frobenius", *(name for name, _ in RANKS.values()))
    values = (lambda row: row.frobenius_norm, *(value for _, value in RANKS.values()))
    columns = [f"{name}, {side}" for name in names for side in _sides(analysis)]
    rows = [
        (
            path(row.path),
            [f"{value(one):.4g}" for value in values for one in (partners[row.path], row)],
        )
        for row in analysis.rows
        if row.path in partners
    ]
    rest = len(analysis.rows) - len(rows)
    more = f" {rest} matrices have no partner of the same path." if rest else ""
    what = path(analysis.source)
    if analysis.reference is not None:
        what += f" minus {path(analysis.reference)}"
    return (
        '<section id="side-by-side"><h2>Base and fine-tune side by side</h2>'
        f"<p>Base: {path(base.source)}; {_sides(analysis)[1]}: {what}.{more}</p>"
        + data_table("Side by side", ("path", *columns), rows)
        + "</section>"
    )


def _sides(analysis: Analysis) -> tuple[str, str]:
    return "base", "fine-tune" if analysis.reference is None else "change"


def _map(analysis: Analysis, base: Analysis | None) -> str:
    sides = [("", analysis)]
    if base is not None:
        sides = list(zip(_sides(analysis), (base, analysis), strict=True))
    choices, maps = "", ""
    for i, (rank, (name, _)) in enumerate(RANKS.items()):
        found = [(side, rank_map(one.rows, rank)) for side, one in sides if one.rows]
        shares = [share for _, one in found for share in one.shares()]
        low, high = (min(shares), max(shares)) if shares else (0.0, 1.0)
        checked = " checked" if i == 0 else ""
        choices += (
            f'<label><input type="radio" name="rank" value="{i}"{checked}> {text(name)}</label>'
        )
        maps += (
            f'<div class="choice-{i}"><div class="pair">'
            + "".join(heat_map(one, low, high, side) for side, one in found)
            + f'</div><p class="scale">{low:.1%}<i></i>{high:.1%}</p></div>'
        )
    return (
        '<section id="map"><h2>Ranks over depth and kind of module</h2><p>Depth is the first '
        "number in the path of a matrix; the color is its share of the full rank.</p>"
        f'<div class="choices">{choices}</div>{maps}</section>'
    )


def _rows(analysis: Analysis) -> str:
    rows = ((path(row.path), cells(analysis, row)) for row in analysis.rows)
    notes = "".join(f"<p>{text(note)}</p>" for note in NOTES)
    return (
        '<section id="matrices"><h2>Every matrix</h2>'
        + data_table("Every matrix", ("path", *headings(analysis)), rows)
        + f'<div class="notes">{notes}</div></section>'
    )


def _spectra(analysis: Analysis, partners: dict[str, Row]) -> str:
    panels = "".join(
        f"<figure>{spectrum_picture(row, partners.get(row.path)).text()}"
        f"<figcaption>{path(row.path)}<small>{row.shape[0]} x {row.shape[1]}</small></figcaption>"
        "</figure>"
        for row in analysis.rows[:_MOST_PANELS]
    )
    rest = len(analysis.rows) - _MOST_PANELS
    more = f"<p>{rest} more matrices are in the table.</p>" if rest > 0 else ""
    grey = " Solid grey is the base." if partners else ""
    return (
        '<section id="spectra"><h2>Spectra</h2><p>Singular values over their index, both axes '
        "logarithmic, each divided by the largest; colored from the first matrix to the last.</p>"
        f'<figure class="large">{spectra_picture(analysis).text()}</figure>'
        f"{spectra_legend(analysis)}"
        f"<details><summary>One by one</summary><p>Dashed red: the fitted tail. Dashed grey: the "
        f'rank that keeps 90 % of the energy.{grey}</p><div class="panels">{panels}</div>{more}'
        "</details></section>"
    )


def _left_out(analysis: Analysis) -> str:
    if not analysis.left_out:
        return '<section id="left-out"><h2>Left out</h2><p>Nothing.</p></section>'
    groups: dict[str, list[str]] = {}
    for leaf in analysis.left_out:
        shape = " x ".join(map(str, leaf.shape))
        groups.setdefault(leaf.text, []).append(f"<code>{text(leaf.path)}</code> {shape}")
    found = "".join(
        f"<details><summary>{len(leaves)}: {text(why)}</summary>{items(leaves)}</details>"
        for why, leaves in groups.items()
    )
    return f'<section id="left-out"><h2>Left out, and why</h2>{found}</section>'
