"""Values that do not depend on the data, as the steps that compute them from the parameters.

The tracer keeps an ``Expression`` of every such value. Where one meets the data as a matrix that is
no leaf (a scaled, masked, normalized or joined weight), the expression gives the matrix that acts,
as a function of the parameters: differentiable, and the same steps that ``apply`` takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from rankjax._jax_internals import run_equation
from rankjax.network._view import View

if TYPE_CHECKING:  # jax.extend imports Pallas, a tenth of a second
    from rankjax._jax_internals import JaxprEqn


@dataclass(frozen=True)
class Loop:
    """A ``scan``: the number of its equation, and how many steps it takes (static)."""

    number: int
    length: int


At = Mapping[Loop, Any]  # the step at which each loop is
Compute = Callable[[Callable[["Expression"], Any], Sequence[Any], At], Any]


@dataclass(frozen=True, eq=False)
class Expression:
    """One value.

    Attributes:
        compute: the value, from a function that gives the values of other expressions, the leaves
            of the parameters, and the step of each loop.
        name: the primitive, or what else it is.
        text: tells it apart from others of the same inputs; ``None``: not known (a value that a
            loop carries).
        inputs: the expressions that it is computed from.
        leaves: numbers of the leaves of the parameters that it depends on.
        loops: the loops whose step it depends on.
    """

    compute: Compute
    name: str
    text: str | None
    inputs: tuple[Expression, ...] = ()
    leaves: frozenset[int] = frozenset()
    loops: tuple[Loop, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it can be computed."""
        return all(e.text is not None for e in self.steps())

    def steps(self) -> list[Expression]:
        """All expressions that it consists of, inputs first."""
        found: dict[int, Expression] = {}
        pending = [(self, False)]
        while pending:
            e, done = pending.pop()
            if done:
                found[id(e)] = e
            elif id(e) not in found:
                pending += [(e, True), *((i, False) for i in e.inputs)]
        return list(found.values())

    def value(self, leaves: Sequence[Any] = (), at: At | None = None) -> Any:
        """The value for these leaves, at these steps of the loops it depends on."""
        found: dict[int, Any] = {}
        for e in self.steps():  # inputs first, so that nothing is computed by recursion
            found[id(e)] = e.compute(lambda i: found[id(i)], leaves, at or {})
        return found[id(self)]

    def number(self, at: At | None = None) -> np.ndarray | None:
        """Its value, where it depends on no parameter, no traced array and no other loop."""
        if self.leaves or set(self.loops) - set(at or ()) or not self.known:
            return None
        with jax.ensure_compile_time_eval():
            value = self.value(at=at)
        if isinstance(value, Tracer) or not _is_numeric(value):
            return None
        return np.asarray(value)


def leaf(index: int) -> Expression:
    """A leaf of the parameters."""
    return Expression(lambda _, leaves, __: leaves[index], "leaf", str(index),
                      leaves=frozenset({index}))  # fmt: skip


def constant(value: Any) -> Expression:
    """A number or an array that the program holds."""
    return Expression(lambda *_: value, "constant", "")


def step(eqn: JaxprEqn, inputs: Sequence[Expression], output: int) -> Expression:
    """One output of an equation."""

    def compute(value: Callable[[Expression], Any], _: Any, __: Any) -> Any:
        outs = run_equation(eqn, [value(e) for e in inputs])
        return outs[output]

    name = eqn.primitive.name
    return _joined(compute, name, f"{name} {eqn.params} {output}", inputs)


def at_step(stack: Expression, loop: Loop) -> Expression:
    """``stack[i]`` at step i of a loop."""

    def compute(value: Callable[[Expression], Any], _: Any, at: At) -> Any:
        return value(stack)[at[loop]]

    return _joined(compute, "scan", f"member {loop.number}", (stack,), (loop,))


def counter(start: Expression, loop: Loop) -> Expression:
    """``start + i`` at step i of a loop."""

    def compute(value: Callable[[Expression], Any], _: Any, at: At) -> Any:
        first = jnp.asarray(value(start))
        return first + jnp.asarray(at[loop], first.dtype)

    return _joined(compute, "scan", f"counter {loop.number}", (start,), (loop,))


def unknown(*inputs: Expression) -> Expression:
    """What a loop carries: it depends on these values and is not known as a formula."""
    return _joined(lambda *_: None, "scan", None, inputs)


def all_steps(of: Expression) -> Expression:
    """The values at all steps of its loops, ``(*lengths, *shape)``."""

    def compute(_: Any, leaves: Sequence[Any], at: At) -> Any:
        def one(*steps: Any) -> Any:
            return of.value(leaves, {**at, **dict(zip(of.loops, steps, strict=True))})

        function = one
        for k in reversed(range(len(of.loops))):
            axes = [None] * len(of.loops)
            axes[k] = 0  # pyright: ignore[reportArgumentType, reportCallIssue]
            function = jax.vmap(function, tuple(axes))
        return function(*(jnp.arange(loop.length) for loop in of.loops))

    text = f"all of {digest(of)}" if of.known else None
    return Expression(compute, of.name, text, leaves=of.leaves)


def _joined(
    compute: Compute,
    name: str,
    text: str | None,
    inputs: Sequence[Expression],
    loops: tuple[Loop, ...] = (),
) -> Expression:
    leaves = frozenset[int]().union(*(e.leaves for e in inputs))
    every = dict.fromkeys([loop for e in inputs for loop in e.loops] + list(loops))
    ordered = tuple(sorted(every, key=lambda loop: loop.number))
    return Expression(compute, name, text, tuple(inputs), leaves, ordered)


def digest(expression: Expression) -> str:
    """The same text for expressions that take the same steps."""
    names: dict[int, str] = {}
    for number, e in enumerate(expression.steps()):
        text = _text_of(e.value()) if e.name == "constant" else e.text
        names[id(e)] = f"{number}:{text}({[names[id(i)].split(':')[0] for i in e.inputs]})"
    return hashlib.sha256("\n".join(names.values()).encode()).hexdigest()


def _text_of(value: Any) -> str:
    if isinstance(value, Tracer) or not _is_numeric(value):
        return f"{type(value)} {id(value)}"
    host = np.asarray(value)
    return f"{host.dtype} {host.shape} {hashlib.sha256(host.tobytes()).hexdigest()}"


def _is_numeric(value: Any) -> bool:
    return not jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended)


@dataclass(frozen=True)
class Effect:
    """How the matrix that acts is computed from leaves (static; equal if the steps are equal).

    Attributes:
        paths: the leaves it is computed from; the first is the largest, or the left factor.
        shapes: their shapes.
        steps: names of the primitives, for messages.
        key: tells the steps apart.
        factors: of the product of two leaves, told by their names, how each is a matrix.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[str, ...]
    key: str
    compute: Callable[[Mapping[str, Any]], Array] = field(compare=False, repr=False)
    factors: tuple[View, View] | None = None

    @classmethod
    def of(
        cls, source: Expression, paths: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
    ) -> Effect:
        """From an expression; ``paths`` are those of all leaves in their order."""
        used = sorted(source.leaves, key=lambda i: (-int(np.prod(shapes[paths[i]])), i))

        def compute(found: Mapping[str, Any]) -> Array:
            leaves = {i: jnp.asarray(found[paths[i]]) for i in used}
            return jnp.asarray(source.value([leaves.get(i) for i in range(len(paths))]))

        named = tuple(paths[i] for i in used)
        names = [e.name for e in source.steps() if e.name not in {"leaf", "constant"}]
        return cls(
            named,
            tuple(shapes[path] for path in named),
            tuple(dict.fromkeys([*names, source.name])),
            f"{digest(source)} {paths}",
            compute,
        )
