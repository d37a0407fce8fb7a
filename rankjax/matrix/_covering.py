"""Covering numbers of sets of matrices in the spectral norm, with every constant.

All are upper bounds of ``log N`` (natural logarithm): how many balls of radius ``eps`` in spectral
norm cover the set. Two nets compete, and the smaller one is named:

* ``direct``: a net of the ball ``|A| <= s`` in dimension ``mn``: ``mn log(1 + 2 s/eps)``;
* ``rank``: matrices of rank k by nets of two factors: ``k (m + n) log(1 + 4 s/eps)``; for a
  Schatten ball the singular values below ``theta eps`` are dropped first, at most
  ``k = floor((R / (theta eps))^p)`` stay, and the rest is covered at ``(1 - theta) eps``;
* ``point``: one matrix covers all (``eps`` at least the largest spectral norm, or ``k = 0``).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import non_negative, positive

COVERINGS = ("point", "rank", "direct")
# Every split is a valid bound; 1/2 is the textbook one, the best of all is taken.
_SPLITS = tuple(float(t) for t in np.linspace(0.05, 0.95, 19))


class LogCovering(NamedTuple):
    """An upper bound of the logarithm of a covering number.

    Attributes:
        value: nats, ``(...)``.
        which: the bound that won, an index into ``COVERINGS``.
    """

    value: Array
    which: Array

    @property
    def winner(self) -> str:
        """The name of the bound that won (of a concrete scalar result)."""
        return COVERINGS[int(self.which)]


def _floats(*values: ArrayLike) -> tuple[Array, ...]:
    dtype = jnp.result_type(float)
    return tuple(jnp.asarray(value, dtype) for value in values)


def _sizes(m: int, n: int) -> None:
    positive(m, "m")
    positive(n, "n")


def _smallest(point: Array, rank: Array, direct: Array) -> LogCovering:
    zero = jnp.where(point, jnp.zeros_like(rank), jnp.inf)
    # k = 0 is one point as well.
    zero = jnp.where(rank == 0, 0, zero)
    bounds = jnp.stack(jnp.broadcast_arrays(zero, rank, direct))
    value = jnp.min(bounds, axis=0)
    return LogCovering(value, jnp.argmin(bounds, axis=0))


def log_covering_rank(
    m: int, n: int, *, rank: ArrayLike, spectral_radius: ArrayLike, eps: ArrayLike
) -> LogCovering:
    """``log N`` of ``{rank A <= rank, |A| <= spectral_radius}`` at ``eps`` in spectral norm.

    ``min{ k (m+n) log(1 + 4 s/eps), mn log(1 + 2 s/eps) }``, 0 for ``eps >= s``. Every matrix of
    the net of the first kind has rank <= k and norm <= s.

    Args:
        m: rows.
        n: columns.
        rank: k >= 0, may be traced.
        spectral_radius: s >= 0, may be traced.
        eps: > 0, may be traced.

    Raises:
        ValueError: a concrete size or eps that is not positive, a negative rank or radius.

    Example:
        >>> bound = log_covering_rank(10, 10, rank=1, spectral_radius=1.0, eps=0.1)
        >>> round(float(bound.value), 3), bound.winner
        (74.271, 'rank')
    """
    _sizes(m, n)
    non_negative(rank, "rank")
    non_negative(spectral_radius, "spectral_radius")
    positive(eps, "eps")
    k, s, e = _floats(rank, spectral_radius, eps)
    return _smallest(e >= s, k * (m + n) * jnp.log1p(4 * s / e), m * n * jnp.log1p(2 * s / e))


def log_covering_number(
    m: int,
    n: int,
    *,
    p: ArrayLike,
    radius: ArrayLike,
    spectral_radius: ArrayLike,
    eps: ArrayLike,
) -> LogCovering:
    """``log N`` of ``{|A|_{S_p} <= radius, |A| <= spectral_radius}`` at ``eps`` in spectral norm.

    At ``theta = 1/2`` the rank net is ``floor((2R/eps)^p) (m+n) log(1 + 8 s/eps)``; the smallest
    over 19 splits ``theta`` is taken, and compared with ``mn log(1 + 2 s/eps)``. ``s`` is lowered
    to ``R`` (``|A| <= |A|_{S_p}``).

    Args:
        m: rows.
        n: columns.
        p: > 0, may be traced.
        radius: R >= 0 of the Schatten quasi-norm (not of its power), may be traced.
        spectral_radius: s >= 0, ``inf`` for no separate bound, may be traced.
        eps: > 0, may be traced.

    Returns:
        The bound and its winner. In the floating point type of the session (float64 with x64); the
        count k is rounded so that it can only be too large.

    Raises:
        ValueError: a concrete size, p or eps that is not positive, a negative radius.

    Not differentiable where k jumps. Cost: O(1).

    Example:
        >>> bound = log_covering_number(
        ...     100, 100, p=0.5, radius=4.0, spectral_radius=1.0, eps=0.5
        ... )
        >>> bound.winner
        'rank'
        >>> log_covering_number(2, 2, p=1.0, radius=1.0, spectral_radius=1.0, eps=2.0).winner
        'point'
    """
    _sizes(m, n)
    positive(p, "p")
    non_negative(radius, "radius")
    non_negative(spectral_radius, "spectral_radius")
    positive(eps, "eps")
    p_, r, s, e = _floats(p, radius, spectral_radius, eps)
    s = jnp.minimum(s, r)
    # A count that rounding made too small would be no bound.
    outward = 1 + 64 * float(jnp.finfo(r.dtype).eps)
    rank = jnp.asarray(jnp.inf, r.dtype)
    for theta in _SPLITS:
        k = jnp.floor((r / (theta * e)) ** p_ * outward)
        k = jnp.minimum(k, min(m, n))
        rank = jnp.minimum(rank, k * (m + n) * jnp.log1p(4 * s / ((1 - theta) * e)))
    return _smallest(e >= s, rank, m * n * jnp.log1p(2 * s / e))
