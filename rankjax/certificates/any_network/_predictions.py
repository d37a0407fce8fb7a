"""The class that a network gives each example, each evaluated alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._jax_internals import as_function
from rankjax.certificates._held import Held, held_by
from rankjax.certificates._one_example import Apply, trace_of_one
from rankjax.network.internal import batches, split_arrays


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
