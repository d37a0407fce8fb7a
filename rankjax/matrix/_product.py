"""The Schatten power of a product of two thin matrices, without forming the product.

With ``B = Q_1 R_1`` and ``A^T = Q_2 R_2`` the singular values of ``B A`` are those of the small
core ``Q_1^T B A Q_2 = R_1 R_2^T`` and zeros, which add nothing to the (smoothed) power. To first
order a change of the factors acts on the core with ``Q_1`` and ``Q_2`` held fixed, because the
gradient of the power at the product lies between their columns; so the derivative never goes
through a QR decomposition and is right for factors without full rank too (``B = 0``, where LoRA
starts).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import known_scalar, non_negative, one_of
from rankjax._linear_algebra import matmul, orthonormal, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._schatten_power import schatten_power
from rankjax.matrix.engines import Method


class _Static(NamedTuple):
    """What the engine is chosen by; a number that is traced is None."""

    p: float | None
    eps: float | None
    eps_mode: EpsMode
    method: Method


def product_schatten_power(
    b: Float[ArrayLike, "*batch m r"],
    a: Float[ArrayLike, "*batch r n"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    method: Method = "auto",
) -> Float[Array, "*batch"]:
    """``schatten_power(b @ a)`` through a core of the size of the inner axis.

    Args:
        b: ``(..., m, r)``.
        a: ``(..., r, n)``, with the batch axes of ``b``.
        p: exponent >= 0, may be traced.
        eps: smoothing, may be traced.
        eps_mode: ``"relative"`` to the largest singular value of the product, or ``"absolute"``.
        method: the engine for the core, see ``schatten_power``.

    Returns:
        ``(...)``, in the dtype of ``b``.

    Raises:
        ValueError: wrong shapes or dtypes, as ``schatten_power``.
        NotImplementedError: a second derivative.

    Once differentiable (forward and reverse), by the factors, ``p`` and ``eps``, also where a
    factor is rank deficient or 0. Cost: two QR of ``(m, r)`` and ``(n, r)`` and one decomposition
    of ``(r, r)``: ``O((m + n) r^2)``.

    Example:
        >>> import jax.numpy as jnp
        >>> b, a = jnp.ones((4, 1)), jnp.ones((1, 9))
        >>> round(float(product_schatten_power(b, a, p=0.5)), 4)  # sigma = 6
        2.4495
    """
    non_negative(p, "p")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EpsMode)
    one_of(method, "method", Method)
    left, dtype = canonicalize(b)
    right, _ = canonicalize(a)
    if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"b and a: got shapes {left.shape} and {right.shape}, must be (..., m, r) and "
            "(..., r, n) with the same batch"
        )
    if 0 in left.shape or 0 in right.shape:
        return jnp.zeros(left.shape[:-2], dtype)
    right = right.astype(left.dtype)
    static = _Static(known_scalar(p), known_scalar(eps), eps_mode, method)
    batch = left.shape[:-2]
    p_, eps_ = (jnp.broadcast_to(jnp.asarray(x, left.dtype), batch) for x in (p, eps))
    return _power(static, left, right, p_, eps_).astype(dtype)


def _of_core(static: _Static, b: Array, a: Array, p: Array, eps: Array) -> Array:
    fixed = jax.lax.stop_gradient
    q1, q2 = orthonormal(fixed(b)), orthonormal(fixed(transpose(a)))
    core = matmul(matmul(transpose(q1), b), matmul(a, q2))
    return schatten_power(
        core,
        p=p if static.p is None else static.p,
        eps=eps if static.eps is None else static.eps,
        eps_mode=static.eps_mode,
        method=static.method,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _power(static: _Static, b: Array, a: Array, p: Array, eps: Array) -> Array:
    return _of_core(static, b, a, p, eps)


@_power.defjvp
def _power_jvp(static, primals, tangents):
    value, (by_b, by_a, by_p, by_eps) = _value_and_gradients(static, *primals)
    db, da, dp, deps = tangents
    tangent = jnp.sum(by_b * db, (-2, -1)) + jnp.sum(by_a * da, (-2, -1)) + by_p * dp
    return value, tangent + by_eps * deps


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_and_gradients(static: _Static, *arguments: Array) -> tuple[Array, tuple[Array, ...]]:
    # Members of a batch do not depend on each other: the gradient of the sum holds them all.
    value, back = jax.vjp(partial(_of_core, static), *arguments)
    return value, back(jnp.ones_like(value))


@_value_and_gradients.defjvp
def _no_second_derivative(static, primals, tangents):
    raise NotImplementedError(
        "product_schatten_power has no second derivative: take schatten_power of the product"
    )
