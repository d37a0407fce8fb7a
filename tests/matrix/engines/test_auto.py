"""Every engine against the SVD, and the choice that ``auto`` makes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from rankjax.matrix._derivative_rule import spectral_first
from rankjax.matrix._scalar_power import SchattenPower
from rankjax.matrix.engines import _auto, resolve, threshold
from rankjax.matrix.engines._gram import GRAM, GRAM_POLISHED
from rankjax.matrix.engines._ladder import LADDER
from rankjax.matrix.engines._rational import RATIONAL
from rankjax.matrix.engines._svd import SVD_ENGINE
from tests.matrix.matrices import with_spectrum

SPECTRA = {
    "flat": np.linspace(1, 2, 24),
    "rank 4": np.where(np.arange(24) < 4, 1.0, 0.0),
    "decaying": np.arange(1, 25) ** -2.0,
}
STACK = jnp.stack([with_spectrum(i, 32, 24, s) for i, s in enumerate(SPECTRA.values())])


def value_and_grad(method, a, p, eps):
    f = lambda x: jnp.sum(rm.schatten_power(x, p=p, eps=eps, method=method))  # noqa: E731
    return jax.jit(jax.value_and_grad(f))(a)


@pytest.mark.parametrize(
    ("dtype", "method", "p", "tolerance"),
    [
        (jnp.float64, "gram", 0.5, 1e-9),
        (jnp.float64, "gram", 1.0, 1e-9),
        (jnp.float64, "newton_schulz", 0.5, 1e-5),
        (jnp.float64, "newton_schulz", 1.0, 1e-5),
        (jnp.float64, "newton_schulz", 1.5, 1e-5),
        (jnp.float32, "gram", 0.5, 2e-3),
        (jnp.float32, "auto", 0.5, 3e-4),
        (jnp.float64, "auto", 0.5, 1e-9),
        (jnp.float32, "gram", 1.0, 1e-3),
        (jnp.float32, "newton_schulz", 1.0, 1e-3),
        (jnp.float32, "newton_schulz", 0.5, 3e-3),
        (jnp.float32, "ladder", 0.3, 1e-3),
        (jnp.float32, "ladder", 0.5, 3e-4),
        (jnp.float32, "ladder", 1.0, 2e-4),
        (jnp.float64, "ladder", 1.9, 2e-4),
    ],
)
def test_gradients_of_the_fast_engines(dtype, method, p, tolerance):
    for a in (STACK, jnp.swapaxes(STACK, -1, -2)):
        value, gradient = value_and_grad(method, a.astype(dtype), p, 0.01)
        exact, expected = value_and_grad("svd", a, p, 0.01)
        assert gradient.dtype == dtype
        norm = np.linalg.norm(expected, axis=(-2, -1))
        error = np.linalg.norm(np.asarray(gradient, float) - expected, axis=(-2, -1)) / norm
        assert np.all(error <= tolerance), error
        np.testing.assert_allclose(value, exact, rtol=tolerance)


def test_a_known_p_and_a_traced_one_agree_in_the_newton_schulz_engine():
    a = STACK[0]
    f = lambda p: rm.schatten_power(a, p=p, eps=0.05, method="newton_schulz")  # noqa: E731
    np.testing.assert_allclose(f(1.0), jax.jit(f)(1.0), rtol=1e-5)


@pytest.mark.parametrize("method", ["gram", "newton_schulz"])
def test_zero_nan_and_infinite_members_do_not_touch_the_others(method):
    good = with_spectrum(0, 4, 3, [2.0, 1.0, 0.5])
    a = jnp.stack([good, 0 * good, good.at[0, 0].set(jnp.nan), good.at[0, 0].set(jnp.inf)])
    f = lambda x: rm.schatten_power(x, p=1.0, eps=0.1, method=method)  # noqa: E731
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(f)))(a)
    expected, slope = jax.value_and_grad(f)(good)
    np.testing.assert_allclose(value[:2], [expected, 0], atol=1e-9)
    np.testing.assert_allclose(gradient[0], slope, atol=1e-9)
    assert np.all(gradient[1] == 0)
    assert np.all(np.isnan(value[2:]))
    assert np.all(np.isnan(gradient[2:]))


def test_scale_is_no_matter_in_float32():
    for method in ("gram", "newton_schulz"):
        unit = value_and_grad(method, STACK.astype(jnp.float32), 1.0, 0.1)[1]
        for scale in (1e-20, 1e20):
            found = value_and_grad(method, (STACK * scale).astype(jnp.float32), 1.0, 0.1)[1]
            np.testing.assert_allclose(found, unit, atol=2e-4)


LEAST = {"gram": 1.4901161e-08, "rational": 8e-3, "newton_schulz": 1e-5, "ladder": 8e-3}


@pytest.mark.parametrize("method", LEAST)
def test_an_eps_below_what_an_engine_can_is_refused_or_where_traced_raised(method):
    a = with_spectrum(0, 8, 8, np.linspace(0.5, 1, 8))
    least = LEAST[method]
    f = lambda e, m=method: rm.schatten_power(a, p=0.5, eps=e, method=m)  # noqa: E731
    at_least = f(1.0000001 * least)
    np.testing.assert_allclose(jax.jit(f)(least / 100), at_least, rtol=1e-6)
    for small in (0.99 * least, jnp.asarray(0.99 * least), least / 1e6):
        with pytest.raises(ValueError, match=f"eps must be at least .* for method='{method}'"):
            f(small)
    stack = jnp.stack([a, a])
    with pytest.raises(ValueError, match="eps must be at least"):
        rm.schatten_power(stack, p=0.5, eps=jnp.array([1.0, least / 2]), method=method)
    with pytest.raises(ValueError, match="eps must be at least"):
        rm.schatten_norm(a, p=0.5, eps=least / 2, method=method)
    # An engine that can is found by itself, and an absolute eps has no unit to be known in.
    np.testing.assert_allclose(f(least / 2, "auto"), f(least / 2, "svd"), rtol=1e-6)
    assert np.isfinite(rm.schatten_power(a, p=0.5, eps=1e-9, eps_mode="absolute", method=method))


def choose(**change):
    call = {"shape": (64, 48), "dtype": jnp.float32, "p": 0.5, "eps": 0.01, "eps_mode": "relative"}
    return resolve("auto", **(call | change))


def test_auto_follows_its_docstring():
    least, on = threshold(jnp.float32), _auto.by_platform
    assert choose(eps=0.0) is SVD_ENGINE
    assert choose(eps=1e-3) is SVD_ENGINE
    assert choose(eps=1e-3, dtype=jnp.float64, p=1.5) is GRAM
    assert choose(dtype=jnp.float64) is GRAM_POLISHED
    assert choose() is on(GRAM_POLISHED, LADDER)
    assert choose(p=1.0) is on(GRAM, LADDER)
    assert choose(p=0.49) is GRAM_POLISHED
    assert choose(eps=None) is _auto.smoothed_enough(on(GRAM_POLISHED, LADDER), least)
    large = {"shape": (3, 512, 256)}
    assert choose(**large) is choose(**large, p=1.9) is on(RATIONAL, LADDER)
    assert choose(**large, p=0.49) is GRAM_POLISHED
    expected = on(_auto.in_range(RATIONAL, 0.5, None), _auto.in_range(LADDER, 0.5, None))
    assert choose(**large, p=None) is expected
    assert choose(**large, eps=None) is _auto.smoothed_enough(on(RATIONAL, LADDER), least)
    assert choose(**large, p=3.0) is choose(**large, p=1.0, dtype=jnp.float64) is GRAM


def test_an_engine_is_that_of_the_platform_that_is_compiled_for():
    """Whatever the default device: on accelerators there is no decomposition."""
    a = jnp.zeros((40, 30), jnp.float32)
    functions = {
        "power": jax.grad(partial(rm.schatten_power, p=0.5, eps=0.01)),
        "flow": partial(rm.schatten_flow, p=0.5, eps=0.01, weight=0.1),
    }
    for function in functions.values():
        traced = jax.jit(function).trace(a)
        on_gpu, on_cpu = (
            traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cuda", "cpu")
        )
        assert "syevd" in on_cpu
        assert "sol" not in on_gpu.replace("resol", "")


@pytest.mark.parametrize(("p", "engine"), [(0.3, GRAM), (0.7, RATIONAL), (2.5, GRAM)])
def test_auto_looks_at_a_traced_p_when_the_program_runs(p, engine):
    function = SchattenPower("relative", 1e-12)

    @partial(jax.jit, static_argnums=0)
    def gradient(engine, p):
        exponent, eps = jnp.full(3, p), jnp.full(3, 0.05)
        return spectral_first(function, engine, STACK, exponent, eps).gradient

    found = gradient(_auto.in_range(RATIONAL, 0.5, None), p)
    np.testing.assert_allclose(found, gradient(engine, p), rtol=1e-9, atol=1e-11)
    other = GRAM if engine is RATIONAL else RATIONAL
    assert np.abs(found - gradient(other, p)).max() > 1e-5


def test_under_vmap_a_choice_at_run_time_stays_one():
    a = STACK.astype(jnp.float32)
    f = jax.grad(lambda a, eps: rm.schatten_power(a, p=0.5, eps=eps))
    mapped = jax.vmap(f, in_axes=(0, None))
    assert " cond[" in str(jax.make_jaxpr(mapped)(a, 0.05))
    expected = jnp.stack([f(x, 0.05) for x in a])
    np.testing.assert_allclose(mapped(a, 0.05), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
def test_auto_with_a_traced_eps_is_right_on_both_sides_of_the_threshold(eps_mode):
    a = STACK.astype(jnp.float32)

    @jax.jit
    def gradient(a, eps):
        f = lambda x: jnp.sum(rm.schatten_power(x, p=0.5, eps=eps, eps_mode=eps_mode))  # noqa: E731
        return jax.grad(f)(a)

    for eps in (0.0, 1e-3, 0.2):
        f = lambda x, e=eps: jnp.sum(  # noqa: E731
            rm.schatten_power(x, p=0.5, eps=e, eps_mode=eps_mode, method="svd")
        )
        expected = jax.grad(f)(STACK.astype(jnp.float32))
        np.testing.assert_allclose(gradient(a, eps), expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("p", [2, 2.0])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_the_square_needs_no_decomposition(p, shape):
    a = with_spectrum(3, *shape, [1.5, 1.0, 0.0])  # pyright: ignore[reportCallIssue]
    f = lambda x: rm.schatten_power(x, p=p)  # noqa: E731
    np.testing.assert_allclose(f(a), 1.5**p + 1, rtol=1e-12)
    assert "eigh" not in str(jax.make_jaxpr(f)(a))
    assert "svd" not in str(jax.make_jaxpr(f)(a))
    traced = jax.hessian(lambda x, p: rm.schatten_power(x, p=p, method="svd"))
    np.testing.assert_allclose(jax.hessian(f)(a), jax.jit(traced)(a, 2.0), atol=1e-8)
    assert np.isnan(f(a.at[0, 0].set(jnp.inf)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "fast"}, "method: got .*, must be one of"),
        ({"eps_mode": "both"}, "eps_mode: got .*, must be one of"),
        ({"p": -1}, "p: got .*, must be >= 0"),
        ({"eps": -0.1}, "eps: got .*, must be >= 0"),
        ({"p": 2.5, "eps": 0.1, "method": "newton_schulz"}, r"p must be in \(0, 2\)"),
        ({"eps": 0.0, "method": "newton_schulz"}, "eps must be > 0"),
        ({"p": 2.5, "eps": 0.1, "method": "rational"}, r"p must be in \(0, 2\)"),
        ({"eps": 0.0, "method": "rational"}, "eps must be > 0"),
        ({"p": 2.5, "eps": 0.1, "method": "ladder"}, r"p must be in \(0, 2\)"),
        ({"axes": (0, 0)}, "same axis twice"),
        ({"axes": (0, 2)}, "axes must be"),
        ({"axes": 1}, "axes must be"),
    ],
)
def test_wrong_arguments_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        rm.schatten_power(jnp.eye(3), **({"p": 1.0} | change))
