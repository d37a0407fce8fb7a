"""Certificates of trained networks: what they reach, what they use, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.certificates import Certificate, Network, certify, verify
from rankjax.certificates.theorem import _guard, _rules
from rankjax.certificates.theorem._neighbor import Problem
from rankjax.certificates.theorem._search import choices_of
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
        h = x @ p["a"] + p["a_bias"][None]
        return (jax.nn.relu(h) - jax.nn.relu(-h)) @ p["b"]

    return apply, params, x, y


APPLY, PARAMS, X, Y = teacher()
STRUCTURE = describe(PARAMS, apply=APPLY, example=X)


@pytest.fixture(scope="module")
def certificate():
    return certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)


def test_a_network_that_learned_something_is_certified(certificate):
    assert certificate.value < 0.1
    assert certificate.guard is not None
    assert certificate.guard.largest <= 1
    exact = verify(certificate, STRUCTURE, PARAMS, X, Y, apply=APPLY)
    assert 0 <= certificate.value - float(exact) < 1e-15
    assert all(leaf.path in str(certificate) for leaf in certificate.leaves)
    assert "guard" in str(certificate)


def test_batches_and_float32_do_not_matter(certificate):
    other = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, batch_size=7 * 64)
    assert (other.value, other.leaves) == (certificate.value, certificate.leaves)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    with jax.enable_x64(False):
        found = certify(STRUCTURE, single, X.astype(np.float32), Y, apply=APPLY)
    assert found.value == pytest.approx(certificate.value, rel=0.05)
    assert verify(found, STRUCTURE, single, X.astype(np.float32), Y, apply=APPLY) <= found.value


def test_what_was_tried_is_paid(certificate):
    more = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, tried=1000, guard=False)
    assert more.nats >= certificate.nats - 1
    assert more.value > certificate.value
    assert more.guard is None


def test_reference_makes_what_it_equals_free(certificate):
    reference = {**PARAMS, "b": PARAMS["b"] + 0.01}
    close = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, reference=reference, guard=False)
    modes = {leaf.path: leaf.mode for leaf in close.leaves}
    assert modes["a"] == "reference"
    assert close.nats < certificate.nats / 2
    assert verify(close, STRUCTURE, PARAMS, X, Y, apply=APPLY, reference=reference) <= close.value
    with pytest.raises(ValueError, match="assumptions"):
        verify(close, STRUCTURE, PARAMS, X, Y, apply=APPLY)
    with pytest.raises(ValueError, match=r"reference: lacks 'a_bias'"):
        certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, reference={"a": PARAMS["a"]})


def test_low_rank_is_used():
    x = RNG.normal(size=(20000, 40))
    y = (x[:, 0] > 0).astype(int)
    x[:, 0] += np.where(y == 1, 2.0, -2.0)
    left, right = RNG.normal(size=(40, 1)), RNG.normal(size=(1, 40))
    a = 0.01 * left * right
    a[0] = right / np.linalg.norm(right)  # the first input decides
    direction = right[0] / np.linalg.norm(right)
    params = {"a": jnp.asarray(a), "b": jnp.asarray(np.stack([-direction, direction], 1))}

    def apply(p, x):
        return x @ p["a"] @ p["b"]

    structure = describe(params, apply=apply, example=x)
    found = certify(structure, params, x, y, apply=apply)
    code = {leaf.path: leaf for leaf in found.leaves}
    assert (code["a"].mode, code["a"].rank) == ("factors", 1)
    assert verify(found, structure, params, x, y, apply=apply) <= found.value < 0.1
    assert "rank 1" in str(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name):
    apply, params, x = NETWORKS[name]()
    structure = describe(params, apply=apply, example=x)
    y = np.asarray(jnp.argmax(apply(params, x), axis=1))
    found = certify(structure, params, x, y, apply=apply)
    assert found.value <= 1
    assert verify(found, structure, params, x, y, apply=apply) <= found.value
    assert Certificate.from_json(found.to_json()) == found


def reach(p, x, ids):
    """Scales, stored statistics, LayerNorm, a constant matrix, attention and a lookup."""
    h = x @ p["a"] + p["table"][ids]
    h = (h - p["mean"][None]) * jax.lax.rsqrt(p["var"] + 1e-3)[None] * p["scale"][None]
    h = jax.nn.gelu(h) @ jnp.linspace(-1, 1, 36).reshape(6, 6)
    h = jax.nn.standardize(h.reshape(len(x), 3, 2), epsilon=0.1)
    attention = jax.nn.softmax(h @ jnp.swapaxes(h, 1, 2), axis=-1)
    return (attention @ h).reshape(len(x), -1) @ (p["out"] / jnp.linalg.norm(p["out"]))


def test_reach():
    params = {
        "a": RNG.normal(size=(4, 6)), "table": RNG.normal(size=(5, 6)),
        "mean": RNG.normal(size=6), "var": RNG.uniform(0.5, 2, 6), "scale": RNG.normal(size=6),
        "out": RNG.normal(size=(6, 3)),
    }  # fmt: skip
    params = jax.tree.map(jnp.asarray, params)
    x, ids = RNG.normal(size=(400, 4)), RNG.integers(5, size=400)

    def apply(p, inputs):
        return reach(p, inputs["x"], inputs["ids"])

    inputs = {"x": x, "ids": ids}
    y = np.asarray(jnp.argmax(apply(params, inputs), axis=1))
    structure = describe(params, apply=apply, example=inputs)
    found = certify(structure, params, inputs, y, apply=apply)
    assert {leaf.path for leaf in found.leaves} == set(params)
    assert verify(found, structure, params, inputs, y, apply=apply) <= found.value
    assert 0 < found.guard.largest <= 1


def test_the_guard_sees_a_rule_that_is_wrong(monkeypatch):
    monkeypatch.setitem(_rules._SLOPES, "neg", 0.01)
    with pytest.raises(ValueError, match=r"moved an output by .* bug in rankjax"):
        certify(STRUCTURE, PARAMS, X, Y, apply=lambda p, x: -(-x @ -p["a"]) @ p["b"])


def test_the_guard_draws_networks_inside_the_distances(certificate, monkeypatch):
    seen = []
    true_fit = _guard._fit

    def fit(problem, change, distances):
        found = true_fit(problem, change, distances)
        for distance, allowed in zip(problem.network.distances, distances, strict=True):
            seen.append(_guard.measure(distance, found) / allowed)
        return found

    monkeypatch.setattr(_guard, "_fit", fit)
    again = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY)
    assert again.guard.networks >= 10
    assert max(seen) <= 1
    assert np.median(seen) > 0.5


def test_structure_must_be_of_this_network():
    part = describe(PARAMS, apply=APPLY, example=X, mask=lambda path, leaf: path == "a")
    with pytest.raises(ValueError, match="structure: leaves out 'b'"):
        certify(part, PARAMS, X, Y, apply=APPLY)
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        certify(PARAMS, STRUCTURE, X, Y, apply=APPLY)  # pyright: ignore[reportArgumentType]
    other = {**PARAMS, "a": jnp.ones((3, 5))}
    with pytest.raises(ValueError, match="has shape"):
        certify(
            describe(
                other, axes=dict.fromkeys("ab", ((1,), (0,))), mask=lambda path, _: path in "ab"
            ),
            PARAMS,
            X,
            Y,
            apply=APPLY,
        )
    cube = {"a": jnp.asarray(RNG.normal(size=(2, 3, 2)))}
    wrong = describe(cube, axes={"a": ((0, 2), (1,))})

    def contract(p, x):
        return jnp.einsum("bij,ijk->bk", x.reshape(len(x), 2, 3), p["a"])

    with pytest.raises(ValueError, match="structure: 'a' has other rows and columns"):
        certify(wrong, cube, RNG.normal(size=(9, 6)), np.arange(9) % 2, apply=contract)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta: got 0.0"),
        ({"delta": 0.7}, "delta: got 0.7"),
        ({"delta": np.nan}, "delta: got nan"),
        ({"delta": "0.1"}, "delta: got '0.1'"),
        ({"tried": 0}, "tried: got 0"),
        ({"tried": 1.5}, "tried: got 1.5"),
        ({"batch_size": 0}, "batch_size: got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, **options)


def test_a_rank_that_is_exact_is_coded():
    """Of 60 x 40 weights only some 6 (60 + 40) numbers are described, finely."""
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=(60, 6)), rng.normal(size=(6, 40))
    params = {"a": jnp.asarray(left @ right / 40), "b": jnp.asarray(rng.normal(size=(40, 2)) / 6)}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    x = rng.normal(size=(4000, 6)) @ np.linalg.pinv(left) + 1e-3 * rng.normal(size=(4000, 60))
    logits = np.asarray(apply(params, x))
    sure = np.abs(logits[:, 0] - logits[:, 1]) > 0.1 * np.abs(logits).max()
    structure = describe(params, apply=apply, example=x[:1])
    found = certify(structure, params, x[sure], logits[sure].argmax(1), apply=apply, guard=False)
    assert (found.leaves[0].mode, found.leaves[0].rank) == ("factors", 6)
    assert found.value < 0.95
    assert found.nats < 8 * 6 * (60 + 40) + 1000
    # Codes of this rank reach from the size of the matrix down to a thousandth of it.
    problem = Problem.read(structure, params, x, apply=apply)
    choices = choices_of(problem, 0)
    kept = [code.mode == "factors" and code.rank == 6 for code in choices.codes]
    errors = choices.distances[kept, 0] / np.linalg.norm(np.asarray(params["a"]), 2)
    assert np.max(errors) > 0.1
    assert np.min(errors) < 1e-3


def test_labels_of_any_integer_type():
    expected = certify(STRUCTURE, PARAMS, X, Y, apply=APPLY, guard=False)
    for dtype in (np.uint8, np.int8, np.int32, np.uint64):
        assert certify(STRUCTURE, PARAMS, X, Y.astype(dtype), apply=APPLY, guard=False) == expected


def test_no_tracer_is_left_behind():
    with jax.checking_leaks():
        Network(APPLY, PARAMS, X)


@pytest.mark.skipif(not hasattr(jax, "make_user_context"), reason="releases of JAX without it")
def test_what_was_compiled_before_is_not_compiled_again():
    traces = []

    @jax.jit
    def function(x):
        traces.append(x)
        return x

    function(1.0)
    Network(APPLY, PARAMS, X)
    function(1.0)
    assert len(traces) == 1


def test_what_is_no_network_is_named():
    def broken(p, x):
        raise ZeroDivisionError("of the user")

    for apply, match in (
        (broken, "apply: must take params and x; it says: of the user"),
        (lambda p, x: jax.lax.psum(APPLY(p, x), "i"), "apply: must take params and x"),
        (lambda p, x: {"logits": APPLY(p, x)}, "apply: must return the logits alone"),
    ):
        with pytest.raises(ValueError, match=match):
            Network(apply, PARAMS, X)
    with pytest.raises(ValueError, match="x: got key<fry>, must be arrays of numbers"):
        Network(APPLY, PARAMS, jax.random.split(jax.random.key(0), 4))
    with pytest.raises(ValueError, match="activations: got the name 3, must be a text"):
        Network(APPLY, PARAMS, X, {3: 1.0, "f": 1.0})  # pyright: ignore[reportArgumentType]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), PARAMS)
    with pytest.raises(ValueError, match="got ShapeDtypeStruct, no array"):
        Network(APPLY, PARAMS, X).leaves.vector(shapes)


def test_bad_data():
    with pytest.raises(ValueError, match="y: got labels from 0 to 2"):
        certify(STRUCTURE, PARAMS, X, np.where(np.arange(N) == 5, 2, Y), apply=APPLY)
    with pytest.raises(ValueError, match="y: got shape"):
        certify(STRUCTURE, PARAMS, X, Y.astype(float), apply=APPLY)
    with pytest.raises(ValueError, match="x: got leading axes"):
        certify(STRUCTURE, PARAMS, X[:-1], Y, apply=APPLY)
    broken = {**PARAMS, "b": PARAMS["b"].at[0, 0].set(jnp.nan)}
    with pytest.raises(ValueError, match="params: the weights must be finite"):
        certify(STRUCTURE, broken, X, Y, apply=APPLY)
    infinite = np.where(X > 1, np.inf, X)
    with pytest.raises(ValueError, match="x: got a number of size inf"):
        certify(STRUCTURE, PARAMS, infinite, Y, apply=APPLY)
    infinite = infinite.astype(np.float32)
    unlike = pytest.raises(ValueError, match="values on x are not finite")
    with jax.numpy_dtype_promotion("standard"), unlike:
        certify(STRUCTURE, PARAMS, infinite, Y, apply=APPLY)


def test_errors_of_rounding_that_grow_beyond_bounds_are_no_infinite_values():
    def apply(p, x):
        h = x @ p["w"]
        for _ in range(12):
            h = 100 * jnp.tanh(h)
        return jnp.square(jnp.exp(h / 100))

    params = {"w": PARAMS["a"][:, :2]}
    assert np.isfinite(np.asarray(apply(params, X))).all()
    structure = describe(params, apply=apply, example=X)
    with pytest.raises(ValueError, match="values on x are finite, but the slopes"):
        certify(structure, params, X[:50], Y[:50], apply=apply)


def test_a_depthwise_kernel_and_joined_kernels_are_coded_entry_by_entry():
    """``describe`` leaves both out; the recursion bounds them all the same."""
    x = np.random.default_rng(0).normal(size=(200, 6, 4))
    params = {
        "depthwise": jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 4))),
        "left": jnp.ones((4, 2)),
        "right": jnp.ones((4, 1)),
        "out": jnp.asarray(np.random.default_rng(2).normal(size=(3, 2))),
    }

    def apply(p, x):
        numbers = jax.lax.conv_dimension_numbers(x.shape, (3, 1, 4), ("NWC", "WIO", "NWC"))
        h = jax.lax.conv_general_dilated(
            x, p["depthwise"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=4
        )
        joined = jnp.concatenate([p["left"], p["right"]], 1)
        return jax.nn.relu(h.mean(1) @ joined) @ p["out"]

    y = np.argmax(apply(params, x), 1)
    structure = describe(params, apply=apply, example=x[:1])
    assert {leaf.path for leaf in structure.left_out} >= {"depthwise", "right"}
    found = certify(structure, params, x, y, apply=apply)
    assert {leaf.path for leaf in found.leaves} == set(params)
    assert found.guard.largest <= 1
    assert verify(found, structure, params, x, y, apply=apply) <= found.value


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA copies on CPUs")
def test_the_compiled_program_does_not_grow_with_the_square_of_the_depth():
    def apply(p, x):
        h = x
        for _ in range(14):
            h = jax.nn.sigmoid(h @ p["w"]) * jnp.tanh(h) + h
        return h @ p["w"]

    network = Network(apply, {"w": jnp.eye(3)}, X[:2])
    with jax.enable_x64(True):
        lowered = network._pass.lower(jnp.zeros(9), X[:2], np.zeros(2, int))
        lines = [p.as_text().count("\n") for p in (lowered, lowered.compile())]
    assert lines[1] < 4 * lines[0]
