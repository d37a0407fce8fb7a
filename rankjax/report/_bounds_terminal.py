"""A network and its bounds in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from rankjax.bounds import Table
from rankjax.network import Structure
from rankjax.report._bound_table import by_kind
from rankjax.report._columns import by_reason
from rankjax.report._pieces import Pieces


def rich_structure(structure: Structure) -> Group:
    """The layers, those that are computed from others, and what was left out."""
    rows = []
    for layer in structure.layers:
        m, n = layer.matrix_shape
        count = " x ".join(str(c) for c in (layer.stacked, layer.parallel) if c > 1) or "1"
        positions = "?" if layer.positions is None else str(layer.positions)
        rows.append((f"{m} x {n}", count, positions, f"{layer.lipschitz:g}"))
    paths = [layer.path for layer in structure.layers]
    parts: list[Any] = [
        Pieces("layer", paths, ("out x in", "matrices", "positions", "Lipschitz after"), rows)
    ]
    for layer in structure.layers:
        if layer.effect is not None:
            how = f"from {', '.join(layer.effect.paths)} by {', '.join(layer.effect.steps)}"
            parts.append(Text(f"computed: {layer.path} {how}"))
    if structure.left_out:
        parts.append(Text("left out", "bold"))
        parts += [Text(line) for line in by_reason(structure.left_out)]
    return Group(*parts)


def rich_bounds(table: Table) -> Group:
    """Explicit bounds and dominant terms apart, each sorted, and what the table remarks."""
    parts: list[Any] = []
    for title, part in by_kind(table.sorted()):
        rows = part.rows()
        names = [row["bound"] for row in rows]
        cells = [(row["quantity"], f"{row['log10']:z.2f}", f"{row['value']:.3g}") for row in rows]
        parts += [
            Text(title, "bold"),
            Pieces("bound", names, ("quantity", "log10", "value"), cells),
        ]
    parts.append(Text(f"n = {table.n:,}, gamma = {table.gamma:.4g}"))
    return Group(*parts, *map(Text, (table.NOTE, *table.remarks())))
