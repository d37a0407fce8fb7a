"""Decoupled Schatten decay, which decomposes whenever it acts or only every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from rankjax._arguments import one_of
from rankjax.matrix import schatten_power, warm
from rankjax.training._in_turn import Group
from rankjax.training._penalties import DEFAULT_EPS, Method
from rankjax.training._schedule import Number, PerLayer, Whole, whole
from rankjax.training._transformation import Rule, StructureOrFunction, transformation

#: Relative error of the gradient from which a kept eigenbasis is renewed at once.
TOLERANCE = 0.01


class DecayState(NamedTuple):
    """State of ``add_schatten_decay``.

    Attributes:
        count: the number of steps taken.
        kept: with ``refresh``, one ``warm.WarmState`` per group of layers of equal shape (in the
            order of the structure), whose arrays have one entry per matrix: the eigenbasis, and
            the ``error`` that the last gradient would have had with it; empty without ``refresh``.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    kept: tuple[Any, ...] = ()


def add_schatten_decay(
    structure: StructureOrFunction,
    weight: PerLayer,
    *,
    p: Number,
    eps: Number = DEFAULT_EPS,
    every: Whole | None = None,
    refresh: Whole | None = None,
    method: Method = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of ``weight sum_l |A_l|_{S_p}^p`` to the updates: decoupled decay.

    Like ``optax.add_decayed_weights`` it belongs after the preconditioner and before the learning
    rate, ``optax.chain(optax.scale_by_adam(), add_schatten_decay(...),
    optax.scale_by_learning_rate(1e-3))``; ``p = 2`` is weight decay with twice the weight.

    Two options save decompositions. With ``every = k`` the decay acts on every k-th step, k times
    as strongly, and costs nothing on the others. It is stable only while k times the step is, or
    else small singular values jump to and fro; ``apply_schatten_flow`` is always stable. With
    ``refresh = k`` the decay acts on every step (every ``every``-th, if both are given) but
    decomposes on every k-th only, beginning with the first. In between it keeps the eigenbasis of
    ``A^T A``, at about four products per matrix and step. The gradient is within 1 %: a matrix with
    a larger error is decomposed at once (``matrix.warm``).

    The guide "Training for low rank" says which to use when.

    Args:
        weight: the strength; 1 for layers that a mapping does not name.
        refresh: how often it decomposes, a multiple of ``every``; ``None``: whenever it acts.
        method: how it decomposes, see ``schatten_power``; with ``refresh`` ``"auto"`` or
            ``"gram"``, which mean the same.

    Returns:
        The transformation. Its state is a ``DecayState`` of arrays whose shapes and dtypes stay the
        same. With ``refresh`` it holds one square matrix of the smaller side per matrix, otherwise
        one number.

    Raises:
        ValueError: a ``refresh`` that is no multiple of ``every``.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.eye(2)}
        >>> decay = add_schatten_decay(describe(params), 0.5, p=2.0, eps=0.0)
        >>> updates, _ = decay.update({"kernel": jnp.zeros((2, 2))}, decay.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 3)
        1.0
    """
    one_of(method, "method", Method)
    numbers: dict[str, Any] = {"p": p, "eps": eps, "every": whole(every, "every")}
    if refresh is None:
        rule = _Exact(method)
    else:
        one_of(method, "method with refresh", ("auto", "gram"))
        period, rule = whole(refresh, "refresh"), _Warm()
        known = isinstance(period, int) and isinstance(numbers["every"], int)
        if known and period % numbers["every"]:
            raise ValueError(
                f"refresh: got {refresh}, must be a multiple of every = {numbers['every']}"
            )
        numbers["refresh"] = period
    return transformation(structure, rule, weight, numbers, name="weight", make_state=DecayState)


@dataclass(frozen=True)
class _Exact(Rule):
    """The gradient by a decomposition."""

    method: Method
    after_step: ClassVar[bool] = False
    named_only: ClassVar[bool] = False

    def change(
        self, batch: Array, kept: Any, strength: Array, count: Array, numbers: Mapping[str, Any]
    ) -> tuple[Array, Any]:
        def power(a: Array) -> Array:
            found = schatten_power(a, p=numbers["p"], eps=numbers["eps"], method=self.method)
            return jnp.sum(found)

        return strength[:, None, None] * jax.grad(power)(batch), kept


@dataclass(frozen=True)
class _Warm(Rule):
    """The gradient in a kept eigenbasis, which is renewed when it is due or no longer exact."""

    after_step: ClassVar[bool] = False
    named_only: ClassVar[bool] = False

    def change(
        self, batch: Array, kept: Any, strength: Array, count: Array, numbers: Mapping[str, Any]
    ) -> tuple[Array, Any]:
        every = numbers["every"]
        due = ((count + 1) // every - 1) % (numbers["refresh"] // every) == 0
        # No error is below 0: with this tolerance the basis is renewed.
        tolerance = jnp.where(due, -1, TOLERANCE).astype(batch.dtype)
        _, gradient, kept = warm.step(
            batch, kept, p=numbers["p"], eps=numbers["eps"], tolerance=tolerance
        )
        return strength[:, None, None] * gradient, kept

    def fresh(self, group: Group, count: int, dtype: Any) -> warm.WarmState:
        n = group.shape[1]
        # Some basis, which the first step renews; NumPy's, so that it is no constant of a program.
        basis = np.broadcast_to(np.eye(n, dtype=dtype), (count, n, n))
        return warm.WarmState(jnp.asarray(basis), jnp.zeros(count, dtype))
