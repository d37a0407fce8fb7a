"""Equal shapes share one compiled program, which large leaves pass through one after another.

XLA inlines every call, so that a decomposition written once per leaf is compiled once per leaf:
the 73 matrices of an ordinary transformer of 12 blocks took minutes. Here all leaves whose matrices
have one shape (or the transposed one) form a group. The matrices of small leaves go through the
program as one batch. Large leaves go through it in a loop: a batch would hold the intermediate
results of all of them at a time, more memory than a training step itself, and gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType

from rankjax._arguments import at_least_float32
from rankjax._explicit_axes import automatic
from rankjax.network import Layer, Structure
from rankjax.network.internal import LARGE, spread

#: Entries of large matrices of one shape that accelerators hold a few times at once (64 MiB each).
AT_ONCE = 2**24
#: ``(batch (k, m, n), kept, index (k,), *operands) -> (what to add to the batch, the next kept)``;
#: transposing the matrices transposes what is added.
Change = Callable[..., tuple[Array, Any]]


class Group(NamedTuple):
    """Layers whose matrices share a program.

    Attributes:
        shape: the larger side of each matrix, then the smaller one.
        loop: whether the leaves are large, and go through the program one after another.
        members: their numbers in ``structure.layers``.
    """

    shape: tuple[int, int]
    loop: bool
    members: tuple[int, ...]


def groups(structure: Structure) -> tuple[Group, ...]:
    """All layers of a structure, in the order of the first of each group, small leaves first.

    On a mesh, which spreads a batch over its devices, there is no loop.
    """
    found: dict[tuple[tuple[int, int], int], list[int]] = {}
    for i, layer in enumerate(structure.layers):
        out, in_ = layer.matrix_shape
        count = matrices(layer)
        large = structure.mesh is None and count * out * in_ >= LARGE
        key = (max(out, in_), min(out, in_)), count if large else 0
        found.setdefault(key, []).append(i)
    all_groups = [Group(k[0], k[1] > 0, tuple(members)) for k, members in found.items()]
    return tuple(sorted(all_groups, key=lambda group: group.loop))


def matrices(layer: Layer) -> int:
    """How many matrices a leaf holds."""
    return layer.stacked * layer.parallel


def tall(a: Array) -> Array:
    """``a``, transposed where it has fewer rows than columns."""
    return jnp.swapaxes(a, -1, -2) if a.shape[-2] < a.shape[-1] else a


def _turned(layer: Layer) -> bool:
    """Whether the matrices are transposed: wide ones, and square ones that lie that way."""
    out, in_ = layer.matrix_shape
    return out < in_ or (out == in_ and layer.view.in_ < layer.view.out)


def batch_of(layer: Layer, leaf: Array) -> Array:
    """The matrices of a leaf as ``(k, m, n)`` with ``m >= n``."""
    a = layer.matrix(leaf)
    a = jnp.swapaxes(a, -1, -2) if _turned(layer) else a
    return a.reshape(-1, *a.shape[-2:])


def leaf_of(layer: Layer, batch: Array) -> Array:
    """Undo ``batch_of``."""
    return layer.leaf(jnp.swapaxes(batch, -1, -2) if _turned(layer) else batch)


def add_changes(
    structure: Structure,
    group: Group,
    leaves: Sequence[Array],
    steps: Sequence[Array],
    change: Change,
    kept: Any,
    operands: Sequence[Any],
    ready: Array,
    *,
    after_step: bool,
) -> tuple[list[Array], Any]:
    """The steps of the leaves of one group, with ``change`` of their matrices added.

    Args:
        structure: the layers.
        group: which of them.
        leaves: their leaves.
        steps: their updates.
        change: see ``Change``.
        kept: a tree of arrays with one entry per matrix.
        operands: trees that ``change`` needs besides.
        ready: a ``landmark``; nothing begins before it is known.
        after_step: whether ``change`` sees the leaves as the steps would make them.

    Returns:
        The new steps, and what is kept.
    """
    layers = [structure.layers[i] for i in group.members]

    def seen(leaf: Array, step: Array) -> Array:
        leaf = at_least_float32(leaf)
        return leaf + step.astype(leaf.dtype) if after_step else leaf

    def in_place(
        leaves: Sequence[Array], steps: Sequence[Array], kept: Any, operands: Any, ready: Array
    ) -> tuple[list[Array], Any]:
        steps = [held(step, ready) for step in steps]
        return _loop_in_place(layers, seen, leaves, steps, change, kept, operands)

    @automatic
    def all_changes(
        leaves: Sequence[Array], steps: Sequence[Array], kept: Any, operands: Any, ready: Array
    ) -> tuple[list[Array], Any]:
        arrived = [seen(held(x, ready), step) for x, step in zip(leaves, steps, strict=True)]
        parts = [batch_of(layer, x) for layer, x in zip(layers, arrived, strict=True)]
        dtype = jnp.result_type(*(part.dtype for part in parts))
        batch = jnp.concatenate([part.astype(dtype) for part in parts])
        if group.loop:
            batch, kept = _one_by_one(change, batch, kept, jnp.arange(len(batch)), operands)
        else:
            batch, kept = _at_once(structure, change, batch, kept, operands)
        found = jnp.split(batch, np.cumsum([len(part) for part in parts])[:-1])
        return [leaf_of(layer, x) for layer, x in zip(layers, found, strict=True)], kept

    def added(
        leaves: Sequence[Array], steps: Sequence[Array], kept: Any, operands: Any, ready: Array
    ) -> tuple[list[Array], Any]:
        found, kept = all_changes(leaves, steps, kept, operands, ready)
        return [step + by.astype(step.dtype) for step, by in zip(steps, found, strict=True)], kept

    given = (list(leaves), list(steps), kept, operands, ready)
    if group.loop and len(layers) > 1 and _in_place(leaves, steps):
        # In place takes a condition per leaf and pass: on accelerators every condition is a wait,
        # and a copy of all leaves the lesser evil.
        return jax.lax.platform_dependent(*given, cpu=in_place, default=added)
    return added(*given)


def _in_place(leaves: Sequence[Array], steps: Sequence[Array]) -> bool:
    """Whether each step can be written where it is."""
    arrays = (*leaves, *steps)
    explicit = any(AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types for x in arrays)
    one_dtype = len({x.dtype for x in leaves}) == len({x.dtype for x in steps}) == 1
    return one_dtype and not explicit


def _loop_in_place(
    layers: Sequence[Layer],
    seen: Callable[[Array, Array], Array],
    leaves: Sequence[Array],
    steps: list[Array],
    change: Change,
    kept: Any,
    operands: Sequence[Any],
) -> tuple[list[Array], Any]:
    """A loop over leaves of equal shapes that holds no more than the leaf of the moment.

    Whose turn it is, flags tell that move on by one place: a comparison with each number would be
    a kernel of its own, and compiling those took longer than all the rest.
    """
    count = matrices(layers[0])

    def read(i: int) -> Callable[..., Array]:
        return lambda leaves, steps: batch_of(layers[i], seen(leaves[i], steps[i]))

    def added(layer: Layer) -> Callable[..., Array]:
        return lambda step, by: step + leaf_of(layer, by).astype(step.dtype)

    readers = [read(i) for i in range(len(layers))]
    adders = [added(layer) for layer in layers]

    def one(k: Array, carry: Any) -> Any:
        steps, kept, turns = carry
        batch = jax.lax.switch(k, readers, list(leaves), steps)
        first = k * count
        mine = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), kept)
        index = first + jnp.arange(count, dtype=k.dtype)
        by, mine = _one_by_one(change, batch, mine, index, operands)
        kept = jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, first, 0), kept, mine
        )
        triples = zip(turns, adders, steps, strict=True)
        steps = [jax.lax.cond(turn, add, lambda x, _: x, x, by) for turn, add, x in triples]
        return steps, kept, turns[-1:] + turns[:-1]

    turns = [jnp.asarray(i == 0) for i in range(len(layers))]
    return jax.lax.fori_loop(0, len(leaves), one, (steps, kept, turns))[:2]


def _one_by_one(
    change: Change, batch: Array, kept: Any, index: Array, operands: Sequence[Any]
) -> tuple[Array, Any]:
    """``change`` of a batch, large matrices one after another, each written over the matrix.

    On accelerators a loop costs launches and, in a branch, a wait for the host: there what fits
    into ``AT_ONCE`` goes at once.
    """
    count, m, n = batch.shape
    if count == 1 or m * n < LARGE:
        return change(batch, kept, index, *operands)
    loop = partial(_loop, change)
    if batch.size > AT_ONCE:
        return loop(batch, kept, index, *operands)
    return jax.lax.platform_dependent(batch, kept, index, *operands, cpu=loop, default=change)


def _loop(
    change: Change, batch: Array, kept: Any, index: Array, *operands: Any
) -> tuple[Array, Any]:
    count = len(batch)

    def one(k: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        mine = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, k, 1), (carry, index))
        (matrix, state), number = mine
        new = change(matrix, state, number, *operands)
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, k, 0), carry, new
        )

    return jax.lax.fori_loop(0, count, one, (batch, kept))


def _at_once(
    structure: Structure, change: Change, batch: Array, kept: Any, operands: Sequence[Any]
) -> tuple[Array, Any]:
    """``change`` of a batch, spread over the devices of the structure's mesh."""

    def run(batch: Array, index: Array, kept: Any, *operands: Any) -> tuple[Array, Any]:
        return change(batch, jax.tree.map(lambda x: x[index], kept), index, *operands)

    return spread(run, structure.mesh)(batch, jnp.arange(len(batch)), kept, *operands)


@automatic
def landmark(arrays: Sequence[Array]) -> Array:
    """One number that cannot be known before all the arrays are: see ``held``."""
    firsts = [a[(0,) * a.ndim].astype(jnp.float32) for a in arrays if a.size]
    return jnp.sum(jnp.stack(firsts)) if firsts else jnp.zeros((), jnp.float32)


def ends_of_backward_pass(updates: Any) -> list[Array]:
    """Leaves whose ``landmark`` is near the end of the backward pass.

    Small ones (biases of every layer, often), or else the smallest: what is looked at must be
    written to memory, where otherwise the whole chain down to the new parameters is one loop.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(updates)]
    small = [leaf for leaf in leaves if leaf.size < LARGE]
    return small or sorted(leaves, key=lambda leaf: leaf.size)[:1]


def held(x: Array, landmark: Array) -> Array:
    """``x``, which cannot be used before ``landmark`` is known.

    Left to itself XLA decomposes the weights when it likes, before the backward pass or all shapes
    at a time, and keeps what comes out: as much memory again as the parameters. Every group of
    leaves therefore waits for the one before. ``optimization_barrier`` would say so, but is dropped
    on CPU before anything is scheduled; of this condition the compiler does not see that it holds.
    """
    known = (landmark == landmark) | (landmark != landmark)
    return jnp.where(known, x, jnp.zeros_like(x))
