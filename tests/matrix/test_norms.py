"""Norms and ranks: values against NumPy, invariances, conventions, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rankjax.matrix as rm
from rankjax.matrix import spectrum
from tests.matrix.matrices import (
    BATCH,
    ONE,
    TALL,
    WIDE,
    finite_difference,
    numpy_power,
    with_spectrum,
)

ALL = {
    "power": lambda a, p: rm.schatten_power(a, p=p),
    "smoothed": lambda a, p: rm.schatten_power(a, p=p, eps=0.1),
    "norm": lambda a, p: rm.schatten_norm(a, p=p),
    "spectral": lambda a, p: rm.spectral_norm(a) + 0 * p,
    "frobenius": lambda a, p: rm.frobenius_norm(a) + 0 * p,
    "stable": lambda a, p: rm.stable_rank(a) + 0 * p,
    "soft": lambda a, p: rm.soft_rank(a, p=p),
    "effective": lambda a, p: rm.effective_rank(a) + 0 * p,
    "numerical": lambda a, p: rm.numerical_rank(a) + 0 * p,
}
DEGREE = {"power": None, "smoothed": None, "norm": 1, "spectral": 1, "frobenius": 1}


@jax.jit
def everything(a, p):
    return {name: f(a, p) for name, f in ALL.items()}


@pytest.mark.parametrize("a", [BATCH, TALL, WIDE, ONE], ids=["batch", "tall", "wide", "1x1"])
def test_values_against_numpy(a):
    s = np.linalg.svd(np.asarray(a), compute_uv=False)
    top = s[..., :1]
    zero = top[..., 0] == 0
    safe = np.where(top == 0, 1, top)
    q = s / np.where(s.sum(-1, keepdims=True) == 0, 1, s.sum(-1, keepdims=True))
    entropy = -np.sum(np.where(q > 1e-14, q * np.log(np.where(q > 1e-14, q, 1)), 0), axis=-1)
    for p in (0.0, 0.5, 1.0, 2.0, 3.0):
        found = everything(a, p)
        smoothed = np.sum((s**2 + (0.1 * top) ** 2) ** (p / 2) - (0.1 * safe) ** p, axis=-1)
        expected = {
            "power": numpy_power(a, p),
            "smoothed": np.where(zero, 0, smoothed),
            "spectral": top[..., 0],
            "frobenius": np.sqrt(np.sum(s**2, axis=-1)),
            "stable": np.sum((s / safe) ** 2, axis=-1),
            "soft": numpy_power(a / safe[..., None], p),
            "effective": np.where(zero, 0, np.exp(entropy)),
            "numerical": np.sum(s > 1e-13 * top, axis=-1),
        }
        if p > 0:
            expected["norm"] = numpy_power(a, p) ** (1 / p)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sigma=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    p=st.floats(0.2, 3),
    factor=st.floats(0.01, 100),
)
def test_invariances(seed, sigma, p, factor):
    a = with_spectrum(seed, 4, 3, sorted(sigma, reverse=True))
    rotation = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(4, 4)))[0]
    base = everything(a, p)
    rotated = everything(jnp.asarray(rotation) @ a, p)
    scaled = everything(a * factor, p)
    turned = {name: f(a.T, p) for name, f in ALL.items()}
    for name, value in base.items():
        degree = p if name in ("power", "smoothed") else DEGREE.get(name, 0)
        np.testing.assert_allclose(rotated[name], value, rtol=1e-7, err_msg=name)
        np.testing.assert_allclose(turned[name], value, rtol=1e-7, err_msg=name)
        np.testing.assert_allclose(scaled[name], value * factor**degree, rtol=1e-7, err_msg=name)
    # |A|_{S_p} falls in p, soft ranks lie between 1 and the rank and fall in p.
    other = everything(a, p + 0.3)
    assert other["norm"] <= base["norm"] * (1 + 1e-9)
    assert other["soft"] <= base["soft"] * (1 + 1e-9)
    for name in ("soft", "stable", "effective"):
        assert 1 - 1e-9 <= base[name] <= base["numerical"] + 1e-9


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_norms_and_ranks_at_any_scale_in_float32(scale):
    a = with_spectrum(0, 4, 3, [2.0, 1.0, 0.5])
    base = everything(a, 0.5)
    found = everything((a * scale).astype(jnp.float32), jnp.float32(0.5))
    for name, value in base.items():
        degree = 0.5 if name in ("power", "smoothed") else DEGREE.get(name, 0)
        np.testing.assert_allclose(np.float64(found[name]) / scale**degree, value, rtol=1e-5)
    large = rm.schatten_norm((a * scale).astype(jnp.float32), p=60.0)
    np.testing.assert_allclose(np.float64(large) / scale, 2, rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.8])
def test_up_to_the_largest_float32(fraction):
    """Beyond 8.5e37 the reciprocal of sigma_1 is subnormal: a quotient may be flushed to 0."""
    a = with_spectrum(0, 4, 3, [1.0, 0.5, 0.25])
    scale = fraction * float(jnp.finfo(jnp.float32).max)
    large = (a * scale).astype(jnp.float32)
    base, found = everything(a, 0.5), everything(large, jnp.float32(0.5))
    for name in sorted(set(ALL) - {"norm", "frobenius"}):  # which overflow
        degree = 0.5 if name in ("power", "smoothed") else DEGREE.get(name, 0)
        np.testing.assert_allclose(np.float64(found[name]) / scale**degree, base[name], rtol=1e-5)
    for method in ("gram", "rational", "newton_schulz", "ladder"):
        f = lambda x, m=method: rm.schatten_power(x, p=0.5, eps=0.05, method=m)  # noqa: E731  # pyright: ignore[reportArgumentType]
        value, slope = jax.value_and_grad(f)(large)
        exact, expected = jax.value_and_grad(f)(a)
        np.testing.assert_allclose(np.float64(value) / scale**0.5, exact, rtol=3e-3)
        np.testing.assert_allclose(np.asarray(slope, float) * scale**0.5, expected, atol=3e-3)
    top = with_spectrum(0, 4, 3, [1.0, 1.0, 0.0]).astype(jnp.float32)
    expected = rm.log_det(top, eps=1.0)
    np.testing.assert_allclose(rm.log_det(top * np.float32(scale), eps=1.0), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a = jnp.diag(jnp.array([4.0, 1.0, 0.25])).astype(dtype)
    for name, f in ALL.items():
        value = f(a, jnp.asarray(0.5, dtype))
        assert value.dtype == dtype, name
        exact = f(a.astype(jnp.float32), jnp.float32(0.5))
        np.testing.assert_allclose(np.float32(value), exact, rtol=1e-2)
    gradient = jax.grad(lambda x: rm.schatten_power(x, p=0.5, eps=0.1).astype(jnp.float32))(a)
    assert gradient.dtype == dtype
    assert np.isfinite(np.float32(gradient)).all()


def test_empty_matrices_are_zero():
    for shape in [(0, 3), (3, 0), (2, 0, 3), (0, 3, 3)]:
        for name, f in ALL.items():
            value = f(jnp.zeros(shape), 0.5)
            assert value.shape == shape[:-2], name
            assert not np.any(value)


def test_nan_in_nan_out():
    for bad in (jnp.nan, jnp.inf):
        a = jnp.eye(3).at[1, 1].set(bad)
        for name, f in ALL.items():
            assert np.isnan(f(a, 0.5)), name
            if name != "numerical":
                assert np.isnan(jax.grad(f)(a, 0.5)).any(), name


def test_axes_pick_the_matrix():
    a = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)))
    moved = jnp.moveaxis(a, 1, 0)
    for f in (rm.nuclear_norm, rm.spectral_norm, rm.frobenius_norm, rm.stable_rank):
        np.testing.assert_allclose(f(a, axes=(0, 2)), f(moved), rtol=1e-12)
        np.testing.assert_allclose(f(a, axes=(2, 0)), f(moved), rtol=1e-12)
    assert rm.singular_values(a, axes=(0, 1)).shape == (4, 3)


def test_norm_derivatives_and_the_convention_at_zero():
    a = with_spectrum(0, 3, 3, [2.0, 2.0, 1.0])
    for p in (0.5, 1.0, 3.0, 6.0):
        f = jax.jit(lambda x, p=p: rm.schatten_norm(x, p=p, eps=0.2, eps_mode="absolute"))
        expected = finite_difference(f, a)
        np.testing.assert_allclose(jax.grad(f)(a).ravel(), expected, atol=1e-7)
        assert not np.any(jax.grad(f)(jnp.zeros((3, 3))))
    for f in (rm.frobenius_norm, rm.spectral_norm, rm.stable_rank, rm.effective_rank):
        assert not np.any(jax.grad(f)(jnp.zeros((3, 3))))
    # In a batch, one zero member takes nothing from the others.
    pair = jnp.stack([jnp.zeros((3, 3)), a])
    for f in (rm.frobenius_norm, lambda x: rm.schatten_norm(x, p=0.5)):
        batched = jax.grad(lambda x, f=f: jnp.sum(f(x)))(pair)
        np.testing.assert_allclose(batched[1], jax.grad(f)(a), atol=1e-12)
        assert not np.any(batched[0])


def test_hessian_of_the_frobenius_norm():
    a = with_spectrum(0, 2, 2, [2.0, 1.0])
    x = np.asarray(a).ravel()
    norm = np.linalg.norm(x)
    expected = np.eye(4) / norm - np.outer(x, x) / norm**3
    np.testing.assert_allclose(jax.hessian(rm.frobenius_norm)(a).reshape(4, 4), expected)


def test_infinite_p_is_the_spectral_norm_and_large_p_tends_to_it():
    assert rm.schatten_norm(TALL, p=jnp.inf) == rm.spectral_norm(TALL)
    np.testing.assert_allclose(rm.schatten_norm(WIDE, p=400.0), rm.spectral_norm(WIDE), rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_soft_rank_at_infinity_is_the_multiplicity(dtype):
    a = jnp.asarray(np.random.default_rng(0).normal(size=(300, 6, 6)), dtype)
    found = rm.soft_rank(a, p=jnp.inf)
    assert np.all((found >= 1) & (found <= 6))
    sigma = jnp.array([[3.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype)
    np.testing.assert_array_equal(spectrum.soft_rank(sigma, p=jnp.inf), [2, 0])


def test_functions_of_a_known_spectrum_agree_with_those_of_the_matrix():
    sigma = rm.singular_values(BATCH)
    rtol = spectrum.default_rtol(3, sigma.dtype)
    for p in (0.0, 0.5, 2.0):
        for eps_mode in ("relative", "absolute"):
            for eps in (0.0, 0.1):
                options = {"p": p, "eps": eps, "eps_mode": eps_mode}
                np.testing.assert_allclose(
                    spectrum.power_sum(sigma, rtol=rtol, **options),
                    rm.schatten_power(BATCH, method="svd", **options),
                    atol=1e-12,
                )
                np.testing.assert_allclose(
                    spectrum.soft_rank(sigma, rtol=rtol, **options), rm.soft_rank(BATCH, **options)
                )

    def through_sigma(a):
        return jnp.sum(spectrum.power_sum(rm.singular_values(a), p=0.5, eps=0.1))

    direct = jax.grad(lambda a: jnp.sum(rm.schatten_power(a, p=0.5, eps=0.1, method="svd")))(BATCH)
    np.testing.assert_allclose(jax.grad(through_sigma)(BATCH), direct, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rm.nuclear_norm(jnp.ones(3)), "at least 2 axes"),
        (lambda: rm.nuclear_norm(jnp.ones((3, 3), int)), "real floating point"),
        (lambda: rm.nuclear_norm(jnp.ones((3, 3), complex)), "real floating point"),
        (lambda: rm.schatten_norm(jnp.eye(2), p=0), "p: got .*, must be > 0"),
        (lambda: rm.schatten_norm(jnp.eye(2), p=-1.0), "p: got .*, must be > 0"),
        (lambda: rm.soft_rank(jnp.eye(2), p=1.0, eps=-1.0), "eps: got .*, must be >= 0"),
        (lambda: rm.numerical_rank(jnp.eye(2), rtol=-1.0), "rtol: got .*, must be >= 0"),
        (lambda: rm.spectral_norm(jnp.eye(2), method="gram"), "method: got .*, must be one of"),  # pyright: ignore[reportArgumentType]
        (lambda: rm.frobenius_norm(jnp.eye(2), axes=(0, 5)), "axes must be"),
    ],
)
def test_wrong_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
