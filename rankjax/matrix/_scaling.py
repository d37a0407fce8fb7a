"""Units to compute in, and what the square of a matrix can resolve.

Everything is computed in units of about ``sigma_1``, so that 1e-20 and 1e20 are as exact as 1 in
float32. Engines that square the matrix first divide by its largest entry.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from rankjax._linear_algebra import matmul, transpose
from rankjax.matrix._scalar_power import SchattenPower


def divisor(unit: Array) -> Array:
    """``unit`` as something to divide by: 1 where it is 0, NaN where it is infinite or NaN.

    No larger than an eighth of the reciprocal of the smallest normal number: beyond a quarter of
    it ``1 / unit`` is subnormal, and processors that flush such numbers to 0 would divide to 0.
    """
    largest = 0.125 / float(jnp.finfo(unit.dtype).tiny)
    unit = jnp.where(jnp.isinf(unit), jnp.nan, jnp.where(unit == 0, 1, unit))
    return jnp.minimum(unit, largest)  # lets a NaN through


def unit_of(function: SchattenPower, top: Array, eps: Array) -> Array:
    """What everything is divided by: ``sigma_1``, or an absolute ``eps`` where that is larger."""
    if function.eps_mode == "absolute":
        top = jnp.maximum(top, eps)
    return divisor(top)


def in_units(
    function: SchattenPower, s: Array, p: Array, eps: Array
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """``scale (...)`` and the arguments ``(s, top, p, eps)`` of ``function`` in units of it."""
    scale = unit_of(function, jnp.max(s, axis=-1), eps)
    s = s / scale[..., None]
    eps = eps / scale if function.eps_mode == "absolute" else eps
    return scale, (s, jnp.max(s, axis=-1, keepdims=True), p[..., None], eps[..., None])


def gram_floor(dtype: jnp.dtype) -> float:
    """The smallest relative ``eps`` that the Gram matrix can resolve, ``sqrt(machine eps)``."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def tall(a: Array) -> tuple[Array, bool]:
    """``a`` with at least as many rows as columns, and whether it was turned for that."""
    turned = a.shape[-2] < a.shape[-1]
    return (transpose(a) if turned else a), turned


def safe_unit(a: Array) -> Array:
    """The largest entry ``(...)``: squares of ``a`` in this unit neither overflow nor vanish."""
    return divisor(jnp.max(jnp.abs(a), axis=(-2, -1)))


def at_floor(
    function: SchattenPower, unit: Array, s: Array, p: Array, eps: Array, dtype: jnp.dtype
) -> tuple[SchattenPower, Array, tuple[Array, Array, Array, Array]]:
    """Function and arguments in units of ``sigma_1``, with ``eps`` and ``rtol`` at the floor."""
    function = dataclasses.replace(function, rtol=function.rtol**0.5)
    absolute = function.eps_mode == "absolute"
    scale, (s, top, p, eps) = in_units(function, s, p, eps / unit if absolute else eps)
    lowest = gram_floor(dtype) * top if absolute else gram_floor(dtype)
    eps = jnp.where(eps > 0, jnp.maximum(eps, lowest), eps)
    return function, scale * unit, (s, top, p, eps)


def gram_matrix(a: Array) -> tuple[Array, Array, Array]:
    """Tall ``a`` in safe units, those units, and ``a^T a`` in them."""
    unit = safe_unit(a)
    a = a / unit[..., None, None]
    return a, unit, matmul(transpose(a), a)


def roots(eigenvalues: Array) -> Array:
    """Descending roots of the ascending eigenvalues of a Gram matrix."""
    return jnp.sqrt(jnp.maximum(eigenvalues[..., ::-1], 0))
