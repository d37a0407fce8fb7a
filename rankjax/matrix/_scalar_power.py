"""The scalar functions behind the Schatten powers, with divided differences that do not cancel.

Every singular value ``s`` is treated through ``t = s^2 + e^2`` and

    phi(s) = t^(p/2) - e^p,     phi'(s) = h(s) = s q(s),     q(s) = p t^(p/2 - 1).

``e = 0`` is the hard form: values up to ``rtol * sigma_1`` count as exactly zero. For ``p < 2`` the
derivative of ``s^p`` has no (finite) limit there and the convention is ``q = 0``: such directions
take no part. For ``p >= 2`` the function is smooth at 0 and ``q`` keeps its limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

EpsMode = Literal["relative", "absolute"]


class Tables(NamedTuple):
    """What the derivative of ``U h(S) V^T`` needs; each entry is finite.

    Attributes:
        difference: ``(..., k, k)``, ``(h_i - h_j) / (s_i - s_j)``, on the diagonal ``h'(s_i)``.
        mean: ``(..., k, k)``, ``(h_i + h_j) / (s_i + s_j)``, at ``s_i = s_j = 0`` ``h'(0)``.
        squared: ``(..., k, k)``, ``(q_i - q_j) / (s_i^2 - s_j^2)`` with ``q = h / s``.
        ratio: ``(..., k)``, ``h_i / s_i``, at 0 ``h'(0)``.
    """

    difference: Array
    mean: Array
    squared: Array
    ratio: Array


class _Parts(NamedTuple):
    s: Array  # the singular value, exactly 0 where it counts as zero
    t: Array  # s^2 + e^2, 1 where q is 0
    e: Array  # 1 where the hard form is used
    smooth: Array
    keep: Array


@dataclass(frozen=True)
class SchattenPower:
    """``phi(s; p, eps)``; static and hashable, the parameters travel as arrays.

    All methods take ``s`` ``(..., k)`` and ``top``, ``p``, ``eps`` ``(..., 1)``; ``top`` is
    ``sigma_1`` and counts as a constant.
    """

    eps_mode: EpsMode = "relative"
    rtol: float = 0.0

    def _parts(self, s: Array, top: Array, p: Array, eps: Array) -> _Parts:
        smooth = (eps > 0) & ((top > 0) | (self.eps_mode == "absolute"))
        e = jnp.where(smooth, eps, 1)
        if self.eps_mode == "relative":
            e = e * jnp.where(smooth, top, 1)
        # not(s <= cut) rather than s > cut: a NaN must be kept, not counted as zero.
        above = ~(s <= self.rtol * top)
        keep = smooth | above
        clean = jnp.where(keep | (p >= 2), s, 0)
        t = jnp.where(keep, clean * clean + jnp.where(smooth, e * e, 0), 1)
        return _Parts(clean, t, e, smooth, keep)

    def value(self, s: Array, top: Array, p: Array, eps: Array) -> Array:
        """``phi(s)``, ``(..., k)``."""
        s, _, e, smooth, keep = self._parts(s, top, p, eps)
        # Each branch is fed a harmless value where the other is chosen: its derivative there,
        # infinite or overflowing, would become NaN when multiplied by 0.
        hard_keep = keep & ~smooth
        hard = jnp.where(hard_keep, jnp.where(hard_keep, s, 1) ** p, 0)
        s, p = jnp.where(smooth, s, 0), jnp.where(smooth, p, 1)
        # For s << e the difference of powers cancels: e^p expm1(p/2 log1p(s^2/e^2)) does not.
        small = s <= e
        ratio = jnp.where(small, s, 0) / e
        near = e**p * jnp.expm1(p / 2 * jnp.log1p(ratio * ratio))
        large = jnp.where(small, e, s)
        inverse = e / large
        far = large**p * (1 + inverse * inverse) ** (p / 2) - e**p
        return jnp.where(smooth, jnp.where(small, near, far), hard)

    def _ratio(self, parts: _Parts, p: Array) -> Array:
        # At an exact zero of the hard form: 2 for p = 2, 0 for p > 2, and 0 by convention below.
        at_zero = jnp.where(p == 2, p, 0)
        return jnp.where(parts.keep, p * parts.t ** (p / 2 - 1), at_zero)

    def ratio(self, s: Array, top: Array, p: Array, eps: Array) -> Array:
        """``q(s) = h(s) / s``, ``(..., k)``."""
        return self._ratio(self._parts(s, top, p, eps), p)

    def slope(self, s: Array, top: Array, p: Array, eps: Array) -> Array:
        """``h(s) = phi'(s)``, ``(..., k)``."""
        parts = self._parts(s, top, p, eps)
        return parts.s * self._ratio(parts, p)

    def tables(self, s: Array, top: Array, p: Array, eps: Array) -> Tables:
        """The divided differences of ``h``."""
        parts = self._parts(s, top, p, eps)
        q = self._ratio(parts, p)
        h = parts.s * q
        pair = _pairs(parts.s)
        q_i, q_j = _pairs(q)
        h_i, h_j = _pairs(h)
        s_i, s_j = pair
        total = s_i + s_j
        mean = jnp.where(total == 0, (q_i + q_j) / 2, (h_i + h_j) / jnp.where(total == 0, 1, total))
        # Close values: with a = p/2 - 1, g = sqrt(t_i t_j) and x = log(t_i / t_j) / 2,
        #     (t_i^a - t_j^a) / (t_i - t_j) = g^(a-1) sinh(a x) / sinh(x),
        # which does not cancel. Far ones (or one that counts as zero): the plain quotient is
        # accurate. Logarithms and powers are of vectors only: of k values, not of k^2 pairs.
        kept = parts.keep[..., :, None] & parts.keep[..., None, :]
        a = p / 2 - 1
        log_i, log_j = _pairs(jnp.log(parts.t) / 2)
        x = log_i - log_j
        far_out = jnp.maximum(1, jnp.abs(a))[..., None]
        close = kept & (jnp.abs(x) * far_out <= _CLOSE)
        y = jnp.where(close, x * x, 0)
        a_ = a[..., None]
        growth = a_ * _sinh_over(a_ * a_ * y) / _sinh_over(y)
        root_i, root_j = _pairs(jnp.sqrt(parts.t))
        power_i, power_j = _pairs(parts.t ** (a / 2))
        power = p[..., None] * (power_i * power_j) * growth
        # total^2 / g is a ratio of like quantities: it cannot overflow where g^(a-1) would.
        g = root_i * root_j
        near = (q_i + q_j) / 2 + total * total / (2 * g) * power
        step = jnp.where(s_i == s_j, 1, s_i - s_j)
        far = jnp.where(s_i == s_j, (q_i + q_j) / 2, (h_i - h_j) / step)
        gap_squared = (s_i - s_j) * total
        distinct = gap_squared != 0
        squared = jnp.where(
            close,
            power / g,
            jnp.where(distinct, (q_i - q_j) / jnp.where(distinct, gap_squared, 1), 0),
        )
        return Tables(jnp.where(close, near, far), mean, squared, q)

    def by_parameters(
        self, s: Array, top: Array, p: Array, eps: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """``(d phi / dp, d phi / d eps)`` and ``(d h / dp, d h / d eps)``."""
        one, zero = jnp.ones_like(p), jnp.zeros_like(p)

        def along(function, dp: Array, deps: Array) -> Array:
            return jax.jvp(lambda p, eps: function(s, top, p, eps), (p, eps), (dp, deps))[1]

        return (
            (along(self.value, one, zero), along(self.value, zero, one)),
            (along(self.slope, one, zero), along(self.slope, zero, one)),
        )


# Values count as close where half the logarithm of the quotient of their t is at most this.
_CLOSE = 0.35


def _sinh_over(y: Array) -> Array:
    """``sinh(sqrt(y)) / sqrt(y)`` for ``0 <= y <= _CLOSE^2``, to 1e-18."""
    total = jnp.full_like(y, 1 / math.factorial(15))
    for k in range(6, -1, -1):
        total = total * y + 1 / math.factorial(2 * k + 1)
    return total


def _pairs(x: Array) -> tuple[Array, Array]:
    return x[..., :, None], x[..., None, :]
