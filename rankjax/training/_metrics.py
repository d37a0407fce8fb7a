"""What happens to the layers during training: one flat dictionary of scalars, for any logger."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax.bounds import rank_sparse
from rankjax.matrix import SingularValueMethod
from rankjax.network import Sample, Structure, measure
from rankjax.training._penalties import DEFAULT_EPS
from rankjax.training._schedule import Whole, first_count, next_count, whole
from rankjax.training._transformation import (
    StructureOrFunction,
    check_source,
    needed,
    structure_of,
    visible,
    without_arrays,
)


def metrics(
    structure: Structure,
    params: Any,
    /,
    *,
    p: ArrayLike = 0.5,
    eps: ArrayLike = DEFAULT_EPS,
    rtol: ArrayLike = 1e-3,
    sample: Sample | None = None,
    gamma: ArrayLike = 1.0,
    reference: Any = None,
    method: SingularValueMethod = "gram",
) -> dict[str, Float[Array, ""]]:
    """Norms and ranks of every layer, and the bound's term, as scalars by name.

    ``"<layer>/spectral_norm"``, ``"<layer>/frobenius_norm"``, ``"<layer>/numerical_rank"``,
    ``"<layer>/stable_rank"``, ``"<layer>/soft_rank"`` (``|A|_{S_p}^p / |A|^p``, smoothed); with a
    sample also ``"<layer>/rank_sparse_term"``, its summand of the square of the bound's ``R``, and
    ``"rank_sparse"``, the bound (a dominant term, no guarantee). Members of a stack are layers of
    their own, ``"<path>[0]/..."``; ranks are summed over parallel matrices (experts, groups),
    norms are the spectral norm's largest and the Frobenius norm of all.

    Args:
        p: Schatten exponent of the soft rank and of the bound, may be traced.
        rtol: of the numerical rank.
        sample: ``Sample.of_size(n, radius=...)``; ``None``: no bound.
        gamma: its margin.
        method: how singular values are computed, see ``singular_values``; ``"gram"`` resolves
            them down to ``sqrt(machine eps)`` of the largest.

    Returns:
        A dictionary with the same keys on every call. Pure; fit for ``jit`` and ``lax.cond``.

    Raises:
        ValueError: as ``measure`` and ``rank_sparse``.

    Cost: one decomposition per matrix (values only), two with a reference: see ``record_metrics``
    for a way not to pay it on each step.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([4.0, 1.0, 1e-9]))}
        >>> for name, value in metrics(describe(params), params, eps=0.0).items():
        ...     print(name, round(float(value), 3))
        kernel/spectral_norm 4.0
        kernel/frobenius_norm 4.123
        kernel/numerical_rank 2.0
        kernel/stable_rank 1.062
        kernel/soft_rank 1.5
    """
    measured = measure(structure, params, reference=reference, method=method)
    columns = {
        "spectral_norm": measured.spectral_norm,
        "frobenius_norm": measured.frobenius_norm,
        "numerical_rank": measured.numerical_rank(rtol),
        "stable_rank": measured.stable_rank,
        "soft_rank": measured.soft_rank(p, eps=eps),
    }
    totals = {}
    if sample is not None:
        bound = rank_sparse(measured, sample, p=p, gamma=gamma, eps=eps)
        assert bound.per_layer is not None
        columns["rank_sparse_term"] = bound.per_layer
        totals["rank_sparse"] = bound.value
    each = {
        f"{layer}/{name}": column[i]
        for i, layer in enumerate(structure.names)
        for name, column in columns.items()
    }
    return each | totals


class RecordState(NamedTuple):
    """State of ``record_metrics``: the number of steps taken, and the metrics of the last record.

    ``optax.tree_utils.tree_get(state, "metrics")`` finds them in the state of any chain.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    metrics: dict[str, Array]


def record_metrics(
    structure: StructureOrFunction,
    *,
    every: Whole = 100,
    p: ArrayLike = 0.5,
    eps: ArrayLike = DEFAULT_EPS,
    rtol: ArrayLike = 1e-3,
    sample: Sample | None = None,
    gamma: ArrayLike = 1.0,
    reference: Any = None,
    method: SingularValueMethod = "gram",
) -> optax.GradientTransformationExtraArgs:
    """Leaves the updates alone and keeps ``metrics`` of the parameters in its state.

    It records on the first step and on every ``every``-th after it, from the parameters before the
    step, and keeps the record in between (``lax.cond``). Reading it costs nothing; before the first
    step all metrics are NaN. Layers that ``optax.masked`` hides are left out.

    Args:
        every: how often the singular values are computed; what follows is as in ``metrics``.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.eye(3)}
        >>> optimizer = optax.chain(optax.sgd(0.1), record_metrics(describe(params)))
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update(params, state, params)
        >>> found = optax.tree_utils.tree_get(state, "metrics")
        >>> round(float(found["kernel/stable_rank"]), 3)
        3.0
    """
    check_source(structure)
    period = whole(every, "every")
    options: dict[str, Any] = {"p": p, "eps": eps, "rtol": rtol, "sample": sample}
    options |= {"gamma": gamma, "reference": reference, "method": method}

    def record(seen: Structure, leaves: Mapping[str, Any]) -> dict[str, Array]:
        return metrics(seen, leaves, **options)

    def read(seen: Structure, params: Any) -> dict[str, Array]:
        found = seen.check(params)
        return {path: jnp.asarray(found[path]) for layer in seen.layers for path, _ in layer.leaves}

    # Compiled once, also where a loop without ``jit`` calls the update.
    @partial(jax.jit, static_argnums=0)
    def renewed(seen: Structure, leaves: Any, old: Any, count: Array) -> dict[str, Array]:
        return jax.lax.cond(
            count % period == 0, lambda old: record(seen, leaves), lambda old: old, old
        )

    def init(params: Any) -> RecordState:
        seen = visible(structure_of(structure, params), params)
        if without_arrays(params):
            every_leaf = (leaf for layer in seen.layers for leaf in layer.leaves)
            leaves = {path: jax.ShapeDtypeStruct(s, jnp.float32) for path, s in every_leaf}
        else:
            leaves = read(seen, params)
        shapes = jax.eval_shape(partial(record, seen), leaves) if leaves else {}
        # NaN made by NumPy, and moved: ``jax_debug_nans`` stops at one that JAX computes.
        nothing = {
            name: jax.device_put(np.full(x.shape, np.nan, x.dtype)) for name, x in shapes.items()
        }
        return RecordState(first_count(), nothing)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        needed(params)
        seen = visible(structure_of(structure, params), params)
        leaves = read(seen, params)
        found = renewed(seen, leaves, state.metrics, state.count) if leaves else state.metrics
        return updates, RecordState(next_count(state.count), found)

    return optax.GradientTransformationExtraArgs(init, update)
