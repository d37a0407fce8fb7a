"""What every function of a matrix does first: check the array, move the axes, upcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from rankjax._arguments import float_array


class Canonical(NamedTuple):
    """A batch of matrices ``(..., m, n)`` in a dtype that LAPACK knows, and the dtype to return."""

    matrix: Array
    dtype: jnp.dtype


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
        # Functions under ``_explicit_axes.automatic`` never come here; it is for those that are not
        # (their results stay on the axes of the caller, derivatives pass through ``reshard``).
        matrix = jax.sharding.reshard(matrix, NamedSharding(mesh, PartitionSpec()))
    dtype = array.dtype
    if jnp.finfo(dtype).bits < 32:
        matrix = matrix.astype(jnp.float32)
    return Canonical(matrix, dtype)
