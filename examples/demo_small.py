"""What a trained network becomes when each of its matrices is cut to the rank that it uses."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.datasets import Dataset
from rankjax.network import Structure
from rankjax.training import effective_params, factorize, lowrank

BATCH, ROUNDS = 1024, 15


def shrink(
    structure: Structure,
    params: Any,
    data: Dataset,
    *,
    apply: Callable[[Any, Any], jax.Array],
) -> dict[str, Any]:
    """Ranks, parameters, bytes, time of a batch and test error, dense and small.

    The small network keeps the singular values above 0.001 of each matrix's largest.
    """
    small, run = factorize(structure, params), lowrank(apply)
    networks = {"dense": (jax.jit(apply), params), "small": (jax.jit(run), small)}
    x = jnp.asarray(data.x_test[np.arange(BATCH) % len(data.x_test)])
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS + 1):
        for name, (forward, tree) in networks.items():
            start = time.perf_counter()
            jax.block_until_ready(forward(tree, x))
            seconds[name].append(time.perf_counter() - start)
    wrong = jnp.argmax(run(small, jnp.asarray(data.x_test)), -1) != data.y_test
    sizes = {
        name: [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes")]
        for name, (_, tree) in networks.items()
    }
    return {
        "ranks": effective_params(structure, params).ranks,
        "parameters": {name: sum(a.size for a in arrays) for name, arrays in sizes.items()},
        "bytes": {name: sum(a.nbytes for a in arrays) for name, arrays in sizes.items()},
        # The first call compiles.
        "ms": {name: 1e3 * statistics.median(times[1:]) for name, times in seconds.items()},
        "test_error": float(jnp.mean(wrong)),
    }
