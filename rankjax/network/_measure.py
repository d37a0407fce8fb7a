"""Measure the weight matrices once; every bound is a formula of these measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._explicit_axes import automatic
from rankjax._linear_algebra import largest
from rankjax.matrix import SingularValueMethod, conv_norm_bound, singular_values, spectrum
from rankjax.network._by_shape import by_shape
from rankjax.network._measured import Measured
from rankjax.network._path_norms import path_norms, path_norms_of_chain
from rankjax.network._structure import Layer, Structure, check_both, check_structure

# Multiplications that the transfer matrices of a convolution may take: at this limit, on one core,
# about 60 ms, where the SVD of the kernel takes 1 ms.
_MOST_TORUS_WORK = 1e6


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

    The norm of a convolution as a linear map is bounded by ``|P| |A|``, with the norms of the patch
    operator and of the kernel matrix. Where patches overlap and it is cheap (up to 1e6
    multiplications: ``points * groups * out * channels * min(out, channels)`` on the torus), also
    by the largest transfer matrix on a torus (``conv_norm_bound``); ``operator_norm`` is the
    smaller of the two.

    Args:
        structure: from ``describe``.
        params: the parameters.
        reference: a tree with the reference matrices ``M_l`` at the same paths, usually the
            parameters at initialization; ``None`` means 0.
        method: how singular values are computed, see ``rankjax.matrix.singular_values``.
        apply: ``apply(params, x) -> outputs (batch, k)``; with ``example`` the path norms are
            measured too, by forward passes of ``|w|`` and of ``w^2`` on ones. A chain of dense
            layers that ``describe`` traced needs neither.
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
        >>> round(float(measured["kernel"].frobenius_norm), 3)
        5.0
    """
    check_both(apply, example)
    matrices = check_structure(structure).matrices(params)
    at_reference = None
    if reference is not None:
        try:
            at_reference = structure.matrices(reference)
        except ValueError as error:
            raise ValueError(f"reference does not fit: {error}") from None
    measured = _measure(structure, matrices, at_reference, method)
    if apply is None:
        return replace(measured, path_norms=path_norms_of_chain(structure, matrices))
    return replace(measured, path_norms=path_norms(structure, params, example, apply=apply))


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
    return Measured(
        structure=structure,
        sigma=sigma[:count],
        sigma_moved=sigma[-count:],
        row_norms_moved=tuple(jnp.sum(_row_norms(a), -1) for a in moved),
        tap_norms_moved=tuple(
            jnp.sum(_row_norms(_by_tap(a, layer)), (-2, -1))
            for a, layer in zip(moved, structure.layers, strict=True)
        ),
        one_inf=tuple(largest(jnp.sum(jnp.abs(a), -1), -1) for a in matrices),
        operator_norm=jnp.concatenate(
            [
                _operator_norm(*known)
                for known in zip(structure.layers, matrices, sigma[:count], strict=True)
            ]
        ),
    )


def _operator_norm(layer: Layer, matrices: Array, sigma: Array) -> Array:
    """``(stacked,)``: upper bounds of the norm of the linear map."""
    bound = layer.gather_norm * largest(largest(sigma, -1), -1)
    geometry = layer.convolution
    if geometry is None or layer.gather_norm == 1:  # then the product is exact
        return bound
    out, columns = layer.matrix_shape
    window = [w.size for w in geometry.windows]
    if len(layer.view.out) != 1 or len(layer.view.in_) != len(window) + 1:
        return bound  # not (out, *window, channels): seen otherwise by axes=
    channels = columns // math.prod(window)
    work = math.prod(geometry.torus) * layer.groups * out * channels * min(out, channels)
    if work > _MOST_TORUS_WORK:
        return bound

    def on_torus(member: Array) -> Array:
        kernel = member.reshape(layer.groups, out, *window, channels)
        kernel = jnp.moveaxis(kernel, (0, 1), (-2, -1)).reshape(*window, channels, -1)
        return conv_norm_bound(
            kernel,
            [w.extent for w in geometry.windows],
            strides=[w.stride for w in geometry.windows],
            dilation=[w.dilation for w in geometry.windows],
            groups=layer.groups,
        ).value

    return jnp.minimum(bound, jnp.stack([on_torus(member) for member in matrices]))


def _by_tap(a: Array, layer: Layer) -> Array:
    """Rows ``(..., out, places of the window, channels)``; a dense layer has one place."""
    taps = 1
    if layer.convolution is not None:
        taps = math.prod(window.size for window in layer.convolution.windows)
    return a.reshape(*a.shape[:-1], taps, a.shape[-1] // taps)


def _row_norms(a: Array) -> Array:
    """2-norms of the rows, with derivative 0 at a zero row."""
    unit = jax.lax.stop_gradient(spectrum.divisor(largest(jnp.abs(a), -1)))
    squares = jnp.sum(jnp.square(a / unit[..., None]), -1)
    return unit * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)
