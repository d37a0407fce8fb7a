"""Symmetric matrices through their tridiagonal form ``G = Q T Q^T``.

The reduction is a quarter of a full eigendecomposition, and of a tridiagonal matrix shifted
inverses, the largest eigenvalue and the number of eigenvalues below a point all follow from short
recurrences: the pivots of its ``L D L^T``. ``Q`` is never formed; ``rotate`` applies it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rankjax.matrix.decompose import matmul, transpose, tridiagonal

_Pair = tuple[Array, Array]
_BLOCK = 32  # rows of a sum of inverses that are made in one product
_PANEL = 64  # Householder reflectors that are applied in one product
_STAGES = 3  # loops over panels; more of them spare arithmetic and cost compilation


class Reduced(NamedTuple):
    """``G = Q T Q^T`` of symmetric ``(..., n, n)``.

    Attributes:
        diagonal: ``(..., n)``, of ``T``.
        off: ``(..., n)``, beside the diagonal of ``T``, and a 0 at the end.
        vectors: ``(..., n, n)``; the part below the first subdiagonal holds the reflectors.
        factors: ``(..., n - 1)``, their factors.
    """

    diagonal: Array
    off: Array
    vectors: Array
    factors: Array


def reduce(g: Array) -> Reduced:
    """The tridiagonal form of symmetric ``g``, by LAPACK or cuSOLVER; no derivative."""
    vectors, diagonal, off, factors = tridiagonal(g)
    end = jnp.zeros_like(diagonal[..., :1])
    return Reduced(diagonal, jnp.concatenate([off, end], -1), vectors, factors)


def _front(x: Array) -> Array:
    return jnp.moveaxis(x, -1, 0)


def top_eigenvalue(t: Reduced) -> Array:
    """The largest eigenvalue ``(...)``, from above, to a few roundings or 1e-6 (multisection)."""
    n = t.diagonal.shape[-1]
    below = jnp.max(t.diagonal, axis=-1)
    beside = jnp.abs(t.off) + jnp.abs(jnp.roll(t.off, 1, axis=-1))
    above = jnp.max(t.diagonal + beside, axis=-1)
    points = jnp.arange(1, 129, dtype=below.dtype) / 128

    def narrow(bracket: _Pair, turn: None) -> tuple[_Pair, None]:
        del turn
        low, high = bracket
        over = counts_below(t, low[..., None] + (high - low)[..., None] * points) == n
        # The end of the bracket is above the eigenvalue, whatever rounding says of it.
        first = jnp.where(jnp.any(over, -1), jnp.argmax(over, axis=-1), 127).astype(low.dtype)
        step = (high - low) / 128
        return (low + step * first, low + step * (first + 1)), None

    (_, high), _ = jax.lax.scan(narrow, (below, above), None, length=3)
    return high


def counts_below(t: Reduced, points: Array) -> Array:
    """How many eigenvalues lie below each of ``points``, ``(k,)`` or ``(..., k)``: ``(..., k)``.

    As many as ``T - point`` has negative pivots.
    """
    xs = _front(t.diagonal)[..., None], _front(jnp.roll(t.off, 1, axis=-1) ** 2)[..., None]
    tiny = jnp.finfo(t.diagonal.dtype).tiny ** 0.5
    shape = (*t.diagonal.shape[:-1], points.shape[-1])

    def pivot(state: _Pair, x: _Pair) -> tuple[_Pair, None]:
        last, count = state
        diagonal, square = x
        now = diagonal - points - square / last
        now = jnp.where(jnp.abs(now) < tiny, -tiny, now)
        return (now, count + (now < 0).astype(jnp.int32)), None

    start = jnp.ones(shape, t.diagonal.dtype), jnp.zeros(shape, jnp.int32)
    (_, count), _ = jax.lax.scan(pivot, start, xs)
    return count


class Inverses(NamedTuple):
    """``(T + shift_k)^-1`` for positive shifts, as what their entries are products of.

    ``X_ij = -ratio_i X_(i+1)j`` for ``i < j``.

    Attributes:
        ratio: ``(n, ..., k)``.
        diagonal: ``(n, ..., k)``, of the inverses.
    """

    ratio: Array
    diagonal: Array


def inverses(t: Reduced, shifts: Array) -> Inverses:
    """For positive semidefinite ``T`` and ``shifts`` ``(k,)`` well above rounding.

    No sum cancels but that of the pivots, whose rounding is that of the entries of ``T``.
    """
    diagonal = _front(t.diagonal)[..., None] + shifts
    off = _front(t.off)[..., None]

    def down(last: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        # last: off_(i-1)^2 / pivot_(i-1)
        diagonal, off = x
        pivot = diagonal - last
        ratio = off / pivot
        return ratio * off, (ratio, pivot)

    _, (ratio, pivot) = jax.lax.scan(down, jnp.zeros_like(diagonal[0]), (diagonal, off))

    def up(last: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        ratio, pivot = x
        entry = 1 / pivot + ratio * ratio * last
        return entry, entry

    _, entries = jax.lax.scan(up, jnp.zeros_like(diagonal[0]), (ratio, pivot), reverse=True)
    return Inverses(ratio, entries)


def sum_of(x: Inverses, weights: Array) -> Array:
    """``sum_k weights_k X_k``, dense ``(..., n, n)``, for ``weights`` ``(..., k)``.

    Blocks of 32 rows: the part right of a block is a product of the entries inside it with one
    row of each inverse, ``n^2 k`` multiplications in all.
    """
    n, *batch, k = x.ratio.shape
    blocks = -(-n // _BLOCK)
    wide = blocks * _BLOCK

    def cut(y: Array, fill: float) -> Array:
        # (row in block, block, ..., k)
        padding = jnp.full((wide - n, *y.shape[1:]), fill, y.dtype)
        y = jnp.concatenate([y, padding]).reshape(blocks, _BLOCK, *y.shape[1:])
        return jnp.swapaxes(y, 0, 1)

    ratio, diagonal = cut(x.ratio, 0), cut(x.diagonal, 1)

    def inside(rows: Array, row: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        # (block, ..., k, column in block); the last column stands for the row below the block.
        ratio, diagonal, i = row
        rows = -ratio[..., None] * rows
        rows = jax.lax.dynamic_update_slice_in_dim(rows, diagonal[..., None], i, axis=-1)
        return rows, (jnp.sum(weights[..., None] * rows[..., :-1], axis=-2), rows[..., -1])

    start = jnp.zeros((blocks, *batch, k, _BLOCK + 1), x.ratio.dtype).at[..., -1].set(1)
    index = jnp.arange(_BLOCK)
    first, (within, reach) = jax.lax.scan(inside, start, (ratio, diagonal, index), reverse=True)
    # within (row, block, ..., column), reach (row, block, ..., k), first (block, ..., k, column)

    def beyond(below: Array, block: tuple[Array, ...]) -> tuple[Array, Array]:
        # below (..., k, n): the first row after this block.
        within, reach, first, b = block
        rows = matmul(jnp.moveaxis(reach, 0, -2) * weights[..., None, :], below)
        rows = jax.lax.dynamic_update_slice_in_dim(
            rows, jnp.moveaxis(within, 0, -2), b * _BLOCK, axis=-1
        )
        below = reach[0][..., None] * below
        below = jax.lax.dynamic_update_slice_in_dim(below, first[..., :-1], b * _BLOCK, axis=-1)
        return below, rows

    parts = (jnp.swapaxes(within, 0, 1), jnp.swapaxes(reach, 0, 1), first, jnp.arange(blocks))
    nothing = jnp.zeros((*batch, k, wide), x.ratio.dtype)
    _, rows = jax.lax.scan(beyond, nothing, parts, reverse=True)
    upper = jnp.moveaxis(rows, 0, -3).reshape(*batch, wide, wide)[..., :n, :n]
    return upper + transpose(upper) * (1 - jnp.eye(n, dtype=upper.dtype))


def rotate(t: Reduced, x: Array) -> Array:
    """``Q x Q^T`` for symmetric ``x``, about ``4 n^3`` multiplications and additions.

    The reflectors are applied in panels, ``H_1 ... H_b = I - V S V^T`` with upper triangular ``S``
    (Schreiber and Van Loan, 1989), from both sides at a time:
    ``x - W V^T - V W^T`` with ``W = Y - V (S V^T Y) / 2`` and ``Y = x V S^T``.
    """
    n = x.shape[-1]
    panels = -(-(n - 1) // _PANEL)
    if panels == 0:
        return x
    # Reflector j is 0 above row j + 1. A loop needs equal shapes, so the rows that a panel spares
    # are those of the first panel of its stage.
    stage = -(-panels // _STAGES)
    for begin in reversed(range(0, panels, stage)):
        end, first = min(begin + stage, panels), begin * _PANEL + 1

        def apply(i: Array, x: Array, end: int = end, first: int = first) -> Array:
            v, s = _panel(t, end - 1 - i, first)
            y = matmul(x[..., first:], matmul(v, transpose(s)))
            half = matmul(v, matmul(s, matmul(transpose(v), y[..., first:, :]))) / 2
            w = y.at[..., first:, :].add(-half)
            x = x.at[..., first:].add(-matmul(w, transpose(v)))
            return x.at[..., first:, :].add(-matmul(v, transpose(w)))

        x = jax.lax.fori_loop(0, end - begin, apply, x)
    return x


def _panel(t: Reduced, b: Array, first: int) -> tuple[Array, Array]:
    """``V`` (its rows from ``first`` on) and ``S`` of panel ``b``; 0 beyond the last reflector."""
    n = t.vectors.shape[-1]
    # The last panel is filled up with what a slice finds to its left, and that is masked.
    begin = b * _PANEL
    start = jnp.minimum(begin, max(n - _PANEL, 0))
    width = min(_PANEL, n)
    v = jax.lax.dynamic_slice_in_dim(t.vectors[..., first:, :], start, width, axis=-1)
    factors = jnp.concatenate([t.factors, jnp.zeros_like(t.factors[..., :1])], -1)
    factors = jax.lax.dynamic_slice_in_dim(factors, start, width, axis=-1)
    column = start + jnp.arange(width)
    below = jnp.arange(first, n)[:, None] - 1 - column
    v = jnp.where(below > 0, v, (below == 0).astype(v.dtype))
    factors = jnp.where(column >= begin, factors, 0)
    v = jnp.where((factors == 0)[..., None, :], 0, v)
    # S of two neighbours is [[S_1, -S_1 V_1^T V_2 S_2], [0, S_2]], from single reflectors on.
    inner = matmul(transpose(v), v)
    s = factors[..., None] * jnp.eye(width, dtype=v.dtype)
    row = jnp.arange(width)[:, None]
    size = 1
    while size < width:
        right = (row // size % 2 == 0) & (row.T // size == row // size + 1)
        s = s - matmul(s, matmul(jnp.where(right, inner, 0), s))
        size *= 2
    return v, s
