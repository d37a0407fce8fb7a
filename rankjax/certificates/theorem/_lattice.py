"""How the coded neighbor is written down: whole multiples of a step, entropy coded.

A leaf is coded relative to its reference M in one of three modes: it *is* M; it is M plus a step
times integers; or it is M plus a step times a product of two integer matrices of small inner size.
Steps come from a grid of exact binary fractions, four per octave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from rankjax.certificates._guarantee import check_integer
from rankjax.certificates._lengths import Length, coin, integer, one_of, positive_integer, total

Mode = Literal["reference", "direct", "factors"]
MODES: tuple[Mode, ...] = get_args(Mode)
STEPS_PER_OCTAVE = 4
LARGEST_EXPONENT = STEPS_PER_OCTAVE * 200
_LARGEST_SYMBOL = 2**26  # products of two, summed over a rank of 2, are exact in float64
_LEVELS = 8


def grid_step(exponent: int) -> float:
    """``(1 + r/4) 2^k`` for ``exponent = 4 k + r``: exact in binary.

    Example:
        >>> [grid_step(e) for e in (0, 1, 4, -1)]
        [1.0, 1.25, 2.0, 0.875]
    """
    octave, part = divmod(exponent, STEPS_PER_OCTAVE)
    return math.ldexp(1 + part / STEPS_PER_OCTAVE, octave)


def nearest_exponent(step: float) -> int:
    """The exponent of a grid step near ``step``."""
    octave = math.floor(math.log2(step))
    part = round((step / 2**octave - 1) * STEPS_PER_OCTAVE)
    return STEPS_PER_OCTAVE * octave + part


@dataclass(frozen=True, slots=True)
class LeafCode:
    """One coded leaf.

    Attributes:
        path: of the leaf.
        shape: of the leaf.
        mode: see the module.
        step: exponent of the step on the grid; 0 for ``reference``.
        levels: how many magnitudes have a coin of their own (``symbols_length``).
        rank: of the factors; 0 in the other modes.
        matrices: ``(count, out, in)`` of the factors; empty in the other modes.
        symbols: the integers, row by row; of factors first all left, then all right ones.
    """

    path: str
    shape: tuple[int, ...]
    mode: Mode
    step: int = 0
    levels: int = 1
    rank: int = 0
    matrices: tuple[int, ...] = ()
    symbols: tuple[int, ...] = ()

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        where = f"leaves[{self.path!r}]"
        if type(self.path) is not str:
            raise ValueError(f"path: got {self.path!r}, must be a string")
        _check_sizes(self.shape, f"{where}.shape", 0)
        if type(self.mode) is not str or self.mode not in MODES:
            raise ValueError(f"{where}.mode: got {self.mode!r}, must be one of {MODES}")
        check_integer(self.step, f"{where}.step")
        if abs(self.step) > LARGEST_EXPONENT:
            raise ValueError(
                f"{where}.step: got {self.step}, must be from {-LARGEST_EXPONENT} to "
                f"{LARGEST_EXPONENT}"
            )
        check_integer(self.levels, f"{where}.levels", 1)
        if self.levels > _LEVELS:
            raise ValueError(f"{where}.levels: got {self.levels}, must be from 1 to {_LEVELS}")
        check_integer(self.rank, f"{where}.rank", 0)
        _check_sizes(self.matrices, f"{where}.matrices", 1)
        if type(self.symbols) is not tuple:
            raise ValueError(f"{where}.symbols: got {type(self.symbols)}, must be a tuple")
        for symbol in self.symbols:
            if abs(check_integer(symbol, f"{where}.symbols")) > _LARGEST_SYMBOL:
                raise ValueError(
                    f"{where}.symbols: got {symbol}, must be from {-_LARGEST_SYMBOL} to "
                    f"{_LARGEST_SYMBOL}"
                )
        size, expected = math.prod(self.shape), 0
        if self.mode == "direct":
            expected = size
        elif self.mode == "factors":
            if len(self.matrices) != 3 or math.prod(self.matrices) != size:
                raise ValueError(
                    f"{where}.matrices: got {self.matrices}, must be (count, out, in) of a leaf "
                    f"of {size} entries"
                )
            if not 1 <= self.rank <= min(self.matrices[1:]):
                raise ValueError(
                    f"{where}.rank: got {self.rank}, must be from 1 to {min(self.matrices[1:])}"
                )
            expected = sum(self._factor_sizes())
        if len(self.symbols) != expected:
            raise ValueError(f"{where}.symbols: got {len(self.symbols)}, must be {expected}")
        if self.mode != "factors" and (self.rank or self.matrices):
            raise ValueError(
                f"{where}.rank: got {self.rank} with matrices {self.matrices}, must be 0 and () in "
                f"the mode {self.mode!r}"
            )
        if self.mode == "reference" and (self.step, self.levels) != (0, 1):
            raise ValueError(
                f"{where}.step: got {self.step} with levels {self.levels}, must be 0 with levels 1 "
                "in the mode 'reference'"
            )

    def _factor_sizes(self) -> tuple[int, int]:
        count, m, n = self.matrices
        return count * m * self.rank, count * self.rank * n

    def length(self, before: int) -> Length:
        """Nats of the code word; the step is coded relative to the step ``before`` it."""
        if self.mode == "reference":
            return one_of(3)
        parts = [one_of(3), integer(self.step - before), positive_integer(self.levels)]
        if self.mode == "direct":
            return total([*parts, symbols_length(self.symbols, self.levels)])
        left, _ = self._factor_sizes()
        return total(
            [
                *parts,
                one_of(min(self.matrices[1:])),
                symbols_length(self.symbols[:left], self.levels),
                symbols_length(self.symbols[left:], self.levels),
            ]
        )

    def moved(self) -> np.ndarray:
        """Coded leaf minus reference: shape of the leaf, or ``(count, out, in)`` of factors."""
        if self.mode == "reference":
            return np.zeros(self.shape)
        symbols = np.asarray(self.symbols, np.int64)
        if self.mode == "direct":
            return grid_step(self.step) * symbols.reshape(self.shape)
        count, m, n = self.matrices
        left, right = np.split(symbols, [self._factor_sizes()[0]])
        product = left.reshape(count, m, self.rank) @ right.reshape(count, self.rank, n)
        return grid_step(self.step) * product

    def summary(self) -> str:
        """The code in words."""
        if self.mode == "reference":
            return "its reference"
        kind = "entries" if self.mode == "direct" else f"rank {self.rank}"
        return f"{kind}, step {grid_step(self.step):.3g}"


def _check_sizes(sizes: Any, name: str, lowest: int) -> None:
    if type(sizes) is not tuple:
        raise ValueError(f"{name}: got {sizes!r}, must be a tuple of integers")
    for size in sizes:
        check_integer(size, name, lowest)


def symbols_length(symbols: Sequence[int], levels: int) -> Length:
    """Nats of so many integers, their number known.

    Magnitudes are written in unary, "larger than m?" for m = 0, 1, ...; the first ``levels``
    questions have an adaptive coin each, all further ones share one; then one bit per sign.
    """
    magnitudes = np.abs(np.asarray(symbols, np.int64))
    parts = []
    for level in range(levels):
        asked = int(np.sum(magnitudes >= level))
        yes = int(np.sum(magnitudes > level))
        if asked == 0:
            break
        parts.append(coin(asked - yes, yes))
    beyond = magnitudes[magnitudes >= levels]
    if beyond.size:
        parts.append(coin(int(beyond.size), int(np.sum(beyond - levels))))
    nonzero = int(np.sum(magnitudes > 0))
    if nonzero:
        parts.append(Length(((nonzero, 2, 1),)))
    return total(parts)


def best_levels(blocks: Sequence[np.ndarray]) -> int:
    """The number of coins for which these integers are shortest."""
    tried = range(1, _LEVELS + 1)
    costs = [
        positive_integer(levels).nats()
        + sum(symbols_length(block.ravel().tolist(), levels).nats() for block in blocks)
        for levels in tried
    ]
    return tried[int(np.argmin(costs))]


def direct_code(path: str, moved: np.ndarray, step: int) -> LeafCode:
    """The leaf rounded to multiples of a step."""
    symbols = np.rint(moved / grid_step(step)).astype(np.int64)
    if not symbols.any():
        return LeafCode(path, moved.shape, "reference")
    return LeafCode(
        path, moved.shape, "direct", step, best_levels([symbols]),
        symbols=tuple(symbols.ravel().tolist()),
    )  # fmt: skip


def factors_code(
    path: str, shape: tuple[int, ...], svd: tuple[Any, ...], rank: int, step: int
) -> LeafCode:
    """Balanced factors ``U sqrt(S)``, ``sqrt(S) V^T``, rounded to multiples of ``sqrt(step)``."""
    u, s, vt = svd
    roots = np.sqrt(s[:, :rank]) / math.sqrt(grid_step(step))
    left = np.rint(u[:, :, :rank] * roots[:, None, :]).astype(np.int64)
    right = np.rint(roots[:, :, None] * vt[:, :rank]).astype(np.int64)
    if not (left.any() and right.any()):
        return LeafCode(path, shape, "reference")
    return LeafCode(
        path, shape, "factors", step, best_levels([left, right]), rank,
        (len(u), u.shape[1], vt.shape[2]),
        tuple(left.ravel().tolist()) + tuple(right.ravel().tolist()),
    )  # fmt: skip


def code_length(leaves: Sequence[LeafCode]) -> Length:
    """All leaves in a row."""
    parts, before = [], 0
    for leaf in leaves:
        parts.append(leaf.length(before))
        if leaf.mode != "reference":
            before = leaf.step
    return total(parts)
