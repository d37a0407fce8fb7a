"""The class that a network gives each example, each evaluated alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._caches import afresh
from rankjax._jax_internals import as_function
from rankjax.certificates._draws import check_draws
from rankjax.certificates._held import Held, held_by
from rankjax.network.internal import batches, logits_of_one, split_arrays

Apply = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says about some inputs.

    Attributes:
        chosen: the class of the largest logit of each example; -1 where two are equal or one is
            NaN.
        classes: how many classes there are.
        held: what ``apply`` uses besides the parameters and the input.
    """

    chosen: np.ndarray
    classes: int
    held: Held


def predictions(apply: Apply, params: Any, x: Any, n: int, batch_size: int) -> Predictions:
    """Evaluate a network on n inputs; each is a batch of one, so that none can depend on another.

    Raises:
        ValueError: for outputs that are no logits, or an ``apply`` that calls out of JAX.
    """
    arrays, skeleton = split_arrays(params)
    traced = trace_of_one(lambda arrays, x: apply(skeleton.fill(arrays), x), arrays, x)
    run = as_function(traced)

    def choose(arrays: list[Array], x: Any) -> Array:
        (logits,) = run(*arrays, *(a[None] for a in jax.tree.leaves(x)))
        top = jnp.argmax(logits)
        others = jnp.where(jnp.arange(logits.shape[0]) == top, -jnp.inf, logits)
        return jnp.where(logits[top] > jnp.max(others), top, -1)

    choose_all = jax.jit(jax.vmap(choose, in_axes=(None, 0)))
    chosen = []
    for index, real in batches(n, batch_size):
        batch = jax.tree.map(lambda a, index=index: jnp.asarray(a[index]), x)
        chosen.append(np.asarray(choose_all(arrays, batch))[:real])
    return Predictions(np.concatenate(chosen), traced.out_avals[0].shape[0], held_by(traced))


def trace_of_one(apply: Apply, params: Any, x: Any) -> Any:
    """The program of a network for a batch of one, from parameters and inputs to ``(classes,)``.

    It is traced anew: whatever ``apply`` closes over is read now, and stays as it is.
    """
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), x)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    with afresh():
        try:
            traced = jax.make_jaxpr(lambda params, x: logits_of_one(apply(params, x)))(shapes, one)
        except ValueError as error:
            if str(error).startswith("apply:"):
                raise
            raise ValueError(f"apply: must take params and x; it says: {error}") from error
        except Exception as error:  # whatever the function says of shapes that do not fit
            raise ValueError(f"apply: must take params and x; it says: {error!r}") from error
    check_draws(traced, len(jax.tree.leaves(one)))
    (logits,) = traced.out_avals
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply: got outputs of {logits.dtype}, must be floating point logits")
    return traced
