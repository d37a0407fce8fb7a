"""Decompositions spread over the devices of a mesh: each device does its share of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Batched = Callable[..., Any]


def spread(function: Batched, mesh: Mesh | None) -> Batched:
    """``function`` of a batch of matrices, split over all devices of ``mesh``.

    Left to itself the compiler repeats a decomposition on every device: it cannot split a LAPACK
    or cuSOLVER call. Here each device gets ``ceil(k / devices)`` of the ``k`` matrices, whole.
    The last matrix fills the batch up; what is computed of the filling is dropped.

    Args:
        function: ``(batch (k, m, n), index (k,), *operands) -> arrays (k, ...)``, each matrix by
            itself. Every device gets all ``operands``; traced values must not be closed over.
        mesh: the devices; ``None``: all of this is left out. Inside a ``shard_map`` over some of
            its axes the others are used.

    Returns:
        A function of the same arguments, differentiable as ``function`` is, forward and reverse.
    """
    if mesh is None:
        return function

    def run(batch: Array, index: Array, *operands: Any) -> Any:
        ambient = jax.sharding.get_abstract_mesh()
        names = tuple(name for name in mesh.axis_names if name not in ambient.manual_axes)
        devices = math.prod(mesh.shape[name] for name in names)
        count = batch.shape[0]
        if devices == 1 or count < 2:
            return function(batch, index, *operands)
        # Arrays that lie elsewhere must not be refused by explicit axes.
        kinds = (AxisType.Auto,) * len(mesh.axis_names)
        here = Mesh(mesh.devices, mesh.axis_names, kinds) if ambient.empty else ambient
        everywhere = NamedSharding(here, PartitionSpec())  # pyright: ignore[reportArgumentType]

        # Whole matrices are needed, and XLA finds no better way to them than through all of them.
        def gathered(x: Array) -> Array:
            return jax.lax.with_sharding_constraint(x, everywhere)

        def filled(x: Array) -> Array:
            end = jnp.broadcast_to(x[-1:], (-count % devices, *x.shape[1:]))
            return jnp.concatenate([x, end])

        # Numbers that are known stay known: engines are chosen by them.
        leaves, treedef = jax.tree.flatten(operands)
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Array)]
        # ``jvp`` may hand on Python numbers inside of a tracer, which ``shard_map`` refuses.
        arrays = [jnp.copy(leaves[i]) for i in traced]

        def on_share(batch: Array, index: Array, *values: Array) -> Any:
            full = list(leaves)
            for i, value in zip(traced, values, strict=True):
                full[i] = value
            return function(batch, index, *jax.tree.unflatten(treedef, full))

        share = PartitionSpec(names)
        # check_vma=False: the loops inside start from constants, which that check refuses.
        split = jax.shard_map(
            on_share,
            mesh=here,
            in_specs=(share, share, *(PartitionSpec() for _ in traced)),
            out_specs=share,
            axis_names=set(names),
            check_vma=False,
        )
        batch = gathered(filled(gathered(batch)))
        results = split(batch, filled(index), *arrays)
        return jax.tree.map(lambda x: gathered(x)[:count], results)

    return run
