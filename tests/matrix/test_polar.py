"""The polar factor against its definition: values, ranks, derivatives, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

import rankjax.matrix as rm
from tests.matrix.matrices import BATCH, SQUARE, relative_error, with_spectrum

GENERIC = with_spectrum(6, 5, 3, [3, 1.5, 0.2])
ENGINES = ["auto", "svd", "gram", "rational", "newton_schulz", "ladder"]


@pytest.mark.parametrize("a", [GENERIC, GENERIC.T, SQUARE["generic"], SQUARE["identity"]])
def test_the_polar_factor_of_scipy(a):
    side = "right" if a.shape[0] >= a.shape[1] else "left"
    expected = scipy.linalg.polar(np.asarray(a), side)[0]
    np.testing.assert_allclose(rm.polar(a), expected, atol=1e-12)
    for scale in (1e-20, 1e20):
        np.testing.assert_allclose(rm.polar(scale * a), expected, atol=1e-12)


def test_what_is_zero_stays_zero_and_the_rest_becomes_one():
    found = np.linalg.svd(jax.jit(rm.polar)(BATCH), compute_uv=False)
    ranks = np.linalg.matrix_rank(BATCH)
    np.testing.assert_allclose(found, np.arange(3) < ranks[:, None], atol=1e-12)
    # Of rank one: u v^T, whatever the other singular vectors are.
    u, v = np.array([0.6, 0.8]), np.array([1.0, 2.0, -2.0]) / 3
    np.testing.assert_allclose(
        rm.polar(5 * jnp.asarray(np.outer(u, v))), np.outer(u, v), atol=1e-12
    )
    assert rm.polar(jnp.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert np.isnan(rm.polar(BATCH.at[0, 0, 0].set(jnp.nan))[0]).all()
    assert np.isfinite(rm.polar(BATCH.at[0, 0, 0].set(jnp.nan))[1:]).all()


@pytest.mark.parametrize("method", ENGINES)
def test_every_engine_smooths_alike(method):
    sigma, eps = np.array([3.0, 1.5, 0.02]), 0.01
    a = with_spectrum(6, 5, 3, sigma)
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    expected = u * (sigma / np.sqrt(sigma**2 + (eps * 3) ** 2)) @ vt
    for x, tolerance in ((a, 1e-3), (a.astype(jnp.float32), 1e-3)):
        assert relative_error(rm.polar(x, eps=eps, method=method), expected) <= tolerance
    absolute = rm.polar(a, eps=0.03, eps_mode="absolute", method=method)
    assert relative_error(absolute, expected) <= 1e-3


def test_axes_batches_and_short_types():
    leaf = jnp.stack([GENERIC, 2 * GENERIC[::-1]]).transpose(1, 0, 2)  # (out, batch, in)
    found = rm.polar(leaf, axes=(0, 2))
    for i in range(2):
        np.testing.assert_allclose(found[:, i], rm.polar(leaf[:, i]), atol=1e-12)
    short = rm.polar(GENERIC.astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    # Computed in float32: but for the rounding of what goes in and comes out.
    assert relative_error(short, np.asarray(rm.polar(GENERIC))) < 0.02


@pytest.mark.parametrize("options", [{}, {"eps": 0.3, "eps_mode": "absolute"}])
@pytest.mark.parametrize("a", [GENERIC, GENERIC.T, SQUARE["repeated"]])
def test_one_derivative_and_no_second(a, options):
    f = lambda x: rm.polar(x, **options)  # noqa: E731
    check_grads(f, (a,), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="polar no second"):
        jax.hessian(lambda x: jnp.sum(f(x)))(a)


def test_the_derivative_where_the_rank_is_deficient():
    """It turns the factor; directions that would raise the rank have derivative 0."""
    a = jnp.diag(jnp.array([2.0, 0.0]))
    raised, turned = jnp.diag(jnp.array([0.0, 1.0])), jnp.array([[0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(jax.jvp(rm.polar, (a,), (raised,))[1], 0)
    np.testing.assert_allclose(jax.jvp(rm.polar, (a,), (turned,))[1], turned / 2, atol=1e-12)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="eps: got -1, must be >= 0"):
        rm.polar(GENERIC, eps=-1)
    with pytest.raises(ValueError, match="a must have at least 2 axes"):
        rm.polar(GENERIC[0])
    with pytest.raises(ValueError, match="method: got 'x', must be one of"):
        rm.polar(GENERIC, method="x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="eps must be at least"):
        rm.polar(GENERIC, eps=1e-6, method="rational")
