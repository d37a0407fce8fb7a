"""What ``analyze`` found: one row per matrix, what was left out; as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, replace
from typing import Any

from rankjax.network import LeftOut
from rankjax.report._row import Row
from rankjax.report._sorting import SortKey, sorted_rows
from rankjax.report.checkpoints import shown

SHARES = (90, 95, 99)  # percent of the energy
NOTES = (
    "Numerical rank: singular values above max(out, in) * machine epsilon of float32 (of float64 "
    "for float64 weights) times the largest; of a difference also above what rounding of the "
    "stored entries can make.",
    "Tail exponent a: least squares of log sigma_i on log i, i from rank/10 to rank/2; where its "
    "R^2 is clearly below 1 the tail is no power law.",
    "Saved at 90, 95 or 99 %: parameters that a factorization saves which keeps that share of the "
    "squared Frobenius norm; it says nothing of the accuracy of the network.",
)


@dataclass(frozen=True)
class Analysis:
    """All matrices of a checkpoint.

    Attributes:
        rows: the matrices, in natural order of their paths.
        left_out: leaves that were not measured, with the reason.
        not_finite: ``(path, entries that are NaN or infinite, entries)``; not measured either.
        p: the exponents of the Schatten norms and soft ranks.
        parameters: entries of all floating point leaves.
        source: what was analyzed.
        format: what kind of checkpoint it was.
        layout: how it was read, given or guessed.
        reference: what was subtracted, or ``None``.
    """

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    not_finite: tuple[tuple[str, int, int], ...]
    p: tuple[float, ...]
    parameters: int
    source: str = "parameters"
    format: str = "tree"
    layout: str = ""
    reference: str | None = None

    @property
    def updates(self) -> tuple[Row, ...]:
        """The rows that are products of two factors (LoRA)."""
        return tuple(row for row in self.rows if row.given_rank is not None)

    def sorted(self, by: SortKey = "path") -> Analysis:
        """The same with its rows in the order of a column, the largest value first.

        ``"path"`` is the natural order, ``"size"`` that of the entries, ``"saved"`` that of the
        share saved at 90 %; ``"schatten"`` and ``"soft"`` are those of the first p. Values that
        are not defined come last.
        """
        return replace(self, rows=sorted_rows(self.rows, by))

    def summary(self) -> dict[str, Any]:
        """Totals: matrices, parameters, and what factorizations would save."""
        in_matrices = sum(row.parameters for row in self.rows)
        return {
            "source": self.source,
            "format": self.format,
            "layout": self.layout,
            "reference": self.reference,
            "matrices": len(self.rows),
            "parameters": self.parameters,
            "parameters_in_matrices": in_matrices,
            "updates": len(self.updates),
            "dead_updates": sum(row.numerical_rank == 0 for row in self.updates),
            **{
                f"saved_at_{share}": sum(row.saved_at[i] for row in self.rows)
                for i, share in enumerate(SHARES)
            },
            "left_out": len(self.left_out),
            "not_finite": len(self.not_finite),
        }

    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per matrix, without its spectrum; ``pandas.DataFrame`` takes them."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {
            "path": row.path,
            "leaf": "x".join(map(str, row.leaf)),
            "out": row.shape[0],
            "in": row.shape[1],
            "dtype": row.dtype,
            "parameters": row.parameters,
            "spectral_norm": row.spectral_norm,
            "frobenius_norm": row.frobenius_norm,
        }
        record |= {
            f"schatten_norm_p{p:g}": x for p, x in zip(self.p, row.schatten_norm, strict=True)
        }
        record |= {
            "numerical_rank": row.numerical_rank,
            "stable_rank": row.stable_rank,
            "effective_rank": row.effective_rank,
        }
        record |= {f"soft_rank_p{p:g}": x for p, x in zip(self.p, row.soft_rank, strict=True)}
        record |= {"tail_exponent": row.tail_exponent, "tail_fit": row.tail_fit}
        for i, share in enumerate(SHARES):
            record |= {f"rank_at_{share}": row.rank_at[i], f"saved_at_{share}": row.saved_at[i]}
        if self.updates:
            record |= {"given_rank": row.given_rank, "scale": row.scale}
        if self.reference is not None:
            record["relative_change"] = row.relative_change
        return record

    def to_json(self) -> str:
        """Everything, the singular values (to seven digits) included; NaN becomes null."""
        rows = []
        for row in self.rows:
            record = {key: _plain(value) for key, value in self._record(row).items()}
            record["leaf"] = list(row.leaf)
            record["singular_values"] = [float(f"{s:.7g}") for s in row.singular_values]
            rows.append(record)
        document = {
            "summary": self.summary(),
            "p": list(self.p),
            "notes": list(NOTES),
            "matrices": rows,
            "left_out": [
                {"path": leaf.path, "shape": list(leaf.shape), "why": leaf.text}
                for leaf in self.left_out
            ],
            "not_finite": [
                {"path": name, "not_finite": bad, "entries": size}
                for name, bad, size in self.not_finite
            ],
        }
        return json.dumps(document, indent=1, allow_nan=False)

    def to_csv(self) -> str:
        """The rows, without spectra; a number that is not defined is an empty cell."""
        buffer = io.StringIO()
        records = self.records()
        names = list(records[0]) if records else ["path"]
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        for record in records:
            plain = {key: _plain(value) for key, value in record.items()}
            writer.writerow(plain | {"path": _cell(record["path"])})
        return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _cell(text: str) -> str:
    # A spreadsheet takes a cell with such a beginning for a formula.
    text = shown(text, 10_000)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} else text
