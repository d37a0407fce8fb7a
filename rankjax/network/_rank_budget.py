"""Ranks shared out over matrices under one budget of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jax import Array


def ranks_within(
    budget: float, gains: Sequence[np.ndarray], cost: Callable[[list[int]], int], parameters: int
) -> list[int]:
    """The ranks that keep most per parameter.

    Args:
        budget: share of ``parameters`` that may remain, in (0, 1].
        gains: of each leaf, what each further rank keeps per parameter, descending.
        cost: parameters of all leaves at given ranks.
        parameters: of all leaves as they are.

    Returns:
        One rank per leaf, at least 1: rank 0 would cut the network in two.

    Raises:
        ValueError: if rank 1 everywhere is above the budget.
    """
    if not isinstance(budget, (int, float, np.number, np.ndarray, Array)) or not 0 < budget <= 1:
        raise ValueError(f"budget: got {budget!r}, must be in (0, 1]")

    def ranks(least: float) -> list[int]:
        return [max(1, int(np.sum(of_leaf >= least))) for of_leaf in gains]

    allowed, smallest = math.floor(budget * parameters), cost(ranks(math.inf))
    if smallest > allowed:
        raise ValueError(
            f"budget: got {budget!r}, rank 1 everywhere needs {smallest / parameters:.3g} already"
        )
    every = [of_leaf[of_leaf > 0] for of_leaf in gains]
    steps = np.unique(np.concatenate([*every, np.zeros(0)]))[::-1]
    low, high = 0, len(steps)  # the first `low` steps fit
    while low < high:
        middle = (low + high + 1) // 2
        if cost(ranks(float(steps[middle - 1]))) <= allowed:
            low = middle
        else:
            high = middle - 1
    return ranks(float(steps[low - 1]) if low else math.inf)
