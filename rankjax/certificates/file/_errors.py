"""Counting the errors of a network on a sample, each example alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._jax_internals import as_function
from rankjax.certificates._held import held_by
from rankjax.certificates._inputs import check_values, checked_sample
from rankjax.certificates._one_example import Apply, trace_of_one
from rankjax.network.internal import Skeleton, batches, check_labels, margin_of, split_arrays


class ErrorCounter:
    """Counts misclassified examples of one sample, for any arrays in the place of the first ones.

    ``apply`` is traced once, here: whatever it closes over is read now, not taken from an earlier
    compilation, and stays the same for all networks that are counted.

    Attributes:
        n: number of examples.
        held: what ``apply`` uses besides the parameters and the input.
    """

    def __init__(
        self,
        apply: Apply,
        arrays: Sequence[Any],
        skeleton: Skeleton,
        x: Any,
        y: Any,
        *,
        batch_size: int = 1000,
    ):
        self._x, (self._y, self._batch_size) = x, checked_sample(x, y, batch_size)
        self.n = len(self._y)
        traced = trace_of_one(lambda arrays, x: apply(skeleton.fill(arrays), x), arrays, x)
        self.held = held_by(traced)
        check_labels(self._y, traced.out_avals[0].shape[0])
        run = as_function(traced)

        def margin(arrays: Sequence[Array], x: Any, y: Array) -> Array:
            batch = jax.tree.map(lambda a: a[None], x)
            return margin_of(run(*arrays, *jax.tree.leaves(batch))[0], y)

        self._margins = jax.jit(jax.vmap(margin, in_axes=(None, 0, 0)))

    def __call__(self, arrays: Sequence[Any]) -> int:
        """How many examples are misclassified with these arrays."""
        errors = 0
        for index, real in batches(self.n, self._batch_size):
            batch = jax.tree.map(lambda a, index=index: jnp.asarray(a[index]), self._x)
            margins = np.asarray(
                self._margins(list(arrays), batch, self._y[index].astype(jnp.result_type(int)))
            )
            errors += int(np.sum(~(margins[:real] > 0)))
        return errors


def count_errors(apply: Apply, params: Any, x: Any, y: Any, *, batch_size: int = 1000) -> int:
    """How many examples are misclassified; a tie with another class is an error, so is NaN.

    Every example is evaluated alone, as a batch of one.

    Args:
        apply: ``apply(params, x) -> logits``.
        params: the parameters.
        x: inputs, the leading axis is the example's.
        y: integer labels.
        batch_size: examples per call.

    Raises:
        ValueError: labels, inputs or outputs that do not fit together.

    Cost: one forward pass, compiled anew in each call.
    """
    check_values(params, "params")
    arrays, skeleton = split_arrays(params)
    return ErrorCounter(apply, arrays, skeleton, x, y, batch_size=batch_size)(arrays)
