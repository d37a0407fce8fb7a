"""A weight that is held as two factors, on its way through a program to where it is used.

``W[i, j, ...] = sum_r left[..., r, ...] right[..., r, ...]``: an axis of W is a group of *labels*,
and each label is an axis of the left factor, of the right one, of both (the layers of a stack,
experts, the groups of a convolution) or of neither (a broadcast). Moving the axes of W then moves
labels, not numbers, and a product with W is two products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jax import Array, lax

RANK = -1
Labels = tuple[int, ...]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("left", "right"),
    meta_fields=("left_labels", "right_labels", "dims", "sizes", "path"),
)
@dataclass(frozen=True)
class Pair:
    """Two factors in place of an array.

    Attributes:
        left: one axis per label of ``left_labels``; one of them is ``RANK``.
        right: likewise.
        left_labels: names of the axes of ``left``.
        right_labels: names of the axes of ``right``.
        dims: the labels that make up each axis of the array.
        sizes: the length of each label.
        path: of the leaf that it comes from, for messages.
    """

    left: Any
    right: Any
    left_labels: Labels
    right_labels: Labels
    dims: tuple[Labels, ...]
    sizes: tuple[int, ...]
    path: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(math.prod(self.sizes[label] for label in dim) for dim in self.dims)

    @property
    def factors(self) -> tuple[tuple[Any, Labels], tuple[Any, Labels]]:
        """Right and left, each with its labels."""
        return (self.right, self.right_labels), (self.left, self.left_labels)

    def dense(self) -> Array:
        """The array."""
        wanted = [label for dim in self.dims for label in dim]
        held = {*self.left_labels, *self.right_labels}
        labels = [label for label in wanted if label in held]
        product = contract(
            self.left,
            self.left_labels,
            self.right,
            self.right_labels,
            labels,
            precision=lax.Precision.HIGHEST,
        )
        return spread(product, labels, wanted, self.sizes).reshape(self.shape)

    def map(self, function: Any) -> Pair:
        """The same of other factors: ``function(factor, labels)`` keeps the shape."""
        left = function(self.left, self.left_labels)
        return replace(self, left=left, right=function(self.right, self.right_labels))

    def resized(self, label: int, function: Any, size: int) -> Pair:
        """With ``function(factor, axis)`` applied to each factor that has the label."""

        def changed(factor, labels):
            return function(factor, labels.index(label)) if label in labels else factor

        sizes = tuple(size if i == label else n for i, n in enumerate(self.sizes))
        return replace(self.map(changed), sizes=sizes)

    def without(self, label: int, left: Any, right: Any) -> Pair:
        """With factors that lack ``label``."""
        return replace(
            self,
            left=left,
            right=right,
            left_labels=tuple(x for x in self.left_labels if x != label),
            right_labels=tuple(x for x in self.right_labels if x != label),
            dims=tuple(tuple(x for x in dim if x != label) for dim in self.dims),
        )

    def split(self, label: int, inner: int) -> Pair:
        """With ``label`` as two: itself in front, and a new one of length ``inner`` behind it."""
        new, outer = len(self.sizes), self.sizes[label] // inner
        sizes = (*(outer if i == label else n for i, n in enumerate(self.sizes)), inner)

        def two(labels: Labels) -> Labels:
            return tuple(x for old in labels for x in ((old, new) if old == label else (old,)))

        def cut(factor, labels):
            axes = two(labels)
            rank = factor.shape[labels.index(RANK)]
            return factor.reshape([rank if x == RANK else sizes[x] for x in axes])

        changed = self.map(lambda f, labels: cut(f, labels) if label in labels else f)
        return replace(
            changed,
            left_labels=two(self.left_labels),
            right_labels=two(self.right_labels),
            dims=tuple(two(dim) for dim in self.dims),
            sizes=sizes,
        )

    def reshaped(self, shape: Sequence[int]) -> Pair | None:
        """With these axes, or ``None`` where a label would have to be cut between two."""
        if 0 in shape:
            return None
        pair, dims = self, []
        rest = [label for dim in self.dims for label in dim]
        for size in shape:
            group: list[int] = []
            while (have := math.prod(pair.sizes[x] for x in group)) < size:
                label = rest.pop(0)
                length, missing = pair.sizes[label], size // have
                if length > missing:
                    if size % have or length % missing:
                        return None
                    pair = pair.split(label, length // missing)
                    rest.insert(0, len(pair.sizes) - 1)
                group.append(label)
            if have != size:
                return None
            dims.append(group)
        if dims:
            dims[-1] += rest  # of length 1
        elif rest:
            return None
        return replace(pair, dims=tuple(map(tuple, dims)))


@partial(jax.tree_util.register_dataclass, data_fields=("parts",), meta_fields=("axis",))
@dataclass(frozen=True)
class Joined:
    """Arrays side by side along an axis, at least one of them as two factors."""

    parts: tuple[Any, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)

    @property
    def path(self) -> str:
        """Of the leaves that it comes from."""
        return "', '".join(part.path for part in self.parts if isinstance(part, Pair))

    def dense(self) -> Array:
        """The array."""
        return lax.concatenate([dense(part) for part in self.parts], self.axis)


def is_factored(value: Any) -> bool:
    """Whether this stands for an array without being one."""
    return isinstance(value, Pair | Joined)


def dense(value: Any) -> Any:
    """The array itself."""
    return value.dense() if is_factored(value) else value


def contract(
    a: Array, a_labels: Sequence[int], b: Array, b_labels: Sequence[int], out: Sequence[int], **how
) -> Array:
    """The sum of products over all labels that are not in ``out``, with the axes ``out``."""
    alone = [i for i, x in enumerate(a_labels) if x not in out and x not in b_labels]
    if alone:
        a = lax.reduce_sum(a, alone)
        a_labels = [x for i, x in enumerate(a_labels) if i not in alone]
    batch = [x for x in a_labels if x in b_labels and x in out]
    summed = [x for x in a_labels if x in b_labels and x not in out]

    def axes(labels):
        return tuple(map(labels.index, summed)), tuple(map(labels.index, batch))

    (a_summed, a_batch), (b_summed, b_batch) = axes(list(a_labels)), axes(list(b_labels))
    product = lax.dot_general(a, b, ((a_summed, b_summed), (a_batch, b_batch)), **how)
    got = [
        *batch,
        *(x for x in a_labels if x not in batch and x not in summed),
        *(x for x in b_labels if x not in batch and x not in summed),
    ]
    return lax.transpose(product, [got.index(x) for x in out])


def apply_pair(
    x: Array,
    x_labels: Sequence[int],
    pair: Pair,
    out: Sequence[int],
    sizes: dict[int, int],
    *,
    precision: Any,
    preferred: Any,
) -> Array:
    """The product of ``x`` and both factors, one after the other, with the axes ``out``.

    The order is the one of fewer multiplications: a weight that is transposed, as a tied table
    is, meets its left factor first.
    """
    sizes = {**sizes, RANK: pair.right.shape[pair.right_labels.index(RANK)]}

    def cost(first: Labels, second: Labels) -> int:
        middle = _kept(x_labels, first, second, out)
        return sum(
            math.prod(sizes[label] for label in {*a, *b})
            for a, b in ((x_labels, first), (middle, second))
        )

    right, left = pair.factors
    backwards = cost(left[1], right[1]) < cost(right[1], left[1])
    (first, first_labels), (second, second_labels) = (left, right) if backwards else (right, left)
    middle = _kept(x_labels, first_labels, second_labels, out)
    held = {*middle, *second_labels}
    labels = [label for label in out if label in held]
    how = {"precision": precision, "preferred_element_type": preferred}
    hidden = contract(x, x_labels, first, first_labels, middle, **how).astype(second.dtype)
    product = contract(hidden, middle, second, second_labels, labels, **how)
    return spread(product, labels, out, sizes)


def spread(
    a: Array, labels: Sequence[int], wanted: Sequence[int], sizes: Sequence[int] | dict[int, int]
) -> Array:
    """``a`` with the axes ``wanted``, constant along those that it lacks."""
    if len(labels) == len(wanted):
        return a
    kept = [wanted.index(label) for label in labels]
    return lax.broadcast_in_dim(a, [sizes[label] for label in wanted], kept)


def _kept(x_labels: Sequence[int], first: Labels, second: Labels, out: Sequence[int]) -> list[int]:
    found = [*x_labels, *(label for label in first if label not in x_labels)]
    return [label for label in found if label in second or label in out]
