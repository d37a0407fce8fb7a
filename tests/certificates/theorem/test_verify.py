"""``from_json`` and ``verify`` trust no field and no argument."""

import contextlib
import copy
import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax import describe
from rankjax.certificates.theorem import Certificate, GuardReport, LeafCode, verify
from tests.certificates.theorem import trained

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def network():
    """Its leaves: two references, two products of factors."""
    return trained.near_reference()


@pytest.fixture(scope="module")
def stored(network):
    return json.loads(network.certificate.to_json())


def test_what_was_written_is_read_again(network):
    assert Certificate.from_json(network.certificate.to_json()) == network.certificate
    dense = trained.dense().certificate
    assert Certificate.from_json(dense.to_json()) == dense


def refused(content, field):
    """The error of a tampered certificate names the field, what it got and what is allowed."""
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ValueError, match=r": (got .*must|must)") as caught:
        Certificate.from_json(text)
    assert type(caught.value) is ValueError
    assert re.match(field, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("value", [0, 0.0, -0.1, 1, 2, 1.5, "0.1", None, True, [], NAN, INF, -INF]),
        ("errors", [-1, 1.0, True, "3", None, 3001, NAN, [1]]),
        ("n", [0, -5, 3000.0, True, "3000", None, NAN, {}]),
        ("delta", [0, 0.0, -0.1, 1, True, 0.75, 5, "0.01", None, NAN, INF, 1e-400]),
        ("tried", [0, -3, 1e-300, 1.0, True, "1", None, 10**30, 10**4000, NAN]),
        ("assumptions", [None, "text", 3, [1], [None], {}, [["text"]]]),
        ("leaves", [None, [], {}, "x", 5, [1], [None], [[]], [{}]]),
        ("distances", [None, "x", 5, {}, [True], [1.0], ["1"], [9000], [-9000], [NAN], [[1]]]),
        ("guard", [True, 3, "x", [], {}, {"networks": 1}]),
        ("nats", [None, "x", True, 3, 0.0, NAN, INF]),
    ],
)
def test_fields_of_another_type_or_range(stored, field, values):
    for value in values:
        refused({**stored, field: value}, field)


@pytest.mark.parametrize(
    ("field", "values"),
    [("networks", [0, -1, 1.0, True, None, "3"]), ("largest", [-0.1, 1.1, 1, NAN, None, "0.1"])],
)
def test_fields_of_the_guard(stored, field, values):
    for value in values:
        refused({**stored, "guard": {**stored["guard"], field: value}}, f"guard.{field}")


COMMON = {
    "path": [3, None, True, ["a"]],
    "shape": [None, "x", [True, 40], [-1, 40], [40.0, 20], [[40], 20], ["40"], {}],
    "mode": ["anything", None, 3, [], "Reference"],
    "step": [True, 1.5, "3", None, 801, -801, NAN],
    "levels": [0, -1, True, 1.0, None, 9, 2**60],
    "rank": [-1, True, 1.0, None, "1", 10**6],
    "matrices": [None, "x", [0, 1, 2], [True, 1, 1], [1.0], [-1, -1, 1], {}],
}


@pytest.mark.parametrize("mode", ["reference", "direct", "factors"])
@pytest.mark.parametrize("field", COMMON)
def test_fields_of_a_leaf(network, mode, field):
    made = trained.dense() if mode == "direct" else network
    stored = json.loads(made.certificate.to_json())
    which = next(i for i, leaf in enumerate(stored["leaves"]) if leaf["mode"] == mode)
    for value in COMMON[field]:
        changed = copy.deepcopy(stored)
        changed["leaves"][which][field] = value
        refused(changed, r"leaves|path")


@pytest.mark.parametrize("mode", ["direct", "factors"])
def test_symbols_of_a_leaf(network, mode):
    made = trained.dense() if mode == "direct" else network
    stored = json.loads(made.certificate.to_json())
    which = next(i for i, leaf in enumerate(stored["leaves"]) if leaf["mode"] == mode)
    good = stored["leaves"][which]["symbols"]
    for bad in (True, 1.0, "1", None, NAN, 2**26 + 1, -(2**26) - 1, 10**400, [1]):
        changed = copy.deepcopy(stored)
        changed["leaves"][which]["symbols"] = [bad, *good[1:]]
        refused(changed, r"leaves\['.*'\].symbols")
    for bad in ([], good[1:], [*good, 0], None, "x", 3, {}):
        changed = copy.deepcopy(stored)
        changed["leaves"][which]["symbols"] = bad
        refused(changed, "leaves")


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("reference", {"step": 1}),
        ("reference", {"levels": 2}),
        ("reference", {"symbols": [1]}),
        ("reference", {"rank": 1}),
        ("reference", {"matrices": [1, 2, 3]}),
        ("reference", {"mode": "direct"}),
        ("factors", {"rank": 0}),
        ("factors", {"rank": 2}),
        ("factors", {"rank": 21}),
        ("factors", {"matrices": []}),
        ("factors", {"matrices": [1, 20]}),
        ("factors", {"matrices": [2, 20, 40]}),
        ("factors", {"mode": "direct"}),
        ("factors", {"mode": "reference"}),
        ("factors", {"shape": [40, 21]}),
    ],
)
def test_fields_that_contradict_each_other(stored, mode, changes):
    changed = copy.deepcopy(stored)
    leaf = next(leaf for leaf in changed["leaves"] if leaf["mode"] == mode)
    leaf.update(changes)
    refused(changed, "leaves")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Certificate)])
def test_missing_field(stored, field):
    refused({k: v for k, v in stored.items() if k != field}, "text")


def test_further_and_repeated_fields(stored):
    refused({**stored, "form": "foo"}, "text")
    leaf = stored["leaves"][0]
    refused({**stored, "leaves": [{**leaf, "bits": 3}, *stored["leaves"][1:]]}, "leaves")
    shorter = {k: v for k, v in leaf.items() if k != "rank"}
    refused({**stored, "leaves": [shorter, *stored["leaves"][1:]]}, "leaves")
    refused({**stored, "guard": {**stored["guard"], "seed": 0}}, "guard")
    refused('{"value": 0.5,' + json.dumps(stored)[1:], "text")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "null", "3", "[]", "NaN", '"x"', "[" * 100000, '{"value":' * 50000,
        "9" * 5000, b"\xff", None, 3, ["x"],
    ],
    ids=lambda text: repr(text)[:12],
)  # fmt: skip
def test_texts_that_are_no_certificate(text):
    with pytest.raises(ValueError, match=r"^text: ") as caught:
        Certificate.from_json(text)
    assert type(caught.value) is ValueError


def places(item, path=()):
    """The paths of all values inside nested lists and dictionaries."""
    pairs = item.items() if isinstance(item, dict) else enumerate(item)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


JUNK = [
    None, True, False, 0, 1, -1, 2**31, 10**400, 0.5, 1.0, 1e-300, 1e300, NAN, INF, "", "direct",
    [], [0], [[]], {}, {"path": 1}, [None] * 3,
]  # fmt: skip


def test_junk_anywhere_is_a_value_error_or_no_certificate_of_another_claim(network, stored):
    rng = np.random.default_rng(0)
    everywhere = list(places(stored))
    read = 0
    for _ in range(400):
        changed = copy.deepcopy(stored)
        *path, last = everywhere[rng.integers(len(everywhere))]
        inner = changed
        for key in path:
            inner = inner[key]
        inner[last] = JUNK[rng.integers(len(JUNK))]
        with contextlib.suppress(ValueError):
            found = Certificate.from_json(json.dumps(changed))
            read += 1
            # What does not change the value: the guard, the assumptions, or the same once more.
            assert found.value == network.certificate.value
    assert read < 100


# --- against the network ----------------------------------------------------------------------


def claims(network, certificate, match, *, arguments=None, **options):
    """``verify`` refuses; the value of the certificate follows from its integers."""
    certificate = certificate.settled()
    certificate.verify()
    options = {"apply": network.apply, "reference": network.reference, **options}
    with pytest.raises(ValueError, match=match) as caught:
        verify(certificate, *(arguments or network.arguments), **options)
    assert type(caught.value) is ValueError


def test_leaves_are_those_of_the_network(network):
    certificate = network.certificate
    leaves = certificate.leaves
    for changed in (
        leaves[1:],
        leaves[:-1],
        leaves[::-1],
        (*leaves, leaves[-1]),
        (leaves[0], *leaves),
        (leaves[1], leaves[1], *leaves[2:]),
        (dataclasses.replace(leaves[0], path="inner/weight"), *leaves[1:]),
        (dataclasses.replace(leaves[0], shape=(1, 1)), *leaves[1:]),
        (dataclasses.replace(leaves[0], shape=()), *leaves[1:]),
        (LeafCode("inner/bias", (20, 1), "reference"), *leaves[1:]),
    ):
        claims(network, dataclasses.replace(certificate, leaves=changed), r"^leaves: got .*network")


def test_matrices_are_those_of_the_structure(network):
    leaves = network.certificate.leaves
    for matrices in ((1, 40, 20), (20, 1, 40), (2, 10, 40), (1, 1, 800)):
        rank = 1
        count, m, n = matrices
        changed = dataclasses.replace(
            leaves[1], matrices=matrices, rank=rank, symbols=(1,) * (count * (m + n))
        )
        changed = dataclasses.replace(network.certificate, leaves=(leaves[0], changed, *leaves[2:]))
        claims(network, changed, r"^leaves\['inner/kernel'\].matrices: got")
    bias = LeafCode("inner/bias", (20,), "factors", 0, 1, 1, (1, 4, 5), (1,) * 9)
    changed = dataclasses.replace(network.certificate, leaves=(bias, *leaves[1:]))
    claims(network, changed, r"^leaves\['inner/bias'\].matrices: got")


def test_as_many_distances_as_the_network_has(network):
    certificate = network.certificate
    for changed in ((), certificate.distances[:-1], (*certificate.distances, None)):
        claims(
            network, dataclasses.replace(certificate, distances=changed), r"^distances: got \d, the"
        )


def test_each_distance_is_covered(network):
    certificate = network.certificate
    for i, exponent in enumerate(certificate.distances):
        if exponent is not None:
            for smaller in (exponent - 1, None, -8000):
                changed = list(certificate.distances)
                changed[i] = smaller
                changed = dataclasses.replace(certificate, distances=tuple(changed))
                claims(network, changed, rf"^distances\[{i}\]: got {smaller}")


def test_errors_and_assumptions(network):
    certificate = network.certificate
    fewer = dataclasses.replace(certificate, errors=certificate.errors - 1)
    claims(network, fewer, rf"^errors: got {fewer.errors}, counted {certificate.errors}")
    for changed in ((), certificate.assumptions[:-1], (*certificate.assumptions, "all is well")):
        changed = dataclasses.replace(certificate, assumptions=changed)
        claims(network, changed, "^assumptions: got .*must be")


def test_more_errors_than_counted_are_allowed(network):
    more = dataclasses.replace(network.certificate, errors=network.certificate.errors + 5).settled()
    exact = verify(more, *network.arguments, apply=network.apply, reference=network.reference)
    assert more.value == float(exact) or more.value > exact


def test_distances_beyond_all_numbers_count_every_example(network):
    certificate = network.certificate
    far = dataclasses.replace(certificate, distances=(8000,) * 4)
    claims(network, far, "^errors: got 2, counted 3000")


def test_the_reference_belongs_to_the_claim(network):
    claims(network, network.certificate, "^assumptions", reference=None)
    other = jax.tree.map(lambda a: a + 1, network.reference)
    claims(network, network.certificate, r"^distances\[0\]", reference=other)
    fewer = {"inner": network.reference["inner"]}
    claims(network, network.certificate, "^reference: lacks", reference=fewer)
    claims(network, network.certificate, "^reference: lacks", reference=3)
    plain = trained.dense()
    claims(plain, plain.certificate, "^assumptions", reference=plain.params)


def test_other_parameters(network):
    structure, params, x, y = network.arguments
    moved = jax.tree.map(lambda a: a + 0.1, params)
    claims(network, network.certificate, r"^distances\[0\]", arguments=(structure, moved, x, y))
    inner = params["inner"]
    for bad, match in (
        (jax.tree.map(lambda a: a + jnp.inf, params), "^params: the weights must be finite"),
        ({"inner": inner}, "^params has no leaf 'outer/kernel'"),
        ({}, "^params has no leaf"),
        (None, "^params: got a tree without arrays"),
        ({**params, "inner": {**inner, "bias": 1.0}}, r"^params\['inner/bias'\]: got the Python"),
        ({**params, "inner": {**inner, "bias": jnp.ones(21)}}, "^apply: must take params and x"),
        ({**params, "inner": {**inner, "bias": jnp.ones(1)}}, "^reference: lacks"),
        (
            {**params, "inner": {**inner, "kernel": jnp.ones((40, 19))}},
            r"^params\['inner/kernel'\]",
        ),
    ):
        claims(network, network.certificate, match, arguments=(structure, bad, x, y))


def test_other_data(network):
    structure, params, x, y = network.arguments
    for bad_x, bad_y, match in (
        (x[:-1], y[:-1], "^n: got 3000, the sample has 2999"),
        (x, y[:-1], "^x: got"),
        (x[:-1], y, "^x: got"),
        (x[:, :-1], y, "^apply: must take params and x"),
        (x[:, :, None], y, "^apply: "),
        (-x, y, "^errors: got 2, counted"),
        (x, 1 - y, "^errors: got 2, counted"),
        (x, y + 1, "^y: got labels from 1 to 2"),
        (x, y - 1, "^y: got labels from -1 to 0"),
        (x, y.astype(float), "^y: got"),
        (x, y[:, None], "^y: got"),
        (x, None, "^y: got"),
        (x, 3, "^y: got"),
        (x, "labels", "^y: got"),
        (x, [], "^y: got"),
        (x * NAN, y, "finite"),
    ):
        claims(network, network.certificate, match, arguments=(structure, params, bad_x, bad_y))


def test_other_forward_functions_and_activations(network):
    def larger(params, x):
        return trained.dense_network(params, 100 * x)

    def scaled(params, x):
        return trained.dense_network(params, 0.5 * x) * 7.0

    def one_layer(params, x):
        return x @ params["inner"]["kernel"]

    def unknown(params, x):
        return jnp.sort(trained.dense_network(params, x))

    def pair(params, x):
        return trained.dense_network(params, x), x

    for apply, match in (
        (larger, r"^(assumptions|errors)"),
        (scaled, "^assumptions"),
        (one_layer, "^leaves: got"),
        (unknown, "^apply: certify has no rule for 'sort'"),
        (pair, "^apply: must return the logits alone"),
        (3, "^apply"),
    ):
        claims(network, network.certificate, match, apply=apply)
    for activations in ({"relu": 1.0}, {"tanh": 1.0}, {"relu": -1}, {"relu": NAN}, {"relu": "1"}):
        claims(network, network.certificate, "^(activations|assumptions)", activations=activations)


def test_other_structures(network):
    _, params, x, y = network.arguments
    other = trained.dense()
    claims(
        network, network.certificate, "^params", arguments=(describe(other.params), params, x, y)
    )
    partly = describe({"outer": params["outer"]})
    claims(
        network,
        network.certificate,
        r"^structure: leaves out 'inner/kernel'",
        arguments=(partly, params, x, y),
    )
    for bad in (None, params, 3):
        claims(network, network.certificate, "^structure: got", arguments=(bad, params, x, y))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size(network, batch_size):
    claims(network, network.certificate, "^batch_size: got", batch_size=batch_size)


def test_certificates_that_are_none(network):
    for bad in (None, network.certificate.to_json(), 3, network.params):
        with pytest.raises(ValueError, match=r"^certificate: got"):
            verify(bad, *network.arguments, apply=network.apply)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"leaves": []}, "^leaves: got"),
        ({"leaves": (1,)}, "^leaves: got"),
        ({"distances": [1]}, "^distances: got"),
        ({"distances": (np.int64(1),)}, "^distances: got"),
        ({"guard": {"networks": 3, "largest": 0.1}}, "^guard: got"),
        ({"guard": GuardReport(np.int64(3), 0.1)}, "^guard.networks: got"),  # pyright: ignore[reportArgumentType]
        ({"n": np.int64(3000)}, "^n: got"),
        ({"value": np.float64(0.5)}, "^value: got"),
        ({"delta": "0.01"}, "^delta: got"),
        ({"tried": True}, "^tried: got"),
        ({"assumptions": ["text"]}, "^assumptions: got"),
        ({"leaves": (LeafCode("a", [1], "reference"),)}, r"^leaves\['a'\].shape: got"),  # pyright: ignore[reportArgumentType]
        ({"leaves": (LeafCode("a", (1,), "direct", symbols=[1]),)}, r"^leaves\['a'\].symbols"),  # pyright: ignore[reportArgumentType]
        ({"leaves": (LeafCode(3, (1,), "reference"),)}, "^path: got"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_certificates_put_together_by_hand(network, changes, match):
    bad = dataclasses.replace(network.certificate, **changes)
    with pytest.raises(ValueError, match=match):
        verify(bad, *network.arguments, apply=network.apply, reference=network.reference)
