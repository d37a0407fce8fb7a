"""The rules: for each primitive of JAX, how far its result can move.

``RULES`` is the whole list. A primitive that is not in it is refused as soon as the logits depend
on it. The column ``bound`` holds in the 2-norm over all entries of one example; E is the bound of
the operand, and an operand that JAX stretches along axes of size 1 is first multiplied by
``sqrt(size of the result / size of the operand)``, since each of its entries is repeated so often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax._jax_internals import run_equation
from rankjax.certificates.theorem._nodes import Node, root
from rankjax.certificates.theorem._values import (
    ARITHMETIC,
    DATA,
    FUNCTION,
    ROOM,
    UNDERFLOW,
    Distance,
    Entries,
    Gain,
    Moved,
    Recorder,
    RowForm,
    Tag,
    Unknown,
    length_of,
    max_norm,
    rounded_weights,
    two_norm,
    unit_of,
    wide,
)
from rankjax.network import Convolution
from rankjax.network.internal import Window

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn

Apply = Callable[[Recorder, Any, Sequence[Any], Sequence[Tag], Any], Tag]


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        condition: when it holds; otherwise the result is refused.
        bound: of the result.
        proof: why.
        apply: the code.
    """

    condition: str
    bound: str
    proof: str
    apply: Apply


def moved_by(rec: Recorder, tag: Tag, value: Any, out: Any) -> Moved:
    """The bound of an operand, stretched to the size of the result."""
    ratio = np.size(out) / np.size(value)
    return rec.scale(rec.moved(tag), math.sqrt(ratio))


def rounding(out: Any, relative: float) -> Any:
    """The 2-norm of the rounding error of an entrywise operation."""
    size = length_of(out)
    return relative * size + UNDERFLOW * math.sqrt(np.size(out))


def touched(tag: Tag) -> bool:
    """Whether the value depends on weights."""
    return isinstance(tag, Entries | Moved | Unknown)


# --- movers -----------------------------------------------------------------------------------


def _move(rec, eqn, values, tags, out) -> Tag:
    """The entries are moved about or dropped, none is repeated."""
    if any(touched(tag) for tag in tags[1:]):
        return Unknown(f"{eqn.primitive.name!r} at places that depend on weights")
    if isinstance(tags[0], Entries) and all(tag is None for tag in tags[1:]):
        return move_entries(tags[0], eqn, values)
    moved = rec.moved(tags[0])
    return replace(moved, rows=_rows_kept(moved, eqn, values[0], out))


def _rows_kept(moved: Moved, eqn: JaxprEqn, value: Any, out: Any) -> RowForm | None:
    # Reshapes and their like keep the order of the entries, which are those of the classes.
    keeps = {"reshape", "squeeze", "copy", "copy_p", "stop_gradient"}
    same = eqn.primitive.name in keeps and np.size(value) == np.size(out)
    # A reshape may transpose first.
    transposes = eqn.primitive.name == "reshape" and eqn.params.get("dimensions") is not None
    return moved.rows if same and not transposes else None


def move_entries(entries: Entries, eqn: JaxprEqn, values: Sequence[Any]) -> Entries:
    """Apply an equation that moves entries to the numbers of the weights themselves."""
    places = places_after(entries.index.shape, eqn, values)
    index, factor = entries.index.ravel()[places], entries.factor.ravel()[places]
    return Entries(index, factor, entries.products)


def places_after(shape: tuple[int, ...], eqn: JaxprEqn, values: Sequence[Any]) -> np.ndarray:
    """Where each entry of the result of such an equation stood in the operand."""
    places = np.arange(math.prod(shape)).reshape(shape)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(run_equation(eqn, [jnp.asarray(places), *values[1:]])[0])


def _broadcast(rec, eqn, values, tags, out) -> Tag:
    if isinstance(tags[0], Entries):
        return move_entries(tags[0], eqn, values[:1])
    moved = rec.moved(tags[0])
    if np.size(values[0]) == np.size(out):
        return moved
    return replace(rec.scale(moved, math.sqrt(np.size(out) / np.size(values[0]))), rows=None)


def _pad(rec, eqn, values, tags, out) -> Tag:
    if touched(tags[1]):
        return Unknown("'pad' with a value that depends on weights")
    return replace(rec.moved(tags[0]), rows=None)


def _update(rec, eqn, values, tags, out) -> Tag:
    if any(touched(tag) for tag in tags[2:]):
        return Unknown("'dynamic_update_slice' at places that depend on weights")
    return join(rec, [rec.moved(tag) for tag in tags[:2]])


def _concatenate(rec, eqn, values, tags, out) -> Tag:
    if all(isinstance(tag, Entries) for tag in tags):
        axis = eqn.params["dimension"]
        return join_entries(tags, lambda arrays: np.concatenate(arrays, axis=axis))
    return join(rec, [rec.moved(tag) for tag in tags])


def _stack(rec, eqn, values, tags, out) -> Tag:
    if all(isinstance(tag, Entries) for tag in tags):
        return join_entries(tags, lambda arrays: np.stack(arrays, axis=eqn.params["axis"]))
    return join(rec, [rec.moved(tag) for tag in tags])


def join_entries(tags: Sequence[Any], combine: Callable[[list[np.ndarray]], np.ndarray]) -> Entries:
    """Weights side by side."""
    products = max(tag.products for tag in tags)
    parts = ([tag.index for tag in tags], [tag.factor for tag in tags])
    return Entries(combine(parts[0]), combine(parts[1]), products)


def join(rec: Recorder, parts: Sequence[Moved]) -> Moved:
    """Values side by side: the root of the sum of the squares of their bounds."""
    parts = [part for part in parts if part.node]
    if not parts:
        return Moved(0, 0.0)
    if len(parts) == 1:
        return replace(parts[0], rows=None)
    node = Node("join", tuple(part.node for part in parts), (1.0,) * len(parts))
    return rec.add(node, parts, 0.0)


def _gather(rec, eqn, values, tags, out) -> Tag:
    if touched(tags[1]):
        return Unknown("'gather' at places that depend on weights")
    numbers = eqn.params["dimension_numbers"]
    windows = math.prod(np.shape(values[1])[:-1])
    if tags[1] is None:
        # What is filled in is no weight, whatever number it is: -1 tells.
        numbered = eqn.replace(params={**eqn.params, "fill_value": -1})
        index = places_after(np.shape(values[0]), numbered, values)
        inside = index[(index >= 0) & (index < np.size(values[0]))]
        if isinstance(tags[0], Entries) and inside.size == index.size:
            return move_entries(tags[0], eqn, values)
        repeats = int(np.bincount(inside.ravel(), minlength=1).max())
        return replace(rec.scale(rec.moved(tags[0]), math.sqrt(repeats)), rows=None)
    if isinstance(tags[0], Entries):
        # Rows taken by number: each window is one row of the table.
        shape, sizes = tags[0].index.shape, eqn.params["slice_sizes"]
        numbered = tuple(numbers.start_index_map)
        rest = [d for d in range(len(shape)) if d not in numbered]
        if all(sizes[d] == 1 for d in numbered) and all(sizes[d] == shape[d] for d in rest):
            order = (*numbered, *rest)
            rows = math.prod(shape[d] for d in numbered)
            entries = Entries(
                np.transpose(tags[0].index, order).reshape(rows, -1),
                np.transpose(tags[0].factor, order).reshape(rows, -1),
            )
            number = rec.distance(Distance("row", entries))
            rounded = rounded_weights(tags[0]) * length_of(out) + UNDERFLOW
            return rec.add(Node("leaf", (), (math.sqrt(windows),), distance=number), [], rounded)
    # Each entry of the operand is in a window at most once.
    return replace(rec.scale(rec.moved(tags[0]), math.sqrt(windows)), rows=None)


# --- entrywise --------------------------------------------------------------------------------

_SLOPES = {
    "neg": 1.0, "abs": 1.0, "tanh": 1.0, "sin": 1.0, "cos": 1.0, "atan": 1.0, "asinh": 1.0,
    "logistic": 0.25, "erf": 1.1283791670955129, "erfc": 1.1283791670955129,
}  # fmt: skip


def _unary(rec, eqn, values, tags, out) -> Tag:
    name = eqn.primitive.name
    if name == "neg" and isinstance(tags[0], Entries):
        return Entries(tags[0].index, -tags[0].factor, tags[0].products)
    relative = 0.0 if name in {"neg", "abs"} else FUNCTION
    return rec.scale(rec.moved(tags[0]), _SLOPES[name], rounding(out, relative))


def _local(rec, eqn, values, tags, out) -> Tag:
    moved, value = rec.moved(tags[0]), wide(values[0])
    low, high = jnp.min(value), jnp.max(value)
    slots = rec.slot(low - moved.rounding), rec.slot(high + moved.rounding)
    y = (float(eqn.params["y"]),) if "y" in eqn.params else ()
    node = Node("local", (moved.node,), y, slots, function=eqn.primitive.name)
    relative = FUNCTION * max(1.0, *map(abs, y), 0.0)  # a power is a chain of products
    return rec.add(node, [moved], rounding(out, relative), slots=(low, high))


def _add(rec, eqn, values, tags, out) -> Tag:
    parts = [
        moved_by(rec, tag, value, out)
        for tag, value in zip(tags, values, strict=True)
        if touched(tag)
    ]
    rounded = rounding(out, ARITHMETIC)
    if len(parts) == 1:
        found = Moved(parts[0].node, parts[0].rounding + rounded)
    else:
        node = Node("sum", tuple(part.node for part in parts), (1.0,) * len(parts))
        found = rec.add(node, parts, rounded)
    return replace(found, rows=_added_rows(eqn, values, tags, out))


def _added_rows(eqn, values, tags, out) -> RowForm | None:
    """Classes plus biases, or plus something exact, are classes still; signs change no distance."""
    for side in (0, 1):
        tag, other = tags[side], tags[1 - side]
        rows = tag.rows if isinstance(tag, Moved) else None
        if rows is None or np.size(values[side]) != np.size(out):
            continue
        if not touched(other):
            return rows
        if isinstance(other, Entries):
            shape = np.shape(out)
            bias = Entries(
                np.broadcast_to(other.index, shape).ravel(),
                np.broadcast_to(other.factor, shape).ravel(),
            )
            return replace(rows, biases=(*rows.biases, bias))
    return None


def _mul(rec, eqn, values, tags, out) -> Tag:
    if all(touched(tag) for tag in tags):
        return _product(rec, values, tags, out)
    side = 0 if touched(tags[0]) else 1
    tag, value, other, constant = tags[side], values[side], values[1 - side], tags[1 - side] is None
    if constant and isinstance(tag, Entries):
        return _scaled_entries(tag, np.asarray(other, float), np.shape(out))
    moved, rounded = moved_by(rec, tag, value, out), rounding(out, ARITHMETIC)
    if constant:
        return rec.scale(moved, float(np.max(np.abs(np.asarray(other, float)), initial=0)), rounded)
    return _measured(rec, moved, jnp.max(jnp.abs(wide(other)), initial=0.0), rounded)


def _scaled_entries(entries: Entries, factor: np.ndarray, shape: tuple[int, ...]) -> Tag:
    with np.errstate(all="ignore"):
        product = entries.factor * factor
    zero = np.broadcast_to((entries.factor == 0) | (factor == 0), product.shape)
    inside = np.isfinite(product) & ((np.abs(product) > 1e-150) & (np.abs(product) < 1e150) | zero)
    if not inside.all():
        return Unknown("a product with a number beyond 1e-150 to 1e150")
    return Entries(
        np.broadcast_to(entries.index, shape),
        np.broadcast_to(product, shape),
        entries.products + 1,
    )


def _measured(rec: Recorder, moved: Moved, size: Any, rounded: Any, factor: float = 1.0) -> Moved:
    """A linear map whose norm only the data decide."""
    node = Node("measured", (moved.node,), (factor,), (rec.slot(size * ROOM),))
    return rec.add(node, [moved], rounded, slots=(size,))


def _product(rec, values, tags, out) -> Moved:
    args = [rec.moved(tag) for tag in tags]
    sizes = [
        norm(value, arg)
        for value, arg in zip(values, args, strict=True)
        for norm in (max_norm, two_norm)
    ]
    factors = tuple(math.sqrt(np.size(out) / np.size(value)) for value in values)
    node = Node(
        "product",
        tuple(arg.node for arg in args),
        factors,
        tuple(rec.slot(upper) for _, upper in sizes),
    )
    computed = [found for found, _ in sizes]
    return rec.add(node, args, rounding(out, ARITHMETIC), slots=computed)


def _div(rec, eqn, values, tags, out) -> Tag:
    rounded = rounding(out, ARITHMETIC)
    if touched(tags[1]):
        args = [rec.moved(tag) for tag in tags]
        quotient = jnp.max(jnp.abs(out), initial=0.0)
        smallest = jnp.min(jnp.abs(wide(values[1])))
        factors = tuple(math.sqrt(np.size(out) / np.size(value)) for value in values)
        numbers = tuple(arg.node for arg in args)
        # The quotient of the exact values is within its own rounding of the computed one.
        raw = (quotient, smallest)
        draft = rec.add(Node("quotient", numbers, factors, (0, 0)), args, rounded, slots=raw)
        rec.nodes.pop()
        slots = rec.slot(quotient + draft.rounding), rec.slot(smallest - args[1].rounding)
        return rec.add(Node("quotient", numbers, factors, slots), args, rounded, slots=raw)
    if tags[1] is None:
        divisor = np.asarray(values[1], float)
        smallest = float(np.min(np.abs(divisor)))
        if smallest == 0 or not math.isfinite(smallest):
            return Unknown("'div' by zero")
        if isinstance(tags[0], Entries):
            return _scaled_entries(tags[0], 1 / divisor, np.shape(out))
        return rec.scale(moved_by(rec, tags[0], values[0], out), 1 / smallest, rounded)
    inverse = 1 / jnp.min(jnp.abs(wide(values[1])))
    return _measured(rec, moved_by(rec, tags[0], values[0], out), inverse, rounded)


def _extreme(rec, eqn, values, tags, out) -> Tag:
    parts = [
        moved_by(rec, tag, value, out)
        for tag, value in zip(tags, values, strict=True)
        if touched(tag)
    ]
    return join(rec, parts)


def _select(rec, eqn, values, tags, out) -> Tag:
    if touched(tags[0]):
        return Unknown("'select_n' by a condition that depends on weights")
    if tags[0] is None and all(isinstance(tag, Entries) for tag in tags[1:]):
        which = np.broadcast_to(np.asarray(values[0]).astype(int), np.shape(out))
        return join_entries(tags[1:], lambda arrays: np.choose(which, arrays))
    return _extreme(rec, eqn, values[1:], tags[1:], out)


def _identity(rec, eqn, values, tags, out) -> Tag:
    return tags[0]


# --- sums and pooling -------------------------------------------------------------------------


def _reduce_sum(rec, eqn, values, tags, out) -> Tag:
    terms = np.size(values[0]) / max(np.size(out), 1)
    size = length_of(values[0])
    rounded = ARITHMETIC * (terms + 8) * math.sqrt(terms) * size + UNDERFLOW
    return rec.scale(rec.moved(tags[0]), math.sqrt(terms), rounded)


def _reduce_extreme(rec, eqn, values, tags, out) -> Tag:
    return replace(rec.moved(tags[0]), rows=None)


def _pooling(rec, eqn, values, tags, out) -> Tag:
    if any(touched(tag) for tag in tags[1:]):
        return Unknown(f"{eqn.primitive.name!r} that starts from weights")
    sizes = eqn.params["window_dimensions"]
    windows = [
        Window(i, o, size, stride, tuple(pad), dilation, base)
        for i, o, size, stride, pad, dilation, base in zip(
            np.shape(values[0]), np.shape(out), sizes, eqn.params["window_strides"],
            eqn.params["padding"], eqn.params["window_dilation"], eqn.params["base_dilation"],
            strict=True,
        )
    ]  # fmt: skip
    columns = math.prod(window.multiplicity() for window in windows)
    if eqn.primitive.name != "reduce_window_sum":
        return rec.scale(rec.moved(tags[0]), math.sqrt(columns))
    rows = math.prod(sizes)
    factor = math.sqrt(columns * rows)
    size = length_of(values[0])
    rounded = ARITHMETIC * (rows + 8) * factor * size + UNDERFLOW
    return rec.scale(rec.moved(tags[0]), factor, rounded)


# --- matrix products --------------------------------------------------------------------------


def _dot(rec, eqn, values, tags, out) -> Tag:
    contract, batch = eqn.params["dimension_numbers"]
    terms = math.prod(np.shape(values[0])[d] for d in contract[0])
    weights = [i for i in (0, 1) if isinstance(tags[i], Entries)]
    both_move = all(touched(tag) for tag in tags)
    if len(weights) == 1:
        side = weights[0]
        entries = matrices_of(tags[side], contract[side], batch[side])
        found = _matrix(rec, Gain(entries), values[side], values[1 - side], tags[1 - side], terms)
        if entries.index.shape[:2] == (1, np.size(out)) and np.size(out) > 1:
            rows = Entries(entries.index[0], entries.factor[0])
            slot, node = rec.nodes[-1].slots[0], rec.nodes[-1].args[0]
            return replace(found, rows=RowForm(rows, node, slot))
        return found
    sizes = [largest_in_batch(values[i], batch[i]) for i in (0, 1)]
    whole = [length_of(v) for v in values]
    rounded = ARITHMETIC * (terms + 8) * whole[0] * whole[1] + UNDERFLOW
    if both_move:
        return _bilinear(rec, tags, sizes, 1.0, rounded)
    side = 0 if touched(tags[0]) else 1
    moved = rec.moved(tags[side])
    if tags[1 - side] is None:
        constant = matrices_of(
            Entries.plain(np.asarray(values[1 - side], float)), contract[1 - side], batch[1 - side]
        ).index
        return rec.scale(moved, largest_spectral_norm(constant), rounded)
    return _measured(rec, moved, sizes[1 - side], rounded)


def matrices_of(tag: Entries, contract: Sequence[int], batch: Sequence[int]) -> Entries:
    """Entries as ``(batch, free, contracted)``."""
    shape = tag.index.shape
    free = [d for d in range(len(shape)) if d not in contract and d not in batch]
    order = (*batch, *free, *contract)
    sizes = [math.prod(shape[d] for d in dims) for dims in (batch, free, contract)]
    index, factor = (np.transpose(a, order).reshape(sizes) for a in (tag.index, tag.factor))
    return Entries(index, factor, tag.products)


def largest_in_batch(value: Any, batch: Sequence[int]) -> Any:
    """The largest Frobenius norm in a batch of matrices."""
    axes = tuple(d for d in range(np.ndim(value)) if d not in batch)
    value = wide(value)
    unit = unit_of(value)
    return unit * root(jnp.max(jnp.sum(jnp.square(value / unit), axis=axes), initial=0.0))


def largest_spectral_norm(matrices: np.ndarray) -> float:
    """An upper bound of the largest spectral norm in a batch."""
    return max((spectral_norm(matrix) for matrix in matrices), default=0.0)


def spectral_norm(matrix: np.ndarray) -> float:
    """An upper bound: the computed norm plus the backward error of LAPACK."""
    if not matrix.any():
        return 0.0
    unit = float(np.max(np.abs(matrix)))
    matrix = matrix / unit  # so that no square underflows
    room = ARITHMETIC * sum(matrix.shape) * float(np.linalg.norm(matrix))
    return unit * (float(np.linalg.norm(matrix, 2)) + room)


def _matrix(
    rec: Recorder, gain: Gain, weights: Any, data: Any, tag: Tag, terms: int, size: Any = None
) -> Moved:
    """A weight matrix applied to data: (A~, h~) -> (A, h)."""
    moved = rec.moved(tag)
    if size is None:
        size = length_of(data)
    upper = size * ROOM + gain.gather * moved.rounding + UNDERFLOW
    frobenius = length_of(weights)
    node = Node(
        "matrix",
        (moved.node,),
        (gain.gather,),
        (rec.slot(upper),),
        distance=rec.distance(Distance("spectral", gain.entries)),
        gain=rec.gain(gain) if moved.node else -1,
    )
    rounded = ARITHMETIC * (terms + 8) + rounded_weights(gain.entries)
    rounded = rounded * frobenius * size + UNDERFLOW
    return rec.add(node, [moved], rounded, slots=(size,), gain=frobenius * gain.gather)


def _bilinear(rec, tags, sizes, factor: float, rounded) -> Moved:
    args = [rec.moved(tag) for tag in tags]
    slots = tuple(
        rec.slot(size * ROOM + arg.rounding * (factor if i == 0 else 1.0) + UNDERFLOW)
        for i, (size, arg) in enumerate(zip(sizes, args, strict=True))
    )
    node = Node("bilinear", tuple(arg.node for arg in args), (factor,), slots)
    return rec.add(node, args, rounded, slots=sizes)


def _convolution(rec, eqn, values, tags, out) -> Tag:
    if eqn.params["batch_group_count"] != 1:
        return Unknown("'conv_general_dilated' with batch groups")
    if isinstance(tags[0], Entries):
        return Unknown("'conv_general_dilated' of weights")
    geometry = Convolution.of(eqn.params, *map(np.shape, (*values[:2], out)))
    spec = geometry.dimension_numbers.rhs_spec
    window = tuple(np.shape(values[1])[d] for d in spec[2:])
    terms = math.prod(window) * np.shape(values[1])[spec[1]]
    gather = geometry.gather_norm
    unit = unit_of(wide(values[0]))
    patches = unit * root(jnp.sum(geometry.squared_patch_norms(wide(values[0]) / unit)))
    if isinstance(tags[1], Entries):
        entries = kernel_matrices(tags[1], spec, geometry.groups)
        gain = Gain(entries, gather, geometry, window)
        return _matrix(rec, gain, values[1], values[0], tags[0], terms, patches)
    kernel = length_of(values[1])
    rounded = ARITHMETIC * (terms + 8) * kernel * patches + UNDERFLOW
    if touched(tags[1]):
        return _bilinear(rec, tags, [patches, kernel], gather, rounded)
    if tags[1] is None:
        constant = Entries.plain(np.asarray(values[1], float))
        norm = largest_spectral_norm(kernel_matrices(constant, spec, geometry.groups).index)
        return rec.scale(rec.moved(tags[0]), gather * norm, rounded)
    return _measured(rec, rec.moved(tags[0]), kernel, rounded, gather)


def kernel_matrices(tag: Entries, spec: Sequence[int], groups: int) -> Entries:
    """A kernel as ``(groups, outputs of a group, window and channels)``."""
    order = (spec[0], *spec[2:], spec[1])
    outputs = tag.index.shape[spec[0]] // groups
    shape = (groups, outputs, -1)
    index, factor = (np.transpose(a, order).reshape(shape) for a in (tag.index, tag.factor))
    return Entries(index, factor, tag.products)


_MOVES = (
    "reshape", "transpose", "squeeze", "rev", "slice", "dynamic_slice", "split",
    "copy", "copy_p", "stop_gradient", "sharding_constraint", "device_put", "optimization_barrier",
)  # fmt: skip
_TWO = "norms and inequality of Cauchy and Schwarz, both norms measured on the coded side"

#: primitive -> rule.
RULES: dict[str, Rule] = {
    **{
        name: Rule("places known without weights", "E", "entries are moved or dropped", _move)
        for name in _MOVES
    },
    **{
        name: Rule(
            "always", "sqrt(size of result / size of operand) E", "each entry is repeated so often",
            _broadcast,
        )
        for name in ("broadcast_in_dim", "tile")
    },
    "pad": Rule("padding value without weights", "E", "new entries are exact", _pad),
    "dynamic_update_slice": Rule(
        "places known without weights", "sqrt(E_1^2 + E_2^2)", "entries of both side by side",
        _update,
    ),
    "concatenate": Rule("always", "sqrt(sum E_i^2)", "side by side", _concatenate),
    "stack": Rule("always", "sqrt(sum E_i^2)", "side by side", _stack),
    "gather": Rule(
        "places known without weights", "sqrt(repeats) E; rows: sqrt(windows) max row",
        "a window holds an entry once", _gather,
    ),
    **{
        name: Rule("always", f"{slope:.6g} E", "largest slope", _unary)
        for name, slope in _SLOPES.items()
    },
    **{
        name: Rule(
            "slope finite on [min h~ - E, max h~ + E]", "largest slope there times E",
            "mean value theorem", _local,
        )
        for name in (
            "exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "integer_pow",
        )
    },
    **{
        name: Rule("always", "sum E_i", "triangle inequality", _add)
        for name in ("add", "sub", "add_any")
    },
    "mul": Rule(
        "always", "max|c| E; both move: |a - a'||b|_inf + |a'|_inf|b - b'|, or its twin", _TWO, _mul
    ),
    "div": Rule(
        "divisor not 0", "E / min|c|; both move: (E_a + |q~|_inf E_b) / (min|b~| - E_b)",
        "a/b - a'/b' = (a - a')/b - (a'/b')(b - b')/b", _div,
    ),
    **{
        name: Rule("always", "sqrt(sum E_i^2)", "entrywise at most the largest move", _extreme)
        for name in ("max", "min", "clamp")
    },
    "select_n": Rule(
        "condition without weights", "sqrt(sum E_i^2)", "each entry is one of theirs", _select
    ),
    "reduce_sum": Rule("always", "sqrt(terms) E", "Cauchy and Schwarz", _reduce_sum),
    **{
        name: Rule("always", "E", "at most the largest move of disjoint sets", _reduce_extreme)
        for name in ("reduce_max", "reduce_min")
    },
    "reduce_window_sum": Rule(
        "start without weights", "sqrt(window * largest number of windows of an entry) E",
        "largest row sum times largest column sum", _pooling,
    ),
    **{
        name: Rule(
            "start without weights", "sqrt(largest number of windows of an entry) E",
            "at most the largest move in each window", _pooling,
        )
        for name in ("reduce_window_max", "reduce_window_min")
    },
    "dot_general": Rule(
        "always", "weights A: (|A~| + d) E + d |h~|; constant C: |C| E; else bilinear", _TWO, _dot
    ),
    "conv_general_dilated": Rule(
        "one batch group, weights on the right",
        "(G + c d) E + d |P h~|, G the operator norm, c that of the patches",
        _TWO, _convolution,
    ),
    **{
        name: Rule(
            "to a floating point type", "E, computed as the identity", "exact arithmetic", _identity
        )
        for name in ("convert_element_type", "reduce_precision")
    },
}  # fmt: skip

__all__ = ["DATA", "RULES", "Rule"]
