"""Random numbers that ``vmap`` does not draw example by example.

The certificates evaluate each example as a batch of one, many at a time by ``vmap``. Generators of
the hardware (``rbg``) then draw numbers for the whole batch at once: those of one example depend on
how many stand beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rankjax._jax_internals import is_closed, is_literal, is_open

if TYPE_CHECKING:
    from rankjax._jax_internals import ClosedJaxpr, Jaxpr, JaxprEqn


def draws_by_batch(eqn: JaxprEqn) -> bool:
    """Whether random numbers come from such a generator."""
    kinds = [str(getattr(atom.aval, "dtype", "")) for atom in (*eqn.invars, *eqn.outvars)]
    return eqn.primitive.name in ("rng_bit_generator", "rng_uniform") or any(
        "rbg" in kind for kind in kinds
    )


def refused_draw(eqn: JaxprEqn) -> ValueError:
    """The refusal, with the way out."""
    return ValueError(
        f"apply: draws random numbers by {eqn.primitive.name!r} that differ from batch to batch; "
        "use keys of threefry, or none"
    )


def check_draws(closed: ClosedJaxpr, inputs: int) -> None:
    """Refuse draws that depend on the last ``inputs`` arguments, which are one example.

    Raises:
        ValueError: for such a draw, and for numbers that are drawn anew at each evaluation.
    """
    variables = closed.jaxpr.invars
    _look(closed.jaxpr, set(variables[len(variables) - inputs :]))


def _look(jaxpr: Jaxpr, touched: set[Any]) -> None:
    for eqn in jaxpr.eqns:
        depends = any(not is_literal(a) and a in touched for a in eqn.invars)
        if draws_by_batch(eqn) and (depends or eqn.primitive.name == "rng_uniform"):
            raise refused_draw(eqn)
        if depends:
            touched.update(eqn.outvars)
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if is_closed(inner) or is_open(inner):
                    inside: Any = inner.jaxpr if is_closed(inner) else inner
                    # Which argument is which differs from primitive to primitive: all or none.
                    _look(inside, set(inside.invars) if depends else set())
