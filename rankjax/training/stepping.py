"""What the Optax transformations share: numbers that may be schedules, and acting now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax.network import Structure

Number = ArrayLike | Callable[[Array], ArrayLike]


class StepCount(NamedTuple):
    """State of the transformations that carry nothing: the number of steps taken."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def first_count() -> Array:
    """The count of a new state."""
    return jnp.zeros((), jnp.int32)


def next_count(count: Array) -> Array:
    """One more, up to the largest that fits."""
    return jnp.asarray(optax.safe_increment(count))


def at(number: Number, count: Array) -> ArrayLike:
    """The number at this step: a schedule is asked for it."""
    return number(count) if callable(number) else number


def on_every(
    every: int, count: Array, act: Callable[[Any], Any], otherwise: Callable[[Any], Any], given: Any
) -> Any:
    """``act(given)`` on every ``every``-th step, counting from ``every``; ``otherwise`` elsewhere.

    Both must return the same shapes and dtypes; one of them runs (``lax.cond``).
    """
    if every == 1:
        return act(given)
    return jax.lax.cond((count + 1) % every == 0, act, otherwise, given)


def needed(params: Any) -> None:
    """Refuse an update without parameters."""
    if params is None:
        raise ValueError(
            "params: got None; call update(updates, state, params), these need the parameters"
        )


def check_every(every: int, name: str = "every") -> None:
    """Refuse what is not a whole number of steps."""
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"{name}: got {every!r}, must be a whole number of at least 1")


def by_path(structure: Structure, leaves: tuple[Any, ...]) -> dict[str, Any]:
    """A tree with just the structure's leaves at just their paths."""
    return {layer.path: leaf for layer, leaf in zip(structure.spec, leaves, strict=True)}
