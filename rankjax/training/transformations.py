"""Optax transformations that move the parameters after the step: proximal steps, projections.

Each may run ``every`` so many steps: on the others the decomposition is skipped (``lax.cond``) and
nothing happens to the parameters beyond the optimiser's own step. Numbers may be floats, traced
arrays or schedules (functions of the step). The state is a NamedTuple with the step count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._explicit_axes import automatic
from rankjax.matrix import project_rank as nearest_of_rank
from rankjax.matrix import project_spectral_ball, prox_schatten, schatten_flow
from rankjax.network import Structure
from rankjax.network.buckets import by_shape, in_turn
from rankjax.training.penalties import DEFAULT_EPS
from rankjax.training.stepping import (
    Number,
    StepCount,
    at,
    backward_pass,
    check_every,
    first_count,
    held,
    landmark,
    needed,
    next_count,
    on_every,
)


def apply_schatten_flow(
    structure: Structure,
    weight: Number,
    *,
    p: Number,
    eps: Number = DEFAULT_EPS,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """The decay of ``weight |A_l|_{S_p}^p`` at each step, taken at once on every ``every``-th.

    What ``every`` steps of ``add_schatten_decay`` do to the singular values between two steps of
    the optimiser, ``schatten_flow`` does with one decomposition, and stably, however strong they
    are: every singular value shrinks and none crosses 0. Last in a chain. ``weight`` is that of one
    step and not multiplied by a learning rate: take ``learning_rate * weight`` of the decay.

    Args:
        structure: from ``describe``.
        weight: the strength of one step, a number or a schedule.
        p: exponent >= 0, a number or a schedule.
        eps: relative smoothing, a number or a schedule.
        every: how often the decomposition runs.

    Raises:
        ValueError: ``every < 1``; at the update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 0.1]))}
        >>> flow = apply_schatten_flow(describe(params), 0.5, p=1.0)
        >>> step = {"kernel": jnp.zeros((2, 2))}
        >>> updates, _ = flow.update(step, flow.init(params), params)
        >>> [round(float(u), 3) for u in jnp.diag(updates["kernel"])]
        [-0.442, -0.099]
    """

    def towards(matrix: Array, count: Array) -> Array:
        strength = every * jnp.asarray(at(weight, count), matrix.dtype)
        return schatten_flow(
            matrix, p=at(p, count), weight=strength, eps=at(eps, count), steps=every
        )

    return _after_the_step(structure, towards, every)


def proximal_schatten(
    structure: Structure, weight: Number, *, p: Number, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Moves the parameters, after the step, to the proximal point of ``weight |A_l|_{S_p}^p``.

    Sets singular values to exactly 0, which no gradient step does. Last in a chain. ``weight`` is
    not multiplied by a learning rate; with ``every = k`` the proximal step of ``k weight`` is taken
    on every k-th step.

    Args:
        structure: from ``describe``.
        weight: the strength of one step, a number or a schedule.
        p: exponent >= 0, a number or a schedule; closed forms for the numbers 0, 1/2, 2/3, 1 and
            2, see ``prox_schatten``.
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

    def towards(matrix: Array, count: Array) -> Array:
        strength = every * jnp.asarray(at(weight, count), matrix.dtype)
        return prox_schatten(matrix, p=at(p, count), weight=strength)

    return _after_the_step(structure, towards, every)


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

    def towards(matrix: Array, count: Array) -> Array:
        return project_spectral_ball(matrix, radius=jnp.asarray(at(radius, count), matrix.dtype))

    return _after_the_step(structure, towards, every)


def project_rank(
    structure: Structure, rank: Number, *, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Keeps the ``rank`` largest singular values of every matrix after the step. Last in a chain.

    Args:
        structure: from ``describe``.
        rank: the largest rank, a whole number or a schedule.
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

    def towards(matrix: Array, count: Array) -> Array:
        now = at(rank, count)
        return nearest_of_rank(matrix, rank=now if isinstance(now, int) else jnp.asarray(now, int))

    return _after_the_step(structure, towards, every)


def _after_the_step(
    structure: Structure, towards: Callable[[Array, Array], Array], every: int
) -> optax.GradientTransformationExtraArgs:
    """The update that takes the parameters to ``towards`` of where the step would take them."""
    check_every(every)

    @automatic
    def goals(group: list[int], arrived: list[Array], count: Array) -> tuple[Array, ...]:
        layers = [structure.spec[i] for i in group]
        matrices = [layer.matrix(a) for layer, a in zip(layers, arrived, strict=True)]
        found = by_shape(lambda a, _, count: towards(a, count), matrices, structure.mesh, count)
        return tuple(layer.leaf(a) for layer, a in zip(layers, found, strict=True))

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        needed(params)
        leaves = [at_least_float32(jnp.asarray(leaf)) for leaf in structure.leaves(params)]
        new = [jnp.asarray(step) for step in structure.leaves(updates)]
        ready = backward_pass(updates)
        for group in in_turn(leaves, structure.mesh):

            def further(steps: list[Array], group: list[int] = group) -> list[Array]:
                mine = [leaves[i] for i in group]
                pairs = zip(mine, steps, strict=True)
                arrived = [leaf + step.astype(leaf.dtype) for leaf, step in pairs]
                found = zip(steps, goals(group, arrived, state.count), arrived, strict=True)
                return [step + (goal - at).astype(step.dtype) for step, goal, at in found]

            # The steps go through the branch: they must be written to memory for it anyway, and
            # what comes out of it takes their place.
            steps = [held(new[i], ready) for i in group]
            moved = on_every(every, state.count, further, lambda steps: steps, steps)
            for i, step in zip(group, moved, strict=True):
                new[i] = step
            ready = landmark(moved)
        return structure.replace_leaves(updates, new), StepCount(next_count(state.count))

    return optax.GradientTransformationExtraArgs(lambda params: StepCount(first_count()), update)
