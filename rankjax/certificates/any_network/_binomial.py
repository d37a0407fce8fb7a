"""Exact binomial bounds to thirty digits, rounded up: of a count, and of a compression.

Sums of binomial probabilities are evaluated from their largest term: its logarithm first, then the
ratios to it, which fall. Every rounding error is added to the side that makes the bound larger.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext

from rankjax.certificates._lengths import DIGITS, Length, log_factorial

CONTEXT = Context(prec=DIGITS + 12)
_ROOM = Decimal(10) ** (4 - DIGITS)  # relative, far above what a sum in this context loses
_WIDTH = Decimal(10) ** -30


def binomial_upper(errors: int, n: int, length: Length, delta: Decimal) -> Decimal:
    """The largest p with ``P(Bin(n, p) <= errors) >= delta exp(-length)``, or a little more.

    Clopper and Pearson's upper confidence limit.
    """

    def excluded(p: Decimal, nats: Decimal) -> bool:
        log_term, terms = _lower_tail(errors, n, p)
        return log_term + terms.ln() + nats < 0

    return _bisect(errors, n, length, delta, excluded)


def compression_upper(kept: int, n: int, length: Length, delta: Decimal) -> Decimal:
    r"""The root eps of Campi and Garatti's equation for ``kept`` of n examples, or a little more.

    ``sum_{m=kept}^{n-1} C(m, kept) / C(n, kept) (1 - eps)^(m-n) = n exp(length) / delta``. The sum
    is ``P(X > kept) / (eps P(X = kept))`` with ``X ~ Bin(n, eps)``, since ``C(m, k) eps^(k+1)
    (1-eps)^(m-k)`` is the probability that success number k + 1 comes at trial m + 1.
    """

    def excluded(p: Decimal, nats: Decimal) -> bool:
        log_term, terms = _lower_tail(kept, n, p)
        below = log_term.exp() * terms * (1 + _ROOM)
        return log_term + (n * p).ln() + nats < (1 - below).ln()

    return _bisect(kept, n, length, delta, excluded)


def _bisect(
    k: int, n: int, length: Length, delta: Decimal, excluded: Callable[[Decimal, Decimal], bool]
) -> Decimal:
    """The end of a short bracket at which the probability is certainly excluded, at most 1."""
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"k: got {k}, must be from 0 to n = {n}, with n at least 1")
    with localcontext(CONTEXT):
        nats = length.upper() - delta.ln() + 2 * _ROOM
        low, high = Decimal(k) / n, Decimal(1)
        while high - low > high * _WIDTH:
            middle = (low + high) / 2
            if excluded(middle, nats):
                high = middle
            else:
                low = middle
        return min(Decimal(1), high * (1 + _ROOM))


def _lower_tail(k: int, n: int, p: Decimal) -> tuple[Decimal, Decimal]:
    """``log P(X = k)`` and ``P(X <= k) / P(X = k)`` for ``X ~ Bin(n, p)``, ``k/n < p < 1``, up."""
    rest = 1 - p
    logs = [log_factorial(n), -log_factorial(k), -log_factorial(n - k), (n - k) * rest.ln()]
    logs += [k * p.ln()]
    log_term = sum(logs, Decimal(0)) + (1 + sum(map(abs, logs), Decimal(0))) * _ROOM
    odds = rest / p
    terms = term = Decimal(1)
    for j in range(k):
        ratio = (k - j) * odds / (n - k + j + 1)  # below 1, and falling
        term *= ratio
        terms += term
        if term * ratio < (1 - ratio) * terms * _ROOM:  # all that is left, as a geometric series
            terms += terms * _ROOM
            break
    return log_term, terms * (1 + _ROOM)
