"""All bounds at once, from one measurement."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax.bounds.compression import compression
from rankjax.bounds.convolutional import conv_norm
from rankjax.bounds.frobenius import frobenius, one_inf
from rankjax.bounds.graf import graf_norm
from rankjax.bounds.pac_bayes import pac_bayes_spectral
from rankjax.bounds.pac_bayes_gaussian import pac_bayes_gaussian
from rankjax.bounds.parameter_count import low_rank, parameter_count, vc
from rankjax.bounds.path_norm import path_norm
from rankjax.bounds.rank_sparse import rank_sparse
from rankjax.bounds.result import KINDS, BoundResult
from rankjax.bounds.spectral import check_delta, spectral
from rankjax.matrix import SingularValueMethod
from rankjax.network.cushions import Cushions
from rankjax.network.measure import Measured, measure
from rankjax.network.perturbed import Perturbed
from rankjax.network.sample import Sample, positive_margin
from rankjax.network.structure import Structure

COLUMNS = ("bound", "kind", "quantity", "value", "log10", "source")
NOTE = (
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

    def sorted(self, by: str = "value", *, descending: bool = False) -> Table:
        """The same table in the order of a column (``value`` sorts by the logarithm)."""
        if by not in COLUMNS:
            raise ValueError(f"by: got {by!r}, must be one of {list(COLUMNS)}")
        key = "log10" if by == "value" else by
        rows = self.rows()

        def rank(i: int) -> tuple[bool, Any]:
            value = rows[i][key]
            missing = isinstance(value, float) and math.isnan(value)
            return missing != descending, 0 if missing else value

        order = sorted(range(len(rows)), key=rank, reverse=descending)
        return replace(self, results=tuple(self.results[i] for i in order))

    def only(self, kind: str) -> Table:
        """The rows of one kind."""
        if kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, must be one of {sorted(KINDS)}")
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
        """The facts and what was left out, one sentence each."""
        facts = [f"{name}: {value}." for name, value in self.facts]
        return facts + [f"Left out: {name} ({why})." for name, why in self.left_out]

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
            "n": self.n, "gamma": self.gamma, "note": NOTE, "facts": dict(self.facts),
            "left_out": dict(self.left_out), "bounds": rows,
        }  # fmt: skip
        return json.dumps(_finite(document), indent=1, allow_nan=False)

    def __str__(self) -> str:
        width = max((len(r.name) for r in self.results), default=5)
        lines = [f"{'bound':<{width}}  kind      quantity       log10  value"]
        for row in self.rows():
            lines.append(
                f"{row['bound']:<{width}}  {row['kind']:<8}  {row['quantity']:<13}  "
                f"{row['log10']:>5.2f}  {row['value']:.3g}"
            )
        return "\n".join([*lines, f"n = {self.n}, gamma = {self.gamma:.4g}", NOTE, *self.remarks()])


def compare(
    structure: Structure,
    params: Any,
    sample: Sample | None = None,
    /,
    *,
    x: Any = None,
    y: ArrayLike | None = None,
    apply: Callable[[Any, Any], Any] | None = None,
    reference: Any = None,
    gamma: float | None = None,
    margin_share: float = 0.01,
    delta: float = 0.05,
    cushion_examples: int = 64,
    perturbed: Perturbed | None = None,
    more: Iterable[BoundResult] = (),
    method: SingularValueMethod = "auto",
) -> Table:
    """Every bound for one network, from one measurement of its weights and one of its data.

    Args:
        structure: from ``describe``.
        params: the parameters.
        sample: from ``Sample.from_data``; or give ``x``, ``y`` and ``apply`` instead.
        x: inputs with a leading example axis.
        y: integer labels.
        apply: ``apply(params, x) -> logits``; with it path norms of any ReLU network are measured,
            and with ``x`` the cushions of the compression bound.
        reference: a tree with the reference matrices, usually the initialisation; ``None``: 0.
        gamma: the margin; ``None``: the largest that costs ``margin_share`` of the accuracy.
        margin_share: see ``gamma``.
        delta: confidence of the explicit bounds.
        cushion_examples: how many of the examples the cushions are measured on; 0: none.
        perturbed: from ``Perturbed.from_data``; adds ``pac_bayes_gaussian``.
        more: further results to show (a certificate, say).
        method: see ``measure``.

    Returns:
        ``Table``. A bound that needs something the sample does not have is left out, with the
        reason.

    Raises:
        ValueError: neither a sample nor data, both, a margin that is not positive, or parameters
            that do not fit.
    """
    check_delta(delta)
    if (sample is None) == (x is None):
        raise ValueError("sample, x: give either a sample or data (x, y and apply)")
    if sample is None:
        if y is None or apply is None:
            raise ValueError("x: data need y and apply too")
        sample = Sample.from_data(structure, apply, params, x, y)
    if x is not None and apply is not None and cushion_examples and sample.cushions is None:
        few = jax.tree.map(lambda a: a[:cushion_examples], x)
        if all(layer.uses == 1 and layer.stacked == 1 for layer in structure.spec):
            sample = sample.with_cushions(Cushions.from_data(structure, apply, params, few))
    margin = float(sample.margin_at(margin_share) if gamma is None else positive_margin(gamma))
    example = None if x is None else jax.tree.map(lambda a: a[:1], x)
    measured = measure(
        structure, params, reference=reference, method=method,
        apply=apply if example is not None else None, example=example,
    )  # fmt: skip
    results, left_out = all_bounds(measured, sample, gamma=margin, delta=delta)
    if perturbed is not None:
        results += (pac_bayes_gaussian(measured, sample, perturbed=perturbed, delta=delta),)
    return Table((*results, *more), margin, int(jnp.asarray(sample.n)), left_out)


def all_bounds(
    measured: Measured, sample: Sample, /, *, gamma: float, delta: float = 0.05
) -> tuple[tuple[BoundResult, ...], tuple[tuple[str, str], ...]]:
    """Every bound that the measurements allow, compiled as one, and what was left out and why."""
    calls = _calls(gamma, delta)
    possible, left_out = [], []
    for i, (name, call) in enumerate(calls):
        try:
            jax.eval_shape(call, measured, sample)
        except ValueError as error:
            # Only what the sample or the measurements lack is left out; other errors are errors.
            if not str(error).startswith(("sample:", "measured:", "structure:", "form:")):
                raise
            left_out.append((name, str(error)))
        else:
            possible.append(i)
    results = _evaluate(measured, sample, gamma, delta, tuple(possible))
    return results, tuple(left_out)


@partial(jax.jit, static_argnames=("delta", "chosen"))
def _evaluate(measured, sample, gamma, delta, chosen: Sequence[int]) -> tuple[BoundResult, ...]:
    calls = _calls(gamma, delta)
    return tuple(calls[i][1](measured, sample) for i in chosen)


def _calls(gamma: ArrayLike, delta: float) -> list[tuple[str, Callable[..., BoundResult]]]:
    def call(name: str, bound: Callable[..., BoundResult], **options: Any):
        return name, partial(bound, **options)

    both = {"gamma": gamma, "kind": "dominant"}
    explicit = {"gamma": gamma, "kind": "explicit"}
    return [
        call("rank_sparse", rank_sparse, gamma=gamma),
        call("rank_sparse_augmented", rank_sparse, gamma=gamma, form="augmented"),
        call("spectral", spectral, **both),
        call("frobenius", frobenius, **both),
        call("one_inf", one_inf, **both),
        call("path_norm_1", path_norm, order=1, **both),
        call("path_norm_2", path_norm, order=2, **both),
        call("pac_bayes_spectral", pac_bayes_spectral, **both),
        call("compression", compression, gamma=gamma),
        call("parameter_count", parameter_count, **both),
        call("vc", vc),
        call("low_rank", low_rank, gamma=gamma),
        call("low_rank_c2", low_rank, gamma=gamma, c=2.0),
        call("spectral, explicit", spectral, delta=delta, **explicit),
        call("frobenius, explicit", frobenius, **explicit),
        call("frobenius_neyshabur, explicit", frobenius, version="neyshabur", **explicit),
        call("one_inf, explicit", one_inf, **explicit),
        call("path_norm_1, explicit", path_norm, order=1, **explicit),
        call("path_norm_2, explicit", path_norm, order=2, **explicit),
        call("pac_bayes_spectral, explicit", pac_bayes_spectral, delta=delta, **explicit),
        call("graf_norm", graf_norm, gamma=gamma),
        call("graf_parameters", parameter_count, **explicit),
        call("conv_norm", conv_norm, gamma=gamma),
    ]


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
