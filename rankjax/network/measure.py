"""Measure the weight matrices once; every bound is a formula of these measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._explicit_axes import automatic
from rankjax.matrix import SingularValueMethod, singular_values, spectrum
from rankjax.network.buckets import by_shape
from rankjax.network.pathnorms import path_norms, path_norms_of_chain
from rankjax.network.structure import Layer, Structure


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "sigma",
        "sigma_moved",
        "row_norms_moved",
        "tap_norms_moved",
        "one_inf",
        "operator_norm",
        "path_norms",
    ],
    meta_fields=["structure"],
)
@dataclass(frozen=True)
class Measured:
    """Measurements of the layers ``A_l`` and of their distance from references ``M_l`` (a pytree).

    Tuples hold one array per leaf of ``structure.spec``, with leading axes ``(stacked, parallel)``.

    Attributes:
        structure: the structure that was measured (static).
        sigma: singular values of ``A_l``, descending.
        sigma_moved: singular values of ``A_l - M_l``, descending.
        row_norms_moved: ``|A_l - M_l|_{2,1}``: sum over output units of the 2-norm of their
            weights.
        tap_norms_moved: the same sum with each row cut into the places of the window: sum over
            output channels and places of the 2-norm over the input channels (for a dense layer: one
            place).
        one_inf: ``|A_l|_{1,inf}``: largest 1-norm of the weights of one output unit.
        operator_norm: ``(layers,)``, an upper bound of the norm of the linear map that the layer
            is: ``|A_l|`` for a dense layer, ``|P| |A_l|`` for a convolution with patch operator
            ``P``.
        path_norms: ``(2,)``, the L1 and the L2 path norm, the largest over the outputs, without
            biases; NaN for a network that is not positively homogeneous, ``None`` if not measured.
    """

    structure: Structure
    sigma: tuple[Array, ...]
    sigma_moved: tuple[Array, ...]
    row_norms_moved: tuple[Array, ...]
    tap_norms_moved: tuple[Array, ...]
    one_inf: tuple[Array, ...]
    operator_norm: Array
    path_norms: Array | None = None

    def per_layer(self, values: tuple[Array, ...], join: Callable[..., Array]) -> Array:
        """``(layers,)`` from one array ``(stacked, parallel)`` per leaf; ``join`` over parallel."""
        return jnp.concatenate([join(value, axis=1) for value in values])

    @property
    def spectral_norm(self) -> Array:
        """``|A_l|``, the largest singular value of the matrix (for a convolution: the kernel's)."""
        return self.per_layer(tuple(jnp.max(s, -1, initial=0) for s in self.sigma), jnp.max)

    @property
    def frobenius_norm(self) -> Array:
        """``|A_l|_F`` of each layer; derivative 0 at 0."""
        return self._frobenius(self.sigma)

    @property
    def frobenius_norm_moved(self) -> Array:
        """``|A_l - M_l|_F`` of each layer; derivative 0 at 0."""
        return self._frobenius(self.sigma_moved)

    def rank(self, rtol: float | None = None) -> Array:
        """Number of singular values above ``rtol`` times the largest, summed over parallel ones.

        The default tolerance is ``max(out, in) * machine epsilon``.
        """
        ranks = []
        for layer, sigma in zip(self.structure.spec, self.sigma, strict=True):
            default = spectrum.default_rtol(max(layer.matrix_shape), sigma.dtype)
            ranks.append(spectrum.numerical_rank(sigma, rtol=default if rtol is None else rtol))
        return self.per_layer(tuple(ranks), jnp.sum)

    def _frobenius(self, sigma: tuple[Array, ...]) -> Array:
        # Scaled by the largest value: squares of 1e-30 would underflow.
        tops = self.per_layer(tuple(jnp.max(s, -1, initial=0) for s in sigma), jnp.max)
        scale = jax.lax.stop_gradient(jnp.where(tops > 0, tops, 1))
        sums, start = [], 0
        for values in sigma:
            unit = values / scale[start : start + values.shape[0], None, None]
            start += values.shape[0]
            sums.append(jnp.sum(jnp.square(unit), -1))
        squares = self.per_layer(tuple(sums), jnp.sum)
        return scale * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)

    def static(self, value: Callable[..., Any]) -> np.ndarray:
        """``(layers,)`` of a static fact of each layer, repeated for the members of a stack."""
        spec = self.structure.spec
        return np.asarray([value(layer) for layer in spec for _ in range(layer.stacked)])

    @property
    def lipschitz(self) -> np.ndarray:
        """Lipschitz constant of what follows each layer."""
        return self.static(lambda layer: layer.lipschitz)


@automatic
def measure(
    structure: Structure,
    params: Any,
    *,
    reference: Any = None,
    method: SingularValueMethod = "auto",
    apply: Callable[[Any, Any], Any] | None = None,
    example: Any = None,
) -> Measured:
    """Measure every weight matrix of ``params``: one decomposition each, equal shapes in one call.

    Args:
        structure: from ``describe``.
        params: the parameters.
        reference: a tree with the reference matrices ``M_l`` at the same paths, usually the
            parameters at initialisation; ``None`` means 0.
        method: how singular values are computed, see ``rankjax.matrix.singular_values``.
        apply: ``apply(params, x) -> outputs (batch, k)``; with ``example`` the path norms are
            measured too, by forward passes of ``|w|`` and of ``w^2`` on ones. A chain of dense
            layers needs neither.
        example: a batch (arrays or ``jax.ShapeDtypeStruct`` with a leading example axis).

    Returns:
        ``Measured``, once differentiable in ``params`` (also at repeated and zero singular values).

    Raises:
        ValueError: if ``params`` or ``reference`` does not fit the structure, or only one of
            ``apply`` and ``example`` is given.

    Cost: one SVD per matrix, two with a reference.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import describe
        >>> params = {"kernel": jnp.diag(jnp.array([3.0, 4.0]))}
        >>> measured = measure(describe(params), params)
        >>> round(float(measured.frobenius_norm[0]), 3)
        5.0
    """
    if (apply is None) != (example is None):
        given = "example" if apply is None else "apply"
        raise ValueError(f"apply and example belong together; got only {given}")
    matrices = structure.layers(params)
    at_reference = None
    if reference is not None:
        try:
            at_reference = structure.layers(reference)
        except ValueError as error:
            raise ValueError(f"reference does not fit: {error}") from None
    measured = _measure(structure, matrices, at_reference, method)
    if apply is None:
        return replace(measured, path_norms=path_norms_of_chain(structure, matrices))
    return replace(measured, path_norms=path_norms(structure, params, apply, example))


@partial(jax.jit, static_argnames=("structure", "method"))
def _measure(
    structure: Structure,
    matrices: tuple[Array, ...],
    reference: tuple[Array, ...] | None,
    method: SingularValueMethod,
) -> Measured:
    matrices = tuple(at_least_float32(a) for a in matrices)
    moved = matrices
    if reference is not None:
        pairs = zip(matrices, reference, strict=True)
        moved = tuple(a - m.astype(a.dtype) for a, m in pairs)
    sigma = by_shape(
        lambda a, _: singular_values(a, method=method),
        matrices if moved is matrices else (*matrices, *moved),
        structure.mesh,
    )
    count = len(matrices)
    tops = [jnp.max(jnp.max(s, -1, initial=0), -1) for s in sigma[:count]]
    return Measured(
        structure=structure,
        sigma=sigma[:count],
        sigma_moved=sigma[-count:],
        row_norms_moved=tuple(jnp.sum(_row_norms(a), -1) for a in moved),
        tap_norms_moved=tuple(
            jnp.sum(_row_norms(_by_tap(a, layer)), (-2, -1))
            for a, layer in zip(moved, structure.spec, strict=True)
        ),
        one_inf=tuple(jnp.max(jnp.sum(jnp.abs(a), -1), -1, initial=0) for a in matrices),
        operator_norm=jnp.concatenate(
            [layer.gather_norm * top for layer, top in zip(structure.spec, tops, strict=True)]
        ),
    )


def _by_tap(a: Array, layer: Layer) -> Array:
    """Rows ``(..., out, places of the window, channels)``; a dense layer has one place."""
    taps = 1
    if layer.convolution is not None:
        taps = math.prod(window.size for window in layer.convolution.windows)
    return a.reshape(*a.shape[:-1], taps, a.shape[-1] // taps)


def _row_norms(a: Array) -> Array:
    """2-norms of the rows, with derivative 0 at a zero row."""
    squares = jnp.sum(jnp.square(a), -1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)
