"""Numbers of the Optax transformations: constants, schedules, one per layer; whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import concrete, non_negative

Number = ArrayLike | Callable[[Array], ArrayLike]
#: One number, or a mapping from paths or patterns (``"block_*/query/kernel"``) to numbers.
PerLayer = Number | Mapping[str, Number]
#: A whole number: Python's, NumPy's, or an integer array (``optax.inject_hyperparams`` passes one).
Whole = int | np.integer | ArrayLike


def first_count() -> Array:
    """The count of a new state."""
    return jnp.zeros((), jnp.int32)


def next_count(count: Array) -> Array:
    """One more, up to the largest that fits."""
    return jnp.asarray(optax.safe_increment(count))


def at(number: Number, count: Array) -> ArrayLike:
    """The value of a number, or of a schedule, at this step."""
    return number(count) if callable(number) else number


def constant(number: Any) -> bool:
    """Whether this is a number of Python or NumPy, which compiled programs may depend on."""
    return isinstance(number, (int, float, np.number))


def check_non_negative(numbers: PerLayer, name: str) -> None:
    """Refuse what is no number and no schedule, and what is known to be negative or NaN."""
    given = numbers.items() if isinstance(numbers, Mapping) else [(None, numbers)]
    for path, number in given:
        where = name if path is None else f"{name} for {path!r}"
        if not constant(number) and isinstance(number, (jax.Array, np.ndarray)):
            if number.ndim:
                raise ValueError(
                    f"{where}: got an array of shape {number.shape}, must be one number; numbers "
                    "per layer are a mapping from paths"
                )
            non_negative(number, where)
        elif not constant(number) and not callable(number):
            raise ValueError(f"{where}: got {number!r}, must be a number >= 0 or a schedule")
        elif constant(number) and not number >= 0:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"{where}: got {number!r}, must be >= 0")


def whole(number: Whole | None, name: str) -> Any:
    """A number of steps: a Python ``int`` where it is known, otherwise an ``int32`` array.

    Raises:
        ValueError: not a whole number, or known to be below 1.
    """
    if number is None:
        return 1
    wrong = f"{name}: got {number!r}, must be a whole number of at least 1"
    if isinstance(number, (bool, np.bool_)):
        raise ValueError(wrong)
    if isinstance(number, (int, np.integer)):
        if number < 1:
            raise ValueError(wrong)
        return int(number)
    if not isinstance(number, (jax.Array, np.ndarray)) or number.ndim != 0:
        raise ValueError(wrong)
    if not jnp.issubdtype(number.dtype, jnp.integer):
        raise ValueError(wrong)
    known = concrete(number)
    if known is not None and known < 1:
        raise ValueError(wrong)
    return jnp.asarray(number).astype(jnp.int32)


def matched(
    paths: Sequence[str], given: Mapping[str, Any], name: str, whose: str = "the structure has"
) -> dict[str, Any]:
    """The value for each path that a mapping names: by the path itself, else by a pattern.

    Raises:
        ValueError: a path or pattern that matches none of ``paths``.
    """
    patterns = [key for key in given if key not in paths]
    unknown = sorted(key for key in patterns if not any(fnmatchcase(p, key) for p in paths))
    if unknown:
        raise ValueError(f"{name} names unknown paths {unknown}; {whose} {list(paths)}")
    found = {}
    for path in paths:
        keys = [path] if path in given else [k for k in patterns if fnmatchcase(path, k)]
        if keys:
            found[path] = given[keys[0]]
    return found


def by_layer(paths: Sequence[str], numbers: PerLayer, name: str, count: Array) -> list[ArrayLike]:
    """The value of each layer at this step; 1 for those that a mapping does not name."""
    if not isinstance(numbers, Mapping):
        return [at(numbers, count)] * len(paths)
    found = matched(paths, numbers, name)
    return [at(found.get(path, 1.0), count) for path in paths]


def as_array(values: list[ArrayLike]) -> Array:
    """One floating point entry per value."""
    dtype = jnp.result_type(float)
    if all(constant(value) for value in values):
        return jnp.asarray(np.asarray(values, dtype))
    return jnp.stack([jnp.asarray(value).astype(dtype) for value in values])
