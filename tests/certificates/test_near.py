"""Certificates by a stored neighbour: recomputed by hand, never below the truth, and refused."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.bounds import kl_inverse
from rankjax.certificates import certify_near, compress
from rankjax.network import describe
from tests.certificates.networks import NETWORKS
from tests.certificates.test_certify import APPLY, PARAMS, STRUCTURE, N, X, Y

NEIGHBOUR = compress(STRUCTURE, PARAMS, tolerances=[0.2])


def near(scale, seed=0):
    """The neighbour's weights, each moved by about this much."""
    rng = np.random.default_rng(seed)
    return {
        path: leaf + scale * rng.normal(size=leaf.shape) for path, leaf in NEIGHBOUR.params.items()
    }


def test_value_by_hand():
    params = near(1e-3)
    found = certify_near(STRUCTURE, params, NEIGHBOUR, X, Y, apply=APPLY, tried=2)
    theirs = {path: np.asarray(leaf) for path, leaf in NEIGHBOUR.params.items()}
    errors, nats = {}, NEIGHBOUR.bits * math.log(2) + math.log(2)
    for path, a in found.distances:
        assert a is not None
        distance = np.linalg.norm(np.asarray(params[path]) - theirs[path], 2)
        assert distance <= 2 ** (a / 8) <= distance * 2 ** (1 / 8) * (1 + 1e-9)
        errors[path] = 2 ** (a / 8)
        nats += math.log(2) + math.log(1.5 * (abs(a) + 1) * (abs(a) + 2))
    assert found.nats == pytest.approx(nats, rel=1e-12)
    pre = X @ theirs["a"] + theirs["a_bias"]
    moved = 2 * (errors["a"] * np.linalg.norm(X, axis=1) + errors["a_bias"])
    gain = np.linalg.norm(theirs["b"], 2) + errors["b"]
    moved = gain * moved + errors["b"] * np.linalg.norm(pre, axis=1)
    logits = pre @ theirs["b"]
    margins = (logits[:, 1] - logits[:, 0]) * np.where(Y == 1, 1, -1)
    assert found.errors == np.sum(margins <= math.sqrt(2) * moved)
    expected = kl_inverse(found.errors / N, (nats + math.log(100)) / N)
    assert found.value == pytest.approx(float(expected), rel=1e-9)
    assert found.verify() <= found.value
    with pytest.raises(ValueError, match="value"):
        replace(found, errors=found.errors + 1).verify()


def test_the_closer_the_better_down_to_the_neighbour_itself():
    values = [
        certify_near(STRUCTURE, near(scale), NEIGHBOUR, X, Y, apply=APPLY).errors
        for scale in (1e-6, 1e-2, 0.1)
    ]
    assert values == sorted(values)
    same = certify_near(STRUCTURE, NEIGHBOUR.params, NEIGHBOUR, X, Y, apply=APPLY)
    assert all(a is None for _, a in same.distances)
    itself = NEIGHBOUR.certificate(APPLY, X, Y)
    assert same.errors == itself.errors
    # What is left of the difference: one symbol a leaf.
    assert same.nats == pytest.approx(itself.nats + len(PARAMS) * math.log(2))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_that_close_has_more_errors_than_counted(name):
    apply, params, x = NETWORKS[name]()
    structure = describe(params, apply=apply, example=x)
    y = np.asarray(jnp.argmax(apply(params, x), axis=1))
    neighbour = compress(structure, params, tolerances=[0.05])
    rng = np.random.default_rng(2)
    for scale in (1e-3, 1e-2):
        moved = jax.tree.map(lambda a, s=scale: a + s * rng.normal(size=a.shape), neighbour.params)
        found = certify_near(structure, moved, neighbour, x, y, apply=apply)
        logits = np.asarray(apply(moved, x))
        others = np.where(np.arange(logits.shape[1]) == y[:, None], -np.inf, logits)
        errors = int(np.sum(logits[np.arange(len(y)), y] <= others.max(axis=1)))
        assert errors <= found.errors
        assert "within" in str(found)
