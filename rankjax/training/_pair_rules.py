"""What each primitive does to a weight that is held as two factors.

A rule takes an equation, its operands and the shapes of its results, and returns the results;
``None``: not in this case, which is as if there were no rule. Every rule is exact, but
for the rounding of a cast, which casts the factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from rankjax.network.internal import is_fine
from rankjax.training._pair import (
    RANK,
    Joined,
    Pair,
    apply_pair,
    contract,
    is_factored,
)

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn

Shape = tuple[int, ...]
Rule = Callable[[Any, list[Any], list[Shape]], list[Any] | None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for primitives of these names."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


# Products.


@rule("dot_general")
def _dot_general(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    if all(map(is_factored, values)) or eqn.params.get("out_sharding") is not None:
        return None
    side = 0 if is_factored(values[0]) else 1
    if isinstance(values[side], Joined):
        return _dot_of_joined(eqn, values, shapes, side)
    pair, x = values[side], values[1 - side]
    contracting, batch = eqn.params["dimension_numbers"]
    # The axes of x that meet one of the weight take its labels, the others get new ones.
    fresh = len(pair.sizes)
    meets = dict(zip(contracting[1 - side], contracting[side], strict=True))
    meets |= dict(zip(batch[1 - side], batch[side], strict=True))
    x_dims = [pair.dims[meets[d]] if d in meets else (fresh + d,) for d in range(x.ndim)]
    sizes = dict(enumerate(pair.sizes)) | {fresh + d: n for d, n in enumerate(x.shape)}
    x_labels = [label for dim in x_dims for label in dim]
    taken = {*contracting[side], *batch[side]}
    free = [d for d in range(len(pair.dims)) if d not in taken]
    outs = [pair.dims[d] for d in batch[side]]
    parts = [pair.dims[d] for d in free], [x_dims[d] for d in range(x.ndim) if d not in meets]
    outs += [*parts[side], *parts[1 - side]]
    precision = eqn.params.get("precision")
    if isinstance(precision, tuple) and side == 0:
        precision = precision[::-1]  # x comes first in both products
    result = apply_pair(
        x.reshape([sizes[label] for label in x_labels]),
        x_labels,
        pair,
        [label for dim in outs for label in dim],
        sizes,
        precision=precision,
        preferred=eqn.params.get("preferred_element_type"),
    )
    return [result.reshape(shapes[0])]


def _dot_of_joined(eqn: JaxprEqn, values: list[Any], shapes: list[Shape], side: int):
    """Part by part: side by side, or added up where the axis that joins them is summed over."""
    joined = values[side]
    contracting, batch = eqn.params["dimension_numbers"]
    pairs = [*zip(contracting[side], contracting[1 - side], strict=True)]
    summed, batched = dict(pairs), joined.axis in batch[side]
    if batched:
        return None
    axis = None if joined.axis in summed else _axis_of_result(eqn, values, side)
    results, start = [], 0
    for part in joined.parts:
        size = part.shape[joined.axis]
        operands, shape = list(values), list(shapes[0])
        operands[side] = part
        if axis is None:
            x, along = values[1 - side], summed[joined.axis]
            operands[1 - side] = lax.slice_in_dim(x, start, start + size, axis=along)
        else:
            shape[axis] = size
        start += size
        if is_factored(part):
            results += _dot_general(eqn, operands, [tuple(shape)]) or []
        else:
            results.append(eqn.primitive.bind(*operands, **eqn.params))
    return [sum(results[1:], results[0]) if axis is None else lax.concatenate(results, axis)]


def _axis_of_result(eqn: JaxprEqn, values: list[Any], side: int) -> int:
    (contracting, batch), axis = eqn.params["dimension_numbers"], values[side].axis
    taken = {*contracting[side], *batch[side]}
    before = sum(d not in taken for d in range(axis)) + len(batch[side])
    if side == 1:
        before += values[0].ndim - len(contracting[0]) - len(batch[0])
    return before


@rule("ragged_dot_general")
def _ragged_dot(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracting, batch) = numbers.dot_dimension_numbers
    pair = values[1]
    plain = (
        isinstance(pair, Pair)
        and not any(map(is_factored, (values[0], *values[2:])))
        and (tuple(map(tuple, contracting)), tuple(map(tuple, batch))) == (((1,), (1,)), ((), ()))
        and tuple(numbers.lhs_ragged_dimensions) == (0,)
        and tuple(numbers.rhs_group_dimensions) == (0,)
        and eqn.params.get("group_offset") is None
        and eqn.params.get("out_sharding") is None
    )
    if not plain or any(len(dim) != 1 for dim in pair.dims):
        return None
    (group,), (in_,), (out,) = pair.dims
    found = _roles(pair, {in_}, {out}, {group})
    if found is None:
        return None
    (first, first_labels), (second, second_labels) = found
    how = {k: eqn.params[k] for k in ("precision", "preferred_element_type")}
    first = _arranged(first, first_labels, (group, in_, RANK))
    second = _arranged(second, second_labels, (group, RANK, out))
    hidden = lax.ragged_dot(values[0], first, values[2], **how).astype(second.dtype)
    return [lax.ragged_dot(hidden, second, values[2], **how)]


@rule("conv_general_dilated")
def _convolution(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    """A convolution into the rank, and a 1 x 1 convolution, which is a product."""
    x, pair = values
    if is_factored(x) or not isinstance(pair, Pair) or eqn.params["batch_group_count"] != 1:
        return None
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    spec = numbers.rhs_spec
    if len(pair.dims[spec[0]]) == 1 and groups > 1:
        pair = pair.split(pair.dims[spec[0]][0], pair.sizes[pair.dims[spec[0]][0]] // groups)
    out = pair.dims[spec[0]]
    group, last = (out[0], out[1:]) if groups > 1 else (None, out)
    window = [label for axis in spec[1:] for label in pair.dims[axis]]
    if group is not None and pair.sizes[group] != groups:
        return None
    found = _roles(pair, set(window), set(last), set() if group is None else {group}, loose=True)
    if found is None:
        return None
    (first, first_labels), (second, second_labels) = found
    rank = first.shape[first_labels.index(RANK)]
    if group is not None and group not in first_labels:  # one kernel for all groups
        first = lax.broadcast(first, [groups])
        first_labels = (group, *first_labels)
    channels = [RANK] if group is None else [group, RANK]
    first = _arranged(first, first_labels, (*channels, *window))
    sizes = [rank * (1 if group is None else groups), *(pair.shape[axis] for axis in spec[1:])]
    # Now with the axes (out, in, window); the convolution wants them as the kernel had them.
    back = [spec.index(axis) for axis in range(len(spec))]
    first = lax.transpose(first.reshape(sizes), back)
    hidden = eqn.primitive.bind(x, first, **eqn.params).astype(second.dtype)
    position, fresh = numbers.out_spec[1], len(pair.sizes)
    places = [fresh + d for d in range(hidden.ndim) if d != position]

    def around(middle):
        return [*places[:position], *middle, *places[position:]]

    shape = list(hidden.shape)
    shape[position : position + 1] = [rank] if group is None else [groups, rank]
    outer = list(last) if group is None else [group, *last]
    result = contract(
        hidden.reshape(shape),
        around(channels),
        second,
        second_labels,
        around(outer),
        precision=eqn.params["precision"],
        preferred_element_type=eqn.params["preferred_element_type"],
    )
    return [result.reshape(shapes[0])]


def _roles(pair: Pair, first: set[int], second: set[int], both: set[int], *, loose: bool = False):
    """The factors as (the one with labels ``first``, the one with ``second``), each with labels.

    ``None`` if they are not split up like that; ``loose``: the first may lack those in ``both``.
    """
    for one, other in (pair.factors, pair.factors[::-1]):
        exact = set(one[1]) - {RANK} == first | both
        exact |= loose and set(one[1]) - {RANK} == first
        if exact and set(other[1]) - {RANK} == second | both:
            return one, other
    return None


def _arranged(factor: Any, labels: Sequence[int], wanted: Sequence[int]) -> Any:
    return lax.transpose(factor, [labels.index(label) for label in wanted])


# Lookups and parts.


@rule("gather")
def _gather(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    """Rows of a table: of the factor that has them, and a product with the other one."""
    pair, indices = values
    numbers, fill = eqn.params["dimension_numbers"], eqn.params["fill_value"]
    if not isinstance(pair, Pair) or is_factored(indices) or numbers.operand_batching_dims:
        return None
    lengths, filled = (
        eqn.params["slice_sizes"],
        eqn.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP,
    )
    whole = {d for d, n in enumerate(pair.shape) if lengths[d] == n}
    columns = [i for i, d in enumerate(numbers.start_index_map) if d not in whole]
    cut = [numbers.start_index_map[i] for i in columns]
    plain = (
        set(numbers.collapsed_slice_dims) <= set(cut)
        and whole | set(cut) == set(range(len(lengths)))
        and all(len(pair.dims[d]) == 1 and lengths[d] == 1 for d in cut)
        # The place of a whole axis is 0; only where it would be refused does it matter.
        and (len(cut) == len(numbers.start_index_map) or not filled)
        and (fill is None or fill == 0 or math.isnan(fill))
    )
    if not plain or not cut:
        return None
    labels = [pair.dims[d][0] for d in cut]
    fresh, batch = len(pair.sizes), indices.ndim - 1
    new = tuple(range(fresh, fresh + batch))

    def taken(factor, old):
        mine = [(i, label) for i, label in zip(columns, labels, strict=True) if label in old]
        if not mine:
            return factor, old
        axes = tuple(old.index(label) for _, label in mine)
        all_of_them = len(mine) == indices.shape[-1]
        rest = tuple(label for label in old if label not in labels)
        got = lax.gather(
            factor,
            indices if all_of_them else indices[..., np.array([i for i, _ in mine])],
            lax.GatherDimensionNumbers(
                offset_dims=tuple(range(batch, batch + len(rest))),
                collapsed_slice_dims=tuple(sorted(axes)),
                start_index_map=axes,
            ),
            [1 if i in axes else n for i, n in enumerate(factor.shape)],
            unique_indices=eqn.params["unique_indices"] and all_of_them,
            indices_are_sorted=eqn.params["indices_are_sorted"] and all_of_them,
            mode=eqn.params["mode"],
            fill_value=fill,
        )
        return got, (*new, *rest)

    (right, right_labels), (left, left_labels) = (taken(*f) for f in pair.factors)
    ahead, dims = list(new), []
    collapsed = numbers.collapsed_slice_dims
    behind = [() if d in cut else dim for d, dim in enumerate(pair.dims) if d not in collapsed]
    for d in range(len(shapes[0])):
        dims.append(behind.pop(0) if d in numbers.offset_dims else (ahead.pop(0),))
    result = replace(
        pair,
        left=left,
        right=right,
        left_labels=left_labels,
        right_labels=right_labels,
        dims=tuple(dims),
        sizes=(*pair.sizes, *indices.shape[:-1]),
    )
    # Chosen experts are still weights; rows of a table are data.
    chosen = all(set(labels) <= set(old) for _, old in pair.factors)
    return [result if chosen else result.dense()]


@rule("slice")
def _slice(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    strides = eqn.params["strides"] or [1] * len(shapes[0])
    cuts = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)

    def part(pair, axis, cut):
        return lambda factor, i: lax.slice_in_dim(factor, *cut, axis=i)

    return _cut(values[0], list(cuts), shapes[0], part)


@rule("dynamic_slice")
def _dynamic_slice(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    def part(pair, axis, start):
        size = shapes[0][axis]
        return lambda factor, i: lax.dynamic_slice_in_dim(factor, start, size, axis=i)

    return _cut(values[0], values[1:], shapes[0], part)


@rule("rev")
def _rev(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    pair = values[0]
    for axis in eqn.params["dimensions"] if isinstance(pair, Pair) else ():
        if len(pair.dims[axis]) > 1:
            return None
        for label in pair.dims[axis]:
            pair = pair.resized(label, lambda f, i: lax.rev(f, [i]), pair.sizes[label])
    return [pair] if isinstance(pair, Pair) else None


@rule("split")
def _split(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    pair, axis = values[0], eqn.params["axis"]
    if not isinstance(pair, Pair) or len(pair.dims[axis]) != 1:
        return None
    results, start = [], 0
    for size in map(int, eqn.params["sizes"]):
        cut = (start, start + size)
        results.append(
            pair.resized(
                pair.dims[axis][0],
                lambda f, i, cut=cut: lax.slice_in_dim(f, *cut, axis=i),
                size,
            )
        )
        start += size
    return results


def _cut(pair: Any, cuts: Sequence[Any], shape: Shape, part: Any) -> list[Any] | None:
    if not isinstance(pair, Pair):
        return None
    for axis, (cut, size) in enumerate(zip(cuts, shape, strict=True)):
        if size == pair.shape[axis]:
            continue
        if len(pair.dims[axis]) != 1:
            return None
        pair = pair.resized(pair.dims[axis][0], part(pair, axis, cut), size)
    return [pair]


@rule("concatenate")
def _concatenate(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    if any(isinstance(value, Joined) for value in values):
        return None
    return [Joined(tuple(values), eqn.params["dimension"])]


# Axes.


@rule("transpose")
def _transpose(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    value, order = values[0], tuple(eqn.params["permutation"])
    if isinstance(value, Joined):
        parts = [
            _transpose(eqn, [part], shapes)[0]  # pyright: ignore[reportOptionalSubscript]
            if is_factored(part)
            else lax.transpose(part, order)
            for part in value.parts
        ]
        return [Joined(tuple(parts), order.index(value.axis))]
    return [replace(value, dims=tuple(value.dims[d] for d in order))]


@rule("reshape", "squeeze", "expand_dims")
def _reshape(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    if not isinstance(values[0], Pair):
        return None
    pair = values[0].reshaped(shapes[0])
    return None if pair is None else [pair]


@rule("broadcast_in_dim")
def _broadcast(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    pair, places = values[0], list(eqn.params["broadcast_dimensions"])
    if not isinstance(pair, Pair):
        return None
    dims, sizes, old = [], list(pair.sizes), pair.shape
    for axis, size in enumerate(shapes[0]):
        mine = places.index(axis) if axis in places else None
        dim = () if mine is None else pair.dims[mine]
        if (1 if mine is None else old[mine]) != size:
            sizes.append(size)
            dim = (*dim, len(sizes) - 1)
        dims.append(dim)
    return [replace(pair, dims=tuple(dims), sizes=tuple(sizes))]


# Numbers.


@rule("convert_element_type")
def _cast(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    dtype = eqn.params["new_dtype"]
    if not is_fine(dtype):
        return None  # the factors of the matrix that comes out are others
    return [jax.tree.map(lambda a: a.astype(dtype), values[0])]


@rule("copy", "copy_p", "stop_gradient", "name", "optimization_barrier", "reduce_precision")
def _each(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    """Primitives that act on every number by itself, and leave it as it is or round it."""
    arrays, form = jax.tree.flatten(values)
    if eqn.primitive.multiple_results:  # all at once: the barrier
        return jax.tree.unflatten(form, eqn.primitive.bind(*arrays, **eqn.params))
    return jax.tree.unflatten(form, [eqn.primitive.bind(a, **eqn.params) for a in arrays])


@rule("sharding_constraint")
def _sharding(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    """The constraint on the axes that a factor has."""
    pair, sharding = values[0], eqn.params["sharding"]
    known = isinstance(pair, Pair) and isinstance(sharding, NamedSharding)
    if not known or any(len(dim) > 1 for dim in pair.dims):
        return [pair]  # where numbers are kept, not which they are
    spec = [*sharding.spec, *[None] * len(pair.dims)]
    by_label = {dim[0]: spec[axis] for axis, dim in enumerate(pair.dims) if dim}

    def constrained(factor, labels):
        placed = PartitionSpec(*(by_label.get(label) for label in labels))
        return lax.with_sharding_constraint(factor, NamedSharding(sharding.mesh, placed))

    return [pair.map(constrained)]


@rule("neg")
def _neg(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    return [replace(values[0], left=-values[0].left)] if isinstance(values[0], Pair) else None


@rule("mul")
def _mul(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    one, other = values if isinstance(values[0], Pair) else values[::-1]
    if not isinstance(one, Pair) or is_factored(other) or jnp.ndim(other):
        return None
    return [replace(one, left=one.left * jnp.asarray(other, one.left.dtype))]


@rule("div")
def _div(eqn: JaxprEqn, values: list[Any], shapes: list[Shape]):
    one, other = values
    if not isinstance(one, Pair) or is_factored(other) or jnp.ndim(other):
        return None
    return [replace(one, left=one.left / jnp.asarray(other, one.left.dtype))]
