"""Which engine computes a Schatten power: the choice that ``method=`` and ``auto`` make."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import concrete, one_of
from rankjax._linear_algebra import anywhere
from rankjax.matrix._derivative_rule import Engine
from rankjax.matrix._scalar_power import EpsMode, SchattenPower
from rankjax.matrix._scaling import gram_floor
from rankjax.matrix.engines import _ladder, _newton_schulz
from rankjax.matrix.engines._gram import GRAM, GRAM_POLISHED
from rankjax.matrix.engines._ladder import LADDER
from rankjax.matrix.engines._rational import LEAST_EPS, RATIONAL
from rankjax.matrix.engines._svd import SVD_ENGINE

Method = Literal["auto", "svd", "gram", "rational", "newton_schulz", "ladder"]
METHODS: tuple[Method, ...] = get_args(Method)
RATIONAL_FROM = 256  # below, one eigh is over before the many small products are
FAST_P = 0.5  # below, rounding would do more than 1e-3 where many singular values vanish


def threshold(dtype: jnp.dtype) -> float:
    """The relative eps from which the fast engines keep the gradient within about 1e-3."""
    return 24 * float(jnp.finfo(dtype).eps) ** 0.5


def check_eps(method: Method, eps: ArrayLike, eps_mode: EpsMode, dtype: jnp.dtype) -> None:
    """Refuses a concrete relative eps that ``method`` cannot resolve.

    Raises:
        ValueError: naming eps, the method, and what is allowed.
    """
    known = concrete(eps)
    if eps_mode == "absolute" or known is None or method in ("auto", "svd"):
        return
    least = _LEAST_EPS[method](dtype)
    given = known.astype(np.float64)
    small = (given > 0) & (given < least * (1 - 1e-6))  # rounded to a shorter type, it is the same
    if np.any(small):
        hard = " (or 0, the hard form)" if method == "gram" else ""
        raise ValueError(
            f"eps must be at least {least:.2g}{hard} for method={method!r} in {dtype}, "
            f"got {eps!r} (method='auto' and 'svd' take any)"
        )


def resolve(
    method: Method,
    *,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    p: float | None,
    eps: float | None,
    eps_mode: EpsMode,
) -> Engine:
    """The engine for a static description of the call; None is a traced (or array) value.

    Raises:
        ValueError: an unknown method; ``rational`` or ``newton_schulz`` with a known p outside of
            (0, 2) or eps = 0.
    """
    one_of(method, "method", Method)
    relative = eps if eps_mode == "relative" else None
    if method == "svd":
        return SVD_ENGINE
    if method == "gram":
        return GRAM
    if method in ("rational", "newton_schulz", "ladder"):
        if p is not None and not 0 < p < 2:
            raise ValueError(f"p must be in (0, 2) for method={method!r}, got {p}")
        if eps == 0:
            raise ValueError(f"eps must be > 0 for method={method!r}, got 0")
        if method == "newton_schulz":
            return _newton_schulz.engine(p, relative)
        return in_range(RATIONAL if method == "rational" else LADDER, 0, p)
    least = threshold(dtype)
    if eps == 0 or (relative is not None and relative < least):
        return SVD_ENGINE
    fast = _fast(shape, dtype, p)
    return fast if relative is not None else smoothed_enough(fast, least)


def _fast(shape: tuple[int, ...], dtype: jnp.dtype, p: float | None) -> Engine:
    if dtype != jnp.float32:
        return _gram(p)
    small = min(shape[-2:]) < RATIONAL_FROM
    on_cpu = _gram(p) if small else in_range(RATIONAL, FAST_P, p)
    return by_platform(on_cpu, in_range(LADDER, FAST_P, p))


def in_range(engine: Engine, least: float, p: float | None) -> Engine:
    """The engine where it is exact, which is seen at run time if p is not known."""
    if p is None:
        return _where(_exponent_from(least), engine, GRAM_POLISHED)
    return engine if least <= p < 2 else _gram(p)


def _gram(p: float | None) -> Engine:
    return GRAM if p is not None and p >= 1 else GRAM_POLISHED


_LEAST_EPS: dict[str, Callable[[jnp.dtype], float]] = {
    "gram": gram_floor,
    "rational": lambda _: LEAST_EPS,
    "newton_schulz": _newton_schulz.floor,
    "ladder": lambda _: _ladder.LEAST_EPS,
}

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


@cache
def _exponent_from(least: float) -> Condition:
    """For a p that is seen when the program runs: whether an engine is exact there, and defined."""

    def inside(function: SchattenPower, a: Array, p: Array, eps: Array) -> Array:
        del function, a, eps
        return (p >= least) & (p <= 2)

    return inside


@cache
def by_platform(on_cpu: Engine, elsewhere: Engine) -> Engine:
    """The engine of the device that the program is compiled for, which need not be the default."""
    if on_cpu is elsewhere:
        return on_cpu

    def choose(name: str):
        def run(function: SchattenPower, *arguments: Array):
            both = (partial(getattr(e, name), function) for e in (on_cpu, elsewhere))
            cpu, default = both
            return jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)

        return run

    for_p = None
    if on_cpu.for_p or elsewhere.for_p:
        for_p = by_platform(on_cpu.for_p or on_cpu, elsewhere.for_p or elsewhere)
    return Engine(choose("value"), choose("first"), choose("second"), for_p)


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
