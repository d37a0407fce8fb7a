"""The table that the demo prints."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_demo(results: dict[str, Any], console: Console) -> None:
    """Print both runs side by side, the layers below, and what kind of number the bound is."""
    runs = results["runs"]
    settings = results["settings"]
    table = Table(
        title=f"{results['dataset']}: two trainings of the same network", title_justify="left"
    )
    table.add_column("")
    for run in runs:
        table.add_column(run["name"], justify="right")
    if len(runs) == 2:
        table.add_column("change", justify="right")
    _row(table, "train error", [run["train_error"] for run in runs], "{:.2%}")
    _row(table, "test error", [run["test_error"] for run in runs], "{:.2%}")
    _row(table, "margin that 1 % of the sample misses", [run["margin"] for run in runs], "{:.3g}")
    table.add_section()
    for index, layer in enumerate(runs[0]["layers"]):
        out, in_ = layer["shape"]
        for key, what in (
            ("numerical_rank", "numerical rank (above 0.001 of the largest)"),
            ("stable_rank", "stable rank"),
            ("soft_rank", f"soft rank, p = {settings['p']:g}"),
        ):
            values = [run["layers"][index][key] for run in runs]
            _row(table, f"{layer['name']} {out}x{in_}: {what}", values, "{:.3g}")
    table.add_section()
    for key in runs[0]["bounds"]:
        name = f"p = {settings['p']:g}" if key == "fixed p" else key
        values = [run["bounds"][key]["value"] for run in runs]
        _row(
            table,
            f"rank-sparse bound ({runs[0]['bounds'][key]['kind']} term), {name}",
            values,
            "{:.3g}",
        )
    before = [run["bound_curve"][0] for run in runs]
    after = [run["bound_curve"][-1] for run in runs]
    _row(table, "the same at margin 1, before training", before, "{:.3g}")
    _row(table, "the same at margin 1, after training", after, "{:.3g}")
    table.add_section()
    _row(table, "training time, s", [run["seconds"] for run in runs], "{:.0f}")
    console.print(table)
    console.print(
        "The bound is the dominant term of a published theorem, without constants and "
        "logarithms: it compares networks, it guarantees nothing. "
        f"Weight of log(bound) in the loss: {settings['weight']:g}."
    )
    console.print(_small(results))


def _small(results: dict[str, Any]) -> Table:
    """The dense network beside those that are cut to the ranks they use."""
    networks = list(results["small"].values())
    table = Table(
        title="cut to the singular values above 0.001 of each largest",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("plain, dense", justify="right")
    for name in results["small"]:
        table.add_column(f"{name}, cut", justify="right")
    rows = (("parameters", "parameters", "{:,.0f}"), ("bytes", "bytes", "{:,.0f}"))
    for title, key, fmt in (*rows, ("time of 1024 images, ms", "ms", "{:.2f}")):
        values = [networks[0][key]["dense"], *(network[key]["small"] for network in networks)]
        table.add_row(title, *map(fmt.format, values))
    errors = [results["runs"][0]["test_error"], *(network["test_error"] for network in networks)]
    table.add_row("test error", *map("{:.2%}".format, errors))
    return table


def _row(table: Table, name: str, values: list[float], fmt: str) -> None:
    cells = [fmt.format(value) for value in values]
    if len(values) == 2 and fmt.endswith("%}"):
        cells.append(f"{100 * (values[1] - values[0]):+.2f} points")
    elif len(values) == 2:
        cells.append(f"{values[1] / values[0] - 1:+.0%}" if values[0] else "")
    table.add_row(name, *cells)
