"""An ``Analysis`` in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
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
from rankjax.report._pieces import Pieces
from rankjax.report._rank_plan import RankPlan
from rankjax.report.checkpoints import shown


def rich_report(analysis: Analysis, plan: RankPlan | None = None) -> Group:
    """What ``rich.print`` shows: summary, ranks to cut to, rows, what was left out, and the notes.

    Names come from a file: they are ``Text``, in which nothing is markup.
    """
    parts: list[Any] = [Text(summary_line(analysis))]
    if plan is not None:
        paths = [cut.path for cut in plan.cuts]
        parts += [
            Text(plan_line(plan)),
            Pieces("path", paths, PLAN_HEADINGS, [plan_cells(cut) for cut in plan.cuts]),
        ]
    if analysis.rows:
        paths = [row.path for row in analysis.rows]
        rows = [cells(analysis, row) for row in analysis.rows]
        parts.append(Pieces("path", paths, headings(analysis), rows))
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
