"""What every function of a matrix does first: check the arguments, move the axes, upcast.

All checks happen at trace time and raise ``ValueError`` naming the argument, the value got and the
values allowed. Only *concrete* numbers can be checked: a traced ``p`` or ``eps`` (a schedule inside
``jit``) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

EPS_MODES = ("relative", "absolute")


class Canonical(NamedTuple):
    """A batch of matrices ``(..., m, n)`` in a dtype that LAPACK knows, and the dtype to return."""

    matrix: Array
    dtype: jnp.dtype


def concrete(value: ArrayLike) -> np.ndarray | None:
    """The value as a NumPy array, or None when it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def float_array(a: ArrayLike, /, *, name: str = "a") -> Array:
    """``a`` as a real floating point array.

    Raises:
        ValueError: ``a`` holds integers, booleans or complex numbers.
    """
    array = jnp.asarray(a)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be a real floating point array (float16, bfloat16, float32 or float64), "
            f"got dtype {array.dtype}"
        )
    return array


def matrix_axes(axes: Sequence[int], ndim: int) -> tuple[int, int]:
    """``axes`` as two different non-negative axis numbers.

    Raises:
        ValueError: not two integers, out of range, or the same axis twice.
    """
    allowed = f"two different axes in [-{ndim}, {ndim})"
    try:
        numbers = tuple(int(axis) for axis in axes)
    except TypeError:
        raise ValueError(f"axes must be {allowed}, got {axes!r}") from None
    if len(numbers) != 2 or any(not -ndim <= axis < ndim for axis in numbers):
        raise ValueError(f"axes must be {allowed}, got {axes!r}")
    out_axis, in_axis = (axis % ndim for axis in numbers)
    if out_axis == in_axis:
        raise ValueError(f"axes must be {allowed}, got {axes!r} (the same axis twice)")
    return out_axis, in_axis


def canonicalize(a: ArrayLike, axes: Sequence[int] = (-2, -1)) -> Canonical:
    """Moves ``axes = (out, in)`` to the end; computes float16 and bfloat16 in float32.

    Raises:
        ValueError: fewer than two axes, wrong ``axes``, or a dtype that is not real floating.
    """
    array = float_array(a)
    if array.ndim < 2:
        raise ValueError(f"a must have at least 2 axes (a matrix), got shape {array.shape}")
    matrix = jnp.moveaxis(array, matrix_axes(axes, array.ndim), (-2, -1))
    mesh = jax.typeof(matrix).sharding.mesh
    if AxisType.Explicit in mesh.axis_types:
        # A decomposition needs whole matrices, and explicit axes are never gathered by themselves.
        # Functions under ``meshes.automatic`` never come here; it is for those that are not (their
        # results stay on the axes of the caller, and derivatives pass through ``reshard``).
        matrix = jax.sharding.reshard(matrix, NamedSharding(mesh, PartitionSpec()))
    dtype = array.dtype
    if jnp.finfo(dtype).bits < 32:
        matrix = matrix.astype(jnp.float32)
    return Canonical(matrix, dtype)


def non_negative(value: ArrayLike, name: str) -> None:
    """Refuses a concrete ``value`` that is negative or NaN."""
    known = concrete(value)
    if known is not None and not np.all(known.astype(np.float64) >= 0):
        raise ValueError(f"{name} must be >= 0, got {value!r}")


def positive(value: ArrayLike, name: str) -> None:
    """Refuses a concrete ``value`` that is not positive."""
    known = concrete(value)
    if known is not None and not np.all(known.astype(np.float64) > 0):
        raise ValueError(f"{name} must be > 0, got {value!r}")


def one_of(value: str, name: str, allowed: Sequence[str]) -> None:
    """Refuses a ``value`` that is not one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def at_least_float32(a: Array) -> Array:
    """float32 and float64 as they are; float16, bfloat16 and integers as float32."""
    wide = jnp.issubdtype(a.dtype, jnp.floating) and jnp.finfo(a.dtype).bits >= 32
    return a if wide else a.astype(jnp.float32)
