"""Pictures of a demo run (matplotlib, imported only when one is drawn)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLORS = {"plain": "#8a8d91", "rank-sparse": "#0b6e99"}
_STYLES = ("-", "--", ":", "-.")


def draw_demo(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``spectra.png``, ``training.png`` and ``test_error.png``; returns their paths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawings = {"spectra": _spectra, "training": _training, "test_error": _test_error}
    paths = []
    for name, draw in drawings.items():
        # Figures without pyplot: no global state, no display, safe in any process.
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, results)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def _spectra(figure: Any, results: dict[str, Any]) -> None:
    runs = results["runs"]
    layers = runs[0]["layers"]
    figure.set_size_inches(4.2 * len(layers), 3.6)
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for index, axis in enumerate(axes):
        for run in runs:
            layer = run["layers"][index]
            values = layer["singular_values"]
            axis.semilogy(
                range(1, len(values) + 1),
                [value / values[0] for value in values],
                color=_COLORS.get(run["name"]),
                label=f"{run['name']} (soft rank {layer['soft_rank']:.0f})",
            )
        out, in_ = layers[index]["shape"]
        axis.set_title(f"{_short(layers[index]['name'])}  {out} x {in_}", fontsize=10)
        axis.set_xlabel("index of the singular value")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="lower left")
    axes[0].set_ylabel("singular value / largest")
    figure.suptitle(f"Spectra of the trained weights, {results['dataset']}")


def _training(figure: Any, results: dict[str, Any]) -> None:
    runs, p = results["runs"], results["settings"]["p"]
    figure.set_size_inches(9.5, 3.8)
    left, right = figure.subplots(1, 2)
    for run in runs:
        color = _COLORS.get(run["name"])
        left.plot(run["steps"], run["bound_curve"], color=color, label=run["name"])
        curves = zip(*run["soft_rank_curve"], strict=True)
        for index, (curve, layer) in enumerate(zip(curves, run["layers"], strict=True)):
            label = f"{run['name']}, {_short(layer['name'])}"
            style = _STYLES[index % len(_STYLES)]
            right.plot(run["steps"], curve, style, color=color, label=label)
    left.set_title(f"rank-sparse bound, dominant term (p = {p:g}, margin 1)", fontsize=10)
    right.set_title(f"soft rank of each layer (p = {p:g})", fontsize=10)
    # Room for the legends above the curves.
    left.set_ylim(0, 1.25 * left.get_ylim()[1])
    right.set_ylim(0, 1.35 * right.get_ylim()[1])
    _finish(left, "step")
    _finish(right, "step", columns=len(runs))


def _test_error(figure: Any, results: dict[str, Any]) -> None:
    figure.set_size_inches(5.2, 3.8)
    axis = figure.subplots()
    for run in results["runs"]:
        # The first record is the untrained network, which would flatten the rest of the curve.
        steps, errors = run["steps"][1:], run["test_error_curve"][1:]
        label = f"{run['name']}: {run['test_error']:.2%} at the end"
        axis.plot(steps, [100 * e for e in errors], color=_COLORS.get(run["name"]), label=label)
    axis.set_ylabel("test error, %")
    axis.set_title(f"Test error during training, {results['dataset']}", fontsize=10)
    axis.set_ylim(bottom=0)
    _finish(axis, "step")


def _finish(axis: Any, xlabel: str, columns: int = 1) -> None:
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper right", ncols=columns)


def _short(path: str) -> str:
    keys: Sequence[str] = path.split("/")
    return "/".join(keys[-2:-1]) or path
