"""The code of the neighbor is a code: Kraft sums in exact fractions, and lengths that mean it."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from rankjax.certificates._lengths import coin, integer, one_of, positive_integer
from rankjax.certificates.theorem._certificate import Certificate
from rankjax.certificates.theorem._distances import (
    coded_distance,
    covers,
    distances_length,
    exponent_of,
    measure,
    unit,
)
from rankjax.certificates.theorem._lattice import (
    LeafCode,
    best_levels,
    code_length,
    direct_code,
    factors_code,
    grid_step,
    nearest_exponent,
    symbols_length,
)
from rankjax.certificates.theorem._values import Distance, Entries

RNG = np.random.default_rng(2)


def weight(length):
    """``exp(-length)``, exactly."""
    product = Fraction(1)
    for times, a, b in length.ratios:
        product *= Fraction(b, a) ** times
    for times, n in length.factorials:
        product /= Fraction(math.factorial(n)) ** times
    return product


def test_integers():
    n = 200
    assert sum(weight(positive_integer(b)) for b in range(1, n + 1)) == 1 - Fraction(1, n + 1)
    signed = sum(weight(integer(j)) for j in range(-n, n + 1))
    assert signed == 1 - 2 * Fraction(2, 3) * Fraction(1, n + 2)
    assert sum(weight(one_of(7)) for _ in range(7)) == 1


def test_the_coin_sums_to_one_over_all_sequences():
    for n in range(7):
        assert sum(math.comb(n, k) * weight(coin(n - k, k)) for k in range(n + 1)) == 1


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_one_symbol_is_complete(levels):
    # What is missing from the sum is the weight of "larger than 6", to the last digit.
    most = 6
    found = sum(weight(symbols_length([s], levels)) for s in range(-most, most + 1))
    asked = min(levels, most + 1)
    missing = weight(coin(0, 1)) ** asked * weight(coin(0, most + 1 - asked))
    assert found == 1 - missing


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(("count", "most"), [(2, 9), (3, 3)])
def test_kraft_sums_of_several_symbols(levels, count, most):
    words = itertools.product(range(-most, most + 1), repeat=count)
    found = sum(weight(symbols_length(word, levels)) for word in words)
    assert Fraction(2, 5) < found <= 1


def test_kraft_sum_of_leaves():
    shape, before = (2, 2), 3
    steps, found = range(-3, 10), weight(LeafCode("w", shape, "reference").length(before))
    for step in steps:
        for levels in (1, 2, 3):
            for symbols in itertools.product(range(-1, 2), repeat=4):
                code = LeafCode("w", shape, "direct", step, levels, symbols=symbols)
                code.check()
                found += weight(code.length(before))
            for symbols in itertools.product(range(-1, 2), repeat=4):
                code = LeafCode("w", shape, "factors", step, levels, 1, (1, 2, 2), symbols)
                code.check()
                found += weight(code.length(before))
            flat = LeafCode("w", shape, "factors", step, levels, 2, (1, 2, 2), (0,) * 8)
            found += weight(flat.length(before))
    assert Fraction(2, 5) < found <= 1


def test_every_integer_of_a_leaf_is_paid():
    direct = LeafCode("w", (2, 3), "direct", 5, 3, symbols=(1, 0, -2, 0, 0, 9))
    head = Fraction(1, 3) * weight(integer(5 - 2)) * weight(positive_integer(3))
    assert weight(direct.length(2)) == head * weight(symbols_length(direct.symbols, 3))
    symbols = (1, 0, -2, 0, 0, 9, 4, 0, 0, 1)
    assert weight(LeafCode("w", (2, 3), "reference").length(2)) == Fraction(1, 3)
    factors = LeafCode("w", (6,), "factors", 5, 3, 2, (1, 2, 3), symbols)
    parts = weight(symbols_length(symbols[:4], 3)) * weight(symbols_length(symbols[4:], 3))
    assert weight(factors.length(2)) == head * Fraction(1, 2) * parts  # rank 1 or 2


def test_kraft_sum_of_distances():
    exponents = [None, *range(-12, 13)]
    pairs = itertools.product(exponents, repeat=2)
    found = sum(weight(distances_length(pair)) for pair in pairs)
    assert Fraction(4, 5) < found <= 1
    assert sum(weight(distances_length((e,))) for e in [None, *range(-300, 301)]) > Fraction(
        99, 100
    )


def test_the_step_is_coded_relative_to_the_one_before():
    first = LeafCode("a", (1,), "direct", 40, symbols=(1,))
    between = LeafCode("b", (1,), "reference")
    second = LeafCode("c", (1,), "direct", 41, symbols=(1,))
    whole = code_length([first, between, second])
    parts = (first.length(0), between.length(40), second.length(40))
    assert weight(whole) == math.prod(weight(part) for part in parts)


def test_what_was_tried_is_paid():
    def certificate(tried):
        leaf = LeafCode("w", (1,), "direct", -8, symbols=(3,))
        return Certificate(
            value=1.0, errors=3, n=100, delta=0.05, tried=tried, leaves=(leaf,), distances=(2, None)
        )

    one, seven = certificate(1), certificate(7)
    assert weight(one.length()) == 7 * weight(seven.length())
    parts = (code_length(one.leaves), distances_length(one.distances))
    assert weight(one.length()) == math.prod(weight(part) for part in parts)
    assert seven.settled().value > one.settled().value


def test_longer_symbols_cost_more():
    lengths = [symbols_length([s, 0, 1], 2).nats() for s in range(12)]
    assert lengths == sorted(lengths)
    assert symbols_length([3, -3], 2).nats() == symbols_length([3, 3], 2).nats()


def test_finer_steps_are_longer_and_nearer():
    moved = RNG.normal(size=(4, 5))
    codes = [direct_code("w", moved, step) for step in range(4, -40, -4)]
    lengths = [code.length(code.step).nats() for code in codes]
    errors = [np.max(np.abs(moved - code.moved())) for code in codes]
    assert lengths == sorted(lengths)
    assert all(
        e <= grid_step(c.step) / 2 or c.mode == "reference"
        for e, c in zip(errors, codes, strict=True)
    )
    svd = np.linalg.svd(moved[None], full_matrices=False)
    coarse, fine = (factors_code("w", (4, 5), svd, 2, step) for step in (-16, -40))
    best = np.sqrt(np.sum(svd[1][0, 2:] ** 2))
    off = [np.linalg.norm(moved - c.moved()[0]) for c in (coarse, fine)]
    assert best * 0.999 <= off[1] < off[0]
    assert off[1] == pytest.approx(best, rel=1e-2)
    assert fine.length(-16).nats() > coarse.length(-16).nats()


def test_steps_of_the_grid():
    for exponent in range(-40, 40):
        assert nearest_exponent(grid_step(exponent)) == exponent
        assert grid_step(exponent) < grid_step(exponent + 1) <= 1.25 * grid_step(exponent)


def test_best_levels_is_the_best():
    blocks = [np.rint(4 * RNG.normal(size=50)).astype(int)]
    costs = {
        levels: positive_integer(levels).nats() + symbols_length(blocks[0].tolist(), levels).nats()
        for levels in range(1, 9)
    }
    assert costs[best_levels(blocks)] == min(costs.values())


def test_coded_distances_leave_room():
    for a in (-30, 0, 7):
        assert not covers(a, coded_distance(a, 0.3), 0.3)  # room for its own rounding
        assert covers(a, coded_distance(a, 0.3) * (1 - 1e-11), 0.3)
    assert covers(None, 0.0, 1.0)
    assert not covers(None, 1e-300, 1.0)
    for distance in RNG.uniform(1e-9, 1e9, size=50):
        a = exponent_of(distance, 0.7)
        assert covers(a, distance, 0.7)
        assert not covers(a - 1, distance, 0.7)
        assert coded_distance(a, 0.7) <= distance * 2 ** (1 / 8) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("spectral", (1, 30, 40)), ("norm", (200,)), ("row", (3, 300)), ("rows", (3, 300)),
        ("range", (40,)),
    ],
)  # fmt: skip
def test_units_are_what_rounding_at_random_gives(kind, shape):
    size, steps = math.prod(shape), np.full(math.prod(shape), 0.25)
    distance = Distance(kind, Entries.plain(np.arange(size).reshape(shape)))
    found = [measure(distance, RNG.uniform(-0.125, 0.125, size=size)) for _ in range(5)]
    assert np.mean(found) == pytest.approx(unit(distance, steps), rel=0.12)
    assert unit(distance, 0 * steps) == unit(distance, 4 * steps)  # steps of 1 where there are none
