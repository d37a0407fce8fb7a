"""The rational engine and the inverses that it is made of, against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from rankjax._linear_algebra import inverse_root
from rankjax.matrix.engines import _rational, _shifted_inverses
from rankjax.matrix.engines._shifted_inverses import sum_of_inverses
from tests.matrix.matrices import relative_error, with_spectrum

K = 80
INDEX = np.arange(1, K + 1)
SPECTRA = {
    "flat": np.linspace(1, 2, K),
    "linear": INDEX / K,
    "polynomial": INDEX**-2.0,
    "exponential": np.exp(-INDEX / 8),
    "rank 8": (INDEX <= 8) * 1.0,
    "rank 1": (INDEX <= 1) * 1.0,
    "half": np.where(INDEX <= K // 2, 1.0, 1e-3),
}


@partial(jax.jit, static_argnames=("method", "eps_mode"))
def value_and_grad(a, p, eps, method, eps_mode="relative"):
    f = lambda x: jnp.sum(rm.schatten_power(x, p=p, eps=eps, method=method, eps_mode=eps_mode))  # noqa: E731  # pyright: ignore[reportArgumentType]
    return jax.value_and_grad(f)(a)


@pytest.fixture(params=[_shifted_inverses._by_elimination, inverse_root])
def base(request, monkeypatch):
    """Small blocks by elimination, as on CPU, or by Cholesky, as on accelerators."""
    plan = _shifted_inverses._ON_CPU._replace(root=request.param)
    monkeypatch.setattr(_shifted_inverses, "_ON_CPU", plan)


@pytest.mark.parametrize("n", [1, 2, 32, 33, 70])
@pytest.mark.usefixtures("base")
def test_a_sum_of_inverses(n):
    a = jnp.stack([with_spectrum(i, n, n, np.geomspace(1, 1e-3, n)) for i in range(2)])
    m = jnp.matmul(jnp.swapaxes(a, -1, -2), a)
    shifts, weights = jnp.array([[0.1, 1.0, 2.0], [0.2, 0.3, 5.0]]), jnp.arange(6.0).reshape(2, 3)
    total, diagonals = sum_of_inverses(m, shifts, weights)
    each = np.linalg.inv(np.asarray(m)[:, None] + np.asarray(shifts)[..., None, None] * np.eye(n))
    np.testing.assert_allclose(
        total, np.einsum("bk,bkij->bij", weights, each), rtol=1e-9, atol=1e-9
    )
    expected = np.diagonal(each, axis1=-2, axis2=-1)
    np.testing.assert_allclose(diagonals, expected, rtol=1e-9)


@pytest.mark.usefixtures("base")
def test_an_inverse_of_low_rank_and_a_small_shift_in_float32():
    """With explicit inverses in place of Cholesky factors the sum is off by many orders."""
    a = with_spectrum(0, 128, 128, (np.arange(128) < 8) * 1.0)
    shift, one = jnp.array([1e-4]), jnp.ones(1)
    exact = np.linalg.inv(np.asarray(a.T @ a) + 1e-4 * np.eye(128))
    found, _ = sum_of_inverses(*(x.astype(jnp.float32) for x in (a.T @ a, shift, one)))
    assert relative_error(found, exact) <= 1e-3


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("p", [0.5, 1.0, 1.7])
def test_the_gradient_is_within_a_thousandth_in_float32(name, p):
    a = with_spectrum(3, 150, K, SPECTRA[name])
    for eps, eps_mode in ((0.01, "relative"), (0.2, "relative"), (0.05, "absolute")):
        expected = value_and_grad(a, p, eps, "svd", eps_mode)
        found = value_and_grad(a.astype(jnp.float32), p, eps, "rational", eps_mode)
        assert relative_error(found[1], expected[1]) <= 1e-3
        np.testing.assert_allclose(found[0], expected[0], rtol=2e-3)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.77, 1.0, 1.3, 1.6, 1.95])
def test_the_weights_interpolate_the_fit_in_p(p):
    weights, error = _rational.fit(p, _rational.SHIFTS)
    assert np.max(np.abs(error)) <= 7.5e-4
    x = np.geomspace(_rational.LOW, 1, 300)[:, None]
    basis = np.concatenate([1 / (x + _rational.SHIFTS), x ** np.arange(3)], axis=1) * x ** (
        1 - p / 2
    )
    found = np.asarray(_rational.weights(jnp.asarray(p)))
    np.testing.assert_allclose(basis @ found, basis @ weights, atol=2e-5)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0, 1.9])
def test_without_rounding_the_error_is_that_of_the_fit(p):
    a = with_spectrum(1, 40, 30, np.arange(1, 31) ** -2.0)
    value, gradient = value_and_grad(a, p, 0.01, "rational")
    exact, expected = value_and_grad(a, p, 0.01, "svd")
    assert relative_error(gradient, expected) <= 8e-4
    np.testing.assert_allclose(value, exact, rtol=1e-3)


def test_a_traced_p_outside_of_the_range_is_answered_by_gram():
    a = with_spectrum(1, 40, 30, np.arange(1, 31) ** -2.0)
    value, gradient = value_and_grad(a, 3.0, 0.1, "rational")
    exact, expected = value_and_grad(a, 3.0, 0.1, "svd")
    np.testing.assert_allclose(value, exact, rtol=1e-9)
    np.testing.assert_allclose(gradient, expected, atol=1e-9)


def test_derivatives_by_eps_and_p():
    a = with_spectrum(2, 40, 30, np.arange(1, 31) ** -1.0)
    for argument in (0, 1):
        f = lambda p, eps, method: rm.schatten_power(a, p=p, eps=eps, method=method)  # noqa: E731
        exact = jax.grad(f, argument)(0.5, 0.05, "svd")
        np.testing.assert_allclose(jax.grad(f, argument)(0.5, 0.05, "rational"), exact, rtol=2e-3)


def test_zero_nan_and_huge_members_do_not_touch_the_others():
    good = with_spectrum(0, 12, 9, np.linspace(0.5, 2, 9)).astype(jnp.float32)
    bad = good.at[0, 0].set(jnp.nan)
    value, gradient = value_and_grad(jnp.stack([good, 0 * good]), 0.5, 0.1, "rational")
    expected, slope = value_and_grad(good, 0.5, 0.1, "rational")
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-4, atol=1e-5)
    assert np.all(gradient[1] == 0)
    power = partial(rm.schatten_power, p=0.5, eps=0.1, method="rational")
    assert np.all(np.isnan(power(jnp.stack([good, bad]))) == [False, True])
    slopes = jax.grad(lambda x: jnp.sum(power(x)))(jnp.stack([good, bad]))
    np.testing.assert_allclose(slopes[0], slope, rtol=1e-3, atol=1e-4)
    assert np.all(np.isnan(slopes[1]))
    np.testing.assert_allclose(power(1e20 * good), 1e10 * expected, rtol=1e-5)
    np.testing.assert_allclose(power(1e-20 * good), 1e-10 * expected, rtol=1e-5)


def test_the_second_derivative_is_that_of_gram():
    a = with_spectrum(2, 6, 5, [1.0, 1.0, 0.5, 0.1, 0.0])
    f = lambda x, method: rm.schatten_power(x, p=0.5, eps=0.1, method=method)  # noqa: E731
    expected = jax.hessian(f)(a, "gram")
    np.testing.assert_allclose(jax.hessian(f)(a, "rational"), expected, atol=1e-9)
