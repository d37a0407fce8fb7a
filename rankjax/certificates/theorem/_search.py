"""Choose the coded neighbor: steps and ranks of all leaves, jointly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from rankjax.bounds import kl_inverse
from rankjax.certificates._lengths import one_of, total
from rankjax.certificates.theorem._counting import Counter, limits_of
from rankjax.certificates.theorem._distances import (
    coded_distance,
    distances_length,
    measure,
    unit,
)
from rankjax.certificates.theorem._lattice import (
    LARGEST_EXPONENT,
    LeafCode,
    code_length,
    direct_code,
    factors_code,
    grid_step,
    nearest_exponent,
)
from rankjax.certificates.theorem._neighbor import Problem
from rankjax.certificates.theorem._network import Observed

_SHARE = 8000  # examples that the first search looks at
_AT_ONCE = 16
_OCTAVES = 24  # of steps, below the largest weight
_LARGEST = 1e60  # nearly the largest step
_LARGE = 300  # above this size, distances are estimated by their unit in the search


@dataclass(frozen=True)
class Choices:
    """The ways to code one leaf that are worth having.

    Attributes:
        codes: from short to long.
        nats: their lengths.
        distances: ``(codes, distances)``: what each adds to the distances of the network.
    """

    codes: list[LeafCode]
    nats: np.ndarray
    distances: np.ndarray


def choices_of(problem: Problem, number: int) -> Choices:
    """All codes of one leaf, with what they cost and how far off they are."""
    network = problem.network
    path, shape = network.leaves.paths[number], network.leaves.shapes[number]
    moved = problem.part(problem.weights - problem.reference, number)
    codes = [LeafCode(path, shape, "reference")]
    largest = float(np.max(np.abs(moved), initial=0.0))
    if largest > _LARGEST:
        raise ValueError(
            f"params[{path!r}]: got a weight {largest:g} from its reference, must be at most "
            f"{_LARGEST:g}"
        )
    if largest > 0:
        top = nearest_exponent(2 * largest)
        steps = [top - i for i in range(4 * _OCTAVES)]
        codes += [direct_code(path, moved, step) for step in steps if abs(step) <= LARGEST_EXPONENT]
        codes += _factors(problem, number, path, shape)
    keep: dict[LeafCode, None] = dict.fromkeys(codes)
    codes = list(keep)
    starts = network.leaves.starts
    place = slice(starts[number], starts[number + 1])
    mine = [
        i
        for i, distance in enumerate(network.distances)
        if np.any(
            (distance.entries.index >= starts[number])
            & (distance.entries.index < starts[number + 1])
        )
    ]
    off = np.zeros((len(codes), len(network.distances)))
    large = math.prod(shape) > _LARGE**2
    for row, code in enumerate(codes):
        difference = np.zeros_like(problem.weights)
        coded = code.moved()
        if code.mode == "factors":
            coded = problem._scatter(problem.layers[path], coded)
        difference[place] = (moved - coded).ravel()
        steps = np.zeros_like(problem.weights)
        steps[place] = grid_step(code.step) if code.mode != "reference" else 0.0
        for i in mine:
            distance = network.distances[i]
            if large and code.mode == "direct":
                off[row, i] = 1.1 * unit(distance, steps)
            else:
                off[row, i] = measure(distance, difference)
    nats = np.array([code.length(code.step).nats() for code in codes])
    return _worth_having(codes, nats, off, mine)


def _factors(problem: Problem, number: int, path: str, shape: tuple[int, ...]) -> list[LeafCode]:
    """Low-rank codes, where a matrix has a spectrum for them."""
    matrices = problem.matrices(number, problem.weights - problem.reference)
    if matrices is None:
        return []
    full = min(matrices.shape[1:])
    u, s, vt = np.linalg.svd(matrices, full_matrices=False)
    found = []
    ranks = {round(r) for r in np.geomspace(1, full, 12)}
    ranks.add(int(np.sum(np.max(s, axis=0) > 1e-6 * np.max(s))))  # the rank itself
    for rank in sorted(ranks):
        tail = np.max(s[:, rank], initial=0.0) if rank < full else 0.0
        if tail > 0.5 * np.max(s) or rank * sum(matrices.shape[1:]) > 0.8 * matrices[0].size:
            continue
        # A step is that of a product of two factors: the error halves every other octave.
        largest = float(np.max(np.sqrt(s[:, 0]) * np.abs(u[:, :, 0]).max(axis=1)))
        top = nearest_exponent(4 * largest**2)
        steps = [top - 4 * i for i in range(2 * _OCTAVES)]
        steps = [step for step in steps if abs(step) <= LARGEST_EXPONENT]
        found += [factors_code(path, shape, (u, s, vt), rank, step) for step in steps]
    return [code for code in found if code.mode == "factors"]


def _worth_having(
    codes: list[LeafCode], nats: np.ndarray, off: np.ndarray, mine: list[int]
) -> Choices:
    order = np.lexsort((off[:, mine[0]] if mine else nats, nats))
    kept, best = [], np.inf
    for row in order:
        size = off[row, mine[0]] if mine else 0.0
        if size < best:
            kept.append(int(row))
            best = size
    return Choices([codes[i] for i in kept], nats[kept], off[kept])


def objective(errors: np.ndarray, nats: np.ndarray, n: int, delta: float, tried: int) -> np.ndarray:
    """``kl^{-1}`` of the share of errors, for many candidates."""
    budget = (nats + math.log(tried / delta)) / n
    room = (0, -len(budget) % 64)  # few shapes, so few compilations
    with jax.enable_x64(True):
        found = np.asarray(kl_inverse(np.pad(errors / n, room), np.pad(budget, room)))
    return found[: len(budget)]


def search(
    problem: Problem,
    counter: Counter,
    observed: Observed,
    look: Callable[[np.ndarray], Observed],
    *,
    delta: float,
    tried: int,
) -> tuple[LeafCode, ...]:
    """The leaves of the best coded neighbor found.

    First with the sizes and margins of the network itself in place of its neighbor's: codes that
    are optimal for an error budget, then coordinate descent over all codes of one leaf and over
    exchanges of two. Then with the neighbors themselves, a few steps around the best.

    Args:
        problem: the network.
        counter: counts errors.
        observed: the network itself on the sample.
        look: a coded network on (a part of) the sample.
        delta: confidence.
        tried: codes tried.
    """
    choices = [choices_of(problem, number) for number in problem.network.used]
    part = observed.part(_SHARE)
    n, count = len(observed.y), len(part.y)
    gains, pairs = counter.norms(problem.weights)
    fixed = distances_length([0] * len(problem.network.distances)).nats()
    fixed += 2.0 * len(problem.network.distances)

    def errors_for(picks: np.ndarray) -> np.ndarray:
        off = sum(c.distances[picks[:, i]] for i, c in enumerate(choices))
        off = np.asarray(off) * 2 ** (1 / 16)  # half a step of the grid
        room = (0, -len(off) % _AT_ONCE)
        padded = np.pad(off, (room, (0, 0)), "edge")
        found = [
            counter(part, gains, pairs, padded[i : i + _AT_ONCE])
            for i in range(0, len(padded), _AT_ONCE)
        ]
        return np.concatenate(found)[: len(off)]

    def value(picks: np.ndarray) -> np.ndarray:
        nats = sum(c.nats[picks[:, i]] for i, c in enumerate(choices)) + fixed
        errors = errors_for(picks) * (n / count)
        return objective(errors, np.asarray(nats), n, delta, tried)

    weight = _sensitivity(problem, part, gains, pairs, choices)
    pick = minimise(choices, value, weight)
    return _refine(problem, counter, choices, pick, look, n, delta, tried)


def _sensitivity(problem, part, gains, pairs, choices) -> list[np.ndarray]:
    """How much each code of each leaf moves the outputs, alone and small."""
    found = []
    with jax.enable_x64(True):
        limits = problem.network.jit(partial(limits_of, problem.network))
        zero = np.zeros(len(problem.network.distances))
        for choice in choices:
            slopes = np.zeros(len(zero))
            for i in np.flatnonzero(choice.distances.max(axis=0, initial=0.0)):
                small = zero.copy()
                small[i] = 1e-6 * choice.distances[0, i] or 1e-6
                mean = np.mean(np.asarray(limits(part.slots, part.y, gains, pairs, small)))
                slopes[i] = mean / small[i]
            found.append(choice.distances @ slopes)
    return found


def minimise(
    choices: Sequence[Choices],
    value: Callable[[np.ndarray], np.ndarray],
    moves: Sequence[np.ndarray],
    *,
    starts: int = 3,
) -> np.ndarray:
    """The pick for every leaf that minimises ``value``, by a search that is not exhaustive.

    Args:
        choices: per leaf.
        value: of many picks ``(candidates, leaves)``.
        moves: per leaf, roughly how much each code moves the outputs; only a start.
        starts: how many starts to improve.
    """
    known: dict[tuple[int, ...], float] = {}

    def evaluate(picks: np.ndarray) -> np.ndarray:
        new = [tuple(p) for p in np.unique(picks, axis=0) if tuple(p) not in known]
        if new:
            known.update(zip(new, value(np.array(new)).tolist(), strict=True))
        return np.array([known[tuple(p)] for p in picks])

    prices = np.geomspace(1e-3, 1e9, 97)
    family = np.array(
        [
            [int(np.argmin(c.nats + p * m)) for c, m in zip(choices, moves, strict=True)]
            for p in prices
        ]
    )
    family = np.unique(family, axis=0)
    order = np.argsort(evaluate(family), kind="stable")
    sizes = [len(choice.codes) for choice in choices]
    found = [_descend(start, sizes, evaluate) for start in family[order[:starts]]]
    return min(found, key=lambda pair: pair[1])[0]


def _descend(
    pick: np.ndarray, sizes: Sequence[int], evaluate: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    best = float(evaluate(pick[None])[0])
    improved = True
    while improved:
        improved = False
        moves = [partial(_line, leaf=leaf, size=size) for leaf, size in enumerate(sizes)]
        for move in [*moves, partial(_exchanges, sizes=sizes)]:
            candidates = move(pick)
            if len(candidates):
                found = evaluate(candidates)
                which = int(np.argmin(found))
                if found[which] < best:
                    best, pick, improved = float(found[which]), candidates[which], True
    return pick, best


def _line(pick: np.ndarray, leaf: int, size: int) -> np.ndarray:
    candidates = np.repeat(pick[None], size, axis=0)
    candidates[:, leaf] = np.arange(size)
    return candidates


def _exchanges(pick: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    found = []
    for up in range(len(sizes)):
        for down in range(len(sizes)):
            for more in (1, 2):
                for less in (1, 2):
                    new = pick.copy()
                    new[up] += more
                    new[down] -= less
                    if up != down and new[down] >= 0 and new[up] < sizes[up]:
                        found.append(new)
    return np.array(found)


def _refine(problem, counter, choices, pick, look, n, delta, tried) -> tuple[LeafCode, ...]:
    """Steps around a pick, with the coded neighbors themselves."""
    known: dict[tuple[int, ...], float] = {}

    def codes(pick) -> tuple[LeafCode, ...]:
        return tuple(c.codes[i] for c, i in zip(choices, pick, strict=True))

    def value(pick: np.ndarray) -> float:
        if tuple(pick) not in known:
            leaves = codes(pick)
            coded, steps = problem.decode(leaves)
            exponents = problem.exponents(coded, steps)
            units = problem.units(steps)
            off = np.array([coded_distance(a, u) for a, u in zip(exponents, units, strict=True)])
            seen = look(coded)
            gains, pairs = counter.norms(coded)
            errors = counter(seen, gains, pairs, off[None]) * (n / len(seen.y))
            length = total([code_length(leaves), distances_length(exponents), one_of(tried)])
            known[tuple(pick)] = float(
                objective(errors, np.array([length.nats() - math.log(tried)]), n, delta, tried)[0]
            )
        return known[tuple(pick)]

    highest = np.array([len(c.codes) - 1 for c in choices])
    best = min(
        (np.clip(pick + move, 0, highest) for move in (0, -2, -1, 1, 2)), key=lambda p: value(p)
    )
    for leaf in range(len(choices)):
        for move in (1, -1):
            while True:
                new = best.copy()
                new[leaf] = np.clip(new[leaf] + move, 0, highest[leaf])
                if tuple(new) == tuple(best) or value(new) >= value(best):
                    break
                best = new
    return codes(best)
