import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rankjax.bounds import rank_sparse
from rankjax.network import Sample, View, describe, measure
from tests.network.models import linen_network, nnx_network


def random_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 6))},
        "b": {"kernel": jax.random.normal(keys[1], (6, 6))},
        "c": {"kernel": jax.random.normal(keys[2], (6, 4))},
        "d": {"kernel": jax.random.normal(keys[3], (6, 6)).at[:, 3:].set(0.0)},
    }


def test_measurements_against_numpy():
    params, reference = random_params(), random_params(1)
    measured = measure(describe(params), params, reference=reference)
    for i, key in enumerate("abcd"):
        a = np.asarray(params[key]["kernel"]).T
        moved = a - np.asarray(reference[key]["kernel"]).T
        np.testing.assert_allclose(measured.sigma[i][0, 0], np.linalg.svd(a)[1], atol=1e-12)
        np.testing.assert_allclose(
            measured.sigma_moved[i][0, 0], np.linalg.svd(moved)[1], atol=1e-12
        )
        rows = np.linalg.norm(moved, axis=1).sum()
        np.testing.assert_allclose(measured.row_norms_moved[i][0, 0], rows)
        np.testing.assert_allclose(measured.one_inf[i][0, 0], np.abs(a).sum(1).max())
        np.testing.assert_allclose(measured.frobenius_norm[i], np.linalg.norm(a))
        np.testing.assert_allclose(measured.operator_norm[i], np.linalg.norm(a, 2))
        np.testing.assert_allclose(measured.spectral_norm[i], np.linalg.norm(a, 2))


def test_measuring_changes_nothing_and_gives_the_same_twice():
    params = random_params()
    before = jax.tree.map(np.array, params)
    structure = describe(params)
    first, second = (jax.tree.leaves(measure(structure, params)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_a_convolution_is_measured_as_an_operator_and_as_a_kernel():
    apply, params = nnx_network()
    example = jnp.zeros((1, 8, 8, 1), jnp.float32)
    structure = describe(params, apply=apply, example=example)
    measured = measure(structure, params)
    factor = structure.layers[0].convolution.gather_norm
    assert factor == 2.0  # windows of 3 at stride 2: a pixel is in up to 2 x 2 of them
    assert measured.spectral_norm[0] < measured.operator_norm[0] < 2 * measured.spectral_norm[0]
    assert measured.operator_norm[1] == pytest.approx(measured.spectral_norm[1])


def test_a_layer_has_its_measurements_by_name():
    apply, params = linen_network()
    structure = describe(params, apply=apply, example=jnp.zeros((1, 5), jnp.float32))
    reference = jax.tree.map(lambda w: w / 3, params)
    measured = measure(structure, params, reference=reference)
    for i, name in enumerate(structure.names):
        one = measured[name]
        assert one.name == name
        assert one.sigma.shape == (min(one.layer.matrix_shape),)
        np.testing.assert_allclose(one.sigma_moved, 2 / 3 * one.sigma, atol=1e-6)
        for key in ("spectral_norm", "operator_norm", "frobenius_norm", "frobenius_norm_moved"):
            np.testing.assert_allclose(getattr(one, key), getattr(measured, key)[i], rtol=1e-6)
    kernels: Any = params["params"]["blocks"]["Dense_0"]["kernel"]
    last = measured["params/blocks/Dense_0/kernel[2]"]
    np.testing.assert_allclose(last.sigma, np.linalg.svd(kernels[2])[1], rtol=1e-5)
    np.testing.assert_allclose(last.one_inf, np.abs(kernels[2]).sum(0).max(), rtol=1e-6)
    rows = 2 / 3 * np.linalg.norm(kernels[2], axis=0).sum()
    np.testing.assert_allclose(last.row_norms_moved, rows, rtol=1e-5)
    with pytest.raises(ValueError, match=r"name: got 'params/blocks/Dense_0/kernel', must be one"):
        measured["params/blocks/Dense_0/kernel"]


def test_matrices_side_by_side_are_measured_together():
    params = {"experts": jax.random.normal(jax.random.key(0), (2, 3, 4))}
    view = View(out=(2,), in_=(1,), parallel=(0,))
    one = measure(describe(params, axes={"experts": view}), params)["experts"]
    np.testing.assert_allclose(one.sigma, np.linalg.svd(params["experts"])[1])
    np.testing.assert_allclose(one.spectral_norm, one.sigma.max())
    np.testing.assert_allclose(one.frobenius_norm, np.linalg.norm(params["experts"]))


def test_stacks_and_sizes_of_the_arrays():
    apply, params = linen_network()
    structure = describe(params, apply=apply, example=jnp.zeros((1, 5), jnp.float32))
    measured = measure(structure, params)
    assert [s.shape for s in measured.sigma] == [(1, 1, 5), (3, 1, 6), (1, 1, 4)]
    assert measured.operator_norm.shape == measured.spectral_norm.shape == (5,)
    stack = params["params"]["blocks"]["Dense_0"]["kernel"]
    norms = [np.linalg.norm(w, 2) for w in np.asarray(stack)]
    np.testing.assert_allclose(measured.spectral_norm[1:4], norms, rtol=1e-5)


def test_first_derivatives_of_symmetric_functions_of_the_measurements():
    params = random_params()
    structure = describe(params)

    def total(params):
        measured = measure(structure, params)
        powers = sum(jnp.sum((s**2 + 0.1) ** 0.25) for s in measured.sigma)
        rows = sum(jnp.sum(r) for r in measured.row_norms_moved)
        return powers + rows + jnp.sum(jnp.log(measured.operator_norm))

    smooth = dict(params)
    smooth["d"] = {"kernel": jax.random.normal(jax.random.key(9), (6, 6))}
    check_grads(total, (smooth,), order=1, modes=("fwd", "rev"), rtol=1e-5)
    # Three zero singular values and zero rows: finite, and 0 where the convention says so.
    gradient = jax.grad(total)(params)["d"]["kernel"]
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_methods_agree_where_they_should(method):
    params = random_params()
    exact = measure(describe(params), params).sigma
    for a, b in zip(exact, measure(describe(params), params, method=method).sigma, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7 if method == "gram" else 1e-13)


def test_dtypes():
    structure = describe(random_params())
    for dtype, out in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32)):
        params = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), random_params())
        measured = measure(structure, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(measured)} == {jnp.dtype(out)}


def test_nan_weights_are_nan_in_their_own_layer_only():
    params = random_params()
    params["b"]["kernel"] = params["b"]["kernel"].at[0, 0].set(jnp.nan)
    norms = measure(describe(params), params).spectral_norm
    np.testing.assert_array_equal(np.isnan(norms), [False, True, False, False])


def test_a_reference_that_does_not_fit_is_named():
    params = random_params()
    structure = describe(params)
    with pytest.raises(ValueError, match=r"reference does not fit: params\['a/kernel'\] has shape"):
        measure(structure, params, reference={**params, "a": {"kernel": jnp.ones((2, 2))}})
    with pytest.raises(ValueError, match="reference does not fit: params has no leaf 'b/kernel'"):
        measure(structure, params, reference={"a": params["a"]})
    with pytest.raises(ValueError, match=r"method: got .*, must be one of"):
        measure(structure, params, method="qr")  # pyright: ignore[reportArgumentType]


def test_one_trace_serves_all_weights_and_vmap_measures_many():
    structure = describe(random_params())
    count = []

    @jax.jit
    def norms(p):
        count.append(1)
        return measure(structure, p).spectral_norm

    single = [norms(random_params(seed)) for seed in range(3)]
    assert len(count) == 1
    many = jax.tree.map(lambda *w: jnp.stack(w), *(random_params(seed) for seed in range(3)))
    np.testing.assert_allclose(jax.vmap(norms)(many), jnp.stack(single), rtol=1e-12)


def test_sharded_weights_give_the_same_numbers():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rankjax import Sample, describe, measure, rank_sparse
keys = jax.random.split(jax.random.key(0), 2)
params = {str(i): {"kernel": jax.random.normal(k, (8, 8))} for i, k in enumerate(keys)}
structure = describe(params)
mesh = jax.sharding.Mesh(np.reshape(jax.devices(), (2, 2)), ("x", "y"))
placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x", "y")))
value = lambda p: rank_sparse(measure(structure, p), Sample.of_size(9), p=0.5, gamma=1.0).value
grad = jax.jit(jax.value_and_grad(value))
(a, da), (b, db) = grad(params), grad(placed)
np.testing.assert_allclose(a, b, rtol=1e-5)
jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), da, db)
assert len(placed["0"]["kernel"].sharding.device_set) == 4
print("same")
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("size", [8e37, 1e38, 2e38])
def test_sizes_whose_reciprocal_is_not_normal(size):
    a = np.float32(size) * jnp.diag(jnp.asarray([1.0, 0.5], jnp.float32))
    params = {"kernel": a}
    measured = measure(describe(params), params)
    np.testing.assert_allclose(measured.frobenius_norm[0] / size, np.sqrt(1.25), rtol=1e-5)
    np.testing.assert_allclose(measured.row_norms_moved[0][0, 0] / size, 1.5, rtol=1e-5)
    terms = rank_sparse(measured, Sample.of_size(100), gamma=1.0).terms
    np.testing.assert_allclose(terms["soft_rank"], 1.25, rtol=0.7)
