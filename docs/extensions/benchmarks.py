"""Makes the tables of the benchmarks page from ``benchmarks/results/*.json``.

``python docs/extensions/benchmarks.py`` writes them into the page; a test compares the two.
"""

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


def certificates(rows: list[dict[str, Any]]) -> str:
    """One row per network."""
    lines = [
        "| network | seed | training | test error | counted errors | nats | true error at most |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['architecture']}, {row['weights']} weights | {row['seed']} | {row['route']} "
            f"| {row['test error']:.4f} | {row['counted']:.4f} | {row['nats']:.0f} "
            f"| **{_up(row['true error at most'])}** |"
        )
    return "\n".join(lines)


def compile_time(rows: list[dict[str, Any]]) -> str:
    """One row per setting."""
    lines = [
        "| network | setting | CPU, seconds | ratio | peak memory, MiB | ratio | wall, seconds |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['setting']} | {row['cpu']:.1f} | {row['cpu_ratio']:.2f} "
            f"| {row['peak_mib']:.0f} | {row['peak_ratio']:.2f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def guarantees(rows: list[dict[str, Any]]) -> str:
    """One row per network."""
    lines = [
        "| guarantee | data | weights | seed | test error | counted | true error at most | s |",
        "|---|---|--:|--:|--:|---|--:|--:|",
    ]
    for row in rows:
        counted = f"{row['counted']} of {row['of']}"
        if row["picked"] is not None:
            counted = f"{row['picked']} picked and {row['counted']} left of {row['of']}"
        lines.append(
            f"| {row['route']} | {row['data']} | {row['weights']} "
            f"| {row['seed']} | {row['test error']:.4f} | {counted} "
            f"| **{_up(row['true error at most'])}** | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def compressed_certificate(rows: list[dict[str, Any]]) -> str:
    """One row per file."""
    lines = [
        "| data | input | seed | weights | bytes | nats | train error | test error "
        "| true error at most | s |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['data']} | {row['input']} | {row['seed']} | {row['non_zero']} of "
            f"{row['weights']} | {row['bytes']} | {row['nats']:.0f} | {row['train_error']:.4f} "
            f"| {row['test_error']:.4f} | **{_up(row['certificate'])}** | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def width(rows: list[dict[str, Any]]) -> str:
    """One row per way and width, over the seeds."""
    lines = [
        "| stored as | width | integers | not zero | nats | test error | true error at most |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way, units in _pairs(rows, "stored as", "width"):
        mine = [row for row in rows if (row["stored as"], row["width"]) == (way, units)]
        middle = {
            key: statistics.median(_of(mine, key))
            for key in ("integers", "non_zero", "nats", "test error", "true error at most")
        }
        lines.append(
            f"| {way} | {units} | {middle['integers']:.0f} | {middle['non_zero']:.0f} "
            f"| {middle['nats']:.0f} | {middle['test error']:.4f} "
            f"| **{_up(middle['true error at most'])}** |"
        )
    return "\n".join(lines)


def factorized(rows: list[dict[str, Any]]) -> str:
    """One row per network, program and weights."""
    lines = [
        "| network | what | weights | parameters | ms | ratio (quartiles) | compile, s | MiB |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        ratio = "1" if row["weights"] == "dense" else f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
        lines.append(
            f"| {row['case']} | {row['what']} | {row['weights']} | {row['parameters']:,} "
            f"| {row['ms']:.0f} | {ratio} | {row['compile_seconds']:.1f} | {row['mib']:.0f} |"
        )
    return "\n".join(lines)


def polar(rows: list[dict[str, Any]]) -> str:
    """One row per way, two columns per size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [
        "| |" + "".join(f" {size}: ms | error |" for size in sizes),
        "|---|" + "--:|--:|" * len(sizes),
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        cells = [f" {row['milliseconds']:.0f} | {row['error']:.2g} |" for row in mine]
        lines.append(f"| {way} |" + "".join(cells))
    return "\n".join(lines)


def label_noise(rows: list[dict[str, Any]]) -> str:
    """One row per noise and way: medians of the seeds, least and most in brackets."""
    lines = [
        "| labels that are random | training | strength | test accuracy at the end, % "
        "| stopped early, % | ranks | time of a step |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for noise, way in sorted(_pairs(rows, "noise", "way"), key=lambda pair: pair[0]):
        mine = [row for row in rows if (row["noise"], row["way"]) == (noise, way)]
        early = 100 * statistics.median(row["test_at_best_validation"] for row in mine)
        ranks = ", ".join(
            str(round(statistics.median(r))) for r in zip(*_of(mine, "ranks"), strict=True)
        )
        lines.append(
            f"| {100 * noise:.0f} % | {way} | {mine[0]['strength']:g} "
            f"| {_spread([100 * row['test_at_end'] for row in mine], 2)} | {early:.2f} "
            f"| {ranks} | {statistics.median(mine[0]['time_ratios']):.2f} |"
        )
    return "\n".join(lines)


def compress_networks(rows: list[dict[str, Any]]) -> str:
    """One row per network and way, one column per budget: medians of the seeds."""
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    lines = [
        "| network | weights | " + " | ".join(f"{100 * b:g} %" for b in budgets) + " |",
        "|---|---|" + "--:|" * len(budgets),
    ]
    for case, way in _pairs(rows, "case", "way"):
        cells = []
        for budget in budgets:
            key = (case, way, budget)
            mine = [r["error"] for r in rows if (r["case"], r["way"], r["budget"]) == key]
            cells.append(f"{100 * statistics.median(mine):.2f}" if mine else "")
        lines.append(f"| {case} | {way} | " + " | ".join(cells) + " |")
        if way == "data-aware":
            timed = {r["budget"]: r for r in rows if r["case"] == case and "ratio" in r}
            mine = {r["budget"]: r for r in timed.values() if r["way"] in ("dense", way)}
            times = [f"{mine[b]['ratio']:.2f}" if b in mine else "" for b in budgets]
            memory = [f"{mine[b]['mib']:.1f}" if b in mine else "" for b in budgets]
            lines.append(f"| {case} | *its time, to the dense one's* | " + " | ".join(times) + " |")
            lines.append(f"| {case} | *its memory, MiB* | " + " | ".join(memory) + " |")
    return "\n".join(lines)


def rank_sparse_forms(rows: list[dict[str, Any]]) -> str:
    """One row per network, one column per form."""
    forms = ["parameter count", "plain", "tail", "chained (gap)", "one-scale (error)"]
    lines = [
        "| W | rank | test error | training error | margin | " + " | ".join(forms) + " |",
        "|--:|--:|--:|--:|--:|" + "--:|" * len(forms),
    ]
    for row in rows:
        cells = [f"{row[form]:.2f}" for form in forms]
        lines.append(
            f"| {row['width']} | {row['rank'] or 'full'} | {row['test_error']:.4f} "
            f"| {row['train_error']:.4f} | {row['margin']:.4f} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _pairs(rows: list[dict[str, Any]], *keys: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def _of(rows: list[dict[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]


def _spread(values: list[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


TABLES = {
    "certificates": certificates,
    "guarantees": guarantees,
    "compressed_certificate": compressed_certificate,
    "width": width,
    "compile_time": compile_time,
    "factorized": factorized,
    "polar": polar,
    "label_noise": label_noise,
    "compress_networks": compress_networks,
    "rank_sparse_forms": rank_sparse_forms,
}


def filled(text: str) -> str:
    """The page with every table as the results have it."""
    for name, table in TABLES.items():
        found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}{table(found['rows'])}\n\n{_source(found)}\n{end}{after}"
    return text


def _source(found: dict[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    device = "" if machine.get("device", "cpu") == "cpu" else f", {machine['device']}"
    return (
        f"`{found['command']}`\n\n{machine['system']}, {machine['cores']} cores{device}, load "
        f"{machine['load_at_start']:g} at the start; {packages}."
    )


def _up(value: float) -> str:
    """Four digits of a guarantee, never below it."""
    shown = f"{value:.4f}"
    return shown if float(shown) >= value else f"{float(shown) + 1e-4:.4f}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
