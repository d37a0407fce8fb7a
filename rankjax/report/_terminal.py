"""An ``Analysis`` in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from rankjax.report._analysis import NOTES, Analysis
from rankjax.report._columns import (
    PLAN_HEADINGS,
    by_reason,
    cells,
    headings,
    plan_cells,
    plan_line,
    summary_line,
)
from rankjax.report._rank_plan import RankPlan
from rankjax.report.checkpoints import shown


def rich_report(analysis: Analysis, plan: RankPlan | None = None) -> Group:
    """What ``rich.print`` shows: summary, ranks to cut to, rows, what was left out, and the notes.

    Names come from a file: they are ``Text``, in which nothing is markup.
    """
    parts: list[Any] = [Text(summary_line(analysis))]
    if plan is not None:
        parts += [Text(plan_line(plan)), _cuts(plan)]
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


def _cuts(plan: RankPlan) -> Table:
    table = Table()
    table.add_column("path", overflow="fold")
    for name in PLAN_HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for cut in plan.cuts:
        table.add_row(Text(shown(cut.path)), *plan_cells(cut))
    return table


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
