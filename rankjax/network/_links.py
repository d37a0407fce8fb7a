"""What happens to activations between two layers, and how far it can move them apart.

The theorems are about chains: layer, activation, layer, and so on. A ``Link`` says of one equation
whether it keeps to that, with its Lipschitz constant in the 2-norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.network._activations import ACTIVATIONS

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn

SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient", "sharding_constraint",
        "device_put", "optimization_barrier", "name", "pvary"}  # fmt: skip
MOVES = SAME | {"reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "split",
                "dynamic_slice", "pad"}  # fmt: skip
# Odd or even functions of slope at most 1 that are 0 at 0.
_GENTLE = {"tanh", "sin", "atan", "asinh"}
_HOMOGENEOUS = {"leaky_relu"}


@dataclass(frozen=True)
class Link:
    """What an equation does to the activations that enter it.

    Attributes:
        factor: its Lipschitz constant; NaN if that is not known.
        bent: whether it is not positively homogeneous.
        problem: why no theorem about chains applies; empty if one may.
    """

    factor: float = 1.0
    bent: bool = False
    problem: str = ""


UNKNOWN = Link(math.nan, bent=True)


def of_activation(name: str, number: float) -> Link:
    """An activation of ``jax.nn``, recognized by its equations."""
    activation = ACTIVATIONS[name]
    if name == "softmax":
        return Link(bent=True, problem="normalizes activations (softmax)")
    if not _zero_at_zero(name):
        return Link(bent=True, problem=f"has an activation that is not 0 at 0 ({name})")
    return Link(activation.constant(number), bent=name not in _HOMOGENEOUS)


@cache
def _zero_at_zero(name: str) -> bool:
    with jax.ensure_compile_time_eval():
        return float(ACTIVATIONS[name].function(jnp.zeros((), jnp.float32))) == 0


def of_two(name: str) -> Link:
    """An equation of two values that both depend on the data."""
    if name in {"add", "sub", "add_any"}:
        problem = "adds the activations of two branches (a skip connection, a recurrence)"
    elif name in {"mul", "div", "pow", "square", "rem"}:
        problem = "multiplies or divides activations by each other (a gate, a normalization, an "
        problem += "activation that is not known)"
    elif name in {"dot_general", "conv_general_dilated", "ragged_dot_general"}:
        problem = "multiplies matrices of activations (attention, routing)"
    else:
        problem = f"joins the activations of two branches ({name!r})"
    return Link(bent=name not in {"add", "sub", "add_any", "concatenate"}, problem=problem)


def is_fine(dtype: Any) -> bool:
    """Whether a cast to this type just rounds: floating point numbers of 16 bits or more."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize >= 2


def cuts_off(eqn: JaxprEqn) -> bool:
    """Whether an equation is a cast that leaves other numbers, not just fewer digits.

    Those are casts to integers, truth values and floating point numbers of 8 bits or fewer, unless
    they hold every number of the type before.
    """
    if eqn.primitive.name != "convert_element_type":
        return False
    ends: Any = eqn.invars[0].aval, eqn.outvars[0].aval
    before, after = (a.dtype for a in ends)
    return not is_fine(after) and not np.can_cast(before, after)


def of_one(eqn: JaxprEqn, side: int, others: Sequence[np.ndarray | None]) -> Link:
    """An equation of activations (operand ``side``) and of numbers, ``None`` if not known."""
    name, (before, after) = eqn.primitive.name, _sizes(eqn, side)
    if name in {"add", "sub", "mul", "div", "max", "min"} and after > before:
        return UNKNOWN  # stretched without a word
    rest = [o for i, o in enumerate(others) if i != side]
    number = rest[0] if len(rest) == 1 else None
    if name in MOVES:
        if name == "pad" and (number is None or np.any(number != 0)):
            return UNKNOWN
        if name == "convert_element_type":
            ends: Any = eqn.invars[0].aval, eqn.outvars[0].aval
            floats = [jnp.issubdtype(a.dtype, jnp.floating) for a in ends]
            return Link() if all(floats) and not cuts_off(eqn) else UNKNOWN
        return Link()
    if name in {"neg", "abs"}:
        return Link()
    if name in _GENTLE:
        return Link(bent=True)
    if name == "logistic":
        return Link(bent=True, problem="has an activation that is not 0 at 0 (logistic)")
    if name == "erf":
        return Link(2 / math.sqrt(math.pi), bent=True)
    if name in {"max", "min", "clamp"}:
        fixed = all(o is not None and not np.any(o != 0) for o in rest)
        return Link(bent=not fixed) if fixed or _keeps_zero(name, rest) else UNKNOWN
    if name in {"add", "sub"}:
        if number is not None and not np.any(number != 0):
            return Link()
        return Link(bent=True, problem="adds numbers that are not weights to activations")
    if name in {"mul", "div"} and number is not None and not (name == "div" and side == 1):
        with np.errstate(all="ignore"):
            size = np.abs(np.asarray(number, float))
            size = size if name == "mul" else 1 / size
        # A negative number is no path of a positive network.
        negative = bool(np.any(number < 0))
        return Link(float(np.max(size, initial=0)), bent=negative)
    if name == "broadcast_in_dim":
        return Link(math.sqrt(after / max(before, 1)))
    if name == "concatenate":  # with zeros that are not data, as padding
        known = all(o is not None and not np.any(o != 0) for o in rest)
        return Link() if known else UNKNOWN
    if name == "reduce_sum":
        return Link(math.sqrt(before / max(after, 1)))
    if name in {"reduce_max", "reduce_min"}:
        return Link()
    if name in {"reduce_window_max", "reduce_window_sum"}:
        return Link(_window(eqn, summed=name == "reduce_window_sum"))
    if name == "select_n" and side > 0 and others[0] is not None:
        cases = [o for i, o in enumerate(others) if i not in (0, side)]
        known = all(o is not None and not np.any(o != 0) for o in cases)
        return Link() if known else UNKNOWN
    if name == "gather" and side == 0 and after <= before and _one_place(eqn):
        return Link()
    if name in {"dot_general", "conv_general_dilated"}:
        return Link(math.nan, problem="multiplies activations by a matrix that is not a parameter")
    return UNKNOWN


def _keeps_zero(name: str, rest: Sequence[np.ndarray | None]) -> bool:
    """Whether the function is 0 at 0: ``max(x, -1)``, ``clamp(0, x, 6)``."""
    if any(o is None for o in rest):
        return False
    bounds = [np.asarray(o) for o in rest]
    if name == "clamp":
        return bool(np.all(bounds[0] <= 0) and np.all(bounds[-1] >= 0))
    return bool(np.all(bounds[0] <= 0) if name == "max" else np.all(bounds[0] >= 0))


def _window(eqn: JaxprEqn, *, summed: bool) -> float:
    """Largest number of windows that a place is in, and of places that a window has."""
    sizes = eqn.params["window_dimensions"]
    strides = eqn.params["window_strides"]
    if any(d != 1 for d in (*eqn.params["window_dilation"], *eqn.params["base_dilation"])):
        return math.nan
    many = math.prod(-(-k // s) for k, s in zip(sizes, strides, strict=True))
    return math.sqrt(many * (math.prod(sizes) if summed else 1))


def _one_place(eqn: JaxprEqn) -> bool:
    """Whether a ``gather`` takes one slice, so that no entry is taken twice."""
    return math.prod(shape_of(eqn.invars[1])[:-1]) == 1


def _sizes(eqn: JaxprEqn, side: int) -> tuple[int, int]:
    return math.prod(shape_of(eqn.invars[side])), math.prod(shape_of(eqn.outvars[0]))


def shape_of(var: Any) -> tuple[int, ...]:
    """The shape of an operand or a result."""
    return tuple(var.aval.shape)
