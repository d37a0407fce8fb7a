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


def _first_of(
    function: SchattenPower, factors: SVD, arguments: tuple[Array, Array, Array, Array]
) -> First:
    (value_p, value_eps), _ = function.by_parameters(*arguments)
    return First(
        jnp.sum(function.value(*arguments), axis=-1),
        outer(factors, function.slope(*arguments)),
        jnp.sum(value_p, axis=-1),
        jnp.sum(value_eps, axis=-1),
    )


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
    s, top, p_, eps_ = arguments
    (_, _), (slope_p, slope_eps) = function.by_parameters(*arguments)
    ds = jnp.einsum("...mk,...mn,...kn->...k", factors.u, da, factors.vt)

    def sums(p_: Array, eps_: Array) -> tuple[Array, Array]:
        (value_p, value_eps), _ = function.by_parameters(s, top, p_, eps_)
        return jnp.sum(value_p, axis=-1), jnp.sum(value_eps, axis=-1)

    d_parameters = (dp[..., None], deps[..., None])
    dby_p, dby_eps = jax.jvp(sums, (p_, eps_), d_parameters)[1]
    dh = slope_p * d_parameters[0] + slope_eps * d_parameters[1]
    tangent = First(
        value=jnp.sum(first.gradient * da, axis=(-2, -1)) + first.by_p * dp + first.by_eps * deps,
        gradient=map_tangent(factors, function.tables(*arguments), da) + outer(factors, dh),
        by_p=jnp.sum(slope_p * ds, axis=-1) + dby_p,
        by_eps=jnp.sum(slope_eps * ds, axis=-1) + dby_eps,
    )
    return scale, first, tangent


SVD_ENGINE = Engine(_svd_value, _svd_first, _svd_second)
