"""A certified surrogate, and how often another network answers differently."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rankjax.certificates import (
    DisagreementCertificate,
    HoldOutCertificate,
    certify_by,
    certify_near,
    compress,
    hold_out,
)
from rankjax.network import describe

U = 12
KNOWN = HoldOutCertificate(value=1.0, errors=3, n=500, delta=0.04).settled()


def table(params, x):
    return params[x]


def with_differences(d, **more):
    f, g = jnp.eye(2), jnp.eye(2)
    x = np.arange(U) % 2
    f = jnp.concatenate([f, f[::-1]])  # rows 2 and 3 answer differently
    g = jnp.concatenate([g, g])
    x = np.where(np.arange(U) < d, x + 2, x)
    return certify_by(f, x, apply=table, surrogate=g, certificate=KNOWN, **more)


def test_what_is_left_of_delta_is_spent_on_the_disagreement_and_no_more():
    delta, tried = 0.1, 3
    found = [with_differences(d, delta=delta, tried=tried) for d in range(U + 1)]
    assert [c.errors for c in found] == list(range(U + 1))
    limits = np.array([c.value - KNOWN.value for c in found])
    # An added network errs exactly where the two differ: the worst case of the inequality.
    misses = [
        np.sum(scipy.stats.binom.pmf(np.arange(U + 1), U, p)[limits < p])
        for p in np.concatenate([limits[:5] + 1e-9, np.linspace(0.01, 0.95, 95)])
    ]
    left = (delta - KNOWN.delta) / tried
    assert left * (1 - 1e-6) <= max(misses) <= left
    assert found[-1].value == 1


def test_on_every_sample_errors_are_at_most_those_of_the_surrogate_plus_the_differences():
    rng = np.random.default_rng(0)
    n, x = 200, np.arange(200)
    f, g = (jnp.asarray(rng.choice([0.0, 1.0, np.nan], p=[0.5, 0.45, 0.05], size=(n, 3)))
            for _ in range(2))  # fmt: skip
    differ = certify_by(f, x, apply=table, surrogate=g, certificate=KNOWN, delta=0.1).errors
    assert differ < n
    for seed in range(5):
        y = np.random.default_rng(seed).integers(3, size=n)
        errors, of_surrogate = (hold_out(p, x, y, apply=table).errors for p in (f, g))
        assert errors <= of_surrogate + differ
    # A surrogate without ties that is always right makes the inequality an equality.
    g = jnp.asarray(rng.permuted(np.tile(np.arange(3.0), (n, 1)), axis=1))
    differ = certify_by(f, x, apply=table, surrogate=g, certificate=KNOWN, delta=0.1).errors
    assert hold_out(f, x, np.argmax(np.asarray(g), axis=1), apply=table).errors == differ


def test_a_network_that_never_decides_differs_from_every_one():
    tie = jnp.ones((2, 2))
    found = certify_by(
        tie, np.zeros(5, int), apply=table, surrogate=tie, certificate=KNOWN, delta=0.1
    )
    assert found.errors == 5


def test_networks_of_different_kinds_are_compared_by_their_own_forward_functions():
    found = certify_by(
        jnp.eye(2), np.arange(6) % 2, apply=table, surrogate={"scale": jnp.asarray(2.0)},
        surrogate_apply=lambda p, x: p["scale"] * jnp.eye(2)[x], certificate=KNOWN, delta=0.1,
    )  # fmt: skip
    assert found.errors == 0


def test_certificates_about_exact_arithmetic_say_so():
    x = np.random.default_rng(0).normal(size=(300, 2))
    y, params = (x[:, 0] > 0).astype(int), {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}

    def apply(params, x):
        return x @ params["kernel"]

    structure = describe(params)
    near = certify_near(
        structure, params, x, y, apply=apply, neighbor=compress(structure, params), delta=0.05
    )
    fresh = np.random.default_rng(1).normal(size=(300, 2))
    found = certify_by(params, fresh, apply=apply, surrogate=params, certificate=near, delta=0.1)
    assert any("whose certificate is about exact arithmetic" in a for a in found.assumptions)
    known = certify_by(params, fresh, apply=apply, surrogate=params, certificate=KNOWN, delta=0.1)
    assert not any("whose certificate" in a for a in known.assumptions)
    assert any(a.startswith("surrogate: nothing that made") for a in known.assumptions)


def test_it_prints_both_parts():
    text = str(with_differences(2, delta=0.1, tried=2))
    assert "true error of this network, unchanged, <= " in text
    assert "different answers on 2 of 12 unlabeled examples" in text
    assert "with probability >= 0.96, by its own certificate" in text
    assert "one of 2 pairs" in text


def test_json_comes_back_and_an_altered_one_is_refused():
    found = with_differences(2, delta=0.1)
    assert DisagreementCertificate.from_json(found.to_json()) == found
    for field, value in (
        ("errors", 1), ("delta", 0.2), ("surrogate_value", 0.001), ("surrogate_delta", 0.001),
    ):  # fmt: skip
        altered = json.loads(found.to_json()) | {field: value}
        with pytest.raises(ValueError, match="value: got"):
            DisagreementCertificate.from_json(json.dumps(altered))
    for field, value in (("surrogate_delta", 0.1), ("surrogate_value", 0.0)):
        altered = json.loads(found.to_json()) | {field: value}
        with pytest.raises(ValueError, match=f"{field}: got"):
            DisagreementCertificate.from_json(json.dumps(altered))


def test_arguments_out_of_range_are_refused_by_name():
    f, x = jnp.eye(2), np.arange(6) % 2

    def refused(match: str, x: np.ndarray = x, **more: Any):
        options = {"surrogate": f, "certificate": KNOWN, "delta": 0.1} | more
        with pytest.raises(ValueError, match=match):
            certify_by(f, x, apply=table, **options)

    refused("certificate: got delta = 0.04, must be below the delta of both, 0.04", delta=0.04)
    refused("certificate: got float, must be a certificate", certificate=0.1)
    forged = HoldOutCertificate(value=0.001, errors=3, n=500, delta=0.04)
    refused("value: got 0.001, the stored integers give", certificate=forged)
    refused("surrogate: got 3 classes, must be those of apply, 2", surrogate=jnp.eye(3))
    refused("x: got .*, must be arrays with one leading axis", x=x[:0])
    refused("x: got .*, must be arrays with one leading axis", x=np.zeros(()))
    refused("batch_size: got 0, must be an integer of at least 1", batch_size=0)
    refused("tried: got 0", tried=0)
