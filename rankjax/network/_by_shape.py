"""One call for all matrices of a shape: fewer kernels to compile, larger batches to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from rankjax.network._spread import spread

# Entries from which a leaf is large: training decomposes it by itself, not in a batch with others.
LARGE = 256 * 256


def by_shape(
    function: Callable[..., Array],
    matrices: Sequence[Array],
    mesh: Mesh | None = None,
    *operands: Any,
) -> tuple[Array, ...]:
    """Apply a function of a batch of matrices to all matrices, equal shapes in one call.

    Args:
        function: ``(batch (k, out, in), index (k,), *operands) -> (k, ...)``; ``index`` says for
            each matrix which of ``matrices`` it came from.
        matrices: arrays ``(stacked, parallel, out, in)``.
        mesh: devices to spread each batch over, see ``spread``.
        operands: trees that ``function`` needs besides.

    Returns:
        For each of ``matrices`` the results as ``(stacked, parallel, ...)``.
    """
    buckets: dict[tuple[Any, ...], list[int]] = {}
    for i, a in enumerate(matrices):
        buckets.setdefault((a.shape[-2:], a.dtype), []).append(i)
    found: dict[int, Array] = {}
    for (shape, _), members in buckets.items():
        flat = [matrices[i].reshape(-1, *shape) for i in members]
        counts = [f.shape[0] for f in flat]
        index = jnp.asarray(np.repeat(members, counts))
        results = spread(function, mesh)(jnp.concatenate(flat), index, *operands)
        parts = jnp.split(results, np.cumsum(counts)[:-1])
        for i, part in zip(members, parts, strict=True):
            found[i] = part.reshape(*matrices[i].shape[:2], *part.shape[1:])
    return tuple(found[i] for i in range(len(matrices)))
