"""How a parameter leaf is seen as a matrix ``(..., out, in)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class View:
    """Which axes of a leaf are outputs, inputs, and batch.

    Attributes:
        out: axes that together make the rows (output units).
        in_: axes that together make the columns (input units, or a patch of a convolution).
        stacked: batch axes whose members are layers one after another (scanned layers).
        parallel: batch axes whose members work side by side (groups, experts).
    """

    out: tuple[int, ...]
    in_: tuple[int, ...]
    stacked: tuple[int, ...] = ()
    parallel: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """The leaf's axes in the order ``(stacked, parallel, out, in)``."""
        return (*self.stacked, *self.parallel, *self.out, *self.in_)

    def matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """``(out, in)`` for a leaf of this shape."""
        return (math.prod(shape[i] for i in self.out), math.prod(shape[i] for i in self.in_))

    def batch_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """``(stacked, parallel)``: how many matrices follow each other, and stand side by side."""
        return (
            math.prod(shape[i] for i in self.stacked),
            math.prod(shape[i] for i in self.parallel),
        )

    def to_matrix(self, leaf: Array) -> Array:
        """The leaf as ``(stacked, parallel, out, in)``."""
        shape = self.batch_shape(leaf.shape) + self.matrix_shape(leaf.shape)
        return jnp.transpose(leaf, self.order).reshape(shape)

    def from_matrix(self, matrix: Array, shape: Sequence[int]) -> Array:
        """Undo ``to_matrix`` for a leaf of this shape."""
        inverse = sorted(range(len(shape)), key=self.order.__getitem__)
        return jnp.transpose(matrix.reshape([shape[i] for i in self.order]), inverse)

    def validate(self, path: str, shape: Sequence[int]) -> None:
        """Raise a ``ValueError`` unless every axis of the leaf has exactly one role."""
        if sorted(self.order) != list(range(len(shape))) or not self.out or not self.in_:
            raise ValueError(
                f"axes for {path!r}: got {self}, but each of the {len(shape)} axes of shape "
                f"{tuple(shape)} must appear exactly once (as a number from 0 to "
                f"{len(shape) - 1}), with at least one output and one input axis"
            )
