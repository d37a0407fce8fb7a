"""The engine of matrix products only: Newton-Schulz roots with optimal polynomials.

``M = A^T A + e^2 I`` (in units of ``sigma_1^2``) has its spectrum in ``[e^2, 1]``. The coupled
iteration ``R = Z Y, Y <- Y h(R), Z <- h(R) Z`` with ``x h(x^2)`` the best quintic approximation of
1 on the interval that is left ("Polar Express": Amsel, Persson, Musco and Gower 2025; coupled form:
Higham, "Functions of Matrices", ch. 6) converges to ``M^(1/2), M^(-1/2)``. For ``p = 1`` that is
all; for other ``p`` further roots ``Y = M^(1/2^j)`` are taken until their spectrum lies in
``[0.09, 1]``, where the second factor of

    M^(p/2-1) = M^(-1/2) Y^(2^(j-1) (p-1))

is a Chebyshev polynomial of low degree. Unlike Muon's coefficients these converge. Accuracy is
limited by rounding of order ``machine eps / e^2``; ``eps`` is raised to ``floor(dtype)``. There is
no decomposition to shard or to loop over: the engine for sharded matrices, and on accelerators for
p = 1, where its products are fewest, up to the size from which ``rational`` needs less arithmetic.
"""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._explicit_axes import on_devices
from rankjax._linear_algebra import identity, matmul, transpose
from rankjax.matrix._derivative_rule import Engine, First
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix._scaling import safe_unit, tall
from rankjax.matrix.engines._gram import GRAM
from rankjax.matrix.engines._top_eigenvalue import units

# A right factor with so many entries is multiplied in so many strips, on several devices.
LARGE, STRIPS = 256 * 256, 4
_CUSHION = (
    1.05  # on sigma_1^2: the Lanczos value is a lower bound, and the iteration needs an upper
)


def floor(dtype: jnp.dtype) -> float:
    """The smallest relative ``eps`` of this engine: 3e-3 in float32, 1e-5 in float64."""
    return 1e-5 if jnp.finfo(dtype).bits == 64 else 3e-3


@cache
def quintics(low: float, tolerance: float) -> tuple[tuple[float, float, float], ...]:
    """Coefficients of ``h(r) = a + b r + c r^2`` step by step, from spectrum ``[low, 1]`` to 1.

    Each ``x h(x^2)`` is the best uniform approximation of 1 on what the last one left (Remez).
    """
    steps: list[tuple[float, float, float]] = []
    while 1 - low > tolerance:
        if low > 1 - 1e-6:
            steps.append((15 / 8, -10 / 8, 3 / 8))
            break
        q, r = (3 * low + 1) / 4, (low + 3) / 4
        a, b, c, error = 0.0, 0.0, 0.0, np.inf
        for _ in range(100):
            rows = [[x, x**3, x**5, sign] for x, sign in ((low, 1), (q, -1), (r, 1), (1, -1))]
            a, b, c, new = np.linalg.solve(np.array(rows), np.ones(4))
            root = np.sqrt(9 * b * b - 20 * a * c)
            q, r = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
            if abs(new - error) < 1e-15:
                break
            error = new
        low = (1 - error) / (1 + error)
        # Scaled so that the next interval ends at 1 again; the very last step stays centered.
        top = 1 + error if 1 - low > tolerance else 1.0
        steps.append((float(a / top), float(b / top), float(c / top)))
    return tuple(steps)


@cache
def chebyshev_blocks(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, the map from values at the nodes to blocks ``B_j`` with ``p = sum_j B_j T_4^j``.

    Returns:
        Nodes in ``(-1, 1)``; ``(blocks, 4, nodes)``: coefficients of ``T_0 .. T_3`` in each block.
    """
    count = degree + 1
    angles = (np.arange(count) + 0.5) * np.pi / count
    transform = 2 / count * np.cos(np.arange(count)[:, None] * angles)
    transform[0] /= 2
    blocks = np.zeros((count // 4, 4, count))
    divisor = np.polynomial.Chebyshev.basis(4)
    for k in range(count):
        rest = np.polynomial.Chebyshev.basis(k)
        for j in range(count // 4):
            rest, digit = divmod(rest, divisor)
            blocks[j, : digit.coef.size, k] = digit.coef
    return np.cos(angles), blocks @ transform


def product(x: Array, y: Array) -> Array:
    """``x y``; on a mesh of several devices a large one in strips of columns.

    XLA hands a device all of ``y`` at once if only the columns of ``y`` are cut, or more often than
    its rows. How they are cut is not known here (automatic axes), but of strips one product each it
    hands over strips, whatever the cut, and moves less in total.
    """
    columns = y.shape[-1]
    if y.size < LARGE or not on_devices(y):
        return matmul(x, y)
    width = -(-columns // STRIPS)
    parts = [matmul(x, y[..., i : i + width]) for i in range(0, columns, width)]
    return jnp.concatenate(parts, axis=-1)


def _roots(m: Array, low: float, tolerance: float) -> tuple[Array, Array, Array]:
    """``m^(1/2)``, ``m^(-1/2)``, and 0 or (not converged) NaN; spectrum of m in [low^2, 1]."""
    eye = identity(m)
    y, z, r = m, eye, m
    for i, (a, b, c) in enumerate(quintics(low, tolerance)):
        r = y if i == 0 else product(z, y)
        h = a * eye + b * r + c * product(r, r)
        y = product(y, h)
        z = h if i == 0 else product(h, z)
    # Before the last step R is already near I. If sigma_1 was underestimated it is far away.
    off = jnp.max(jnp.abs(r - eye), axis=(-2, -1))
    return y, z, jnp.where(off < 0.9, 0, jnp.nan)


def _power_of_root(y: Array, exponent: Array, low: float) -> Array:
    """``y ** exponent`` for symmetric ``y`` with spectrum in [low, 1], by a Chebyshev polynomial.

    Evaluated in blocks of four by Horner's rule in ``T_4(y)`` (Paterson and Stockmeyer): degree 15
    costs six products. With ``low >= 0.09`` and exponents in (-2, 2) the relative error is a few
    1e-4; degree 31 in float64.
    """
    nodes, blocks = chebyshev_blocks(31 if jnp.finfo(y.dtype).bits == 64 else 15)
    points = jnp.asarray((1 + low) / 2 + (1 - low) / 2 * nodes, y.dtype)
    eye = identity(y)
    x = (2 * y - (1 + low) * eye) / (1 - low)
    at_nodes = points.reshape((1,) * exponent.ndim + (-1,)) ** exponent[..., None]
    parts = jnp.einsum("jbk,...k->j...b", jnp.asarray(blocks, y.dtype), at_nodes)
    x2 = 2 * product(x, x) - eye
    x3 = 2 * product(x, x2) - x
    x4 = 2 * product(x2, x2) - eye

    def block(c: Array) -> Array:
        c0, c1, c2, c3 = (c[..., i, None, None] for i in range(4))
        return c0 * eye + c1 * x + c2 * x2 + c3 * x3

    total = block(parts[-1])
    for j in range(len(parts) - 2, -1, -1):
        total = product(total, x4) + block(parts[j])
    return total


def _first(
    p_known: float | None,
    eps_known: float | None,
    function: SchattenPower,
    a: Array,
    p: Array,
    eps: Array,
) -> tuple[Array, First]:
    a, turned = tall(a)
    lowest = floor(a.dtype)
    unit = safe_unit(a)
    a = a / unit[..., None, None]
    m = product(transpose(a), a)
    top, scale, e = units(function, m, unit, eps, lowest)
    zero = top == 0
    a = a / scale[..., None, None]
    eye = identity(m)
    wide = _CUSHION + e * e  # the upper end of the spectrum of m + e^2
    m = m / (scale * scale)[..., None, None] + (e * e)[..., None, None] * eye
    m = jnp.where(zero[..., None, None], eye, m / wide[..., None, None])
    eps_low = lowest if eps_known is None else max(eps_known, lowest)
    low = 0.99 * eps_low / (_CUSHION + eps_low**2) ** 0.5
    tolerance = 1e-9 if jnp.finfo(a.dtype).bits == 64 else 1e-4
    y, z, bad = _roots(m, low, tolerance)
    if p_known != 1:
        exponent = p - 1
        while low < 0.09:
            low, exponent = low**0.5, 2 * exponent
            y, _, unfinished = _roots(y, low, tolerance)
            bad = bad + unfinished
        z = product(z, _power_of_root(y, exponent, low))
    x = (wide ** (p / 2 - 1) + bad)[..., None, None] * z
    image = product(a, x)
    trace = jnp.trace(x, axis1=-2, axis2=-1)
    n = a.shape[-1]
    value = jnp.sum(a * image, axis=(-2, -1)) + e * e * trace - n * e**p
    gradient = p[..., None, None] * image
    first = First(
        jnp.where(zero, 0, value),
        transpose(gradient) if turned else gradient,
        jnp.full_like(value, jnp.nan),  # by p: the engine ``for_p`` answers instead
        jnp.where(zero, 0, p * (e * trace - n * e ** (p - 1))),
    )
    return unit * scale, first


@cache
def engine(p: float | None = None, eps: float | None = None) -> Engine:
    """The engine, specialised for a known ``p`` (1 is cheaper) and a known relative ``eps``."""

    def first(function: SchattenPower, a: Array, p_: Array, eps_: Array) -> tuple[Array, First]:
        return _first(p, eps, function, a, p_, eps_)

    def value(function: SchattenPower, a: Array, p_: Array, eps_: Array) -> tuple[Array, Array]:
        scale, result = first(function, a, p_, eps_)
        return scale, result.value

    return Engine(value, first, GRAM.second, for_p=GRAM)
