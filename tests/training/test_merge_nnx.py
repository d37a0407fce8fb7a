# Flax types the variables of a module loosely.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportCallIssue=false

"""A factorized NNX module is a module: it runs, trains, keeps its state and goes into files."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rankjax.network import describe
from rankjax.training import densify, factorize, merge_nnx

X = jax.random.normal(jax.random.key(1), (4, 5, 24), jnp.float32)


@pytest.fixture(autouse=True)
def ordinary_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield  # the framework itself mixes dtypes


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(24, 32, rngs=rngs, param_dtype=jnp.float32)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(32, 24, rngs=rngs, param_dtype=jnp.float32)])
        self.attention = nnx.MultiHeadAttention(4, 24, rngs=rngs, decode=False)

    def __call__(self, x, deterministic=False):
        x = nnx.relu(self.norm(self.first(x), use_running_average=deterministic))
        x = self.layers[0](self.drop(x, deterministic=deterministic))
        return x + self.attention(x)


def pair():
    """The module on factors, and the one on their products."""
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    structure = describe(params, apply=lambda p, x: nnx.merge(graph, p, rest, copy=True)(x),
                         example=X)  # fmt: skip
    small = factorize(structure, params, ranks=4)
    assert len(structure.layers) == 6
    dense = nnx.merge(graph, densify(structure, small), rest, copy=True)
    return structure, merge_nnx(graph, small, rest), dense


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_outputs_and_the_states_that_a_call_sets_are_those_of_the_dense_module():
    _, model, dense = pair()
    first, second = model(X), nnx.jit(lambda model, x: model(x))(model, X)
    close(first, dense(X))
    close(second, dense(X))  # dropout goes on in its stream
    assert np.abs(first - second).max() > 0.1
    close(model.others["norm"]["mean"][...], dense.norm.mean[...])
    assert np.abs(dense.norm.mean[...]).max() > 1e-3
    # What sets nothing can also be closed over, as NNX has it.
    quiet = jax.jit(lambda x: model(x, deterministic=True))(X)
    close(quiet, dense(X, deterministic=True))


def test_the_factors_train_and_are_read_back():
    structure, model, _ = pair()
    before = [factors.left for factors in structure_factors(model)]
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, slopes = nnx.value_and_grad(lambda m: jnp.mean(m(X, deterministic=True) ** 2))(model)
        optimizer.update(model, slopes)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(5)]
    assert losses[-1] < 0.5 * losses[0]
    after = [factors.left for factors in structure_factors(model)]
    assert len(before) == 6
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(before, after, strict=True))
    graph, _, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    dense = nnx.merge(graph, densify(structure, model.factorized), rest)
    # Batch statistics were not touched in between.
    close(model(X, deterministic=True), dense(X, deterministic=True))


def structure_factors(model):
    is_factors = lambda node: hasattr(node, "left")  # noqa: E731
    leaves = jax.tree.leaves(model.factorized, is_leaf=is_factors)
    return [leaf for leaf in leaves if is_factors(leaf)]


def test_split_and_merged_again_without_a_new_compilation(caplog):
    _, model, _ = pair()
    expected = model(X, deterministic=True)
    graph, state = nnx.split(model)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    with jax.log_compiles():
        again = nnx.merge(graph, jax.tree.map(jnp.copy, state))(X, deterministic=True)
    assert not [r for r in caplog.records if "Compiling jit(run)" in r.getMessage()]
    np.testing.assert_array_equal(again, expected)


def test_a_grouped_convolution():
    layer = nnx.Conv(16, 16, (3,), feature_group_count=2, rngs=nnx.Rngs(0), param_dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(2), (2, 7, 16), jnp.float32)
    graph, params = nnx.split(layer, nnx.Param)
    structure = describe(params, apply=lambda p, x: nnx.merge(graph, p)(x), example=x)
    small = factorize(structure, params, ranks=3)
    assert [factors.groups for factors in structure_factors(merge_nnx(graph, small))] == [2]
    close(merge_nnx(graph, small)(x), nnx.merge(graph, densify(structure, small))(x))


def test_the_states_given_are_not_the_ones_that_change():
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    model = merge_nnx(graph, factorize(describe(params), params, ranks=4), rest)
    model(X)
    np.testing.assert_array_equal(rest["norm"]["mean"][...], 0)
    assert np.abs(model.others["norm"]["mean"][...]).max() > 1e-3


def test_what_is_not_from_split_and_a_missing_flax_are_named(monkeypatch):
    graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    with pytest.raises(ValueError, match="graph, factorized: got State and GraphDef, must be"):
        merge_nnx(params, graph)
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ImportError, match=r"merge_nnx needs flax: pip install 'rankjax\[flax\]'"):
        merge_nnx(graph, params)
