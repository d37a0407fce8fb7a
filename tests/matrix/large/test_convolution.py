"""The operator spectrum of convolutions against the dense matrix of the operator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm


def dense(kernel, grid, *, strides=1, padding="SAME", dilation=1, groups=1):
    """The operator as a matrix, from JAX's own convolution of every unit image."""
    channels = kernel.shape[-2] * groups
    letters = "HW"[: len(grid)]
    images = np.eye(int(np.prod(grid)) * channels).reshape(-1, *grid, channels)
    if padding == "CIRCULAR":
        pad = [(0, k - 1) for k in kernel.shape[:-2]]
        images = np.pad(images, [(0, 0), *pad, (0, 0)], mode="wrap")
        padding = "VALID"
    n = len(grid)
    out = jax.lax.conv_general_dilated(
        jnp.asarray(images),
        kernel,
        (strides,) * n,
        padding,
        rhs_dilation=(dilation,) * n,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )
    return np.asarray(out).reshape(len(images), -1).T


def random_kernel(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize(
    ("shape", "grid"), [((3, 3, 2, 3), (5, 4)), ((2, 3, 3, 1), (4, 4)), ((3, 2, 2), (7,))]
)
def test_circular_singular_values_are_those_of_the_dense_operator(shape, grid):
    kernel = random_kernel(*shape)
    expected = np.linalg.svd(dense(kernel, grid, padding="CIRCULAR"), compute_uv=False)
    found = jax.jit(lambda k: rm.conv_singular_values(k, grid))(kernel)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_a_window_larger_than_the_torus_wraps_around():
    kernel = random_kernel(5, 2, 2)
    folded = jnp.zeros((3, 2, 2)).at[jnp.arange(5) % 3].add(kernel)
    np.testing.assert_allclose(
        rm.conv_singular_values(kernel, (3,)), rm.conv_singular_values(folded, (3,)), atol=1e-10
    )


def test_gradient_of_the_circular_spectrum():
    kernel = random_kernel(2, 2, 2, 2)
    f = jax.jit(lambda k: jnp.sum(rm.conv_singular_values(k, (3, 3)) ** 3))
    slope = jax.grad(f)(kernel)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=kernel.shape))
    h = 1e-5
    finite = (f(kernel + h * direction) - f(kernel - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(slope * direction), finite, rtol=1e-6)


CASES = [
    ((3, 3, 2, 3), (6, 5), {}),
    ((3, 3, 2, 3), (6, 5), {"padding": "VALID"}),
    ((3, 3, 2, 3), (6, 6), {"strides": 2}),
    ((3, 3, 2, 2), (6, 6), {"dilation": 2, "padding": "SAME"}),
    ((2, 2, 2, 2), (5, 5), {"strides": 2, "dilation": 3, "padding": [(3, 3), (3, 3)]}),
    ((3, 3, 1, 4), (5, 5), {"groups": 2}),
    ((5, 2, 2), (8,), {"padding": [(4, 4)]}),
]


@pytest.mark.parametrize(("shape", "grid", "options"), CASES)
def test_lanczos_is_exact_and_the_bound_is_a_bound(shape, grid, options):
    kernel = random_kernel(*shape)
    expected = np.linalg.norm(dense(kernel, grid, **options), 2)
    found = rm.conv_operator_norm(kernel, grid, **options)
    assert float(found.value) == pytest.approx(expected, rel=1e-6)
    assert found.residual < 1e-3
    options = {key: value for key, value in options.items() if key != "padding"}
    bound = rm.conv_norm_bound(kernel, grid, **options)
    assert expected <= float(bound.value) * (1 + 1e-12)
    assert float(bound.value) <= 3 * expected


def test_the_reshaped_kernel_has_another_norm():
    kernel = jnp.ones((3, 3, 1, 1)) / 9
    reshaped = rm.spectral_norm(kernel.reshape(9, 1))
    operator = rm.conv_operator_norm(kernel, (8, 8)).value
    assert float(operator) > 2 * float(reshaped)


def test_the_winner_of_the_bounds():
    kernel = jnp.array([1.0, 2.0, 1.0]).reshape(3, 1, 1)
    smooth = rm.conv_norm_bound(kernel, (9,))
    assert (smooth.winner, round(float(smooth.value), 6)) == ("frequency", 4.0)
    # With stride = window no pixel is in two patches, which the torus cannot see.
    strided = rm.conv_norm_bound(jnp.ones((3, 1, 1)), (9,), strides=3)
    assert (strided.winner, round(float(strided.value), 6)) == ("multiplicity", 1.732051)


def test_gradient_of_the_lanczos_value():
    kernel = random_kernel(3, 2, 2)
    f = jax.jit(lambda k: rm.conv_operator_norm(k, (6,)).value)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=kernel.shape))
    h = 1e-5
    finite = (f(kernel + h * direction) - f(kernel - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(jax.grad(f)(kernel), direction), finite, rtol=1e-6)


def test_zero_empty_half_precision_and_nan():
    assert rm.conv_operator_norm(jnp.zeros((3, 1, 1)), (4,)).value == 0
    assert rm.conv_operator_norm(jnp.zeros((3, 0, 1)), (4,)).value == 0
    assert rm.conv_singular_values(jnp.zeros((3, 0, 1)), (4,)).shape == (0,)
    low = rm.conv_operator_norm(jnp.ones((3, 1, 1), jnp.bfloat16), (4,)).value
    assert low.dtype == jnp.bfloat16
    bad = jnp.ones((3, 1, 1)).at[0].set(jnp.nan)
    assert np.isnan(rm.conv_operator_norm(bad, (4,)).value)
    assert np.isnan(rm.conv_norm_bound(bad, (4,)).value)
    assert np.isnan(rm.conv_singular_values(bad, (4,))).all()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="kernel must have shape"):
        rm.conv_singular_values(jnp.ones((3, 3, 1, 1)), (4,))
    with pytest.raises(ValueError, match="strides must be"):
        rm.conv_operator_norm(jnp.ones((3, 1, 1)), (4,), strides=0)
    with pytest.raises(ValueError, match=r"padding: got .*, must be one of"):
        rm.conv_operator_norm(jnp.ones((3, 1, 1)), (4,), padding="CIRCULAR")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="groups must divide"):
        rm.conv_norm_bound(jnp.ones((3, 1, 3)), (4,), groups=2)
