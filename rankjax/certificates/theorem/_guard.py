"""The run-time guard: networks inside the coded distances must not move an output further."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.certificates.theorem._certificate import GuardReport
from rankjax.certificates.theorem._counting import Counter, limits_of
from rankjax.certificates.theorem._distances import measure
from rankjax.certificates.theorem._neighbor import Problem

_EXAMPLES = 32
_PIECES = 32  # of so many examples, compared with apply itself
_CLOSE = 0.05  # of the largest logit: what low precision may decide otherwise
_DRAWN = 4  # of each kind
_ASCENT = 6


def guard(
    problem: Problem,
    counter: Counter,
    coded: np.ndarray,
    distances: np.ndarray,
    x: Any,
    y: Any,
    *,
    seed: int = 0,
) -> GuardReport:
    """Draw networks and compare what moves with what the recursion allows.

    The network itself; random changes and changes of rank one, as large as the coded distances
    allow; and a few steps of gradient ascent on the largest share from there. Before that,
    ``apply`` itself, run on a batch, must decide up to a thousand examples as the network does in
    exact arithmetic, close calls aside.

    Raises:
        ValueError: if an output moves further than its bound: a bug in a rule, not in the input;
            if ``apply`` decides a batch otherwise.
    """
    network = problem.network
    index = np.unique(np.linspace(0, len(y) - 1, min(_EXAMPLES, len(y))).astype(int))
    part = jax.tree.map(lambda a: np.asarray(a)[index], x)
    labels = np.asarray(y)[index]
    _check_as_it_runs(problem, x, len(labels))
    observed = network.observe(coded, part, labels)
    gains, pairs = counter.norms(coded)
    with jax.enable_x64(True):
        limits = network.jit(partial(limits_of, network))(
            observed.slots, labels, gains, pairs, distances
        )
        base = np.asarray(network.logits(coded, part))
        take = np.arange(len(labels))
        # What rounding may do to a difference of logits, twice over; and far below any real move.
        gaps = observed.gaps
        off = np.where(np.isinf(gaps), 0.0, base[take, labels][:, None] - base - gaps)
        noise = 4 * off + 1e-9 * (1 + np.max(np.abs(base)))

        def share(weights: Array) -> Array:
            moved = network.logits(weights, part) - base
            changes = jnp.abs(moved[take, labels][:, None] - moved)
            return jnp.max(jnp.maximum(changes - noise, 0) / (limits + noise))

        share_and_slope = network.jit(jax.value_and_grad(share))
        rng = np.random.default_rng(seed)
        largest, drawn = 0.0, 0
        starts = [problem.weights - coded]
        starts += [_random(problem, rng, low_rank=i % 2 == 1) for i in range(2 * _DRAWN)]
        for number, start in enumerate(starts):
            change = start if number == 0 else _fit(problem, start, distances)
            steps = _ASCENT if number in (1, 2) else 0
            for step in range(steps + 1):
                value, slope = map(np.asarray, share_and_slope(jnp.asarray(coded + change)))
                found, drawn = float(value), drawn + 1
                largest = max(largest, found if np.isfinite(found) else np.inf)
                if step < steps:
                    if not np.isfinite(slope).all() or not slope.any():
                        break
                    size = float(np.linalg.norm(change)) or 1.0
                    change = _fit(
                        problem, change + size * slope / float(np.linalg.norm(slope)), distances
                    )
    if not largest <= 1:
        raise ValueError(
            f"apply: a network inside the coded distances moved an output by {largest:.3g} times "
            "its bound. This is a bug in rankjax, not in your input: please report the network; "
            "no certificate is given"
        )
    return GuardReport(drawn, float(largest))


def _check_as_it_runs(problem: Problem, x: Any, piece: int) -> None:
    """Refuse a function that computes something else for a batch, or in its own types."""
    network = problem.network
    n = len(jax.tree.leaves(x)[0])
    index = np.linspace(0, n - 1, piece * min(_PIECES, n // piece)).astype(int)
    part = jax.tree.map(lambda a: np.asarray(a)[index], x)
    logits = []
    with jax.enable_x64(True):
        for start in range(0, len(index), piece):
            few = jax.tree.map(lambda a, start=start: a[start : start + piece], part)
            logits.append(np.asarray(network.logits(problem.weights, few)))
    exact = np.concatenate(logits)
    found = np.argmax(np.asarray(network.as_it_runs(problem.weights, part)), axis=1)
    places = np.arange(len(exact))
    behind = np.max(exact, axis=1) - exact[places, found]
    differ = int(np.sum(behind > _CLOSE * np.max(np.abs(exact), axis=1)))
    if 64 * differ > len(exact):
        raise ValueError(
            f"apply: decides {differ} of {len(exact)} examples otherwise when it runs on a batch "
            "than for each example alone, in exact arithmetic; the certificate would be about "
            "another network"
        )


def _random(problem: Problem, rng: np.random.Generator, *, low_rank: bool) -> np.ndarray:
    change = np.zeros_like(problem.weights)
    starts = problem.network.leaves.starts
    for number in problem.network.used:
        place = slice(starts[number], starts[number + 1])
        shape = problem.network.leaves.shapes[number]
        if low_rank and len(shape) > 1:
            left = rng.normal(size=(*shape[:-1], 1))
            found = left * rng.normal(size=shape[-1])
        else:
            found = rng.normal(size=shape)
        change[place] = found.ravel()
    return change


def _fit(problem: Problem, change: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Each leaf of a change as large as the coded distances allow."""
    change = change.copy()
    starts = problem.network.leaves.starts
    for number in problem.network.used:
        place = slice(starts[number], starts[number + 1])
        alone = np.zeros_like(change)
        alone[place] = change[place]
        ratios = []
        for distance, allowed in zip(problem.network.distances, distances, strict=True):
            size = measure(distance, alone)
            if size:
                share = 1 / len(np.unique(_leaves_of(problem, distance)))
                ratios.append(allowed * share / size)
        change[place] *= min(ratios, default=0.0) * (1 - 1e-9)
    return change


def _leaves_of(problem: Problem, distance: Any) -> np.ndarray:
    index = distance.entries.index
    return np.searchsorted(problem.network.leaves.starts, index, side="right") - 1
