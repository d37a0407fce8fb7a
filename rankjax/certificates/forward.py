"""What a certificate needs of the network on the sample, with room for rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.certificates.recursion import Recursion
from rankjax.network.paths import Skeleton, array_paths, split_arrays
from rankjax.network.sample import batches, check_labels, margin_of, number_of_examples
from rankjax.network.tracing import Use, interpret

# Unit roundoff of float64, with room for the two or three roundings beside each product.
_ROUNDING = 8 * 2.0**-53
#: Covers the rounding of a chain of sums, products and roots of non-negative numbers.
ROOM = 1 + 1e-12


@dataclass(frozen=True)
class Observed:
    """The sample as the network sees it, in float64, rounded to the safe side.

    Attributes:
        margins: ``(n,)``, lower bounds of the margins of the network in exact arithmetic.
        norms: ``(uses, n)``, upper bounds of ``|P h|_F``, what each matrix is applied to.
    """

    margins: np.ndarray
    norms: np.ndarray


def observe(
    recursion: Recursion,
    apply: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int = 1024,
) -> Observed:
    """One pass over the sample in float64, in batches.

    A computed product ``A h`` is the exact product with a matrix next to ``A``, so the rounding of
    the forward pass is bounded by the recursion that bounds every other change of the weights.
    """
    y = np.asarray(y)
    n = number_of_examples(x, y, batch_size)
    leaves, skeleton = split_arrays(params)
    exact = [_wide(leaf) for leaf in leaves]
    margins, norms = [], []
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in exact]
        gain, error, bias_error = _rounding(
            recursion, dict(zip(array_paths(params), exact, strict=True))
        )
        for index, real in batches(n, batch_size):
            batch = jax.tree.map(lambda a, index=index: _wide(a[index]), x)
            margin, size = _pass(
                recursion, apply, skeleton, arrays, batch, y[index], gain, error, bias_error
            )
            margins.append(np.asarray(margin)[:real])
            norms.append(np.asarray(size)[:, :real])
    check_labels(y, _classes(apply, params, x))
    observed = Observed(np.concatenate(margins), np.concatenate(norms, axis=1))
    if not np.isfinite(observed.norms).all() or np.isnan(observed.margins).any():
        raise ValueError("params: the network's values on x are not finite")
    return observed


def spectral_norm(matrix: np.ndarray) -> float:
    """An upper bound of the spectral norm, a few roundings above the computed one."""
    return float(singular_values(matrix)[0]) if matrix.size else 0.0


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Upper bounds of the singular values: computed ones plus the backward error of LAPACK."""
    matrix = np.asarray(matrix, np.float64)
    room = _ROUNDING * sum(matrix.shape) * np.linalg.norm(matrix)
    return np.linalg.svd(matrix, compute_uv=False) + room


def _rounding(recursion: Recursion, leaves: Mapping[str, np.ndarray]):
    gain, error = {}, {}
    for path in recursion.matrices:
        # Any way to see the leaf as a matrix has this Frobenius norm and fewer terms a product.
        size = float(np.linalg.norm(leaves[path]))
        gain[path], error[path] = size, _ROUNDING * (leaves[path].size + 8) * size
    bias = {path: _ROUNDING * float(np.linalg.norm(leaves[path])) for path in recursion.biases}
    return gain, error, bias


@partial(jax.jit, static_argnames=("recursion", "apply", "skeleton"))
def _pass(recursion: Recursion, apply, skeleton: Skeleton, arrays, x, y, gain, error, bias_error):
    def one(x, y):
        sizes: list[Array] = []

        def on_use(use: Use, data: Array) -> None:
            squares = use.squared_row_norms(data.astype(float))
            sizes.append(jnp.sqrt(jnp.sum(squares)))

        batch = jax.tree.map(lambda a: a[None], x)
        trace = interpret(lambda p, x: apply(skeleton.fill(p), x), arrays, batch, on_use)
        return margin_of(trace.output[0].astype(float), y), jnp.stack(sizes)

    margins, norms = jax.vmap(one, out_axes=(0, 1))(x, y)
    moved, at_use = recursion.perturbation(norms, gain=gain, error=error, bias_error=bias_error)
    # |M - M'| <= sqrt(2) |f - f'|; the last factors cover the rounding of these very lines.
    return margins - 1.5 * moved, (norms + at_use) * (1 + 1e-13)


def _classes(apply, params, x) -> int:
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), x)
    return jax.eval_shape(apply, params, first).shape[1]


def _wide(a: Any) -> np.ndarray:
    return np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype)
