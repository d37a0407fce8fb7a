"""A table of bounds as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from rankjax.bounds import Table


def markdown_table(table: Table, *, breakdown: bool = False) -> str:
    """A Markdown table, with the note on what the kinds mean.

    Args:
        table: from ``compare``.
        breakdown: a second table with the share of every layer in every bound.
    """
    rows = [row | {"value": f"{row['value']:.3g}", "log10": f"{row['log10']:.2f}"}
            for row in table.rows()]  # fmt: skip
    lines = [_line(table.COLUMNS), "|---|---|---|--:|--:|---|"]
    lines += [_line(row[column] for column in table.COLUMNS) for row in rows]
    lines += ["", f"n = {table.n}, gamma = {table.gamma:.4g}. {table.NOTE}", *table.remarks()]
    if breakdown:
        layers = table.results[0].layers
        lines += [
            "",
            _line(("bound", "kind", "how", *layers)),
            "|---|---|---|" + "--:|" * len(layers),
        ]
        lines += [
            _line((r.name, r.kind, r.parts, *(f"{float(part):.3g}" for part in r.per_layer)))
            for r in table.results
        ]
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
