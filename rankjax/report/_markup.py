"""Pieces of the page: escaped text, tables that a script sorts and filters, maps of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rankjax.report._rank_map import RankMap, short_rank
from rankjax.report.checkpoints import shown

_LONGEST = 2000  # of a text out of a file


def text(value: object) -> str:
    """Escaped, with control characters made visible."""
    return escape(shown(str(value), _LONGEST))


def path(value: str) -> str:
    """A path that may be broken after its separators."""
    return text(value).replace(".", ".<wbr>").replace("/", "/<wbr>").replace("_", "_<wbr>")


def items(lines: Iterable[str]) -> str:
    """A list; the lines are markup."""
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def data_table(
    name: str, headings: Sequence[str], rows: Iterable[tuple[str, Iterable[str]]], kind: str = ""
) -> str:
    """A table in a box of its own, which scrolls where the page is too narrow.

    Args:
        name: said to those who do not see it.
        headings: the first is that of the names.
        rows: name (markup) and cells (texts) of each.
        kind: classes, for the style.
    """
    head = "".join(f'<th scope="col">{text(one)}</th>' for one in headings)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, cells in rows
    )  # fmt: skip
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(name)}">'
        f'<table class="data {kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def heat_map(found: RankMap, low: float, high: float, caption: str) -> str:
    """Ranks as numbers; the color is the share of the full rank, from ``low`` to ``high``."""
    head = "".join(
        f'<th scope="col">{"–" if depth is None else depth}</th>'  # noqa: RUF001
        for depth in found.depths
    )
    lines = []
    for kind, cells in zip(found.kinds, found.cells, strict=True):
        line = f'<tr><th scope="row">{path(kind)}</th>'
        for cell in cells:
            if cell is None:
                line += "<td></td>"
                continue
            place = (cell.share - low) / (high - low) if high > low else 0.5
            line += (
                f'<td style="--v:{place:.0%}" title="{text(cell.text)}">'
                f"{short_rank(cell.rank)}</td>"
            )
        lines.append(line + "</tr>")
    name = text(f"{caption} {found.name} by kind of module and depth".strip())
    title = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f"<figure>{title}"
        f'<div class="wide" tabindex="0" role="region" aria-label="{name}"><table class="map">'
        f'<thead><tr><th scope="col">depth</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
        "</table></div></figure>"
    )  # fmt: skip
