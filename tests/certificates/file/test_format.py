"""The message of a network: uniquely decodable without its checksum, and what it refuses."""

from __future__ import annotations

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.certificates.file import CompressedNetwork, compress
from rankjax.certificates.file._coder import Decoder
from rankjax.certificates.file._format import (
    CHECKSUM_BYTES,
    StoredArray,
    _read,
    fingerprint,
    message_bits,
    pack,
    references_of,
    slots_of,
)
from rankjax.network import describe

LIKE = {"bias": jnp.zeros(1), "kernel": jnp.zeros((2, 2))}
STRUCTURE = describe(LIKE)
SLOTS = slots_of(STRUCTURE, LIKE)


def codes(slot, exponents, values):
    """Some codes of one array: of every kind, rank and exponent."""
    yield StoredArray()
    shapes = [(slot.shape,)] + [slot.factor_shapes(k + 1) for k in range(slot.full_rank)]
    for exponent, several in itertools.product(exponents, shapes):
        sizes = [int(np.prod(shape)) for shape in several]
        for flat in itertools.product(values, repeat=sum(sizes)):
            parts = np.split(np.array(flat, int), np.cumsum(sizes)[:-1])
            symbols = [p.reshape(shape) for p, shape in zip(parts, several, strict=True)]
            yield StoredArray(exponent, tuple(symbols))


def read_message(message):
    """The arrays, from the message alone."""
    decoder = Decoder(message)
    return [_read(decoder, slot)[0] for slot in SLOTS]


def same(ours, theirs):
    return all(
        a.exponent == b.exponent
        and len(a.symbols) == len(b.symbols)
        and all(np.array_equal(s, t) for s, t in zip(a.symbols, b.symbols, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def test_messages_without_their_checksums_are_a_prefix_code():
    seed = fingerprint(SLOTS, references_of(SLOTS, None))
    bias = list(codes(SLOTS[0], (-1, 0, 3), (-1, 0, 2)))
    kernel = list(codes(SLOTS[1], (0, 5), (0, 1)))
    messages = {}
    for arrays in itertools.product(bias, kernel):
        data = pack(SLOTS, list(arrays), seed)
        message = data[CHECKSUM_BYTES:]
        assert message_bits(data) == 8 * len(message)
        messages[message] = arrays
    # All networks have their own message, and none begins another.
    assert len(messages) == len(bias) * len(kernel)
    ordered = sorted(messages)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))
    assert sum(Fraction(1, 2 ** (8 * len(message))) for message in ordered) <= 1
    # The reader finds the end by itself, whatever follows.
    for message in ordered[:: len(ordered) // 200]:
        for tail in (b"", b"\0\0\0", b"\xff" * 9):
            assert same(read_message(message + tail), messages[message])


@pytest.mark.parametrize("number", [0.5, 3, True, 1j])
def test_python_numbers_among_the_leaves_are_refused(tmp_path, number):
    params = {**LIKE, "scale": number}
    with pytest.raises(ValueError, match=r"params\['scale'\]: got the Python number"):
        compress(STRUCTURE, params)
    compress(STRUCTURE, LIKE).save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"params\['scale'\]: got the Python number"):
        CompressedNetwork.load(tmp_path / "file", STRUCTURE, params)


def test_functions_among_the_leaves_are_kept():
    network = compress(STRUCTURE, {**LIKE, "activation": jax.nn.relu})
    assert network.params["activation"] is jax.nn.relu


def test_two_leaves_with_one_path_are_refused():
    params = {"a": {"kernel": jnp.eye(2)}, "a/kernel": jnp.ones((2, 2))}
    structure = describe({"a": {"kernel": jnp.eye(2)}})
    with pytest.raises(ValueError, match="params: got two leaves with the path 'a/kernel'"):
        compress(structure, params)


def test_swapped_arguments_are_refused():
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        compress(LIKE, STRUCTURE)  # pyright: ignore[reportArgumentType]


def test_infinite_references_are_refused():
    reference = {**LIKE, "bias": jnp.array([jnp.inf])}
    with pytest.raises(ValueError, match=r"reference\['bias'\]: got infinities or NaN"):
        compress(STRUCTURE, LIKE, reference=reference)
