"""Arguments that cannot be right are refused by name; what was forged in memory is, too."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax import describe
from rankjax.certificates import (
    Certificate,
    CompressedNetwork,
    certify,
    certify_near,
    compress,
    surrogate,
    trace_network,
    verify,
    verify_near,
)
from rankjax.certificates.theorem import GuardReport, LeafCode
from rankjax.certificates.theorem._distances import exponent_of
from rankjax.network import Layer
from rankjax.network.internal import Skeleton

KERNEL = np.array([[1.0, -1.0], [-1.0, 1.0]])
PARAMS = {"t": jnp.asarray(KERNEL)}
AXES = {"t": ((1,), (0,))}
STRUCTURE = describe(PARAMS, axes=AXES)
Y = np.random.default_rng(1).integers(2, size=400)
X = np.eye(2)[Y]


def apply(params, x):
    return x @ params["t"]


def refused(match, function, *arguments, **options):
    with pytest.raises(ValueError, match=match) as caught:
        function(*arguments, **options)
    assert type(caught.value) is ValueError


@pytest.fixture(scope="module")
def certificate():
    return certify(STRUCTURE, PARAMS, X, Y, apply=apply, guard=False)


@pytest.fixture(scope="module")
def network():
    return compress(STRUCTURE, PARAMS)


# --- forged in memory -------------------------------------------------------------------------


class Tuple(tuple):
    __slots__ = ()


class Claims(str):
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


class Small(float):
    __slots__ = ()


def leaf(**changes):
    return {"leaves": (LeafCode(**{"path": "t", "shape": (2, 2), "mode": "reference", **changes}),)}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (lambda c: {"leaves": Tuple(c.leaves)}, "^leaves: got .*must be a tuple"),
        (lambda c: {"distances": Tuple(c.distances)}, "^distances: got .*must be a tuple"),
        (lambda c: {"assumptions": Tuple(c.assumptions)}, "^assumptions: got .*must be a tuple"),
        (lambda c: {"assumptions": (Claims(""),) * 3}, "^assumptions: got .*tuple of strings"),
        (lambda c: {"delta": Small(0.01)}, "^delta: got 0.01, must be a float"),
        (lambda c: leaf(shape=Tuple((2, 2))), r"^leaves\['t'\].shape: got .*must be a tuple"),
        (lambda c: leaf(matrices=Tuple()), r"^leaves\['t'\].matrices: got .*must be a tuple"),
        (lambda c: leaf(symbols=Tuple()), r"^leaves\['t'\].symbols: got .*must be a tuple"),
        (lambda c: leaf(mode=Claims("all")), r"^leaves\['t'\].mode: got 'all', must be one"),
    ],
)
def test_subclasses_that_say_one_thing_and_are_another(certificate, changes, match):
    forged = replace(certificate, **changes(certificate))
    refused(match, verify, forged, STRUCTURE, PARAMS, X, Y, apply=apply)
    refused(match, forged.settled)


def test_attributes_that_hide_the_checks(certificate):
    forged = replace(certificate, value=0.001)
    object.__setattr__(forged, "verify", lambda: 0.001)
    refused("^value: got 0.001", verify, forged, STRUCTURE, PARAMS, X, Y, apply=apply)
    for item in (certificate.leaves[0], GuardReport(3, 0.5)):
        with pytest.raises(AttributeError):
            object.__setattr__(item, "length", lambda before: None)


def test_views_that_put_another_table_in_place(certificate):
    class Table(Layer):
        def leaf(self, matrix):
            return jnp.asarray(KERNEL)

    (layer,) = STRUCTURE.layers
    forged = replace(STRUCTURE, layers=(Table(layer.path, layer.shape, layer.view),))
    refused("^structure: got a Table", verify, certificate, forged, PARAMS, X, Y, apply=apply)


def test_the_guard_is_told_to_be_a_report(certificate):
    told = str(replace(certificate, guard=GuardReport(10**9, 0.0)))
    assert "guard (reported, not verified): 1000000000 networks" in told


def test_weights_in_the_tree_around_a_file(network):
    """The neighbor's weights are those of the file, whatever the skeleton holds."""
    empty = compress(STRUCTURE, {"t": jnp.zeros((2, 2))})
    (placeholder,) = empty.skeleton.other
    both = Skeleton(jax.tree.structure({"a": 0, "t": 0}), (placeholder, KERNEL))
    refused("^skeleton: got arrays at", replace, empty, skeleton=both)
    fields = {**vars(empty), "skeleton": both}
    forged = object.__new__(CompressedNetwork)
    forged.__dict__.update(fields)
    refused("^skeleton", certify_near, STRUCTURE, PARAMS, X, Y, apply=apply, neighbor=forged)
    certificate = certify_near(STRUCTURE, PARAMS, X, Y, apply=apply, neighbor=network)
    refused(
        "^skeleton", verify_near, certificate, STRUCTURE, PARAMS, X, Y, apply=apply, neighbor=forged
    )

    # A tree that puts its own table where the file's array belongs.
    @jax.tree_util.register_pytree_with_keys_class
    class Other(dict):
        def tree_flatten_with_keys(self):
            return [(jax.tree_util.DictKey("t"), self["t"])], None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            (own,) = leaves
            return cls(t=KERNEL if isinstance(own, jax.Array) else own)

    hidden = replace(empty, skeleton=Skeleton(jax.tree.structure(Other(t=0)), (placeholder,)))
    np.testing.assert_array_equal(hidden.params["t"], KERNEL)
    far = certify_near(STRUCTURE, PARAMS, X, Y, apply=apply, neighbor=hidden)
    assert far.errors == len(Y)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": "abc"}, "^data: got 'abc', .*must be bytes"),
        ({"data": b""}, "^data: got 0 bytes, .*must be bytes, at least 4"),
        ({"slots": ()}, "^references: got other arrays"),
        ({"slots": [1]}, "^slots: got .*must be a tuple"),
        ({"slots": (1,)}, "^slots: got .*must be a tuple of Slots"),
        ({"references": []}, "^references: got other arrays"),
        ({"references": [np.zeros((2, 2), np.float32)]}, "^references: got other arrays"),
        ({"references": [np.ma.zeros((2, 2))]}, "^references: got other arrays"),
        ({"skeleton": None}, "^skeleton: got NoneType"),
        ({"skeleton": Skeleton(jax.tree.structure([0]), (KERNEL,))}, "^skeleton: got arrays at"),
        ({"skeleton": Skeleton(jax.tree.structure([0]), (3.0,))}, "got the Python number"),
    ],
)
def test_files_put_together_by_hand(network, changes, match):
    refused(match, replace, network, **changes)


# --- ranges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-99, 1e-61, 1e-50, 1e59])
def test_what_certify_writes_can_be_read_and_verified(size):
    params = {"t": PARAMS["t"] * size}
    found = certify(STRUCTURE, params, X, Y, apply=apply, guard=False)
    assert Certificate.from_json(found.to_json()) == found
    assert float(verify(found, STRUCTURE, params, X, Y, apply=apply)) <= found.value


def test_weights_and_distances_beyond_the_code():
    params = {"t": PARAMS["t"] * 1e61}
    refused(
        r"^params\['t'\]: got a weight 1e\+61 from its reference, must be at most 1e\+60",
        certify, STRUCTURE, params, X, Y, apply=apply, guard=False,
    )  # fmt: skip
    for distance, unit in ((1e200, 1e-200), (1e-200, 1e200), (math.inf, 1.0), (1.0, math.inf)):
        refused("^params: got weights .* units", exponent_of, distance, unit)


def test_a_draft_that_would_be_refused_is_not_settled(certificate):
    refused("^distances: got 8001", replace(certificate, distances=(8001,)).settled)


# --- arguments of certify ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [2.5, "3", None, math.nan, [1], True, 0])
def test_sizes_of_batches(certificate, network, size):
    data, options = (STRUCTURE, PARAMS, X, Y), {"apply": apply, "batch_size": size}
    near = certify_near(*data, apply=apply, neighbor=network)
    match = "^batch_size: got .*must be an integer of at least 1"
    refused(match, certify, *data, **options)
    refused(match, verify, certificate, *data, **options)
    refused(match, certify_near, *data, neighbor=network, **options)
    refused(match, verify_near, near, *data, neighbor=network, **options)
    refused(match, network.certificate, apply, X, Y, batch_size=size)


def deleted():
    array = jnp.asarray(KERNEL * 2)
    array.delete()
    return array


UNREADABLE = [
    (lambda: jax.ShapeDtypeStruct((2, 2), np.float64), "a shape without values"),
    (deleted, "a deleted or donated array"),
    (lambda: KERNEL + 1j, "an array of complex128"),
    (lambda: KERNEL.astype(object), "an array of object"),
    (lambda: KERNEL.astype(str), "an array of <U"),
]


@pytest.mark.parametrize(("make", "what"), UNREADABLE)
def test_arrays_without_real_numbers(certificate, make, what):
    bad, data = {"t": make()}, (X, Y)
    for name, params, reference in (("params", bad, None), ("reference", PARAMS, bad)):
        match = rf"^{name}\['t'\]: got {what}"
        options = {"apply": apply, "reference": reference}
        refused(match, certify, STRUCTURE, params, *data, **options)
        refused(match, verify, certificate, STRUCTURE, params, *data, **options)
        refused(match, compress, STRUCTURE, params, reference=reference)


def test_traced_parameters():
    def inside(t):
        return certify(STRUCTURE, {"t": t}, X, Y, apply=apply).value

    refused(r"^params\['t'\]: got a traced array", jax.jit(inside), PARAMS["t"])


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (jax.random.split(jax.random.key(0), len(Y)), Y, "^x: got random keys"),
        (X.astype(object), Y, "^x: got an array of object"),
        (jax.ShapeDtypeStruct(X.shape, X.dtype), Y, "^x: got a shape without values"),
        (X, jax.ShapeDtypeStruct(Y.shape, Y.dtype), "^y: got a shape without values"),
        (X, [[1], [1, 2]], "^y: must be a non-empty vector of integers"),
    ],
)
def test_samples(network, x, y, match):
    refused(match, certify, STRUCTURE, PARAMS, x, y, apply=apply)
    refused(match, certify_near, STRUCTURE, PARAMS, x, y, apply=apply, neighbor=network)
    refused(match, network.certificate, apply, x, y)
    refused(match, compress, STRUCTURE, PARAMS, x, y, apply=apply)


# --- arguments of compress --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tolerances": None}, "^tolerances: got None, must be a sequence"),
        ({"tolerances": 0.1}, "^tolerances: got 0.1, must be a sequence"),
        ({"tolerances": "ab"}, "^tolerances: got 'a', must be a number"),
        ({"tolerances": (1e-30,)}, "^tolerances: got 1e-30, must be a number >= 1e-06 and <= 1"),
        ({"tolerances": (0.1, math.inf)}, "^tolerances: got inf, must be"),
        ({"exponent": -800}, r"^exponent: got -800, too fine for params\['t'\]"),
        ({"x": X, "y": Y, "apply": apply, "schedule": 3}, "^schedule: got 3, must be a Schedule"),
        ({"x": X, "y": Y, "apply": 3}, "^apply: must take params and x; it says: 'int' object"),
    ],
)
def test_options_of_compress(options, match):
    refused(match, compress, STRUCTURE, PARAMS, **options)


@pytest.mark.parametrize("size", [1e-300, 1e-26, 1e26, 1e200, 1e300])
def test_weights_beyond_the_steps_of_a_file(size):
    match = r"^params\['t'\]: got numbers up to .*must be 0 or from 1e-25 to 1e\+25"
    refused(match, compress, STRUCTURE, {"t": PARAMS["t"] * size})


@pytest.mark.parametrize("size", [2e-25, 2e24])
def test_weights_that_just_fit_are_read_again(tmp_path, size):
    params = {"t": PARAMS["t"] * size}
    stored = compress(STRUCTURE, params, tolerances=(1e-6,))
    stored.save(tmp_path / "file")
    loaded = CompressedNetwork.load(tmp_path / "file", STRUCTURE, params)
    np.testing.assert_allclose(loaded.params["t"], params["t"], rtol=1e-5)


def test_forward_functions_that_do_not_fit(network):
    for wrong in (3, lambda p, x: x @ p["other"], lambda p, x: x[:, :1] @ p["t"]):
        refused("^apply: must take params and x; it says", network.certificate, wrong, X, Y)


# --- arguments of surrogate -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y": Y + 1}, "^y: got labels from 1 to 2"),
        ({"y": Y - 1}, "^y: got labels from -1 to 0"),
        ({"y": Y * 1.0}, "^y: got shape .* must be a non-empty vector of integers"),
        ({"y": Y[:5]}, "^x: got leading axes"),
        ({"temperature": 0.0}, "^temperature: got 0.0, must be a number"),
        ({"temperature": -1.0}, "^temperature: got -1.0, must be"),
        ({"temperature": math.nan}, "^temperature: got nan, must be"),
        ({"temperature": "1"}, "^temperature: got '1', must be"),
        ({"n": 0}, "^n: got 0, must be a number from 1"),
        ({"n": -3}, "^n: got -3, must be"),
        ({"n": math.nan}, "^n: got nan, must be"),
        ({"precision": {"t": math.nan}}, r"^precision\['t'\]: got nan, must be a number"),
        ({"precision": {"t": math.inf}}, r"^precision\['t'\]: got inf, must be"),
        ({"precision": {"t": 1e9}}, r"^precision\['t'\]: got 1000000000.0, must be"),
        ({"precision": {"t": np.ones(2)}}, r"^precision\['t'\]: got .*must be a number"),
        ({"precision": [4.0]}, "^precision: got .*must map paths"),
        ({"precision": {}}, r"^precision: lacks \['t'\]"),
        ({"params": {}}, "^params: lacks 't' of shape"),
        ({"params": {"t": jnp.ones((3, 2))}}, "^params: lacks 't' of shape"),
        ({"params": {"t": jnp.asarray(KERNEL + 1j)}}, r"^params\['t'\]: got complex128"),
        ({"network": None}, "^network: got NoneType, must be a Network"),
    ],
)
def test_arguments_of_surrogate(changes, match):
    given = {
        "network": trace_network(PARAMS, X, apply=apply), "params": PARAMS, "x": jnp.asarray(X),
        "y": jnp.asarray(Y), "precision": {"t": 4.0}, "n": 1000, **changes,
    }  # fmt: skip
    first = [given.pop(name) for name in ("network", "params", "x", "y")]
    refused(match, surrogate, *first, **given)
