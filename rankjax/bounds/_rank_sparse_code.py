"""What the two rank-sparse bounds with every constant share: codes of integers, sizes of layers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.bounds._facts import Facts, log

SOURCE = "derived for this library after Ledent, Alves, Lei, NeurIPS 2025 (theory page)"
#: Shares of a layer's error that the small singular values get; the large ones have the rest.
SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)
PER_OCTAVE = 8  # grid points of what is coded as a power of two
STEP = math.log(2) / PER_OCTAVE
ROOM = 1e-3  # of a grid point, and
SLACK = 1e-4  # of a logarithm: they cover the rounding of logarithms in float32


class Layers:
    """Sizes of the layers, ``(layers,)`` each."""

    def __init__(self, facts: Facts):
        static = facts.measured.static
        rows, columns = (static(lambda layer, i=i: layer.matrix_shape[i]) for i in (0, 1))
        blocks = static(lambda layer: layer.parallel)
        gather = static(lambda layer: layer.gather_norm)
        self.facts, self.measured = facts, facts.measured
        self.rows, self.sides = facts.number(rows), facts.number(rows + columns)
        self.entries = facts.number(blocks * rows * columns)
        self.most = facts.number(blocks * np.minimum(rows, columns))
        self.of_ranks = facts.number(blocks * np.log(np.minimum(rows, columns) + 1))
        self.log_gather = jnp.log(facts.number(gather))
        # Any upper bound of the norm will do: one that is not 0 keeps the quotients finite.
        self.log_norm = jnp.maximum(log(self.measured.operator_norm), -60.0)
        tops = tuple(jnp.max(s, -1, initial=0) for s in self.measured.sigma_moved)
        self.log_size = jnp.maximum(log(self.measured.per_layer(tops, jnp.max)), -120.0)


def exactly(value: Array, smooth: Array) -> Array:
    """``value`` with the derivative of ``smooth``."""
    finite = jnp.where(jnp.isfinite(smooth), smooth, 0)
    return value + (finite - jax.lax.stop_gradient(finite))


def integer(value: Array) -> Array:
    """The next integer, with the derivative of what was rounded up."""
    return exactly(jnp.ceil(value + ROOM), value)


def of_integer(value: Array) -> Array:
    """Nats of an integer: weights ``2 / (3 (|j| + 1) (|j| + 2))`` sum to 1 over all."""
    size = jnp.abs(value)
    return jnp.log(1.5 * (size + 1) * (size + 2))


def of_natural(value: Array) -> Array:
    """Nats of a natural number: weights ``1 / ((j + 1) (j + 2))`` sum to 1."""
    return jnp.log((value + 1) * (value + 2))
