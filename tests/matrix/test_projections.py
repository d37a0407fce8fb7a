"""Projections against their definition; their derivatives are with those of the proximal maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from tests.matrix.matrices import BATCH, finite_difference, with_spectrum


def test_projections_land_in_the_set_and_are_nearest():
    rng = np.random.default_rng(1)
    a = jnp.asarray(rng.normal(size=(4, 3)))
    cases = [
        (rm.project_spectral_ball, 0.7, lambda s: s[0]),
        (rm.project_nuclear_ball, 1.5, lambda s: s.sum()),
    ]
    for project, radius, norm in cases:
        x = np.asarray(jax.jit(project)(a, radius))
        assert norm(np.linalg.svd(x, compute_uv=False)) <= radius + 1e-12
        # The projection on a convex set: <a - x, y - x> <= 0 for every y in the set.
        for _ in range(100):
            y = rng.normal(size=a.shape)
            y = y * radius / norm(np.linalg.svd(y, compute_uv=False))
            assert np.sum((a - x) * (y - x)) <= 1e-10
        inside = a * 1e-3
        np.testing.assert_array_equal(project(inside, radius), inside)
        np.testing.assert_allclose(project(a, 0.0), 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
def test_tall_matrices_go_by_their_triangle(shape):
    """The same as by the whole decomposition, in float32 at values far below the largest too."""
    sigma = np.array([3.0, 1.0, 1e-5, 0.0])
    a = with_spectrum(0, *shape, sigma)  # pyright: ignore[reportCallIssue]
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    cases = [
        (lambda a: rm.project_spectral_ball(a, 0.5), np.minimum(sigma, 0.5)),
        (lambda a: rm.prox_schatten(a, p=1.0, weight=0.5), np.maximum(sigma - 0.5, 0)),
        (lambda a: rm.prox_schatten(a, p=2.0, weight=0.5), sigma / 2),
    ]
    for f, expected in cases:
        for x, atol in ((a, 1e-14), (a.astype(jnp.float32), 1e-6)):
            np.testing.assert_allclose(f(x), u * expected @ vt, atol=atol)
        assert "qr" in str(jax.make_jaxpr(f)(a))
        slope = jax.jit(jax.jacfwd(f))(a)
        found = finite_difference(lambda x, f=f: f(x).ravel(), a, step=1e-6)
        np.testing.assert_allclose(slope.reshape(found.shape), found, atol=1e-6)
    np.testing.assert_array_equal(rm.project_spectral_ball(a, 3.1), a)
    assert np.isnan(rm.project_spectral_ball(a.at[0, 0].set(jnp.inf), 1.0)).all()


def test_rank_projection_is_truncation():
    s = np.linalg.svd(np.asarray(BATCH), compute_uv=False)
    for rank in range(4):
        x = jax.jit(rm.project_rank)(BATCH, rank)
        # Singular vectors of equal values are arbitrary: compare what is left, not the matrix.
        left = np.where(np.arange(3) < rank, s, 0)
        np.testing.assert_allclose(np.linalg.svd(x, compute_uv=False), left, atol=1e-12)
        distance = np.linalg.norm(BATCH - x, axis=(-2, -1))
        np.testing.assert_allclose(distance**2, np.sum(s**2 - left**2, axis=-1), atol=1e-9)


def test_a_radius_or_a_rank_for_each_member_of_a_batch():
    radii = jnp.linspace(0.1, 2.0, len(BATCH))
    for project in (rm.project_spectral_ball, rm.project_nuclear_ball):
        found = jax.jit(project)(BATCH, radii)
        for x, a, radius in zip(found, BATCH, radii, strict=True):
            np.testing.assert_allclose(x, project(a, radius), atol=1e-12)
    ranks = jnp.array([0, 1, 2, 3, 1, 2])
    found = rm.project_rank(BATCH, ranks)
    assert np.all(np.asarray(rm.numerical_rank(found)) <= np.asarray(ranks))


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"radius: got .*, must be >= 0"):
        rm.project_nuclear_ball(jnp.eye(2), -1.0)
    with pytest.raises(ValueError, match=r"rank: got .*, must be >= 0"):
        rm.project_rank(jnp.eye(2), -1)
