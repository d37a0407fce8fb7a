"""All bounds at once, from one measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax.bounds._compression import compression
from rankjax.bounds._conv_norm import conv_norm
from rankjax.bounds._facts import ASSUMED, Facts, check_delta, is_outside
from rankjax.bounds._frobenius import frobenius, one_inf
from rankjax.bounds._graf import graf_norm
from rankjax.bounds._pac_bayes_gaussian import pac_bayes_gaussian
from rankjax.bounds._pac_bayes_spectral import pac_bayes_spectral
from rankjax.bounds._parameter_count import low_rank, parameter_count, vc
from rankjax.bounds._path_norm import path_norm
from rankjax.bounds._rank_sparse import rank_sparse
from rankjax.bounds._result import BoundResult, Inapplicable
from rankjax.bounds._spectral import spectral
from rankjax.bounds._table import Table
from rankjax.bounds._undefined import dead_layers, why_undefined
from rankjax.matrix import SingularValueMethod
from rankjax.network import Cushions, Measured, Perturbed, Sample, Structure, measure
from rankjax.network.internal import NoCushions, check_structure, positive_margin


def compare(
    structure: Structure,
    params: Any,
    /,
    x: Any = None,
    y: ArrayLike | None = None,
    *,
    apply: Callable[[Any, Any], Any] | None = None,
    sample: Sample | None = None,
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
        x: inputs with a leading example axis.
        y: integer labels.
        apply: ``apply(params, x) -> logits``; with it path norms of any ReLU network are measured,
            and the cushions of the compression bound.
        sample: from ``Sample.from_data``, in place of ``x``, ``y`` and ``apply``.
        reference: a tree with the reference matrices, usually the initialization; ``None``: 0.
        gamma: the margin; ``None``: the largest that costs ``margin_share`` of the accuracy.
        margin_share: see ``gamma``.
        delta: confidence of the explicit bounds.
        cushion_examples: how many of the examples the cushions are measured on; 0: none.
        perturbed: from ``Perturbed.from_data``; adds ``pac_bayes_gaussian``.
        more: further results to show (a certificate, say).
        method: see ``measure``.

    Returns:
        ``Table``. A bound that needs something the sample does not have is left out, with the
        reason; so are the explicit bounds of a network that is no chain of its layers
        (``structure.outside``). Of a structure described by names, they say what they assume.
        ``facts`` says which values are NaN, and why.

    Raises:
        ValueError: neither a sample nor data, both, a margin that is not positive, or parameters
            that do not fit.
    """
    check_delta(delta)
    check_structure(structure, params)
    if (sample is None) == (x is None):
        raise ValueError("x, sample: give either data (x, y and apply) or a sample")
    if sample is None:
        if y is None or apply is None:
            raise ValueError("x: data need y and apply too")
        sample = Sample.from_data(structure, params, x, y, apply=apply)
    no_cushions = None
    if x is not None and apply is not None and cushion_examples and sample.cushions is None:
        few = jax.tree.map(lambda a: a[:cushion_examples], x)
        try:
            sample = sample.with_cushions(Cushions.from_data(structure, params, few, apply=apply))
        except NoCushions as error:
            no_cushions = str(error)
    margin = _margin(sample, margin_share, structure, params) if gamma is None else gamma
    margin = float(positive_margin(margin))
    example = None if x is None else jax.tree.map(lambda a: a[:1], x)
    measured = measure(
        structure, params, reference=reference, method=method,
        apply=apply if example is not None else None, example=example,
    )  # fmt: skip
    results, left_out = all_bounds(measured, sample, gamma=margin, delta=delta)
    if no_cushions is not None:
        left_out = tuple((n, no_cushions if n == "compression" else why) for n, why in left_out)
    if perturbed is not None:
        results += (pac_bayes_gaussian(measured, sample, perturbed=perturbed, delta=delta),)
    results = (*results, *more)
    facts = facts_of(structure) + why_undefined(results, structure, params)
    return Table(results, margin, int(jnp.asarray(sample.n)), left_out, facts)


def _margin(sample: Sample, share: float, structure: Structure, params: Any) -> ArrayLike:
    try:
        return sample.margin_at(share)
    except ValueError as error:
        dead = dead_layers(structure, params)
        if not dead:
            raise
        raise ValueError(f"{error}; the weights of {', '.join(dead)} are 0 everywhere") from None


def facts_of(structure: Structure) -> tuple[tuple[str, Any], ...]:
    """What a reader of a table should know of the network."""
    facts = []
    if structure.outside:
        facts.append(("No chain of its layers, for the network", "; ".join(structure.outside)))
    if structure.outside is None:
        facts.append(("Described by names alone", ASSUMED))
    if structure.biases:
        facts.append(("Added to activations and not counted", ", ".join(structure.biases)))
    return tuple(facts)


def all_bounds(
    measured: Measured, sample: Sample, /, *, gamma: float, delta: float = 0.05
) -> tuple[tuple[BoundResult, ...], tuple[tuple[str, str], ...]]:
    """Every bound that the measurements allow, compiled as one, and what was left out and why."""
    Facts(measured, sample)  # refuses other arguments
    calls = _calls(gamma, delta)
    possible, left_out = [], []
    for i, (name, call) in enumerate(calls):
        try:
            shape = jax.eval_shape(call, measured, sample)
        except Inapplicable as error:
            left_out.append((name, str(error)))
            continue
        why = is_outside(measured.structure, shape.name) if shape.kind == "explicit" else None
        if why:
            left_out.append((name, why))
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
        call("rank_sparse_tail", rank_sparse, gamma=gamma, form="tail"),
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
        call("rank_sparse, explicit", rank_sparse, kind="explicit", delta=delta),
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
