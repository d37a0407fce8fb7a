"""log det(I + A^T A / e^2) against NumPy, at degenerate matrices, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rankjax.matrix import log_det, schatten_power
from tests.matrix.matrices import BATCH, with_spectrum


def by_numpy(a, eps, eps_mode):
    a = np.asarray(a, np.float64)
    s = np.linalg.svd(a, compute_uv=False)
    top = s.max(initial=0)
    e = eps * (top if top > 0 else 1) if eps_mode == "relative" else eps
    return np.linalg.slogdet(np.eye(a.shape[1]) + a.T @ a / e**2)[1]


@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
def test_values_on_the_degenerate_set(eps_mode):
    value = log_det(BATCH, eps=0.1, eps_mode=eps_mode)
    expected = [by_numpy(a, 0.1, eps_mode) for a in BATCH]
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 1)])
def test_relative_smoothing_is_invariant_under_scaling(scale, shape):
    k = min(shape)
    a = with_spectrum(0, *shape, np.linspace(2, 1, k))  # pyright: ignore[reportCallIssue]
    value = log_det((scale * a).astype(jnp.float32), eps=0.05)
    np.testing.assert_allclose(value, by_numpy(a, 0.05, "relative"), rtol=1e-5)


@pytest.mark.parametrize("spectrum", [[2.0, 2.0, 0.0], [3.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
def test_derivatives_at_repeated_and_zero_values(spectrum):
    a = with_spectrum(1, 4, 3, spectrum)
    f = jax.jit(lambda a, e: log_det(a, eps=e, eps_mode="absolute"))
    check_grads(f, (a, jnp.asarray(0.7)), order=2, modes=("fwd", "rev"), rtol=1e-4)
    inverse = np.linalg.inv(a.T @ a + 0.49 * np.eye(3))
    np.testing.assert_allclose(jax.grad(f)(a, 0.7), 2 * a @ inverse, atol=1e-12)


def test_the_limit_of_schatten_powers():
    a = with_spectrum(2, 6, 4, [3.0, 1.0, 0.1, 0.0])
    value, gradient = jax.value_and_grad(lambda a: log_det(a, eps=0.01))(a)
    p = 1e-6
    power = lambda a: 2 / p * schatten_power(a, p=p, eps=0.01, method="svd")  # noqa: E731
    near, slope = jax.value_and_grad(power)(a)
    np.testing.assert_allclose(near, value, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=1e-8)


def test_batches_axes_dtypes_and_bad_input():
    a = jnp.stack([with_spectrum(3, 4, 3, [2.0, 1.0, 0.5]), jnp.zeros((4, 3))])
    turned = jnp.moveaxis(a, 0, 1)
    both = jax.vmap(lambda a, e: log_det(a, eps=e))(a, jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(log_det(turned, eps=jnp.array([0.1, 0.2]), axes=(0, 2)), both)
    assert both[1] == 0
    assert log_det(jnp.zeros((0, 3)), eps=0.1) == 0
    assert log_det(a.astype(jnp.bfloat16), eps=0.1).dtype == jnp.bfloat16
    bad = jnp.isnan(log_det(a.at[0, 0, 0].set(jnp.nan), eps=0.1))
    np.testing.assert_array_equal(bad, [True, False])
    with pytest.raises(ValueError, match=r"eps: got 0\.0, must be > 0"):
        log_det(a, eps=0.0)
    with pytest.raises(ValueError, match=r"eps_mode: got .*, must be one of"):
        log_det(a, eps=0.1, eps_mode="x")  # pyright: ignore[reportArgumentType]
