"""The Kullback-Leibler divergence of two coins, and its upper inverse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

_SERIES_BELOW = 0.05  # the series below is exact to one part in 1e17 there
_TERMS = 14


def binary_kl(q: ArrayLike, p: ArrayLike, /) -> Array:
    r"""``kl(q || p) = q ln(q/p) + (1 - q) ln((1 - q)/(1 - p))``, natural logarithm.

    Computed as ``q g((p - q)/q) + (1 - q) g((q - p)/(1 - q))`` with ``g(x) = x - ln(1 + x) >= 0``:
    both summands are non-negative, so nothing cancels where p is close to q.

    Args:
        q: in [0, 1].
        p: in [0, 1]; ``inf`` where p excludes what q allows.

    Example:
        >>> round(float(binary_kl(0.1, 0.2)), 6)
        0.03669
    """
    q, p = jnp.broadcast_arrays(_float(q), _float(p))
    gap = p - q
    # Where p is much smaller than q, the gap no longer tells p.
    far = (p > 0) & (p < q / 2)
    top, low = jnp.where(far, q, 1), jnp.where(far, p, 1)
    whole = gap + top * (jnp.log(top) - jnp.log(low)) + _of_rest(q, gap)
    return jnp.where(far, whole, _divergence(q, jnp.where(far, 0, gap)))


def kl_inverse(q: ArrayLike, budget: ArrayLike, /) -> Array:
    r"""The largest p with ``kl(q || p) <= budget``: the upper confidence limit of Chernoff's bound.

    The bisection runs on ``p - q`` to the last digit of the type, and the upper end of the last
    bracket is returned: in float64 the result is within 1e-12 of the exact one, and not below it
    but for the rounding of ``kl`` itself (``Certificate.verify`` in ``rankjax.certificates`` rounds
    outward).

    Args:
        q: an empirical error, in [0, 1].
        budget: ``(complexity + ln(1/delta)) / n``, non-negative; broadcasts against ``q``.

    Returns:
        p in [q, 1]; NaN where an argument is out of range.

    Differentiable to any order in both arguments (implicit function theorem): ``dp/dbudget = p (1 -
    p) / (p - q)``. At ``budget = 0`` and in q at 0 the derivative is infinite in truth; the
    quotients are kept finite by the smallest normal number. Cost: about 60 evaluations of ``kl``.

    Source: the inverse of the one-sided Chernoff bound; Langford 2005, Theorem 3.3.

    Example:
        >>> round(float(kl_inverse(0.0, 0.1)), 6)  # 1 - exp(-0.1)
        0.095163
    """
    q, budget = jnp.broadcast_arrays(_float(q), _float(budget))
    return _jitted(q, budget)


def _float(value: ArrayLike) -> Array:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(float)


def _g(x: Array) -> Array:
    """``x - ln(1 + x)``, exact to rounding; ``inf`` at -1."""
    small = jnp.abs(x) < _SERIES_BELOW
    near = jnp.where(small, x, 0)
    # x^2 (1/2 - x/3 + x^2/4 - ...)
    series = jnp.zeros_like(x)
    for k in range(_TERMS + 1, 1, -1):
        series = 1 / k - near * series
    far = jnp.where(small, 1, x)
    return jnp.where(small, near * near * series, far - jnp.log1p(far))


def _divergence(q: Array, gap: Array) -> Array:
    """``kl(q || q + gap)``."""
    up = jnp.where(q > 0, q * _g(gap / jnp.where(q > 0, q, 1)), gap)
    return up + _of_rest(q, gap)


def _of_rest(q: Array, gap: Array) -> Array:
    """``(1 - q) ln((1 - q)/(1 - p)) - gap``, the summand of ``1 - q``."""
    rest = 1 - q
    return jnp.where(rest > 0, rest * _g(-gap / jnp.where(rest > 0, rest, 1)), -gap)


@jax.custom_jvp
def _inverse(q: Array, budget: Array) -> Array:
    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = _divergence(q, middle) > budget
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # A gap as small as 1e-9 is still found to all digits: the bracket starts at width 1 - q.
    steps = jnp.finfo(q.dtype).nmant + 32
    high = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(q), 1 - q))[1]
    allowed = (q >= 0) & (q <= 1) & (budget >= 0)
    return jnp.where(allowed, jnp.minimum(q + high, 1), jnp.nan)


_jitted = jax.jit(lambda q, budget: _inverse(q, budget))


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
    (q, budget), (dq, dbudget) = primals, tangents
    p = _inverse(q, budget)
    tiny = jnp.finfo(q.dtype).tiny
    by_p = (p - q) / jnp.maximum(p * (1 - p), tiny)
    by_q = jnp.log(jnp.maximum(q, tiny)) - jnp.log(jnp.maximum(p, tiny))
    by_q += jnp.log(jnp.maximum(1 - p, tiny)) - jnp.log(jnp.maximum(1 - q, tiny))
    return p, (dbudget - by_q * dq) / jnp.maximum(by_p, tiny)
