"""What each matrix makes of a sample: second moments of its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax.network._examples import number_of_inputs
from rankjax.network._paths import Skeleton, array_paths, split_arrays
from rankjax.network._running import run
from rankjax.network._structure import Layer, Structure, check_structure
from rankjax.network._traced_layers import uses_by_name
from rankjax.network._tracing import Use, trace_uses


@dataclass(frozen=True)
class OutputMoments:
    """Second moments ``A (sum_i x_i x_i^T) A^T`` of what each matrix ``A`` makes of a sample.

    The sum is over all vectors ``x_i`` that the matrix is applied to: one per example, token or
    patch. The projection on the top eigenvectors minimizes ``|(A - A') X|_F`` over all ``A'`` of
    the same rank, which ``factorize(moments=...)`` uses.

    Attributes:
        moments: by path of the leaf, shape ``(stacked, out, out)``.
        missing: paths of layers of the structure whose outputs were not found in this form: grouped
            convolutions, experts, matrices that stand side by side.
    """

    moments: dict[str, np.ndarray]
    missing: tuple[str, ...]

    @classmethod
    def from_data(
        cls,
        structure: Structure,
        params: Any,
        x: Any,
        *,
        apply: Callable[[Any, Any], Array],
        batch_size: int = 256,
    ) -> OutputMoments:
        """Run the network on a sample; labels are not needed.

        Args:
            structure: from ``describe``.
            params: the parameters.
            x: inputs with a leading example axis (an array or a tree of arrays).
            apply: ``apply(params, x)``, in inference mode.
            batch_size: examples in one call.

        Raises:
            ValueError: for parameters that do not fit the structure, or no examples.

        Cost: a forward pass, and a product ``out x out`` per vector and matrix.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from rankjax import describe
            >>> params = {"kernel": jnp.eye(3)}
            >>> x = jnp.array([[1.0, 2.0, 0.0]])
            >>> apply = lambda p, x: x @ p["kernel"]
            >>> found = OutputMoments.from_data(describe(params), params, x, apply=apply)
            >>> [[float(entry) for entry in row] for row in found.moments["kernel"][0]]
            [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
        """
        check_structure(structure, params)
        n = number_of_inputs(x, batch_size)
        arrays, skeleton = split_arrays(params)
        total: dict[str, np.ndarray] = {}
        for start in range(0, n, batch_size):
            batch = jax.tree.map(lambda a, s=start: a[s : s + batch_size], x)
            found = _moments(structure, skeleton, arrays, batch, apply)
            for path, moment in found.items():
                total[path] = total.get(path, 0.0) + np.asarray(moment, np.float64)
        missing = [layer.path for layer in structure.layers if layer.path not in total]
        return cls(total, tuple(missing))


@partial(jax.jit, static_argnames=("structure", "apply", "skeleton"))
def _moments(
    structure: Structure,
    skeleton: Skeleton,
    arrays: list[Array],
    x: Any,
    apply: Callable[[Any, Any], Any],
) -> dict[str, Array]:
    paths = array_paths(skeleton.fill(arrays))
    shapes = {path: jnp.shape(a) for path, a in zip(paths, arrays, strict=True)}
    program = trace_uses(lambda p, x: apply(skeleton.fill(p), x), arrays, x)
    uses = uses_by_name(program.trace, shapes)
    found = {
        layer.path: mine
        for layer in structure.layers
        if (mine := uses.get(layer.path)) and all(_plain(layer, use) for use in mine)
    }
    wanted = {use.number for mine in found.values() for use in mine}

    def look(number: int, values: list[Any], outs: list[Any]) -> tuple[list[Any], Any]:
        use = program.trace.uses[number]
        return outs, _moment(use, values, at_least_float32(outs[0]))

    _, kept = run(program, arrays, x, at=wanted, look=look)
    moments = {}
    for layer in structure.layers:
        mine = found.get(layer.path, [])
        if mine and all(kept[use.number] is not None for use in mine):
            moments[layer.path] = sum(_by_member(layer, use, kept[use.number]) for use in mine)
    return moments


def _plain(layer: Layer, use: Use) -> bool:
    """One matrix for all positions, and known which member of a stack it is."""
    return use.view == layer.view and layer.parallel == 1 and bool(np.all(use.members >= 0))


def _moment(use: Use, values: list[Any], out: Array) -> Array | None:
    """``(out, out)``, or ``None`` where the product is batched."""
    if use.convolution is not None:
        features = use.convolution.dimension_numbers.out_spec[1]
        rows = jnp.moveaxis(out, features, -1).reshape(-1, out.shape[features])
    else:
        weight, data = jnp.ndim(values[use.side]), jnp.ndim(values[1 - use.side])
        free = weight - len(use.contracted)
        if out.ndim != data - len(use.contracted) + free:
            return None
        if use.side == 0:  # the matrix stands on the left, so its outputs come first
            out = jnp.moveaxis(out, range(free), range(out.ndim - free, out.ndim))
        rows = out.reshape(-1, int(np.prod(out.shape[out.ndim - free :])))
    return jnp.einsum("ni,nj->ij", rows, rows, precision="highest")


def _by_member(layer: Layer, use: Use, moment: Array) -> Array:
    """``(stacked, out, out)`` from one moment per step of the loops."""
    steps = moment.reshape(-1, *moment.shape[-2:])
    zeros = jnp.zeros((layer.stacked, *moment.shape[-2:]), moment.dtype)
    return zeros.at[jnp.asarray(use.members.ravel())].add(steps)
