"""The gradient flow of a Schatten power against many small steps and its scalar equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import rankjax.matrix as rm
from tests.matrix.matrices import with_spectrum

SPECTRUM = [2.0, 2.0, 0.5, 0.1, 1e-3, 0.0]


def singular_values(a):
    return np.linalg.svd(np.asarray(a, float), compute_uv=False)


@pytest.mark.parametrize(("p", "weight"), [(0.5, 0.3), (1.0, 0.5), (1.5, 0.2)])
def test_the_singular_values_solve_their_equation(p, weight):
    a = with_spectrum(0, 9, 6, SPECTRUM)
    e = 0.05

    def slope(_, s):
        return -weight * p * s * (s**2 + e**2) ** (p / 2 - 1)

    expected = solve_ivp(slope, (0, 1), SPECTRUM, rtol=1e-9, atol=1e-12).y[:, -1]
    options = {"p": p, "weight": weight, "eps": e, "eps_mode": "absolute"}
    errors = []
    for steps in (500, 2000):
        found = rm.schatten_flow(a, **options, steps=steps)
        errors.append(np.abs(singular_values(found) - expected).max())
    assert errors[0] <= 5e-3
    assert errors[1] <= 0.3 * errors[0]  # of first order in the length of a part


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_it_is_what_as_many_small_steps_of_decay_do(shape):
    a = with_spectrum(1, *shape, SPECTRUM)  # pyright: ignore[reportCallIssue]
    slope = jax.jit(jax.grad(lambda x: rm.schatten_power(x, p=0.5, eps=0.05)))
    stepped = a
    for _ in range(50):
        stepped = stepped - 2e-4 * slope(stepped)
    found = rm.schatten_flow(a, p=0.5, weight=50 * 2e-4, eps=0.05, steps=50)
    moved = np.linalg.norm(stepped - a)
    assert moved > 1e-2
    assert np.linalg.norm(found - stepped) <= 0.01 * moved


def test_no_singular_value_crosses_zero_however_strong():
    a = with_spectrum(2, 6, 6, SPECTRUM)
    found = rm.schatten_flow(a, p=0.5, weight=0.5, eps=0.01, steps=1)
    # What is left is A times a positive semidefinite matrix.
    left = np.linalg.lstsq(a, found, rcond=1e-6)[0]
    assert np.linalg.eigvalsh((left + left.T) / 2).min() > -1e-9
    assert np.all(singular_values(found) <= np.array(SPECTRUM) + 1e-12)
    assert singular_values(found)[3] < 1e-3 * SPECTRUM[3]


def test_closed_cases_axes_and_batches():
    a = jnp.stack([with_spectrum(i, 5, 4, SPECTRUM[:4]) for i in range(2)])
    decayed = rm.schatten_flow(a, p=2.0, weight=0.3, eps=0.0)
    np.testing.assert_allclose(decayed, np.exp(-0.6) * a, rtol=1e-12)
    np.testing.assert_array_equal(rm.schatten_flow(a, p=0.0, weight=0.3, eps=0.1), a)
    np.testing.assert_array_equal(rm.schatten_flow(a, p=0.5, weight=0.0, eps=0.0), a)
    p, weight = jnp.array([0.5, 1.0]), jnp.array([0.1, 0.2])
    both = jax.jit(lambda a, p, w: rm.schatten_flow(a, p=p, weight=w, eps=0.1))(a, p, weight)
    each = [rm.schatten_flow(a[i], p=p[i], weight=weight[i], eps=0.1) for i in range(2)]
    np.testing.assert_allclose(both, jnp.stack(each), atol=1e-12)
    turned = rm.schatten_flow(jnp.moveaxis(a, 0, 1), p=0.5, weight=0.1, eps=0.1, axes=(2, 0))
    wide = rm.schatten_flow(jnp.swapaxes(a, -1, -2), p=0.5, weight=0.1, eps=0.1)
    expected = rm.schatten_flow(a, p=0.5, weight=0.1, eps=0.1)
    np.testing.assert_allclose(jnp.swapaxes(wide, -1, -2), expected, atol=1e-12)
    assert turned.shape == (5, 2, 4)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scale_dtypes_and_members_that_are_not_finite(scale):
    a = with_spectrum(3, 5, 4, [2.0, 1.0, 0.5, 0.0]).astype(jnp.float32)
    unit = rm.schatten_flow(a, p=1.0, weight=0.3, eps=0.1)
    # ds/dt is of degree p - 1 in the scale.
    scaled = rm.schatten_flow(scale * a, p=1.0, weight=0.3 * scale, eps=0.1)
    np.testing.assert_allclose(scaled / scale, unit, rtol=1e-4, atol=1e-5)
    half = rm.schatten_flow(a.astype(jnp.bfloat16), p=1.0, weight=0.3, eps=0.1)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), unit, atol=0.02)
    members = jnp.stack([a, 0 * a, a.at[0, 0].set(jnp.nan), a.at[0, 0].set(jnp.inf)])
    found = rm.schatten_flow(members, p=1.0, weight=0.3, eps=0.1)
    np.testing.assert_allclose(found[0], unit, rtol=1e-5, atol=1e-6)
    assert np.all(found[1] == 0)
    assert np.all(np.isnan(found[2:]))
    assert rm.schatten_flow(jnp.zeros((0, 3)), p=1.0, weight=0.3, eps=0.1).shape == (0, 3)


@pytest.mark.parametrize("eps_mode", ["relative", "absolute"])
def test_a_smaller_eps_is_raised_to_what_the_gram_matrix_resolves(eps_mode):
    floor = float(np.finfo(np.float32).eps) ** 0.5
    sigma = np.array([1.0, 3e-3, 1e-3])
    a = with_spectrum(4, 5, 3, sigma).astype(jnp.float32)
    flow = jax.jit(
        lambda a, eps: rm.schatten_flow(a, p=0.5, weight=2e-5, eps=eps, eps_mode=eps_mode)
    )
    for eps in (0.0, floor / 10):
        np.testing.assert_allclose(flow(a, eps), flow(a, floor), atol=1e-7)
    expected = sigma
    for _ in range(32):
        rate = 0.5 * 2e-5 / 32 * (expected**2 + (floor * expected[0]) ** 2) ** -0.75
        expected = expected * np.exp(-rate)
    # Without the floor the last value is another one by far more than the rounding of the square.
    unraised = sigma
    for _ in range(32):
        unraised = unraised * np.exp(-0.5 * 2e-5 / 32 * unraised**-1.5)
    found = singular_values(flow(a, 0.0))
    assert abs(found[2] - expected[2]) < 0.2 * abs(unraised[2] - expected[2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"p": -1.0}, "p: got .*, must be >= 0"),
        ({"weight": -1.0}, "weight: got .*, must be >= 0"),
        ({"eps": -1.0}, "eps: got .*, must be >= 0"),
        ({"eps_mode": "both"}, "eps_mode: got .*, must be one of"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"axes": (0, 0)}, "same axis twice"),
    ],
)
def test_wrong_arguments_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        rm.schatten_flow(jnp.eye(3), **({"p": 1.0, "weight": 0.1, "eps": 0.1} | change))
