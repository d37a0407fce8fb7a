"""Muon's step with a polar factor that is one: every shape in one call, spread over devices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import non_negative, one_of
from rankjax._explicit_axes import automatic
from rankjax.matrix import Method, polar
from rankjax.network import Layer, Structure
from rankjax.network.internal import by_shape
from rankjax.training._in_turn import tall
from rankjax.training._penalties import DEFAULT_EPS
from rankjax.training._schedule import constant
from rankjax.training._transformation import (
    StructureOrFunction,
    check_source,
    structure_of,
    visible,
)


def orthogonalize(
    structure: StructureOrFunction,
    *,
    eps: ArrayLike = DEFAULT_EPS,
    method: Method = "auto",
    consistent_rms: float | None = None,
) -> optax.GradientTransformation:
    """Replaces the update of every matrix by its polar factor, scaled as in Muon.

    ``U Sigma V^T`` becomes ``sqrt(max(1, out / in)) U V^T``. This is what ``optax.contrib.muon``
    does between its momentum and its learning rate, and goes there. Optax's polynomial leaves
    singular values anywhere between 0.7 and 1.2, here they are ``sigma / sqrt(sigma^2 + e^2)`` with
    ``e = eps sigma_1``. All matrices of one shape, transposed ones too, go into one call, which
    ``structure.spread_over(mesh)`` deals out to the devices. Every other leaf passes as it is: give
    those to another optimizer (``optax.partition``, as in the guide "Training for low rank").

    Args:
        eps: smoothing relative to the largest singular value of each matrix, see ``polar``; a
            number or an array.
        method: how it is computed, see ``polar``.
        consistent_rms: the factor is ``consistent_rms sqrt(max(in, out))`` instead, as in Optax;
            0.2 is like an update of Adam.

    Returns:
        A transformation without state, which does not need the parameters.

    Raises:
        ValueError: a negative ``eps`` or ``consistent_rms``, an unknown ``method``; at the update,
            updates that do not fit the structure.

    Cost: that of ``polar``, once per shape.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> updates = {"kernel": jnp.diag(jnp.array([2.0, 0.5])), "bias": jnp.ones(2)}
        >>> step = orthogonalize(describe(updates))
        >>> found, _ = step.update(updates, step.init(updates))
        >>> [round(float(u), 3) for u in jnp.diag(found["kernel"])]
        [1.0, 0.999]
    """
    check_source(structure)
    one_of(method, "method", Method)
    non_negative(eps, "eps")
    if consistent_rms is not None:
        non_negative(consistent_rms, "consistent_rms")

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        seen = visible(structure_of(structure, updates), updates)
        leaves = [jnp.asarray(leaf) for leaf in seen.leaves(updates)]
        # A number that is known stays known: the engine is chosen by it.
        known, traced = (float(eps), None) if constant(eps) else (None, eps)  # pyright: ignore[reportArgumentType]
        factors = _polar_factors(seen, method, known, leaves, traced)
        scaled = [
            _scale(layer, consistent_rms) * leaf
            for layer, leaf in zip(seen.layers, factors, strict=True)
        ]
        return seen.replace_leaves(updates, scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale(layer: Layer, consistent_rms: float | None) -> float:
    out, in_ = layer.matrix_shape
    if consistent_rms is None:
        return max(1.0, out / in_) ** 0.5
    return consistent_rms * max(out, in_) ** 0.5


@partial(jax.jit, static_argnums=(0, 1, 2))
@automatic
def _polar_factors(
    structure: Structure,
    method: Method,
    known: float | None,
    leaves: Sequence[Array],
    traced: ArrayLike | None,
) -> list[Array]:
    matrices = [layer.matrix(x) for layer, x in zip(structure.layers, leaves, strict=True)]

    def factors(batch: Array, index: Array, eps: ArrayLike) -> Array:
        del index
        return polar(batch, eps=eps, method=method)

    eps = traced if known is None else known
    found = by_shape(factors, [tall(a) for a in matrices], structure.mesh, eps)
    turned = [
        x if x.shape == a.shape else jnp.swapaxes(x, -1, -2)
        for x, a in zip(found, matrices, strict=True)
    ]
    return [layer.leaf(x) for layer, x in zip(structure.layers, turned, strict=True)]
