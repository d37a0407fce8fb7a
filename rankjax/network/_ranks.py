"""Ranks of weights and of activations, layer by layer: where a network has its bottleneck."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax.matrix import singular_values, spectrum
from rankjax.network._measured import Measured
from rankjax.network._paths import Skeleton, array_paths, split_arrays
from rankjax.network._running import run
from rankjax.network._structure import Structure, check_structure
from rankjax.network._traced_layers import uses_by_name
from rankjax.network._tracing import trace_uses


def weight_ranks(measured: Measured, *, rtol: float = 1e-3) -> dict[str, Array]:
    """Ranks of the matrices of each layer.

    ``numerical``: how many singular values exceed ``rtol`` times the largest; ``stable``:
    ``|A|_F^2 / |A|^2``; ``effective``: the exponential of the entropy of ``sigma / sum(sigma)``.

    Args:
        measured: from ``measure``.
        rtol: for the numerical rank. Trained weights never have exact zeros: 1e-3 asks what is
            large.

    Returns:
        ``(layers,)`` for each name; summed over parallel matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import describe, measure
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 1.0, 1e-6]))}
        >>> ranks = weight_ranks(measure(describe(params), params))
        >>> round(float(ranks["numerical"][0]), 3), round(float(ranks["stable"][0]), 3)
        (2.0, 1.25)
    """
    return {
        "numerical": measured.numerical_rank(rtol),
        "stable": measured.stable_rank,
        "effective": measured.effective_rank,
    }


def activation_ranks(
    structure: Structure,
    params: Any,
    x: Any,
    *,
    apply: Callable[[Any, Any], Array],
    rtol: float = 1e-3,
) -> dict[str, Array]:
    """Ranks of what each layer is applied to, over the examples ``x``.

    The inputs of a layer, one row an example (flattened), make a matrix ``(examples, units)``; its
    ranks are those of ``weight_ranks``. The first layer's are those of the data. Nothing is
    centered. A layer that is used several times is judged at its first use.

    Args:
        structure: from ``describe``, for one matrix a leaf.
        params: the parameters.
        x: inputs with a leading example axis; no more examples than fit in memory with all hidden
            activations.
        apply: ``apply(params, x) -> outputs``.
        rtol: for the numerical rank.

    Returns:
        ``(layers,)`` for each of ``numerical``, ``stable``, ``effective``.

    Raises:
        ValueError: for stacked layers, and for parameters that do not fit the structure.
    """
    check_structure(structure, params)
    stacked = [layer.path for layer in structure.layers if layer.stacked > 1]
    if stacked:
        raise ValueError(f"structure: activations of stacked layers are not told apart: {stacked}")
    arrays, skeleton = split_arrays(params)
    spectra = _activation_spectra(structure, skeleton, arrays, x, apply)
    ranks = {
        "numerical": partial(spectrum.numerical_rank, rtol=rtol),
        "stable": spectrum.stable_rank,
        "effective": spectrum.effective_rank,
    }
    return {name: jnp.stack([rank(s) for s in spectra]) for name, rank in ranks.items()}


@partial(jax.jit, static_argnames=("structure", "apply", "skeleton"))
def _activation_spectra(
    structure: Structure, skeleton: Skeleton, arrays: list[Array], x: Any, apply
) -> list[Array]:
    paths = array_paths(skeleton.fill(arrays))
    shapes = {path: jnp.shape(a) for path, a in zip(paths, arrays, strict=True)}

    def one(x: Any) -> list[Array]:
        batch = jax.tree.map(lambda a: a[None], x)
        program = trace_uses(lambda p, x: apply(skeleton.fill(p), x), arrays, batch)
        firsts = {path: uses[0] for path, uses in uses_by_name(program.trace, shapes).items()}
        wanted = [firsts[layer.path] for layer in structure.layers]

        def look(number: int, values: list[Any], outs: list[Any]) -> tuple[list[Any], Array]:
            return outs, at_least_float32(values[1 - program.trace.uses[number].side])

        at = {use.number for use in wanted}
        kept = run(program, arrays, batch, at=at, look=look)[1]
        seen = []
        for use in wanted:
            value = kept[use.number]
            for _ in use.loops:
                value = jnp.take(value, 0, axis=0)
            seen.append(value.ravel())
        return seen

    return [singular_values(matrix) for matrix in jax.vmap(one)(x)]
