"""The program of a network for one example, as a batch of one that nothing else can reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rankjax._caches import afresh
from rankjax.certificates._draws import check_draws
from rankjax.network.internal import logits_of_one

Apply = Callable[[Any, Any], Any]


def trace_of_one(apply: Apply, params: Any, x: Any) -> Any:
    """The program of a network for a batch of one, from parameters and inputs to ``(classes,)``.

    It is traced anew: whatever ``apply`` closes over is read now, and stays as it is.
    """
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), x)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    with afresh():
        try:
            traced = jax.make_jaxpr(lambda params, x: logits_of_one(apply(params, x)))(shapes, one)
        except Exception as error:  # whatever the function says of shapes that do not fit
            if isinstance(error, ValueError) and str(error).startswith("apply:"):
                raise
            # The text of a KeyError is a name alone.
            said = error if isinstance(error, (TypeError, ValueError)) else repr(error)
            raise ValueError(f"apply: must take params and x; it says: {said}") from error
    check_draws(traced, len(jax.tree.leaves(one)))
    (logits,) = traced.out_avals
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"apply: got outputs of {logits.dtype}, must be floating point logits")
    return traced
