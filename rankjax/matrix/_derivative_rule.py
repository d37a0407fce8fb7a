r"""The derivative rule: ``sum_i phi(sigma_i)`` and ``U h(Sigma) V^T``, first and second order.

Autodiff through a singular value decomposition divides by ``sigma_i - sigma_j`` and is NaN at
repeated values, although the functions here are smooth there. Their derivatives are known in
closed form (Daleckii and Krein; for singular values Noferini, "A formula for the Frechet derivative
of a generalized matrix function", SIMAX 2017). With ``h = phi'`` and ``P = U^T dA V``:

    grad sum_i phi(sigma_i) = U h(Sigma) V^T =: G
    dG = U [D o (P + P^T)/2 + M o (P - P^T)/2] V^T
         + (I - U U^T) dA V diag(h/s) V^T                          (m > n, likewise for m < n)
    D_ij = (h_i - h_j)/(s_i - s_j),   M_ij = (h_i + h_j)/(s_i + s_j)

with ``D`` and ``M`` computed by divided differences (``_scalar_power.Tables``). Everything is done
in units of ``sigma_1``, so that 1e-20 and 1e20 are as exact as 1 in float32.

The rule is a chain of two ``custom_jvp``: the value, whose rule calls value and gradient, whose
rule is the formula above. One decomposition serves each level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from rankjax._linear_algebra import SVD, matmul, transpose
from rankjax.matrix._scalar_power import SchattenPower


class Differences(Protocol):
    """The divided differences that ``map_tangent`` needs; see ``_scalar_power.Tables``."""

    @property
    def difference(self) -> Array: ...
    @property
    def mean(self) -> Array: ...
    @property
    def ratio(self) -> Array: ...


class First(NamedTuple):
    """Value, gradient with respect to the matrix, derivatives by ``p`` and ``eps``."""

    value: Array
    gradient: Array
    by_p: Array
    by_eps: Array


@dataclass(frozen=True)
class Engine:
    """How a spectral sum is computed; static. Results are in units of ``scale``: see ``_restore``.

    Attributes:
        value: ``(function, a, p, eps) -> (scale, value)``.
        first: ``(function, a, p, eps) -> (scale, First)``.
        second: ``(function, a, p, eps, da, dp, deps) -> (scale, First, its tangent)``, where
            ``da`` and (for absolute eps) ``deps`` are not yet divided by ``scale``.
        for_p: the engine to use where ``p`` itself is differentiated; None: this one.
    """

    value: Callable[..., tuple[Array, Array]]
    first: Callable[..., tuple[Array, First]]
    second: Callable[..., tuple[Array, First, First]]
    for_p: Engine | None = None


def last_derivative(message: str) -> Callable[[Any], Any]:
    """The identity at the end of a chain of rules: its derivative is an error that says so."""

    @jax.custom_jvp
    def last(operands: Any) -> Any:
        return operands

    @last.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(message)

    return last


def outer(factors: SVD, h: Array) -> Array:
    """``U diag(h) V^T``."""
    return matmul(factors.u * h[..., None, :], factors.vt)


def map_tangent(factors: SVD, tables: Differences, da: Array) -> Array:
    """``d(U h(S) V^T)`` along ``da`` by the formula of this module's docstring."""
    u, _, vt = factors
    ut, v = transpose(u), transpose(vt)
    dav = matmul(da, v)
    p = matmul(ut, dav)
    pt = transpose(p)
    middle = (tables.difference * (p + pt) + tables.mean * (p - pt)) / 2
    ratio = tables.ratio[..., None, :]
    m, n = da.shape[-2:]
    if m > n:
        return matmul(matmul(u, middle) + (dav - matmul(u, p)) * ratio, vt)
    if n > m:
        uda = matmul(ut, da)
        return matmul(u, matmul(middle, vt) + transpose(ratio) * (uda - matmul(p, vt)))
    return matmul(matmul(u, middle), vt)


def _restore(function: SchattenPower, scale: Array, p: Array, first: First) -> First:
    """Undoes the units: ``value = scale^p value'`` and what follows from it, ``scale`` constant."""
    power = scale**p
    lower = scale ** (p - 1)
    return First(
        value=power * first.value,
        gradient=lower[..., None, None] * first.gradient,
        by_p=power * (first.by_p + jnp.log(scale) * first.value),
        by_eps=(lower if function.eps_mode == "absolute" else power) * first.by_eps,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def spectral_value(
    function: SchattenPower, engine: Engine, a: Array, p: Array, eps: Array
) -> Array:
    """``sum_i phi(sigma_i)`` of canonical ``a`` ``(..., m, n)``; ``p``, ``eps`` are ``(...)``."""
    scale, value = engine.value(function, a, p, eps)
    return scale**p * value


def _value_jvp(function, engine, primals, tangents):
    da, dp, deps = tangents
    if not isinstance(dp, SymbolicZero):
        engine = engine.for_p or engine
    first = spectral_first(function, engine, *primals)
    tangent = jnp.zeros_like(first.value)
    if not isinstance(da, SymbolicZero):
        tangent = tangent + jnp.sum(first.gradient * da, axis=(-2, -1))
    if not isinstance(dp, SymbolicZero):
        tangent = tangent + first.by_p * dp
    if not isinstance(deps, SymbolicZero):
        tangent = tangent + first.by_eps * deps
    return first.value, tangent


# Symbolic zeros: what nobody differentiates by (mostly p and eps) is not computed either.
spectral_value.defjvp(_value_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def spectral_first(
    function: SchattenPower, engine: Engine, a: Array, p: Array, eps: Array
) -> First:
    """The value and all its first derivatives from one decomposition."""
    scale, first = engine.first(function, a, p, eps)
    return _restore(function, scale, p, first)


_no_third_derivative = last_derivative("schatten_power has no third derivative, polar no second")


@spectral_first.defjvp
def _first_jvp(function, engine, primals, tangents):
    a, p, eps = _no_third_derivative(primals)
    da, dp, deps = tangents
    scale, first, dfirst = engine.second(function, a, p, eps, da, dp, deps)
    return jax.jvp(partial(_restore, function, scale), (p, first), (dp, dfirst))
