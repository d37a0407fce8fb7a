"""One HTML file that says everything: no script, nothing loaded, every text of a file escaped."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from rankjax.bounds import Table
from rankjax.report._analysis import NOTES, SHARES, Analysis
from rankjax.report._columns import cells, headings, summary_line
from rankjax.report._pictures import (
    bound_bars,
    rank_legend,
    rank_pictures,
    spectra_legend,
    spectra_overview,
    spectrum_panel,
)
from rankjax.report.checkpoints import shown

# Second line of defence behind escaping: a browser runs and loads nothing in this page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_PANELS = 400


def html_report(analysis: Analysis, table: Table | None = None) -> str:
    """A page with summary, table, spectra, ranks over depth, and what was left out and why.

    Args:
        analysis: from ``analyze``.
        table: from ``compare``; adds the bounds.
    """
    style = (files("rankjax.report") / "report.css").read_text("utf-8")
    title = f"Weights of {_text(analysis.source)}"
    sections = [_summary(analysis)]
    if table is not None:
        sections.append(_bounds(table))
    if analysis.rows:
        sections += [_rows(analysis), _ranks(analysis), _spectra(analysis)]
    sections.append(_left_out(analysis))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style}</style></head>\n<body><main>"
        f"<h1>Weights of {_path(analysis.source)}</h1>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _text(value: str) -> str:
    return escape(shown(value))


def _path(value: str) -> str:
    """A path that may be broken after its separators."""
    return _text(value).replace(".", ".<wbr>").replace("/", "/<wbr>").replace("_", "_<wbr>")


def _summary(analysis: Analysis) -> str:
    total = analysis.summary()
    inside = max(total["parameters_in_matrices"], 1)
    cards = [
        ("matrices", f"{total['matrices']:,}"),
        ("parameters in them", f"{total['parameters_in_matrices']:,}"),
        ("parameters in all", f"{total['parameters']:,}"),
        *(
            (f"saved at {share} % energy", f"{total[f'saved_at_{share}'] / inside:.1%}")
            for share in SHARES
        ),
        ("leaves left out", f"{total['left_out']:,}"),
    ]
    boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cards)
    warning = "".join(
        f"<li><code>{_text(path)}</code>: {bad:,} of {size:,} entries</li>"
        for path, bad, size in analysis.not_finite
    )
    if warning:
        warning = f'<div class="warning"><b>Not finite</b><ul>{warning}</ul></div>'
    return (
        f'<section id="summary"><p>{escape(summary_line(analysis))}</p>'
        f'<div class="cards">{boxes}</div>{warning}</section>'
    )


def _rows(analysis: Analysis) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("path", *headings(analysis)))
    body = "".join(
        f"<tr><th>{_path(row.path)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells(analysis, row))
        + "</tr>"
        for row in analysis.rows
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in NOTES)
    return (
        '<section id="matrices"><h2>Every matrix</h2><div class="wide" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<div class="notes">{notes}</div></section>'
    )


def _ranks(analysis: Analysis) -> str:
    plots = "".join(f"<figure>{picture}</figure>" for _, picture in rank_pictures(analysis))
    return (
        '<section id="ranks"><h2>Ranks over depth</h2><p>Matrices whose names differ in numbers '
        f"only are joined by a line.</p>{rank_legend(analysis)}"
        f'<div class="plots">{plots}</div></section>'
    )


def _spectra(analysis: Analysis) -> str:
    panels = "".join(
        f"<figure>{spectrum_panel(row)}<figcaption>{_path(row.path)}"
        f"<small>{row.shape[0]} x {row.shape[1]}</small></figcaption></figure>"
        for row in analysis.rows[:_MOST_PANELS]
    )
    rest = len(analysis.rows) - _MOST_PANELS
    more = f"<p>{rest} more matrices are in the table.</p>" if rest > 0 else ""
    return (
        '<section id="spectra"><h2>Spectra</h2><p>Singular values over their index, both axes '
        "logarithmic, each divided by the largest. First all, colored from the first matrix to "
        "the last.</p>"
        f"<figure>{spectra_overview(analysis)}</figure>"
        f"{spectra_legend(analysis)}"
        "<p>Then one by one: dashed red the fitted tail, dotted grey the rank that keeps 90 % of "
        f'the energy.</p><div class="panels">{panels}</div>{more}</section>'
    )


def _bounds(table: Table) -> str:
    columns = ("bound", "kind", "quantity", "value", "log10", "source")
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = ""
    for row in table.sorted().rows():
        row |= {"value": f"{row['value']:.3g}", "log10": f"{row['log10']:.2f}"}
        first, *others = (_text(str(row[name])) for name in columns)
        body += f"<tr><th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
    left_out = "".join(f"<li>{_text(name)}: {_text(why)}</li>" for name, why in table.left_out)
    return (
        f'<section id="bounds"><h2>Bounds at n = {table.n:,}, margin {table.gamma:.4g}</h2>'
        "<p>A dominant term is a bound without its constants and logarithms: it compares networks, "
        "it is no guarantee.</p>"
        f"<figure>{bound_bars(table)}</figure>"
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
        + (f"<p>Left out:</p><ul>{left_out}</ul>" if left_out else "")
        + "</section>"
    )


def _left_out(analysis: Analysis) -> str:
    if not analysis.left_out:
        return '<section id="left-out"><h2>Left out</h2><p>Nothing.</p></section>'
    groups: dict[str, list[str]] = {}
    for leaf in analysis.left_out:
        shape = " x ".join(map(str, leaf.shape))
        groups.setdefault(leaf.text, []).append(f"<code>{_text(leaf.path)}</code> {shape}")
    items = "".join(
        f"<details><summary>{len(leaves)}: {_text(why)}</summary><ul>"
        + "".join(f"<li>{leaf}</li>" for leaf in leaves)
        + "</ul></details>"
        for why, leaves in groups.items()
    )
    return f'<section id="left-out"><h2>Left out, and why</h2>{items}</section>'
