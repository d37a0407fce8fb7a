"""How many examples until a bound is small."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rankjax.bounds._result import BoundResult

_LARGEST = 1e18


def sample_complexity(bound: Callable[[float], Any], epsilon: float) -> float:
    """The smallest number of examples from which on ``bound(n) <= epsilon``.

    Args:
        bound: a function of n that falls with n and returns a ``BoundResult`` or a number, such as
            ``lambda n: spectral(measured, Sample.of_size(n, radius=1.0), gamma=0.1)``.
        epsilon: the value to reach, > 0.

    Returns:
        n, found by bisection to a relative error of 1e-12 (a float; round it up); infinite where
        even 1e18 examples do not suffice.

    Raises:
        ValueError: ``epsilon <= 0``, or a ``BoundResult`` instead of a function of n.

    Every dominant term falls like ``1 / sqrt(n)`` while B and gamma stay as they are, so there it
    is ``n (value / epsilon)^2``; the explicit forms have logarithms of n, hence the function.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.bounds import rank_sparse
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(8)}
        >>> measured = measure(describe(params), params)
        >>> bound = lambda n: rank_sparse(measured, Sample.of_size(n), p=0.0, gamma=1.0)
        >>> round(sample_complexity(bound, 0.1))  # r (m + n) / epsilon^2 = 8 * 16 * 100
        12800
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon: got {epsilon}, must be positive")
    if isinstance(bound, BoundResult) or not callable(bound):
        raise ValueError(
            f"bound: got {type(bound).__name__}, must be a function of n; a value at one n does "
            "not tell how the bound falls"
        )

    def small(n: float) -> bool:
        result = bound(n)
        value = float(result.value if isinstance(result, BoundResult) else result)
        if math.isnan(value):
            raise ValueError(f"bound: is NaN at n = {n:g}")
        return value <= epsilon

    low, high = 2.0, 4.0
    if small(low):
        return low
    while not small(high):
        low, high = high, high * 4
        if high > _LARGEST:
            return math.inf
    while high - low > 1e-12 * high:
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (low, middle) if small(middle) else (middle, high)
    return high
