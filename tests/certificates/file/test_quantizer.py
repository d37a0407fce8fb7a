"""The grid of steps, rounding with its gradient, and the code length as a loss term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankjax.certificates.file._quantizer import grid_exponent, grid_step, rate, round_through
from rankjax.certificates.file._symbols import code_length, coin_nats

jit_rate = jax.jit(rate)
gradient_of_rate = jax.jit(jax.grad(rate))


@settings(deadline=None)
@given(st.integers(-400, 400))
def test_grid_steps_are_powers_of_two_to_the_last_digit(exponent):
    assert grid_step(exponent) == pytest.approx(2 ** (exponent / 8), rel=3e-16)
    assert grid_step(exponent + 8) == 2 * grid_step(exponent)
    assert grid_exponent(grid_step(exponent)) == exponent


def test_a_step_is_positive():
    with pytest.raises(ValueError, match="step: got 0, must be > 0"):
        grid_exponent(0)


def test_rounding_passes_gradients_through():
    values = jnp.array([-1.6, -0.2, 0.5, 2.4])
    np.testing.assert_array_equal(round_through(values), [-2, 0, 0, 2])
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(round_through(v) ** 2)))(values)
    np.testing.assert_allclose(gradient, [-4, 0, 0, 4])
    assert round_through(values.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-8, 8), min_size=20, max_size=20))
def test_rate_is_the_code_length_at_integers(values):
    array = np.array(values)
    zeros = int(np.sum(array == 0))
    # with one coin for all zeros; the code itself may choose another way, and says which
    ours = float(jit_rate(jnp.asarray(values, float)))
    length = code_length(array)
    assert ours >= length - np.log(3) - 1e-9
    magnitude = np.abs(array[array != 0])
    expected = coin_nats(zeros, len(magnitude))
    negative = int(np.sum(array < 0))
    expected += coin_nats(len(magnitude) - negative, negative)
    for level in range(1, 10):
        above = int(np.sum(magnitude > level))
        expected += coin_nats(int(np.sum(magnitude >= level)) - above, above)
    assert ours == pytest.approx(expected, abs=1e-9)


def test_rate_falls_when_a_lone_entry_shrinks():
    rest = jnp.zeros(200)
    rates = jax.jit(jax.vmap(lambda v: rate(jnp.append(rest, v))))
    assert np.all(np.diff(rates(jnp.linspace(0, 1, 25))) > 0)
    assert np.all(np.diff(rates(jnp.arange(9.0))) > 0)


def test_rate_has_the_gradient_of_finite_differences():
    values = jax.random.normal(jax.random.key(0), (40,), float) * 1.3
    gradient = gradient_of_rate(values)
    for i in range(0, 40, 7):
        moved = jnp.zeros(40).at[i].set(1e-6)
        difference = (jit_rate(values + moved) - jit_rate(values - moved)) / 2e-6
        assert float(gradient[i]) == pytest.approx(float(difference), abs=1e-5)


def test_rate_in_float32_and_of_nothing():
    values = jnp.asarray([0.3, -1.2, 0.0], jnp.float32)
    assert jit_rate(values).dtype == jnp.float32
    assert np.all(np.isfinite(gradient_of_rate(values)))
    assert np.all(np.isfinite(gradient_of_rate(jnp.zeros(3, jnp.float32))))
    assert float(rate(jnp.zeros(0))) == pytest.approx(0, abs=1e-12)
