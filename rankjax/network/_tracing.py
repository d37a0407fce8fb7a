"""Find out what each parameter does by following it through the forward function.

``trace_uses`` follows the function's jaxpr equation by equation, without computing anything, and
remembers where each value comes from: parameters (and how it is computed from them), the data, or
neither. Where a value of the parameters meets the data in a matrix product or a convolution, that
is a layer: its rows, columns, geometry and place in the order are read off the equation, whatever
the framework calls the leaf. ``_running`` runs the function and looks at these places.

Equations are numbered in the order in which they are met; those of a loop's body once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._jax_internals import is_literal
from rankjax.network import _expressions as expressions
from rankjax.network._activations import find_activations
from rankjax.network._convolution import Convolution
from rankjax.network._expressions import Expression, Loop
from rankjax.network._links import Link, of_activation, of_one, of_two, shape_of
from rankjax.network._tags import Data, Member, Tag, Weight, joined, move
from rankjax.network._view import View
from rankjax.network._vouched import Vouched, link_of

if TYPE_CHECKING:  # jax.extend imports Pallas, a tenth of a second
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """One place where a matrix of parameters multiplies the data (static).

    Attributes:
        number: of the equation.
        source: how the array that holds the matrix is computed; a leaf, or from leaves.
        shape: its shape.
        view: its axes by role.
        positions: how many times the matrix is applied to one example (patches, tokens), at each
            step of the loops that it is in.
        loops: these loops, the outermost first.
        members: for each step (one axis per loop) the member of the stack; -1: not known.
        side: which operand of the equation it is.
        contracted: axes of the data that are summed over; empty for a convolution.
        convolution: the geometry, for a convolution.
    """

    number: int
    source: Expression
    shape: tuple[int, ...]
    view: View
    positions: int
    loops: tuple[Loop, ...]
    members: np.ndarray
    side: int
    contracted: tuple[int, ...] = ()
    convolution: Convolution | None = None

    @property
    def leaf(self) -> int | None:
        """The leaf's number, where the matrix is a leaf."""
        return int(self.source.text or 0) if self.source.name == "leaf" else None

    def squared_row_norms(self, data: Array) -> Array:
        """Squared 2-norms of the vectors the matrix is applied to (all patches or tokens)."""
        if self.convolution is not None:
            return self.convolution.squared_patch_norms(data)
        return jnp.sum(jnp.square(data), axis=self.contracted)


@dataclass
class Trace:
    """What was found.

    Attributes:
        uses: by number of the equation.
        entries: by number of an equation, the values of the data that meet parameters there for the
            first time: operand numbers, -1 for the result (of a lookup), each with the number of
            loops inside of which the value is the same.
        inputs: by number of an equation, the operands there that no parameter has entered before,
            whether they meet parameters for the first time or again.
        added: numbers of the equations where parameters are added to the data, with the operand.
        other: how the other leaves meet the data, the primitives in their order.
        added_leaves: leaves that are added.
        loops: by number of a loop that is looked into, the number of the equation after its body.
        factors: Lipschitz constant of what follows a use; NaN if not known.
        output: what is true of the outputs.
    """

    uses: dict[int, Use] = field(default_factory=dict)
    entries: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    inputs: dict[int, set[int]] = field(default_factory=dict)
    added: dict[int, int] = field(default_factory=dict)
    other: dict[int, tuple[str, ...]] = field(default_factory=dict)
    added_leaves: set[int] = field(default_factory=set)
    loops: dict[int, int] = field(default_factory=dict)
    factors: dict[int, float] = field(default_factory=dict)
    output: Data | None = None


@dataclass(frozen=True)
class Program:
    """A traced forward function with what was found in it."""

    jaxpr: ClosedJaxpr
    trace: Trace
    shapes: Any


def trace_uses(
    apply: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    activations: Mapping[str, float] | None = None,
) -> Program:
    """Trace ``apply(params, x)`` for a batch of one example; arrays may be abstract."""
    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(params, x)
    tags: list[Tag] = [
        Weight.fresh(expressions.leaf(i), jnp.shape(leaf))
        for i, leaf in enumerate(jax.tree.leaves(params))
    ]
    data = [Data(node=("input", i)) for i in range(len(jax.tree.leaves(x)))]
    tracer = Tracer(vouched=Vouched(activations or {}))
    outs = tracer.closed(closed, [*tags, *data])
    tracer.vouched.check_all_met()
    tracer.trace.output = tracer.ends(outs)
    return Program(closed, tracer.trace, shapes)


@dataclass
class Tracer:
    """Follows a jaxpr with the tag of every value."""

    trace: Trace = field(default_factory=Trace)
    number: int = 0
    loops: tuple[Loop, ...] = ()
    met: set[Any] = field(default_factory=set)  # nodes of data that have met parameters
    vouched: Vouched = field(default_factory=Vouched)

    def closed(self, closed: ClosedJaxpr, tags: Sequence[Tag]) -> list[Tag]:
        consts = [_fixed(value) for value in closed.consts]
        return self.jaxpr(closed.jaxpr, [*consts, *tags])

    def jaxpr(self, jaxpr: Jaxpr, tags: Sequence[Tag]) -> list[Tag]:
        """Tags of the outputs."""
        env: dict[Any, Tag] = dict(zip((*jaxpr.constvars, *jaxpr.invars), tags, strict=True))
        touched = any(isinstance(tag, Data) for tag in tags)
        matches = find_activations(jaxpr) if touched else {}

        def read(atom: Any) -> Tag:
            return _fixed(atom.val) if is_literal(atom) else env[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            outs = self.equation(eqn, given)
            match = matches.get(eqn.outvars[0]) if len(outs) == 1 else None
            constant = self.vouched.constant(eqn, given)
            if constant is not None:
                before = next(tag for tag in given if isinstance(tag, Data))
                if before.node is None:
                    outs = [self.after(before, link_of(eqn, constant, before, outs[0]))]
            elif match is not None and isinstance(before := read(match.variable), Data):
                number = None if match.number is None else read(match.number)
                value = number.expression.number() if isinstance(number, Weight) else None
                known = match.number is None or value is not None
                link = of_activation(match.name, 0.0 if value is None else float(value))
                if known and not link.problem:
                    factor = self.vouched.instead_of(match.name, link.factor)
                    link = replace(link, factor=factor)
                outs = [self.after(before, link if known else of_two(match.name))]
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, tags: list[Tag]) -> list[Tag]:
        """Tags of the outputs of one equation."""
        self.number += 1
        name = eqn.primitive.name
        if name in CALLS:
            inner = called(eqn)
            follow = self.closed if hasattr(inner, "consts") else self.jaxpr
            return follow(inner, tags)
        if any(isinstance(t, Data) or (isinstance(t, Weight) and t.chosen) for t in tags):
            if name == "scan":
                return self.scan(eqn, tags)
            first = tags[0]
            moved = None
            if isinstance(first, Weight) and first.learned:
                moved = move(first, eqn, tags)
            rest = 0 if moved is None else len(moved.shape) - len(moved.members) - len(moved.chosen)
            if moved is not None and rest > 1:
                # A member for each place: an expert, or features that are looked up.
                moved = replace(moved, expression=expressions.unknown(moved.expression))
                return [moved] * len(eqn.outvars)
            return [self.meeting(eqn, tags)] * len(eqn.outvars)
        steps = [t.expression for t in tags if isinstance(t, Weight)]
        outs = [expressions.step(eqn, steps, k) for k in range(len(eqn.outvars))]
        if tags and isinstance(tags[0], Weight) and tags[0].learned:
            moved = move(tags[0], eqn, tags)
            if moved is not None:
                return [replace(moved, expression=outs[0])]
        pairs = zip(outs, eqn.outvars, strict=True)
        return [_made(out, var) for out, var in pairs]

    def meeting(self, eqn: JaxprEqn, tags: list[Tag]) -> Data:
        """The tag of what comes out where data enter; layers are recorded."""
        name = eqn.primitive.name
        weights = [(i, t) for i, t in enumerate(tags) if isinstance(t, Weight) and t.learned]
        data = [(i, t) for i, t in enumerate(tags) if isinstance(t, Data)]
        if not weights:
            if all(t.node is not None for _, t in data):
                return Data(node=self.number, depth=len(self.loops))  # no parameter yet
            if len(data) > 1:
                for side, tag in data:  # beside activations: the input enters here
                    self.enters(side, tag)
                return self.after(joined([t for _, t in data]), of_two(name))
            side, tag = data[0]
            numbers = [t.expression.number() if isinstance(t, Weight) else None for t in tags]
            return self.after(tag, of_one(eqn, side, numbers))
        use = self.use(eqn, tags)
        looked_up = name == "gather" and isinstance(tags[0], Weight)
        if use is None or any(t.chosen for i, t in weights if i != use.side):
            data += [(i, Data()) for i, t in weights if t.chosen and (not use or i != use.side)]
        for side, tag in data:
            self.enters(-1 if looked_up else side, tag)
        before = joined([t for _, t in data]) if data else Data()
        if use is not None:
            self.leaves(before)
            self.trace.uses[use.number] = use
            problems = before.problems
            if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.complexfloating):  # pyright: ignore
                problems |= {"computes with complex numbers"}
            if name == "ragged_dot_general" or any(t.chosen for _, t in weights):
                problems |= {"chooses a matrix for each input (experts)"}
            return Data(last=frozenset({use.number}), bent=before.bent, problems=problems)
        leaves = sorted({leaf for _, t in weights for leaf in t.expression.leaves})
        if name in {"add", "sub", "add_any"} and len(weights) == 1:
            side, tag = weights[0]
            if not tag.chosen:
                self.trace.added_leaves |= set(leaves)
                self.trace.added[self.number] = side
                size = math.prod(shape_of(eqn.outvars[0]))
                stretched = size > math.prod(shape_of(eqn.invars[1 - side]))
                link = Link(math.nan if stretched else 1.0)
                return self.after(replace(before, node=None), link)
        how = []
        for _, tag in weights:
            steps = [e.name for e in tag.expression.steps() if e.name not in {"leaf", "constant"}]
            path = ("gather",) if tag.chosen else tuple(dict.fromkeys(steps))
            how.append(path)
            for leaf in tag.expression.leaves:
                self.trace.other.setdefault(leaf, path if tag.chosen else (*path, name))
        problem = "looks up" if looked_up or any(t.chosen for _, t in weights) else "uses"
        found = frozenset({f"{problem} {{{leaf}}}" for leaf in leaves})
        return replace(
            before, node=None, bent=before.bent or problem == "uses",
            problems=before.problems | found,
        )  # fmt: skip

    def use(self, eqn: JaxprEqn, tags: list[Tag]) -> Use | None:
        """The layer that an equation is."""
        make = {
            "dot_general": _product,
            "conv_general_dilated": _convolution,
            "ragged_dot_general": _ragged,
        }.get(eqn.primitive.name)
        if make is None:
            return None
        for side in (1, 0):
            tag, other = tags[side], tags[1 - side]
            is_data = isinstance(other, Data) or other.chosen
            if not isinstance(tag, Weight) or not tag.learned or not is_data:
                continue
            found = make(eqn, tag, side)
            if found is None and not tag.chosen and tag.expression.known:
                tag = Weight.fresh(tag.expression, shape_of(eqn.invars[side]))
                found = make(eqn, tag, side)
            if found is not None:
                view, positions, contracted, geometry = found
                if view is None:
                    continue
                if not tag.source.known:
                    continue
                return Use(
                    self.number, tag.source, tag.shape, view, positions, self.loops,
                    _members(tag, view, self.loops), side, contracted, geometry,
                )  # fmt: skip
        return None

    def enters(self, operand: int, tag: Data) -> None:
        """Note a value of the data that meets parameters, for the first time or again."""
        if tag.node is not None and operand >= 0:
            self.trace.inputs.setdefault(self.number, set()).add(operand)
        if tag.node is None or (tag.node in self.met and operand >= 0):
            return
        if operand >= 0:
            self.met.add(tag.node)
        inside = len(self.loops) - (tag.depth if operand >= 0 else len(self.loops))
        self.trace.entries.setdefault(self.number, []).append((operand, inside))

    def leaves(self, tag: Data) -> None:
        """Note what happened since the last layer."""
        for number in tag.last:
            known = self.trace.factors.get(number, 1.0)
            bad = math.isnan(known + tag.factor)
            self.trace.factors[number] = math.nan if bad else max(known, tag.factor)

    def ends(self, outs: Sequence[Tag]) -> Data:
        data = [t for t in outs if isinstance(t, Data)]
        for tag in data:
            self.leaves(tag)
        return joined(data) if data else Data()

    def after(self, tag: Data, link: Link) -> Data:
        if tag.node is not None:
            return Data(node=self.number, depth=len(self.loops))
        problems = tag.problems | ({link.problem} if link.problem else set())
        factor = 1.0 if link.problem else tag.factor * link.factor
        if math.isnan(factor) and not tag.last:
            problems |= {"has a function of unknown Lipschitz constant before its first layer"}
        return replace(tag, factor=factor, bent=tag.bent or link.bent, problems=frozenset(problems))

    def scan(self, eqn: JaxprEqn, tags: list[Tag]) -> list[Tag]:
        """Follow a loop's body once, with what is true at every step."""
        body, here = eqn.params["jaxpr"], self.number
        n_consts, n_carry = scan_counts(eqn)
        split = n_consts + n_carry
        loop = Loop(here, eqn.params["length"])
        inside = len(self.loops) + 1
        slices = [
            _at_step(tag, loop, ("step of", here, k), inside) for k, tag in enumerate(tags[split:])
        ]
        start = tags[n_consts:split]
        inner = body.jaxpr.invars[n_consts:split]
        counters = set() if eqn.params["reverse"] else _counters(body.jaxpr, n_consts, n_carry)
        carry: list[Tag] = [
            _plain(expressions.counter(tag.expression, loop))
            if k in counters and isinstance(tag, Weight)
            else tag
            for k, tag in enumerate(start)
        ]

        def follow(tracer: Tracer) -> list[Tag]:
            tracer.number, tracer.loops = here, (*outer, loop)
            return tracer.closed(body, [*tags[:n_consts], *carry, *slices])

        outer, used = self.loops, set(self.trace.uses)
        for attempt in range(16):
            outs = follow(Tracer(met=set(self.met), vouched=self.vouched))[:n_carry]
            new = [
                old
                if k in counters and isinstance(old, Weight)
                else _carried(old, out, inner[k], Data(("carried", here, k), inside), attempt)
                for k, (old, out) in enumerate(zip(carry, outs, strict=True))
            ]
            changes = [_kind(a) != _kind(b) for a, b in zip(new, carry, strict=True)]
            if any(changes):  # what came out was about a value of another kind: once more
                now = zip(start, carry, new, changes, strict=True)
                new = [_start(tag, b) if changed else a for tag, a, b, changed in now]
            if all(a is b or a == b for a, b in zip(new, carry, strict=True)):
                break
            carry = new
        for k, (tag, now) in enumerate(zip(start, carry, strict=True)):
            if isinstance(tag, Data) and isinstance(now, Data) and now.node is None:
                self.enters(n_consts + k, tag)
        results = follow(self)
        self.loops = outer
        self.trace.loops[here] = self.number
        for tag, now in zip(start, carry, strict=True):
            if isinstance(tag, Weight) and tag.learned and isinstance(now, Data):
                for leaf in tag.expression.leaves:
                    self.trace.other.setdefault(leaf, ("scan",))
        many = loop.length > 1 and bool(set(self.trace.uses) - used)
        pairs = zip(results, eqn.outvars, strict=True)
        return [
            _leaving(tag, var, Data(("made by", here, k), len(outer)), many and k >= n_carry)
            for k, (tag, var) in enumerate(pairs)
        ]


def called(eqn: JaxprEqn) -> Any:
    """The program that a call calls."""
    return next(
        eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params
    )


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many operands of a ``scan`` are constants, and how many are carried.

    Told by the shapes, since releases of JAX name these counts differently: what is looped over has
    one axis more outside than inside.
    """
    inner = eqn.params["jaxpr"].jaxpr
    operands = zip(eqn.invars, inner.invars, strict=True)
    results = zip(eqn.outvars, inner.outvars, strict=True)
    kept = sum(len(shape_of(a)) == len(shape_of(b)) for a, b in operands)
    carried = sum(len(shape_of(a)) == len(shape_of(b)) for a, b in results)
    return kept - carried, carried


def _fixed(value: Any) -> Weight:
    return _plain(expressions.constant(value))


def _plain(expression: Expression) -> Weight:
    """The tag of a value that no parameter enters."""
    return Weight(expression, expression, (), ())


def _made(expression: Expression, var: Any) -> Weight:
    """The tag of a value that is computed from parameters or numbers."""
    if not expression.leaves:
        return _plain(expression)
    if expression.known:
        return Weight.fresh(expression, shape_of(var))
    axes = tuple((d,) for d in range(len(shape_of(var))))
    return Weight(expression, expression, shape_of(var), axes)


def _at_step(tag: Tag, loop: Loop, node: Any, depth: int) -> Tag:
    """The tag of ``value[i]`` at step i: the leading axis of a weight becomes a stack of layers."""
    if isinstance(tag, Data):
        return tag if tag.node is None else Data(node, depth)
    expression = expressions.at_step(tag.expression, loop)
    if not tag.learned:
        return _plain(expression)
    if len(tag.axes[0]) != 1 or tag.axes[0][0] >= len(tag.shape):
        shape = [math.prod(map(tag.size, group)) for group in tag.axes]
        tag = Weight.fresh(tag.expression, shape)
    member = Member(tag.axes[0][0], tuple(range(loop.length)), loop)
    return replace(tag, expression=expression, axes=tag.axes[1:], members=(*tag.members, member))


def _counters(jaxpr: Jaxpr, n_consts: int, n_carry: int) -> set[int]:
    """Which of the carried values are a number that grows by 1 at each step."""
    adds = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "add"]
    made: dict[Any, JaxprEqn] = {eqn.outvars[0]: eqn for eqn in adds}
    found = set()
    for k in range(n_carry):
        before, after = jaxpr.invars[n_consts + k], jaxpr.outvars[k]
        eqn = None if is_literal(after) else made.get(after)
        if eqn is None or before.aval.dtype.kind not in "iu":  # pyright: ignore
            continue
        ones = [a for a in eqn.invars if is_literal(a) and a.val == 1]
        if before in [a for a in eqn.invars if not is_literal(a)] and ones:
            found.add(k)
    return found


def _carried(old: Tag, new: Tag, var: Any, node: Data, attempt: int) -> Tag:
    """What is true of a carried value before a step, from what was assumed and what came out."""
    if isinstance(old, Weight) and isinstance(new, Weight):
        leaves = old.expression.leaves | new.expression.leaves
        if old.expression.text is None and old.expression.leaves == leaves:
            return old
        return _made(expressions.unknown(old.expression, new.expression), var)
    if all(t.node is not None if isinstance(t, Data) else not t.learned for t in (old, new)):
        return node
    found = joined([t for t in (old, new) if isinstance(t, Data)])
    if found.factor > 1 and attempt > 4:  # it grows at each step
        found = replace(found, factor=math.nan)
    return replace(found, node=None)


def _kind(tag: Tag) -> tuple[bool, bool]:
    return isinstance(tag, Data), isinstance(tag, Data) and tag.node is None


def _start(tag: Tag, kind: Tag) -> Tag:
    """A carried value before the first step, where it turns out to depend on the data later."""
    if isinstance(kind, Weight) or kind.node is not None:
        return kind
    if isinstance(tag, Data):
        return replace(tag, node=None)
    return Data(problems=frozenset(f"uses {{{leaf}}}" for leaf in tag.expression.leaves))


def _leaving(tag: Tag, var: Any, node: Data, joins: bool) -> Tag:
    """The tag of a value outside of the loop that made it."""
    if isinstance(tag, Data):
        if tag.node is not None:
            return node
        steps = {"uses what a layer computes at each step of a loop"} if joins else set()
        return replace(tag, problems=tag.problems | steps)
    # A weight that comes out of a loop is no longer one leaf.
    return _made(replace(expressions.unknown(tag.expression), loops=()), var)


def _members(tag: Weight, view: View, loops: tuple[Loop, ...]) -> np.ndarray:
    """The member of the stack at each step of the loops, -1 where it is not known."""
    found = np.zeros([loop.length for loop in loops], int)
    for axis in view.stacked:
        member = next((m for m in tag.members if m.axis == axis), None)
        if member is None or member.index is None:
            return np.full(found.shape, -1)
        index = np.asarray(member.index)
        if member.loop is not None:
            shape = [loop.length if loop == member.loop else 1 for loop in loops]
            index = index.reshape(shape)
        else:
            index = index[0]
        found = found * tag.shape[axis] + index
    return found


_Found = tuple[View | None, int, tuple[int, ...], Convolution | None]


def _product(eqn: JaxprEqn, tag: Weight, side: int) -> _Found | None:
    contract, batch = eqn.params["dimension_numbers"]
    mine, theirs = contract[side], contract[1 - side]
    free = [d for d in range(len(tag.axes)) if d not in mine and d not in batch[side]]
    if tag.repeated(mine):
        if not tag.chosen:
            return None
        # A sum over the matrices that are chosen for one place.
        pairs = [(m, t) for m, t in zip(mine, theirs, strict=True) if not tag.repeated([m])]
        mine, theirs = tuple(m for m, _ in pairs), tuple(t for _, t in pairs)
    view = _make_view(tag, free, list(mine), list(batch[side]))
    if view is None:
        return None
    data = shape_of(eqn.invars[1 - side])
    summed = {*contract[1 - side], *batch[1 - side]}
    positions = math.prod(n for d, n in enumerate(data) if d not in summed)
    rank = len(tag.shape)
    # Of one matrix for each place, or of one that is repeated: the places.
    places = [a for group in tag.axes for a in group if a >= rank]
    return view, positions * math.prod(map(tag.size, places)), tuple(theirs), None


def _ragged(eqn: JaxprEqn, tag: Weight, side: int) -> _Found | None:
    """Rows sorted by expert, each times the matrix of its own."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contract, batch = numbers.dot_dimension_numbers
    groups = list(numbers.rhs_group_dimensions)
    if side != 1 or not groups or batch[1]:
        return None
    mine = list(contract[1])
    free = [d for d in range(len(tag.axes)) if d not in (*mine, *groups)]
    view = _make_view(tag, free, mine, groups)
    data = shape_of(eqn.invars[0])
    positions = math.prod(n for d, n in enumerate(data) if d not in contract[0])
    return None if view is None else (view, positions, tuple(contract[0]), None)


def _convolution(eqn: JaxprEqn, tag: Weight, side: int) -> _Found | None:
    if side != 1 or eqn.params["batch_group_count"] != 1:
        return None
    data, kernel, out = (shape_of(v) for v in (*eqn.invars, eqn.outvars[0]))
    geometry = Convolution.of(eqn.params, data, kernel, out)
    rhs = geometry.dimension_numbers.rhs_spec
    if tag.repeated(range(len(tag.axes))):
        return None
    view = _make_view(tag, [rhs[0]], [*rhs[2:], rhs[1]], [])
    return None if view is None else (view, geometry.positions, (), geometry)


def _make_view(tag: Weight, out: list[int], in_: list[int], parallel: list[int]) -> View | None:
    out_axes, in_axes = tag.real(out), tag.real(in_)
    parallel_axes = (*tag.real(parallel), *tag.chosen)
    seen = {*out_axes, *in_axes, *parallel_axes}
    stacked = tuple(a for a in range(len(tag.shape)) if a not in seen)
    if not out_axes or not in_axes:
        return None
    return View(out_axes, in_axes, stacked, parallel_axes)
