"""Ranks over depth and kind of module: which matrix stands in which cell."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from rankjax.report._row import Row

Rank = Literal["energy_99", "effective", "stable", "numerical"]
RANKS: dict[Rank, tuple[str, Callable[[Row], float]]] = {
    "energy_99": ("rank at 99 % energy", lambda row: row.rank_at[2]),
    "effective": ("effective rank", lambda row: row.effective_rank),
    "stable": ("stable rank", lambda row: row.stable_rank),
    "numerical": ("numerical rank", lambda row: row.numerical_rank),
}
# A number that ends a part of a path: h/3/attn, Dense_3/kernel, kernel[3].
_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,6}(?=[/.\]]|$)")
_MOST_KINDS = 60


@dataclass(frozen=True)
class Cell:
    """One kind of module at one depth.

    Attributes:
        rank: of its matrix; of several (experts, say) the median.
        share: the same of the largest rank that the shape allows.
        text: which matrix, and its rank in words.
    """

    rank: float
    share: float
    text: str


@dataclass(frozen=True)
class RankMap:
    """One rank of every matrix.

    Attributes:
        name: which rank.
        kinds: of module, one per line.
        depths: numbers of the layers; ``None`` for matrices without a number.
        cells: by line and column, ``None`` where there is no such matrix.
    """

    name: str
    kinds: tuple[str, ...]
    depths: tuple[int | None, ...]
    cells: tuple[tuple[Cell | None, ...], ...]

    def shares(self) -> list[float]:
        """Of all cells."""
        return [cell.share for line in self.cells for cell in line if cell is not None]


def rank_map(rows: Sequence[Row], rank: Rank) -> RankMap:
    """The map of one rank; the first number in a path is its depth, the rest its kind."""
    places = _places([row.path for row in rows])
    kinds = list(dict.fromkeys(kind for kind, _ in places))
    # Those without a number come last.
    depths = sorted({depth for _, depth in places}, key=lambda depth: (depth is None, depth or 0))
    members: dict[tuple[str, int | None], list[Row]] = {}
    for place, row in zip(places, rows, strict=True):
        members.setdefault(place, []).append(row)
    name, value = RANKS[rank]
    cells = tuple(
        tuple(_cell(members.get((kind, depth)), value) for depth in depths) for kind in kinds
    )
    return RankMap(name, tuple(_short(kinds)), tuple(depths), cells)


def _cell(rows: list[Row] | None, value: Callable[[Row], float]) -> Cell | None:
    if rows is None:
        return None
    ranks = [value(row) for row in rows]
    share = median(r / max(row.full_rank, 1) for r, row in zip(ranks, rows, strict=True))
    rank = median(ranks)
    if not math.isfinite(share):
        return None
    several = f" and {len(rows) - 1} more (median)" if len(rows) > 1 else ""
    text = f"{rows[0].path}{several}: {short_rank(rank)} of {rows[0].full_rank}, {share:.0%}"
    return Cell(rank, share, text)


def short_rank(value: float) -> str:
    """At most one digit after the point."""
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def _places(paths: list[str]) -> list[tuple[str, int | None]]:
    """Kind and depth of every path; numbers that all paths begin with tell nothing."""
    common = os.path.commonprefix(paths)  # noqa: RUF071 - of characters, not folders
    start = max(common.rfind(mark) for mark in "/.[") + 1
    places = []
    for path in paths:
        found = _NUMBER.search(path, start)
        if found is None:
            places.append((path, None))
        else:
            places.append((f"{path[: found.start()]}*{path[found.end() :]}", int(found[0])))
    if len({kind for kind, _ in places}) > _MOST_KINDS:
        places = [(_NUMBER.sub("*", kind), depth) for kind, depth in places]
    return places


def _short(kinds: list[str]) -> list[str]:
    """What comes after the depth, without the last part where it is the same for all."""
    names = [kind.partition("*")[2].lstrip("/.]") or kind for kind in kinds]
    ends = {re.split(r"[/.]", name)[-1] for name in names}
    if len(ends) == 1:
        names = [name.removesuffix(*ends).rstrip("/.") for name in names]
    names = [name or kind for name, kind in zip(names, kinds, strict=True)]
    return names if len(set(names)) == len(names) else kinds
