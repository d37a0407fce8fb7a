"""Optax transformations that move the parameters after the step: flow, proximal step, projections.

Each may act on every ``every``-th step: on the others the decomposition is skipped (``lax.cond``)
and nothing happens to the parameters beyond the optimizer's own step. Numbers may be floats, traced
arrays or schedules (functions of the step). The state is a NamedTuple with the step count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rankjax._arguments import one_of
from rankjax.matrix import project_rank as nearest_of_rank
from rankjax.matrix import project_spectral_ball, prox_schatten, schatten_flow
from rankjax.network import Layer
from rankjax.training._hold_rank import columns_for, hold_rank
from rankjax.training._penalties import DEFAULT_EPS
from rankjax.training._schedule import (
    Number,
    PerLayer,
    Whole,
    check_non_negative,
    constant,
    whole,
)
from rankjax.training._transformation import Rule, StructureOrFunction, transformation

#: Whose norm ``project_spectral_norm`` bounds: of the linear map, or of the kernel as a matrix.
NormOf = Literal["operator", "matrix"]
#: Parts of a flow whose number of steps is not known when it is compiled.
PARTS = 32


class StepCount(NamedTuple):
    """State of the transformations that carry nothing: the number of steps taken."""

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def apply_schatten_flow(
    structure: StructureOrFunction,
    weight: PerLayer,
    *,
    p: Number,
    eps: Number = DEFAULT_EPS,
    every: Whole | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes ``every`` steps of the decay of ``weight |A_l|_{S_p}^p`` at once, on every such step.

    One decomposition does the work of ``every`` steps of ``add_schatten_decay``. It is stable for
    every strength: each singular value shrinks and none crosses 0. Put it last in the chain.
    ``weight`` is the strength of one step, and no learning rate multiplies it: pass
    ``learning_rate * weight`` of the decay.

    Args:
        every: an array in place of a number (``optax.inject_hyperparams``) divides the flow into 32
            parts, not ``every``.

    Shared arguments: see ``rankjax.training``.

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
    check_non_negative(weight, "weight")
    return _after(structure, _Flow(), weight, {"p": p, "eps": eps}, every, "weight")


def every_step_flow(
    structure: StructureOrFunction, weight: PerLayer, *, p: Number, eps: Number, times: Whole
) -> optax.GradientTransformationExtraArgs:
    """The flow of ``times`` steps at every step: see ``SchattenFlow``."""
    check_non_negative(weight, "weight")
    steps = whole(times, "every")
    if not isinstance(steps, int):
        raise ValueError(f"every: got {times!r}, must be a number here and no array")
    return _after(structure, _Flow(steps), weight, {"p": p, "eps": eps}, 1, "weight")


def proximal_schatten(
    structure: StructureOrFunction, weight: PerLayer, *, p: Number, every: Whole | None = None
) -> optax.GradientTransformationExtraArgs:
    """Moves the parameters, after the step, to the proximal point of ``weight |A_l|_{S_p}^p``.

    Sets singular values to exactly 0, which no gradient step does. Put it last in the chain. No
    learning rate multiplies ``weight``; with ``every = k`` it takes the proximal step of
    ``k weight`` on every k-th step.

    Shared arguments: see ``rankjax.training``.

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
    check_non_negative(weight, "weight")
    return _after(structure, _Proximal(), weight, {"p": p}, every, "weight")


def project_spectral_norm(
    structure: StructureOrFunction,
    radius: PerLayer = 1.0,
    *,
    every: Whole | None = None,
    of: NormOf = "operator",
) -> optax.GradientTransformationExtraArgs:
    """Cuts singular values after the step, so that no layer's norm exceeds ``radius``.

    For a dense layer the norm is the largest singular value of its matrix. A convolution is
    ``A P x`` with the kernel matrix ``A`` and the operator ``P`` that gathers the patches; overlap
    makes ``|P|`` as large as 3 for a 3 x 3 window. With ``of="operator"`` the singular values of
    ``A`` are cut at ``radius / |P|``, which bounds the norm of the linear map ``x -> A P x``; with
    ``of="matrix"`` they are cut at ``radius`` itself, and the map's norm may be ``|P|`` times that.
    Put it last in the chain.

    Args:
        of: whether the norm of the linear map is bounded or that of the kernel matrix.

    Raises:
        ValueError: with ``of="operator"`` a convolution whose geometry is not known, because
            ``describe`` had no ``apply``.

    Shared arguments: see ``rankjax.training``.

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
    check_non_negative(radius, "radius")
    one_of(of, "of", NormOf)
    return _after(structure, _Ball(of == "operator"), radius, {}, every, "radius")


def project_rank(
    structure: StructureOrFunction,
    rank: PerLayer,
    *,
    by: Whole = 1,
    every: Whole | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the ``rank`` largest singular values of every matrix; the others shrink until ``by``.

    Every ``every``-th step is a turn, and ``by`` takes ``N = ceil(by / every)`` of them. The
    ``j``-th multiplies all singular values but the ``rank`` largest by ``(N - j) / (N - j + 1)``:
    left alone they would fall along a straight line to 0, and whatever the optimizer adds to them
    on the way falls with them. Every turn from the ``N``-th on sets them to 0. There is no strength
    to tune, and the large ones are never touched. Put it last in the chain, end the training on a
    turn, and ``factorize`` with these ranks afterwards.

    A matrix that has arrived needs no SVD: known ranks of up to a fourth of the smaller side (if it
    is at least 192) are then held by a few products and thin QR decompositions. The matrix reached
    is up to 3 % farther than the nearest one if no gap in the spectrum tells them apart, far less
    after small steps. Ranks that are arrays or schedules cost an SVD per turn.

    Args:
        rank: the largest rank, where the nearest whole number counts; below 0.999 a share of the
            smaller side, rounded down, at least rank 1. ``RankPlan.ranks`` of a checkpoint
            (``rankjax.report.plan_ranks``) shares out a budget of parameters.
        by: the step at which the rank is reached; if it is no turn, the next turn. Default: the
            first turn.

    Shared arguments: see ``rankjax.training``.

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
    check_non_negative(rank, "rank")
    named = list(rank.values()) if isinstance(rank, Mapping) else [rank]
    known = [float(number) for number in named if constant(number)]  # pyright: ignore[reportArgumentType]
    most = tuple(sorted(set(known))) if len(known) == len(named) else ()
    return _after(structure, _Rank(most), rank, {"by": whole(by, "by")}, every, "rank")


def _after(
    source: StructureOrFunction,
    rule: Rule,
    strength: PerLayer,
    numbers: dict[str, Number],
    every: Whole | None,
    name: str,
) -> optax.GradientTransformationExtraArgs:
    for key, number in numbers.items():
        check_non_negative(number, key)
    numbers = {**numbers, "every": whole(every, "every")}
    return transformation(
        source, rule, strength, numbers, name=name, make_state=lambda count, _: StepCount(count)
    )


@dataclass(frozen=True)
class _Towards(Rule):
    """The way from where the step leads to ``goal`` of it."""

    def goal(self, batch: Array, strength: Array, numbers: Mapping[str, Any]) -> Array:
        raise NotImplementedError

    def change(
        self, batch: Array, kept: Any, strength: Array, count: Array, numbers: Mapping[str, Any]
    ) -> tuple[Array, Any]:
        return self.goal(batch, strength, numbers) - batch, kept


@dataclass(frozen=True)
class _Flow(_Towards):
    times: int = 1  # of the steps that ``every`` counts

    def scale(self, layer: Layer) -> float:
        del layer
        return float(self.times)

    def goal(self, batch: Array, strength: Array, numbers: Mapping[str, Any]) -> Array:
        every = numbers["every"]
        # What is known stays known: it decides how the flow is computed.
        p, eps = (
            number if constant(number) else jnp.full_like(strength, number)
            for number in (numbers["p"], numbers["eps"])
        )
        steps = every * self.times if isinstance(every, int) else PARTS
        return schatten_flow(batch, p=p, weight=strength, eps=eps, steps=steps)


@dataclass(frozen=True)
class _Proximal(_Towards):
    def goal(self, batch: Array, strength: Array, numbers: Mapping[str, Any]) -> Array:
        p = numbers["p"] if constant(numbers["p"]) else jnp.full_like(strength, numbers["p"])
        return prox_schatten(batch, p=p, weight=strength)


@dataclass(frozen=True)
class _Ball(_Towards):
    operator: bool
    per_step: ClassVar[bool] = False

    def scale(self, layer: Layer) -> float:
        if self.operator and layer.positions is None:
            raise ValueError(
                f"structure: the convolution {layer.path!r} was described by its name alone, so "
                'that its norm is not known; pass apply= and example= to describe, or of="matrix"'
            )
        return 1 / layer.gather_norm if self.operator else 1.0

    def goal(self, batch: Array, strength: Array, numbers: Mapping[str, Any]) -> Array:
        return project_spectral_ball(batch, strength)


@dataclass(frozen=True)
class _Rank(Rule):
    given: tuple[float, ...]  # where they are known when it is compiled
    per_step: ClassVar[bool] = False

    def change(
        self, batch: Array, kept: Any, strength: Array, count: Array, numbers: Mapping[str, Any]
    ) -> tuple[Array, Any]:
        side, by, every = batch.shape[-1], numbers["by"], numbers["every"]
        ranks = _whole_ranks(strength, side).astype(jnp.result_type(int))

        def nearest(batch: Array) -> Array:
            return jax.vmap(lambda a, rank: nearest_of_rank(a, rank))(batch, ranks)

        with jax.ensure_compile_time_eval():
            known = [int(_whole_ranks(x, side)) for x in self.given]
        columns = columns_for(max(known, default=side))
        if 3 * columns <= side:
            # The turn before this one has set the rank already.
            arrived = count + 1 - every >= by
            goal = jax.lax.cond(
                arrived, lambda batch: hold_rank(batch, ranks, columns), nearest, batch
            )
        else:
            goal = nearest(batch)
        turns_left = jnp.maximum(-((count + 1 - by) // every), 0)
        return (goal - batch) / (turns_left + 1).astype(batch.dtype), kept


def _whole_ranks(rank: Any, side: int) -> Any:
    """Ranks as whole numbers; a schedule that ends at rank 1 may fall short by its rounding."""
    share = (rank > 0) & (rank < 0.999)
    most = jnp.minimum(jnp.rint(rank), side)
    return jnp.where(share, jnp.maximum(jnp.floor(rank * side), 1), most)
