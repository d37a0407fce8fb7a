"""Lengths of code words, kept as the rationals and factorials they are logarithms of.

Every code here is a probability distribution (its weights sum to at most 1), and the length of a
code word is minus the logarithm of its weight, in nats. It is evaluated in floating point while a
certificate is searched for, and to fifty digits, rounded up, when one is stated or verified.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext

DIGITS = 50
_GUARD = 12  # digits beyond, for sums of terms that cancel
_EXACT = 400  # up to here, a factorial is multiplied out
_PI = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803"
)
# Bernoulli numbers B_2, B_4, ... over 2k (2k - 1): the terms of Stirling's series.
_STIRLING = (
    (1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156),
    (-3617, 122400), (43867, 244188), (-174611, 125400), (77683, 5796), (-236364091, 1506960),
    (657931, 300), (-3392780147, 93960), (1723168255201, 2492028),
)  # fmt: skip


@dataclass(frozen=True)
class Length:
    """``sum_i times_i log(numerator_i / denominator_i) + sum_j times_j log(n_j!)``."""

    ratios: tuple[tuple[int, int, int], ...] = ()  # (times, numerator, denominator)
    factorials: tuple[tuple[int, int], ...] = ()  # (times, n); times may be negative

    def __add__(self, other: Length) -> Length:
        return Length(self.ratios + other.ratios, self.factorials + other.factorials)

    def nats(self) -> float:
        """The value in floating point."""
        return math.fsum(
            [t * math.log(a / b) for t, a, b in self.ratios]
            + [t * math.lgamma(n + 1) for t, n in self.factorials]
        )

    def upper(self) -> Decimal:
        """The value to fifty digits, rounded up."""
        ratios: Counter[tuple[int, int]] = Counter()
        for times, a, b in self.ratios:
            ratios[a, b] += times
        factorials: Counter[int] = Counter()
        for times, n in self.factorials:
            factorials[n] += times
        with localcontext() as context:
            context.prec = DIGITS + _GUARD
            total = size = Decimal(0)
            for (a, b), times in ratios.items():
                term = times * (Decimal(a) / Decimal(b)).ln()
                total, size = total + term, size + abs(term)
            for n, times in factorials.items():
                term = times * log_factorial(n)
                total, size = total + term, size + abs(term)
            # Each term is right to nearly all digits carried, so the sum is off by far less.
            return total + (size + 1) * Decimal(10) ** (4 - DIGITS)


def log_factorial(n: int) -> Decimal:
    """``log n!``, right to 1e-48 relatively in a context of enough digits."""
    if n <= _EXACT:
        return Decimal(math.factorial(n)).ln()
    x = Decimal(n)
    series = sum(
        (Decimal(a) / Decimal(b) / x ** (2 * k + 1) for k, (a, b) in enumerate(_STIRLING)),
        Decimal(0),
    )
    # The error of Stirling's series is less than the first term left out: under 1e-60 here.
    return x * x.ln() - x + (2 * _PI * x).ln() / 2 + series


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


def coin(no: int, yes: int) -> Length:
    """A sequence of so many answers under the adaptive coin of Krichevsky and Trofimov.

    Its probability, ``B(no + 1/2, yes + 1/2) / B(1/2, 1/2)``, is
    ``(2 no)! (2 yes)! / (4^(no + yes) no! yes! (no + yes)!)``.
    """
    ratios = ((no + yes, 4, 1),) if no + yes else ()
    return Length(ratios, ((1, no), (1, yes), (1, no + yes), (-1, 2 * no), (-1, 2 * yes)))


def total(lengths: Iterable[Length]) -> Length:
    """The length of all of them in a row."""
    ratios, factorials = [], []
    for length in lengths:
        ratios += length.ratios
        factorials += length.factorials
    return Length(tuple(ratios), tuple(factorials))
