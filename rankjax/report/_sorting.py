"""The rows of an analysis in the order of a column."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from rankjax._arguments import one_of
from rankjax.network.internal import natural_order
from rankjax.report._row import Row

SortKey = Literal[
    "path", "size", "spectral", "frobenius", "schatten", "rank", "stable", "effective", "soft",
    "tail", "saved", "change",
]  # fmt: skip

_VALUES: dict[str, Callable[[Row], Any]] = {
    "size": lambda row: row.parameters,
    "spectral": lambda row: row.spectral_norm,
    "frobenius": lambda row: row.frobenius_norm,
    "schatten": lambda row: row.schatten_norm[0],
    "rank": lambda row: row.numerical_rank,
    "stable": lambda row: row.stable_rank,
    "effective": lambda row: row.effective_rank,
    "soft": lambda row: row.soft_rank[0],
    "tail": lambda row: row.tail_exponent,
    "saved": lambda row: tuple(saved / max(row.parameters, 1) for saved in row.saved_at),
    "change": lambda row: math.nan if row.relative_change is None else row.relative_change,
}


def sorted_rows(rows: tuple[Row, ...], by: SortKey) -> tuple[Row, ...]:
    """The rows, the largest value first and undefined ones last; paths in natural order."""
    one_of(by, "by", SortKey)
    if by == "path":
        return tuple(sorted(rows, key=lambda row: natural_order(row.path)))
    value = _VALUES[by]

    def missing(row: Row) -> bool:
        found = value(row)
        return isinstance(found, float) and math.isnan(found)

    defined = [row for row in rows if not missing(row)]
    return (*sorted(defined, key=value, reverse=True), *filter(missing, rows))
