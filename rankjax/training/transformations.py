"""Optax transformations that act on the weight matrices of a structure.

Each may run ``every`` so many steps: on the others the decomposition is skipped (``lax.cond``) and
nothing happens to the parameters beyond the optimiser's own step. Numbers may be floats, traced
arrays or schedules (functions of the step). The state is a NamedTuple with the step count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax.matrix import project_rank as nearest_of_rank
from rankjax.matrix import project_spectral_ball, prox_schatten
from rankjax.matrix.canonical import at_least_float32
from rankjax.matrix.meshes import automatic
from rankjax.network import Structure
from rankjax.network.buckets import by_shape
from rankjax.training.penalties import DEFAULT_EPS, schatten_penalty

Number = ArrayLike | Callable[[Array], ArrayLike]
_NO_PARAMS = "params: got None; call update(updates, state, params), these need the parameters"


class StepCount(NamedTuple):
    """State of the transformations here: the number of steps taken."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def add_schatten_decay(
    structure: Structure,
    weight: Number,
    *,
    p: Number,
    eps: Number = DEFAULT_EPS,
    every: int = 1,
    method: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of ``weight sum_l |A_l|_{S_p}^p`` to the updates: decoupled decay.

    Like ``optax.add_decayed_weights`` it belongs after the preconditioner and before the learning
    rate, ``optax.chain(optax.scale_by_adam(), add_schatten_decay(...),
    optax.scale_by_learning_rate(1e-3))``; ``p = 2`` is weight decay with twice the weight. With
    ``every = k`` it acts on every k-th step, k times as strongly.

    Args:
        structure: from ``describe``.
        weight: the strength, a number or a schedule.
        p: Schatten exponent, a number or a schedule.
        eps: relative smoothing, a number or a schedule.
        every: how often the decomposition runs.
        method: the engine, see ``schatten_power``.

    Raises:
        ValueError: ``every < 1``; at the update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.eye(2)}
        >>> decay = add_schatten_decay(describe(params), 0.5, p=2.0, eps=0.0)
        >>> updates, _ = decay.update({"kernel": jnp.zeros((2, 2))}, decay.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 3)
        1.0
    """
    _check_every(every)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        if params is None:
            raise ValueError(_NO_PARAMS)
        strength, exponent, smoothing = (_at(x, state.count) for x in (weight, p, eps))

        def decayed(updates: Any) -> Any:
            leaves = structure.leaves(params)

            def penalty(leaves: tuple[Array, ...]) -> Array:
                return schatten_penalty(
                    structure, _by_path(structure, leaves), p=exponent, eps=smoothing, method=method
                )

            gradients = jax.grad(penalty)(leaves)
            added = [
                u + (jnp.asarray(every * strength, g.dtype) * g).astype(u.dtype)
                for u, g in zip(structure.leaves(updates), gradients, strict=True)
            ]
            return structure.replace_leaves(updates, added)

        return _lazily(decayed, updates, state, every), _next(state)

    return optax.GradientTransformationExtraArgs(_init, update)


def proximal_schatten(
    structure: Structure, weight: Number, *, p: float, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Moves the parameters, after the step, to the proximal point of ``weight |A_l|_{S_p}^p``.

    Sets singular values to exactly 0, which no gradient step does. Last in a chain. ``weight`` is
    not multiplied by a learning rate; with ``every = k`` the proximal step of ``k weight`` is taken
    on every k-th step.

    Args:
        structure: from ``describe``.
        weight: the strength of one step, a number or a schedule.
        p: exponent >= 0; closed forms for 0, 1/2, 2/3, 1 and 2, see ``prox_schatten``.
        every: how often the decomposition runs.

    Raises:
        ValueError: ``every < 1``; at the update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 0.1]))}
        >>> prox = proximal_schatten(describe(params), 0.5, p=1.0)
        >>> step = {"kernel": jnp.zeros((2, 2))}
        >>> updates, _ = prox.update(step, prox.init(params), params)
        >>> [round(float(u), 3) for u in jnp.diag(updates["kernel"])]
        [-0.5, -0.1]
    """

    def towards(matrix: Array, weight: ArrayLike) -> Array:
        strength = every * jnp.asarray(weight, matrix.dtype)
        return prox_schatten(matrix, p=p, weight=strength)

    return _after_the_step(structure, towards, weight, every)


def project_spectral_norm(
    structure: Structure, radius: Number = 1.0, *, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Cuts every singular value at ``radius`` after the step. Last in a chain.

    Args:
        structure: from ``describe``.
        radius: the largest spectral norm, a number or a schedule.
        every: how often the decomposition runs.

    Raises:
        ValueError: ``every < 1``; at the update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 0.5]))}
        >>> ball = project_spectral_norm(describe(params))
        >>> step = {"kernel": jnp.zeros((2, 2))}
        >>> updates, _ = ball.update(step, ball.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 3)
        -1.0
    """

    def towards(matrix: Array, radius: ArrayLike) -> Array:
        return project_spectral_ball(matrix, radius=jnp.asarray(radius, matrix.dtype))

    return _after_the_step(structure, towards, radius, every)


def project_rank(
    structure: Structure, rank: int, *, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Keeps the ``rank`` largest singular values of every matrix after the step. Last in a chain.

    Args:
        structure: from ``describe``.
        rank: the largest rank (static).
        every: how often the decomposition runs.

    Raises:
        ValueError: ``every < 1``; at the update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe, numerical_rank
        >>> params = {"kernel": jnp.eye(4)}
        >>> two = project_rank(describe(params), 2)
        >>> step = {"kernel": jnp.zeros((4, 4))}
        >>> updates, _ = two.update(step, two.init(params), params)
        >>> round(float(numerical_rank(params["kernel"] + updates["kernel"])))
        2
    """
    return _after_the_step(structure, lambda a, rank: nearest_of_rank(a, rank=rank), rank, every)


def _after_the_step(
    structure: Structure, towards: Callable[[Array, Any], Array], number: Number, every: int
) -> optax.GradientTransformationExtraArgs:
    """The update that takes the parameters to ``towards`` of where the step would take them.

    ``towards(batch of matrices, number at this step) -> batch of matrices``.
    """
    _check_every(every)

    @automatic
    def goals(arrived: list[Array], number: ArrayLike) -> list[Array]:
        matrices = [layer.matrix(a) for layer, a in zip(structure.spec, arrived, strict=True)]
        new = by_shape(lambda a, _, number: towards(a, number), matrices, structure.mesh, number)
        return [layer.leaf(a) for layer, a in zip(structure.spec, new, strict=True)]

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        if params is None:
            raise ValueError(_NO_PARAMS)

        def moved(updates: Any) -> Any:
            steps = zip(structure.leaves(params), structure.leaves(updates), strict=True)
            arrived = [at_least_float32(p) + u.astype(at_least_float32(p).dtype) for p, u in steps]
            reached = goals(arrived, _at(number, state.count))
            new = [
                leaf + (goal - target).astype(leaf.dtype)
                for leaf, goal, target in zip(
                    structure.leaves(updates), reached, arrived, strict=True
                )
            ]
            return structure.replace_leaves(updates, new)

        return _lazily(moved, updates, state, every), _next(state)

    return optax.GradientTransformationExtraArgs(_init, update)


def _init(params: Any) -> StepCount:
    del params
    return StepCount(jnp.zeros((), jnp.int32))


def _next(state: StepCount) -> StepCount:
    return StepCount(jnp.asarray(optax.safe_increment(state.count)))


def _lazily(change: Callable[[Any], Any], updates: Any, state: StepCount, every: int) -> Any:
    """``change(updates)`` on every ``every``-th step, counting from ``every``."""
    if every == 1:
        return change(updates)
    due = (state.count + 1) % every == 0
    return jax.lax.cond(due, change, lambda updates: updates, updates)


def _at(number: Number, count: Array) -> ArrayLike:
    return number(count) if callable(number) else number


def _by_path(structure: Structure, leaves: tuple[Array, ...]) -> dict[str, Array]:
    """A tree with just the structure's leaves at just their paths."""
    return {layer.path: leaf for layer, leaf in zip(structure.spec, leaves, strict=True)}


def _check_every(every: int) -> None:
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every: got {every!r}, must be a whole number of at least 1")
