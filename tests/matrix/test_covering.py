"""Covering numbers on sets small enough to count, to pack, or to bound by volume."""

from fractions import Fraction
from math import isqrt, log1p

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm


@pytest.mark.parametrize("eps", [0.9, 0.3, 0.07, 0.01])
def test_an_interval_can_be_counted(eps):
    # 1x1 matrices with |a| <= 1: exactly ceil(1/eps) intervals of length 2 eps.
    exact = np.log(np.ceil(1 / eps - 1e-12))
    for p in (0.5, 1.0, 2.0):
        bound = rm.log_covering_number(1, 1, p=p, radius=1.0, spectral_radius=1.0, eps=eps)
        assert bound.value >= exact
        # and is not absurdly above it
        assert bound.value <= exact + np.log(6)


def test_never_below_the_volume_bound():
    # With R large the set is the spectral ball: at least (s/eps)^(mn) balls are needed.
    for m, n in ((2, 2), (3, 5)):
        for eps in (0.5, 0.1, 0.01):
            bound = rm.log_covering_number(m, n, p=1.0, radius=1e3, spectral_radius=1.0, eps=eps)
            assert bound.winner == "direct"
            assert bound.value >= m * n * np.log(1 / eps)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_never_below_a_packing(p):
    # Points more than 2 eps apart need different balls.
    rng = np.random.default_rng(0)
    eps = 0.12
    packed = np.zeros((0, 2, 2))
    for _ in range(4000):
        a = rng.normal(size=(2, 2))
        u, s, vt = np.linalg.svd(a)
        s = np.array([s[0], rng.uniform() ** 3 * s[1]])
        a = u * (s / np.sum(s**p) ** (1 / p)) @ vt  # on the sphere |A|_{S_p} = 1
        far = np.linalg.svd(packed - a, compute_uv=False).max(axis=-1, initial=0) > 2 * eps
        if np.all(far):
            packed = np.concatenate([packed, a[None]])
    assert len(packed) > 50
    bound = rm.log_covering_number(2, 2, p=p, radius=1.0, spectral_radius=1.0, eps=eps)
    assert bound.value >= np.log(len(packed))


def test_textbook_split_is_an_upper_bound_of_ours():
    for p, r, eps in ((0.5, 3.0, 0.2), (1.0, 5.0, 0.05), (2.0, 2.0, 0.3)):
        k = np.floor((2 * r / eps) ** p)
        textbook = min(k * 60 * np.log(1 + 8 / eps), 800 * np.log(1 + 2 / eps))
        bound = rm.log_covering_number(20, 40, p=p, radius=r, spectral_radius=1.0, eps=eps)
        assert 0 < bound.value <= textbook * (1 + 1e-12)


def test_the_winner_is_named_and_the_point_costs_nothing():
    call = {"p": 0.5, "spectral_radius": 1.0}
    assert rm.log_covering_number(50, 50, radius=1.0, eps=0.5, **call).winner == "rank"
    assert rm.log_covering_number(2, 2, radius=50.0, eps=0.01, **call).winner == "direct"
    point = rm.log_covering_number(2, 2, radius=9.0, eps=1.0, **call)
    assert (point.winner, float(point.value)) == ("point", 0.0)
    by_rank = rm.log_covering_rank(10, 10, rank=0, spectral_radius=1.0, eps=0.1)
    assert (by_rank.winner, float(by_rank.value)) == ("point", 0.0)


def test_small_p_counts_ranks():
    # R^p = 3 with p -> 0: at most three singular values above any threshold.
    p = 0.01
    bound = rm.log_covering_number(30, 30, p=p, radius=3 ** (1 / p), spectral_radius=1.0, eps=0.1)
    three = rm.log_covering_rank(30, 30, rank=3, spectral_radius=1.0, eps=0.1)
    assert bound.winner == "rank"
    assert float(bound.value) == pytest.approx(float(three.value), rel=0.03)


def test_traced_arguments_and_errors():
    f = jax.jit(
        lambda r, e: (
            rm.log_covering_number(9, 9, p=0.5, radius=r, spectral_radius=jnp.inf, eps=e).value
        )
    )
    values = [float(f(r, 0.1)) for r in (0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert float(f(1.0, 0.2)) < values[1]
    with pytest.raises(ValueError, match=r"eps: got .*, must be > 0"):
        rm.log_covering_number(2, 2, p=0.5, radius=1.0, spectral_radius=1.0, eps=0.0)
    with pytest.raises(ValueError, match=r"p: got .*, must be > 0"):
        rm.log_covering_number(2, 2, p=0, radius=1.0, spectral_radius=1.0, eps=0.1)


def exact_count(ratio, p):
    """``floor(ratio^p)`` of a fraction for p = 1/2, 1, 2, without rounding."""
    if p == 0.5:
        return isqrt(ratio.numerator // ratio.denominator)
    return int(ratio**p)


@pytest.mark.parametrize("p", [0.5, 1, 2])
def test_a_count_on_the_edge_of_a_whole_number_is_not_rounded_down(p):
    """Radii at which, for one of the splits, one singular value more just fits into the ball."""
    rng = np.random.default_rng(0)
    splits = np.linspace(0.05, 0.95, 19)
    theta, eps = rng.choice(splits, 2000), rng.uniform(0.01, 0.2, 2000)
    count = rng.integers(1, 40, 2000)
    radius = theta * eps * count ** (1 / p)
    radius = np.where(rng.uniform(size=2000) < 0.5, radius, np.nextafter(radius, np.inf))
    bound = jax.jit(
        lambda r, e: rm.log_covering_number(500, 500, p=p, radius=r, spectral_radius=1.0, eps=e)
    )(radius, eps)
    for r, e, value, s in zip(radius, eps, bound.value, np.minimum(radius, 1), strict=True):
        terms = (
            exact_count(Fraction(r) / (Fraction(t) * Fraction(e)), p)
            * (1000 * log1p(4 * s / ((1 - t) * e)))
            for t in splits
        )
        exact = 0 if e >= s else min(*terms, 250000 * log1p(2 * s / e))
        assert value >= exact * (1 - 1e-12)
