"""No explicit bound is printed for a network that its theorem does not know."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax import bounds, compare, describe, measure
from rankjax.network import Sample

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 6)), np.arange(40) % 3
X32 = X.astype(np.float32)
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape))
    for name, shape in {"a": (6, 8), "b": (8, 3), "c": (8, 6), "d": (6, 3), "g": (8,)}.items()
}


def chain(activation):
    return lambda p, x: activation(x @ p["a"]) @ p["b"]


def residual(p, x):
    return (x + jax.nn.relu(x @ p["a"]) @ p["c"]) @ p["d"]


def normalized(p, x):
    h = x @ p["a"]
    return h / jnp.linalg.norm(h, axis=-1, keepdims=True) @ p["b"]


def steps(p, x):
    def step(h, _):
        h = jax.nn.relu(h @ (p["a"] @ p["c"]))
        return h, h

    return jax.lax.scan(step, x, None, length=3)[1].sum(0) @ p["d"]


OUTSIDE = {
    "residual": (residual, "two branches"),
    "normalized": (normalized, "multiplies or divides activations"),
    "attention": (lambda p, x: (x @ p["a"]) @ (p["a"].T @ x.T @ x) @ p["d"], "matrices of activ"),
    "gate": (lambda p, x: jnp.tanh(x @ p["a"]) * (x @ p["a"]) @ p["b"], "multiplies or div"),
    "square": (chain(jnp.square), "Lipschitz constant is not known"),
    "sign": (chain(jnp.sign), "Lipschitz constant is not known"),
    "float8": (
        chain(lambda h: h.astype(jnp.float8_e4m3fn).astype(h.dtype)),
        "Lipschitz constant is not known",
    ),
    "not 0 at 0": (chain(jax.nn.softplus), "not 0 at 0"),
    "a shift": (chain(lambda h: jax.nn.relu(h) + 1), "numbers that are not weights"),
    "a scale": (lambda p, x: jax.nn.relu(x @ p["a"]) * p["g"][None] @ p["b"], "uses 'g' otherwise"),
    "a fixed matrix": (lambda p, x: x @ np.eye(6) @ p["a"] @ np.eye(8) @ p["b"], "not a parameter"),
    "all steps of a loop": (steps, "at each step of a loop"),
}


def explicit(table):
    return [row for row in table.rows() if row["kind"] == "explicit"]


def table(apply, params: Any = PARAMS, x: Any = X, **options):
    structure = describe(params, apply=apply, example=x[:2], **options)
    return compare(structure, params, x, Y, apply=apply, gamma=1.0, cushion_examples=0)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_network_that_is_no_chain_gets_no_explicit_bound(name):
    apply, reason = OUTSIDE[name]
    found = table(apply)
    assert not explicit(found)
    assert any(reason in why for bound, why in found.left_out if bound == "spectral, explicit")
    assert reason in str(found)
    structure = describe(PARAMS, apply=apply, example=X[:2])
    sample = Sample.from_data(structure, PARAMS, X, Y, apply=apply)
    bound = bounds.spectral(measure(structure, PARAMS), sample, gamma=1.0, kind="explicit")
    assert "not for this network" in bound.source  # who asks for it alone is told in the result


@pytest.mark.parametrize(
    ("activation", "constant"),
    [
        (jax.nn.relu, 1),
        (jnp.tanh, 1),
        (jax.nn.gelu, 1.13),
        (jax.nn.silu, 1.0999),
        (lambda h: 7 * jax.nn.relu(h), 7),
        (lambda h: jax.nn.relu(h) / 8, 1),  # never below 1
        (lambda h: jnp.repeat(h, 4, -1).reshape(*h.shape[:-1], 4, 8)[..., 0, :], 2),
    ],
)
def test_the_constant_between_two_layers_is_that_of_what_is_there(activation, constant):
    structure = describe(PARAMS, apply=chain(activation), example=X[:2])
    first, second = structure.layers
    assert structure.outside == ()
    np.testing.assert_allclose(first.lipschitz, constant)
    assert second.lipschitz == 1


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.gelu])
def test_a_chain_with_known_constants_gets_explicit_bounds(activation):
    assert len(explicit(table(chain(activation)))) > 5


def test_a_constant_that_is_given_settles_it():
    assert not explicit(table(chain(jnp.square)))
    found = table(chain(jnp.square), lipschitz={"a": 3.0})
    structure = describe(PARAMS, apply=chain(jnp.square), example=X[:2], lipschitz={"a": 3.0})
    assert structure.layers[0].lipschitz == 3
    assert explicit(found)


def test_a_matrix_that_is_masked_out_is_missing_in_every_theorem():
    found = table(chain(jax.nn.relu), mask=lambda path, leaf: path != "a")
    assert not explicit(found)
    assert "applies 'a', which is left out" in str(found)


def test_a_constant_folded_into_the_weights_changes_nothing():
    folded = table(chain(jax.nn.relu), {**PARAMS, "a": PARAMS["a"] / 2})
    scaled = table(lambda p, x: jax.nn.relu(x @ (p["a"] * 0.5)) @ p["b"])
    for a, b in zip(folded.rows(), scaled.rows(), strict=True):
        assert a["bound"] == b["bound"]
        np.testing.assert_allclose(a["value"], b["value"], rtol=1e-9)


def test_biases_are_named_in_the_row():
    apply = lambda p, x: chain(jax.nn.relu)(p, x) + p["e"][None]  # noqa: E731
    found = table(apply, {**PARAMS, "e": jnp.ones(3)})
    assert all("without its biases" in row["source"] for row in explicit(found))
    assert ("Added to activations and not counted", "e") in found.facts


def test_a_structure_by_names_says_what_it_assumes():
    params = {"a": {"kernel": PARAMS["a"]}, "b": {"kernel": PARAMS["b"]}}
    found = compare(describe(params), params, sample=Sample.of_size(40), gamma=1.0)
    assert explicit(found)
    assert all("a dense one applied once" in row["source"] for row in explicit(found))
    # That the activations between them are positively homogeneous, nobody knows.
    assert any(name == "path_norm_2" for name, _ in found.left_out)


def test_graf_bounds_of_a_convolution_by_name_are_refused():
    params = {"conv": {"kernel": jnp.ones((3, 3, 3, 4))}, "out": {"kernel": jnp.ones((144, 3))}}
    measured = measure(describe(params), params)
    for bound in (bounds.graf_norm, bounds.graf_parameters):
        with pytest.raises(ValueError, match="number of positions"):
            bound(measured, Sample.of_size(40), gamma=1.0)


def test_a_new_numbering_of_the_vocabulary_changes_no_bound():
    emb = jnp.asarray(RNG.normal(size=(2000, 6)))
    ids = RNG.integers(0, 20, size=(40, 7))
    apply = lambda p, x: chain(jax.nn.relu)(p, p["emb"][x].mean(1))  # noqa: E731
    first = table(apply, {**PARAMS, "emb": emb}, ids)
    moved = emb.at[1000:1020].set(emb[:20])
    second = table(apply, {**PARAMS, "emb": moved}, ids + 1000)
    assert not explicit(first)
    for a, b in zip(first.rows(), second.rows(), strict=True):
        np.testing.assert_equal(a["value"], b["value"])
    structure = describe({**PARAMS, "emb": emb}, apply=apply, example=ids[:2])
    sample = Sample.from_data(structure, {**PARAMS, "emb": emb}, ids, Y, apply=apply)
    rows = np.asarray(emb)[ids].reshape(40, -1)
    np.testing.assert_allclose(sample.radius, np.linalg.norm(rows, axis=1).max())
    np.testing.assert_allclose(np.asarray(sample.inf_radius), np.abs(rows).max())
    np.testing.assert_allclose(np.asarray(sample.column_norm), np.linalg.norm(rows, axis=0).max())
    assert sample.dimension == 42


@pytest.mark.parametrize("uses", [1, 2, 5])
def test_every_use_of_a_tied_matrix_counts_in_the_rank_sparse_bound(uses):
    def tied(p, x):
        for _ in range(uses):
            x = x @ p
        return x

    def untied(p, x):
        for w in p:
            x = x @ w
        return x

    w = jnp.asarray(np.linalg.qr(RNG.normal(size=(8, 8)))[0])
    values = []
    for apply, params in ((tied, w), (untied, [w] * uses)):
        structure = describe(params, apply=apply, example=jnp.ones((1, 8)))
        measured = measure(structure, params)
        values.append(bounds.rank_sparse(measured, Sample.of_size(100), gamma=1.0, p=0.5).value)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)


RESCALED = {"frobenius, explicit", "frobenius_neyshabur, explicit", "pac_bayes_spectral, explicit"}


@jax.jit
def bump(h):
    return h * jnp.exp(-(h**2))


def test_theorems_that_rescale_layers_are_for_homogeneous_activations():
    for activation, options in ((jnp.tanh, {}), (bump, {"activations": {"bump": 1.0}})):
        found = table(chain(activation), **options)
        left_out = {name: why for name, why in found.left_out if name in RESCALED}
        assert set(left_out) == RESCALED
        assert all("positively homogeneous" in why for why in left_out.values())
        assert any(row["bound"] == "spectral" for row in explicit(found))
    assert not RESCALED & {name for name, _ in table(chain(jax.nn.leaky_relu)).left_out}


def test_who_asks_for_such_a_bound_alone_is_told():
    apply = chain(jnp.tanh)
    structure = describe(PARAMS, apply=apply, example=X[:2])
    sample = Sample.from_data(structure, PARAMS, X, Y, apply=apply)
    measured = measure(structure, PARAMS)
    for bound in (bounds.frobenius, bounds.pac_bayes_spectral):
        assert "not for this network" in bound(measured, sample, gamma=1.0, kind="explicit").source
        assert "not for" not in bound(measured, sample, gamma=1.0).source
    assert "not for" not in bounds.one_inf(measured, sample, gamma=1.0, kind="explicit").source


def test_products_of_whole_numbers_have_no_derivatives_and_the_table_says_so():
    codes = {
        "a": jnp.asarray(RNG.integers(-127, 127, (6, 8)), jnp.int8),
        "b": PARAMS["b"].astype(jnp.float32),
    }

    def quantized(p, x):
        h = jnp.dot(jnp.round(x).astype(jnp.int8), p["a"], preferred_element_type=jnp.int32)
        return jax.nn.relu(h.astype(jnp.float32)) @ p["b"]

    table = compare(describe(codes, apply=quantized, example=X32), codes, X32, Y, apply=quantized)
    assert "products of whole numbers have none (int32)" in dict(table.left_out)["compression"]
    assert {row.kind for row in table.results} == {"dominant"}


def test_weights_of_whole_numbers_that_meet_floating_data_are_those_numbers():
    codes = {
        "a": jnp.asarray(RNG.integers(-127, 127, (6, 8)), jnp.int8),
        "b": PARAMS["b"].astype(jnp.float32),
    }
    floating = jax.tree.map(lambda w: w.astype(jnp.float32), codes)

    def dequantized(p, x):
        return jax.nn.relu(x @ p["a"].astype(jnp.float32)) @ p["b"]

    whole, plain = (
        compare(describe(p, apply=dequantized, example=X32), p, X32, Y, apply=dequantized)
        for p in (codes, floating)
    )
    for row, other in zip(whole.results, plain.results, strict=True):
        np.testing.assert_allclose(row.value, other.value, rtol=1e-5)
