"""What a coded network costs: prefix codes whose lengths are sums of logarithms of rationals.

Every code here is a probability distribution (its weights sum to at most 1), and the length of a
code word is minus the logarithm of its weight, in nats. A length is kept as the rationals it is the
logarithm of, so that it can be evaluated in floating point while searching and to fifty digits,
rounded up, when a certificate is verified.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext

_DIGITS = 50


@dataclass(frozen=True)
class Length:
    """``sum_i times_i log(numerator_i / denominator_i)``, each ratio at least 1."""

    factors: tuple[tuple[int, int, int], ...] = ()  # (times, numerator, denominator)

    def __add__(self, other: Length) -> Length:
        return Length(self.factors + other.factors)

    def nats(self) -> float:
        """The value in floating point."""
        return math.fsum(t * math.log(a / b) for t, a, b in self.factors)

    def upper(self) -> Decimal:
        """The value rounded up in the last of fifty digits."""
        grouped: Counter[tuple[int, int]] = Counter()
        for times, a, b in self.factors:
            grouped[a, b] += times
        with localcontext() as context:
            context.prec = _DIGITS
            total = Decimal(0)
            for (a, b), times in grouped.items():
                # ln is correctly rounded to nearest; the quotient is off by one unit at most.
                total += times * (Decimal(a) / Decimal(b)).ln()
            context.rounding = ROUND_CEILING
            return total * (1 + Decimal(10) ** (8 - _DIGITS))


def one_of(count: int) -> Length:
    """One of ``count`` equally likely symbols."""
    return Length(((1, count, 1),))


def positive_integer(b: int) -> Length:
    """``log(b (b + 1))``, for b >= 1: the weights ``1/b - 1/(b + 1)`` sum to 1."""
    if b < 1:
        raise ValueError(f"b: got {b}, must be at least 1")
    return Length(((1, b * (b + 1), 1),))


def integer(j: int) -> Length:
    """``log(3 (|j| + 1)(|j| + 2) / 2)``, for any integer: the weights sum to 1."""
    return Length(((1, 3 * (abs(j) + 1) * (abs(j) + 2), 2),))


def ball(dimension: int, b: int) -> Length:
    """A point of a net of the unit ball of any norm, within ``2^{1-b}``: ``(1 + 2^b)^dimension``.

    Source: the volume argument (theory of covering numbers), ``(1 + 2 / eps)^dimension``.
    """
    return Length(((dimension, 1 + 2**b, 1),))


def rank(k: int, m: int, n: int, b: int) -> Length:
    r"""A point of a net of rank-k ``m x n`` matrices of norm <= 1, within ``q = 2^{1-b}``.

    ``A = U V^T`` with ``|U|, |V| <= 1``; nets of the factors within ``theta q`` and ``(1 - theta)
    q``, ``theta = m / (m + n)``: ``k (m log(1 + 2 / (theta q)) + n log(1 + 2 / ((1 - theta) q)))``.
    """
    rows = (k * m, m + 2**b * (m + n), m)
    columns = (k * n, n + 2**b * (m + n), n)
    return Length((rows, columns))


def total(lengths: Iterable[Length]) -> Length:
    """The length of all of them in a row."""
    return sum(lengths, Length())


EQUAL, DIRECT, RANK = "equal", "direct", "rank"
ZERO, DROPPED, CODED = "zero", "dropped", "coded"


@dataclass(frozen=True)
class MatrixCode:
    """How one matrix is coded, relative to its reference; everything is an integer.

    Attributes:
        mode: ``equal`` (it is the reference), ``direct`` (a net of all matrices) or ``rank``.
        j: the scale ``S = 2^{j / (8 L)} >= |A - M|``, L matrices in all.
        k: the rank kept; 0: the reference stands for the matrix.
        b: the precision ``q = 2^{1-b}``.
        a: with ``rank`` and k > 0, the error is at most ``e = S 2^{a/8}``.
    """

    mode: str
    j: int = 0
    k: int = 0
    b: int = 0
    a: int = 0

    def length(self, m: int, n: int) -> Length:
        """Nats of the code word of an ``m x n`` matrix."""
        symbol = one_of(3)
        if self.mode == EQUAL:
            return symbol
        symbol += integer(self.j)
        if self.mode == DIRECT:
            return symbol + positive_integer(self.b) + ball(m * n, self.b)
        symbol += one_of(min(m, n) + 1)
        if self.k == 0:
            return symbol
        return symbol + positive_integer(self.b) + rank(self.k, m, n, self.b) + integer(self.a)

    def scale(self, matrices: int) -> float:
        """S."""
        return 0.0 if self.mode == EQUAL else 2 ** (self.j / (8 * matrices))

    def error(self, matrices: int) -> float:
        """e, the largest distance in spectral norm from the coded matrix."""
        if self.mode == EQUAL:
            return 0.0
        if self.mode == DIRECT:
            return 2.0 ** (1 - self.b) * self.scale(matrices)
        return self.scale(matrices) * (2 ** (self.a / 8) if self.k else 1.0)


@dataclass(frozen=True)
class BiasCode:
    """How one bias vector is coded, relative to its reference.

    Attributes:
        mode: ``zero`` (it is the reference), ``dropped`` (the reference stands for it) or
            ``coded``.
        j: ``beta = 2^{j/8} >= |b - b_ref|``.
        b: the precision ``2^{1-b} beta``.
    """

    mode: str
    j: int = 0
    b: int = 0

    def length(self, size: int) -> Length:
        """Nats of the code word of a vector of ``size`` entries."""
        symbol = one_of(3)
        if self.mode == ZERO:
            return symbol
        symbol += integer(self.j)
        if self.mode == DROPPED:
            return symbol
        return symbol + positive_integer(self.b) + ball(size, self.b)

    def scale(self) -> float:
        """The scale beta."""
        return 0.0 if self.mode == ZERO else 2 ** (self.j / 8)

    def error(self) -> float:
        """The largest distance from the coded vector."""
        return self.scale() * (2.0 ** (1 - self.b) if self.mode == CODED else 1.0)
