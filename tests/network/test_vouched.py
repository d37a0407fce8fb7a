"""Activations whose Lipschitz constants the caller vouches for."""

import math

import jax
import jax.numpy as jnp
import pytest

from rankjax.network import describe

PARAMS = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 4)), "c": jnp.ones((4, 2))}
X = jnp.ones((1, 3))


@jax.jit
def bump(x):
    return x * jnp.exp(-x * x)


@jax.jit
def shifted(x):
    return jnp.cos(x)


@jax.jit
def steep(x):
    return jax.nn.relu(5 * x)


@jax.jit
def gate(x, y):
    return x * y


@jax.jit
def shorter(x):
    return x[:, :4:2] * x[:, 1:4:2]


@jax.jit
def scaled(x, a):
    return x * a[0, 0]


def network(activation):
    def apply(params, x):
        h = activation(x @ params["a"])
        return jax.nn.relu(h @ params["b"]) @ params["c"]

    return apply


def described(activation, **activations):
    return describe(PARAMS, apply=network(activation), example=X, activations=activations)


def test_a_given_constant_makes_a_chain_of_an_activation_that_is_not_known():
    assert described(bump).outside
    structure = described(bump, bump=1.5)
    assert not structure.outside
    assert [layer.lipschitz for layer in structure.layers] == [1.5, 1.0, 1.0]
    assert not structure.homogeneous
    assert {layer.path: layer.lipschitz for layer in described(jax.nn.gelu, gelu=1.2).layers} == {
        "a": 1.2, "b": 1.0, "c": 1.0,
    }  # fmt: skip


def test_what_the_equations_show_stays_true():
    assert described(steep, steep=5.0).homogeneous == described(steep).homogeneous
    outside = described(shifted, shifted=1.0).outside
    assert outside is not None
    assert "not 0 at 0" in outside[0]


def test_inside_a_scan_and_twice_in_a_row():
    def apply(params, x):
        def step(h, _):
            return bump(bump(h @ params["b"])), None

        h, _ = jax.lax.scan(step, x @ params["a"], length=3)
        return h @ params["c"]

    found = describe(PARAMS, apply=apply, example=X, activations={"bump": 1.5})
    assert {layer.path: layer.lipschitz for layer in found.layers}["b"] == 2.25
    assert not found.outside


@pytest.mark.parametrize(
    ("activation", "given", "message"),
    [
        (bump, {"bumb": 1.0}, r"\['bumb'\] are never met; .* those are \['bump'.*\]"),
        (bump, {"bump": math.nan}, r"activations\['bump'\]: got nan, must be a positive"),
        (jax.nn.gelu, {"gelu": 1.0}, r"activations\['gelu'\]: got 1, its largest slope is 1.13"),
        (lambda h: gate(h, h + 1), {"gate": 1.0}, "'gate' must take one array"),
        (lambda h: jnp.tile(shorter(h), 2), {"shorter": 1.0}, "return one of the same shape"),
    ],
)
def test_constants_of_other_functions_are_refused(activation, given, message):
    with pytest.raises(ValueError, match=message):
        described(activation, **given)


def test_a_function_of_parameters_is_refused():
    def apply(params, x):
        return scaled(x @ params["a"], params["b"]) @ params["c"]

    with pytest.raises(ValueError, match="'scaled' must take one array, and no parameters"):
        describe(PARAMS, apply=apply, example=X, activations={"scaled": 1.0})


def test_without_apply_there_is_nothing_to_name():
    with pytest.raises(ValueError, match="activations: names functions that apply calls"):
        describe(PARAMS, activations={"bump": 1.0})
