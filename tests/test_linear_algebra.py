"""The guards around LAPACK: no deadlock, no silent failure."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax.matrix as rm
from rankjax import _linear_algebra
from tests.matrix.matrices import BATCH, with_spectrum

# Many independent stacked weights in one compiled function: batched LAPACK calls hang here with
# jaxlib 0.10.2 on two cores ({call} = "jnp.linalg.eigh(x @ x.mT)[0]" does, every time).
MANY_STACKS = """
import jax, jax.numpy as jnp
from rankjax import _linear_algebra
from rankjax.matrix import schatten_power

stacks = [jax.random.normal(jax.random.key(i), (8, 48, 48)) for i in range(12)]

@jax.jit
def total(stacks):
    return sum(jnp.sum({call}) for x in stacks)

for _ in range(3):
    assert jnp.isfinite(total(stacks))
print("done")
"""

CALLS = {
    "eigh": "_linear_algebra.eigh(x @ x.mT)[0]",
    "svd": "_linear_algebra.svd(x).s",
    "gradients": (
        "jax.grad(lambda y: jnp.sum(schatten_power(y, p=0.5, eps=0.01)))(x)"
        " + jax.vmap(jax.grad(lambda y: schatten_power(y, p=0.5)))(x)"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_many_independent_batches_in_one_jit_cannot_deadlock(name):
    code = MANY_STACKS.format(call=CALLS[name])
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=90, capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("name", ["svd", "svdvals", "eigh", "eigvalsh", "inverse_root"])
def test_no_batched_lapack_call_is_emitted_on_cpu(name):
    """The same by construction: under any vmap the operands of the custom calls are one matrix."""
    function = getattr(_linear_algebra, name)
    stack = jnp.ones((2, 3, 4, 4))
    mapped = jax.jit(jax.vmap(jax.vmap(function)))
    text = mapped.lower(stack).compile().as_text()
    calls = [line for line in text.splitlines() if "custom-call" in line and "lapack" in line]
    assert calls
    assert not any("[6,4" in line or "[2,3,4" in line for line in calls), calls


def test_vmap_over_an_unbatched_argument():
    a = with_spectrum(0, 3, 3, [3.0, 2.0, 1.0])
    found = jax.vmap(lambda _: _linear_algebra.svdvals(a))(jnp.arange(2.0))
    np.testing.assert_allclose(found, [[3, 2, 1]] * 2)


def test_an_inverse_root_and_what_has_none():
    a = with_spectrum(0, 5, 5, [3.0, 2.0, 1.0, 0.5, 0.1])
    m = a.T @ a
    roots = _linear_algebra.inverse_root(jnp.stack([m, -m, jnp.eye(5)]))
    np.testing.assert_allclose(roots[0].T @ roots[0], np.linalg.inv(m), rtol=1e-9)
    assert np.all(np.triu(roots[0], 1) == 0)
    assert np.all(np.isnan(roots[1]))
    np.testing.assert_array_equal(roots[2], np.eye(5))
    assert _linear_algebra.inverse_root(jnp.zeros((2, 0, 0))).shape == (2, 0, 0)


def test_only_the_bad_member_of_a_batch_is_nan():
    bad = BATCH.at[1, 0, 0].set(jnp.inf).at[2, 0, 0].set(jnp.nan)
    for f in (rm.singular_values, rm.spectral_norm, rm.stable_rank, rm.effective_rank):
        value = jax.jit(f)(bad)
        clean = f(BATCH)
        nan = np.isnan(value).reshape(len(BATCH), -1).all(axis=1)
        assert nan.tolist() == [i in (1, 2) for i in range(len(BATCH))]
        np.testing.assert_allclose(value[3:], clean[3:])
        gradient = jax.grad(lambda x, f=f: jnp.sum(f(x)))(bad)
        assert np.isnan(gradient[1:3]).all()


def test_an_empty_matrix_has_an_empty_decomposition():
    for shape in [(0, 3), (3, 0), (2, 0, 0)]:
        a = jnp.zeros(shape)
        u, s, vt = _linear_algebra.svd(a)
        assert s.shape == (*shape[:-2], 0)
        np.testing.assert_allclose(u * s[..., None, :] @ vt, a)


def test_the_derivative_of_the_decomposition_reconstructs_the_tangent():
    for shape in [(4, 3), (3, 4), (3, 3)]:
        a = with_spectrum(0, *shape, [3.0, 2.0, 1.0])
        da = with_spectrum(1, *shape, [1.0, 0.5, 0.2])
        product = lambda x: (lambda f: f.u * f.s[None] @ f.vt)(_linear_algebra.svd(x))  # noqa: E731
        np.testing.assert_allclose(jax.jvp(product, (a,), (da,))[1], da, atol=1e-12)
