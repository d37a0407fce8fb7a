"""The flow as accelerators take it, by products alone, against the decomposition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.matrix.loops._flow import by_decomposition, by_products
from tests.matrix.matrices import with_spectrum

SPECTRA = {
    "flat": np.linspace(1, 2, 24),
    "rank 4": np.where(np.arange(24) < 4, 1.0, 0.0),
    "decaying": np.arange(1, 25) ** -2.0,
    "wide": 1e5 * np.geomspace(1e-4, 1, 24),
}
STACK = jnp.stack([with_spectrum(i, 32, 24, s) for i, s in enumerate(SPECTRA.values())])
TOP = jnp.asarray([s.max() for s in SPECTRA.values()])


@partial(jax.jit, static_argnames="steps")
def fast(a, p, weight, eps, steps):
    assert "eigh" not in str(jax.make_jaxpr(partial(by_products, steps=steps))(a, p, weight, eps))
    return by_products(a, p, weight, eps, steps=steps)


exact = jax.jit(
    partial(by_decomposition, eps_mode="relative"), static_argnames=("eps_mode", "steps")
)


def numbers(p, strength, eps):
    """Weights with which singular values near 0 shrink by ``exp(-strength)``."""
    p, eps = jnp.full(len(STACK), p), jnp.full(len(STACK), eps)
    return p, strength / p * (eps * TOP) ** (2 - p), eps


@pytest.mark.parametrize("steps", [1, 20, 100])
def test_the_change_is_the_same(steps):
    for p, tolerance in ((0.3, 6e-3), (0.5, 3e-3), (1.0, 1e-3), (1.5, 1e-3)):
        for strength in (0.05, 3.0, 20.0):
            given = numbers(p, strength, 0.01)
            expected = exact(STACK, *given, steps=steps)
            found = fast(*(x.astype(jnp.float32) for x in (STACK, *given)), steps=steps)
            off = np.linalg.norm(np.asarray(found, float) - expected, axis=(-2, -1))
            moved = np.linalg.norm(expected - STACK, axis=(-2, -1))
            assert np.all(off <= tolerance * moved), (p, strength, off / moved)


def test_nothing_moves_where_there_is_nothing_to_do():
    p, weight, eps = numbers(0.5, 3.0, 0.01)
    np.testing.assert_array_equal(fast(STACK, 0 * p, weight, eps, steps=20), STACK)
    np.testing.assert_array_equal(fast(STACK, p, 0 * weight, eps, steps=20), STACK)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5])
def test_of_a_flow_that_is_far_too_strong_nothing_is_left(p):
    given = (x.astype(jnp.float32) for x in (STACK, *numbers(p, 3e4, 0.01)))
    found = fast(*given, steps=20)
    assert np.all(np.linalg.norm(found, axis=(-2, -1)) <= 1e-3 * np.asarray(TOP))


def test_members_of_a_batch_do_not_touch_each_other():
    members = STACK.at[1].set(0).at[2, 0, 0].set(jnp.nan).at[3, 0, 0].set(jnp.inf)
    given = numbers(0.5, 3.0, 0.01)
    found = fast(members, *given, steps=50)
    np.testing.assert_allclose(found[0], fast(STACK, *given, steps=50)[0], rtol=1e-6)
    assert np.all(found[1] == 0)
    assert np.all(np.isnan(found[2:]))


def test_a_vmap_is_a_batch():
    given = numbers(0.5, 9.0, 0.01)  # more portions for one matrix than for another
    together = fast(STACK, *given, steps=50)
    apart = jax.vmap(partial(by_products, steps=50))(STACK, *given)
    np.testing.assert_allclose(apart, together, rtol=1e-3, atol=1e-4)
