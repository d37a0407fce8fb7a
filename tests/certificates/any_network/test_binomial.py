"""The exact bounds, against brute force in fractions, SciPy, and the theorems' own words."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates.any_network._binomial import binomial_upper, compression_upper

NOTHING = Length()


def tail(k, n, p):
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def compression_sum(k, n, p):
    return sum(Fraction(math.comb(m, k), math.comb(n, k)) / (1 - p) ** (n - m) for m in range(k, n))


SMALL = [(k, n) for n in (1, 2, 7, 20) for k in range(n)]


@pytest.mark.parametrize(("k", "n"), SMALL)
@pytest.mark.parametrize("delta", [0.5, 0.01, 1e-9])
def test_both_bounds_lie_just_above_the_exact_roots(k, n, delta):
    exact = Fraction(delta)
    for tried in (1, 3):
        p = Fraction(binomial_upper(k, n, one_of(tried), Decimal(delta)))
        below = p * (1 - Fraction(1, 10**25))
        assert tail(k, n, p) <= exact / tried <= tail(k, n, below)
        p = Fraction(compression_upper(k, n, one_of(tried), Decimal(delta)))
        below = p * (1 - Fraction(1, 10**25))
        if below > 1 - Fraction(1, 10**20):
            continue  # so close to 1 that a smaller p is not between it and the root
        assert compression_sum(k, n, p) >= n * tried / exact >= compression_sum(k, n, below)


def test_everything_kept_or_wrong_bounds_nothing():
    for n in (1, 10, 1000):
        assert binomial_upper(n, n, NOTHING, Decimal("0.01")) == 1
        assert compression_upper(n, n, NOTHING, Decimal("0.01")) == 1


@pytest.mark.parametrize(("k", "n"), [(50, 10000), (250, 10000), (0, 3), (30000, 60000)])
def test_the_limit_of_clopper_and_pearson_is_that_of_scipy(k, n):
    ours = float(binomial_upper(k, n, NOTHING, Decimal("0.01")))
    theirs = scipy.stats.binomtest(k, n, alternative="less").proportion_ci(0.99, "exact").high
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("k", "value"), [(900, 0.016964), (1200, 0.022270), (1638, 0.029955)])
def test_the_bound_on_compressions_solves_its_equation_at_sixty_thousand_examples(k, value):
    n, found = 60000, float(compression_upper(k, 60000, NOTHING, Decimal("0.01")))
    assert found == pytest.approx(value, abs=1e-6)
    more, exactly = (law(k, n, found) for law in (scipy.stats.binom.sf, scipy.stats.binom.pmf))
    assert 0.01 * more == pytest.approx(n * found * exactly, rel=1e-6)


def test_the_limit_misses_the_truth_in_at_most_delta_of_all_samples_and_almost_as_often():
    n, delta = 40, 0.05
    limits = np.array([float(binomial_upper(k, n, NOTHING, Decimal(delta))) for k in range(n + 1)])
    misses = []
    for p in np.concatenate([limits[:-1] - 1e-9, limits[:-1] + 1e-9, np.linspace(0.01, 0.99, 99)]):
        law = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
        misses.append(np.sum(law[limits < p]))
    assert max(misses) <= delta * (1 + 1e-6)
    assert max(misses) >= delta * (1 - 1e-6)  # just above a limit it is missed as often as allowed


def test_the_expectation_that_the_bound_on_compressions_inverts_is_at_most_one():
    # Keep the k largest of n uniform numbers, and call everything above the smallest of them wrong:
    # a compression scheme whose error is beta-distributed.
    n, delta = 30, 0.05
    for k in (1, 5, 20):
        beta = (k, n - k + 1)
        nodes, weights = np.polynomial.legendre.leggauss(400)
        v = (nodes + 1) / 2
        sums = np.array([float(compression_sum(k, n, Fraction(float(e)))) for e in v])
        mean = np.sum(weights / 2 * scipy.stats.beta.pdf(v, *beta) * sums) / n
        assert mean == pytest.approx((n - k) / n, rel=1e-6)
        found = float(compression_upper(k, n, NOTHING, Decimal(delta)))
        assert scipy.stats.beta.sf(found, *beta) <= delta


def test_counts_out_of_range_are_refused():
    for bound in (binomial_upper, compression_upper):
        for k, n in ((-1, 3), (4, 3), (0, 0)):
            with pytest.raises(ValueError, match=f"k: got {k}, must be from 0 to n = {n}"):
                bound(k, n, NOTHING, Decimal("0.01"))
