"""Examples that count as errors: those on which a network near the coded one could be wrong."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.certificates.theorem._distances import matrix_of, operator_norm, row_differences
from rankjax.certificates.theorem._network import Network, Observed
from rankjax.certificates.theorem._values import ROOM


class Counter:
    """Counts for given distances; one compilation per network and shape."""

    def __init__(self, network: Network):
        self._network = network
        self._counts = network.jit(self._count_all)

    def norms(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a coded network: the operator norms, and ``|a_j - a_k|`` of the last layer's rows."""
        gains = np.array([operator_norm(gain, weights) for gain in self._network.gains])
        head = self._network.head
        pairs = row_differences(matrix_of(head.rows, weights)) if head else np.zeros((0, 0))
        return gains, pairs

    def __call__(
        self, observed: Observed, gains: np.ndarray, pairs: np.ndarray, distances: np.ndarray
    ) -> np.ndarray:
        """``(candidates, distances)`` -> how many examples count as errors."""
        with jax.enable_x64(True):
            return np.asarray(
                self._counts(
                    observed.gaps, observed.slots, observed.y, gains, pairs, jnp.asarray(distances)
                )
            )

    def _count_all(self, gaps, slots, y, gains, pairs, distances) -> Array:
        def count(distances):
            limits = limits_of(self._network, slots, y, gains, pairs, distances)
            # NaN is never an example that is certain to be right.
            return jnp.sum(jnp.any(~(gaps > limits), axis=1))

        return jax.lax.map(count, distances)


def limits_of(
    network: Network, slots: Any, y: Any, gains: Any, pairs: Any, distances: Any
) -> Array:
    """``(n, classes)``: the largest ``(f~_y - f~_j) - (f_y - f_j)``, or one for all classes.

    With rows ``a_j`` of the last layer, applied to h::

        (a_y - a_j) h - (a~_y - a~_j) h~ = (a_y - a_j)(h - h~) + ((a_y - a_j) - (a~_y - a~_j)) h~

    at most ``(|a~_y - a~_j| + d) E + d |h~|``, d the coded difference of rows, plus the ranges of
    the biases. Without such a layer: ``sqrt(2) E``. Infinite where the recursion has no bound.
    """
    bounds = network.recursion.perturbations(slots, distances, gains)
    room = ROOM + 1e-15 * len(network.recursion.nodes)  # the rounding of these very lines
    moved = jnp.broadcast_to(jnp.asarray(bounds[network.output], pairs.dtype), (len(y),))
    head = network.head
    if head is None:
        limits = (math.sqrt(2) * room * moved)[:, None]
    else:
        rows = distances[head.distance]
        first = (pairs[y] + rows) * moved[:, None]
        ranges = sum((distances[i] for i in head.ranges), 0.0)
        limits = (first + (rows * slots[head.slot])[:, None] + ranges) * room
    return jnp.where(jnp.isnan(limits), jnp.inf, limits)  # 0 times infinity bounds nothing
