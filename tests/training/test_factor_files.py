"""What is written is read again, and says how the factors belong together."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from rankjax.network import describe
from rankjax.training import densify, factorize, load_factorized, save_factorized
from tests.network.models import equinox_network, linen_network, nnx_network


@pytest.mark.parametrize("network", [nnx_network, linen_network, equinox_network])
def test_trees_of_each_framework_come_back(network, tmp_path):
    _, params = network()
    structure = describe(params)
    small = factorize(structure, params, 1)
    for name, tree in {"small": small, "dense": densify(structure, small)}.items():
        file = tmp_path / f"{name}.safetensors"
        save_factorized(file, tree)
        again = load_factorized(file, jax.tree.map(lambda a: a, tree))
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
            if hasattr(other, "shape"):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def test_other_programs_can_multiply_the_factors(tmp_path):
    params = {"a": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(9, 7)))}}
    structure = describe(params)
    small = factorize(structure, params, 2)
    file = tmp_path / "small.safetensors"
    save_factorized(file, small)
    with safe_open(file, "numpy") as opened:
        views = json.loads(opened.metadata()["factors"])
        left, right = (opened.get_tensor(f"a/kernel/{side}") for side in ("left", "right"))
    expected = {"out": [1], "in": [0], "stacked": [], "parallel": [], "groups": 1}
    assert views == {"a/kernel": expected}
    np.testing.assert_allclose(right @ left, densify(structure, small)["a"]["kernel"], atol=1e-12)


def test_numbers_and_turned_arrays_come_back(tmp_path):
    tree = {"scale": jnp.asarray(2.0), "turned": np.arange(6.0).reshape(2, 3).T}
    file = tmp_path / "file.safetensors"
    save_factorized(file, tree)
    again = load_factorized(file, tree)
    assert jax.tree.map(jnp.shape, again) == {"scale": (), "turned": (3, 2)}
    jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "file.safetensors"
    save_factorized(file, {"a": jnp.ones((2, 3)), "half": jnp.ones(3, jnp.bfloat16)})
    with pytest.raises(ValueError, match=r"has nothing at 'b', must be float64\[2\]"):
        load_factorized(file, {"b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"has float64\[2, 3\] at 'a', must be float64\[3, 2\]"):
        load_factorized(file, {"a": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match=r"bfloat16\[3\] at 'half', must be float32\[3\]"):
        load_factorized(file, {"half": jnp.ones(3, jnp.float32)})
    with pytest.raises(ValueError, match="several leaves of one name"):
        save_factorized(file, {"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}})
    with pytest.raises(ValueError, match="factorized: 'dropout/key' is a random key"):
        save_factorized(file, {"dropout": {"key": jax.random.key(0)}})
