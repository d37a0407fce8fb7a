"""Find out what each parameter does by following it through the forward function.

``interpret`` runs the function's jaxpr equation by equation and remembers where each value comes
from: a parameter leaf (possibly transposed, reshaped or cast), the data, or neither. Where a leaf
meets the data in a matrix product or a convolution, that is a layer: its rows, columns, geometry
and place in the order are read off the equation, whatever the framework calls the leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax.network._convolution import Convolution
from rankjax.network._view import View

if TYPE_CHECKING:  # jax.extend imports Pallas, a tenth of a second
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn


@dataclass(frozen=True)
class Use:
    """One place where a leaf multiplies the data (static).

    Attributes:
        leaf: number of the leaf in the flattened parameters.
        view: the leaf's axes by role.
        positions: how many times the matrix is applied to one example (patches, tokens).
        contracted: axes of the data that are summed over; empty for a convolution.
        convolution: the geometry, for a convolution.
    """

    leaf: int
    view: View
    positions: int
    contracted: tuple[int, ...] = ()
    convolution: Convolution | None = None

    def squared_row_norms(self, data: Array) -> Array:
        """Squared 2-norms of the vectors the matrix is applied to (all patches or tokens)."""
        if self.convolution is not None:
            return self.convolution.squared_patch_norms(data)
        return jnp.sum(jnp.square(data), axis=self.contracted)


@dataclass
class Weight:
    """Provenance: this value is leaf ``leaf``; ``axes[d]`` are the leaf's axes in dimension d."""

    leaf: int
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]


@dataclass
class Changed:
    """Provenance: this value was computed from leaves by ``primitive`` and nothing else."""

    leaves: frozenset[int]
    primitive: str


@dataclass(frozen=True)
class Data:
    """Provenance: this value depends on the data; ``node`` is whatever a subclass notes of it."""

    node: Any = None


DATA = Data()
Tag = Weight | Changed | Data | None
CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip
_SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient", "sharding_constraint",
         "device_put", "optimization_barrier", "reduce_precision"}  # fmt: skip

OnUse = Callable[[Use, Array], None]
OnOutput = Callable[[Use, Array], Array]


@dataclass
class Trace:
    """What ``interpret`` found: the output, the uses in order, and how other leaves were used."""

    output: Any = None
    uses: list[Use] = field(default_factory=list)
    other: dict[int, tuple[str, ...]] = field(default_factory=dict)


def interpret(
    apply: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    on_use: OnUse | None = None,
    on_output: OnOutput | None = None,
) -> Trace:
    """Run ``apply(params, x)`` for a batch of one example and report each weight's use.

    ``on_use(use, data)`` is called with the array that the weight is applied to, and
    ``on_output(use, out)`` may replace the array that comes out. Pure and
    traceable: call it under ``jit``, ``vmap`` or ``eval_shape``. Loops (``scan``) are unrolled;
    what happens inside ``while`` and ``cond`` is run but not looked into.
    """
    walker = Walker(Trace(), on_use or (lambda use, data: None), on_output)
    walk(walker, apply, params, x)
    return walker.trace


def walk(
    walker: Walker,
    apply: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    data: Tag = DATA,
) -> list[Tag]:
    """Let a walker run ``apply(params, x)``; the provenance of the outputs.

    ``data`` is the provenance of the entries of ``x``.
    """
    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(params, x)
    leaves = jax.tree.leaves(params)
    tags: list[Tag] = [
        Weight(i, jnp.shape(leaf), tuple((d,) for d in range(jnp.ndim(leaf))))
        for i, leaf in enumerate(leaves)
    ]
    inputs = jax.tree.leaves(x)
    outs, out_tags = walker.run(closed, [*leaves, *inputs], tags + [data] * len(inputs))
    walker.trace.output = jax.tree.unflatten(jax.tree.structure(shapes), outs)
    return out_tags


@dataclass
class Walker:
    """Runs a jaxpr with the provenance of every value; subclasses may note more of the data."""

    trace: Trace
    on_use: OnUse
    on_output: OnOutput | None = None

    def run(
        self, closed: ClosedJaxpr, values: Sequence[Any], tags: Sequence[Tag]
    ) -> tuple[list[Any], list[Tag]]:
        """Values and provenance of the outputs."""
        consts = [None] * len(closed.consts)
        return self._jaxpr(closed.jaxpr, [*closed.consts, *values], [*consts, *tags])

    def _jaxpr(self, jaxpr: Jaxpr, values: Sequence[Any], tags: Sequence[Tag]):
        env = dict(
            zip((*jaxpr.constvars, *jaxpr.invars), zip(values, tags, strict=True), strict=True)
        )

        def read(atom):
            is_literal = hasattr(atom, "val")
            return (atom.val, None) if is_literal else env[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            outs, out_tags = self.equation(eqn, [v for v, _ in ins], [t for _, t in ins])
            env.update(zip(eqn.outvars, zip(outs, out_tags, strict=True), strict=True))
        results = [read(atom) for atom in jaxpr.outvars]
        return [v for v, _ in results], [t for _, t in results]

    def equation(
        self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]
    ) -> tuple[list[Any], list[Tag]]:
        """Values and provenance of the outputs of one equation."""
        name = eqn.primitive.name
        if name in CALLS:
            keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
            inner = next(eqn.params[key] for key in keys if key in eqn.params)
            closed = hasattr(inner, "consts")
            return (self.run if closed else self._jaxpr)(inner, values, tags)
        if name == "scan":
            return self._scan(eqn, values, tags)
        bound = eqn.primitive.get_bind_params(eqn.params)
        # Older releases of JAX return (functions, params), newer ones just params.
        subfuns, params = bound if isinstance(bound, tuple) else ((), bound)
        outs = eqn.primitive.bind(*subfuns, *values, **params)
        outs = list(outs) if eqn.primitive.multiple_results else [outs]
        before = len(self.trace.uses)
        tag = self._tag(eqn, values, tags)
        if self.on_output is not None and len(self.trace.uses) > before:
            outs = [self.on_output(self.trace.uses[-1], outs[0])]
        return outs, [tag] * len(outs)

    def _scan(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]):
        body = eqn.params["jaxpr"]
        n_consts, n_carry = scan_counts(eqn)
        split = n_consts + n_carry
        carry, carry_tags = values[n_consts:split], tags[n_consts:split]
        steps = range(eqn.params["length"])
        if eqn.params["reverse"]:
            steps = reversed(steps)
        collected: dict[int, list[Any]] = {}
        y_tags: list[Tag] = []
        for i in steps:
            outs, out_tags = self.run(
                body,
                [*values[:n_consts], *carry, *(v[i] for v in values[split:])],
                [*tags[:n_consts], *carry_tags, *(_drop_leading(t) for t in tags[split:])],
            )
            carry, carry_tags = outs[:n_carry], out_tags[:n_carry]
            collected[i], y_tags = outs[n_carry:], out_tags[n_carry:]
        ordered = [collected[i] for i in sorted(collected)]
        stacked = [jnp.stack(ys) for ys in zip(*ordered, strict=True)]
        # A weight that comes out of a loop is no longer one leaf.
        y_tags = [_changed([t], "scan") if isinstance(t, Weight) else t for t in y_tags]
        return [*carry, *stacked], [*carry_tags, *y_tags]

    def _tag(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]) -> Tag:
        name = eqn.primitive.name
        weights = [t for t in tags if isinstance(t, Weight | Changed)]
        if any(isinstance(t, Data) for t in tags):
            before = len(self.trace.uses)
            if weights and not self._record_use(eqn, values, tags):
                for tag in weights:
                    leaves = [tag.leaf] if isinstance(tag, Weight) else tag.leaves
                    how = (name,) if isinstance(tag, Weight) else (tag.primitive, name)
                    for leaf in leaves:
                        self.trace.other.setdefault(leaf, how)
            use = self.trace.uses[-1] if len(self.trace.uses) > before else None
            return self.follow(eqn, values, tags, use)
        if not weights:
            return None
        if len(weights) == 1 and isinstance(weights[0], Weight):
            return _move(weights[0], eqn, values) or _changed(weights, name)
        return _changed(weights, name)

    def follow(
        self, eqn: JaxprEqn, values: list[Any], tags: Sequence[Tag], use: Use | None
    ) -> Data:
        """What to note of the result of an equation that data enters; ``use``, if it is a layer."""
        return DATA

    def _record_use(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]) -> bool:
        """Record the layer if this equation is one; False otherwise."""
        make = {"dot_general": _product, "conv_general_dilated": _convolution}
        if eqn.primitive.name not in make:
            return False
        side = next((i for i, t in enumerate(tags) if isinstance(t, Weight)), 0)
        tag = tags[side]
        if not isinstance(tag, Weight) or not isinstance(tags[1 - side], Data):
            return False
        use = make[eqn.primitive.name](eqn, values, tag, side)
        if use is None:
            return False
        self.trace.uses.append(use)
        self.on_use(use, values[1 - side])
        return True


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many operands of a ``scan`` are constants, and how many are carried.

    Told by the shapes, since releases of JAX name these counts differently: what is looped over has
    one axis more outside than inside.
    """
    inner = eqn.params["jaxpr"].jaxpr
    operands = zip(eqn.invars, inner.invars, strict=True)
    results = zip(eqn.outvars, inner.outvars, strict=True)
    kept = sum(len(_shape(a)) == len(_shape(b)) for a, b in operands)
    carried = sum(len(_shape(a)) == len(_shape(b)) for a, b in results)
    return kept - carried, carried


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)


def _changed(tags: Sequence[Weight | Changed | None], primitive: str) -> Changed:
    leaves: set[int] = set()
    for tag in tags:
        if isinstance(tag, Weight):
            leaves.add(tag.leaf)
        elif isinstance(tag, Changed):
            leaves |= tag.leaves
    return Changed(frozenset(leaves), primitive)


def _drop_leading(tag: Tag) -> Tag:
    """The provenance of ``value[i]``: the leading axis becomes a stack of layers."""
    return Weight(tag.leaf, tag.shape, tag.axes[1:]) if isinstance(tag, Weight) else tag


def _move(tag: Weight, eqn: JaxprEqn, values: list[Any]) -> Weight | None:
    """The provenance after an equation that only moves the entries of a weight, else ``None``."""
    name = eqn.primitive.name
    if name in _SAME:
        return tag
    if name == "transpose":
        axes = tuple(tag.axes[i] for i in eqn.params["permutation"])
        return Weight(tag.leaf, tag.shape, axes)
    shape = _shape(eqn.outvars[0])
    if name in {"reshape", "squeeze", "expand_dims"}:
        return _regroup(tag, shape)
    if name == "broadcast_in_dim":
        same_size = math.prod(shape) == math.prod(values[0].shape)
        return _regroup(tag, shape) if same_size else None
    if name in {"slice", "dynamic_slice"}:
        # W[i] of a stack: one member of an axis is taken, every other axis whole.
        before = values[0].shape
        cut = [d for d, (a, b) in enumerate(zip(before, shape, strict=True)) if a != b]
        if len(cut) == 1 and shape[cut[0]] == 1:
            axes = tuple(() if d == cut[0] else a for d, a in enumerate(tag.axes))
            return Weight(tag.leaf, tag.shape, axes)
    return None


def _regroup(tag: Weight, shape: Sequence[int]) -> Weight | None:
    """Follow a reshape that merges neighboring axes or adds and drops axes of size 1."""
    rest = [a for group in tag.axes for a in group if tag.shape[a] != 1]
    units = [a for group in tag.axes for a in group if tag.shape[a] == 1]
    axes: list[tuple[int, ...]] = []
    for size in shape:
        group: list[int] = []
        while math.prod(tag.shape[a] for a in group) < size and rest:
            group.append(rest.pop(0))
        if math.prod(tag.shape[a] for a in group) != size:
            return None
        axes.append(tuple(group))
    if rest:
        return None
    # Axes of size 1 belong anywhere; keep them with the first dimension of size 1, else the last.
    if units and axes:
        home = next((d for d, size in enumerate(shape) if size == 1), len(axes) - 1)
        axes[home] = (*units, *axes[home])
    return Weight(tag.leaf, tag.shape, tuple(axes))


def _make_view(tag: Weight, out: list[int], in_: list[int], parallel: list[int]) -> View | None:
    def pick(dims):
        return tuple(a for d in dims for a in tag.axes[d])

    out_axes, in_axes, parallel_axes = pick(out), pick(in_), pick(parallel)
    seen = {*out_axes, *in_axes, *parallel_axes}
    stacked = tuple(a for a in range(len(tag.shape)) if a not in seen)
    if not out_axes or not in_axes:
        return None
    return View(out_axes, in_axes, stacked, parallel_axes)


def _product(eqn: JaxprEqn, values: list[Any], tag: Weight, side: int) -> Use | None:
    contract, batch = eqn.params["dimension_numbers"]
    mine, theirs = contract[side], contract[1 - side]
    free = [d for d in range(len(tag.axes)) if d not in mine and d not in batch[side]]
    view = _make_view(tag, free, list(mine), list(batch[side]))
    if view is None:
        return None
    data = values[1 - side]
    summed = {*theirs, *batch[1 - side]}
    positions = math.prod(n for d, n in enumerate(data.shape) if d not in summed)
    return Use(tag.leaf, view, positions, contracted=tuple(theirs))


def _convolution(eqn: JaxprEqn, values: list[Any], tag: Weight, side: int) -> Use | None:
    if side != 1 or eqn.params["batch_group_count"] != 1:
        return None
    shapes = values[0].shape, values[1].shape, _shape(eqn.outvars[0])
    geometry = Convolution.of(eqn.params, *shapes)
    rhs = geometry.dimension_numbers.rhs_spec
    view = _make_view(tag, [rhs[0]], [*rhs[2:], rhs[1]], [])
    if view is None:
        return None
    return Use(tag.leaf, view, geometry.positions, convolution=geometry)
