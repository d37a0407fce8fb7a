"""The largest eigenvalue by the three-term Lanczos recurrence, against ``numpy.linalg``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix.engines._top_eigenvalue import top_eigenvalue, units
from tests.matrix.matrices import with_spectrum

N = 200
INDEX = np.arange(1, N + 1)
SPECTRA = {
    "flat": np.linspace(1, 2, N),
    "one value": np.ones(N),
    "two values": np.where(INDEX <= N // 2, 1.0, 1e-3),
    "pair at the top": np.where(INDEX <= 2, 1.0, 0.9),
    "polynomial": INDEX**-2.0,
    "rank 1": (INDEX <= 1) * 1.0,
    "rank 8": (INDEX <= 8) * INDEX,
}


def gram(spectrum, dtype):
    a = np.asarray(with_spectrum(0, N, N, spectrum), np.float64)
    return jnp.asarray(a.T @ a, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_it_is_a_lower_bound_and_close(name, dtype):
    m = gram(SPECTRA[name], dtype)
    exact = np.max(SPECTRA[name]) ** 2
    found = float(jax.jit(top_eigenvalue)(m))
    rounding = N * float(jnp.finfo(dtype).eps)  # of sums of N products
    assert found <= exact * (1 + rounding)
    np.testing.assert_allclose(found, exact, rtol=5e-3)


def test_copies_of_a_value_on_their_way_to_it_do_not_count_in_float64():
    """Steps enough that the vectors are no longer orthogonal: the largest value comes back.

    In one matrix of six or so such a copy is just then 1e-5 or so away from it.
    """
    a = jnp.stack([with_spectrum(seed, 24, 24, INDEX[:24] ** -2.0) for seed in range(40)])
    found = jax.jit(top_eigenvalue)(jnp.swapaxes(a, -1, -2) @ a)
    np.testing.assert_allclose(found, np.ones(40), rtol=1e-7)


def test_members_of_a_batch_are_apart_and_zero_and_nan_stay():
    m = gram(SPECTRA["polynomial"], jnp.float32)
    found = top_eigenvalue(jnp.stack([m, 0 * m, m.at[3, 3].set(jnp.nan), 4 * m]))
    np.testing.assert_allclose(found, [1, 0, np.nan, 4], rtol=1e-5)


def test_fewer_rows_than_steps_are_exact():
    a = with_spectrum(1, 3, 3, [3.0, 2.0, 1.0])
    np.testing.assert_allclose(top_eigenvalue(a.T @ a), 9.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("mode", "eps", "scale", "smoothing"),
    [("relative", 0.5, 6.0, 0.5), ("absolute", 6.0, 6.0, 0.5), ("absolute", 24.0, 12.0, 1.0)],
)
def test_the_units_are_the_largest_value_or_an_absolute_eps_beyond_it(mode, eps, scale, smoothing):
    """sigma_1 is 12, or 6 in the unit 2 that the Gram matrix comes in."""
    a = with_spectrum(1, 3, 3, [6.0, 2.0, 1.0])
    unit = jnp.asarray(2.0)
    found = units(SchattenPower(mode, 0.0), a.T @ a, unit, jnp.asarray(eps), 1e-3)
    np.testing.assert_allclose(found, [6.0, scale, smoothing], rtol=1e-9)


def test_a_smaller_eps_is_raised():
    a = with_spectrum(1, 3, 3, [6.0, 2.0, 1.0])
    unit, eps = jnp.asarray(1.0), jnp.asarray(1e-5)
    _, _, found = units(SchattenPower("relative", 0.0), a.T @ a, unit, eps, 1e-3)
    assert found == 1e-3
