"""Compressed networks: the file, what it refuses, and what its certificate says."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.certificates.file import CompressedNetwork, Schedule, compress, count_errors
from rankjax.certificates.file._format import (
    StoredArray,
    fingerprint,
    pack,
    references_of,
    slots_of,
    unpack,
)
from rankjax.network import describe


def apply(params, x):
    x = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return x @ params["last"]["kernel"] + params["last"]["bias"][None]


def make_params(seed=0, inputs=6, width=12, classes=3, dtype=jnp.float32):
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "first": {"kernel": array(inputs, width), "bias": array(width)},
        "last": {"kernel": array(width, classes), "bias": jnp.zeros(classes, dtype)},
    }


def make_data(n=300, inputs=6, classes=3, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, inputs)).astype(np.float32)
    return x, np.argmax(x[:, :classes], 1)


@pytest.fixture
def network():
    params = make_params()
    return compress(describe(params), params)


def low_rank_params():
    rng = np.random.default_rng(3)
    u, v = rng.integers(-2, 3, size=(40, 2)), rng.integers(-2, 3, size=(2, 50))
    return {"kernel": jnp.asarray(u @ v, jnp.float32)}


def conv_params(groups=1):
    rng = np.random.default_rng(4)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4 // groups, 6)), jnp.float32)

    def apply(params, x):
        return jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    params = {"kernel": kernel}
    return params, describe(params, apply=apply, example=jnp.zeros((1, 5, 5, 4), jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_a_file_gives_the_same_network_bit_for_bit(tmp_path, dtype):
    params = make_params(dtype=dtype)
    structure = describe(params)
    network = compress(structure, params)
    network.save(tmp_path / "network")
    like = jax.eval_shape(lambda: params)
    loaded = CompressedNetwork.load(tmp_path / "network", structure, like)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(network.params), strict=True):
        assert a.dtype == b.dtype == dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    x = make_data()[0].astype(dtype)
    one, two = apply(network.params, x), apply(loaded.params, x)
    assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
    assert str(loaded) == str(network)
    assert loaded.bits == 8 * (tmp_path / "network").stat().st_size - 32


@pytest.mark.parametrize("tolerance", [0.03, 0.1, 0.3, 0.9])
def test_every_array_is_as_precise_as_asked(tolerance):
    params = make_params()
    network = compress(describe(params), params, tolerances=[tolerance])
    for a, b in zip(jax.tree.leaves(network.params), jax.tree.leaves(params), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b) * (1 + 1e-6)


def test_less_precision_is_fewer_bits():
    params = make_params(inputs=20, width=30)
    sizes = [
        compress(describe(params), params, tolerances=[t]).bits for t in (0.01, 0.05, 0.2, 0.6)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_steps_are_1_where_scales_do_not_matter_and_only_there():
    x, y = make_data()
    eye = jnp.eye(6, dtype=jnp.float32)
    params = {"first": 0.013 * eye, "last": 70.0 * eye[:, :3]}
    structure = describe(params, axes=dict.fromkeys(params, ((1,), (0,))))

    def exponents(activation, **options):
        def apply(params, x):
            return activation(x @ params["first"]) @ params["last"]

        network = compress(structure, params, x, y, apply=apply, **options)
        assert network.certificate(apply, x, y).errors == 0
        return {array.exponent for array in network.arrays.values()}

    assert exponents(lambda h: h) == {0}
    assert exponents(lambda h: h, exponent=-80) == {-80}
    assert exponents(lambda h: jnp.where(jnp.max(jnp.abs(h)) < 0.5, h, jnp.zeros_like(h))) != {0}


def test_low_rank_is_found_and_pays():
    params = low_rank_params()
    network = compress(describe(params), params, tolerances=[0.1])
    stored = network.arrays["kernel"]
    assert stored.rank == 2
    rng = np.random.default_rng(5)
    other = {"kernel": jnp.asarray(rng.permutation(np.ravel(params["kernel"])).reshape(40, 50))}
    assert network.bits < 0.6 * compress(describe(other), other, tolerances=[0.1]).bits


@pytest.mark.parametrize("groups", [1, 2])
def test_factors_of_a_kernel_make_the_kernel(tmp_path, groups):
    params, structure = conv_params(groups)
    slots = slots_of(structure, params)
    rng = np.random.default_rng(6)
    shapes = slots[0].factor_shapes(2)
    stored = StoredArray(-5, tuple(rng.integers(-3, 4, size=shape) for shape in shapes))
    references = references_of(slots, None)
    value = stored.value(slots[0], references[0])
    layer = structure.layers[0]
    np.testing.assert_array_equal(slots[0].to_matrix(value), layer.matrix(jnp.asarray(value)))
    product = jnp.asarray(stored.symbols[0] @ stored.symbols[1], jnp.float64)
    np.testing.assert_allclose(value, layer.leaf(product) * 2 ** (-5 / 8), rtol=1e-6)
    (tmp_path / "file").write_bytes(pack(slots, [stored], fingerprint(slots, references)))
    loaded = CompressedNetwork.load(tmp_path / "file", structure, params)
    np.testing.assert_array_equal(loaded.params["kernel"], value)


def test_counted_from_a_reference(tmp_path):
    params, start = make_params(), make_params(seed=9)
    structure = describe(params)
    near = jax.tree.map(lambda a: a, start)
    near["last"]["kernel"] = near["last"]["kernel"].at[2, 1].add(1.0)
    network = compress(structure, near, reference=start)
    assert network.bits < compress(structure, near).bits / 3
    np.testing.assert_array_equal(network.params["first"]["kernel"], start["first"]["kernel"])
    network.save(tmp_path / "file")
    CompressedNetwork.load(tmp_path / "file", structure, params, reference=start)
    with pytest.raises(ValueError, match="not a compressed network"):
        CompressedNetwork.load(tmp_path / "file", structure, params)


def test_every_truncated_or_altered_file_is_refused(tmp_path, network):
    params = make_params()
    structure, path = describe(params), tmp_path / "file"

    def refused(data):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="not a compressed network"):
            CompressedNetwork.load(path, structure, params)

    data = network.data
    for length in range(len(data)):
        refused(data[:length])
    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            refused(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
    refused(data + b"\0")
    refused(data + data)


def test_foreign_files_are_refused(tmp_path, network):
    import pickle

    path, structure = tmp_path / "file", describe(make_params())
    for foreign in (b"", b"\0" * 100, pickle.dumps(make_params()), b"PK\3\4" + bytes(60)):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="not a compressed network"):
            CompressedNetwork.load(path, structure, make_params())
    network.save(path)
    wider = make_params(width=13)
    with pytest.raises(ValueError, match="not a compressed network of this structure"):
        CompressedNetwork.load(path, describe(wider), wider)


def test_a_right_checksum_on_a_wrong_message_is_refused():
    import zlib

    params = make_params()
    slots = slots_of(describe(params), params)
    seed = fingerprint(slots, references_of(slots, None))
    message = compress(describe(params), params).data[4:]

    def sealed(message):
        return zlib.crc32(message, seed).to_bytes(4, "big") + message

    assert unpack(slots, sealed(message), seed)
    for wrong in (message + b"\0", message[: len(message) // 2], b"\xff" * 50, b"\0" * 50):
        with pytest.raises(ValueError, match=r"not a compressed network|data: "):
            unpack(slots, sealed(wrong), seed)


def test_certificate_counts_the_message_of_the_file(tmp_path, network):
    x, y = make_data()
    certificate = network.certificate(apply, x, y, delta=0.02, tried=3)
    network.save(tmp_path / "file")
    assert certificate.bits == 8 * (tmp_path / "file").stat().st_size - 32
    assert certificate.nats == pytest.approx(certificate.bits * math.log(2) + math.log(3))
    logits = np.array(apply(network.params, x))
    assert certificate.errors == int(np.sum(np.argmax(logits, 1) != y))
    budget = (certificate.nats + math.log(50)) / 300
    q, p = certificate.empirical, certificate.value
    divergence = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert divergence == pytest.approx(budget, rel=1e-9)
    assert divergence >= budget
    assert json.loads(certificate.to_json())["value"] == certificate.value
    text = " ".join(str(certificate).split())
    assert "COMPRESSED network" in text
    assert "independent draws" in text
    assert "example by example" in text


def test_trying_more_and_being_surer_cost():
    params = make_params()
    network = compress(describe(params), params)
    x, y = make_data()
    base = network.certificate(apply, x, y).value
    assert network.certificate(apply, x, y, tried=100).value > base
    assert network.certificate(apply, x, y, delta=1e-6).value > base
    assert base < 1


def test_ties_and_nan_are_errors():
    x, y = make_data(n=70)
    assert count_errors(lambda p, x: jnp.zeros((len(x), 3)), {}, x, y, batch_size=32) == 70
    assert count_errors(lambda p, x: jnp.full((len(x), 3), jnp.nan), {}, x, y) == 70
    assert count_errors(lambda p, x: x[:, :3], {}, x, y, batch_size=33) == 0


def test_examples_are_evaluated_one_by_one():
    # A network that normalizes over its batch would see all labels' inputs; here it cannot.
    x, y = make_data(n=64)
    leaking = count_errors(lambda p, x: (x - x.mean(0, keepdims=True))[:, :3], {}, x, y)
    assert leaking == 64


def test_training_the_integers_lowers_the_certificate():
    params, (x, y) = make_params(), make_data(n=600)
    structure = describe(params)
    plain = compress(structure, params, apply=apply, x=x, y=y)
    schedule = Schedule(epochs=20, batch_size=50)
    with jax.numpy_dtype_promotion("standard"):  # Adam itself takes a float to an integer power
        trained = compress(structure, params, apply=apply, x=x, y=y, schedule=schedule)
    before = plain.certificate(apply, x, y)
    after = trained.certificate(apply, x, y)
    assert after.value < before.value - 0.15
    assert after.bits < before.bits + 300


def test_fixed_steps_stay_fixed():
    params, (x, y) = make_params(), make_data()
    schedule = Schedule(epochs=2, batch_size=50)
    with jax.numpy_dtype_promotion("standard"):  # as above
        network = compress(
            describe(params), params, exponent=-3, apply=apply, x=x, y=y, schedule=schedule
        )
    for array in network.arrays.values():
        assert not array.symbols or (array.exponent == -3 and array.rank is None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"apply": apply}, "apply, x, y: got apply alone, must be all or none"),
        ({"schedule": Schedule()}, "schedule: got one without data"),
        ({"tolerances": []}, "tolerances: got \\[\\], must be a sequence of at least one"),
        ({"tolerances": [0.0]}, "tolerances: got 0.0, must be a number >= 1e-06"),
        ({"tolerances": [math.nan]}, "tolerances: got nan, must be"),
        ({"exponent": 0.5}, "exponent: got 0.5, must be an integer"),
        ({"delta": 0.0}, "delta: got 0.0, must be a number in"),
        ({"delta": math.nan}, "delta: got nan, must be"),
        ({"delta": 0.6}, "delta: got 0.6, must be"),
        ({"delta": True}, "delta: got True, must be"),
        ({"reference": {"first": jnp.zeros(3)}}, "reference: got .* must have the paths"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    params = make_params()
    with pytest.raises(ValueError, match=message):
        compress(describe(params), params, **arguments)


def test_a_flax_network(tmp_path):
    from flax import nnx

    graph, state = nnx.split(nnx.Linear(6, 3, rngs=nnx.Rngs(0)))

    def forward(state, x):
        return nnx.merge(graph, state)(x)

    x, y = make_data()
    structure = describe(state, apply=forward, example=x[:1])
    network = compress(structure, state)
    network.save(tmp_path / "file")
    loaded = CompressedNetwork.load(tmp_path / "file", structure, state)
    np.testing.assert_array_equal(forward(loaded.params, x), forward(network.params, x))
    assert sorted(loaded.arrays) == ["bias", "kernel"]
    assert loaded.certificate(forward, x, y).n == 300


def test_bad_arrays_are_refused(network):
    params = make_params()
    structure = describe(params)
    with pytest.raises(ValueError, match=r"params\['step'\]: got dtype int64, must be floating"):
        compress(structure, {**params, "step": jnp.zeros(2, int)})
    params["first"]["bias"] = params["first"]["bias"].at[0].set(jnp.nan)
    with pytest.raises(
        ValueError, match=r"params\['first/bias'\]: got infinities or NaN, must be finite"
    ):
        compress(structure, params)
    x, y = make_data()
    with pytest.raises(ValueError, match="tried: got 0, must be an integer of at least 1"):
        network.certificate(apply, x, y, tried=0)
    with pytest.raises(ValueError, match="allowed are 0 to 2"):
        network.certificate(apply, x, y + 1)
    with pytest.raises(ValueError, match="must all be 299"):
        network.certificate(apply, x, y[:-1])
    with pytest.raises(ValueError, match="must be logits"):
        network.certificate(lambda p, x: x[:, 0], x, y)
