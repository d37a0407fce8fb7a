"""A table of bounds, explicit and dominant apart: the two parts, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from rankjax.bounds import Table


def by_kind(table: Table) -> list[tuple[str, Table]]:
    """The parts of a table that hold anything, each with its title."""
    parts = [("Explicit bounds", table.only("explicit")),
             ("Dominant terms, for comparison only", table.only("dominant"))]  # fmt: skip
    return [(title, part) for title, part in parts if part.results]


def markdown_table(table: Table, *, breakdown: bool = False) -> str:
    """Markdown tables of the explicit bounds and of the dominant terms, and what the kinds mean.

    Args:
        table: from ``compare``.
        breakdown: a further table with the share of every layer in every bound.
    """
    lines = []
    for title, part in by_kind(table):
        rows = [row | {"value": f"{row['value']:.3g}", "log10": f"{row['log10']:z.2f}"}
                for row in part.rows()]  # fmt: skip
        lines += [f"**{title}**", "", _line(table.COLUMNS), "|---|---|---|--:|--:|---|"]
        lines += [*(_line(row[column] for column in table.COLUMNS) for row in rows), ""]
    lines += [f"n = {table.n}, gamma = {table.gamma:.4g}. {table.NOTE}", *table.remarks()]
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
