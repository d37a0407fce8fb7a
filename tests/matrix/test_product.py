"""The power of a product from its factors, against the power of the product formed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.matrix import product_schatten_power, schatten_power


def factors(m, r, n, batch=(), seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(*batch, m, r))), jnp.asarray(
        rng.normal(size=(*batch, r, n))
    )


def formed(b, a, **options):
    return schatten_power(b @ a, method="svd", **options)


@pytest.mark.parametrize("shape", [(9, 3, 7), (7, 3, 9), (2, 4, 3), (5, 1, 1)])
@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_value_and_both_gradients(shape, eps_mode, p):
    b, a = factors(*shape)
    options = {"p": p, "eps": 0.1, "eps_mode": eps_mode}
    value, found = jax.value_and_grad(product_schatten_power, (0, 1))(b, a, method="svd", **options)
    expected, slopes = jax.value_and_grad(formed, (0, 1))(b, a, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    for g, e in zip(found, slopes, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("which", ["b", "a", "both", "rank one"])
def test_rank_deficient_factors(which):
    """B = 0 is how LoRA starts; the derivative of a QR decomposition is NaN there."""
    b, a = factors(6, 3, 5)
    b = 0 * b if which in ("b", "both") else b
    a = 0 * a if which in ("a", "both") else a
    if which == "rank one":
        b = b.at[:, 1:].set(b[:, :1])
    options = {"p": 0.5, "eps": 0.3, "eps_mode": "absolute"}
    for argument in (0, 1):
        found = jax.grad(product_schatten_power, argument)(b, a, method="svd", **options)
        expected = jax.grad(formed, argument)(b, a, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_transformations_and_derivatives_by_p_and_eps():
    b, a = factors(6, 3, 5, batch=(2,))
    options = {"eps_mode": "absolute", "method": "svd"}

    def total(function, p, eps):
        return jnp.sum(function(b, a, p=p, eps=eps, eps_mode="absolute"))

    found = jax.jit(jax.grad(lambda p, e: total(product_schatten_power, p, e), (0, 1)))(0.7, 0.2)
    expected = jax.jit(jax.grad(lambda p, e: total(formed, p, e), (0, 1)))(0.7, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one = lambda b, a: product_schatten_power(b, a, p=0.7, eps=0.2, **options)  # noqa: E731  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(jax.vmap(one)(b, a), one(b, a), rtol=1e-12)
    _, tangent = jax.jvp(one, (b, a), (2 * b, -a))
    _, expected = jax.jvp(
        lambda b, a: formed(b, a, p=0.7, eps=0.2, eps_mode="absolute"), (b, a), (2 * b, -a)
    )
    np.testing.assert_allclose(tangent, expected, rtol=1e-8)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        jax.hessian(lambda b: jnp.sum(one(b, a)))(b)


def test_dtypes_empty_and_bad_shapes():
    b, a = factors(6, 3, 5)
    half = product_schatten_power(b.astype(jnp.bfloat16), a.astype(jnp.bfloat16), p=1.0, eps=0.1)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(half), formed(b, a, p=1.0, eps=0.1), rtol=0.03)
    assert product_schatten_power(jnp.zeros((4, 0)), jnp.zeros((0, 3)), p=1.0) == 0
    with pytest.raises(ValueError, match=r"b and a: got shapes \(6, 3\) and \(5, 3\)"):
        product_schatten_power(b, a.T, p=1.0)
