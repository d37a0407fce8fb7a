"""Charts of bounds: log10 of every bound, grouped by network, as the papers show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rankjax.bounds import Table

_SHADES = (
    ("#9ecae1", "#4292c6", "#084594"),
    ("#fdae6b", "#f16913", "#8c2d04"),
    ("#a1d99b", "#41ab5d", "#005a32"),
)


def bar_chart(tables: Mapping[str, Table], path: str | Path, *, title: str = "") -> None:
    """A bar for every bound and network: the height is log10 of the value.

    Dominant terms are plain and come first, explicit bounds are hatched; heights of the two kinds
    do not compare (dominant terms have no constants). What is missing or not finite leaves a gap.

    Args:
        tables: by the name of the network, such as ``{"MLP 200": table, "MLP 600": ...}``. Names
            that differ in their last word only are shades of one color.
        path: where the picture goes; the suffix decides the format.
        title: above the chart.
    """
    keys: dict[tuple[str, str], float] = {}
    for table in tables.values():
        for row in table.rows():
            if math.isfinite(row["log10"]):
                key = (row["bound"], row["kind"])
                keys[key] = min(keys.get(key, math.inf), row["log10"])
    colors = _colors(list(tables))
    order = sorted(keys, key=lambda key: (key[1], keys[key]))
    figure = Figure(figsize=(2 + 0.5 * len(order), 5.2), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / max(len(tables), 1)
    for i, (name, table) in enumerate(tables.items()):
        found = {(row["bound"], row["kind"]): row["log10"] for row in table.rows()}
        for place, key in enumerate(order):
            value = found.get(key, math.nan)
            if math.isfinite(value):
                axes.bar(
                    place + (i - (len(tables) - 1) / 2) * width, value, width, zorder=2,
                    color=colors[name], edgecolor="white", linewidth=0.3,
                    hatch="///" if key[1] == "explicit" else None,
                    label=name if place == 0 else None,
                )  # fmt: skip
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(order)), [name for name, _ in order], rotation=55, ha="right")
    axes.set_ylabel("log10 of the value")
    axes.grid(axis="y", linewidth=0.4, zorder=0)
    axes.margins(x=0.01)
    handles: list[Any] = [Patch(color=colors[name], label=name) for name in tables]
    handles += [
        Patch(facecolor="grey", label="dominant term, no guarantee"),
        Patch(facecolor="grey", edgecolor="white", hatch="///", label="explicit, with constants"),
    ]
    axes.legend(handles=handles, fontsize=8, loc="upper left")
    if title:
        axes.set_title(title, fontsize=10)
    # Without the version of matplotlib in it, the same figure gives the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None} if str(path).endswith("png") else {})


def _colors(names: list[str]) -> dict[str, str]:
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.rpartition(" ")[0], []).append(name)
    return {
        name: _SHADES[i % len(_SHADES)][j % 3]
        for i, family in enumerate(families.values())
        for j, name in enumerate(family)
    }
