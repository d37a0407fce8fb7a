r"""Any smooth function of the singular values: ``sum_i phi(sigma_i)`` and ``U h(Sigma) V^T``.

The derivatives are those of ``rankjax.matrix.spectral`` and, one order further, the second Frechet
derivative of ``h`` on the symmetric matrix ``[[0, A], [A^T, 0]]``, whose eigenvalues are
``+-sigma_i`` (and 0); ``h`` is odd, so that ``h`` of it is ``[[0, H], [H^T, 0]]``. Both are made of
the divided differences of ``rankjax.matrix.divided``.

The derivative ``T(A)[dA]`` of ``U h(Sigma) V^T`` is a primitive of its own, not a ``custom_jvp``:
of that reverse mode keeps only the body, in which ``U`` and ``V`` count as constants, and would
forget that ``T`` depends on ``A``. The primitive is its own transpose (``T`` is a Hessian).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike

from rankjax.matrix.canonical import canonicalize
from rankjax.matrix.decompose import SVD, svd, svdvals, transpose
from rankjax.matrix.divided import Derivative, Partial, Scalar, apply, second_tangent, tables
from rankjax.matrix.spectral import map_tangent, outer

_AXES = (-2, -1)
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
        tangent = tangent + _tangent_at(h, factors, a, args, da)
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


_tangent_p = Primitive("rankjax_spectral_tangent")


def _tangent_at(h: Scalar, factors: SVD, a: Array, args: Arguments, da: Array) -> Array:
    """``T(a)[da]``; the batch of ``da`` is that of the result."""
    return _tangent_p.bind(*factors, a, da, *args, h=h, each=0)


# ``each``: so many leading axes are of all operands, of the parameters too, and are mapped over.
def _mapped(function, each: int):
    for _ in range(each):
        function = jax.vmap(function)
    return function


def _tangent_impl(*operands, h, each):
    def tangent(u, s, vt, a, da, *args):
        del a
        return map_tangent(SVD(u, s, vt), tables(h, s, args), da)

    return _mapped(tangent, each)(*operands)


def _tangent_abstract(u, s, vt, a, da, *args, h, each):
    del u, s, vt, a, args, h, each
    return da.update(weak_type=False)


def _tangent_jvp(primals, tangents, *, h, each):
    u, s, vt, a, e, *args = primals
    da, de, *dargs = tangents[3:]
    value = _tangent_p.bind(*primals, h=h, each=each)
    tangent = jnp.zeros_like(value)
    if type(de) is not ad.Zero:
        tangent = tangent + _tangent_p.bind(u, s, vt, a, de, *args, h=h, each=each)
    if type(da) is not ad.Zero:

        def second(factors, e, da, *args):
            return second_tangent(h, factors, args, e, da)

        factors = _last(SVD(u, s, vt), a)
        tangent = tangent + _mapped(second, each)(factors, e, da, *args)
    for i, darg in enumerate(dargs):
        if type(darg) is not ad.Zero:
            partial_ = _tangent_p.bind(u, s, vt, a, e, *args, h=Partial(h, i), each=each)
            tangent = tangent + partial_ * darg.reshape(darg.shape + (1,) * (e.ndim - each))
    return value, tangent


def _tangent_transpose(cotangent, u, s, vt, a, da, *args, h, each):
    del da
    if type(cotangent) is not ad.Zero:
        cotangent = _tangent_p.bind(u, s, vt, a, cotangent, *args, h=h, each=each)
    return [None, None, None, None, cotangent, *[None] * len(args)]


def _tangent_batch(operands, axes, *, h, each):
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    moved = [
        x[None] if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    moved[4] = jnp.broadcast_to(moved[4], (size, *moved[4].shape[1:]))
    if each == 0 and all(axis is None for axis in axes[5:]):
        return _tangent_p.bind(*moved[:5], *operands[5:], h=h, each=0), 0
    full = [jnp.broadcast_to(x, (size, *x.shape[1:])) for x in moved]
    return _tangent_p.bind(*full, h=h, each=each + 1), 0


_tangent_p.def_impl(_tangent_impl)
_tangent_p.def_abstract_eval(_tangent_abstract)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent_impl, multiple_results=False))
ad.primitive_jvps[_tangent_p] = _tangent_jvp
ad.primitive_transposes[_tangent_p] = _tangent_transpose
batching.primitive_batchers[_tangent_p] = _tangent_batch


@jax.custom_jvp
def _last(factors: SVD, a: Array) -> SVD:
    """The end of the chain: an error instead of a derivative that takes ``U, V`` as constants."""
    del a
    return factors


@_last.defjvp
def _last_jvp(primals, tangents):
    raise NotImplementedError(
        "spectral_map has no third derivative by the matrix, spectral_sum no fourth"
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
    a: ArrayLike,
    /,
    phi: Scalar,
    *,
    args: tuple[ArrayLike, ...] = (),
    axes: Sequence[int] = _AXES,
) -> Array:
    """``sum_i phi(sigma_i)`` over all ``min(m, n)`` singular values, for any smooth ``phi``.

    ``phi`` must be smooth as an *even* function: three times differentiable on ``[0, inf)`` with
    ``phi'(0) = 0``, such as ``log(1 + s^2)``, ``sqrt(s^2 + e^2)`` or ``s^3``. It is only called
    with ``s >= 0``. Its derivative should be accurate relative to its size near 0: take
    ``jnp.cosh(s)``, not ``(exp(s) + exp(-s)) / 2``. For powers ``schatten_power`` is faster.

    Args:
        a: a matrix or a batch of matrices.
        phi: ``phi(s, *args)``, scalar to scalar, of JAX operations; static: compiled once for each
            function *object*, so pass the same object again, not a new lambda in every step.
        args: a tuple of real scalars, passed on to every call in the dtype that is computed in;
            may be traced. What varies over a batch of matrices needs ``jax.vmap``.
        axes: the (out, in) axes of the matrix.

    Returns:
        The batch shape, in the dtype of ``a``.

    Raises:
        ValueError: wrong rank, axes or dtype; ``phi`` not callable or not scalar; ``args`` not a
            tuple of real scalars.

    First and second derivatives (forward and reverse), by ``a`` and by ``args``, are exact at
    repeated and zero singular values. Gradient: ``U phi'(Sigma) V^T``. Cost: one SVD; second
    derivatives also six evaluations of ``phi''`` for each pair of singular values. Source:
    Daleckii and Krein 1965; Lewis and Sendov, "Nonsmooth analysis of singular values", 2005.

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
    return _compiled_sum(phi, _tall(matrix), arguments).astype(dtype)


def spectral_map(
    a: ArrayLike,
    /,
    h: Scalar,
    *,
    args: tuple[ArrayLike, ...] = (),
    axes: Sequence[int] = _AXES,
) -> Array:
    """``U h(Sigma) V^T``, the generalized matrix function of an *odd* ``h``.

    Only called with ``s >= 0``; ``h(0) = 0`` is needed (``U`` and ``V`` are not unique elsewhere)
    and, for exact first (second) derivatives, one (two) continuous derivatives of the odd
    continuation: ``s / (1 + s^2)``, ``tanh(s)``. Near 0 it should be accurate relative to its size.

    Args:
        a: a matrix or a batch of matrices.
        h: ``h(s, *args)``, scalar to scalar, of JAX operations; static: compiled once for each
            function *object*.
        args: as in ``spectral_sum``.
        axes: the (out, in) axes of the matrix.

    Returns:
        Shape and dtype of ``a``.

    Raises:
        ValueError: as ``spectral_sum``.
        NotImplementedError: a third derivative by ``a``.

    First and second derivatives (forward and reverse), by ``a`` and by ``args``, are exact at
    repeated and zero singular values. Cost: one SVD; the first derivative also eight evaluations of
    ``h'`` for each pair of singular values, the second about thirty of ``h''`` for each triple, in
    memory of pairs. Source: Noferini, "A formula for the Frechet derivative of a generalized
    matrix function", SIMAX 2017. Before JAX 0.10 the second
    derivative of more than 64 singular values exists in forward mode only; reverse mode raises.

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
    result = _compiled_map(h, _tall(matrix), arguments)
    result = transpose(result) if matrix.shape[-2] < matrix.shape[-1] else result
    return jnp.moveaxis(result, (-2, -1), tuple(axes)).astype(dtype)


def _tall(matrix: Array) -> Array:
    return transpose(matrix) if matrix.shape[-2] < matrix.shape[-1] else matrix
