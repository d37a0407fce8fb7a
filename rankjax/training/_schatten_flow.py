"""The flow driven from the training loop: the steps in between do not know of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax.training._after_step import StepCount, every_step_flow
from rankjax.training._penalties import DEFAULT_EPS
from rankjax.training._schedule import Number, PerLayer, Whole
from rankjax.training._transformation import StructureOrFunction


class SchattenFlow:
    """``apply_schatten_flow`` as a function of the parameters, for the training loop to call.

    A transformation that acts on every k-th step takes part in each: the compiled step asks whether
    it is its turn. On a CPU that costs nothing; on a GPU the host waits for the answer, and a short
    step takes half as long again (``docs/training.md``). Called from the loop on every k-th step
    instead, the flow is a program of its own, and the steps are those of the bare optimizer:

        flow = SchattenFlow(structure, 1e-6, p=0.5, every=100)
        for count in range(steps):
            params, state = step(params, state)
            if (count + 1) % 100 == 0:
                params = flow(params, count)

    moves the parameters as ``apply_schatten_flow(structure, 1e-6, p=0.5, every=100)`` does at the
    end of the chain, to rounding.

    Args:
        structure: from ``describe``, or a function of the parameters, such as ``describe`` itself.
        weight: the strength of one step, a number or a schedule, or a mapping from paths or
            patterns to such (layers that it does not name are left alone).
        p: exponent >= 0, a number or a schedule.
        eps: relative smoothing, a number or a schedule.
        every: how many steps one call stands for, a number.

    Raises:
        ValueError: an ``every`` that is no whole number >= 1, a negative number, an unknown path.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 0.1]))}
        >>> flow = SchattenFlow(describe(params), 0.1, p=1.0, every=5)
        >>> [round(float(s), 3) for s in jnp.diag(flow(params)["kernel"])]
        [1.514, 0.0]
    """

    def __init__(
        self,
        structure: StructureOrFunction,
        weight: PerLayer,
        *,
        p: Number,
        eps: Number = DEFAULT_EPS,
        every: Whole,
    ) -> None:
        flow = every_step_flow(structure, weight, p=p, eps=eps, times=every)

        def moved(params: Any, count: Array) -> Any:
            still = jax.tree.map(jnp.zeros_like, params)
            updates, _ = flow.update(still, StepCount(count), params)
            return optax.apply_updates(params, updates)

        self._moved = jax.jit(moved, donate_argnums=0)

    def __call__(self, params: Any, count: ArrayLike = 0) -> Any:
        """The parameters after ``every`` steps of the decay.

        Args:
            params: the parameters. Their memory is given to the result (``jax.jit``'s
                ``donate_argnums``): do not use them afterwards.
            count: the number of steps taken before this one, which schedules are asked with.

        Returns:
            Parameters of the same shapes and dtypes.

        Raises:
            ValueError: parameters that do not fit the structure.

        Compiles once for all parameters of equal shapes. Not differentiable.
        """
        return self._moved(params, jnp.asarray(count, jnp.int32))
