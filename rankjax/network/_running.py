"""Run a traced forward function and look at what it computes, or change it on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax.custom_batching import sequential_vmap

from rankjax._jax_internals import run_equation
from rankjax.network._tracing import CALLS, Program, called, scan_counts

if TYPE_CHECKING:  # jax.extend imports Pallas, a tenth of a second
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

# number of the equation, its operands and its results -> results, and what is to be kept of them
Look = Callable[[int, list[Any], list[Any]], tuple[list[Any], Any]]
# number of the equation and its operands -> operands
Change = Callable[[int, "JaxprEqn", list[Any]], list[Any]]


def run(
    program: Program,
    params: Any,
    x: Any,
    *,
    at: set[int],
    look: Look | None = None,
    change: Change | None = None,
) -> tuple[Any, dict[int, Any]]:
    """The outputs, and what ``look`` keeps at the equations ``at``, by number.

    Pure and traceable. What is kept inside of loops has one leading axis per loop. ``change`` is
    asked for the operands of every equation, loops included.
    """
    runner = _Runner(program, at, look, change)
    inputs = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
    outs = runner.closed(program.jaxpr, inputs)
    return jax.tree.unflatten(jax.tree.structure(program.shapes), outs), runner.kept


@dataclass
class _Runner:
    program: Program
    at: set[int]
    look: Look | None
    change: Change | None

    def __post_init__(self) -> None:
        self.number = 0
        self.kept: dict[int, Any] = {}

    def closed(self, closed: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        return self.jaxpr(closed.jaxpr, [*closed.consts, *values])

    def jaxpr(self, jaxpr: Jaxpr, values: Sequence[Any]) -> list[Any]:
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), values, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else env[atom]

        for eqn in jaxpr.eqns:
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        self.number += 1
        number = self.number
        if eqn.primitive.name in CALLS:
            inner = called(eqn)
            follow = self.closed if hasattr(inner, "consts") else self.jaxpr
            return follow(inner, values)
        end = self.program.trace.loops.get(number)
        if self.change is not None:
            values = self.change(number, eqn, values)
        if end is not None:
            if self.change is not None or any(number < k <= end for k in self.at):
                return self.looked_at(number, values, self.scan(eqn, values))
            self.number = end
        if eqn.primitive.name == "ragged_dot_general":  # has no rule for ``vmap``
            outs = sequential_vmap(lambda *v: run_equation(eqn, v))(*values)
        else:
            outs = run_equation(eqn, values)
        return self.looked_at(number, values, outs)

    def looked_at(self, number: int, values: list[Any], outs: list[Any]) -> list[Any]:
        if self.look is not None and number in self.at:
            outs, kept = self.look(number, values, outs)
            if kept is not None:
                self.kept[number] = kept
        return outs

    def scan(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        n_consts, n_carry = scan_counts(eqn)
        split, start = n_consts + n_carry, self.number
        outside = self.kept

        def body(carry: Any, xs: Any) -> Any:
            self.number, self.kept = start, {}
            outs = self.closed(eqn.params["jaxpr"], [*values[:n_consts], *carry, *xs])
            return outs[:n_carry], (outs[n_carry:], self.kept)

        carry, (ys, kept) = jax.lax.scan(
            body,
            values[n_consts:split],
            values[split:],
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
        )
        self.kept = {**outside, **kept}
        return [*carry, *ys]
