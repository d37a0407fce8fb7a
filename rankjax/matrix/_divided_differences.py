r"""Divided differences of an odd function that is only given as code.

For signed singular values ``x`` and ``y``

    h[x, y] = (h(x) - h(y)) / (x - y) = int_0^1 h'((1 - t) x + t y) dt.

Two ways to compute it, and no need to know on which length ``h`` varies. The quotient is wrong by
rounding, of known size: ``ROUNDING * eps * (|h(x)| + |h(y)|) / |x - y|``. The integral by Gauss's
rule of three nodes is wrong by order six of ``|x - y|`` over that length. Where the two agree
within the rounding of the quotient the integral is taken, elsewhere the quotient: close values fall
on the integral, far ones on the quotient, and where they meet (in float64 at about a hundredth of
that length) either is good to about 1e-13 relative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Scalar = Callable[..., Any]
ROUNDING = 16
_GAUSS = np.polynomial.legendre.leggauss(3)


@dataclass(frozen=True)
class Derivative:
    """``h'(s, *args)``; static and hashable as ``h`` is."""

    h: Scalar

    def __call__(self, s: Array, *args: Any) -> Array:
        """The derivative by ``s``."""
        return jax.jvp(lambda s: self.h(s, *args), (s,), (jnp.ones_like(s),))[1]


@dataclass(frozen=True)
class Partial:
    """``dh / d args[i]`` as a function of ``(s, *args)``: odd (even) in ``s`` as ``h`` is."""

    h: Scalar
    i: int

    def __call__(self, s: Array, *args: Array) -> Array:
        """The derivative by the parameter."""

        def along(x: Array) -> Array:
            return self.h(s, *args[: self.i], x, *args[self.i + 1 :])

        return jax.jvp(along, (args[self.i],), (jnp.ones_like(args[self.i]),))[1]


def apply(h: Scalar, x: Array, args: Any, *, odd: bool) -> Array:
    """``h`` at every entry of ``x``; negative ones by its symmetry."""
    at = jnp.abs(x).ravel()
    y = jax.vmap(lambda s: jnp.asarray(h(s, *args)).astype(x.dtype))(at).reshape(x.shape)
    return jnp.where(x < 0, -y, y) if odd else y


def _difference(h: Scalar, x: Array, y: Array, args: Any) -> Array:
    """``h[x, y]`` for every pair of ``x`` and ``y`` ``(k,)``, ``(k, k)``."""
    h_x, h_y = (apply(h, v, args, odd=True) for v in (x, y))
    (x, y), (h_x, h_y) = _pairs(x, y), _pairs(h_x, h_y)
    gap = x - y
    nodes, weights = (jnp.asarray(x, gap.dtype)[:, None, None] for x in _GAUSS)
    points = ((x + y) / 2)[None] + nodes / 2 * gap[None]
    near = jnp.sum(weights / 2 * apply(Derivative(h), points, args, odd=False), axis=0)
    safe = jnp.where(gap == 0, 1, gap)
    far = (h_x - h_y) / safe
    eps = ROUNDING * float(jnp.finfo(gap.dtype).eps)
    error = eps * (jnp.abs(h_x) + jnp.abs(h_y)) / jnp.abs(safe)
    return jnp.where((gap == 0) | (jnp.abs(near - far) <= error), near, far)


def _pairs(x: Array, y: Array) -> tuple[Array, Array]:
    return x[..., :, None], y[..., None, :]


class Tables(NamedTuple):
    """Divided differences of one matrix, or of a batch: see ``_scalar_power.Tables``."""

    difference: Array
    mean: Array
    ratio: Array


def _batched(function: Callable[..., Any], batch: int) -> Callable[..., Any]:
    for _ in range(batch):
        function = jax.vmap(function)
    return function


def tables(h: Scalar, s: Array, args: Any) -> Tables:
    """All first divided differences at ``s`` ``(..., k)``."""

    def one(s: Array) -> Tables:
        k = s.shape[0]
        value = _difference(h, s, _signed(s), args)
        return Tables(value[:, :k], value[:, k:-1], value[:, -1])

    return _batched(one, s.ndim - 1)(s)


def _signed(s: Array) -> Array:
    """``(s, -s, 0)``: the eigenvalues of ``[[0, A], [A^T, 0]]``."""
    return jnp.concatenate([s, -s, jnp.zeros_like(s[:1])])
