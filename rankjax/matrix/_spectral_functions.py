r"""Any smooth function of the singular values: ``sum_i phi(sigma_i)`` and ``U h(Sigma) V^T``.

The derivatives are those of ``_derivative_rule``, made of the divided differences of
``_divided_differences``: two orders of the sum, one of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._linear_algebra import SVD, svd, svdvals, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._derivative_rule import last_derivative, map_tangent, outer
from rankjax.matrix._divided_differences import Derivative, Partial, Scalar, apply, tables
from rankjax.matrix._scaling import tall

Arguments = tuple[Array, ...]

# The chain of rules. What ends in ``_at`` takes the decomposition of ``a`` as a constant besides
# ``a`` itself, so that one decomposition serves value and derivatives.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum(phi: Scalar, a: Array, args: Arguments) -> Array:
    return jnp.sum(apply(phi, svdvals(a), args, odd=False), axis=-1)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_at(phi: Scalar, factors: SVD, a: Array, args: Arguments) -> Array:
    """``sum_i phi(sigma_i)`` from ``factors`` of the constant ``a``; differentiable by a, args."""
    del a
    return jnp.sum(apply(phi, factors.s, args, odd=False), axis=-1)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _map(h: Scalar, a: Array, args: Arguments) -> Array:
    factors = svd(a)
    return outer(factors, apply(h, factors.s, args, odd=True))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def map_at(h: Scalar, factors: SVD, a: Array, args: Arguments) -> Array:
    """``U h(Sigma) V^T`` from ``factors`` of the constant ``a``; differentiable by a and args."""
    del a
    return outer(factors, apply(h, factors.s, args, odd=True))


def _sum_at_jvp(phi, primals, tangents):
    factors, a, args = primals
    _, da, dargs = tangents
    value = sum_at(phi, *primals)
    tangent = jnp.zeros_like(value)
    if not isinstance(da, SymbolicZero):
        gradient = map_at(Derivative(phi), factors, a, args)
        tangent = tangent + jnp.sum(gradient * da, axis=(-2, -1))
    for i, darg in enumerate(dargs):
        if not isinstance(darg, SymbolicZero):
            tangent = tangent + sum_at(Partial(phi, i), factors, a, args) * darg
    return value, tangent


def _map_at_jvp(h, primals, tangents):
    factors, a, args = primals
    _, da, dargs = tangents
    value = map_at(h, *primals)
    tangent = jnp.zeros_like(value)
    if not isinstance(da, SymbolicZero):
        # The factors are constants, but the tangent depends on a: it must not be derived again.
        at, _, given = _no_second_derivative((factors, a, args))
        tangent = tangent + map_tangent(at, tables(h, at.s, given), da)
    for i, darg in enumerate(dargs):
        if not isinstance(darg, SymbolicZero):
            tangent = tangent + map_at(Partial(h, i), factors, a, args) * darg
    return value, tangent


def _from_matrix(rule):
    """The rule of a function of ``(a, args)`` from that of ``(factors, a, args)``."""

    def jvp(function, primals, tangents):
        factors = svd(jax.lax.stop_gradient(primals[0]))
        return rule(function, (factors, *primals), (None, *tangents))

    return jvp


sum_at.defjvp(_sum_at_jvp, symbolic_zeros=True)
map_at.defjvp(_map_at_jvp, symbolic_zeros=True)
_sum.defjvp(_from_matrix(_sum_at_jvp), symbolic_zeros=True)
_map.defjvp(_from_matrix(_map_at_jvp), symbolic_zeros=True)


_no_second_derivative = last_derivative(
    "spectral_map and the proximal maps have no second derivative, "
    "spectral_sum and log_det no third"
)


_compiled_sum = jax.jit(_sum, static_argnums=0)
_compiled_map = jax.jit(_map, static_argnums=0)


def _arguments(args: tuple[ArrayLike, ...], dtype: jnp.dtype) -> Arguments:
    if not isinstance(args, tuple):
        raise ValueError(f"args must be a tuple of real scalars, got {type(args).__name__}")
    arrays = [jnp.asarray(x) for x in args]
    for x in arrays:
        if x.ndim or jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise ValueError(
                f"args must be a tuple of real scalars, got an array of {x.dtype}{x.shape}"
            )
    return tuple(x.astype(dtype) for x in arrays)


def _check(function: Scalar, name: str, args: Arguments, dtype: jnp.dtype) -> None:
    if not callable(function):
        raise ValueError(f"{name} must be callable, got {function!r}")
    result = jax.eval_shape(function, jax.ShapeDtypeStruct((), dtype), *args)
    shape, kind = (getattr(result, key, None) for key in ("shape", "dtype"))
    if shape != () or kind is None or not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"{name} must map a real scalar to a real scalar, it returned {result}")


def spectral_sum(
    a: Float[ArrayLike, "... m n"],
    /,
    phi: Scalar,
    *,
    args: tuple[ArrayLike, ...] = (),
    axes: Sequence[int] = (-2, -1),
) -> Float[Array, "..."]:
    """``sum_i phi(sigma_i)`` over all ``min(m, n)`` singular values, for any smooth ``phi``.

    ``phi`` must be smooth as an *even* function: three times differentiable on ``[0, inf)`` with
    ``phi'(0) = 0``, such as ``log(1 + s^2)``, ``sqrt(s^2 + e^2)`` or ``s^3``. It is only called
    with ``s >= 0``. Its derivative should be accurate relative to its size near 0: take
    ``jnp.cosh(s)``, not ``(exp(s) + exp(-s)) / 2``. For powers ``schatten_power`` is faster.

    Args:
        phi: ``phi(s, *args)``, scalar to scalar, of JAX operations; static: compiled once for each
            function *object*, so pass the same object again, not a new lambda in every step.
        args: a tuple of real scalars, passed on to every call in the dtype that is computed in;
            may be traced. What varies over a batch of matrices needs ``jax.vmap``.

    Raises:
        ValueError: ``phi`` not callable or not scalar; ``args`` not a
            tuple of real scalars.
        NotImplementedError: a third derivative.

    First and second derivatives (forward and reverse), by ``a`` and by ``args``, are exact at
    repeated and zero singular values. Gradient: ``U phi'(Sigma) V^T``. Cost: one SVD; second
    derivatives also six evaluations of ``phi''`` for each pair of singular values. Source:
    Daleckii and Krein 1965; Lewis and Sendov, "Nonsmooth analysis of singular values", 2005.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> def phi(s, scale):
        ...     return jnp.log1p((s / scale) ** 2)
        >>> a = jnp.diag(jnp.array([2.0, 2.0, 0.0]))
        >>> round(float(spectral_sum(a, phi, args=(1.0,))), 3)  # 2 log 5
        3.219
    """
    matrix, dtype = canonicalize(a, axes)
    arguments = _arguments(args, matrix.dtype)
    _check(phi, "phi", arguments, matrix.dtype)
    if 0 in matrix.shape:
        return jnp.zeros(matrix.shape[:-2], dtype)
    return _compiled_sum(phi, tall(matrix)[0], arguments).astype(dtype)


def spectral_map(
    a: Float[ArrayLike, "... m n"],
    /,
    h: Scalar,
    *,
    args: tuple[ArrayLike, ...] = (),
    axes: Sequence[int] = (-2, -1),
) -> Float[Array, "... m n"]:
    """``U h(Sigma) V^T``, the generalized matrix function of an *odd* ``h``.

    Only called with ``s >= 0``; ``h(0) = 0`` is needed (``U`` and ``V`` are not unique elsewhere)
    and, for exact derivatives, one continuous derivative of the odd continuation:
    ``s / (1 + s^2)``, ``tanh(s)``. Near 0 it should be accurate relative to its size.

    Args:
        h: ``h(s, *args)``, scalar to scalar, of JAX operations; static: compiled once for each
            function *object*.
        args: as in ``spectral_sum``.

    Raises:
        ValueError: as ``spectral_sum``.
        NotImplementedError: a second derivative that begins with one by ``a``.

    The first derivative (forward and reverse), by ``a`` and by ``args``, is exact at repeated and
    zero singular values. Cost: one SVD; the derivative also eight evaluations of ``h'`` for each
    pair of singular values. Source: Noferini, "A formula for the Frechet derivative of a
    generalized matrix function", SIMAX 2017.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = spectral_map(jnp.array([[0.0, 1.0], [-2.0, 0.0]]), lambda s: s**3)
        >>> [[round(float(v), 3) + 0.0 for v in row] for row in x]
        [[0.0, 1.0], [-8.0, 0.0]]
    """
    matrix, dtype = canonicalize(a, axes)
    arguments = _arguments(args, matrix.dtype)
    _check(h, "h", arguments, matrix.dtype)
    if 0 in matrix.shape:
        return jnp.asarray(a)
    matrix, turned = tall(matrix)
    result = _compiled_map(h, matrix, arguments)
    result = transpose(result) if turned else result
    return jnp.moveaxis(result, (-2, -1), tuple(axes)).astype(dtype)
