"""Primitives that a certified function may use: those that do what their equations say.

A primitive can carry Python code of its user: a rule for ``vmap``, a lowering, an exported program.
What such code computes, and the numbers it holds, are not in the equations; and the certificate
reads nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from rankjax._jax_internals import JaxprEqn

_OUTSIDE = ("callback", "ffi_call", "custom_call", "outside_call")
_OPAQUE = ("exported", "pallas", "composite")  # programs that a backend compiles in its own way
PRINTS = {"debug_callback", "debug_print"}  # nothing comes back from them
_DERIVATIVES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}  # code for them only
_GENERATORS = ("threefry2x32", "rbg", "unsafe_rbg")

_OF_JAX: dict[int, Any] = {}  # those that were found, by identity


def check_primitive(eqn: JaxprEqn) -> None:
    """Refuse an equation that may compute something else than it says.

    Raises:
        ValueError: if it calls out of JAX, changes an array in place, or holds Python code.
    """
    name = eqn.primitive.name
    if name in PRINTS and _is_of_jax(eqn.primitive):
        return
    if any(part in name for part in _OUTSIDE):
        raise ValueError(
            f"apply: calls out of JAX by {name!r}; what happens there cannot be certified"
        )
    if eqn.effects:
        raise ValueError(
            f"apply: reads or changes a mutable array by {name!r}; must be a pure function"
        )
    code = name not in _DERIVATIVES and any(
        _is_code(value)
        for key, value in eqn.params.items()
        if key != "policy"  # of a checkpoint: what is kept for the backward pass
    )
    if code or any(part in name for part in _OPAQUE) or not _is_of_jax(eqn.primitive):
        raise ValueError(
            f"apply: uses {name!r}, which runs Python code that its equations do not show; it "
            "cannot be certified"
        )
    for atom in (*eqn.invars, *eqn.outvars):
        check_generator(getattr(atom.aval, "dtype", None))


def check_generator(dtype: Any) -> None:
    """Refuse random keys of a generator that is not JAX's own.

    Raises:
        ValueError: for keys of another generator.
    """
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return
    own = [jax.eval_shape(lambda g=g: jax.random.key(0, impl=g)).dtype for g in _GENERATORS]
    if dtype not in own:
        raise ValueError(
            f"apply: draws random numbers by a generator of its own, {dtype}; must be one of "
            f"{', '.join(_GENERATORS)}"
        )


def _is_code(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | jax.sharding.Mesh)


def _is_of_jax(primitive: Any) -> bool:
    """By identity: a name says nothing, since anyone may define a primitive called ``tanh``."""
    if id(primitive) in _OF_JAX:
        return True
    modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "jax"]
    if not any(value is primitive for m in modules for value in list(vars(m).values())):
        return False
    _OF_JAX[id(primitive)] = primitive
    return True
