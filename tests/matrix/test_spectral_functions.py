"""General spectral functions: closed forms and derivatives on the degenerate set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from rankjax.matrix._divided_differences import _difference
from tests.matrix.matrices import BATCH, DEGENERATE, TALL, WIDE, finite_difference, with_spectrum

GAPS = jnp.stack([with_spectrum(2, 3, 3, [2, 2 - 10.0**-g, 1]) for g in (3, 5, 7, 10, 12)])
CASES = DEGENERATE | {"gaps": GAPS}


def log_phi(s, c):
    return jnp.log1p(c * s * s)


def odd(s, c):
    return s / (1 + c * s * s)


def power_phi(s, p, e):
    return (s * s + e * e) ** (p / 2) - e**p


@pytest.mark.parametrize("length", [1.0, 0.03, 1e-3, 1e-7])
def test_divided_differences_of_a_rational_function_in_closed_form(length):
    c = length**-2
    rng = np.random.default_rng(0)
    base = np.concatenate([length * 10.0 ** rng.uniform(-14, 2, 6), rng.uniform(0, 1, 2), [0.0]])
    x = np.concatenate([base, base * (1 + 10.0 ** rng.uniform(-15, -1, base.size)), base])
    x = x * rng.choice([-1, 1], x.size)
    # s / (1 + c s^2) is a sum of two poles at +-i length, whose divided differences are products.
    pole = 1 / (x - 1j * length)
    first = -np.real(pole[:, None] * pole) * length**2
    found = jax.jit(lambda x: _difference(odd, x, x, (c,)))(jnp.asarray(x))
    np.testing.assert_allclose(found, first, atol=1e-12)  # in units of the largest slope


@pytest.mark.parametrize("name", CASES)
def test_two_derivatives_of_a_sum_and_one_of_a_map_against_finite_differences(name):
    stack = CASES[name]
    value = jax.jit(lambda x: rm.spectral_sum(x, log_phi, args=(1.5,)))
    image = jax.jit(lambda x: rm.spectral_map(x, odd, args=(1.5,)))
    gradient = jax.jit(jax.grad(value))

    @jax.jit
    @jax.vmap
    def derivatives(x):
        return (
            (jax.jacfwd(gradient)(x), jax.jacrev(gradient)(x)),
            (jax.jacfwd(image)(x), jax.jacrev(image)(x)),
        )

    found = derivatives(stack)
    for i, a in enumerate(stack):
        expected = finite_difference(value, a)
        np.testing.assert_allclose(gradient(a).ravel(), expected, atol=1e-8)
        for function, both in zip((gradient, image), found, strict=True):
            expected = finite_difference(lambda x, f=function: f(x).ravel(), a)
            for one in both:
                np.testing.assert_allclose(one[i].reshape(expected.shape), expected, atol=1e-8)


def test_the_smoothed_power_and_its_parameters():
    @jax.jit
    @jax.vmap
    def compare(x):
        def general(x, p, e):
            return rm.spectral_sum(x, power_phi, args=(p, e))

        def special(x, p, e):
            return rm.schatten_power(x, p=p, eps=e, eps_mode="absolute", method="svd")

        def all_of(f):
            by_all = jax.grad(f, (0, 1, 2))
            return f(x, 0.7, 0.3), by_all(x, 0.7, 0.3), jax.jacrev(by_all, (0, 1, 2))(x, 0.7, 0.3)

        return all_of(general), all_of(special)

    general, special = compare(jnp.concatenate([BATCH, GAPS]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-9), general, special)


@pytest.mark.parametrize("stack", [jnp.concatenate([BATCH, GAPS]), TALL[None], WIDE[None]])
def test_the_log_determinant(stack):
    @jax.jit
    @jax.vmap
    def compare(x):
        def general(x, c):
            return rm.spectral_sum(x, log_phi, args=(c,))

        def special(x, c):
            return jnp.linalg.slogdet(jnp.eye(x.shape[1]) + c * x.T @ x)[1]

        def all_of(f):
            return f(x, 1.5), jax.hessian(f, (0, 1))(x, 1.5)

        return all_of(general), all_of(special)

    general, special = compare(stack)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-11), general, special)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3)])
def test_the_cube_is_a_product_and_has_parameters(shape):
    a = with_spectrum(0, *shape, [2.0, 2.0, 0.0][: min(shape)])  # pyright: ignore[reportCallIssue]

    def general(x, c):
        return rm.spectral_map(x, lambda s, c: c * s**3, args=(c,))

    def special(x, c):
        return c * x @ x.T @ x

    found, expected = (jax.jit(jax.jacrev(f, (0, 1)))(a, 0.5) for f in (general, special))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-11), found, expected)


def test_transforms_agree_also_with_parameters_in_the_batch():
    c = jnp.linspace(0.5, 2.0, len(BATCH))

    def step(x, c):
        image = rm.spectral_map(x, odd, args=(c,))
        return jnp.sum(image**2) + rm.spectral_sum(x, log_phi, args=(c,))

    gradient = jax.jit(jax.grad(step, (0, 1)))
    one_by_one = [gradient(a, b) for a, b in zip(BATCH, c, strict=True)]
    expected = [np.stack(part) for part in zip(*one_by_one, strict=True)]
    _, scanned = jax.lax.scan(lambda _, xs: (None, gradient(*xs)), None, (BATCH, c))
    for found in (jax.vmap(gradient)(BATCH, c), scanned):
        for x, y in zip(found, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-12)
    assert np.all(expected[0][0] == 0)
    # Second order of the sum with everything in the batch, against the members.
    twice = jax.jit(jax.hessian(lambda x, c: rm.spectral_sum(x, log_phi, args=(c,)), (0, 1)))
    mapped = jax.vmap(twice)(BATCH[:2], c[:2])
    for i in range(2):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-11),
            mapped,
            twice(BATCH[i], c[i]),
        )
    whole = jax.jvp(lambda b: rm.spectral_map(b, odd, args=(0.5,)), (BATCH,), (BATCH + 1,))[1]
    member = jax.jvp(lambda b: rm.spectral_map(b, odd, args=(0.5,)), (BATCH[5],), (BATCH[5] + 1,))
    np.testing.assert_allclose(whole[5], member[1], atol=1e-12)


def test_shapes_dtypes_axes_and_nan():
    assert rm.spectral_sum(jnp.zeros((2, 0, 3)), log_phi, args=(1.0,)).shape == (2,)
    assert rm.spectral_map(jnp.zeros((0, 3)), odd, args=(1.0,)).shape == (0, 3)
    low = jnp.eye(2, dtype=jnp.bfloat16)
    assert rm.spectral_sum(low, log_phi, args=(1.0,)).dtype == jnp.bfloat16
    assert rm.spectral_map(low, odd, args=(1.0,)).dtype == jnp.bfloat16
    single = jax.grad(lambda x: rm.spectral_sum(x, log_phi, args=(1,)))(TALL.astype(jnp.float32))
    double = jax.grad(lambda x: rm.spectral_sum(x, log_phi, args=(1,)))(TALL)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=1e-6)
    moved = rm.spectral_map(jnp.moveaxis(BATCH, 0, 1), odd, args=(1.0,), axes=(0, 2))
    expected = rm.spectral_map(BATCH, odd, args=(1.0,))
    np.testing.assert_allclose(jnp.moveaxis(moved, 1, 0), expected, atol=1e-12)
    bad = BATCH.at[1, 0, 0].set(jnp.nan)
    sums = rm.spectral_sum(bad, log_phi, args=(1.0,))
    assert np.isnan(sums[1])
    assert np.isfinite(np.delete(sums, 1)).all()


def test_compiled_once_for_one_function_object():
    calls = []

    def phi(s, c):
        calls.append(1)
        return c * s * s

    rm.spectral_sum(BATCH, phi, args=(1.0,))
    traced = len(calls)
    for c in (2.0, 3.0):
        np.testing.assert_allclose(
            rm.spectral_sum(BATCH, phi, args=(c,)), c * np.sum(BATCH**2, axis=(-2, -1)), atol=1e-12
        )
    # Only the check of the signature calls it again.
    assert len(calls) - traced <= 2


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="phi must be callable"):
        rm.spectral_sum(TALL, 3.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="h must map a real scalar to a real scalar"):
        rm.spectral_map(TALL, lambda s: jnp.stack([s, s]))
    with pytest.raises(ValueError, match="args must be a tuple of real scalars, got list"):
        rm.spectral_sum(TALL, log_phi, args=[1.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"args must be a tuple of real scalars, got an array"):
        rm.spectral_sum(TALL, log_phi, args=(jnp.ones(2),))


def image(x, c):
    return jnp.sum(rm.spectral_map(x, odd, args=(c,)))


@pytest.mark.parametrize("first", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("second", [jax.jacrev, jax.jacfwd])
def test_what_has_no_further_derivative_says_so(first, second):
    """Never a number that takes the singular vectors for constants."""
    functions = {
        image: "no second derivative",
        lambda x, c: jnp.sum(rm.prox_schatten(x, p=1.0, weight=c)): "no second derivative",
        lambda x, c: jnp.sum(rm.project_nuclear_ball(x, c)): "no second derivative",
    }
    for f, message in functions.items():
        for argument in (0, 1):
            with pytest.raises(NotImplementedError, match=message):
                jax.jit(second(first(f), argument))(TALL, 0.3)
    total = jax.hessian(lambda x: rm.spectral_sum(x, log_phi, args=(1.0,)))
    with pytest.raises(NotImplementedError, match="spectral_sum and log_det no third"):
        second(total)(TALL)


def test_a_parameter_may_be_differentiated_twice():
    found = jax.grad(jax.grad(lambda c: image(TALL, c)))(1.5)
    expected = finite_difference(jax.grad(lambda c: image(TALL, c[0])), jnp.array([1.5]))
    np.testing.assert_allclose(found, expected.ravel()[0], atol=1e-8)
