"""An arithmetic coder in integer arithmetic, and a self-delimiting code for integers.

For every symbol the coder is given the symbol's share of an interval, as integers ``start <= value
< stop`` of ``total``; a message costs ``sum log(total / (stop - start))`` nats and at most three
bits more. No floating-point number takes part, so all machines read the same message.

Messages are self-delimiting: ``finish`` writes enough bits that no continuation of them could be
read as another message, and ``Decoder`` knows from the symbols alone where the message ends. Hence
the lengths of all messages that one procedure can write satisfy Kraft's inequality.
"""

from __future__ import annotations

import math

_BITS = 48  # of the interval's two ends; a symbol's share must be far above 2^-46
_WHOLE = 1 << _BITS
_HALF = _WHOLE >> 1
_QUARTER = _WHOLE >> 2
MAX_TOTAL = 1 << 32


class Encoder:
    """Writes symbols; Witten, Neal and Cleary (1987), with the bits collected in a bytearray.

    Example:
        >>> encoder = Encoder()
        >>> for symbol in (0, 0, 1, 0):
        ...     encoder.write(symbol, symbol + 1, 2)
        >>> encoder.write_integer(-3)
        >>> data = encoder.finish()
        >>> decoder = Decoder(data)
        >>> [decoder.read_bit() for _ in range(4)], decoder.read_integer(), len(data)
        ([0, 0, 1, 0], -3, 2)
    """

    def __init__(self):
        self._low, self._high = 0, _WHOLE - 1
        self._pending = 0
        self._bits: list[int] = []

    def write(self, start: int, stop: int, total: int) -> None:
        """Write the symbol that owns ``start <= value < stop`` of ``total``."""
        if not 0 <= start < stop <= total <= MAX_TOTAL:
            raise ValueError(
                f"start, stop, total: got {start}, {stop}, {total}, must satisfy "
                f"0 <= start < stop <= total <= {MAX_TOTAL}"
            )
        size = self._high - self._low + 1
        self._high = self._low + size * stop // total - 1
        self._low += size * start // total
        while True:
            if self._high < _HALF:
                self._put(0)
            elif self._low >= _HALF:
                self._put(1)
                self._low -= _HALF
                self._high -= _HALF
            elif self._low >= _QUARTER and self._high < 3 * _QUARTER:
                # The next bit is not known yet, but the one after it is its opposite.
                self._pending += 1
                self._low -= _QUARTER
                self._high -= _QUARTER
            else:
                return
            self._low = 2 * self._low
            self._high = 2 * self._high + 1

    def write_bit(self, bit: int) -> None:
        """Write 0 or 1, at the cost of one bit."""
        self.write(bit, bit + 1, 2)

    def write_integer(self, value: int) -> None:
        """Write any integer, in ``integer_bits(value)`` bits."""
        for bit in _integer_code(value):
            self.write_bit(int(bit))

    def finish(self) -> bytes:
        """The message, padded with zeros to whole bytes."""
        # One quarter of the range lies inside the interval: whatever follows stays in it.
        self._pending += 1
        self._put(0 if self._low < _QUARTER else 1)
        bits = self._bits + [0] * (-len(self._bits) % 8)
        return bytes(int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, len(bits), 8))

    def _put(self, bit: int) -> None:
        self._bits.append(bit)
        self._bits.extend([1 - bit] * self._pending)
        self._pending = 0


class Decoder:
    """Reads what ``Encoder`` wrote, by the same sequence of questions.

    Raises:
        ValueError: the message continues past the end of the data, which no ``Encoder`` writes.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._place = 0
        self._low, self._high, self._value = 0, _WHOLE - 1, 0
        for _ in range(_BITS):
            self._value = 2 * self._value + self._next()

    def target(self, total: int) -> int:
        """The number below ``total`` that identifies the next symbol; then call ``take``."""
        size = self._high - self._low + 1
        return ((self._value - self._low + 1) * total - 1) // size

    def take(self, start: int, stop: int, total: int) -> None:
        """Move past the symbol that owns ``start <= target < stop``."""
        size = self._high - self._low + 1
        self._high = self._low + size * stop // total - 1
        self._low += size * start // total
        while True:
            if self._high < _HALF:
                shift = 0
            elif self._low >= _HALF:
                shift = _HALF
            elif self._low >= _QUARTER and self._high < 3 * _QUARTER:
                shift = _QUARTER
            else:
                return
            self._low = 2 * (self._low - shift)
            self._high = 2 * (self._high - shift) + 1
            self._value = 2 * (self._value - shift) + self._next()

    def read_bit(self) -> int:
        """A bit that ``write_bit`` wrote."""
        bit = self.target(2)
        self.take(bit, bit + 1, 2)
        return bit

    def read_uniform(self, total: int) -> int:
        """A number below ``total``, all of them equally likely."""
        number = self.target(total)
        self.take(number, number + 1, total)
        return number

    def read_integer(self) -> int:
        """An integer that ``write_integer`` wrote."""
        length_bits = 0
        while self.read_bit() == 0:
            length_bits += 1
        length = 1
        for _ in range(length_bits):
            length = 2 * length + self.read_bit()
        number = 1
        for _ in range(length - 1):
            number = 2 * number + self.read_bit()
        number -= 1
        return number // 2 if number % 2 == 0 else -(number + 1) // 2

    def _next(self) -> int:
        place, self._place = self._place, self._place + 1
        if place >= 8 * len(self._data) + _BITS:
            raise ValueError("data: the message continues past the end of the data")
        if place >= 8 * len(self._data):
            return 0
        return self._data[place // 8] >> (7 - place % 8) & 1


def integer_bits(value: int) -> int:
    """Bits that ``write_integer`` takes: Elias' delta code of 0, -1, 1, -2, 2 ... as 1, 2, 3 ...

    The length is about ``log2 |value| + 2 log2 log2 |value|``, and ``sum 2^-length = 1``.

    Example:
        >>> [integer_bits(value) for value in (0, -1, 1, 10, -1000)]
        [1, 4, 4, 9, 17]
    """
    return len(_integer_code(value))


def integer_nats(value: int) -> float:
    """``integer_bits`` in nats."""
    return integer_bits(value) * math.log(2)


def _integer_code(value: int) -> str:
    number = 2 * value + 1 if value >= 0 else -2 * value
    length = number.bit_length()
    return "0" * (length.bit_length() - 1) + f"{length:b}" + f"{number:b}"[1:]
