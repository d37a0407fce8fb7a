"""Factors of every kind of leaf multiply to the best approximation; counts are what is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import View, describe
from rankjax.training import Factors, densify, effective_params, factorize
from tests.network.models import equinox_network, linen_network, nnx_network

VIEWS = {
    "kernel": ((12, 9), View(out=(1,), in_=(0,))),
    "weight": ((9, 12), View(out=(0,), in_=(1,))),
    "query": ((12, 3, 4), View(out=(1, 2), in_=(0,))),
    "out": ((3, 4, 10), View(out=(2,), in_=(0, 1))),
    "conv": ((3, 3, 4, 8), View(out=(3,), in_=(0, 1, 2))),
    "torch conv": ((8, 4, 3, 3), View(out=(0,), in_=(1, 2, 3))),
    "mixed": ((3, 8, 4), View(out=(1,), in_=(0, 2))),
    "stack": ((2, 12, 9), View(out=(2,), in_=(1,), stacked=(0,))),
    "experts": ((12, 3, 9, 2), View(out=(2,), in_=(0,), stacked=(3,), parallel=(1,))),
}


def leaf(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def best(matrix, rank):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]


@pytest.mark.parametrize("name", VIEWS)
def test_best_approximation_of_each_kind_of_leaf(name):
    shape, view = VIEWS[name]
    params = {name: leaf(shape), "other": jnp.ones(3)}
    structure = describe(params, axes={name: view}, mask=lambda path, _: path == name)
    small = factorize(structure, params, 2)
    assert isinstance(small[name], Factors)
    dense = densify(structure, small)
    layer = structure.layers[0]
    found, given = (np.asarray(layer.matrix(p[name])) for p in (dense, params))
    np.testing.assert_allclose(found, best(given, 2), atol=1e-12)
    saved = effective_params(structure, params, ranks=2)
    count = sum(x.size for x in jax.tree.leaves(small))
    assert saved.total_effective == count < saved.total == params[name].size + 3
    assert saved.saved == saved.total - count


def test_a_flax_kernel_and_convolutions_are_applied_factor_by_factor():
    x, kernel = leaf((5, 12)), leaf((12, 9), 1)
    structure = describe({"kernel": kernel})
    small = factorize(structure, {"kernel": kernel}, {"kernel": 3})
    right, left = small["kernel"].right, small["kernel"].left
    dense = densify(structure, small)["kernel"]
    np.testing.assert_allclose(x @ right @ left, x @ dense, atol=1e-12)

    def conv(x, kernel, groups=1):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    for groups in (1, 2):
        image, kernel = leaf((2, 6, 6, 4)), leaf((3, 3, 4 // groups, 8), 1)
        params = {"conv": {"kernel": kernel}}
        apply = lambda p, x, g=groups: conv(x, p["conv"]["kernel"], g)  # noqa: E731
        structure = describe(params, apply=apply, example=image)
        assert structure.layers[0].groups == groups
        small = factorize(structure, params, 2)
        right, left = small["conv"]["kernel"].right, small["conv"]["kernel"].left
        two = conv(conv(image, right, groups), left[None, None], groups)
        expected = apply(densify(structure, small), image)
        np.testing.assert_allclose(two, expected, atol=1e-10)


@pytest.mark.parametrize("network", [nnx_network, linen_network, equinox_network])
def test_trees_of_each_framework_still_run_and_train(network):
    apply, params = network()
    shape = (2, 9, 9, 1) if network is nnx_network else (2, 5)
    x = jnp.asarray(leaf(shape), jnp.float32)
    structure = describe(params, apply=apply, example=x)
    ranks = {layer.path: 1 for layer in structure.layers}
    small = factorize(structure, params, ranks)
    dense = densify(structure, small)
    assert jax.tree.structure(dense) == jax.tree.structure(params)
    assert np.isfinite(apply(dense, x)).all()
    for matrix in structure.matrices(dense):
        s = np.linalg.svd(np.asarray(matrix), compute_uv=False)
        assert (s[..., 1:] <= 1e-5 * s[..., :1]).all()
    arrays = [a for a in jax.tree.leaves(small) if hasattr(a, "shape")]
    saved = effective_params(structure, params, ranks=ranks)
    assert sum(a.size for a in arrays) == saved.total_effective < saved.total
    if network is not equinox_network:  # its leaves are not all arrays
        loss = lambda q: jnp.sum(apply(densify(structure, q), x))  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(small)
        assert jax.tree.structure(gradient) == jax.tree.structure(small)


def test_ranks_from_a_tolerance_and_leaves_that_stay():
    low = leaf((20, 2)) @ leaf((2, 15), 1)
    stack = jnp.stack([low, low + 1e-9 * leaf((20, 15), 2), leaf((20, 1), 3) @ leaf((1, 15), 4)])
    params = {
        "a": {"kernel": low},
        "full": {"kernel": leaf((6, 6))},
        "zero": {"kernel": jnp.zeros((8, 8))},
        "stack": {"kernel": stack},
    }
    view = View(out=(2,), in_=(1,), stacked=(0,))
    structure = describe(params, axes={"stack/kernel": view})
    saved = effective_params(structure, params)
    assert saved.ranks == {"a/kernel": 2, "zero/kernel": 1, "stack/kernel": 2}
    assert saved.effective["full/kernel"] == saved.dense["full/kernel"] == 36
    small = factorize(structure, params)
    assert small["full"]["kernel"] is params["full"]["kernel"]
    dense = densify(structure, small)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), dense, params)
    assert "a/kernel" in str(saved)
    assert "77%" in str(saved)  # 300 -> 70
    given = factorize(structure, params, saved.ranks)
    assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, small)


def test_traced_with_known_ranks_half_precision_and_bad_input():
    params = {"kernel": leaf((12, 9)).astype(jnp.bfloat16)}
    structure = describe(params)
    small = jax.jit(lambda p: factorize(structure, p, 2))(params)
    assert {x.dtype for x in jax.tree.leaves(small)} == {jnp.dtype(jnp.bfloat16)}
    with pytest.raises(ValueError, match="the structure comes first"):
        factorize(params, structure, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"ranks names unknown paths \['x'\]"):
        factorize(structure, params, {"x": 2})
    for rank in (0, 10, 1.5):
        with pytest.raises(ValueError, match=f"got {rank}, must be a whole number from 1 to 9"):
            factorize(structure, params, {"kernel": rank})  # pyright: ignore[reportArgumentType]
    wrong = {"kernel": Factors(jnp.ones((2, 8)), jnp.ones((12, 3)), View((1,), (0,)))}
    with pytest.raises(ValueError, match="'kernel' left has shape"):
        densify(structure, wrong)
    with pytest.raises(ValueError, match="factors at 'x'"):
        densify(structure, {"x": small["kernel"], **params})
