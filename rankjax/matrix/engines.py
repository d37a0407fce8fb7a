"""Which engine computes a Schatten power: one registry behind ``method=``.

=========== ==================================== ============================ =================
method      how                                  smallest relative eps        cost (m >= n)
=========== ==================================== ============================ =================
svd         one SVD                              any, 0 too (the hard form)   1
gram        ``eigh`` of ``A^T A``                sqrt(machine eps)            0.6, less if tall
rational    five shifted inverses of ``A^T A``   8e-3                         7 products
            by products (on accelerators, also
            Cholesky factors of small blocks)
iterative   products only (Newton-Schulz)        3e-3 float32, 1e-5 float64   20 to 40 products
=========== ==================================== ============================ =================

A smaller eps is raised; second derivatives of ``rational`` and ``iterative`` and derivatives by
``p`` are those of ``gram``. Gradient error in float32 against float64 at eps = 1e-2: svd 1e-6,
gram 1e-5 to 2e-3 (steep spectra), rational 1e-5 (low rank) to 1e-3 from p = 1/2 on, its value 3e-4
(1e-3 at larger eps, 7e-3 where all singular values are in one bad place), iterative 3e-4 from p = 1
on, 2e-3 at p = 1/2 on low rank (1e-2 at 4096 x 4096).

``auto`` (figures: ``docs/schatten.md``):

* ``p = 2`` and, without eps, ``p = 4, 6, 8``: products alone, no decomposition, whatever method;
* eps = 0 (the hard form), or eps under ``24 sqrt(machine eps)`` (8e-3 in float32): ``svd``;
* float64, and p < 1/2 or p >= 2: ``gram``, for ``p < 1`` or an unknown p with one correction of the
  eigenbasis (two more products; plain ``gram`` was 2e-3 off at p = 1/2 on a steep spectrum, 1e-5
  corrected);
* otherwise ``rational``, but on CPU under ``RATIONAL_FROM`` rows or columns ``gram``, and on
  accelerators for ``p = 1`` under ``ITERATIVE_TO`` rows or columns ``iterative`` (measured on a
  GPU; a TPU is treated alike, by reasoning).

A traced p counts as unknown. Where ``rational`` is at hand, it is looked at when the program runs
(outside its range ``gram`` answers, with ``method="rational"`` too); so is a traced or absolute eps
(``lax.cond``, for a batch as a whole, also under ``vmap``; both engines are compiled, one runs).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax import Array

from rankjax.matrix import iterative
from rankjax.matrix.canonical import one_of
from rankjax.matrix.decompose import anywhere
from rankjax.matrix.gram import GRAM, GRAM_POLISHED
from rankjax.matrix.powers import SchattenPower
from rankjax.matrix.rational import RATIONAL
from rankjax.matrix.spectral import SVD_ENGINE, Engine

METHODS = ("auto", "svd", "gram", "rational", "iterative")
EVEN_POWERS = (4, 6, 8)
RATIONAL_FROM = 256  # below, one eigh is over before the many small products are
ITERATIVE_TO = 2048  # from there on fewer products win, below fewer and larger steps
RATIONAL_P = 0.5  # below, rounding would do more than 1e-3 where many singular values vanish


def threshold(dtype: jnp.dtype) -> float:
    """The relative eps from which the fast engines keep the gradient within about 1e-3."""
    return 24 * float(jnp.finfo(dtype).eps) ** 0.5


def resolve(
    method: str,
    *,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    p: float | None,
    eps: float | None,
    eps_mode: str,
) -> Engine:
    """The engine for a static description of the call; None is a traced (or array) value.

    Raises:
        ValueError: an unknown method; ``rational`` or ``iterative`` with a known p outside (0, 2)
            or eps = 0.
    """
    one_of(method, "method", METHODS)
    relative = eps if eps_mode == "relative" else None
    if method == "svd":
        return SVD_ENGINE
    if method == "gram":
        return GRAM
    if method in ("rational", "iterative"):
        if p is not None and not 0 < p < 2:
            raise ValueError(f"p must be in (0, 2) for method={method!r}, got {p}")
        if eps == 0:
            raise ValueError(f"eps must be > 0 for method={method!r}, got 0")
        if method == "iterative":
            return iterative.engine(p, relative)
        return RATIONAL if p is not None else IN_RANGE
    least = threshold(dtype)
    if eps == 0 or (relative is not None and relative < least):
        return SVD_ENGINE
    fast = _fast(shape, dtype, p, relative)
    return fast if relative is not None else smoothed_enough(fast, least)


def _fast(
    shape: tuple[int, ...], dtype: jnp.dtype, p: float | None, relative: float | None
) -> Engine:
    smaller = min(shape[-2:])
    on_cpu = jax.default_backend() == "cpu"
    if dtype != jnp.float32 or (on_cpu and smaller < RATIONAL_FROM):
        return _gram(p)
    if not on_cpu and p == 1 and smaller < ITERATIVE_TO:
        return iterative.engine(p, relative)
    if p is None:
        return BY_EXPONENT
    return RATIONAL if RATIONAL_P <= p < 2 else _gram(p)


def _gram(p: float | None) -> Engine:
    return GRAM if p is not None and p >= 1 else GRAM_POLISHED


Condition = Callable[[SchattenPower, Array, Array, Array], Array]


@cache
def _where(condition: Condition, then: Engine, otherwise: Engine) -> Engine:
    """``then`` where the condition holds for the whole batch, seen at run time."""

    def choose(name: str):
        def run(function: SchattenPower, a: Array, p: Array, eps: Array, *tangents: Array):
            def branch(engine: Engine):
                return lambda *arguments: getattr(engine, name)(function, *arguments)

            missed = anywhere(~condition(function, a, p, eps))
            return jax.lax.cond(missed, branch(otherwise), branch(then), a, p, eps, *tangents)

        return run

    for_p = None
    if then.for_p or otherwise.for_p:
        for_p = _where(condition, then.for_p or then, otherwise.for_p or otherwise)
    return Engine(choose("value"), choose("first"), choose("second"), for_p)


def _exponent_from(least: float) -> Condition:
    def inside(function: SchattenPower, a: Array, p: Array, eps: Array) -> Array:
        del function, a, eps
        return (p >= least) & (p <= 2)

    return inside


# For a p that is seen when the program runs: where it is exact, and where it is defined.
BY_EXPONENT = _where(_exponent_from(RATIONAL_P), RATIONAL, GRAM_POLISHED)
IN_RANGE = _where(_exponent_from(0), RATIONAL, GRAM_POLISHED)


@cache
def smoothed_enough(fast: Engine, least: float) -> Engine:
    """``fast`` where every eps of the batch is at least ``least * sigma_1``, else the SVD."""

    def large(function: SchattenPower, a: Array, p: Array, eps: Array) -> Array:
        del p
        if function.eps_mode == "relative":
            return eps >= least
        # sigma_1 <= |A|_F: on the safe side, and without a decomposition. An overflow means SVD.
        return eps >= least * jnp.sqrt(jnp.sum(a * a, axis=(-2, -1)))

    return _where(large, fast, SVD_ENGINE)


def even_power(a: Array, p: int) -> Array:
    """``tr (A^T A)^(p/2)`` for even ``p >= 2`` by products of the smaller Gram matrix."""
    if p == 2:
        return jnp.sum(a * a, axis=(-2, -1))
    at = jnp.swapaxes(a, -1, -2)
    small = at if a.shape[-2] < a.shape[-1] else a
    highest = jax.lax.Precision.HIGHEST
    gram = jnp.matmul(jnp.swapaxes(small, -1, -2), small, precision=highest)
    half, odd = divmod(p // 2, 2)
    power = gram
    for _ in range(half - 1):
        power = jnp.matmul(power, gram, precision=highest)
    # tr G^(2h) = |G^h|_F^2, tr G^(2h+1) = <G^h, G^(h+1)>.
    other = jnp.matmul(power, gram, precision=highest) if odd else power
    return jnp.sum(power * other, axis=(-2, -1))
