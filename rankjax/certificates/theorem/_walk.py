"""Reads a forward function equation by equation, with the rules of ``_rules.py``.

Whatever no weight has touched is computed as it is written, in its own types, casts included. From
the first weight on, all is computed in float64, and floating point casts are the identity: the
network that is certified is the exact one. Loops are unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from rankjax._jax_internals import is_closed, is_literal, run_equation
from rankjax.certificates._draws import draws_by_batch, refused_draw
from rankjax.certificates._held import check_subnormal
from rankjax.certificates._primitives import PRINTS
from rankjax.certificates.theorem._nodes import Node
from rankjax.certificates.theorem._rules import (
    RULES,
    join,
    join_entries,
    rounding,
    touched,
)
from rankjax.certificates.theorem._values import (
    DATA,
    FUNCTION,
    Entries,
    Moved,
    Recorder,
    Tag,
    Unknown,
    wide,
    widest,
)
from rankjax.network.internal import ACTIVATIONS, Match, find_activations, scan_counts

if TYPE_CHECKING:
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip
_SEVERAL = {"optimization_barrier", "device_put"}  # as many results as operands
_MOST_STEPS = 1000  # more would compile for hours
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_MULTIPLY = _PRODUCTS | {"mul", "div"}


@dataclass
class Reader:
    """Walks a jaxpr with the value and the provenance of every variable.

    Attributes:
        recorder: where nodes go.
        told: Lipschitz constants of jitted functions by name.
        met: the names among them that were found.
    """

    recorder: Recorder
    told: Mapping[str, float]
    met: set[str] = field(default_factory=set)
    _found: dict[int, dict[Any, Match]] = field(default_factory=dict)

    def run(
        self, closed: ClosedJaxpr, values: Sequence[Any], tags: Sequence[Tag]
    ) -> tuple[list[Any], list[Tag]]:
        """Values and provenance of the outputs."""
        consts = list(closed.consts)
        return self._jaxpr(closed.jaxpr, [*consts, *values], [*(None for _ in consts), *tags])

    def _jaxpr(self, jaxpr: Jaxpr, values: Sequence[Any], tags: Sequence[Tag]):
        variables = (*jaxpr.constvars, *jaxpr.invars)
        env: dict[Any, tuple[Any, Tag]] = dict(
            zip(variables, zip(values, tags, strict=True), strict=True)
        )
        matches = self._activations_in(jaxpr) if any(map(touched, tags)) else {}

        def read(atom: Any) -> tuple[Any, Tag]:
            return (atom.val, None) if is_literal(atom) else env[atom]

        for eqn in jaxpr.eqns:
            ins = [read(atom) for atom in eqn.invars]
            outs, out_tags = self.equation(eqn, [v for v, _ in ins], [t for _, t in ins])
            match = matches.get(eqn.outvars[0]) if eqn.outvars else None
            if match is not None:
                out_tags = [self._activation(match, read, outs[0], out_tags[0])]
            env.update(zip(eqn.outvars, zip(outs, out_tags, strict=True), strict=True))
        results = [read(atom) for atom in jaxpr.outvars]
        return [v for v, _ in results], [t for _, t in results]

    def _activations_in(self, jaxpr: Jaxpr) -> dict[Any, Match]:
        if id(jaxpr) not in self._found:  # the body of a loop is read once per step
            self._found[id(jaxpr)] = find_activations(jaxpr)
        return self._found[id(jaxpr)]

    def _activation(self, match: Match, read: Callable, out: Any, found: Tag) -> Tag:
        """The bound of a known activation, in place of what its equations say one by one."""
        value, tag = read(match.variable)
        number, number_tag = read(match.number) if match.number is not None else (0.0, None)
        if not isinstance(tag, Entries | Moved) or number_tag is not None:
            return found
        constant = ACTIVATIONS[match.name].constant(float(np.asarray(number)))
        if not np.isfinite(constant):
            return found
        rounded = rounding(out, FUNCTION)
        if match.name != "softmax":  # x (1 + tanh x) and x + sqrt(x^2 + 4) cancel at negative x
            rounded = rounded + rounding(value, FUNCTION)
        return self.recorder.scale(self.recorder.moved(tag), constant, rounded)

    def equation(
        self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]
    ) -> tuple[Sequence[Any], Sequence[Tag]]:
        """Values and provenance of the outputs of one equation."""
        name = eqn.primitive.name
        if name in PRINTS:  # what they call could change what is read next
            return [], []
        if name in _CALLS:
            return self._call(eqn, values, tags)
        if not any(map(touched, tags)):
            return self._untouched(eqn, values, tags)
        if name == "scan":
            return self._scan(eqn, values, tags)
        if name == "cond":
            return self._cond(eqn, values, tags)
        pairs = list(zip(values, tags, strict=True))
        for value, tag in pairs:
            if tag is None and not isinstance(value, Tracer):
                check_subnormal("apply: computes", value)
        product = name in _MULTIPLY
        values = [ordinary(value, product) if tag is DATA else value for value, tag in pairs]
        outs = self._compute(eqn, values)
        if product and any(tag is None and beyond(value) for value, tag in pairs):
            return outs, [Unknown("a product with a number beyond 1e-150 to 1e150")]
        return outs, self._tags(eqn, values, tags, outs)

    def _tags(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag], outs: list[Any]):
        name = eqn.primitive.name
        unknown = next((tag for tag in tags if isinstance(tag, Unknown)), None)
        if unknown is not None:
            return [unknown] * len(outs)
        if name in _SEVERAL:  # each result has the provenance of its own operand
            return list(tags)
        if name == "split":
            return self._split(eqn, tags[0], outs)
        found: list[Tag] = []
        for out, variable in zip(outs, eqn.outvars, strict=True):
            aval: Any = variable.aval
            if np.size(out) == 0:
                found.append(DATA)
            elif not jnp.issubdtype(aval.dtype, jnp.floating):
                found.append(_of_other_type(eqn, values, tags, aval))
            elif name not in RULES or len(outs) != 1:
                found.append(Unknown(repr(name)))
            else:
                found.append(RULES[name].apply(self.recorder, eqn, values, tags, out))
        return found

    def _split(self, eqn: JaxprEqn, tag: Tag, outs: list[Any]) -> list[Tag]:
        if not isinstance(tag, Entries):
            moved = self.recorder.moved(tag)
            return [replace(moved, rows=None) for _ in outs]
        ends = np.cumsum([int(size) for size in eqn.params["sizes"]])[:-1].tolist()
        axis = eqn.params["axis"]
        pairs = zip(np.split(tag.index, ends, axis), np.split(tag.factor, ends, axis), strict=True)
        return [Entries(index, factor, tag.products) for index, factor in pairs]

    def _compute(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """The result in exact arithmetic, as far as float64 goes."""
        name = eqn.primitive.name
        values = [wide(value) for value in values]
        if name == "reduce_precision":
            return [values[0]]
        if name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
            return [jnp.asarray(values[0]).astype(widest())]
        params = dict(eqn.params)
        if name in _PRODUCTS:
            params["preferred_element_type"] = None
            params["precision"] = jax.lax.Precision.HIGHEST
        try:
            found = run_equation(eqn.replace(params=params), values)
        except (TypeError, ValueError, NotImplementedError):
            raise refused(repr(name)) from None
        return _one_by_one(found)

    def _untouched(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]):
        """As it is written; constants are computed at once, since rules look at their values."""
        constant = not any(tag is not None for tag in tags)
        constant = constant and not any(isinstance(v, Tracer) for v in values)
        drawn_at_each_reading = eqn.primitive.name == "rng_uniform"
        if drawn_at_each_reading or (not constant and draws_by_batch(eqn)):
            raise refused_draw(eqn)
        with jax.ensure_compile_time_eval() if constant else nullcontext():
            pairs = zip(values, eqn.invars, strict=True)
            outs = run_equation(eqn, [as_declared(value, atom.aval) for value, atom in pairs])
        if constant:
            return outs, [None] * len(outs)
        return _one_by_one(outs), [DATA] * len(outs)

    def _call(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]):
        keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
        inner = next(eqn.params[key] for key in keys if key in eqn.params)
        name = str(eqn.params.get("name"))
        if name in self.told and any(map(touched, tags)):
            return self._told(name, inner, values, tags)
        return self._inner(inner, values, tags)

    def _inner(self, inner: Any, values: Sequence[Any], tags: Sequence[Tag]):
        if is_closed(inner):
            return self.run(inner, values, tags)
        return self._jaxpr(inner, values, tags)

    def _told(self, name: str, inner: Any, values: list[Any], tags: list[Tag]):
        """An activation whose constant the caller vouches for is not looked into."""
        moving = [(v, t) for v, t in zip(values, tags, strict=True) if touched(t)]
        others = [t for t in tags if t is not None and not touched(t)]
        if len(moving) != 1 or others or isinstance(moving[0][1], Unknown):
            raise ValueError(f"activations: {name!r} is not a function of one array here")
        silent = Reader(Recorder(self.recorder.weights, [Node("exact"), Node("exact")]), {})
        inside: list[Tag] = [None if t is None else Moved(1, 0.0) for t in tags]
        outs, found = silent._inner(inner, values, inside)
        if len(outs) != 1:
            raise ValueError(f"activations: {name!r} returns {len(outs)} values, must return one")
        self.met.add(name)
        moved = self.recorder.moved(moving[0][1])
        rounded = rounding(outs[0], FUNCTION)
        if isinstance(found[0], Moved):  # told is the slope of the exact function, no more
            rounded = rounded + found[0].rounding
        scaled = self.recorder.scale(moved, float(self.told[name]), rounded)
        return outs, [replace(scaled, rows=None)]

    def _cond(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]):
        if tags[0] is not None:
            raise refused("'cond' by a condition that depends on the data or on weights")
        branches = eqn.params["branches"]
        chosen = int(np.clip(int(np.asarray(values[0])), 0, len(branches) - 1))
        return self.run(branches[chosen], values[1:], tags[1:])

    def _scan(self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]):
        """All steps one after the other; what is collected has the nodes of every step."""
        body = eqn.params["jaxpr"]
        constants, carried = scan_counts(eqn)
        split = constants + carried
        carry, carry_tags = values[constants:split], tags[constants:split]
        steps = range(eqn.params["length"])
        if len(steps) > _MOST_STEPS:
            raise ValueError(
                f"apply: a loop of {len(steps)} steps over what depends on weights, must have at "
                f"most {_MOST_STEPS}: loops are unrolled"
            )
        collected: dict[int, tuple[list[Any], list[Tag]]] = {}
        for i in reversed(steps) if eqn.params["reverse"] else steps:
            outs, out_tags = self.run(
                body,
                [*values[:constants], *carry, *(_member(v, i) for v in values[split:])],
                [*tags[:constants], *carry_tags, *(_member_tag(t, i) for t in tags[split:])],
            )
            carry, carry_tags = outs[:carried], out_tags[:carried]
            collected[i] = outs[carried:], out_tags[carried:]
        stacked, stacked_tags = [], []
        for number in range(len(eqn.outvars) - carried):
            parts = [collected[i][0][number] for i in steps]
            if not parts:
                raise refused("'scan' of no steps")
            stacked.append(jnp.stack([wide(part) for part in parts]))
            stacked_tags.append(self._stacked([collected[i][1][number] for i in steps]))
        return [*carry, *stacked], [*carry_tags, *stacked_tags]

    def _stacked(self, tags: list[Tag]) -> Tag:
        unknown = next((tag for tag in tags if isinstance(tag, Unknown)), None)
        if unknown is not None:
            return unknown
        if all(isinstance(tag, Entries) for tag in tags):
            return join_entries(tags, np.stack)
        if not any(map(touched, tags)):
            return DATA
        return join(self.recorder, [self.recorder.moved(tag) for tag in tags])


def refused(what: str) -> ValueError:
    """The refusal of what no rule bounds, with the way out."""
    return ValueError(
        f"apply: certify has no rule for {what} applied to what depends on weights; for an "
        "activation, make it a jitted function of its own and give its Lipschitz constant in "
        "activations={name: constant}"
    )


def as_declared(value: Any, aval: Any) -> Any:
    """Numbers in the type that was declared for them."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return value
    return jnp.asarray(value).astype(jax.dtypes.canonicalize_dtype(dtype))


def _one_by_one(values: list[Any]) -> list[Any]:
    """Behind a barrier, or XLA would turn ``(x + c) - c`` into x and ``a/b/c`` into ``a/(bc)``.

    What it puts in their place can over- or underflow where the equations do not.
    """
    return [
        v
        if jnp.issubdtype(jnp.result_type(v), jax.dtypes.extended)
        else lax.optimization_barrier(v)
        for v in values
    ]


def beyond(numbers: Any) -> bool:
    """Whether one of them is so large or small that a product with it may be flushed to 0."""
    sizes = np.abs(np.asarray(numbers)).astype(float)
    return bool(np.any(((sizes < 1e-150) & (sizes > 0)) | (sizes > 1e150)))


def ordinary(value: Any, product: bool) -> Any:
    """The values, or NaN if one of them is subnormal or a product with it may be flushed to 0.

    Seen by their bits: XLA takes subnormal numbers for 0 where it compares them.
    """
    value = jnp.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating) or value.dtype == jnp.float16:
        return value
    info = jnp.finfo(value.dtype)
    bits = lax.bitcast_convert_type(
        value, {16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}[info.bits]
    )
    sizes = bits & bits.dtype.type(2 ** (info.bits - 1) - 1)
    bad = (sizes > 0) & (sizes < bits.dtype.type(2**info.nmant))
    if info.bits == 64 and product:
        size = jnp.abs(value)
        bad |= ((size < 1e-150) & (size > 0)) | (size > 1e150)
    return jnp.where(jnp.any(bad), jnp.asarray(jnp.nan, value.dtype), value)


def _of_other_type(eqn: JaxprEqn, values: list[Any], tags: list[Tag], aval: Any) -> Tag:
    """Integers and booleans: weights stored as integers may be moved, and nothing else."""
    name = eqn.primitive.name
    if isinstance(tags[0], Entries) and name in RULES and name != "convert_element_type":
        moved = RULES[name].apply(Recorder(0.0), eqn, values, tags, np.zeros(aval.shape))
        if isinstance(moved, Entries) and moved.factor.size and np.all(moved.factor == 1):
            return moved
    what = f"{name!r} to {aval.dtype}" if name == "convert_element_type" else repr(name)
    return Unknown(what)


def _member(value: Any, i: int) -> Any:
    if isinstance(value, Tracer):
        return value[i]
    with jax.ensure_compile_time_eval():
        return jnp.asarray(value)[i]


def _member_tag(tag: Tag, i: int) -> Tag:
    if isinstance(tag, Entries):
        return Entries(tag.index[i], tag.factor[i], tag.products)
    return replace(tag, rows=None) if isinstance(tag, Moved) else tag
