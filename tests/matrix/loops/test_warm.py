"""The carried eigenbasis: exact where it was refreshed, second order in the drift after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from rankjax.matrix import warm
from tests.matrix.matrices import BATCH, with_spectrum

SPECTRA = {
    "flat": np.linspace(1, 2, 12),
    "rank 3": np.where(np.arange(12) < 3, 1.0, 0.0),
    "decaying": np.arange(1, 13) ** -2.0,
}


def exact(a, p, eps=0.05, **options):
    f = lambda x: rm.schatten_power(x, p=p, eps=eps, method="svd", **options)  # noqa: E731
    return jax.value_and_grad(f)(a)


@pytest.mark.parametrize("shape", [(15, 12), (12, 15), (40, 12)])
@pytest.mark.parametrize("name", SPECTRA)
def test_error_is_of_second_order_in_the_drift(name, shape):
    a = with_spectrum(0, *shape, SPECTRA[name])  # pyright: ignore[reportCallIssue]
    noise = np.random.default_rng(0).normal(size=shape)
    noise = jnp.asarray(noise / np.linalg.norm(noise) * np.linalg.norm(a))
    step = jax.jit(lambda x, state: warm.step(x, state, p=0.5, eps=0.05, tolerance=jnp.inf))
    state = warm.refresh(a)
    errors, stale = [], []
    for drift in (0.0, 1e-3, 2e-3):
        b = a + drift * noise
        value, gradient, after = step(b, state)
        expected_value, expected = exact(b, 0.5)
        scale = np.linalg.norm(expected)
        errors.append(float(np.linalg.norm(gradient - expected) / scale))
        stale.append(float(np.linalg.norm(exact(a, 0.5)[1] - expected) / scale))
        np.testing.assert_allclose(value, expected_value, rtol=1e-4)
        np.testing.assert_array_equal(after.basis, state.basis)
        # An estimate from a few signs, with a margin in the tolerance.
        assert 0.4 * errors[-1] - 1e-9 < after.error < 3 * errors[-1] + 1e-9
    assert errors[0] < 1e-7
    assert errors[2] < 5.5 * errors[1] + 1e-7  # a quarter at half the drift
    assert errors[1] < 0.1 * stale[1]


@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
def test_exact_at_the_refresh_on_the_degenerate_set(eps_mode):
    value, gradient, _ = warm.step(BATCH, warm.init(BATCH), p=1.0, eps=0.05, eps_mode=eps_mode)
    total = jax.vmap(lambda a: exact(a, 1.0, eps_mode=eps_mode)[0])(BATCH)
    slope = jax.vmap(lambda a: exact(a, 1.0, eps_mode=eps_mode)[1])(BATCH)
    np.testing.assert_allclose(value, total, atol=1e-8)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_a_loop_with_refreshes_compiles_once():
    a = with_spectrum(1, 6, 5, [3.0, 2.0, 1.0, 0.5, 0.0])

    @jax.jit
    def descend(a):
        def body(carry, i):
            x, state = carry
            state = jax.lax.cond(i % 5 == 0, lambda: warm.refresh(x), lambda: state)
            value, gradient, state = warm.step(x, state, p=0.5, eps=0.05)
            return (x - 0.002 * gradient, state), value

        return jax.lax.scan(body, (a, warm.init(a)), jnp.arange(20))[1]

    values = descend(a)
    assert np.all(np.diff(values) < 0)


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("name", ["gaussian", "rank 3", "decaying"])
def test_a_fast_walk_stays_within_a_percent(name, p):
    """Where a basis that is only renewed now and then is far off."""
    speed = {"gaussian": 0.02, "rank 3": 0.002, "decaying": 0.004}[name]
    rng = np.random.default_rng(5)
    a = rng.normal(size=(14, 12)) if name == "gaussian" else with_spectrum(3, 14, 12, SPECTRA[name])
    size = float(np.linalg.norm(a))

    def walk(tolerance):
        step = jax.jit(lambda x, state: warm.step(x, state, p=p, eps=0.01, tolerance=tolerance))
        steps = np.random.default_rng(6).normal(size=(20, 14, 12))
        x, state, errors, renewed = jnp.asarray(a), warm.refresh(a), [], 0
        for move in steps:
            x = x + speed * size * move / np.linalg.norm(move)
            _, gradient, after = step(x, state)
            expected = exact(x, p, 0.01)[1]
            errors.append(float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected)))
            renewed += int(not jnp.array_equal(after.basis, state.basis))
            state = after
        return max(errors), renewed

    error, renewed = walk(0.01)
    assert error < 0.01
    assert 0 < renewed < 20
    old, never = walk(jnp.inf)
    assert old > 0.02
    assert never == 0


def test_a_vmap_renews_all_where_one_must_and_none_otherwise():
    """A condition under ``vmap`` would be a choice, with a decomposition at every step."""
    a = jnp.stack([with_spectrum(i, 8, 6, [3.0, 2.0, 1.0, 0.5, 0.2, 0.1]) for i in range(3)])
    states = warm.refresh(a)
    step = jax.vmap(lambda x, state: warm.step(x, state, p=0.5, eps=0.05))
    assert [e.primitive.name for e in jax.make_jaxpr(step)(a, states).eqns].count("cond") == 1
    _, _, same = step(1.1 * a, states)
    np.testing.assert_array_equal(same.basis, states.basis)
    # One far, the others as far as it takes for a renewed basis to be another one.
    noise = np.random.default_rng(0).normal(size=(3, 8, 6))
    moved = a + np.array([1e-6, 0.3, 1e-6])[:, None, None] * noise
    _, gradient, after = step(moved, states)
    assert all(not np.array_equal(x, y) for x, y in zip(after.basis, states.basis, strict=True))
    for x, g in zip(moved, gradient, strict=True):
        np.testing.assert_allclose(g, exact(x, 0.5)[1], rtol=1e-6, atol=1e-8)


def test_axes_dtype_empty_and_nan():
    def at_refresh(a, b, **axes):
        return warm.step(b, warm.refresh(a, **axes), p=1.0, eps=0.1, **axes)

    step = jax.jit(at_refresh, static_argnames="axes")
    a = with_spectrum(2, 4, 3, [2.0, 1.0, 0.1])
    stacked = jnp.moveaxis(jnp.stack([a, a]), 0, 1)
    _, gradient, _ = step(stacked, stacked, axes=(0, 2))
    assert gradient.shape == stacked.shape
    np.testing.assert_allclose(gradient[:, 1], exact(a, 1.0, 0.1)[1], atol=1e-9)
    low = a.astype(jnp.bfloat16)
    assert step(low, low)[1].dtype == jnp.bfloat16
    empty = jnp.zeros((0, 3))
    value, gradient, _ = step(empty, empty)
    assert (float(value), gradient.shape) == (0.0, (0, 3))
    value, gradient, _ = step(a, a.at[0, 0].set(jnp.nan))
    assert np.isnan(value)
    assert np.isnan(gradient).all()
    with pytest.raises(ValueError, match=r"p: got .*, must be >= 0"):
        warm.step(a, warm.refresh(a), p=-1.0, eps=0.1)
