"""The largest eigenvalue of a Gram matrix by products, and the units that it sets.

For the engines that never decompose (``rational``, ``newton_schulz``): they need ``sigma_1`` before
anything else, to scale by and because eps is relative to it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._linear_algebra import identity, matmul, transpose
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix._scaling import unit_of

_STEPS = 24


def units(
    function: SchattenPower,
    m: Array,
    unit: Array,
    eps: Array,
    least: float,
    *,
    unrolled: bool = False,
) -> tuple[Array, Array, Array]:
    """``sigma_1``, what to divide by (``unit_of``), and eps in that, at least ``least``.

    The first two are in ``unit`` again, as the Gram matrix ``m`` is.
    """
    top = jnp.sqrt(top_eigenvalue(m, unrolled=unrolled))
    absolute = function.eps_mode == "absolute"
    scale = unit_of(function, top, eps / unit)
    return top, scale, jnp.maximum(eps / (unit * scale) if absolute else eps, least)


def top_eigenvalue(m: Array, *, unrolled: bool = False) -> Array:
    """``(...)`` of positive semidefinite ``m``: a lower bound but for rounding, within about 1e-3.

    ``unrolled``: without a loop, which compiles longer, and on a GPU can be part of a CUDA graph.

    Lanczos by its three-term recurrence. The vectors are not kept orthogonal: what comes back of a
    direction that has converged is a copy of its eigenvalue, never a larger one (Paige, "Accuracy
    and effectiveness of the Lanczos algorithm for the symmetric eigenproblem", 1980).
    """
    n = m.shape[-1]
    # Deterministic: the largest row (never orthogonal to the range) plus a fixed rough vector.
    row = jnp.argmax(jnp.sum(m * m, axis=-1), axis=-1)
    start = jnp.take_along_axis(m, row[..., None, None], axis=-2)[..., 0, :]
    rough = jnp.asarray(np.random.default_rng(0).normal(size=n), m.dtype)
    rough = _image(m, jnp.broadcast_to(rough, start.shape))

    def step(state: tuple[Array, Array, Array], _: None):
        before, v, beside = state
        w = _image(m, v) - beside * before
        diagonal = jnp.sum(w * v, axis=-1, keepdims=True)
        after, length = _normal(w - diagonal * v)
        return (v, after, length), (diagonal[..., 0], length[..., 0])

    first, _ = _normal(_normal(start)[0] + _normal(rough)[0])
    state = (jnp.zeros_like(first), first, jnp.zeros_like(first[..., :1]))
    _, (diagonal, beside) = jax.lax.scan(
        step, state, length=min(_STEPS, n), unroll=min(_STEPS, n) if unrolled else 1
    )
    diagonal, beside = jnp.moveaxis(diagonal, 0, -1), jnp.moveaxis(beside, 0, -1)
    upper = _above(beside)
    small = diagonal[..., None] * identity(upper) + upper + transpose(upper)

    # The largest eigenvalue of a small symmetric matrix by repeated squaring: no LAPACK call. So
    # often that a copy that is still on its way is told from it down to the root of the rounding.
    def square(_: Array, power: Array) -> Array:
        scale = jnp.max(jnp.abs(power), axis=(-2, -1), keepdims=True)
        power = power / jnp.where(scale == 0, 1, scale)
        return matmul(power, power)

    power = jax.lax.fori_loop(0, jnp.finfo(m.dtype).nmant // 2, square, small, unroll=unrolled)
    x, _ = _normal(jnp.sum(power, axis=-1))
    return jnp.sum(x * _image(small, x), axis=-1)


def _above(x: Array) -> Array:
    """``x`` ``(..., k)`` above the diagonal, the last one left out."""
    k = x.shape[-1]
    return x[..., :, None] * jnp.eye(k, k=1, dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (k, k))


def _image(m: Array, x: Array) -> Array:
    return matmul(m, x[..., None])[..., 0]


def _normal(x: Array) -> tuple[Array, Array]:
    """At unit length, and the length ``(..., 1)``; 0 stays 0."""
    length = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))
    return x / jnp.where(length == 0, 1, length), length
