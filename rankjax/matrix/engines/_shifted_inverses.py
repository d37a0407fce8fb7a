"""Sums of shifted inverses of a positive semidefinite matrix, by matrix products only.

``sum_k w_k (M + tau_k I)^-1``. Each inverse halves the matrix,

    [ A  B^T ]^-1   [ A^-1 + Y^T X   X^T  ]        X = -S^-1 Y,   Y = B A^-1,
    [ B   D  ]    = [      X         S^-1 ],       S = D - B A^-1 B^T,

down to small blocks (``_Plan``). What is carried of ``A`` is the inverse ``K`` of its Cholesky
factor, too, and ``S = D - T^T T``, ``T = K B^T``: with ``A^-1`` itself, whose rounding is of the
order of the square of the condition, the difference would be lost on matrices of low rank. That is
1.7 ``n^3`` multiplications and additions an inverse, less than one product of the size of ``M``. On
CPU there is no LAPACK call, so nothing to loop over, to wait for or to gather; on accelerators,
where each step of a loop over columns is a launch or more, larger blocks go to Cholesky.

In the first halving ``B`` is the same in all inverses, and only sums of blocks are asked for:
``K_k B^T`` for all ``k`` is one product, ``sum_k w_k Y_k^T X_k`` is another, and nothing is put
together before the end. Below it the two halves are, on CPU, two rounds of one loop: what has to be
compiled grows with the number of halvings and not with the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._linear_algebra import HIGHEST, identity, inverse_root, matmul, transpose

Blocks = tuple[Array, Array, Array]  # A, B and D


def sum_of_inverses(m: Array, shifts: Array, weights: Array) -> tuple[Array, Array]:
    """``sum_k weights_k (m + shifts_k I)^-1``, and the diagonal of each inverse.

    Args:
        m: symmetric, positive semidefinite ``(..., n, n)``.
        shifts: positive ``(..., k)``, well above the rounding of ``m``.
        weights: ``(..., k)``.

    Returns:
        ``(..., n, n)`` and ``(..., k, n)``. Products of matrices: about ``0.86 k`` of ``m`` and
        ``m``. No derivative (callers bring a rule).
    """
    return jax.lax.platform_dependent(
        m,
        shifts,
        weights,
        cpu=partial(_sum_of_inverses, _ON_CPU),
        default=partial(_sum_of_inverses, _ON_ACCELERATORS),
    )


def _sum_of_inverses(plan: _Plan, m: Array, shifts: Array, weights: Array) -> tuple[Array, Array]:
    count = shifts.shape[-1]
    width = count if count * m.size <= plan.at_once else 1
    blocks = _blocks(m)

    def cut(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], count // width, width), -2, 0)

    def some(total: Blocks, given: tuple[Array, Array]) -> tuple[Blocks, Array]:
        added, diagonals = _sum_of_blocks(plan, *blocks, *given)
        return jax.tree.map(jnp.add, total, added), diagonals

    zeros = jax.tree.map(jnp.zeros_like, blocks)
    (above, beside, below), diagonals = jax.lax.scan(some, zeros, (cut(shifts), cut(weights)))
    diagonals = jnp.moveaxis(diagonals, 0, -3).reshape(*shifts.shape, m.shape[-1])
    return _joined(above, transpose(beside), beside, below), diagonals


def _sum_of_blocks(
    plan: _Plan, a: Array, b: Array, d: Array, shifts: Array, weights: Array
) -> tuple[Blocks, Array]:
    """The first halving for all shifts ``(..., k)``: sums of the blocks, and the diagonals."""
    h, rest = a.shape[-1], d.shape[-1]
    batch, count = a.shape[:-2], shifts.shape[-1]
    shift = shifts[..., None, None]
    a, d = (x[..., None, :, :] + shift * identity(x)[..., None, :, :] for x in (a, d))
    root, inverse = _root_and_inverse(plan, a)
    t = matmul(root.reshape(*batch, count * h, h), transpose(b)).reshape(*batch, count, h, rest)
    _, schur = _root_and_inverse(plan, d - matmul(transpose(t), t))
    y = matmul(transpose(t), root)
    x = matmul(schur, y)
    diagonal = jnp.diagonal(inverse, axis1=-2, axis2=-1) + jnp.sum(x * y, axis=-2)
    diagonals = jnp.concatenate([diagonal, jnp.diagonal(schur, axis1=-2, axis2=-1)], -1)

    def sum_of(x: Array) -> Array:
        # A product, not a sum: XLA would make each entry of x anew inside of a sum, slowly.
        return jnp.einsum("...k,...kij->...ij", weights, x, precision=HIGHEST)

    flat = (*batch, count * rest, h)
    weighted = (weights[..., None, None] * x).reshape(flat)
    # Y^T X, not its transpose: then X^T and X, rounded, still cancel in a product with m.
    above = sum_of(inverse) + matmul(transpose(y.reshape(flat)), weighted)
    return (above, -sum_of(x), sum_of(schur)), diagonals


def _blocks(m: Array) -> Blocks:
    h = m.shape[-1] // 2
    return m[..., :h, :h], m[..., h:, :h], m[..., h:, h:]


def _joined(a: Array, b: Array, c: Array, d: Array) -> Array:
    above, below = jnp.concatenate([a, b], -1), jnp.concatenate([c, d], -1)
    return jnp.concatenate([above, below], -2)


def _root_and_inverse(plan: _Plan, m: Array) -> tuple[Array, Array]:
    """``K`` with ``K^T K = m^-1`` (lower triangular: of the Cholesky factor), and ``m^-1``."""
    n = m.shape[-1]
    if n <= plan.base:
        root = plan.root(m)
        return root, matmul(transpose(root), root)
    a, b, d = _blocks(_even(m))

    def to_schur(root: Array) -> tuple[Array, Array]:
        t = matmul(b, transpose(root))
        return d - matmul(t, transpose(t)), t

    root, inverse, low, schur, t = (_looped if plan.looped else _unrolled)(plan, a, b, to_schur)
    z = matmul(low, matmul(t, root))
    x = -matmul(transpose(low), z)
    inverse = _joined(inverse + matmul(transpose(z), z), transpose(x), x, schur)
    root = _joined(root, jnp.zeros_like(root), -z, low)
    return root[..., :n, :n], inverse[..., :n, :n]


def _even(m: Array) -> Array:
    """With one more row and column, of the identity, where the number of rows is odd."""
    if m.shape[-1] % 2 == 0:
        return m
    m = jnp.pad(m, [(0, 0)] * (m.ndim - 2) + [(0, 1), (0, 1)])
    return m.at[..., -1, -1].set(1)


ToSchur = Callable[[Array], tuple[Array, Array]]


def _unrolled(plan: _Plan, a: Array, _: Array, to_schur: ToSchur) -> tuple[Array, ...]:
    """Root and inverse of ``A``, the same of ``S``, and ``T^T = B K^T``."""
    root, inverse = _root_and_inverse(plan, a)
    block, t = to_schur(root)
    return root, inverse, *_root_and_inverse(plan, block), t


def _looped(plan: _Plan, a: Array, b: Array, to_schur: ToSchur) -> tuple[Array, ...]:
    """The same by two rounds of a loop; ``a`` and ``b`` stand for what is not known before."""

    def step(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        block, t, _, _, *before = state
        root, inverse = _root_and_inverse(plan, block)
        block, t = jax.lax.cond(i == 0, lambda: to_schur(root), lambda: (block, t))
        return block, t, *before, root, inverse

    _, t, *both = jax.lax.fori_loop(0, 2, step, (a, b, a, a, a, a))
    return *both, t


def _by_elimination(m: Array) -> Array:
    """The inverse of the Cholesky factor of a small ``m``, by elimination in place.

    What stands beside ``m`` on paper, the identity, begins in each column when ``m`` there ends.
    """
    n = m.shape[-1]
    if n == 0:  # half of a 1 x 1 matrix
        return m
    row_number, column_number = (
        jax.lax.broadcasted_iota(jnp.int32, (*(1,) * (m.ndim - 2), n, n), m.ndim - i)
        for i in (2, 1)
    )

    # The next column and row are handed on: read from x itself, they would make XLA copy it.
    def eliminate(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, column, row = state
        pivot = jax.lax.dynamic_slice_in_dim(column, k, 1, axis=-2)
        own = jnp.where(row_number == k, 1 - jax.lax.rsqrt(pivot), 0)
        multiple = jnp.where(row_number > k, column / pivot, own)
        x = jnp.where(column_number == k, (row_number == k).astype(x.dtype), x)
        x = x - multiple * jnp.where(column_number == k, 1, row)
        column, row = (jax.lax.dynamic_slice_in_dim(x, k + 1, 1, axis=i) for i in (-1, -2))
        return x, column, row

    x, _, _ = jax.lax.fori_loop(0, n, eliminate, (m, m[..., :, :1], m[..., :1, :]))
    return jnp.where(row_number >= column_number, x, 0)


class _Plan(NamedTuple):
    """How the blocks that are not halved any more are done, and how much is held at a time."""

    root: Callable[[Array], Array]
    base: int
    at_once: int  # entries of the inverses that are made together: more are faster
    looped: bool  # whether the halves are rounds of a loop: a launch or more on accelerators


# Measured by the whole engine (benchmarks/schatten.py) on two cores and on an H100.
_ON_CPU = _Plan(_by_elimination, 64, 4 * 2**20, looped=True)
_ON_ACCELERATORS = _Plan(inverse_root, 512, 128 * 2**20, looped=False)
