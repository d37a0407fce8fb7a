"""The words and numbers of an ``Analysis``, for terminals and pages alike."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rankjax.network import LeftOut
from rankjax.report._analysis import SHARES, Analysis
from rankjax.report._rank_plan import Cut, RankPlan
from rankjax.report._row import Row
from rankjax.report.checkpoints import shown


def summary_line(analysis: Analysis) -> str:
    """What was analyzed, in two sentences."""
    total = analysis.summary()
    text = (
        f"{shown(analysis.source)} ({analysis.format}; layout: {analysis.layout}): "
        f"{total['matrices']} matrices with {total['parameters_in_matrices']:,} of "
        f"{total['parameters']:,} parameters."
    )
    if analysis.updates:
        dead = f", {total['dead_updates']} of them 0" if total["dead_updates"] else ""
        text += f" {total['updates']} are updates of low rank (LoRA){dead}."
        if any(row.scale is None for row in analysis.updates):
            text += " Nothing tells their scale: taken for 1."
    if analysis.reference is not None:
        text += f" The numbers describe the difference from {shown(analysis.reference)}."
    inside = max(total["parameters_in_matrices"], 1)
    saved = ", ".join(
        f"{total[f'saved_at_{share}']:,} ({total[f'saved_at_{share}'] / inside:.0%}) at {share} %"
        for share in SHARES
    )
    return f"{text} Factorizations that keep the energy save {saved}."


def headings(analysis: Analysis) -> list[str]:
    """The columns after the path, for terminals and pages."""
    return [
        "out x in", "spectral", "Frobenius", *(f"Schatten {p:g}" for p in analysis.p),
        "num. rank", "stable", "effective", *(f"soft {p:g}" for p in analysis.p),
        "tail", "R^2", *(f"saved {share}%" for share in SHARES),
        *(["of rank"] if analysis.updates else []),
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
    if analysis.updates:
        found.append("-" if row.given_rank is None else str(row.given_rank))
    if analysis.reference is not None:
        change = math.nan if row.relative_change is None else row.relative_change
        found.append(f"{change:.2g}")
    return found


PLAN_HEADINGS = ("out x in", "rank", "above noise", "energy", "saved")


def plan_line(plan: RankPlan) -> str:
    """What the recommended ranks save, in a sentence."""
    before, after = plan.parameters
    return (
        f"Recommended: factorize {len(plan.ranks)} of {len(plan.cuts)} leaves; {after:,} of "
        f"{before:,} parameters remain ({after / max(before, 1):.0%}), {plan.bytes_saved:,} bytes "
        "saved. The accuracy must be measured."
    )


def plan_cells(cut: Cut) -> list[str]:
    """The numbers of a leaf, in the order of ``PLAN_HEADINGS``."""
    out, in_ = cut.shape
    shape = f"{out} x {in_}" if cut.matrices == 1 else f"{cut.matrices} of {out} x {in_}"
    saved = cut.parameters - cut.kept
    return [
        shape, str(cut.rank) if saved else "full", str(cut.noise_rank), f"{cut.energy:.2%}",
        f"{saved / cut.parameters:.0%}" if saved else "-",
    ]  # fmt: skip


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if 1e3 <= value < 1e5 else f"{value:.3g}"


def by_reason(left_out: Iterable[LeftOut]) -> list[str]:
    """One line per reason, with the first few paths."""
    groups: dict[str, list[str]] = {}
    for leaf in left_out:
        groups.setdefault(leaf.text, []).append(shown(leaf.path))
    lines = []
    for why, paths in groups.items():
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        lines.append(f"  {len(paths)}: {shown(why)}: {', '.join(paths[:3])}{more}")
    return lines
