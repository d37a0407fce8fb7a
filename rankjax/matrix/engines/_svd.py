"""The engine of one singular value decomposition: exact at any eps, the hard form included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._linear_algebra import SVD, svd, svdvals
from rankjax.matrix._derivative_rule import Engine, First, map_tangent, outer
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix._scaling import in_units


def _svd_value(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, Array]:
    scale, arguments = in_units(function, svdvals(a), p, eps)
    return scale, jnp.sum(function.value(*arguments), axis=-1)


Arguments = tuple[Array, Array, Array, Array]


def sums(function: SchattenPower, arguments: Arguments, gradient: Array) -> First:
    """Value and derivatives by the parameters, with a gradient that is known."""
    (value_p, value_eps), _ = function.by_parameters(*arguments)
    total = [jnp.sum(x, axis=-1) for x in (function.value(*arguments), value_p, value_eps)]
    return First(total[0], gradient, total[1], total[2])


def tangent_of_sums(
    function: SchattenPower, arguments: Arguments, first: First, slopes: Array, ds: Array,
    dp: Array, deps: Array, dgradient: Array,
) -> First:  # fmt: skip
    """The tangent of ``sums``: ``slopes = <gradient, da>``, ``ds`` of the singular values."""
    s, top, p, eps = arguments
    _, (slope_p, slope_eps) = function.by_parameters(*arguments)

    def by_parameters(p: Array, eps: Array) -> list[Array]:
        return [jnp.sum(x, axis=-1) for x in function.by_parameters(s, top, p, eps)[0]]

    dby_p, dby_eps = jax.jvp(by_parameters, (p, eps), (dp[..., None], deps[..., None]))[1]
    return First(
        value=slopes + first.by_p * dp + first.by_eps * deps,
        gradient=dgradient,
        by_p=jnp.sum(slope_p * ds, axis=-1) + dby_p,
        by_eps=jnp.sum(slope_eps * ds, axis=-1) + dby_eps,
    )


def _first_of(function: SchattenPower, factors: SVD, arguments: Arguments) -> First:
    return sums(function, arguments, outer(factors, function.slope(*arguments)))


def _svd_first(function: SchattenPower, a: Array, p: Array, eps: Array) -> tuple[Array, First]:
    factors = svd(a)
    scale, arguments = in_units(function, factors.s, p, eps)
    return scale, _first_of(function, factors, arguments)


def _svd_second(
    function: SchattenPower,
    a: Array,
    p: Array,
    eps: Array,
    da: Array,
    dp: Array,
    deps: Array,
) -> tuple[Array, First, First]:
    factors = svd(a)
    scale, arguments = in_units(function, factors.s, p, eps)
    da = da / scale[..., None, None]
    deps = deps / scale if function.eps_mode == "absolute" else deps
    first = _first_of(function, factors, arguments)
    _, (slope_p, slope_eps) = function.by_parameters(*arguments)
    ds = jnp.einsum("...mk,...mn,...kn->...k", factors.u, da, factors.vt)
    dh = slope_p * dp[..., None] + slope_eps * deps[..., None]
    dgradient = map_tangent(factors, function.tables(*arguments), da) + outer(factors, dh)
    slopes = jnp.sum(first.gradient * da, axis=(-2, -1))
    tangent = tangent_of_sums(function, arguments, first, slopes, ds, dp, deps, dgradient)
    return scale, first, tangent


SVD_ENGINE = Engine(_svd_value, _svd_first, _svd_second)
