"""Certificates by a stored neighbor: recomputed by hand, never below the truth, verified."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.bounds import kl_inverse
from rankjax.certificates import NearCertificate, certify_near, compress, verify_near
from rankjax.certificates.theorem import _rules
from rankjax.network import describe
from tests.certificates.networks import NETWORKS
from tests.certificates.theorem.test_certify import APPLY, PARAMS, STRUCTURE, N, X, Y

NEIGHBOR = compress(STRUCTURE, PARAMS, tolerances=[0.2])
OPTIONS = {"apply": APPLY, "neighbor": NEIGHBOR}


def near(scale, seed=0):
    """The neighbor's weights, each moved by about this much."""
    rng = np.random.default_rng(seed)
    return {
        path: leaf + scale * rng.normal(size=leaf.shape) for path, leaf in NEIGHBOR.params.items()
    }


def test_value_by_hand():
    params = near(1e-3)
    found = certify_near(STRUCTURE, params, X, Y, tried=2, **OPTIONS)
    theirs = {path: np.asarray(leaf) for path, leaf in NEIGHBOR.params.items()}
    moved = {path: np.asarray(params[path]) - theirs[path] for path in theirs}
    units = {
        "a": (math.sqrt(4) + math.sqrt(3)) / math.sqrt(12),
        "a_bias": math.sqrt(4 / 12),
        "b": math.sqrt(4 / 6),
    }
    sizes = {
        "a": np.linalg.norm(moved["a"], 2),
        "a_bias": np.linalg.norm(moved["a_bias"]),
        "b": np.linalg.norm(moved["b"][:, 0] - moved["b"][:, 1]),
    }
    nats, before, coded = NEIGHBOR.bits * math.log(2) + math.log(2), 0, {}
    for path, a in zip(units, found.distances, strict=True):
        coded[path] = units[path] * 2 ** (a / 8)
        assert sizes[path] <= coded[path] <= sizes[path] * 2 ** (1 / 8) * (1 + 1e-9)
        nats += math.log(2) + math.log(1.5 * (abs(a - before) + 1) * (abs(a - before) + 2))  # pyright: ignore[reportOperatorIssue]
        before = a
    assert found.nats == pytest.approx(nats, rel=1e-12)
    hidden = X @ theirs["a"] + theirs["a_bias"]
    bound = 2 * (coded["a"] * np.linalg.norm(X, axis=1) + coded["a_bias"])
    rows = np.linalg.norm(theirs["b"][:, 0] - theirs["b"][:, 1])
    limit = (rows + coded["b"]) * bound + coded["b"] * np.linalg.norm(hidden, axis=1)
    logits = hidden @ theirs["b"]
    gaps = (logits[:, 1] - logits[:, 0]) * np.where(Y == 1, 1, -1)
    assert found.errors == np.sum(gaps <= limit)
    expected = kl_inverse(found.errors / N, (nats + math.log(100)) / N)
    assert found.value == pytest.approx(float(expected), rel=1e-9)


def test_the_closer_the_better_down_to_the_neighbor_itself():
    values = [
        certify_near(STRUCTURE, near(scale), X, Y, **OPTIONS).errors for scale in (1e-6, 1e-2, 0.1)
    ]
    assert values == sorted(values)
    same = certify_near(STRUCTURE, NEIGHBOR.params, X, Y, **OPTIONS)
    assert set(same.distances) == {None}
    itself = NEIGHBOR.certificate(APPLY, X, Y)
    assert same.errors == itself.errors
    # What is left of the difference: one symbol per distance.
    assert same.nats == pytest.approx(itself.nats + 3 * math.log(2))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_that_close_has_more_errors_than_counted(name):
    apply, params, x = NETWORKS[name]()
    structure = describe(params, apply=apply, example=x)
    y = np.asarray(jnp.argmax(apply(params, x), axis=1))
    neighbor = compress(structure, params, tolerances=[0.05])
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda a: a + 3e-3 * rng.normal(size=a.shape), neighbor.params)
    found = certify_near(structure, moved, x, y, apply=apply, neighbor=neighbor)
    logits = np.asarray(apply(moved, x))
    others = np.where(np.arange(logits.shape[1]) == y[:, None], -np.inf, logits)
    errors = int(np.sum(logits[np.arange(len(y)), y] <= others.max(axis=1)))
    assert errors <= found.errors
    assert "bits for the stored neighbor" in str(found)


def test_verify_near_trusts_no_field():
    params = near(0.1)
    found = certify_near(STRUCTURE, params, X, Y, **OPTIONS)
    assert 0 <= found.value - float(verify_near(found, STRUCTURE, params, X, Y, **OPTIONS)) < 1e-15
    assert NearCertificate.from_json(found.to_json()) == found
    tampered = {
        "value": replace(found, value=math.nextafter(found.value, 0)),
        "bits": replace(found, bits=found.bits - 8).settled(),
        "distances": replace(
            found, distances=(found.distances[0] - 1, *found.distances[1:])
        ).settled(),
        "errors": replace(found, errors=found.errors - 1).settled(),
        "n: ": replace(found, n=N + 1).settled(),
        "assumptions": replace(found, assumptions=()),
        "certificate": NEIGHBOR.certificate(APPLY, X, Y),
    }
    for match, other in tampered.items():
        with pytest.raises(ValueError, match=match):
            verify_near(other, STRUCTURE, params, X, Y, **OPTIONS)
    fields = json.loads(found.to_json())
    for name, wrong in (("bits", 1.5), ("bits", -1), ("distances", [0.5]), ("delta", 5), ("n", 0)):
        with pytest.raises(ValueError, match=name):
            NearCertificate.from_json(json.dumps({**fields, name: wrong}))
    for text in ("[]", "{}", "{"):
        with pytest.raises(ValueError, match="text: "):
            NearCertificate.from_json(text)


def test_the_neighbor_must_be_of_this_network():
    other = compress(describe({"kernel": jnp.ones((2, 2))}), {"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"neighbor\.params: lacks"):
        certify_near(STRUCTURE, PARAMS, X, Y, apply=APPLY, neighbor=other)


def test_a_reference_that_the_neighbor_was_coded_from_is_an_assumption():
    neighbor = compress(STRUCTURE, PARAMS, reference=PARAMS, tolerances=[0.2])
    found = certify_near(STRUCTURE, PARAMS, X, Y, apply=APPLY, neighbor=neighbor)
    assert any("reference weights were fixed" in text for text in found.assumptions)


def test_what_is_no_file_or_was_changed_in_memory_is_refused():
    class Fake:
        bits, params = 1, PARAMS

    with pytest.raises(ValueError, match="neighbor: got Fake, must be a CompressedNetwork"):
        certify_near(STRUCTURE, PARAMS, X, Y, apply=APPLY, neighbor=Fake())  # pyright: ignore[reportArgumentType]
    neighbor = compress(STRUCTURE, PARAMS, tolerances=[0.2])
    assert neighbor.params  # decoded
    neighbor.references[0][...] = 1.0
    with pytest.raises(ValueError, match=r"reference|structure|file"):
        certify_near(STRUCTURE, PARAMS, X, Y, apply=APPLY, neighbor=neighbor)


def test_the_guard_sees_a_rule_that_is_wrong(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 2)))}

    def apply(p, x):
        return -jnp.tanh(x @ p["kernel"])

    structure = describe(params, apply=apply, example=x)
    neighbor = compress(structure, params, tolerances=(0.5,))
    moved = {"kernel": params["kernel"] + 0.1}
    y = np.asarray(jnp.argmax(apply(moved, x), axis=1))
    certify_near(structure, moved, x, y, apply=apply, neighbor=neighbor)
    monkeypatch.setitem(_rules._SLOPES, "neg", 0.01)
    with pytest.raises(ValueError, match="This is a bug in rankjax"):
        certify_near(structure, moved, x, y, apply=apply, neighbor=neighbor)
