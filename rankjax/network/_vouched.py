"""Lipschitz constants of jitted functions that the caller vouches for, by the function's name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax._jax_internals import as_function, is_closed
from rankjax.network._links import Link, shape_of
from rankjax.network._tags import Data, Tag, Weight

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn


def checked_activations(activations: Mapping[str, float] | None) -> dict[str, float]:
    """The constants that the caller vouches for.

    Raises:
        ValueError: unless each is a positive, finite number.
    """
    if activations is not None and not isinstance(activations, Mapping):
        raise ValueError(f"activations: got {activations!r}, must map names to constants")
    found = {}
    for name, constant in (activations or {}).items():
        if not isinstance(name, str):
            raise ValueError(f"activations: got the name {name!r}, must be a text")
        number = isinstance(constant, int | float | np.number) and not isinstance(constant, bool)
        if not number or not math.isfinite(constant) or constant <= 0:
            raise ValueError(
                f"activations[{name!r}]: got {constant!r}, must be a positive, finite number"
            )
        found[name] = float(constant)
    return found


@dataclass
class Vouched:
    """The constants, and what was called while a program was followed."""

    constants: Mapping[str, float] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)

    def constant(self, eqn: JaxprEqn, tags: Sequence[Tag]) -> float | None:
        """The constant of what an equation calls on data, ``None`` without one.

        Raises:
            ValueError: a function of more than one array, of parameters, or that changes shapes.
        """
        call = "name" in eqn.params and is_closed(eqn.params.get("jaxpr"))
        if not call or not any(isinstance(tag, Data) for tag in tags):
            return None
        name = str(eqn.params["name"])
        self.called.add(name)
        if name not in self.constants:
            return None
        data = [tag for tag in tags if isinstance(tag, Data)]
        learned = any(isinstance(tag, Weight) and tag.learned for tag in tags)
        shapes = {shape_of(var) for var in eqn.outvars}
        shapes |= {shape_of(var) for var, tag in zip(eqn.invars, tags, strict=True) if tag in data}
        if len(data) != 1 or learned or len(eqn.outvars) != 1 or len(shapes) != 1:
            raise ValueError(
                f"activations: {name!r} must take one array, and no parameters, and return one of "
                "the same shape"
            )
        return self.constants[name]

    def instead_of(self, name: str, known: float) -> float:
        """The constant of an activation of ``jax.nn`` that is recognized by its equations.

        Raises:
            ValueError: a constant below the one that is known.
        """
        name = name.split(",")[0]  # both forms of gelu are gelu
        self.called.add(name)
        given = self.constants.get(name, known)
        if given < known:
            raise ValueError(
                f"activations[{name!r}]: got {given:g}, its largest slope is {known:g} already"
            )
        return given

    def check_all_met(self) -> None:
        """Raise ``ValueError`` for a constant of a function that was not called on data."""
        unmet = sorted(set(self.constants) - self.called)
        if unmet:
            raise ValueError(
                f"activations: {unmet} are never met; name jitted functions that apply calls on "
                f"data; those are {sorted(self.called)}"
            )


def link_of(eqn: JaxprEqn, constant: float, before: Data, followed: Tag) -> Link:
    """A called function with its constant; what its equations show stays true.

    Args:
        eqn: the call.
        constant: its Lipschitz constant.
        before: what it is applied to.
        followed: what its equations make of that.
    """
    problem = "" if _zero_at_zero(eqn) else "has an activation that is not 0 at 0"
    shown = isinstance(followed, Data) and followed.problems == before.problems
    bent = followed.bent if isinstance(followed, Data) and shown else True
    return Link(constant, bent=bent, problem=problem)


def _zero_at_zero(eqn: JaxprEqn) -> bool:
    """Whether it is; functions with further arguments are taken at the caller's word."""
    inner = eqn.params.get("jaxpr")
    if not is_closed(inner) or len(eqn.invars) != 1:
        return True
    aval: Any = eqn.invars[0].aval
    with jax.ensure_compile_time_eval():
        (out,) = as_function(inner)(jnp.zeros(aval.shape, aval.dtype))
        return not np.any(np.asarray(out))
