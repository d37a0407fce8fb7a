"""What the Optax transformations share: numbers that may be schedules, and acting now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax._explicit_axes import automatic
from rankjax.network import Structure
from rankjax.network.buckets import LARGE

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


@automatic
def landmark(arrays: Sequence[Array]) -> Array:
    """One number that cannot be known before all the arrays are: see ``held``."""
    firsts = [a[(0,) * a.ndim].astype(jnp.float32) for a in arrays if a.size]
    return jnp.sum(jnp.stack(firsts)) if firsts else jnp.zeros((), jnp.float32)


def backward_pass(updates: Any) -> Array:
    """A ``landmark`` near the end of the backward pass.

    Of small leaves (biases of every layer, often), or else the smallest: what is looked at must be
    written to memory, where otherwise the whole chain down to the new parameters is one loop.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(updates)]
    small = [leaf for leaf in leaves if leaf.size < LARGE]
    return landmark(small or sorted(leaves, key=lambda leaf: leaf.size)[:1])


def held(x: Array, landmark: Array) -> Array:
    """``x``, which cannot be used before ``landmark`` is known.

    Left to itself XLA decomposes the weights when it likes, before the backward pass or all leaves
    at a time, and keeps what comes out: as much memory again as the parameters. Every group of
    leaves therefore waits for the one before. ``optimization_barrier`` would say so, but is dropped
    on CPU before anything is scheduled; of this condition the compiler does not see that it holds.
    """
    known = (landmark == landmark) | (landmark != landmark)
    return jnp.where(known, x, jnp.zeros_like(x))


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
