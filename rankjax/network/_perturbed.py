"""Errors of a network with Gaussian noise on its weights, by Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.network._paths import Skeleton, paths_and_leaves, split_arrays


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["scales", "errors", "squared_distance"],
    meta_fields=["parameters"],
)
@dataclass(frozen=True)
class Perturbed:
    """Errors of networks ``w + s N(0, I)`` (a pytree).

    Attributes:
        scales: ``(trials,)``, standard deviations s (not variances).
        errors: ``(trials, draws)``; each is the error of one noisy network on a random batch of the
            sample, so its mean is the empirical error of the noisy network.
        squared_distance: ``|w - w_0|^2`` over all parameters, biases included.
        parameters: their number (static).
    """

    scales: Array
    errors: Array
    squared_distance: Array
    parameters: int

    @classmethod
    def from_data(
        cls,
        params: Any,
        x: Any,
        y: ArrayLike,
        *,
        apply: Callable[[Any, Any], Array],
        scales: Sequence[float],
        reference: Any = None,
        draws: int = 200,
        batch_size: int = 256,
        seed: int = 0,
    ) -> Perturbed:
        """Draw noisy networks and count their errors.

        Every draw has its own noise and its own uniformly random examples (with replacement), so
        the draws are independent, as the confidence term of the bound needs. Cost: ``len(scales) *
        draws`` forward passes of ``batch_size`` examples and as many Gaussian parameter vectors.

        Args:
            params: the parameters; every floating point leaf gets noise. Other arrays (codes,
                masks) must be those of ``reference``: without noise, the bound knows nothing of how
                they were chosen.
            x: inputs with a leading example axis.
            y: integer labels.
            apply: ``apply(params, x) -> logits (batch, classes)``.
            scales: standard deviations to try.
            reference: ``w_0``, parameters that do not depend on the sample; ``None``: 0.
            draws: noisy networks for each scale.
            batch_size: examples each of them sees.
            seed: of the noise and the choice of examples.

        Raises:
            ValueError: for a scale that is not positive, or arrays of whole numbers or truth values
                that are not in the reference.
        """
        _check_fixed(params, reference)
        if not len(scales) or min(scales) <= 0:
            raise ValueError(f"scales: got {list(scales)}, must all be positive")
        arrays, skeleton = split_arrays(params)
        rng, y = np.random.default_rng(seed), np.asarray(y)
        errors = np.empty((len(scales), draws))
        for trial, scale in enumerate(scales):
            for draw in range(draws):
                index = rng.integers(len(y), size=batch_size)
                batch = jax.tree.map(lambda a, index=index: a[index], x)
                key = jax.random.fold_in(jax.random.key(seed), trial * draws + draw)
                errors[trial, draw] = _noisy_error(
                    apply, skeleton, arrays, scale, key, batch, y[index]
                )
        leaves = _floats(params)
        base = [jnp.zeros_like(a) for a in leaves] if reference is None else _floats(reference)
        pairs = zip(leaves, base, strict=True)
        distance = sum((jnp.sum(jnp.square(a - b)) for a, b in pairs), jnp.zeros((), float))
        parameters = sum(a.size for a in leaves)
        return cls(jnp.asarray(scales, float), jnp.asarray(errors, float), distance, parameters)


def _check_fixed(params: Any, reference: Any) -> None:
    given = dict(paths_and_leaves(reference))
    for path, leaf in paths_and_leaves(params):
        if not hasattr(leaf, "shape") or leaf.ndim == 0 or not np.prod(leaf.shape):
            continue
        whole = jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == bool
        if whole and not (path in given and np.array_equal(leaf, given[path])):
            raise ValueError(
                f"params[{path!r}] holds {leaf.dtype} and gets no noise: the bound holds only if "
                "it does not depend on the sample; a reference that holds the same array says so"
            )


def _floats(params: Any) -> list[Array]:
    leaves = [jnp.asarray(a) for a in jax.tree.leaves(params) if hasattr(a, "shape")]
    return [a.astype(float) for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]


@partial(jax.jit, static_argnames=("apply", "skeleton"))
def _noisy_error(apply, skeleton: Skeleton, arrays, scale, key, x, y):
    keys = jax.random.split(key, len(arrays))
    noisy = [
        a + jnp.asarray(scale, a.dtype) * jax.random.normal(k, a.shape, a.dtype)
        if jnp.issubdtype(jnp.asarray(a).dtype, jnp.inexact)
        else a
        for a, k in zip(arrays, keys, strict=True)
    ]
    logits = apply(skeleton.fill(noisy), x)
    right = (jnp.argmax(logits, -1) == y) & ~jnp.any(jnp.isnan(logits), -1)
    return jnp.mean(~right)
