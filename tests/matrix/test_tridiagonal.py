"""The tridiagonal form: what is read off it against NumPy, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.matrix import tridiagonal

SHAPES = [(1, 1), (2, 2), (33, 33), (3, 40, 40), (330, 330)]


def positive(shape, seed=0):
    a = np.random.default_rng(seed).normal(size=shape)
    return a @ np.swapaxes(a, -1, -2)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def case(request):
    g = positive(request.param)
    return g, jax.jit(tridiagonal.reduce)(jnp.asarray(g))


def test_the_largest_eigenvalue_comes_from_above(case):
    g, t = case
    expected = np.linalg.eigvalsh(g)[..., -1]
    found = jax.jit(tridiagonal.top_eigenvalue)(t)
    assert np.all(found >= expected * (1 - 1e-14))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_eigenvalues_are_counted(case):
    g, t = case
    points = np.array([1e-3, 0.3, 5.0, 40.0, 1e5])
    expected = np.sum(np.linalg.eigvalsh(g)[..., None] < points, axis=-2)
    found = jax.jit(tridiagonal.counts_below)(t, jnp.asarray(points))
    np.testing.assert_array_equal(found, expected)


def test_a_sum_of_shifted_inverses_comes_back(case):
    g, t = case
    n, batch = g.shape[-1], g.shape[:-2]
    shifts = np.array([0.1, 1.0, 10.0])
    weights = np.random.default_rng(1).normal(size=(*batch, 3))

    @jax.jit
    def total(t):
        found = tridiagonal.sum_of(tridiagonal.inverses(t, jnp.asarray(shifts)), weights)
        return tridiagonal.rotate(t, found)

    inverses = [np.linalg.inv(g + shift * np.eye(n)) for shift in shifts]
    expected = sum(weights[..., k, None, None] * x for k, x in enumerate(inverses))
    np.testing.assert_allclose(total(t), expected, atol=1e-11)


def test_a_matrix_that_is_tridiagonal_already_has_trivial_reflectors():
    g = np.diag(np.arange(1.0, 6)) + np.diag([0.0, 0.5, 0.0, 0.0], 1)
    g = jnp.asarray(g + g.T)
    t = tridiagonal.reduce(g)
    whole = jnp.diag(t.diagonal) + jnp.diag(t.off[:-1], 1) + jnp.diag(t.off[:-1], -1)
    np.testing.assert_allclose(tridiagonal.rotate(t, whole), g, atol=1e-14)
