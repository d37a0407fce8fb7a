"""Runs a program in which some arrays are held as two factors.

Equation by equation; what no factor enters is bound as it stands, with its own rules of
differentiation. Calls, rematerialization and control flow are run with the factors inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from rankjax._jax_internals import is_literal, run_equation
from rankjax.network.internal import scan_counts
from rankjax.training._pair import Pair, dense, is_factored
from rankjax.training._pair_rules import RULES

if TYPE_CHECKING:
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn

_INLINED = {"jit", "pjit", "closed_call", "core_call"}
_REMAT = {"remat", "remat2", "checkpoint"}

#: Told of each array that is multiplied out: the path of the leaf, and what it met.
Report = Callable[[str, str], None]


class Walker:
    """Evaluates programs; ``report`` is told of what is multiplied out, and why."""

    def __init__(self, report: Report):
        self.report = report

    def closed(self, program: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        """The results of a program with its constants, some of them as factors."""
        return self.open(program.jaxpr, program.consts, values)

    def open(self, program: Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """The results of a program without its constants."""
        env: dict[Any, Any] = dict(zip(program.constvars, consts, strict=True))
        env |= dict(zip(program.invars, values, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if is_literal(atom) else env[atom]

        for eqn in _live(program):
            operands = [read(atom) for atom in eqn.invars]
            if any(map(is_factored, operands)):
                results = self._equation(eqn, operands)
                if results is None:
                    # Once: the next equation that reads the array finds it.
                    for atom, value in zip(eqn.invars, operands, strict=True):
                        if is_factored(value):
                            env[atom] = self.whole(read(atom), eqn.primitive.name)
                    results = run_equation(eqn, [read(atom) for atom in eqn.invars])
            else:
                results = run_equation(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in program.outvars]

    def whole(self, value: Any, reason: str) -> Any:
        """The array itself; it is reported if it was held as factors."""
        if is_factored(value):
            self.report(value.path, reason)
        return dense(value)

    def _equation(self, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
        name = eqn.primitive.name
        if name in _INLINED:
            return self.closed(eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], values)
        if name in _REMAT:
            body = eqn.params["jaxpr"]
            again = jax.checkpoint(
                lambda *operands: self.open(body, (), operands),
                prevent_cse=eqn.params["prevent_cse"],
                policy=eqn.params["policy"],
            )
            return again(*values)
        if name == "scan":
            return self._scan(eqn, values)
        if name == "while":
            return self._while(eqn, values)
        if name == "cond":
            index, *operands = (self.whole(values[0], name), *values[1:])
            run = [self._branch(branch) for branch in eqn.params["branches"]]
            return lax.switch(index, run, *operands)
        rule = RULES.get(name)
        return rule and rule(eqn, values, [tuple(v.aval.shape) for v in eqn.outvars])  # pyright: ignore[reportAttributeAccessIssue]

    def _branch(self, branch: ClosedJaxpr) -> Callable[..., list[Any]]:
        return lambda *values: [self.whole(v, "cond") for v in self.closed(branch, values)]

    # JAX hoists what a loop hands on unchanged, so a weight that stays one is no carry here.

    def _scan(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        body = eqn.params["jaxpr"]
        n_consts, n_carry = scan_counts(eqn)
        split = n_consts + n_carry
        over = [_Sliced(self, value) for value in values[split:]]

        def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
            slices = [x.member(row) for x, row in zip(over, rows, strict=True)]
            results = self.closed(body, [*values[:n_consts], *carry, *slices])
            results = [self.whole(value, "scan") for value in results]
            return results[:n_carry], results[n_carry:]

        start = self._start("scan", body.jaxpr.invars[n_consts:], values[n_consts:split])
        options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
        carry, collected = lax.scan(step, start, [x.rows for x in over], **options)
        return [*carry, *collected]

    def _while(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
        of_cond, of_body = values[:n_cond], values[n_cond : n_cond + n_body]

        def step(carry: list[Any]) -> list[Any]:
            return [self.whole(value, "while") for value in self.closed(body, [*of_body, *carry])]

        return lax.while_loop(
            lambda carry: self.closed(condition, [*of_cond, *carry])[0],
            step,
            self._start("while", body.jaxpr.invars[n_body:], values[n_cond + n_body :]),
        )

    def _start(self, loop: str, inside: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        """What a loop begins with; numbers as arrays of the types that it goes on with."""
        whole = [self.whole(value, loop) for value in values]
        return [
            value if isinstance(value, jax.Array) else jnp.asarray(value, var.aval.dtype)
            for var, value in zip(inside, whole, strict=False)
        ]


class _Sliced:
    """What a scan loops over: the factors that have the axis of the layers, and the others."""

    def __init__(self, walker: Walker, value: Any):
        self.pair = value if isinstance(value, Pair) and len(value.dims[0]) == 1 else None
        self.rows: Any
        if self.pair is None:
            self.rows = walker.whole(value, "scan")
            return
        (self.label,) = self.pair.dims[0]
        self.rows = [
            jnp.moveaxis(factor, labels.index(self.label), 0)
            for factor, labels in self.pair.factors
            if self.label in labels
        ]

    def member(self, row: Any) -> Any:
        """One step's part."""
        if self.pair is None:
            return row
        rows = iter(row)
        right, left = (
            next(rows) if self.label in labels else factor for factor, labels in self.pair.factors
        )
        part = self.pair.without(self.label, left, right)
        return replace(part, dims=part.dims[1:])


def _live(program: Jaxpr) -> list[JaxprEqn]:
    """The equations whose results are read; a weight is not multiplied out for the others."""
    needed = {var for var in program.outvars if not is_literal(var)}
    kept: list[JaxprEqn] = []
    for eqn in reversed(program.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            needed |= {var for var in eqn.invars if not is_literal(var)}
            kept.append(eqn)
    return kept[::-1]
