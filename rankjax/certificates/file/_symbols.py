"""An adaptive code for arrays of small integers, most of them zero.

An integer is written as yes-or-no questions: is it zero? negative? larger than 1, than 2 ... in
magnitude? Each kind of question has its own coin, whose bias is learned on the way by Krichevsky
and Trofimov's rule: after ``a`` no and ``b`` yes, yes has probability ``(b + 1/2)/(a + b + 1)``. A
coin with ``a`` no and ``b`` yes in all costs ``-log [B(a + 1/2, b + 1/2) / B(1/2, 1/2)]`` nats in
whatever order they come, about the empirical entropy and ``log(a + b)/2``: no table of frequencies
is stored.

The first question may have more coins than one: one for each index along one axis (channels that
are used much or little), or one for each number of non-zero neighbors already written. Which of
these an array uses is written before it, and the shortest is taken.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np

from rankjax.certificates.file._coder import Decoder, Encoder, integer_nats

LEVELS = 15  # magnitudes above are written as integers
_MAX_NEIGHBORS = 2


def code_length(symbols: np.ndarray, /) -> float:
    """Nats that ``write_symbols`` takes, without writing; exact but for the coder's rounding.

    Cost: a few passes over the array for each of its axes.

    Example:
        >>> import numpy as np
        >>> round(code_length(np.zeros(1000, int)), 2)
        5.12
        >>> round(code_length(np.eye(8, dtype=int)), 2)
        30.72
    """
    symbols = integer_array(symbols)
    lengths = [_zeros_length(symbols, way) for way in range(_ways(symbols.ndim))]
    return math.log(len(lengths)) + min(lengths) + _magnitudes_length(symbols)


def shortest_way(symbols: np.ndarray, /) -> int:
    """Which coins tell the zeros in the fewest nats.

    0: a single one; ``1 + a``: one for each index along axis a; ``ndim + 1``: one for each number
    of non-zero neighbors.
    """
    return min(range(_ways(symbols.ndim)), key=lambda way: _zeros_length(symbols, way))


def write_symbols(encoder: Encoder, symbols: np.ndarray, /, way: int | None = None) -> None:
    """Write an array of integers whose shape the reader knows; ``way`` from ``shortest_way``.

    Raises:
        ValueError: the array does not hold integers.
    """
    symbols = integer_array(symbols)
    way = shortest_way(symbols) if way is None else way
    encoder.write(way, way + 1, _ways(symbols.ndim))
    coins: dict[object, list[int]] = defaultdict(lambda: [0, 0])
    contexts = _contexts(symbols != 0, way).ravel().tolist()
    for context, symbol in zip(contexts, symbols.ravel().tolist(), strict=True):
        _write_coin(encoder, coins[context], symbol != 0)
        if symbol == 0:
            continue
        _write_coin(encoder, coins["sign"], symbol < 0)
        magnitude = abs(symbol)
        for level in range(1, LEVELS + 1):
            _write_coin(encoder, coins["above", level], magnitude > level)
            if magnitude == level:
                break
        else:
            encoder.write_integer(magnitude - LEVELS - 1)


def read_symbols(decoder: Decoder, shape: tuple[int, ...], /) -> tuple[np.ndarray, int]:
    """Read an array that ``write_symbols`` wrote, as int64, and the way it was written.

    Raises:
        ValueError: the data end before the array does, or hold an integer above 2^62.
    """
    way = decoder.read_uniform(_ways(len(shape)))
    coins: dict[object, list[int]] = defaultdict(lambda: [0, 0])
    symbols = np.zeros(shape, np.int64)
    # One entry more in front of every axis: neighbors outside the array are zero.
    padded = np.zeros([n + 1 for n in shape], bool)
    for index in np.ndindex(*shape):
        if not _read_coin(decoder, coins[_context(padded, index, way)]):
            continue
        padded[tuple(i + 1 for i in index)] = True
        negative = _read_coin(decoder, coins["sign"])
        magnitude = 1
        while magnitude <= LEVELS and _read_coin(decoder, coins["above", magnitude]):
            magnitude += 1
        if magnitude > LEVELS:
            rest = decoder.read_integer()
            if not 0 <= rest < 1 << 62:
                raise ValueError("data: a symbol's magnitude is out of range")
            magnitude += rest
        symbols[index] = -magnitude if negative else magnitude
    return symbols, way


def integer_array(symbols: np.ndarray) -> np.ndarray:
    """``symbols`` as int64.

    Raises:
        ValueError: another kind of numbers.
    """
    array = np.asarray(symbols)
    if array.dtype.kind not in "iu":
        raise ValueError(f"symbols: got dtype {array.dtype}, must be an array of integers")
    return array.astype(np.int64)


def coin_nats(no: int, yes: int) -> float:
    """Nats of ``no`` no and ``yes`` yes together, in any order."""
    return math.lgamma(no + yes + 1) + math.log(math.pi) - math.lgamma(no + 0.5) - math.lgamma(
        yes + 0.5
    )  # fmt: skip


def _ways(ndim: int) -> int:
    return ndim + 2


def _contexts(nonzero: np.ndarray, way: int) -> np.ndarray:
    """For each entry the number of the coin that tells whether it is zero."""
    if way == 0:
        return np.zeros(nonzero.shape, int)
    if way <= nonzero.ndim:
        axis = way - 1
        index = np.arange(nonzero.shape[axis])
        return np.broadcast_to(
            np.expand_dims(index, [d for d in range(nonzero.ndim) if d != axis]), nonzero.shape
        )
    padded = np.zeros([n + 1 for n in nonzero.shape], bool)
    padded[(slice(1, None),) * nonzero.ndim] = nonzero
    count = np.zeros(nonzero.shape, int)
    for axis in range(nonzero.ndim):
        before = [slice(1, None)] * nonzero.ndim
        before[axis] = slice(None, -1)
        count += padded[tuple(before)]
    return np.minimum(count, _MAX_NEIGHBORS)


def _context(padded: np.ndarray, index: tuple[int, ...], way: int) -> int:
    """The entry ``index`` of ``_contexts``, from the entries before it."""
    if way == 0:
        return 0
    if way <= len(index):
        return index[way - 1]
    count = 0
    for axis in range(len(index)):
        count += int(padded[tuple(i + (d != axis) for d, i in enumerate(index))])
    return min(count, _MAX_NEIGHBORS)


def _zeros_length(symbols: np.ndarray, way: int) -> float:
    nonzero = symbols != 0
    contexts = _contexts(nonzero, way)
    yes = np.bincount(contexts[nonzero].ravel())
    every = np.bincount(contexts.ravel(), minlength=len(yes))
    yes = np.pad(yes, (0, len(every) - len(yes)))
    return sum(coin_nats(int(n - y), int(y)) for n, y in zip(every, yes, strict=True) if n)


def _magnitudes_length(symbols: np.ndarray) -> float:
    values = symbols[symbols != 0]
    negative = int(np.sum(values < 0))
    total = coin_nats(len(values) - negative, negative)
    magnitudes = np.abs(values)
    at_least = [int(np.sum(magnitudes >= level)) for level in range(1, LEVELS + 2)]
    for here, above in itertools.pairwise(at_least):
        total += coin_nats(here - above, above)
    large = magnitudes[magnitudes > LEVELS]
    return total + sum(integer_nats(int(m) - LEVELS - 1) for m in large)


def _write_coin(encoder: Encoder, coin: list[int], yes: bool) -> None:
    no_weight, total = 2 * coin[0] + 1, 2 * (coin[0] + coin[1]) + 2
    if yes:
        encoder.write(no_weight, total, total)
    else:
        encoder.write(0, no_weight, total)
    coin[yes] += 1


def _read_coin(decoder: Decoder, coin: list[int]) -> bool:
    no_weight, total = 2 * coin[0] + 1, 2 * (coin[0] + coin[1]) + 2
    yes = decoder.target(total) >= no_weight
    decoder.take(no_weight if yes else 0, total if yes else no_weight, total)
    coin[yes] += 1
    return yes
