"""Path norms by a forward pass of the absolute (or squared) weights, on ones where data enter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._linear_algebra import largest
from rankjax.network._examples import one_of
from rankjax.network._paths import array_paths, split_arrays
from rankjax.network._running import run
from rankjax.network._structure import Structure
from rankjax.network._traced_layers import uses_by_name
from rankjax.network._tracing import trace_uses


def path_norms(
    structure: Structure, params: Any, example: Any, *, apply: Callable[[Any, Any], Any]
) -> Array:
    """``(2,)``: for order 1 and 2, the largest over outputs of ``(sum |path|^order)^(1/order)``.

    Non-negative activations pass ReLU, max and average pooling as the theory of path norms wants
    them to. NaN for a network that the trace does not show to be positively homogeneous, or that
    the structure does not hold. What is added to activations is set to 0.
    """
    arrays, skeleton = split_arrays(params)
    shapes = {path: jnp.shape(a) for path, a in zip(array_paths(params), arrays, strict=True)}
    one = one_of(example)
    program = trace_uses(lambda p, x: apply(skeleton.fill(p), x), arrays, one)
    trace = program.trace
    found = uses_by_name(trace, shapes)
    held = {layer.path for layer in structure.layers}
    out = trace.output
    unclear = out is None or out.bent or any("{" in text for text in out.problems)
    if unclear or set(found) - held:
        return jnp.full(2, jnp.nan, jnp.float32)

    def norm(arrays: list[Array], order: int) -> Array:
        def change(number: int, eqn: Any, values: list[Any]) -> list[Any]:
            use, values = trace.uses.get(number), list(values)
            for operand in trace.inputs.get(number, ()):
                values[operand] = jnp.ones_like(values[operand])
            if use is not None:
                values[use.side] = _power(values[use.side], order)
            elif number in trace.added:
                values[trace.added[number]] = jnp.zeros_like(values[trace.added[number]])
            return values

        # Paths begin where the data enter: what ``apply`` does to an input before is no part of it.
        start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), one)
        output = run(program, arrays, start, at=set(), change=change)[0]
        return at_least_float32(_root(largest(jnp.asarray(output)), order))

    return jax.jit(lambda arrays: jnp.stack([norm(arrays, order) for order in (1, 2)]))(arrays)


def path_norms_of_chain(structure: Structure, matrices: Sequence[Array]) -> Array | None:
    """The same from the matrices alone; ``None`` unless they are a plain chain of dense layers.

    That the activations between them are positively homogeneous only a trace can tell.
    """
    if structure.outside is None or not structure.homogeneous or not _is_chain(structure, matrices):
        return None
    members = [at_least_float32(a)[i, 0] for a in matrices for i in range(a.shape[0])]
    return jnp.stack([_chain(members, order) for order in (1, 2)])


def _is_chain(structure: Structure, matrices: Sequence[Array]) -> bool:
    shapes = []
    for layer, matrix in zip(structure.layers, matrices, strict=True):
        if layer.parallel != 1 or layer.uses != 1 or layer.positions != 1 or layer.convolution:
            return False
        shapes += [matrix.shape[-2:]] * matrix.shape[0]
    return all(a[0] == b[1] for a, b in itertools.pairwise(shapes))


def _chain(members: Sequence[Array], order: int) -> Array:
    v = jnp.ones(members[0].shape[-1], members[0].dtype)
    for a in members:
        v = jnp.dot(_power(a, order), v.astype(a.dtype), precision=jax.lax.Precision.HIGHEST)
    return _root(largest(v), order)


def _power(a: Array, order: int) -> Array:
    return jnp.abs(a) if order == 1 else jnp.square(a)


def _root(value: Array, order: int) -> Array:
    if order == 1:
        return value
    return jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1)), value)
