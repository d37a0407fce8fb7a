"""An ``Analysis`` in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from rankjax.network import LeftOut
from rankjax.report.analysis import NOTES, SHARES, Analysis, Row
from rankjax.report.checkpoints import shown


def rich_tables(analysis: Analysis) -> Any:
    """Summary, rows, what was left out (by reason), and the notes.

    Names come from a file: they are ``Text``, in which nothing is markup.
    """
    parts: list[Any] = [Text(summary_line(analysis))]
    if analysis.rows:
        parts.append(_Rows(analysis))
    else:
        parts.append(Text("No weight matrix was found.", "bold"))
    parts += [
        Text(f"NOT FINITE: {shown(path)}, {bad} of {size} entries", "bold red")
        for path, bad, size in analysis.not_finite
    ]
    if analysis.left_out:
        parts.append(Text("left out", "bold"))
        parts += [Text(line) for line in by_reason(analysis.left_out)]
    parts.append(Text("\n".join(NOTES), "dim"))
    return Group(*parts)


def summary_line(analysis: Analysis) -> str:
    """What was analysed, in two sentences."""
    total = analysis.summary()
    text = (
        f"{shown(analysis.source)} ({analysis.format}; layout: {analysis.layout}): "
        f"{total['matrices']} matrices with {total['parameters_in_matrices']:,} of "
        f"{total['parameters']:,} parameters."
    )
    if analysis.reference is not None:
        text += f" Measured is the difference from {shown(analysis.reference)}."
    inside = max(total["parameters_in_matrices"], 1)
    saved = ", ".join(
        f"{total[f'saved_at_{share}']:,} ({total[f'saved_at_{share}'] / inside:.0%}) at {share} %"
        for share in SHARES
    )
    return f"{text} Factorisations that keep the energy save {saved}."


class _Rows:
    """The table, in as many pieces one under the other as the width asks for: none is cut."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        names = headings(self.analysis)
        rows = [cells(self.analysis, row) for row in self.analysis.rows]
        paths = [shown(row.path) for row in self.analysis.rows]
        widths = [max(map(len, column)) + 3 for column in zip(names, *rows, strict=True)]
        room = max(options.max_width // 2, options.max_width - max(map(len, paths)) - 4)
        start = 0
        while start < len(names):
            stop = start + 1
            while stop < len(names) and sum(widths[start : stop + 1]) <= room:
                stop += 1
            table = Table()
            table.add_column("path", overflow="fold")
            for name in names[start:stop]:
                table.add_column(name, justify="right", no_wrap=True)
            for path, row in zip(paths, rows, strict=True):
                table.add_row(Text(path), *row[start:stop])
            yield table
            start = stop


def headings(analysis: Analysis) -> list[str]:
    """The columns after the path, for terminals and pages."""
    return [
        "out x in", "spectral", "Frobenius", *(f"Schatten {p:g}" for p in analysis.p),
        "num. rank", "stable", "effective", *(f"soft {p:g}" for p in analysis.p),
        "tail", "R^2", *(f"saved {share}%" for share in SHARES),
        *(["change"] if analysis.reference is not None else []),
    ]  # fmt: skip


def cells(analysis: Analysis, row: Row) -> list[str]:
    """The numbers of a row, in the order of ``headings``."""
    out, in_ = row.shape
    found = [
        f"{out} x {in_}",
        *map(_number, (row.spectral_norm, row.frobenius_norm, *row.schatten_norm)),
        str(row.numerical_rank),
        *map(_number, (row.stable_rank, row.effective_rank, *row.soft_rank)),
        _number(row.tail_exponent), _number(row.tail_fit),
        *(f"{saved / row.parameters:.0%}" if saved else "-" for saved in row.saved_at),
    ]  # fmt: skip
    if analysis.reference is not None:
        change = math.nan if row.relative_change is None else row.relative_change
        found.append(f"{change:.2g}")
    return found


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if value < 1e5 else f"{value:.2e}"


def by_reason(left_out: Iterable[LeftOut]) -> list[str]:
    """One line a reason, with the first few paths."""
    groups: dict[str, list[str]] = {}
    for leaf in left_out:
        groups.setdefault(leaf.why, []).append(shown(leaf.path, 60))
    lines = []
    for why, paths in groups.items():
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        lines.append(f"  {len(paths)}: {shown(why)}: {', '.join(paths[:3])}{more}")
    return lines
