"""Where a value of the forward function comes from: parameters, the data, or neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rankjax.network._expressions import Expression, Loop, all_steps
from rankjax.network._links import SAME, cuts_off, is_fine, shape_of

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn


@dataclass(frozen=True)
class Member:
    """Which member of an axis of a weight is used.

    Attributes:
        axis: the axis.
        loop: the loop whose step decides; ``None``: always the same member.
        index: the member at each step; ``None``: not known.
    """

    axis: int
    index: tuple[int, ...] | None
    loop: Loop | None = None


@dataclass(frozen=True, eq=False)
class Weight:
    """A value that does not depend on the data: parameters, numbers, or computed from them.

    It is ``expression``. As far as its entries were only moved since, it is also a view of
    ``source``, an array of shape ``shape``.

    Attributes:
        axes: for each dimension, the axes of the source in it. Numbers from ``len(shape)`` on are
            not axes: along them the same matrix is repeated, or one is looked up for each place.
        tokens: sizes of these.
        members: axes of which one member was taken.
        chosen: axes of which the data choose a member.
    """

    expression: Expression
    source: Expression
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()
    chosen: tuple[int, ...] = ()

    @classmethod
    def fresh(cls, expression: Expression, shape: Sequence[int]) -> Weight:
        """A value that is its own source; the steps of the loops that it is in become a stack."""
        loops = expression.loops
        source = all_steps(expression) if loops else expression
        stack = tuple(loop.length for loop in loops)
        axes = tuple((d + len(loops),) for d in range(len(shape)))
        members = tuple(Member(k, tuple(range(p.length)), p) for k, p in enumerate(loops))
        return cls(expression, source, (*stack, *shape), axes, members=members)

    @property
    def learned(self) -> bool:
        """Whether it depends on parameters."""
        return bool(self.expression.leaves)

    def size(self, axis: int) -> int:
        """Size of an axis of the source, or of what is no axis of it."""
        rank = len(self.shape)
        return self.shape[axis] if axis < rank else self.tokens[axis - rank]

    def real(self, dims: Sequence[int]) -> tuple[int, ...]:
        """The axes of the source in these dimensions."""
        return tuple(a for d in dims for a in self.axes[d] if a < len(self.shape))

    def repeated(self, dims: Sequence[int]) -> bool:
        """Whether one of these dimensions is no axis of the source."""
        return any(a >= len(self.shape) and self.size(a) > 1 for d in dims for a in self.axes[d])


@dataclass(frozen=True)
class Data:
    """A value that depends on the data.

    Attributes:
        node: what made it, while no parameter has entered; later ``None``.
        depth: how many loops that equation is in.
        last: numbers of the uses of weights that it comes from, without another in between.
        factor: Lipschitz constant of what happened to it since; NaN if not known.
        bent: whether something before was not positively homogeneous.
        problems: why it is not what a chain of layers computes.
    """

    node: Any = None
    depth: int = 0
    last: frozenset[int] = frozenset()
    factor: float = 1.0
    bent: bool = False
    problems: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        """NaN equals NaN here: a loop is followed until nothing changes."""
        return isinstance(other, Data) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        factor = None if math.isnan(self.factor) else self.factor
        return (self.node, self.depth, self.last, factor, self.bent, self.problems)


Tag = Weight | Data


def joined(values: Sequence[Data]) -> Data:
    """What is true of any of these values."""
    first, *rest = values
    for other in rest:
        same = first.node == other.node
        first = Data(
            first.node if same else None,
            first.depth,
            first.last | other.last,
            math.nan
            if math.isnan(first.factor + other.factor)
            else max(first.factor, other.factor),
            first.bent or other.bent,
            first.problems | other.problems,
        )
    return first


def move(tag: Weight, eqn: JaxprEqn, tags: Sequence[Tag]) -> Weight | None:
    """The tag after an equation that only moves the entries of a weight, else ``None``.

    Its ``expression`` is left to the caller.
    """
    name = eqn.primitive.name
    before, shape = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if name in SAME:
        # What was cut off is a matrix again where it is made floating point numbers.
        aval: Any = eqn.invars[0].aval
        was_cut = not is_fine(aval.dtype) and tag.source.name != "leaf"
        return None if was_cut or cuts_off(eqn) else tag
    if name == "transpose":
        return replace(tag, axes=tuple(tag.axes[i] for i in eqn.params["permutation"]))
    if name in {"reshape", "squeeze", "expand_dims"}:
        return _regroup(tag, shape)
    if name == "broadcast_in_dim":
        return _repeat(tag, before, shape, eqn.params["broadcast_dimensions"])
    if name in {"slice", "dynamic_slice"}:
        # W[i] of a stack: one member of an axis is taken, every other axis whole.
        cut = [d for d, (a, b) in enumerate(zip(before, shape, strict=True)) if a != b]
        if len(cut) != 1 or shape[cut[0]] != 1 or len(tag.axes[cut[0]]) != 1:
            return None
        d = cut[0]
        axes = tuple(() if e == d else group for e, group in enumerate(tag.axes))
        taken = tag.axes[d][0]
        if taken >= len(tag.shape):
            return replace(tag, axes=axes)
        if name == "slice":
            index = int(eqn.params["start_indices"][d])
            return replace(tag, axes=axes, members=(*tag.members, Member(taken, (index,))))
        start = tags[1 + d]
        if isinstance(start, Data):
            return replace(tag, axes=axes, chosen=(*tag.chosen, taken))
        member = _member_at(taken, start.expression, before[d])
        return replace(tag, axes=axes, members=(*tag.members, member))
    if name == "gather" and len(tags) > 1 and isinstance(tags[1], Data):
        return _looked_up(tag, eqn, before, shape)
    return None


def _member_at(axis: int, start: Expression, size: int) -> Member:
    """The member that an expression of the step of at most one loop takes."""
    if len(start.loops) > 1:
        return Member(axis, None)
    loop = start.loops[0] if start.loops else None
    steps = [{loop: i} for i in range(loop.length)] if loop else [{}]
    values = [start.number(at) for at in steps]
    if any(v is None for v in values):
        return Member(axis, None)
    index = tuple(int(np.clip(v, 0, size - 1)) for v in values if v is not None)
    return Member(axis, index, loop)


def _looked_up(tag: Weight, eqn: JaxprEqn, before: Any, shape: Any) -> Weight | None:
    """``W[i]`` for data i: of one axis a member is chosen at each place, the others are whole."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims:
        return None
    cut = [d for d, (a, b) in enumerate(zip(before, sizes, strict=True)) if a != b]
    if len(cut) != 1 or sizes[cut[0]] != 1 or len(tag.axes[cut[0]]) != 1:
        return None
    kept = [d for d in range(len(before)) if d not in numbers.collapsed_slice_dims]
    tokens = list(tag.tokens)
    axes: list[tuple[int, ...]] = []
    for d, size in enumerate(shape):
        if d in numbers.offset_dims:
            source = kept[numbers.offset_dims.index(d)]
            axes.append(() if source == cut[0] else tag.axes[source])
        else:
            axes.append((len(tag.shape) + len(tokens),))
            tokens.append(size)
    chosen = tag.axes[cut[0]][0]
    if chosen >= len(tag.shape):
        return None
    return replace(tag, axes=tuple(axes), tokens=tuple(tokens), chosen=(*tag.chosen, chosen))


def _repeat(tag: Weight, before: Any, shape: Any, dims: Sequence[int]) -> Weight | None:
    tokens = list(tag.tokens)
    axes: list[tuple[int, ...]] = [()] * len(shape)
    for d, target in enumerate(dims):
        if before[d] == shape[target]:
            axes[target] = tag.axes[d]
        elif any(tag.size(a) > 1 for a in tag.axes[d]):
            return None
    spare = [a for d, target in enumerate(dims) if before[d] != shape[target] for a in tag.axes[d]]
    for d, size in enumerate(shape):
        if math.prod(tag.size(a) for a in axes[d]) != size:
            axes[d] = (len(tag.shape) + len(tokens),)
            tokens.append(size)
    if spare:  # an axis of size 1 that was stretched: keep it somewhere
        axes[-1] = (*spare, *axes[-1])
    return replace(tag, axes=tuple(axes), tokens=tuple(tokens))


def _regroup(tag: Weight, shape: Sequence[int]) -> Weight | None:
    """Follow a reshape that merges neighboring axes or adds and drops axes of size 1."""
    rest = [a for group in tag.axes for a in group if tag.size(a) != 1]
    units = [a for group in tag.axes for a in group if tag.size(a) == 1]
    axes: list[tuple[int, ...]] = []
    for size in shape:
        group: list[int] = []
        while math.prod(tag.size(a) for a in group) < size and rest:
            group.append(rest.pop(0))
        if math.prod(tag.size(a) for a in group) != size:
            return None
        axes.append(tuple(group))
    if rest:
        return None
    # Axes of size 1 belong anywhere; keep them with the first dimension of size 1, else the last.
    if units and axes:
        home = next((d for d, size in enumerate(shape) if size == 1), len(axes) - 1)
        axes[home] = (*units, *axes[home])
    return replace(tag, axes=tuple(axes))
