"""What the readers of checkpoints share: their error, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

_PLAIN_EXPANSION = 2**30  # bytes that any file may unpack to
_LARGEST_RATIO = 200  # of unpacked to stored bytes, beyond that
_LARGEST_RANK = 32

# Every dtype that a checkpoint may name. Names from a file never reach ``np.dtype``.
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
} | {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: missing, truncated, hostile, or of an unknown kind."""


def shown(text: str, limit: int = 200) -> str:
    """Text out of a file, fit for a terminal: no control characters, not longer than ``limit``."""
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def checked_shape(shape: object, what: str) -> tuple[int, ...]:
    """``shape`` as a tuple, if it is a list of sizes that NumPy can have.

    Raises:
        CheckpointError: negative sizes, sizes that are no integers, too many or too large ones.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise CheckpointError(f"{what}: its shape is {shown(repr(shape))}, not a list of sizes")
    # type() and not isinstance(): True is an int.
    if len(shape) > _LARGEST_RANK or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise CheckpointError(
            f"{what}: got shape {shown(repr(list(shape)))}, allowed are up to {_LARGEST_RANK} "
            "sizes from 0 to 2^48"
        )
    return tuple(shape)


def number_of_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    """Exact, in Python integers, which do not overflow."""
    return math.prod(shape) * dtype.itemsize


def check_expansion(unpacked: int, stored: int, what: str) -> None:
    """Refuse what is small on disk and enormous in memory.

    Raises:
        CheckpointError: more than 1 GiB and more than 200 times what is stored.
    """
    if unpacked > max(_PLAIN_EXPANSION, _LARGEST_RATIO * stored):
        raise CheckpointError(
            f"{what} would unpack to {unpacked / 2**30:.3g} GiB from {stored} stored bytes: refused"
        )
