"""Bounds of one network as rows and as data."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import jax

from rankjax._arguments import one_of
from rankjax.bounds._result import BoundResult, Kind

Column = Literal["bound", "kind", "quantity", "value", "log10", "source"]
_NOTE = (
    "Kind 'dominant': the term of a bound without constants and logarithms, for comparison; it is "
    "not a guarantee. Kind 'explicit': with its constants; 'Rademacher' is the complexity of a "
    "class, not a gap."
)


@dataclass(frozen=True)
class Table:
    """Bounds of one network, for comparison.

    Attributes:
        results: the bounds.
        gamma: the margin they were computed for.
        n: the number of examples.
        left_out: bounds that could not be computed, with the reason.
        facts: anything else about the network, shown with the table.
    """

    COLUMNS: ClassVar = get_args(Column)
    NOTE: ClassVar = _NOTE

    results: tuple[BoundResult, ...]
    gamma: float
    n: int
    left_out: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, Any], ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per bound: ``bound, kind, quantity, value, log10, source``."""
        return [
            {
                "bound": result.name,
                "kind": result.kind,
                "quantity": result.quantity,
                "value": float(result.value),
                "log10": _log10(result),
                "source": result.source,
            }
            for result in self.results
        ]

    def __getitem__(self, key: str | tuple[str, str]) -> BoundResult:
        """The bound of this name, or ``(name, kind)``; the dominant form where both are there."""
        name, kind = key if isinstance(key, tuple) else (key, None)
        for result in self.results:
            if result.name == name and kind in {None, result.kind}:
                return result
        known = [(result.name, result.kind) for result in self.results]
        raise KeyError(f"no bound {key!r}; this table has {known}")

    def sorted(self, by: Column = "value", *, descending: bool = False) -> Table:
        """The same table in the order of a column (``value`` sorts by the logarithm)."""
        one_of(by, "by", Column)
        key = "log10" if by == "value" else by
        rows = self.rows()

        def rank(i: int) -> tuple[bool, Any]:
            value = rows[i][key]
            missing = isinstance(value, float) and math.isnan(value)
            return missing != descending, 0 if missing else value

        order = sorted(range(len(rows)), key=rank, reverse=descending)
        return replace(self, results=tuple(self.results[i] for i in order))

    def only(self, kind: Kind) -> Table:
        """The rows of one kind."""
        one_of(kind, "kind", Kind)
        return replace(self, results=tuple(r for r in self.results if r.kind == kind))

    def breakdown(self) -> list[dict[str, Any]]:
        """One dictionary per bound and layer: ``bound, kind, layer, part, parts``."""
        return [
            {
                "bound": result.name,
                "kind": result.kind,
                "layer": layer,
                "part": float(part),
                "parts": result.parts,
            }
            for result in self.results
            for layer, part in zip(result.layers, result.per_layer, strict=True)
        ]

    def remarks(self) -> list[str]:
        """The facts and what was left out, one sentence per fact and per reason."""
        facts = [f"{name}: {value}." for name, value in self.facts]
        groups: dict[str, list[str]] = {}
        for name, why in self.left_out:
            groups.setdefault(why, []).append(name)
        return facts + [f"Left out: {'; '.join(names)} ({why})." for why, names in groups.items()]

    def to_json(self) -> str:
        """Everything, the terms and the parts included; what is not finite becomes a string."""
        rows = []
        for row, result in zip(self.rows(), self.results, strict=True):
            row["layers"] = list(result.layers)
            row["per_layer"] = [float(part) for part in result.per_layer]
            row["parts"] = result.parts
            row["terms"] = {name: jax.device_get(term).tolist() for name, term in
                            result.terms.items()}  # fmt: skip
            rows.append(row)
        document = {
            "n": self.n, "gamma": self.gamma, "note": self.NOTE, "facts": dict(self.facts),
            "left_out": dict(self.left_out), "bounds": rows,
        }  # fmt: skip
        return json.dumps(_finite(document), indent=1, allow_nan=False)

    def __str__(self) -> str:
        width = max((len(r.name) for r in self.results), default=5)
        lines = [f"{'bound':<{width}}  kind      quantity       log10  value"]
        for row in self.rows():
            lines.append(
                f"{row['bound']:<{width}}  {row['kind']:<8}  {row['quantity']:<13}  "
                f"{row['log10']:>z5.2f}  {row['value']:.3g}"
            )
        return "\n".join(
            [*lines, f"n = {self.n}, gamma = {self.gamma:.4g}", self.NOTE, *self.remarks()]
        )


def _log10(result: BoundResult) -> float:
    log = result.terms.get("log")
    if log is not None:
        return float(log) / math.log(10)
    value = float(result.value)
    return math.log10(value) if value > 0 else (-math.inf if value == 0 else math.nan)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
