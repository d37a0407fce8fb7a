"""The patch operator of a convolution: how many patches, and how much they overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution (static)."""

    inputs: int
    outputs: int
    size: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    input_dilation: int

    @property
    def extent(self) -> int:
        """From the first to the last input, with the places between them."""
        return (self.inputs - 1) * self.input_dilation + 1

    def multiplicity(self) -> int:
        """The largest number of windows that one input position takes part in.

        Counted, not estimated: tap ``t`` of window ``o`` reads place ``o stride + t dilation -
        padding`` of the input, which holds input ``i`` at place ``i input_dilation``. Zero padding
        is read by windows too, but holds no input.
        """
        windows, taps = np.arange(self.outputs)[:, None], np.arange(self.size)[None, :]
        place = windows * self.stride + taps * self.dilation - self.padding[0]
        inside = (place >= 0) & (place % self.input_dilation == 0)
        inside &= place // self.input_dilation < self.inputs
        counts = np.bincount((place // self.input_dilation)[inside], minlength=1)
        return int(counts.max())


@dataclass(frozen=True)
class Convolution:
    """The geometry of a convolution as ``lax.conv_general_dilated`` sees it (static).

    A convolution is a fixed patch-gathering operator ``P`` followed by the kernel matrix
    ``(out, window * in)``, once per group.
    """

    windows: tuple[Window, ...]
    groups: int
    dimension_numbers: lax.ConvDimensionNumbers

    @classmethod
    def of(
        cls,
        params: Mapping[str, Any],
        data: Sequence[int],
        kernel: Sequence[int],
        out: Sequence[int],
    ) -> Convolution:
        """The geometry, from the parameters of the primitive and the shapes of its arrays."""
        numbers = params["dimension_numbers"]
        windows = zip(
            (data[i] for i in numbers.lhs_spec[2:]), (out[i] for i in numbers.out_spec[2:]),
            (kernel[i] for i in numbers.rhs_spec[2:]), params["window_strides"],
            map(tuple, params["padding"]), params["rhs_dilation"], params["lhs_dilation"],
            strict=True,
        )  # fmt: skip
        return cls(tuple(Window(*w) for w in windows), params["feature_group_count"], numbers)

    @property
    def positions(self) -> int:
        """Number of patches, which is the number of places where the kernel is applied."""
        return math.prod(w.outputs for w in self.windows)

    @property
    def gather_norm(self) -> float:
        """An upper bound of ``|P|``: the root of the largest number of patches a pixel is in.

        ``|P h|^2 = sum_pixels (number of patches it is in) h_pixel^2``, so this is exact whenever
        such a pixel exists.
        """
        return math.sqrt(math.prod(w.multiplicity() for w in self.windows))

    @property
    def torus(self) -> tuple[int, ...]:
        """Sizes of a torus on which the circular convolution has at least the norm of this one.

        Per axis, an output ``q = o stride - padding`` is the sum over the taps t of ``K_t x(q + t
        d)``, where x is 0 outside of ``0, ..., N - 1`` (N the ``extent``, d the dilation). With
        ``D = (size - 1) d`` it is 0 unless ``-D <= q < N``: these are ``T = N + D`` points, the
        torus. On it, at ``q mod T``, the circular convolution reads the same: a place ``q + t d``
        lies between ``-D`` and ``T - 1``, and outside of ``0, ..., N - 1`` it falls on ``N, ..., T
        - 1``, where x is 0. So this convolution is: put x on the torus (an isometry, holes of an
        input dilation included), convolve, keep some of the points, each at most once (stride and
        padding choose which; other outputs are 0). Neither end makes a norm larger.
        """
        return tuple(w.extent + (w.size - 1) * w.dilation for w in self.windows)

    def squared_patch_norms(self, data: Array) -> Array:
        """Squared 2-norm of every patch of every group, from the input of the convolution."""
        spec = self.dimension_numbers.rhs_spec
        channels = data.shape[self.dimension_numbers.lhs_spec[1]] // self.groups
        shape = [0] * len(spec)
        shape[spec[0]], shape[spec[1]] = self.groups, channels
        for axis, window in zip(spec[2:], self.windows, strict=True):
            shape[axis] = window.size
        squares = jnp.square(data)
        return lax.conv_general_dilated(
            squares,
            jnp.ones(shape, squares.dtype),
            window_strides=[w.stride for w in self.windows],
            padding=[w.padding for w in self.windows],
            lhs_dilation=[w.input_dilation for w in self.windows],
            rhs_dilation=[w.dilation for w in self.windows],
            dimension_numbers=self.dimension_numbers,
            feature_group_count=self.groups,
            precision=jax.lax.Precision.HIGHEST,
        )
