"""The certificate is about the network in the file and about ``apply`` as it is now."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.certificates.file import Schedule, compress, count_errors
from rankjax.network import describe

PARAMS = {"kernel": jnp.eye(3)}
STRUCTURE = describe(PARAMS)
X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.argmax(X, axis=1)


def closure(kind):
    """A network that closes over a sign, and a function that changes the sign."""
    held = {"sign": np.ones((1, 1))}

    def change(sign):
        if kind == "in place":
            held["sign"][:] = sign
        else:
            held["sign"] = np.full((1, 1), sign)

    return change, lambda params, x: (x @ params["kernel"]) * jnp.asarray(held["sign"])


@pytest.mark.parametrize("kind", ["in place", "another array"])
def test_an_array_that_changes_between_two_calls_is_read_anew(kind):
    change, apply = closure(kind)
    network = compress(STRUCTURE, PARAMS)
    assert network.certificate(apply, X, Y).errors == 0
    change(-1.0)
    assert network.certificate(apply, X, Y).errors == 60
    assert count_errors(apply, PARAMS, X, Y) == 60


@pytest.mark.parametrize("kind", ["in place", "another array"])
def test_training_sees_an_array_that_has_changed(kind):
    change, apply = closure(kind)
    schedule = Schedule(epochs=10, batch_size=20, learning_rate=0.3)
    errors = []
    for sign in (1.0, -1.0):
        change(sign)
        with jax.numpy_dtype_promotion("standard"):  # Adam takes a float to an integer power
            network = compress(STRUCTURE, PARAMS, X, Y, apply=apply, schedule=schedule)
        errors.append(network.certificate(apply, X, Y).errors)
    # Started from the identity, whose error is 0 with one sign and 1 with the other.
    assert errors[0] == 0
    assert errors[1] < 30


def test_arrays_that_are_closed_over_are_told():
    scale, shift = np.ones((1, 3)), jnp.zeros((1, 3))

    @jax.checkpoint
    @jax.jit
    def inner(h):
        return h + shift

    def apply(params, x):
        return inner((x @ params["kernel"]) * jnp.asarray(scale))

    network = compress(STRUCTURE, PARAMS)
    told = network.certificate(apply, X, Y).assumptions
    assert any("apply holds 2 arrays of 6 numbers" in text for text in told)
    plain = network.certificate(lambda params, x: x @ params["kernel"], X, Y).assumptions
    assert not any("apply holds" in text for text in plain)


def test_no_certificate_is_about_other_parameters_than_the_file_holds():
    def apply(params, x):
        return x @ params["kernel"]

    network = compress(STRUCTURE, PARAMS)
    held = network.params["kernel"]
    network.params["kernel"] = -held
    np.testing.assert_array_equal(network.params["kernel"], held)
    assert network.certificate(apply, X, Y).errors == 0
    with pytest.raises(ValueError, match="not a compressed network"):
        replace(network, data=b"").certificate(apply, X, Y)
    other = compress(STRUCTURE, {"kernel": -PARAMS["kernel"]})
    assert replace(network, data=other.data).certificate(apply, X, Y).errors == 60


def test_a_reference_that_changes_afterwards_does_not_change_the_network():
    reference = {"kernel": np.eye(3)}
    network = compress(STRUCTURE, {"kernel": np.eye(3)}, reference=reference)
    reference["kernel"][:] = 7
    np.testing.assert_array_equal(network.params["kernel"], np.eye(3))


@pytest.mark.parametrize(("field", "value"), [("bits", -8), ("bits", 1.5), ("tried", 0)])
def test_a_certificate_that_was_tampered_with_is_refused(field, value):
    found = compress(STRUCTURE, PARAMS).certificate(lambda p, x: x @ p["kernel"], X, Y)
    with pytest.raises(ValueError, match=f"{field}: got {value}, must be an integer"):
        replace(found, **{field: value}).verify()
