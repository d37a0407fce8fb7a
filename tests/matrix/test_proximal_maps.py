"""Proximal maps against brute force and the closed forms that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rankjax.matrix as rm
from rankjax.matrix._proximal_maps import _newton
from tests.matrix.matrices import BATCH, finite_difference, with_spectrum

EXPONENTS = [0.0, 0.1, 0.5, 2 / 3, 0.9, 1.0, 1.2, 1.9, 2.0, 3.5]


def objective(x, s, p, weight):
    power = np.where(x > 0, np.where(x > 0, x, 1.0) ** p, 0.0)
    return (x - s) ** 2 / 2 + weight * power


# One compilation for all p and weights (Newton), one for each p (the closed forms).
TRACED = jax.jit(lambda s, weight, p: rm.prox_power(s, p=p, weight=weight))
NEWTON = jax.jit(_newton)
CLOSED = {
    p: jax.jit(lambda s, weight, p=p: rm.prox_power(s, p=p, weight=weight)) for p in EXPONENTS
}


@pytest.mark.parametrize("p", EXPONENTS)
def test_no_point_of_a_fine_grid_is_better(p):
    s = np.concatenate([[0.0], np.random.default_rng(0).uniform(0, 6, 60)])
    grid = np.linspace(0, 6.5, 20001)[:, None]
    weights = np.array([1e-3, 0.3, 5.0])
    found = [
        np.asarray(f) for f in (CLOSED[p](s, weights[:, None]), TRACED(s, weights[:, None], p))
    ]
    for i, weight in enumerate(weights):
        best = objective(grid, s, p, weight).min(axis=0)
        for x in found:
            assert np.all(x[i] >= 0)
            assert np.all(objective(x[i], s, p, weight) <= best + 1e-12)


def half(s, weight):
    """p = 1/2: Xu, Chang, Xu and Zhang, "L1/2 regularization", TNNLS 2012 (lambda = 2 weight)."""
    if s <= 54 ** (1 / 3) / 4 * (2 * weight) ** (2 / 3):
        return 0.0
    angle = np.arccos(weight / 4 * (s / 3) ** -1.5)
    return 2 / 3 * s * (1 + np.cos(2 / 3 * (np.pi - angle)))


def two_thirds(s, weight):
    """p = 2/3: Cao, Sun and Xu, "Fast image deconvolution", JVCI 2013 (lambda = 2 weight)."""
    lam = 2 * weight
    if s <= 2 / 3 * (3 * lam**3) ** 0.25:
        return 0.0
    a = 2 / 3**0.5 * lam**0.25 * np.cosh(np.arccosh(27 / 16 * s**2 * lam**-1.5) / 3) ** 0.5
    return ((a + np.sqrt(2 * s / a - a * a)) / 2) ** 3


@pytest.mark.parametrize(("p", "closed"), [(0.5, half), (2 / 3, two_thirds)])
def test_newton_is_exact_where_a_closed_form_is_known(p, closed):
    s, weight = (x.ravel() for x in np.meshgrid(np.geomspace(1e-2, 50, 40), [1e-3, 0.3, 5.0]))
    expected = [closed(*pair) for pair in zip(s, weight, strict=True)]
    np.testing.assert_allclose(CLOSED[p](s, weight), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gap", [1e-9, 1e-7, 1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize("s", [0.99, 1.0001, 1.01, 1.99, 50.0])
def test_just_beside_p_one_it_is_nearly_the_soft_threshold(s, gap):
    for p in (1 - gap, 1 + gap):
        x = float(TRACED(s, 1.0, p))
        # At most the size of weight |d/dp x^(p-1)| away, and a root where it is not 0.
        assert abs(x - max(s - 1, 0)) <= 25 * gap + 1e-12
        if x > 1e-300:
            assert abs(x - s + p * x ** (p - 1)) <= 1e-12 * s


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-4, 1e2), st.sampled_from([2.0, 1.0, 0.0]))
def test_closed_forms_agree_with_newton(s, weight, p):
    closed = float(CLOSED[p](jnp.asarray(s), jnp.asarray(weight)))
    newton = float(NEWTON(jnp.asarray(s), jnp.asarray(weight), jnp.asarray(p)))
    values = [float(objective(np.asarray(x), s, p, weight)) for x in (closed, newton)]
    assert values[0] == pytest.approx(values[1], rel=1e-10)


@pytest.mark.parametrize("p", [0.3, 0.5, 1.5, 3.0])
def test_derivatives_of_the_scalar_map(p):
    def f(s, weight, p):
        return rm.prox_power(s, p=p, weight=weight)

    found = jax.grad(f, argnums=(0, 1, 2))(2.0, 0.2, p)
    h = 1e-5
    for i, slope in enumerate(found):
        step = h * np.eye(3)[i]
        points = [f(*(np.array([2.0, 0.2, p]) + t * step)) for t in (1, -1)]
        assert float(slope) == pytest.approx(float(points[0] - points[1]) / (2 * h), rel=1e-6)


def test_the_map_of_a_matrix_acts_on_its_singular_values():
    for p in (0.0, 0.5, 1.0, 1.5):
        found = jax.jit(lambda a, p=p: rm.prox_schatten(a, p=p, weight=0.4))(BATCH)
        assert np.all(np.isfinite(found))
        sigma = rm.singular_values(BATCH)
        np.testing.assert_allclose(
            rm.singular_values(found), rm.prox_power(sigma, p=p, weight=0.4), atol=1e-10
        )
    # It beats random neighbours of the optimum.
    a = with_spectrum(0, 4, 3, [2.0, 1.0, 0.3])
    x = np.asarray(rm.prox_schatten(a, p=0.5, weight=0.3))
    rng = np.random.default_rng(0)

    def cost(y):
        return np.sum((y - a) ** 2) / 2 + 0.3 * np.sum(np.linalg.svd(y, compute_uv=False) ** 0.5)

    base = np.sum((x - a) ** 2) / 2 + 0.3 * float(rm.schatten_power(x, p=0.5))
    for size in (1e-3, 0.1, 1.0):
        for _ in range(50):
            assert cost(x + size * rng.normal(size=x.shape)) >= base - 1e-9


def test_derivatives_at_repeated_and_zero_singular_values():
    spectra = ([2.0, 2.0, 0.0], [2.0, 0.9, 0.0], [1.7, 1.7, 1.7])
    stack = jnp.stack([with_spectrum(i, 4, 3, s) for i, s in enumerate(spectra)])
    maps = (
        lambda x, t: rm.prox_schatten(x, p=1.0, weight=t),
        lambda x, t: rm.prox_schatten(x, p=0.5, weight=t),
        lambda x, t: rm.prox_schatten(x, p=2.0, weight=t),
        lambda x, t: rm.project_spectral_ball(x, t),
        lambda x, t: rm.project_nuclear_ball(x, 3 * t),
    )
    for index, f in enumerate(maps):
        value = jax.jit(f)
        by_matrix, by_weight = jax.jit(jax.vmap(jax.jacrev(f, (0, 1)), (0, None)))(stack, 0.4)
        for i, a in enumerate(stack):
            # The half threshold leaps, and the derivative with it: away from that all is smooth.
            expected = finite_difference(lambda x, f=value: f(x, 0.4).ravel(), a, step=1e-4)
            np.testing.assert_allclose(
                by_matrix[i].reshape(expected.shape), expected, atol=1e-7, err_msg=f"{index} {i}"
            )
            slope = (value(a, 0.4 + 1e-5) - value(a, 0.4 - 1e-5)) / 2e-5
            np.testing.assert_allclose(by_weight[i], slope, atol=1e-7)
    # A weight a matrix: the same as one by one.
    weights = jnp.array([0.2, 0.4, 0.6])
    whole = jax.jit(jax.grad(lambda x, t: jnp.sum(jnp.sin(maps[0](x, t))), (0, 1)))
    slopes = whole(stack, weights)
    for i in range(3):
        for found, expected in zip(slopes, whole(stack[i], weights[i]), strict=True):
            np.testing.assert_allclose(found[i], expected, atol=1e-12)


def test_the_derivative_varies_over_a_mesh_as_the_matrix_does():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    slope = jax.grad(lambda a: jnp.sum(rm.prox_schatten(a, p=0.5, weight=0.1) ** 2))
    mapped = jax.shard_map(slope, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    np.testing.assert_allclose(jax.jit(mapped)(BATCH), slope(BATCH), atol=1e-12)


def test_batched_weights_axes_and_half_precision():
    a = jnp.stack([jnp.diag(jnp.array([3.0, 1.0]))] * 2, axis=-1)
    x = rm.prox_schatten(a, p=1.0, weight=jnp.array([0.5, 2.0]), axes=(0, 1))
    np.testing.assert_allclose(x[..., 0], np.diag([2.5, 0.5]), atol=1e-12)
    np.testing.assert_allclose(x[..., 1], np.diag([1.0, 0.0]), atol=1e-12)
    low = rm.prox_schatten(jnp.eye(2, dtype=jnp.bfloat16), p=0.5, weight=0.1)
    assert low.dtype == jnp.bfloat16
    assert rm.prox_schatten(jnp.zeros((0, 3)), p=0.5, weight=0.1).shape == (0, 3)
    assert np.isnan(rm.prox_schatten(jnp.eye(2).at[0, 0].set(jnp.nan), p=0.5, weight=0.1)).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"weight: got .*, must be >= 0"):
        rm.prox_schatten(jnp.eye(2), p=1.0, weight=-1.0)
    with pytest.raises(ValueError, match=r"method: got .*, must be one of"):
        rm.prox_schatten(jnp.eye(2), p=1.0, weight=1.0, method="gram")  # pyright: ignore[reportArgumentType]
