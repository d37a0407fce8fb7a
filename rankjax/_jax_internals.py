"""All that is used of JAX beyond its public interface, with the reason.

``jax.extend.core`` is meant for libraries like this one, but promises no stability. Nothing is used
of ``jax.interpreters`` and ``jax._src``.

* ``ClosedJaxpr``, ``Jaxpr``, ``JaxprEqn``: ``network`` follows the weights through the traced
  program of ``apply``, equation by equation, and ``certificates`` has a rule for each primitive.
  Only types and their documented fields are used; no primitive is defined.
* ``jaxpr_as_fun``: ``certificates`` evaluates the program that it traced, and no other;
  ``network`` evaluates an activation of given constant at 0.
* ``JaxprEqn.ctx.threefry_partitionable``: random bits depend on this setting, and ``apply`` may set
  it for a part of what it does.

The module takes a tenth of a second to import (it brings Pallas along), so it is imported for type
checkers, and when a program is evaluated; what a program holds is told by its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeGuard

import jax

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr as ClosedJaxpr
    from jax.extend.core import Jaxpr as Jaxpr
    from jax.extend.core import JaxprEqn as JaxprEqn
    from jax.extend.core import Literal


def is_literal(atom: Any) -> TypeGuard[Literal]:
    """Whether an operand of an equation is a number written into the program."""
    return hasattr(atom, "val")


def is_closed(value: Any) -> TypeGuard[ClosedJaxpr]:
    """Whether this is a program with its constants."""
    return hasattr(value, "jaxpr") and hasattr(value, "consts")


def is_open(value: Any) -> TypeGuard[Jaxpr]:
    """Whether this is a program without its constants."""
    return hasattr(value, "constvars") and hasattr(value, "eqns") and not hasattr(value, "consts")


def as_function(closed: ClosedJaxpr) -> Callable[..., Any]:
    """The program as a function of its flat arguments."""
    from jax.extend.core import jaxpr_as_fun

    return jaxpr_as_fun(closed)


def run_equation(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The outputs of an equation for these inputs, random bits as where it was traced."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # Older releases of JAX return (functions, params), newer ones just params.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    setting = getattr(getattr(eqn, "ctx", None), "threefry_partitionable", None)
    with nullcontext() if setting is None else jax.threefry_partitionable(setting):
        outs = eqn.primitive.bind(*functions, *values, **params)
    return list(outs) if eqn.primitive.multiple_results else [outs]
