"""Choose the integers of a certificate: all layers jointly, over the exact objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np


@dataclass(frozen=True)
class Choices:
    """The ways to code one leaf that are worth having: none is longer and less exact than another.

    Attributes:
        errors: perturbations they allow, decreasing.
        nats: lengths, increasing.
        codes: the codes, one for each matrix of the leaf.
    """

    errors: np.ndarray
    nats: np.ndarray
    codes: Sequence[Sequence]


def pareto(errors: Sequence[float], nats: Sequence[float], codes: Sequence[Sequence]) -> Choices:
    """The choices that no other one beats in both respects."""
    order = sorted(range(len(errors)), key=lambda i: (nats[i], errors[i]))
    kept, best = [], np.inf
    for i in order:
        if errors[i] < best:
            kept.append(i)
            best = errors[i]
    return Choices(
        np.array([errors[i] for i in kept]),
        np.array([nats[i] for i in kept]),
        [codes[i] for i in kept],
    )


def together(members: Sequence[Choices]) -> Choices:
    """One leaf that is a stack of matrices: each is coded at least as exactly as the leaf says."""
    if len(members) == 1:
        return members[0]
    targets = np.unique(np.concatenate([member.errors for member in members]))
    errors, nats, codes = [], [], []
    for target in targets[targets >= max(member.errors[-1] for member in members)]:
        # Errors decrease along the list, so the first that is small enough is the cheapest.
        chosen = [int(np.argmax(member.errors <= target)) for member in members]
        errors.append(float(target))
        nats.append(sum(float(m.nats[i]) for m, i in zip(members, chosen, strict=True)))
        codes.append(tuple(c for m, i in zip(members, chosen, strict=True) for c in m.codes[i]))
    return pareto(errors, nats, codes)


def minimise(
    choices: Sequence[Choices],
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sensitivity: np.ndarray,
    *,
    starts: int = 3,
) -> np.ndarray:
    """The choice for every leaf that minimises the certificate.

    First along the family that is optimal for an error budget: for a price of error, each leaf
    takes the code of least ``nats + price * sensitivity * error`` by itself. Then, from the best of
    these, coordinate descent over all codes of one leaf, and over exchanges of two leaves.

    Args:
        choices: per leaf.
        value: the certificate for a batch of ``errors`` ``(candidates, leaves)`` and code lengths
            ``(candidates,)``.
        sensitivity: how much each leaf's error moves the outputs, roughly; only a start.
        starts: how many points of the family to improve.

    Returns:
        The index chosen per leaf.
    """
    values: dict[tuple[int, ...], float] = {}

    def evaluate(picks: np.ndarray) -> np.ndarray:
        new = [tuple(p) for p in np.unique(picks, axis=0) if tuple(p) not in values]
        if new:
            errors = np.array([[c.errors[i] for c, i in zip(choices, p, strict=True)] for p in new])
            nats = [sum(c.nats[i] for c, i in zip(choices, p, strict=True)) for p in new]
            values.update(zip(new, value(errors, np.array(nats)).tolist(), strict=True))
        return np.array([values[tuple(p)] for p in picks])

    prices = np.geomspace(1e-3, 1e9, 97)
    family = np.array(
        [
            [
                int(np.argmin(c.nats + p * s * c.errors))
                for c, s in zip(choices, sensitivity, strict=True)
            ]
            for p in prices
        ]
    )
    family = np.unique(family, axis=0)
    order = np.argsort(evaluate(family), kind="stable")
    sizes = [len(choice.nats) for choice in choices]
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
            if up != down:
                for one in (1, 2):
                    for other in (1, 2):
                        new = pick.copy()
                        new[up] += one
                        new[down] -= other
                        if new[down] >= 0 and new[up] < sizes[up]:
                            found.append(new)
    return np.array(found)
