"""The spectrum of a convolution as an *operator on images*, not of its reshaped kernel.

A kernel ``(*window, in, out)`` acts on images ``(*grid, in)``. The norm of that operator is what a
Lipschitz constant needs; the norm of the kernel reshaped to ``(out, window * in)`` is smaller by up
to the root of the window size (it forgets that patches overlap), and Schatten norms of it measure
something else (the rank of the weights). The two are never the same function here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import float_array, one_of, positive
from rankjax._linear_algebra import HIGHEST
from rankjax.matrix import spectrum
from rankjax.matrix._singular_values import singular_values
from rankjax.matrix.large._lanczos import top_triplet

BOUNDS = ("frequency", "multiplicity")
PaddingName = Literal["SAME", "VALID"]
Padding = PaddingName | Sequence[tuple[int, int]]


def _kernel(kernel: ArrayLike, grid: Sequence[int], name: str) -> tuple[Array, jnp.dtype]:
    array = float_array(kernel, name="kernel")
    if array.ndim != len(grid) + 2 or not grid:
        raise ValueError(
            f"kernel must have shape (*window, in, out) with as many window axes as {name} "
            f"({len(grid)}), got shape {array.shape}"
        )
    for size in grid:
        positive(size, name)
    dtype = array.dtype
    return (array.astype(jnp.float32) if jnp.finfo(dtype).bits < 32 else array), dtype


def _per_axis(value: int | Sequence[int], count: int, name: str) -> tuple[int, ...]:
    values = (value,) * count if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != count or min(values) < 1:
        raise ValueError(f"{name} must be one or {count} integers >= 1, got {value!r}")
    return values


def _transfer(kernel: Array, grid: Sequence[int], dilation: Sequence[int]) -> Array:
    """Real embeddings ``(frequencies, 2 out, 2 in)`` of the transfer matrices on a torus.

    ``[[Re, -Im], [Im, Re]]`` has every singular value of ``Re + i Im`` twice.
    """
    window, (c_in, c_out) = kernel.shape[:-2], kernel.shape[-2:]
    # Taps that fall on the same point of a small torus add up.
    taps = [np.arange(k) * d % g for k, d, g in zip(window, dilation, grid, strict=True)]
    image = jnp.zeros((*grid, c_in, c_out), kernel.dtype).at[np.ix_(*taps)].add(kernel)
    transfer = jnp.fft.fftn(image, axes=tuple(range(len(grid))))
    transfer = jnp.swapaxes(transfer.reshape(-1, c_in, c_out), -1, -2)
    real, imag = jnp.real(transfer), jnp.imag(transfer)
    upper = jnp.concatenate([real, -imag], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([imag, real], axis=-1)], axis=-2)


def conv_singular_values(
    kernel: Float[ArrayLike, "*window i o"], /, grid: Sequence[int]
) -> Float[Array, " k"]:
    """All singular values of the convolution with *circular* padding and stride 1, exactly.

    The operator is block diagonal in frequency; its singular values are those of the transfer
    matrices ``K(w) = sum_t kernel[t] exp(-i w t)`` (Sedghi, Gupta and Long, ICLR 2019).

    Args:
        kernel: ``(*window, in, out)``, for images HWIO.
        grid: sizes of the image, one per window axis; smaller than the window is allowed.

    Returns:
        ``(prod(grid) * min(in, out),)``, descending, in the dtype of the kernel.

    Raises:
        ValueError: a kernel whose axes do not fit the grid, not real floating.

    First derivative as ``singular_values``. Cost: one FFT and ``prod(grid)`` small SVDs.

    Example:
        >>> import jax.numpy as jnp
        >>> average = jnp.full((2, 1, 1), 0.5)
        >>> [round(float(s), 3) for s in conv_singular_values(average, (4,))]
        [1.0, 0.707, 0.707, 0.0]
    """
    array, dtype = _kernel(kernel, grid, "grid")
    if 0 in array.shape:
        return jnp.zeros((0,), dtype)
    embedded = _transfer(array, grid, (1,) * len(grid))
    sigma = singular_values(embedded)
    # The mean of each pair of equal values: its derivative does not depend on the basis chosen.
    sigma = (sigma[..., 0::2] + sigma[..., 1::2]) / 2
    return jnp.sort(sigma.ravel(), descending=True).astype(dtype)


class OperatorNorm(NamedTuple):
    """A Lanczos value of an operator norm.

    Attributes:
        value: a lower bound of the norm, in practice equal to it when the residual is small.
        residual: ``|A^T A v - value^2 v| / value^2``: some ``sigma_i^2`` is within this relative
            distance of ``value^2``.
    """

    value: Array
    residual: Array


def conv_operator_norm(
    kernel: Float[ArrayLike, "*window i o"],
    /,
    input_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    steps: int = 48,
) -> OperatorNorm:
    """The spectral norm of a zero-padded convolution, by Golub-Kahan Lanczos (``_lanczos.py``).

    Args:
        kernel: ``(*window, in / groups, out)``.
        input_shape: sizes of the image without channels.
        strides: one, or one per axis.
        padding: ``"SAME"``, ``"VALID"`` or (low, high) zeros per axis.
        dilation: of the kernel, one, or one per axis.
        groups: ``feature_group_count``.
        steps: Lanczos steps (static), at most the number of inputs.

    Returns:
        The value with its residual, in the dtype of the kernel.

    Raises:
        ValueError: shapes or options that do not fit.

    First derivative: ``u^T dA v`` at the vectors found. Cost: ``2 steps`` convolutions of one image
    and ``steps * prod(input_shape) * in`` numbers of memory.

    Example:
        >>> import jax.numpy as jnp
        >>> found = conv_operator_norm(jnp.full((2, 1, 1), 0.5), (4,), padding="VALID")
        >>> round(float(found.value), 3)
        0.924
    """
    array, dtype = _kernel(kernel, input_shape, "input_shape")
    count = len(input_shape)
    stride = _per_axis(strides, count, "strides")
    dilate = _per_axis(dilation, count, "dilation")
    if isinstance(padding, str):
        one_of(padding, "padding", PaddingName)
    channels = array.shape[-2] * groups
    if array.shape[-1] % groups:
        raise ValueError(f"groups must divide the {array.shape[-1]} outputs, got {groups}")
    if 0 in array.shape:
        return OperatorNorm(jnp.zeros((), dtype), jnp.zeros((), dtype))
    space = "DHW"[-count:] if count <= 3 else ""
    if not space:
        raise ValueError(f"input_shape must have 1 to 3 axes, got {count}")

    def apply(kernel: Array, x: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x.reshape(1, *input_shape, channels),
            kernel,
            stride,
            padding if isinstance(padding, str) else list(padding),
            rhs_dilation=dilate,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
            feature_group_count=groups,
            precision=HIGHEST,
        ).ravel()

    constant = jax.lax.stop_gradient(array)
    unit = jnp.max(jnp.abs(constant))
    unit = jnp.where(unit == 0, 1, unit)
    constant = constant / unit
    size = math.prod(input_shape) * channels
    steps = min(steps, size)

    def forward(x: Array) -> Array:
        return apply(constant, x)

    backward = jax.linear_transpose(forward, jax.ShapeDtypeStruct((size,), array.dtype))

    start = jax.random.normal(jax.random.key(0), (size,), array.dtype)
    found = top_triplet(forward, lambda y: backward(y)[0], start, steps)
    residual = found.residual / jnp.where(found.value == 0, 1, found.value)
    # Linear in the kernel: the value is |A v|, the derivative u^T dA v.
    exact = jnp.vdot(found.u, apply(array / unit, found.v), precision=HIGHEST) * unit
    return OperatorNorm(exact.astype(dtype), residual.astype(dtype))


class NormBound(NamedTuple):
    """A guaranteed upper bound.

    Attributes:
        value: the smallest of the bounds.
        which: an index into ``convolution.BOUNDS``.
    """

    value: Array
    which: Array

    @property
    def winner(self) -> str:
        """The name of the bound that won."""
        return BOUNDS[int(self.which)]


def conv_norm_bound(
    kernel: Float[ArrayLike, "*window i o"],
    /,
    input_shape: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> NormBound:
    """A guaranteed upper bound of the norm of a convolution with *any* zero padding.

    The smaller of

    * ``frequency``: the largest ``|K(w)|`` over the frequencies of a torus of
      ``input + (window - 1) dilation`` points per axis: on it the zero-padded convolution is the
      circular one between two coordinate projections (strides drop rows);
    * ``multiplicity``: ``sqrt(c) |K|`` with ``|K|`` the norm of the reshaped kernel and ``c`` the
      product over the axes of ``ceil(window gcd(stride, dilation) / stride)``, the largest number
      of patches that one pixel is in.

    Args:
        kernel: ``(*window, in / groups, out)``.
        input_shape: sizes of the image without channels.
        strides: one, or one per axis.
        dilation: of the kernel, one, or one per axis.
        groups: ``feature_group_count``; the norm is the largest over the groups.

    Returns:
        The bound and its winner. Up to rounding of the decomposition.

    Raises:
        ValueError: shapes or options that do not fit.

    Cost: one FFT and an SVD a frequency. Differentiable where the largest is simple.

    Example:
        >>> import jax.numpy as jnp
        >>> bound = conv_norm_bound(jnp.array([1.0, 2.0, 1.0]).reshape(3, 1, 1) / 4, (4,))
        >>> round(float(bound.value), 3), bound.winner
        (1.0, 'frequency')
    """
    array, dtype = _kernel(kernel, input_shape, "input_shape")
    count = len(input_shape)
    stride = _per_axis(strides, count, "strides")
    dilate = _per_axis(dilation, count, "dilation")
    window, (c_in, c_out) = array.shape[:-2], array.shape[-2:]
    if c_out % groups:
        raise ValueError(f"groups must divide the {c_out} outputs, got {groups}")
    if 0 in array.shape:
        return NormBound(jnp.zeros((), dtype), jnp.zeros((), int))
    torus = [size + (k - 1) * d for size, k, d in zip(input_shape, window, dilate, strict=True)]
    by_group = jnp.moveaxis(array.reshape(*window, c_in, groups, c_out // groups), -2, 0)
    transfers = jnp.concatenate([_transfer(k, torus, dilate) for k in by_group])
    frequency = jnp.max(spectrum.largest(singular_values(transfers)))
    multiplicity = math.prod(
        math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(window, stride, dilate, strict=True)
    )
    flat = by_group.reshape(groups, -1, c_out // groups)
    reshaped = multiplicity**0.5 * jnp.max(spectrum.largest(singular_values(flat)))
    bounds = jnp.stack([frequency, reshaped])
    return NormBound(jnp.min(bounds).astype(dtype), jnp.argmin(bounds))
