"""The table of all guarantees: its rows are those of the functions, each at its share of delta."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.certificates import (
    DisagreementCertificate,
    PickedCertificate,
    Picking,
    certify,
    certify_all,
    certify_by,
    certify_near,
    compress,
    hold_out,
    pick_to_learn,
)
from rankjax.network import describe

PARAMS = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
RNG = np.random.default_rng(0)
X, FRESH = RNG.normal(size=(600, 2)), RNG.normal(size=(400, 2))
Y, FRESH_Y = ((x[:, 0] > 0).astype(int) for x in (X, FRESH))


def apply(params, x):
    return x @ params["kernel"]


STRUCTURE = describe(PARAMS)
STORED = compress(STRUCTURE, PARAMS)


@pytest.fixture(scope="module")
def picked():
    return pick_to_learn(
        {"kernel": jnp.zeros((2, 2))}, X, Y, apply=apply, optimizer=optax.sgd(1.0),
        picking=Picking(rounds=2, steps=20), tried=3,
    )  # fmt: skip


@pytest.mark.parametrize("joint", [False, True])
def test_each_row_is_what_its_function_returns(picked, joint):
    table = certify_all(
        STRUCTURE, PARAMS, X, Y, apply=apply, held_out=(FRESH, FRESH_Y), unlabeled=FRESH,
        stored=STORED, picked=picked, delta=0.02, tried=2, joint=joint,
    )  # fmt: skip
    assert len(table) == 7
    paid = 14 if joint else 2
    found = {route.name: route.guarantee for route in table}
    given = {"apply": apply, "delta": 0.02, "tried": paid}
    half = STORED.certificate(apply, X, Y, delta=0.01, tried=paid)
    expected = {
        "certify": certify(STRUCTURE, PARAMS, X, Y, **given),
        "hold_out": hold_out(PARAMS, FRESH, FRESH_Y, **given),
        "certify_near": certify_near(STRUCTURE, PARAMS, X, Y, neighbor=STORED, **given),
        "compress": STORED.certificate(apply, X, Y, delta=0.02, tried=paid),
        "certify_by the file": certify_by(
            PARAMS, FRESH, surrogate=STORED.params, certificate=half, **given
        ),
    }
    for name, guarantee in expected.items():
        assert found[name] == guarantee, name
    own, by = found["pick_to_learn"], found["certify_by the picked network"]
    assert isinstance(own, PickedCertificate)
    assert isinstance(by, DisagreementCertificate)
    assert (own.delta, own.tried, own.picked) == (0.02, 3 * paid // 2, picked.certificate.picked)
    assert (by.delta, by.tried, by.surrogate_delta) == (0.02, paid, 0.01)
    for guarantee in (own, by):
        guarantee.verify()
    values = [route.guarantee.value for route in table]
    assert values == sorted(values)
    assert ("all of them hold at once" in str(table)) == joint
    assert "with probability >= 0.98" in str(table)


def test_a_network_without_a_rule_has_a_row_that_says_why():
    def sorting(params, x):
        return jnp.sort(apply(params, x), axis=1)

    table = certify_all(STRUCTURE, PARAMS, X, Y, apply=sorting, held_out=(FRESH, FRESH_Y))
    assert [route.name for route in table] == ["hold_out", "certify"]
    assert table[1].guarantee is None
    assert "no certify: apply: certify has no rule for" in str(table)


def test_arguments_in_the_wrong_order_or_out_of_range_are_refused():
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        certify_all(cast(Any, PARAMS), STRUCTURE, X, Y, apply=apply)
    with pytest.raises(ValueError, match="delta: got 2"):
        certify_all(STRUCTURE, PARAMS, X, Y, apply=apply, delta=2)
    with pytest.raises(ValueError, match="x: got leading axes"):
        certify_all(STRUCTURE, PARAMS, X[1:], Y, apply=apply)
    other = jax.tree.map(lambda a: a[:1], PARAMS)
    with pytest.raises(ValueError, match="kernel"):
        certify_all(STRUCTURE, other, X, Y, apply=apply)
