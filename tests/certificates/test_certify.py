"""The certificate: recomputed by hand, verified, refused where it is altered."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from rankjax.certificates import Certificate, certify, codes, verify
from rankjax.certificates.codes import BiasCode, MatrixCode
from rankjax.network import describe
from tests.certificates.networks import NETWORKS

RNG = np.random.default_rng(3)
N = 3000


def teacher():
    """Two blobs, well apart, and a two-layer network that tells them apart."""
    y = RNG.integers(2, size=N)
    x = RNG.normal(size=(N, 3)) * 0.3 + np.where(y[:, None] == 1, 1.0, -1.0)
    a = np.linalg.qr(RNG.normal(size=(4, 4)))[0][:, :3]
    out = np.stack([-a.sum(1), a.sum(1)], axis=1)
    params = {"a": jnp.asarray(a.T), "a_bias": jnp.full(4, 0.01), "b": jnp.asarray(out)}

    def apply(p, x):
        h = x @ p["a"] + p["a_bias"]
        return (jax.nn.relu(h) - jax.nn.relu(-h)) @ p["b"]

    return apply, params, x, y


APPLY, PARAMS, X, Y = teacher()
STRUCTURE = describe(PARAMS, apply=APPLY, example=X)


def by_hand(certificate, x=X):
    """The bound from the printed integers, in plain numpy and scipy."""
    a, b = np.asarray(PARAMS["a"]).T, np.asarray(PARAMS["b"]).T
    code = {item.name: item.code for item in certificate.coded}
    count = certificate.matrices

    def error(c):
        s = 2 ** (c.j / (8 * count))
        return s * (2 ** (1 - c.b) if c.mode == "direct" else 2 ** (c.a / 8) if c.k else 1)

    pre = x @ a.T + np.asarray(PARAMS["a_bias"])
    hidden = np.maximum(pre, 0) - np.maximum(-pre, 0)
    scale = {p: 2 ** (code[p].j / (8 * count)) for p in ("a", "b")}
    beta = 2 ** (code["a_bias"].j / 8)
    bias = beta * (2 ** (1 - code["a_bias"].b) if code["a_bias"].mode == "coded" else 1)
    moved = error(code["a"]) * np.linalg.norm(x, axis=1) + bias
    moved = 2 * moved  # the two branches add up
    moved = scale["b"] * moved + error(code["b"]) * (np.linalg.norm(hidden, axis=1) + moved)
    logits = hidden @ b.T
    margins = (logits[:, 1] - logits[:, 0]) * np.where(Y == 1, 1, -1)
    errors = int(np.sum(margins <= 2 * math.sqrt(2) * moved))

    def integer(j):
        return math.log(1.5 * (abs(j) + 1) * (abs(j) + 2))

    nats = 0.0
    for name, (m, n) in {"a": (4, 3), "b": (2, 4)}.items():
        c = code[name]
        nats += math.log(3) + integer(c.j)
        if c.mode == "direct":
            nats += math.log(c.b * (c.b + 1)) + m * n * math.log(1 + 2**c.b)
        else:
            nats += math.log(min(m, n) + 1)
            if c.k:
                q, theta = 2 ** (1 - c.b), m / (m + n)
                nats += math.log(c.b * (c.b + 1)) + integer(c.a)
                nats += c.k * m * math.log(1 + 2 / (theta * q))
                nats += c.k * n * math.log(1 + 2 / ((1 - theta) * q))
    c = code["a_bias"]
    nats += math.log(3) + integer(c.j)
    if c.mode == "coded":
        nats += math.log(c.b * (c.b + 1)) + 4 * math.log(1 + 2**c.b)
    return errors, nats


def kl_inverse(q, budget):
    def kl(p):
        first = q * math.log(q / p) if q else 0.0
        return first + (1 - q) * math.log((1 - q) / (1 - p)) - budget

    if q == 1:
        return 1.0
    return brentq(kl, max(q, 1e-12), 1 - 1e-15, xtol=1e-15)


@pytest.mark.parametrize("form", ["kl", "hoeffding"])
def test_value_is_what_its_integers_give(form):
    certificate = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, form=form, tried=3)
    errors, nats = by_hand(certificate)
    assert certificate.errors == errors
    assert certificate.nats == pytest.approx(nats + math.log(3), rel=1e-12)
    budget = (certificate.nats + math.log(100)) / N
    expected = errors / N + math.sqrt(budget / 2) if form == "hoeffding" else None
    expected = kl_inverse(errors / N, budget) if expected is None else expected
    assert certificate.value == pytest.approx(expected, rel=1e-9)
    assert certificate.value < 0.3
    exact = verify(certificate, STRUCTURE, PARAMS, X, Y, apply=APPLY)
    assert float(exact) == pytest.approx(certificate.value, rel=1e-14)
    assert exact <= certificate.value


def test_the_search_beats_every_uniform_precision():
    best = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)
    for b in range(3, 12):
        coded = []
        for item in best.coded:
            j = item.code.j
            code = BiasCode("coded", j, b) if item.name == "a_bias" else None
            coded.append(replace(item, code=code or MatrixCode("direct", j, b=b)))
        uniform = replace(best, coded=tuple(coded))
        errors, nats = by_hand(uniform)
        value = kl_inverse(errors / N, (nats + math.log(100)) / N)
        assert best.value <= value + 1e-12


def test_radius_form():
    radius = float(np.linalg.norm(X, axis=1).max())
    options = {"apply": APPLY, "recursion": "radius", "radius": radius}
    for form in ("kl", "hoeffding"):
        certificate = certify(STRUCTURE, PARAMS, X, Y, form=form, **options)
        data = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, form=form)
        assert data.value < certificate.value < 0.9  # every example is as bad as the worst
        assert (certificate.gamma is None) == (form == "hoeffding")
        found = verify(certificate, STRUCTURE, PARAMS, X, Y, apply=APPLY, radius=radius)
        assert found <= certificate.value
        assert any("norm at most" in text for text in certificate.assumptions)


def test_reference_makes_what_it_equals_free():
    reference = {**PARAMS, "b": PARAMS["b"] + 0.01}
    plain = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)
    close = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, reference=reference)
    assert [item.code.mode for item in close.coded if item.name == "a"] == ["equal"]
    assert close.value < plain.value
    assert verify(close, STRUCTURE, PARAMS, X, Y, apply=APPLY, reference=reference) <= close.value
    with pytest.raises(ValueError, match=r"a: |b: |errors"):
        verify(close, STRUCTURE, PARAMS, X, Y, apply=APPLY)
    with pytest.raises(ValueError, match="reference: lacks"):
        certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, reference={"a": PARAMS["a"]})


def test_low_rank_is_used():
    x = RNG.normal(size=(20000, 12))
    y = (x[:, 0] > 0).astype(int)
    x[:, 0] += np.where(y == 1, 2.0, -2.0)
    a = jnp.zeros((12, 12)).at[0, 0].set(1.0)
    params = {"a": a, "b": jnp.zeros((12, 2)).at[0].set(jnp.array([-1.0, 1.0]))}

    def apply(p, x):
        return x @ p["a"] @ p["b"]

    structure = describe(params, apply=apply, example=x)
    certificate = certify(structure, params, x, y, apply=apply)
    code = {item.name: item.code for item in certificate.coded}
    assert (code["a"].mode, code["a"].k) == ("rank", 1)
    assert certificate.value < 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name):
    apply, params, x = NETWORKS[name]()
    structure = describe(params, apply=apply, example=x)
    y = np.asarray(jnp.argmax(apply(params, x), axis=1))
    certificate = certify(structure, params, x, y, apply=apply)
    assert certificate.value <= 1
    assert verify(certificate, structure, params, x, y, apply=apply) <= certificate.value
    again = Certificate.from_json(certificate.to_json())
    assert again == certificate
    assert "assumptions" in str(certificate)
    assert all(item.name in str(certificate) for item in certificate.coded)


def test_batches_and_float32_do_not_matter():
    wanted = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)
    assert certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, batch_size=7 * 64) == wanted
    single = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    with jax.enable_x64(False):
        found = certify(STRUCTURE, single, X.astype(np.float32), Y, apply=APPLY)
    assert found.value == pytest.approx(wanted.value, rel=0.02)
    assert verify(found, STRUCTURE, single, X.astype(np.float32), Y, apply=APPLY) <= found.value


def test_altered_certificates_are_refused():
    certificate = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)
    with pytest.raises(ValueError, match="value"):
        replace(certificate, value=certificate.value * (1 - 1e-9)).verify()
    fields = json.loads(certificate.to_json())
    with pytest.raises(ValueError, match="value"):
        Certificate.from_json(json.dumps({**fields, "errors": fields["errors"] + 1}))
    for text in ("[]", "{}", json.dumps({**fields, "coded": [{}]}), "{"):
        with pytest.raises(ValueError, match="text: not a certificate"):
            Certificate.from_json(text)

    def tampered(name, **change):
        coded = tuple(
            replace(item, code=replace(item.code, **change)) if item.name == name else item
            for item in certificate.coded
        )
        return replace(certificate, coded=coded, value=1.0)

    code = {item.name: item.code for item in certificate.coded}
    bad = [
        tampered("a", j=code["a"].j - 1),
        tampered("a", mode=codes.EQUAL),
        tampered("a", mode=codes.RANK, k=1, b=12, a=-60),
        tampered("a_bias", j=code["a_bias"].j - 1),
        tampered("b", mode=codes.DIRECT, b=1),
        replace(certificate, errors=certificate.errors - 1, value=1.0),
        replace(certificate, n=N - 1, value=1.0),
        replace(certificate, coded=certificate.coded[:-1], value=1.0),
    ]
    for other in bad:
        with pytest.raises(ValueError, match=r"scale|reference|error|errors|n:|codes"):
            verify(other, STRUCTURE, PARAMS, X, Y, apply=APPLY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta: got 0.0"),
        ({"delta": 0.7}, "delta"),
        ({"form": "best"}, "form must be one of"),
        ({"recursion": "both"}, "recursion must be one of"),
        ({"recursion": "radius"}, "radius: got None"),
        ({"radius": 1.0}, "radius: got 1.0"),
        ({"tried": 0}, "tried: got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, **options)


def test_bad_data_and_structures():
    with pytest.raises(ValueError, match="y: got labels from 0 to 2"):
        certify(STRUCTURE, PARAMS, X, np.where(np.arange(N) == 5, 2, Y), apply=APPLY)
    part = describe(PARAMS, apply=APPLY, example=X, mask=lambda path, leaf: path == "a")
    with pytest.raises(ValueError, match="structure: leaves out"):
        certify(part, PARAMS, X, Y, apply=APPLY)
    broken = {**PARAMS, "b": PARAMS["b"].at[0, 0].set(jnp.nan)}
    with pytest.raises(ValueError, match="not finite"):
        certify(STRUCTURE, broken, X, Y, apply=APPLY)
