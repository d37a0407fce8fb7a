"""The codes are codes: Kraft sums are at most 1, exactly, and the lengths are what they say."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest

from rankjax.certificates import codes
from rankjax.certificates.codes import BiasCode, Length, MatrixCode


def weight(length: Length) -> Fraction:
    """``exp(-length)``, exactly."""
    product = Fraction(1)
    for times, a, b in length.factors:
        product *= Fraction(b, a) ** times
    return product


def net_size(length: Length) -> Fraction:
    return 1 / weight(length)


def test_integers():
    # Telescoping sums: everything beyond N is exactly 1 / (N + 1) and 4 / (3 (N + 2)) ...
    n = 300
    positive = sum(weight(codes.positive_integer(b)) for b in range(1, n + 1))
    assert positive == 1 - Fraction(1, n + 1)
    signed = sum(weight(codes.integer(j)) for j in range(-n, n + 1))
    tail = 2 * Fraction(2, 3) * Fraction(1, n + 2)
    assert signed + tail == 1
    with pytest.raises(ValueError, match="b: got 0"):
        codes.positive_integer(0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 1)])
def test_kraft_sum_of_matrix_codes(shape):
    m, n = shape
    most = 12
    total = weight(MatrixCode(codes.EQUAL).length(m, n))
    for j in range(-most, most + 1):
        total += weight(MatrixCode(codes.RANK, j).length(m, n))
        for b in range(1, most + 1):
            words = net_size(codes.ball(m * n, b))
            total += words * weight(MatrixCode(codes.DIRECT, j, b=b).length(m, n))
            for k in range(1, min(m, n) + 1):
                words = net_size(codes.rank(k, m, n, b))
                for a in range(-most, most + 1):
                    total += words * weight(MatrixCode(codes.RANK, j, k, b, a).length(m, n))
    assert Fraction(1, 2) < total <= 1


def test_kraft_sum_of_bias_codes():
    most, size = 40, 3
    total = weight(BiasCode(codes.ZERO).length(size))
    for j in range(-most, most + 1):
        total += weight(BiasCode(codes.DROPPED, j).length(size))
        for b in range(1, most + 1):
            words = net_size(codes.ball(size, b))
            total += words * weight(BiasCode(codes.CODED, j, b).length(size))
    assert Fraction(9, 10) < total <= 1


def test_nets_are_large_enough():
    # In one dimension a net of [-1, 1] within q needs 1/q points; in any, at least the volume.
    for b in range(1, 8):
        q = 2.0 ** (1 - b)
        assert net_size(codes.ball(1, b)) >= 1 / q
        assert net_size(codes.ball(5, b)) >= (1 / q) ** 5
        # Rank m matrices are all matrices: the net must be as large as the volume demands.
        assert net_size(codes.rank(2, 2, 3, b)) >= (1 / q) ** 6


def test_split_of_the_factors_is_no_worse_than_halving():
    for m, n in [(3, 3), (2, 50), (100, 4)]:
        for b in range(1, 12):
            halved = 2 * (m + n) * math.log(1 + 2 ** (b + 1))
            assert codes.rank(2, m, n, b).nats() <= halved * (1 + 1e-12)


def test_lengths_round_up():
    length = codes.rank(3, 7, 11, 4) + codes.integer(-5) + codes.ball(30, 6)
    assert float(length.upper()) == pytest.approx(length.nats(), rel=1e-14)
    exact = sum(t * (Decimal(a) / Decimal(b)).ln() for t, a, b in length.factors)
    assert length.upper() > exact


def test_errors_and_scales():
    code = MatrixCode(codes.RANK, j=16, k=2, b=3, a=-4)
    assert code.scale(2) == 2.0
    assert code.error(2) == pytest.approx(2 * 2**-0.5)
    assert MatrixCode(codes.DIRECT, j=16, b=3).error(2) == 0.5
    assert MatrixCode(codes.RANK, j=16).error(2) == 2.0
    assert MatrixCode(codes.EQUAL).error(2) == 0.0
    assert BiasCode(codes.CODED, j=8, b=2).error() == 1.0
    assert BiasCode(codes.DROPPED, j=8).error() == 2.0
