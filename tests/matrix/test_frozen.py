"""The frozen preconditioner: exact where it was refreshed, first order in the drift after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrices import BATCH, with_spectrum

from rankjax.matrix import frozen, schatten_power


def exact(a, p, eps=0.05, **options):
    return jax.grad(lambda x: schatten_power(x, p=p, eps=eps, method="svd", **options))(a)


@pytest.mark.parametrize("method", frozen.METHODS)
@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
def test_exact_at_the_refresh_on_the_degenerate_set(method, eps_mode):
    state = frozen.refresh(BATCH, p=1.0, eps=0.05, eps_mode=eps_mode, method=method)
    slope = jax.vmap(lambda a: exact(a, 1.0, eps_mode=eps_mode))(BATCH)
    np.testing.assert_allclose(frozen.step(BATCH, state), slope, atol=1e-6)


@pytest.mark.parametrize("shape", [(15, 12), (12, 15)])
def test_error_is_of_first_order_in_the_drift(shape):
    a = with_spectrum(0, *shape, np.where(np.arange(12) < 3, 1.0, 0.0))
    noise = np.random.default_rng(0).normal(size=shape)
    noise = jnp.asarray(noise / np.linalg.norm(noise) * np.linalg.norm(a))
    state = frozen.refresh(a, p=0.5, eps=0.05)
    errors = []
    for drift in (1e-4, 2e-4):
        expected = exact(a + drift * noise, 0.5)
        errors.append(float(jnp.linalg.norm(frozen.step(a + drift * noise, state) - expected)))
    assert 1.8 < errors[1] / errors[0] < 2.2
    assert errors[1] < 0.05 * jnp.linalg.norm(expected)


def test_repeated_steps_shrink_to_zero_where_a_kept_gradient_crosses_it():
    a = with_spectrum(4, 6, 5, [3.0, 2.0, 0.2, 0.1, 0.05])
    state, kept, x, y = frozen.refresh(a, p=1.0, eps=0.01), exact(a, 1.0, 0.01), a, a
    for _ in range(50):
        x, y = x - 0.01 * frozen.step(x, state), y - 0.01 * kept
    small = np.linalg.svd(x, compute_uv=False)[2:]
    assert small.max() < 0.02
    assert np.linalg.svd(y, compute_uv=False)[2:].max() > 0.3


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_half_the_quadratic_form_is_an_upper_bound_that_touches(p):
    """What makes a descent along the frozen gradient a descent of the power."""
    a = with_spectrum(1, 8, 6, np.linspace(2, 0, 6))
    options = {"p": p, "eps": 0.3, "eps_mode": "absolute"}
    state = frozen.refresh(a, **options)
    power = lambda x: schatten_power(x, method="svd", **options)  # noqa: E731
    form = lambda x: jnp.sum(x * frozen.step(x, state)) / 2  # noqa: E731
    for seed in range(5):
        b = a + jnp.asarray(np.random.default_rng(seed).normal(size=a.shape))
        assert power(b) - power(a) <= form(b) - form(a) + 1e-9


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_tiny_and_huge_matrices_in_float32(scale):
    a = with_spectrum(2, 6, 5, [3.0, 2.0, 1.0, 0.5, 0.2]).astype(jnp.float32)
    state = frozen.refresh(scale * a, p=0.5, eps=0.05)
    found = frozen.step(scale * a, state) / np.float32(scale**-0.5)
    np.testing.assert_allclose(found, exact(a, 0.5), rtol=1e-3, atol=1e-4)


def test_axes_dtype_empty_nan_and_bad_input():
    a = with_spectrum(3, 4, 3, [2.0, 1.0, 0.1])
    stacked = jnp.moveaxis(jnp.stack([a, 2 * a]), 0, 1)
    state = frozen.refresh(stacked, p=1.0, eps=0.1, axes=(0, 2))
    gradient = frozen.step(stacked, state, axes=(0, 2))
    np.testing.assert_allclose(gradient[:, 1], exact(2 * a, 1.0, 0.1), atol=1e-9)
    half = a.astype(jnp.bfloat16)
    state = frozen.refresh(half, p=1.0, eps=0.1)
    assert state.preconditioner.dtype == jnp.float32
    assert frozen.step(half, state).dtype == jnp.bfloat16
    empty = jnp.zeros((0, 3))
    assert frozen.step(empty, frozen.refresh(empty, p=1.0, eps=0.1)).shape == (0, 3)
    bad = frozen.refresh(a.at[0, 0].set(jnp.inf), p=1.0, eps=0.1)
    assert jnp.isnan(bad.preconditioner).all()
    with pytest.raises(ValueError, match="p must be >= 0"):
        frozen.refresh(a, p=-1.0, eps=0.1)
    with pytest.raises(ValueError, match="method must be one of 'gram', 'svd', got 'x'"):
        frozen.refresh(a, p=1.0, eps=0.1, method="x")
