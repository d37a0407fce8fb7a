"""The binary Kullback-Leibler divergence and its inverse, against 50-digit arithmetic."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rankjax.bounds import binary_kl, kl_inverse


def exact_kl(q: float, p: Decimal) -> Decimal:
    q = Decimal(q)  # pyright: ignore[reportAssignmentType]
    first = q * (q / p).ln() if q else Decimal(0)  # pyright: ignore[reportOperatorIssue]
    return first + ((1 - q) * ((1 - q) / (1 - p)).ln() if q < 1 else Decimal(0))  # pyright: ignore[reportOperatorIssue]


def exact_inverse(q: float, budget: float) -> Decimal:
    with localcontext() as context:
        context.prec = 50
        low, high = Decimal(q), Decimal(1)
        for _ in range(150):
            middle = (low + high) / 2
            if middle < 1 and exact_kl(q, middle) <= Decimal(budget):
                low = middle
            else:
                high = middle
        return high


CASES = [
    (q, budget)
    for q in (0.0, 1e-5, 0.03, 0.2, 0.5, 0.97, 1.0)
    for budget in (0.0, 1e-12, 1e-7, 1e-3, 0.05, 0.7, 5.0)
]


@pytest.mark.parametrize(("q", "budget"), CASES)
def test_inverse_is_exact_to_1e_12(q, budget):
    found = Decimal(float(kl_inverse(q, budget)))
    assert abs(found - exact_inverse(q, budget)) <= Decimal("1e-12")


def test_divergence_keeps_its_digits_where_the_two_are_close():
    for q, gap in [(0.1, 1e-9), (0.5, 1e-7), (0.999, 1e-6), (1e-6, 1e-8), (0.3, 0.02), (0.3, 0.4)]:
        p = q + gap
        with localcontext() as context:
            context.prec = 60
            want = float(exact_kl(q, Decimal(p)))
        np.testing.assert_allclose(float(binary_kl(q, p)), want, rtol=1e-7)
    assert float(binary_kl(0.2, 0.2)) == 0
    assert float(binary_kl(0.2, 0.0)) == float(binary_kl(0.2, 1.0)) == np.inf


@pytest.mark.parametrize(("q", "budget"), [(0.2, 0.05), (0.01, 0.3), (0.9, 0.01)])
def test_derivatives(q, budget):
    # Steps well under q itself; the default ones are a hundredth of the smallest q here.
    check_grads(kl_inverse, (q, budget), order=2, modes=("fwd", "rev"), rtol=1e-4, eps=1e-6)


def test_float32_and_batches_and_bad_input():
    q = jnp.linspace(0, 1, 7, dtype=jnp.float32)
    found = kl_inverse(q, jnp.float32(0.1))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, kl_inverse(q.astype(float), 0.1), rtol=3e-6)
    assert bool((found >= q).all())
    assert np.isnan(kl_inverse(0.1, -1.0))
    assert np.isnan(kl_inverse(1.5, 1.0))
    assert np.isfinite(jax.grad(kl_inverse, (0, 1))(0.0, 0.0)).all()


@pytest.mark.parametrize("q", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("p", [1e-18, 1e-100, 1e-5, 0.04])
def test_a_p_far_below_q_is_not_lost_in_their_difference(q, p):
    rest = (1 - q) * np.log((1 - q) / (1 - p)) if q < 1 else 0
    np.testing.assert_allclose(binary_kl(q, p), q * np.log(q / p) + rest, rtol=1e-14)
    slope = -q / p + (1 - q) / (1 - p)
    np.testing.assert_allclose(jax.grad(binary_kl, argnums=1)(q, p), slope, rtol=1e-12)
