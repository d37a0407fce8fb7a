"""What the caller hands over: parameters that hold numbers, and a labeled sample."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rankjax.certificates._guarantee import check_integer
from rankjax.network.internal import number_of_examples, paths_and_leaves

_NO_REAL_NUMBERS = frozenset("cOSUMm")  # kinds of NumPy: complex, object, texts, dates


def check_values(params: Any, name: str) -> None:
    """Refuse leaves whose numbers cannot be read as they are.

    Raises:
        ValueError: for shapes without values, deleted and traced arrays, and arrays of anything but
            real numbers (random keys aside).
    """
    for path, leaf in paths_and_leaves(params):
        what = _unreadable(leaf)
        if what:
            raise ValueError(f"{name}[{path!r}]: got {what}, must be an array of real numbers")


def checked_sample(x: Any, y: Any, batch_size: Any) -> tuple[np.ndarray, int]:
    """The labels as a NumPy array, and the size of a batch.

    Raises:
        ValueError: unless labels and inputs fit together, hold values, and the size is a positive
            integer.
    """
    check_integer(batch_size, "batch_size", 1, numpy=True)
    check_inputs(x)
    what = _unreadable(y)
    if what:
        raise ValueError(f"y: got {what}, must be a non-empty vector of integers")
    try:
        labels = np.asarray(y)
    except ValueError as error:  # lists of unequal length
        raise ValueError(f"y: must be a non-empty vector of integers ({error})") from error
    number_of_examples(x, labels, int(batch_size))
    return labels, int(batch_size)


def check_inputs(x: Any) -> None:
    """Refuse inputs whose numbers cannot be read as they are.

    Raises:
        ValueError: for a leaf without values, of another machine, or of no numbers.
    """
    for leaf in jax.tree.leaves(x):
        # Complex numbers are inputs like others.
        what = None if np.iscomplexobj(leaf) else _unreadable(leaf)
        if not what and _is_key(leaf):
            what = "random keys"
        if what:
            raise ValueError(f"x: got {what}, must be arrays of numbers")


def _unreadable(leaf: Any) -> str | None:
    """What makes the numbers of an array unreadable, in words."""
    if isinstance(leaf, Tracer):
        return "a traced array (inside jit, grad or vmap)"
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return "a shape without values"
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        return "a deleted or donated array"
    if isinstance(leaf, np.ma.MaskedArray):
        return "a masked array, whose mask would be lost"
    dtype = getattr(leaf, "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return f"an array in the byte order of another machine ({dtype.str})"
    if dtype == np.longdouble and np.dtype(np.longdouble).itemsize > 8:
        return f"an array of {dtype}"
    return f"an array of {dtype}" if getattr(dtype, "kind", None) in _NO_REAL_NUMBERS else None


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
