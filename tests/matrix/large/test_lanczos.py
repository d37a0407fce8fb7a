"""Bounds of the spectral norm from products alone, against the decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import rankjax.matrix as rm
from tests.matrix.matrices import BATCH, TALL, WIDE, with_spectrum

STEEP = with_spectrum(0, 60, 40, 1.0 / np.arange(1, 41) ** 2)
FLAT = with_spectrum(1, 40, 60, np.linspace(1, 0.9, 40))


@pytest.mark.parametrize("a", [BATCH, TALL, WIDE, STEEP], ids=["batch", "tall", "wide", "steep"])
def test_exact_where_the_krylov_space_suffices(a):
    expected = np.linalg.svd(np.asarray(a), compute_uv=False)[..., 0]
    found = rm.spectral_norm_bounds(a)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    assert np.all(found.residual <= 1e-8)
    np.testing.assert_allclose(rm.spectral_norm(a, method="lanczos"), expected, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
@pytest.mark.parametrize("a", [STEEP, FLAT], ids=["steep", "flat"])
def test_bounds_hold_before_convergence(a, steps):
    s = np.linalg.svd(np.asarray(a), compute_uv=False)
    for seed in range(3):
        value, residual, upper = rm.spectral_norm_bounds(a, steps=steps, key=jax.random.key(seed))
        assert value <= s[0] * (1 + 1e-14)
        assert np.min(np.abs(s - value)) <= residual + 1e-14
        assert s[0] <= upper * (1 + 1e-14)
        assert upper <= s[0] * 40 ** (1 / 128) * (1 + 1e-12)
        assert residual > 0 or steps == 12


def test_more_steps_are_better_and_the_residual_sees_it():
    found = [rm.spectral_norm_bounds(FLAT, steps=steps) for steps in (2, 8, 39, 40, 99)]
    values = np.array([float(x.value) for x in found])
    assert np.all(np.diff(values) >= -1e-12)
    assert values[-1] == pytest.approx(1.0, abs=1e-12)
    residuals = [float(x.residual) for x in found]
    assert residuals[0] > 1e-3
    assert residuals[-1] < 1e-12


def test_gradient_is_the_outer_product_of_the_top_vectors():
    u, _, vt = np.linalg.svd(np.asarray(STEEP))
    found = jax.jit(jax.grad(lambda x: rm.spectral_norm(x, method="lanczos")))(STEEP)
    np.testing.assert_allclose(found, np.outer(u[:, 0], vt[0]), atol=1e-8)
    slopes = jax.grad(lambda b: jnp.sum(rm.spectral_norm(b, method="lanczos")))(BATCH)
    assert np.all(slopes[0] == 0)
    np.testing.assert_allclose(np.linalg.norm(slopes[1:], axis=(-2, -1)), 1, atol=1e-12)
    along = jax.jvp(lambda x: rm.spectral_norm(x, method="lanczos"), (STEEP,), (STEEP,))[1]
    np.testing.assert_allclose(along, 1.0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_tiny_huge_half_empty_and_nan(scale):
    a = (STEEP * scale).astype(jnp.float32)
    for bound in rm.spectral_norm_bounds(a)[::2]:
        assert bound.dtype == jnp.float32
        assert float(bound) / scale == pytest.approx(1.0, rel=1e-5)
    assert rm.spectral_norm(jnp.eye(3, dtype=jnp.bfloat16), method="lanczos").dtype == jnp.bfloat16
    assert rm.spectral_norm(jnp.zeros((2, 0, 3)), method="lanczos").shape == (2,)
    for bad in (jnp.nan, jnp.inf):
        found = rm.spectral_norm_bounds(BATCH.at[5, 0, 0].set(bad))
        assert all(np.isnan(x[5]) and np.isfinite(x[:5]).all() for x in found)


def test_vmap_axes_and_wrong_arguments():
    mapped = jax.vmap(lambda x: rm.spectral_norm_bounds(x).value)(BATCH)
    np.testing.assert_allclose(mapped, rm.spectral_norm(BATCH), atol=1e-12)
    moved = rm.spectral_norm(jnp.moveaxis(BATCH, 0, -1), method="lanczos", axes=(0, 1))
    np.testing.assert_allclose(moved, rm.spectral_norm(BATCH), atol=1e-12)
    with pytest.raises(ValueError, match=r"steps: got .*, must be > 0"):
        rm.spectral_norm_bounds(TALL, steps=0)
    with pytest.raises(ValueError, match=r"method: got .*, must be one of"):
        rm.spectral_norm(TALL, method="gram")  # pyright: ignore[reportArgumentType]


def test_under_a_shard_map_it_varies_as_the_matrix_does():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))

    def value(a):
        kernel = a[0, :3, :2, None]
        return rm.spectral_norm(a, method="lanczos"), rm.conv_operator_norm(kernel, (6,)).value[
            None
        ]

    stack = jnp.stack([TALL, 2 * TALL])
    mapped = jax.shard_map(value, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    for found, expected in zip(jax.jit(mapped)(stack), value(stack), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
