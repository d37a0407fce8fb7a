"""Activations of ``jax.nn`` whose Lipschitz constants are known, recognized by their equations.

A name proves nothing: any function can be called ``silu``. An activation is recognized when
equations of the network are, one by one, those that the function of ``jax.nn`` itself traces to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from rankjax._jax_internals import is_closed, is_literal, is_open

if TYPE_CHECKING:
    from rankjax._jax_internals import Jaxpr, JaxprEqn


@dataclass(frozen=True)
class Activation:
    """A function and its Lipschitz constant in the 2-norm.

    Attributes:
        function: of one array, or of one array and a number.
        constant: from that number (0.0 where there is none).
        proof: where the constant comes from.
    """

    function: Callable[..., Any]
    constant: Callable[[float], float]
    proof: str


def _at_least_one(number: float) -> float:
    """NaN stays NaN, unlike in ``max``."""
    return abs(number) if not abs(number) <= 1 else 1.0


def _always(constant: float) -> Callable[[float], float]:
    return lambda _: constant


#: The largest slopes of gelu, silu and mish, rounded up in the fourth digit; a test finds them
#: again on a fine grid. Those of the other entries are exact.
ACTIVATIONS: dict[str, Activation] = {
    "relu6": Activation(jax.nn.relu6, _always(1.0), "slope 0 or 1"),
    "softplus": Activation(jax.nn.softplus, _always(1.0), "its slope is the logistic function"),
    "log_sigmoid": Activation(jax.nn.log_sigmoid, _always(1.0), "-softplus(-x)"),
    "soft_sign": Activation(jax.nn.soft_sign, _always(1.0), "slope 1/(1 + |x|)^2"),
    "silu": Activation(jax.nn.silu, _always(1.0999), "slope at 2.3994"),
    "hard_tanh": Activation(jax.nn.hard_tanh, _always(1.0), "slope 0 or 1"),
    "hard_sigmoid": Activation(jax.nn.hard_sigmoid, _always(1 / 6), "slope 0 or 1/6"),
    "hard_silu": Activation(jax.nn.hard_silu, _always(1.5), "slope at 3, from the left"),
    "squareplus": Activation(jax.nn.squareplus, _always(1.0), "(1 + x/sqrt(x^2 + 4))/2"),
    "mish": Activation(jax.nn.mish, _always(1.0885), "slope at 1.4"),
    "gelu, tanh form": Activation(jax.nn.gelu, _always(1.13), "slope at 1.4"),
    "gelu": Activation(
        lambda x: jax.nn.gelu(x, approximate=False), _always(1.1290), "slope at sqrt(2)"
    ),
    "elu": Activation(jax.nn.elu, _at_least_one, "slope 1, or a exp(x) for x < 0"),
    "celu": Activation(jax.nn.celu, lambda a: 1.0, "slope 1, or exp(x/a) for x < 0"),
    "selu": Activation(jax.nn.selu, _always(1.7581), "lambda alpha, for x < 0"),
    "leaky_relu": Activation(jax.nn.leaky_relu, _at_least_one, "slope 1 or the given one"),
    "softmax": Activation(
        lambda x: jax.nn.softmax(x, axis=-1), _always(0.5), "|diag(p) - p p^T| <= 1/2"
    ),
}
_WITH_NUMBER = {"elu", "leaky_relu"}


@dataclass(frozen=True)
class Match:
    """An activation found in a jaxpr.

    Attributes:
        name: key of ``ACTIVATIONS``.
        variable: what it is applied to.
        number: its other argument, an atom of the jaxpr, if it has one.
    """

    name: str
    variable: Any
    number: Any


def find_activations(jaxpr: Jaxpr) -> dict[Any, Match]:
    """Which variables of a jaxpr are activations of others."""
    found: dict[Any, Match] = {}
    eqns = jaxpr.eqns
    for last, eqn in enumerate(eqns):
        if len(eqn.outvars) != 1:
            continue
        for name, pattern in _patterns_ending_in(eqn):
            first = last + 1 - len(pattern.eqns)
            if first < 0:
                continue
            binding = _bind(pattern, eqns[first : last + 1])
            if binding is not None:
                variable, *rest = (binding[v] for v in pattern.invars)
                found[eqn.outvars[0]] = Match(name, variable, rest[0] if rest else None)
                break
    return found


def _patterns_ending_in(eqn: JaxprEqn) -> Iterator[tuple[str, Jaxpr]]:
    aval = eqn.outvars[0].aval
    shape = getattr(aval, "shape", None)
    dtype = getattr(aval, "dtype", None)
    if not shape or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return
    for name in _ending_in(eqn.primitive.name):
        for pattern in _patterns(name, tuple(shape), jnp.dtype(dtype).name):
            if pattern.eqns and pattern.eqns[-1].primitive is eqn.primitive:
                yield name, pattern


@lru_cache(maxsize=64)
def _ending_in(primitive: str) -> tuple[str, ...]:
    found = []
    for name in ACTIVATIONS:
        last = {p.eqns[-1].primitive.name for p in _patterns(name, (2, 3), "float32") if p.eqns}
        if primitive in last:
            found.append(name)
    return tuple(found)


@lru_cache(maxsize=512)
def _patterns(name: str, shape: tuple[int, ...], dtype: str) -> tuple[Jaxpr, ...]:
    """The equations of the activation; calls around all of it are taken away."""
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    if name in _WITH_NUMBER:
        # Where the number is written down and where it is handed in trace differently.
        number = jax.ShapeDtypeStruct((), jnp.dtype(dtype), weak_type=True)
        arguments: tuple[tuple[Any, ...], ...] = ((x, number), (x,))
    else:
        arguments = ((x,),)
    found = []
    for args in arguments:
        try:
            jaxpr = jax.make_jaxpr(ACTIVATIONS[name].function)(*args).jaxpr
        except (TypeError, ValueError):  # an activation of arrays of other shapes
            continue
        while len(jaxpr.eqns) == 1 and (inner := inner_jaxpr(jaxpr.eqns[0])) is not None:
            if [*jaxpr.eqns[0].invars] != [*jaxpr.invars] or len(inner.invars) != len(args):
                break
            jaxpr = inner
        found.append(jaxpr)
    return tuple(found)


def inner_jaxpr(eqn: JaxprEqn) -> Jaxpr | None:
    """What a call calls."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(key)
        if is_closed(inner):
            return inner.jaxpr if not inner.consts else None
        if is_open(inner):
            return inner
    return None


def _bind(pattern: Jaxpr, eqns: Sequence[JaxprEqn]) -> dict[Any, Any] | None:
    """What each variable of the pattern stands for, if the equations are those of the pattern."""
    binding: dict[Any, Any] = {}
    if len(pattern.outvars) != 1 or pattern.constvars:
        return None
    for mine, theirs in zip(pattern.eqns, eqns, strict=True):
        if not _same_equation(mine, theirs, binding):
            return None
    if pattern.outvars[0] is not pattern.eqns[-1].outvars[0]:
        return None
    return binding if all(v in binding for v in pattern.invars) else None


def _same_equation(mine: JaxprEqn, theirs: JaxprEqn, binding: dict[Any, Any]) -> bool:
    if mine.primitive is not theirs.primitive or len(mine.invars) != len(theirs.invars):
        return False
    for a, b in zip(mine.invars, theirs.invars, strict=True):
        if is_literal(a):
            if not is_literal(b) or not np.array_equal(a.val, b.val):
                return False
        elif a in binding:
            if binding[a] is not b:
                return False
        else:
            if _shape(a) != _shape(b):
                return False
            binding[a] = b
    if [_shape(v) for v in mine.outvars] != [_shape(v) for v in theirs.outvars]:
        return False
    binding.update(zip(mine.outvars, theirs.outvars, strict=True))
    mine_inner, their_inner = inner_jaxpr(mine), inner_jaxpr(theirs)
    if (mine_inner is None) != (their_inner is None):
        return False
    if mine_inner is not None and their_inner is not None:
        return _same_jaxpr(mine_inner, their_inner)
    return _comparable(mine.params) == _comparable(theirs.params)


def _same_jaxpr(mine: Jaxpr, theirs: Jaxpr) -> bool:
    if len(mine.eqns) != len(theirs.eqns) or len(mine.invars) != len(theirs.invars):
        return False
    if mine.constvars or theirs.constvars:
        return False
    binding = dict(zip(mine.invars, theirs.invars, strict=True))
    if not all(_same_equation(a, b, binding) for a, b in zip(mine.eqns, theirs.eqns, strict=True)):
        return False
    pairs = zip(mine.outvars, theirs.outvars, strict=True)
    return all(
        (is_literal(a) and is_literal(b) and np.array_equal(a.val, b.val))
        or (not is_literal(a) and binding.get(cast(Any, a)) is b)
        for a, b in pairs
    )


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _comparable(params: dict[str, Any]) -> dict[str, str]:
    # Under vmap axes are integers of NumPy, which print otherwise than Python's.
    return {
        key: str(jax.tree.map(lambda v: int(v) if isinstance(v, np.integer) else v, value))
        for key, value in params.items()
        if not callable(value)
    }
