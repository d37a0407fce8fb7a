"""The derivative rule on the degenerate set, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import rankjax.matrix as rm
from tests.matrix.matrices import BATCH, DEGENERATE, finite_difference, with_spectrum

EXPONENTS = jnp.array([0.0, 0.5, 1.0, 2.0, 3.0])
EPS = 0.3


def smoothed(x, p, method="svd"):
    return rm.schatten_power(x, p=p, eps=EPS, eps_mode="absolute", method=method)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_first_and_second_derivative_against_finite_differences(name, method):
    stack = DEGENERATE[name]
    gradient = jax.jit(jax.grad(lambda x, p: smoothed(x, p, method)))
    value = jax.jit(lambda x, p: smoothed(x, p, method))
    reverse = jax.jit(jax.vmap(jax.jacrev(gradient), (0, None)))
    forward = jax.jit(jax.vmap(jax.jacfwd(gradient), (0, None)))
    for p in EXPONENTS:
        over_reverse, over_forward = reverse(stack, p), forward(stack, p)
        for a, hessian, other in zip(stack, over_reverse, over_forward, strict=True):
            expected = finite_difference(lambda x, p=p: value(x, p), a)
            np.testing.assert_allclose(gradient(a, p).ravel(), expected, atol=1e-6)
            expected = finite_difference(lambda x, p=p: gradient(x, p).ravel(), a)
            for found in (hessian, other):
                np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
def test_hard_form_is_exact_on_full_rank(shape):
    a = with_spectrum(0, *shape, [2.0, 1.0, 0.5])  # pyright: ignore[reportCallIssue]
    f = jax.jit(lambda x, p: rm.schatten_power(x, p=p))
    gradient = jax.jit(jax.grad(f))
    hessian = jax.jit(jax.jacfwd(gradient))
    for p in (0.3, 1.0, 3.0):
        np.testing.assert_allclose(
            gradient(a, p).ravel(), finite_difference(lambda x, p=p: f(x, p), a), atol=1e-7
        )
        expected = finite_difference(lambda x, p=p: gradient(x, p).ravel(), a)
        np.testing.assert_allclose(hessian(a, p).reshape(expected.shape), expected, atol=1e-6)


def test_p_two_is_the_square_of_frobenius_with_hessian_two():
    for a in BATCH:
        for method in ("svd", "gram"):

            def f(x, p=2.0, method=method):
                return rm.schatten_power(x, p=p, method=method)  # pyright: ignore[reportArgumentType]

            np.testing.assert_allclose(jax.hessian(f)(a).reshape(9, 9), 2 * np.eye(9), atol=1e-12)
            traced = jax.jit(jax.hessian(f))(a, jnp.asarray(2.0))
            np.testing.assert_allclose(traced.reshape(9, 9), 2 * np.eye(9), atol=1e-7)


@pytest.mark.parametrize("method", ["svd"])
def test_jax_checks_both_orders_in_all_arguments(method):
    a = with_spectrum(1, 4, 3, [2.0, 2.0, 0.0])

    def f(x, p, eps):
        return rm.schatten_power(x, p=p, eps=eps, eps_mode="absolute", method=method)

    check_grads(jax.jit(f), (a, 0.7, 0.4), order=2, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_relative_eps_is_held_constant():
    a = with_spectrum(2, 4, 3, [2.0, 1.0, 0.1])
    x = np.asarray(a)
    e = 0.2
    for p in (0.5, 1.0):
        lam, v = np.linalg.eigh(x.T @ x)
        expected = p * x @ (v * (lam + e * e) ** (p / 2 - 1)) @ v.T
        for method in ("svd", "gram"):
            f = lambda x, p=p, m=method: rm.schatten_power(x, p=p, eps=0.1, method=m)  # noqa: E731  # pyright: ignore[reportArgumentType]
            np.testing.assert_allclose(jax.grad(f)(a), expected, rtol=1e-8)
            held = lambda x, p=p: rm.schatten_power(x, p=p, eps=e, eps_mode="absolute")  # noqa: E731
            np.testing.assert_allclose(jax.hessian(f)(a), jax.hessian(held)(a), atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_tiny_and_huge_matrices_have_the_derivatives_of_the_unit_ones(dtype, scale):
    a = with_spectrum(0, 4, 3, [2.0, 2.0, 0.5]).astype(dtype)
    tangent = with_spectrum(9, 4, 3, [1.0, 0.5, 0.2]).astype(dtype)
    p = 0.5

    for method in ("svd", "gram"):

        @jax.jit
        def second(x, t, method=method):
            f = lambda x: rm.schatten_power(x, p=p, eps=0.1, method=method)  # noqa: E731  # pyright: ignore[reportArgumentType]
            return f(x), jax.grad(f)(x), jax.jvp(jax.grad(f), (x,), (t,))[1]

        unit = second(a, tangent)
        c = jnp.asarray(scale, dtype)
        scaled = second(a * c, tangent * c)
        # Homogeneous of degrees p, p - 1; the tangent is scaled too, so p - 1 again.
        for x, y, degree in zip(unit, scaled, (p, p - 1, p - 1), strict=True):
            factor = float(scale) ** degree
            tolerance = 2e-5 if dtype == jnp.float32 else 1e-11
            np.testing.assert_allclose(
                np.asarray(y, float) / factor, x, rtol=tolerance, atol=tolerance
            )


def test_absolute_eps_far_above_a_tiny_matrix_is_quadratic():
    a = jnp.full((3, 2), 1e-20, jnp.float32)
    f = lambda x: rm.schatten_power(x, p=0.5, eps=1.0, eps_mode="absolute")  # noqa: E731
    np.testing.assert_allclose(jax.grad(f)(a), 0.5 * a, rtol=1e-5)


def test_transforms_agree_and_survive_a_zero_member():
    f = lambda x: rm.schatten_power(x, p=0.5, eps=0.1)  # noqa: E731
    one_by_one = np.stack([np.asarray(jax.jit(jax.grad(f))(a)) for a in BATCH])
    batched = jax.jit(jax.grad(lambda b: jnp.sum(f(b))))(BATCH)
    mapped = jax.jit(jax.vmap(jax.grad(f)))(BATCH)
    _, scanned = jax.lax.scan(lambda c, a: (c, jax.grad(f)(a)), 0, BATCH)
    for found in (batched, mapped, scanned):
        np.testing.assert_allclose(found, one_by_one, atol=1e-12)
    assert np.all(one_by_one[0] == 0)
    tangent = jax.jvp(f, (BATCH,), (jnp.ones_like(BATCH),))[1]
    np.testing.assert_allclose(tangent, np.sum(one_by_one, axis=(-2, -1)), atol=1e-12)
    nested = jax.vmap(jax.vmap(f))(BATCH.reshape(2, 3, 3, 3))
    np.testing.assert_allclose(nested.ravel(), f(BATCH), atol=1e-12)


def test_nothing_recompiles_when_p_or_eps_change():
    traces = []

    @jax.jit
    def step(a, p, eps):
        traces.append(1)
        return jax.grad(lambda a: rm.schatten_power(a, p=p, eps=eps))(a)

    for p, eps in ((0.5, 0.1), (1.0, 0.0), (0.0, 0.3)):
        assert np.all(np.isfinite(step(BATCH[-1], p, eps)))
    assert len(traces) == 1


def test_singular_values_have_a_finite_first_derivative_everywhere():
    for a in BATCH:
        jacobian = jax.jit(jax.jacrev(rm.singular_values))(a)
        assert np.all(np.isfinite(jacobian))
    a = with_spectrum(7, 4, 3, [3.0, 2.0, 1.0])
    expected = finite_difference(jax.jit(rm.singular_values), a)
    np.testing.assert_allclose(
        jax.jacfwd(rm.singular_values)(a).reshape(3, 12), expected, atol=1e-8
    )
    # Distinct values have second derivatives too.
    check_grads(jax.jit(rm.singular_values), (a,), order=2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["svd", "gram", "rational", "newton_schulz", "ladder", "auto"])
def test_a_third_derivative_is_refused_with_a_reason(method):
    f = lambda x: rm.schatten_power(x, p=0.5, eps=0.1, method=method)  # noqa: E731
    second = jax.grad(lambda x: jnp.sum(jax.grad(f)(x) ** 2))
    assert np.all(np.isfinite(second(BATCH[-1])))
    for third in (jax.jacfwd(second), jax.jacrev(second)):
        with pytest.raises(NotImplementedError, match="schatten_power has no third derivative"):
            third(BATCH[-1])
