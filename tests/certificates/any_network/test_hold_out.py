"""Labeled examples that nothing has seen."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rankjax.certificates import HoldOutCertificate, hold_out

N = 12
RIGHT = np.eye(2)


def table(params, x):
    """The logits of example i are row i of the parameters."""
    return params["logits"][x]


def with_errors(k, **more):
    params = {"logits": jnp.asarray(RIGHT)}
    x = np.arange(N) % 2
    y = np.where(np.arange(N) < k, 1 - x, x)
    return hold_out(params, x, y, apply=table, **more)


def test_the_true_error_is_missed_as_often_as_delta_and_tried_allow_and_no_more():
    delta, tried = 0.1, 2
    limits = np.array([with_errors(k, delta=delta, tried=tried).value for k in range(N + 1)])
    misses = [
        np.sum(scipy.stats.binom.pmf(np.arange(N + 1), N, p)[limits < p])
        for p in np.concatenate([limits[:-1] + 1e-9, np.linspace(0.01, 0.99, 99)])
    ]
    assert max(misses) <= delta / tried
    assert max(misses) >= delta / tried * (1 - 1e-6)
    assert limits[-1] == 1


def test_ties_nan_and_wrong_answers_are_errors():
    rows = [
        [2, 1, 1],
        [1, 2, 1],
        [2, 2, 1],
        [np.nan, 2, 1],
        [np.inf, 0, 0],
        [1, 3, 3],
        [-np.inf] * 3,
    ]
    params = {"logits": jnp.asarray(rows, float)}
    found = hold_out(params, np.arange(7), np.zeros(7, int), apply=table)
    assert found.errors == 5
    assert found.n == 7


def test_each_example_is_evaluated_alone():
    def centered(params, x):
        return jnp.einsum("ni,io->no", x - jnp.mean(x, axis=0, keepdims=True), params)

    x = np.random.default_rng(0).normal(size=(5, 2))
    assert hold_out(jnp.eye(2), x, np.zeros(5, int), apply=centered, batch_size=2).errors == 5


def test_the_last_batch_counts_each_example_once():
    for batch_size in (1, 5, 12, 50):
        assert with_errors(5, batch_size=batch_size).errors == 5


def test_arrays_that_apply_holds_are_among_the_assumptions():
    held = jnp.asarray(RIGHT)
    found = hold_out({}, np.zeros(3, int), np.zeros(3, int), apply=lambda params, x: held[x])
    assert any("1 array of 4 numbers" in text for text in found.assumptions)


def test_it_prints_what_it_is_about_and_rounds_up():
    found = HoldOutCertificate(value=1.0, errors=50, n=10000, delta=0.01, tried=1).settled()
    assert found.value == pytest.approx(0.00690013518)
    text = str(found)
    assert text.startswith(
        "guarantee: true error of this network <= 0.0070 with probability >= 0.99"
    )
    assert "50 errors on 10000 fresh labeled examples" in text
    assert "nothing that made the network has seen these examples" in text
    assert "one of 3 networks" in str(with_errors(1, tried=3))


def test_json_comes_back_and_an_altered_one_is_refused():
    found = with_errors(3)
    assert HoldOutCertificate.from_json(found.to_json()) == found
    for field, value in (("errors", 2), ("n", 13), ("delta", 0.02), ("tried", 2), ("value", 0.1)):
        altered = json.loads(found.to_json()) | {field: value}
        with pytest.raises(ValueError, match=r"value: got|nats: got"):
            HoldOutCertificate.from_json(json.dumps(altered))


def test_arguments_out_of_range_are_refused_by_name():
    params, x, y = {"logits": jnp.asarray(RIGHT)}, np.arange(N) % 2, np.arange(N) % 2

    def refused(match, x=x, y=y, apply=table, **more):
        with pytest.raises(ValueError, match=match):
            hold_out(params, x, y, apply=apply, **more)

    refused(r"delta: got 0, must be a number in \(0, 1/2\]", delta=0)
    refused("tried: got 0, must be an integer of at least 1", tried=0)
    refused("batch_size: got 0, must be an integer of at least 1", batch_size=0)
    refused("y: got shape", y=y.astype(float))
    refused("y: got labels from 0 to 2; apply returns 2 classes", y=np.arange(N) % 3)
    refused(r"x: got leading axes \{11\}, must all be 12", x=x[1:])
    refused("apply: got outputs of shape", apply=lambda params, x: params["logits"][x][0])
    refused("must be floating point logits", apply=lambda params, x: RIGHT.astype(int)[:1])
