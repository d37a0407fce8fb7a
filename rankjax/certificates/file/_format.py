"""A network as one message: for every parameter array integers and a step, in a file of their own.

A file is a checksum of four bytes and the message of an arithmetic coder. What is fixed before the
data are seen is not in it: the paths, shapes and dtypes of the arrays, which of them are matrices,
and the reference values from which they are counted. All of that goes into the checksum, so a file
of another network is refused. For each array, in the order of the tree:

- its kind: the reference unchanged, integers times a step, or (matrices only) a product of two
  integer factors times a step; all equally likely;
- the step's exponent on the grid ``2^{j/8}`` (Elias' delta code), the rank (all equally likely);
- its integers, by ``write_symbols``.

What a file costs. The decoder asks these questions in order; the answers so far determine the next
question and where the message ends. So no message begins another one (see ``_coder``), and by
Kraft's inequality ``sum 2^-bits <= 1`` over all messages, ``bits`` counting the message alone. The
decoded network is a function of the message; the checksum is a function of the message and of what
is fixed beforehand, so it makes no two files of one message. The union bound runs over messages
with the weights ``2^-bits``, and a certificate pays ``bits log 2`` nats: nothing for the checksum,
nothing for the length of the file.

The value of an array is computed in integers and float64.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates._held import is_weight
from rankjax.certificates._inputs import check_values
from rankjax.certificates.file._coder import Decoder, Encoder, integer_nats
from rankjax.certificates.file._quantizer import grid_step
from rankjax.certificates.file._symbols import (
    code_length,
    read_symbols,
    shortest_way,
    write_symbols,
)
from rankjax.network import Layer, Structure
from rankjax.network.internal import (
    Skeleton,
    array_paths,
    check_structure,
    paths_and_leaves,
    split_arrays,
)

FORMAT = "rankjax compressed network, format 1"
CHECKSUM_BYTES = 4
MAX_EXPONENT = 8 * 100


@dataclass(frozen=True)
class Slot:
    """What is known of one array before the data are seen (static).

    Attributes:
        path: its path in the tree.
        shape: its shape.
        dtype: name of its dtype.
        layer: how it is seen as a matrix; ``None`` for an array that is no matrix.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    layer: Layer | None = None

    @property
    def full_rank(self) -> int:
        """The largest rank that a product may have, 0 for what is no matrix."""
        return min(self.layer.matrix_shape) if self.layer else 0

    @property
    def kinds(self) -> int:
        """How many kinds of code there are to choose from."""
        return 3 if self.full_rank else 2

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two factors of a product of this rank."""
        assert self.layer is not None
        (m, n), stack = self.layer.matrix_shape, (self.layer.stacked, self.layer.parallel)
        return (*stack, m, rank), (*stack, rank, n)

    def to_matrix(self, array: np.ndarray) -> np.ndarray:
        """``Layer.matrix`` in NumPy, since JAX may not keep 64 bits."""
        assert self.layer is not None
        stack = (self.layer.stacked, self.layer.parallel)
        return array.transpose(self.layer.view.order).reshape(*stack, *self.layer.matrix_shape)

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Undo ``to_matrix``."""
        assert self.layer is not None
        order = self.layer.view.order
        return matrix.reshape([self.shape[axis] for axis in order]).transpose(np.argsort(order))


@dataclass(frozen=True, eq=False)
class StoredArray:
    """The code of one array.

    Attributes:
        exponent: the step is ``2^{exponent/8}``.
        symbols: no array: the reference itself; one: integers in the array's own shape; two:
            ``(stacked, parallel, out, k)`` and ``(stacked, parallel, k, in)``, to be multiplied.
    """

    exponent: int = 0
    symbols: tuple[np.ndarray, ...] = ()

    @property
    def rank(self) -> int | None:
        """The number of columns of the first factor, ``None`` where there are no factors."""
        return self.symbols[0].shape[-1] if len(self.symbols) == 2 else None

    @property
    def non_zero(self) -> int:
        """How many of the integers are not 0."""
        return sum(int(np.count_nonzero(s)) for s in self.symbols)

    def integers(self, slot: Slot) -> np.ndarray:
        """The array in units of the step, as integers."""
        if not self.symbols:
            return np.zeros(slot.shape, np.int64)
        if len(self.symbols) == 1:
            return self.symbols[0]
        return slot.from_matrix(self.symbols[0] @ self.symbols[1])

    def value(self, slot: Slot, reference: np.ndarray) -> np.ndarray:
        """The array as it is used, in its own dtype."""
        if not self.symbols:
            return np.asarray(reference, jnp.dtype(slot.dtype))
        moved = self.integers(slot) * grid_step(self.exponent)
        return (np.asarray(reference, np.float64) + moved).astype(jnp.dtype(slot.dtype))

    def nats(self, slot: Slot) -> float:
        """Its part of the message."""
        total = math.log(slot.kinds) + sum(code_length(s) for s in self.symbols)
        if self.symbols:
            total += integer_nats(self.exponent)
        return total + (math.log(slot.full_rank) if self.rank else 0.0)

    def simplified(self, slot: Slot) -> StoredArray:
        """The shorter of the product and its entries, without columns that are zero."""
        if len(self.symbols) == 2:
            out, in_ = self.symbols
            used = np.any(out != 0, axis=(0, 1, 2)) & np.any(in_ != 0, axis=(0, 1, 3))
            product = StoredArray(self.exponent, (out[..., used], in_[..., used, :]))
            direct = StoredArray(self.exponent, (self.integers(slot),)).simplified(slot)
            if not direct.symbols or not used.any() or direct.nats(slot) <= product.nats(slot):
                return direct
            return product
        return self if self.non_zero else StoredArray()


def slots_of(structure: Structure, like: Any) -> tuple[Slot, ...]:
    """The arrays of a tree, in its order.

    Raises:
        ValueError: ``structure`` is none or has other matrices; two leaves have one path; a leaf is
            a number outside an array, or an array of anything but floating-point numbers.
    """
    check_structure(structure, like)
    layers = {layer.path: layer for layer in structure.layers}
    slots: dict[str, Slot] = {}
    for path, leaf in paths_and_leaves(like):
        if not is_weight(path, leaf):
            continue
        if path in slots:
            raise ValueError(f"params: got two leaves with the path {path!r}, paths must differ")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params[{path!r}]: got dtype {leaf.dtype}, must be floating point: "
                "leave other arrays out of the tree and close over them in apply"
            )
        slots[path] = Slot(path, tuple(leaf.shape), str(leaf.dtype), layers.get(path))
    return tuple(slots.values())


def check_slots(slots: Any, references: Any, skeleton: Any) -> None:
    """Raise ``ValueError`` unless these belong together, so that the file alone holds weights."""
    if type(slots) is not tuple or not all(type(slot) is Slot for slot in slots):
        raise ValueError(f"slots: got {slots!r}, must be a tuple of Slots")
    arrays = references if type(references) is list else []
    if [_form(a) for a in arrays] != [(np.ndarray, slot.shape, slot.dtype) for slot in slots]:
        raise ValueError("references: got other arrays than those of the slots")
    if type(skeleton) is not Skeleton:
        raise ValueError(f"skeleton: got {type(skeleton).__name__}, must be a Skeleton")
    like = [jax.ShapeDtypeStruct(slot.shape, jnp.dtype(slot.dtype)) for slot in slots]
    try:
        tree = skeleton.fill(like)
    except StopIteration:
        raise ValueError(f"skeleton: got more arrays than the {len(slots)} of the slots") from None
    leaves = [(path, leaf) for path, leaf in paths_and_leaves(tree) if is_weight(path, leaf)]
    if [path for path, _ in leaves] != [slot.path for slot in slots] or any(
        leaf is not own for (_, leaf), own in zip(leaves, like, strict=True)
    ):
        raise ValueError(
            f"skeleton: got arrays at {[path for path, _ in leaves]}, must have the places of "
            f"{[slot.path for slot in slots]} and hold no array of its own"
        )


def _form(array: Any) -> tuple[Any, ...]:
    return type(array), getattr(array, "shape", None), str(getattr(array, "dtype", None))


def references_of(slots: tuple[Slot, ...], reference: Any) -> list[np.ndarray]:
    """The arrays to count from, zeros where ``reference`` is ``None``.

    Raises:
        ValueError: ``reference`` has other arrays, or not finite ones.
    """
    if reference is None:
        return [np.zeros(slot.shape, jnp.dtype(slot.dtype)) for slot in slots]
    check_values(reference, "reference")
    arrays = [np.array(a) for a in jax.device_get(split_arrays(reference)[0])]
    got = [
        (path, a.shape, str(a.dtype))
        for path, a in zip(array_paths(reference), arrays, strict=True)
    ]
    if got != [(slot.path, slot.shape, slot.dtype) for slot in slots]:
        raise ValueError(
            f"reference: got {got}, must have the paths, shapes and dtypes of params, "
            f"{[(slot.path, slot.shape, slot.dtype) for slot in slots]}"
        )
    for path, array in zip(array_paths(reference), arrays, strict=True):
        if not np.all(np.isfinite(array.astype(np.float64))):
            raise ValueError(f"reference[{path!r}]: got infinities or NaN, must be finite")
    return arrays


def fingerprint(slots: tuple[Slot, ...], references: list[np.ndarray]) -> int:
    """A checksum of all that is fixed beforehand."""
    total = zlib.crc32(FORMAT.encode())
    for slot, reference in zip(slots, references, strict=True):
        view = slot.layer and (slot.layer.matrix_shape, slot.layer.view.order)
        total = zlib.crc32(repr((slot.path, slot.shape, slot.dtype, view)).encode(), total)
        total = zlib.crc32(np.ascontiguousarray(reference).tobytes(), total)
    return total


def pack(
    slots: tuple[Slot, ...], arrays: list[StoredArray], seed: int, ways: list[int] | None = None
) -> bytes:
    """The file's content; ``seed`` from ``fingerprint``, ``ways`` by default the shortest."""
    if ways is None:
        ways = [shortest_way(symbols) for array in arrays for symbols in array.symbols]
    remaining = iter(ways)
    encoder = Encoder()
    for slot, array in zip(slots, arrays, strict=True):
        kind = len(array.symbols)
        encoder.write(kind, kind + 1, slot.kinds)
        if kind:
            if abs(array.exponent) > MAX_EXPONENT:
                raise ValueError(
                    f"params[{slot.path!r}]: got a step of 2^({array.exponent}/8), must be from "
                    f"2^(-{MAX_EXPONENT}/8) to 2^({MAX_EXPONENT}/8)"
                )
            encoder.write_integer(array.exponent)
        if array.rank is not None:
            encoder.write(array.rank - 1, array.rank, slot.full_rank)
        for symbols in array.symbols:
            write_symbols(encoder, symbols, next(remaining))
    message = encoder.finish()
    return zlib.crc32(message, seed).to_bytes(CHECKSUM_BYTES, "big") + message


def message_bits(data: bytes) -> int:
    """What a file costs in a certificate: the bits of its message, without the checksum."""
    return 8 * (len(data) - CHECKSUM_BYTES)


def unpack(slots: tuple[Slot, ...], data: bytes, seed: int) -> list[StoredArray]:
    """Undo ``pack``.

    Raises:
        ValueError: the file is truncated, altered, of another network, or no such file at all.
    """
    checksum, message = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    if zlib.crc32(message, seed).to_bytes(CHECKSUM_BYTES, "big") != checksum:
        raise ValueError(
            "not a compressed network of this structure and reference: the checksum is wrong "
            "(truncated, altered, or a file of something else)"
        )
    decoder, arrays, ways = Decoder(message), [], []
    for slot in slots:
        array, of_array = _read(decoder, slot)
        arrays.append(array)
        ways += of_array
    # The checksum may be right by chance; the code consists of what `pack` writes alone.
    if pack(slots, arrays, seed, ways) != data:
        raise ValueError("not a compressed network: no network is written as this message")
    return arrays


def _read(decoder: Decoder, slot: Slot) -> tuple[StoredArray, list[int]]:
    kind = decoder.read_uniform(slot.kinds)
    if kind == 0:
        return StoredArray(), []
    exponent = decoder.read_integer()
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(f"not a compressed network: a step of 2^({exponent}/8)")
    shapes = (slot.shape,)
    if kind == 2:
        shapes = slot.factor_shapes(1 + decoder.read_uniform(slot.full_rank))
    found = [read_symbols(decoder, shape) for shape in shapes]
    return StoredArray(exponent, tuple(s for s, _ in found)), [way for _, way in found]
