"""Checks of arguments, shared by every floor: numbers, names of options, floating point arrays.

All checks happen at trace time and raise ``ValueError`` naming the argument, the value got and the
values allowed. Only *concrete* numbers can be checked: a traced ``p`` or ``eps`` (a schedule inside
``jit``) is taken as it is.
"""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def concrete(value: ArrayLike) -> np.ndarray | None:
    """The value as a NumPy array, or None when it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def known_scalar(value: ArrayLike) -> float | None:
    """The value as a float, or None when it is traced or an array of several."""
    array = concrete(value)
    return float(array) if array is not None and array.ndim == 0 else None


def float_array(a: ArrayLike, /, *, name: str = "a") -> Array:
    """``a`` as a real floating point array.

    Raises:
        ValueError: ``a`` holds integers, booleans or complex numbers.
    """
    array = jnp.asarray(a)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name}: got dtype {array.dtype}, must be a real floating point array (float16, "
            "bfloat16, float32 or float64)"
        )
    return array


def non_negative(value: ArrayLike, name: str) -> None:
    """Refuses a concrete ``value`` that is negative or NaN."""
    known = concrete(value)
    if known is not None and not np.all(known.astype(np.float64) >= 0):
        raise ValueError(f"{name}: got {value!r}, must be >= 0")


def positive(value: ArrayLike, name: str) -> None:
    """Refuses a concrete ``value`` that is not positive."""
    known = concrete(value)
    if known is not None and not np.all(known.astype(np.float64) > 0):
        raise ValueError(f"{name}: got {value!r}, must be > 0")


def one_of(value: str, name: str, allowed: Any) -> None:
    """Refuses a ``value`` that is not one of ``allowed``, a ``Literal`` type or a sequence."""
    choices = get_args(allowed) or tuple(allowed)
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, must be one of {', '.join(map(repr, choices))}")


def at_least_float32(a: Array) -> Array:
    """float32 and float64 as they are; float16, bfloat16 and integers as float32.

    Raises:
        ValueError: ``a`` is complex; a cast would drop the imaginary part.
    """
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        raise ValueError(f"got values of dtype {a.dtype}, must be real")
    wide = jnp.issubdtype(a.dtype, jnp.floating) and jnp.finfo(a.dtype).bits >= 32
    return a if wide else a.astype(jnp.float32)
