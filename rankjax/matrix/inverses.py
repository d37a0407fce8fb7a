"""Sums of shifted inverses of a positive semidefinite matrix, by matrix products only.

``sum_k w_k (M + tau_k I)^-1``. Each inverse halves the matrix,

    [ A  B^T ]^-1   [ A^-1 + Y^T X   X^T  ]        X = -S^-1 Y,   Y = B A^-1,
    [ B   D  ]    = [      X         S^-1 ],       S = D - B A^-1 B^T,

down to blocks of ``_BASE``. What is carried of ``A`` is the inverse ``K`` of its Cholesky factor,
too, and ``S = D - T T^T``, ``T = B K^T``: with ``A^-1`` itself, whose rounding is of the order of
the square of the condition, the difference would be lost on matrices of low rank. That is 1.7
``n^3`` multiplications and additions an inverse, less than one product of the size of ``M``; no
LAPACK call, so nothing to loop over, to wait for or to gather.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from rankjax.matrix.decompose import HIGHEST, matmul, transpose

_BASE = 32
# Entries of the inverses that are made at a time: more are no faster, and take memory.
_AT_ONCE = 1024 * 1024


def sum_of_inverses(m: Array, shifts: Array, weights: Array) -> tuple[Array, Array]:
    """``sum_k weights_k (m + shifts_k I)^-1``, and the diagonal of each inverse.

    Args:
        m: symmetric, positive semidefinite ``(..., n, n)``.
        shifts: positive ``(..., k)``, well above the rounding of ``m``.
        weights: ``(..., k)``.

    Returns:
        ``(..., n, n)`` and ``(k, ..., n)``. Products of matrices: about ``0.86 k`` of ``m`` and
        ``m``. No derivative (callers bring a rule).
    """
    n, count = m.shape[-1], shifts.shape[-1]
    width = max(
        c for c in range(1, count + 1) if count % c == 0 and (c == 1 or c * m.size <= _AT_ONCE)
    )
    eye = jnp.eye(n, dtype=m.dtype)

    def cut(x: Array) -> Array:
        x = jnp.moveaxis(x, -1, 0)
        return x.reshape(count // width, width, *x.shape[1:])

    def some(total: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        shift, weight = given
        x = _inverse(m + shift[..., None, None] * eye)
        # A product, not a sum: XLA would make each entry of x anew inside of a sum, slowly.
        added = jnp.einsum("k...,k...ij->...ij", weight, x, precision=HIGHEST)
        return total + added, jnp.diagonal(x, axis1=-2, axis2=-1)

    total, diagonals = jax.lax.scan(some, jnp.zeros_like(m), (cut(shifts), cut(weights)))
    return total, diagonals.reshape(count, *diagonals.shape[2:])


def _halves(m: Array) -> tuple[Array, Array, Array]:
    h = m.shape[-1] // 2
    return m[..., :h, :h], m[..., h:, :h], m[..., h:, h:]


def _joined(a: Array, b: Array, c: Array, d: Array) -> Array:
    above, below = jnp.concatenate([a, b], -1), jnp.concatenate([c, d], -1)
    return jnp.concatenate([above, below], -2)


def _inverse(m: Array) -> Array:
    """Of positive definite ``m``."""
    if m.shape[-1] <= _BASE:
        root = _inverse_root(m)
        return matmul(transpose(root), root)
    a, b, d = _halves(m)
    root, inverse = _root_and_inverse(a)
    t = matmul(b, transpose(root))
    schur = _inverse(d - matmul(t, transpose(t)))
    y = matmul(t, root)
    x = -matmul(schur, y)
    return _joined(inverse - matmul(transpose(y), x), transpose(x), x, schur)


def _root_and_inverse(m: Array) -> tuple[Array, Array]:
    """``K`` with ``K^T K = m^-1`` (lower triangular: of the Cholesky factor), and ``m^-1``."""
    if m.shape[-1] <= _BASE:
        root = _inverse_root(m)
        return root, matmul(transpose(root), root)
    a, b, d = _halves(m)
    root, inverse = _root_and_inverse(a)
    t = matmul(b, transpose(root))
    low, schur = _root_and_inverse(d - matmul(t, transpose(t)))
    z = matmul(low, matmul(t, root))
    x = -matmul(transpose(low), z)
    above = jnp.zeros_like(transpose(b))
    inverse = _joined(inverse + matmul(transpose(z), z), transpose(x), x, schur)
    return _joined(root, above, -z, low), inverse


def _inverse_root(m: Array) -> Array:
    """The inverse of the Cholesky factor of a small ``m``, by elimination in place.

    What stands beside ``m`` on paper, the identity, begins in each column when ``m`` there ends.
    """
    n = m.shape[-1]
    row_number, column_number = jnp.arange(n)[:, None], jnp.arange(n)

    def eliminate(k: Array, x: Array) -> Array:
        column = jax.lax.dynamic_slice_in_dim(x, k, 1, axis=-1)
        pivot = jax.lax.dynamic_slice_in_dim(column, k, 1, axis=-2)
        x = jnp.where(column_number == k, (row_number == k).astype(x.dtype), x)
        row = jax.lax.dynamic_slice_in_dim(x, k, 1, axis=-2)
        own = jnp.where(row_number == k, 1 - jax.lax.rsqrt(pivot), 0)
        return x - jnp.where(row_number > k, column / pivot, own) * row

    return jnp.where(row_number >= column_number, jax.lax.fori_loop(0, n, eliminate, m), 0)
