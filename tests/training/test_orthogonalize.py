# Optax types updates and states as a union of every kind of tree.
# pyright: reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false

"""Muon's step: the polar factor of every matrix, in as few calls as there are shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.matrix import polar
from rankjax.network import View, describe
from rankjax.training import muon_dimension_numbers, orthogonalize

SHAPES = {"a": (4, 6), "b": (6, 6), "c": (6, 4)}


def tree(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    kernels = {
        name: {"kernel": jax.random.normal(key, shape, dtype), "bias": jnp.ones(shape[1], dtype)}
        for key, (name, shape) in zip(keys[:3], SHAPES.items(), strict=True)
    }
    return kernels | {
        "attention": {"query": {"kernel": jax.random.normal(keys[3], (6, 2, 2), dtype)}},
        "stack": {"w": jax.random.normal(keys[4], (3, 6, 4), dtype)},
    }


STRUCTURE = describe(tree(), axes={"stack/w": View(out=(2,), in_=(1,), stacked=(0,))})


def once(transformation, updates):
    return jax.jit(transformation.update)(updates, transformation.init(updates))[0]


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("rms", [None, 0.2])
def test_the_direction_of_optax_muon_with_polynomials_that_converge(rms):
    # Well conditioned, so that Optax's iteration arrives.
    updates = STRUCTURE.replace(
        tree(jnp.float64), [polar(m) + 0.3 * m for m in STRUCTURE.matrices(tree(jnp.float64))]
    )
    with jax.numpy_dtype_promotion("standard"):  # Muon itself mixes dtypes
        muon = optax.contrib.muon(
            1.0,
            ns_coeffs=(15 / 8, -10 / 8, 3 / 8),
            ns_steps=30,
            beta=0.0,
            nesterov=False,
            consistent_rms=rms,
            muon_weight_dimension_numbers=muon_dimension_numbers(STRUCTURE),
        )
        expected, _ = muon.update(updates, muon.init(updates), updates)
    found = once(orthogonalize(STRUCTURE, eps=0.0, consistent_rms=rms), updates)
    for x, y in zip(STRUCTURE.leaves(found), STRUCTURE.leaves(expected), strict=True):
        np.testing.assert_allclose(x, -y, atol=1e-6)
    for name in SHAPES:
        np.testing.assert_array_equal(found[name]["bias"], updates[name]["bias"])


def test_one_call_per_shape_and_no_svd_where_it_is_smooth():
    def factorizations(names, eps=0.0):
        updates = {name: tree()[name] for name in names}
        step = orthogonalize(describe(updates), eps=eps)
        lowered = jax.jit(step.update).lower(updates, step.init(updates))
        return lowered.as_text().count("gesdd_ffi")

    assert factorizations("ac") == factorizations("a") > 0
    assert factorizations("ab") > factorizations("a")
    assert factorizations("ab", eps=0.01) == 0  # an eps that is known needs no SVD


def test_dtypes_masks_and_a_function_in_place_of_the_structure():
    short = once(orthogonalize(STRUCTURE), tree(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(short)} == {jnp.dtype(jnp.bfloat16)}
    wide = once(orthogonalize(STRUCTURE), tree())
    updates = {name: tree()[name] for name in SHAPES}
    assert_close(once(orthogonalize(describe), updates), {n: wide[n] for n in SHAPES}, atol=1e-6)
    mask = {"a": True, "b": False, "c": True}
    for source in (describe, describe(updates)):
        masked = once(optax.masked(orthogonalize(source), mask), updates)
        assert_close(masked, {"a": wide["a"], "b": updates["b"], "c": wide["c"]}, atol=1e-6)


def test_the_other_leaves_go_to_another_optimizer_than_muon():
    labels = jax.tree.map(
        lambda _, number: "adam" if number is None else "muon",
        tree(),
        muon_dimension_numbers(STRUCTURE)(tree()),
    )
    parts = {"muon": orthogonalize(STRUCTURE), "adam": optax.set_to_zero()}
    parted = once(optax.partition(parts, labels), tree())
    alone = once(orthogonalize(STRUCTURE), tree())
    assert_close(STRUCTURE.leaves(parted), STRUCTURE.leaves(alone), atol=1e-6)
    np.testing.assert_array_equal(parted["a"]["bias"], 0)


def test_eps_is_relative_and_may_be_traced():
    tiny = jax.tree.map(lambda x: 1e-20 * x, tree())
    assert_close(
        STRUCTURE.leaves(once(orthogonalize(STRUCTURE, eps=0.1), tiny)),
        STRUCTURE.leaves(once(orthogonalize(STRUCTURE, eps=0.1), tree())),
        atol=1e-5,
    )
    injected = optax.inject_hyperparams(orthogonalize, static_args=("method", "consistent_rms"))
    step = injected(STRUCTURE, eps=0.1)
    found, _ = jax.jit(step.update)(tree(), step.init(tree()))
    assert_close(found, once(orthogonalize(STRUCTURE, eps=0.1), tree()), atol=1e-5)


def test_wrong_arguments_are_named():
    for options, match in (
        ({"eps": -1.0}, "eps: got -1.0, must be >= 0"),
        ({"method": "x"}, "method: got 'x', must be one of"),
        ({"consistent_rms": -0.2}, "consistent_rms: got -0.2, must be >= 0"),
    ):
        with pytest.raises(ValueError, match=match):
            orthogonalize(STRUCTURE, **options)
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        orthogonalize(tree())
    step = orthogonalize(STRUCTURE)
    with pytest.raises(ValueError, match="b/kernel"):
        step.update({"a": tree()["a"]}, step.init({}))
