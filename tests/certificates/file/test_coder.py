"""The arithmetic coder and the code of integer arrays: exact, decodable, as long as announced."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankjax.certificates.file import _symbols as model
from rankjax.certificates.file._coder import Decoder, Encoder, integer_bits, integer_nats
from rankjax.certificates.file._symbols import code_length, coin_nats, read_symbols, write_symbols


def encoded(array: np.ndarray) -> bytes:
    encoder = Encoder()
    write_symbols(encoder, array)
    return encoder.finish()


def test_integer_code_is_complete():
    # Elias' delta code is complete; the lengths of |v| < 2^k leave out what 2^k and above need.
    total = sum(Fraction(1, 2 ** integer_bits(v)) for v in range(1 - 2**14, 2**14))
    assert total < 1
    # 1 - total is the mass of numbers with at least 16 binary digits
    rest = 1 - sum(
        Fraction(2 ** (d - 1), 2 ** (d - 1 + 2 * (d.bit_length() - 1) + 1)) for d in range(1, 16)
    )
    assert 1 - total == rest


@settings(deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), max_size=20))
def test_integers_round_trip_in_the_announced_length(values):
    encoder = Encoder()
    for value in values:
        encoder.write_integer(value)
    data = encoder.finish()
    decoder = Decoder(data)
    assert [decoder.read_integer() for _ in values] == values
    nats = sum(integer_nats(value) for value in values)
    assert nats <= 8 * len(data) * math.log(2) < nats + 11 * math.log(2)


shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)
sparse = st.one_of(st.just(0), st.just(0), st.integers(-2, 2), st.integers(-(2**61), 2**61))


@st.composite
def arrays(draw):
    shape = draw(shapes)
    size = math.prod(shape)
    return np.array(draw(st.lists(sparse, min_size=size, max_size=size)), np.int64).reshape(shape)


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_arrays_round_trip_in_the_announced_length(array):
    data = encoded(array)
    np.testing.assert_array_equal(read_symbols(Decoder(data), array.shape)[0], array)
    nats = code_length(array)
    bits = 8 * len(data)
    # at most 2 bits to end the message, 7 to fill the byte, and the rounding of the intervals
    assert nats / math.log(2) - 1e-6 <= bits < nats / math.log(2) + 9 + 1e-3


@settings(max_examples=50, deadline=None)
@given(st.lists(arrays(), max_size=4))
def test_several_arrays_in_one_message(several):
    encoder = Encoder()
    for array in several:
        write_symbols(encoder, array)
    decoder = Decoder(encoder.finish())
    for array in several:
        np.testing.assert_array_equal(read_symbols(decoder, array.shape)[0], array)


def test_all_small_arrays_are_told_apart_and_no_message_begins_another():
    messages = {}
    for values in itertools.product(range(-2, 3), repeat=4):
        array = np.array(values).reshape(2, 2)
        messages[values] = encoded(array)
        np.testing.assert_array_equal(read_symbols(Decoder(messages[values]), (2, 2))[0], array)
    ordered = sorted(messages.values())
    assert len(set(ordered)) == 5**4
    assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))
    assert sum(Fraction(1, 256 ** len(message)) for message in ordered) <= 1


def test_announced_lengths_satisfy_kraft():
    total = sum(
        math.exp(-code_length(np.array(values)))
        for values in itertools.product(range(-12, 13), repeat=2)
    )
    assert 0.2 < total <= 1


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_coin_is_a_probability(n):
    total = sum(math.comb(n, yes) * math.exp(-coin_nats(n - yes, yes)) for yes in range(n + 1))
    assert total == pytest.approx(1, abs=1e-12)


def test_coin_against_the_rule_it_comes_from():
    sequence = [0, 1, 1, 0, 1, 0, 0, 0, 1]
    counts, nats = [0, 0], 0.0
    for bit in sequence:
        nats -= math.log((counts[bit] + 0.5) / (sum(counts) + 1))
        counts[bit] += 1
    assert coin_nats(*counts) == pytest.approx(nats, abs=1e-12)


def test_empirical_entropy_is_nearly_reached():
    rng = np.random.default_rng(0)
    array = rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, -1], size=(50, 40))
    p = np.unique(array, return_counts=True)[1] / array.size
    entropy = -float(np.sum(p * np.log(p))) * array.size
    assert entropy <= code_length(array) < entropy + 15


def test_sparser_is_shorter():
    lengths = []
    for share in (0.0, 0.02, 0.1, 0.3):
        rng = np.random.default_rng(1)
        lengths.append(code_length((rng.random((30, 30)) < share).astype(int)))
    assert lengths == sorted(lengths)
    assert lengths[0] < 8


def test_zeros_that_come_in_channels_cost_less():
    rng = np.random.default_rng(2)
    array = rng.integers(1, 3, size=(12, 12))
    array[:, rng.permutation(12)[:8]] = 0
    assert code_length(array) < code_length(rng.permutation(array.ravel()).reshape(12, 12)) - 20


def test_zeros_that_come_in_patches_cost_less():
    array = np.zeros((24, 24), int)
    array[3:9, 4:10] = 1
    array[14:20, 12:20] = 1
    shuffled = np.random.default_rng(3).permutation(array.ravel()).reshape(24, 24)
    assert code_length(array) < code_length(shuffled) - 100


def test_contexts_seen_by_reader_and_writer_agree():
    rng = np.random.default_rng(4)
    nonzero = rng.random((3, 4, 2)) < 0.5
    for way in range(5):
        contexts = model._contexts(nonzero, way)
        padded = np.zeros((4, 5, 3), bool)
        for index in np.ndindex(3, 4, 2):
            assert model._context(padded, index, way) == contexts[index]
            padded[tuple(i + 1 for i in index)] = nonzero[index]


def test_floats_are_refused():
    with pytest.raises(
        ValueError, match="symbols: got dtype float64, must be an array of integers"
    ):
        code_length(np.zeros(3))


def test_data_that_end_early_are_refused():
    with pytest.raises(ValueError, match="past the end of the data"):
        Decoder(b"").read_integer()
    rng = np.random.default_rng(5)
    data = encoded(rng.integers(-9, 9, size=200))
    with pytest.raises(ValueError, match="data: "):
        read_symbols(Decoder(data[: len(data) // 2]), (200,))


def test_intervals_that_make_no_sense_are_refused():
    for start, stop, total in ((1, 1, 2), (-1, 1, 2), (0, 3, 2), (0, 1, 2**33)):
        with pytest.raises(ValueError, match="0 <= start < stop <= total"):
            Encoder().write(start, stop, total)
