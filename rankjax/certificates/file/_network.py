"""A network in a file, and the certificate of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankjax.certificates._guarantee import Guarantee, check_confidence, check_integer, shown, sure
from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates._one_example import Apply
from rankjax.certificates.file._errors import ErrorCounter
from rankjax.certificates.file._format import (
    CHECKSUM_BYTES,
    Slot,
    StoredArray,
    check_slots,
    fingerprint,
    message_bits,
    references_of,
    slots_of,
    unpack,
)
from rankjax.network import Structure
from rankjax.network.internal import Skeleton, split_arrays

ASSUMPTIONS = (
    "the examples are independent draws from one distribution, and new ones come from it",
    "the architecture (structure, apply, shapes, reference values) was fixed before they were seen",
    "inputs are normalized example by example, by a rule fixed before they were seen",
    "the network is meant as it is computed here, in floating point, each example alone",
)


@dataclass(frozen=True, kw_only=True)
class CompressedCertificate(Guarantee):
    """A guarantee about the network in a file.

    ``errors`` are the misclassified examples of the sample; a tie counts as an error, so does NaN.

    Attributes:
        bits: of the file's message; the file holds 32 bits more, a checksum.
    """

    bits: int
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def length(self) -> Length:
        """``bits log 2 + log tried``."""
        check_integer(self.bits, "bits", 0)
        check_integer(self.tried, "tried", 1)
        return Length(((self.bits, 2, 1),)) + one_of(self.tried)

    def __str__(self) -> str:
        return (
            f"With probability {sure(self.delta)} over the sample, the COMPRESSED network "
            f"(the one in the file, not the one it was made from) errs on at most "
            f"{shown(self.value)} of all examples.\n"
            f"  error on the sample  {self.errors} of {self.n} ({self.empirical:.4f})\n"
            f"  message of the file  {self.bits} bits, self-delimiting: neither its length nor "
            f"the checksum costs anything\n"
            f"  code length          {self.nats:.1f} nats"
            + (f", of them log {self.tried} for what was tried" if self.tried > 1 else "")
            + "\n  assumed: "
            + "\n           ".join(self.assumptions)
        )


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """A network as a file of few bits; from ``compress`` or ``CompressedNetwork.load``.

    The parameters are decoded from the file, so a certificate cannot be about other ones.

    Attributes:
        data: the content of the file.
    """

    data: bytes = field(repr=False)
    slots: tuple[Slot, ...] = field(repr=False)
    references: list[np.ndarray] = field(repr=False)
    skeleton: Skeleton = field(repr=False)

    def __post_init__(self):
        if type(self.data) is not bytes or len(self.data) < CHECKSUM_BYTES:
            got = f"{len(self.data)} bytes" if isinstance(self.data, bytes) else repr(self.data)
            raise ValueError(
                f"data: got {got}, which is not a compressed network; must be bytes, at least "
                f"{CHECKSUM_BYTES}"
            )
        check_slots(self.slots, self.references, self.skeleton)

    @property
    def bits(self) -> int:
        """Bits of the message, which a certificate pays for: the file without its checksum."""
        return message_bits(self.data)

    @property
    def nats(self) -> float:
        """``bits log 2``: what the file costs in a certificate."""
        return self.bits * math.log(2)

    @property
    def arrays(self) -> dict[str, StoredArray]:
        """The integers of each array, by path."""
        return {slot.path: a for slot, a in zip(self.slots, self._decoded, strict=True)}

    @property
    def params(self) -> Any:
        """The decoded parameters, a tree like the one that was compressed."""
        return self.skeleton.fill(self._values())

    def save(self, path: str | Path) -> None:
        """Write the file."""
        Path(path).write_bytes(self.data)

    @classmethod
    def load(
        cls, path: str | Path, structure: Structure, like: Any, *, reference: Any = None
    ) -> CompressedNetwork:
        """Read a file that ``save`` wrote; the parameters are the same bit for bit.

        Args:
            path: the file.
            structure: the structure that was compressed.
            like: a tree of arrays or ``jax.ShapeDtypeStruct`` with its paths, shapes and dtypes,
                such as ``jax.eval_shape`` of the initialization. No value is taken from it.
            reference: as in ``compress``.

        Raises:
            ValueError: the file is truncated, altered, made for another structure or reference, or
                something else altogether. Nothing in it is ever executed.
        """
        slots = slots_of(structure, like)
        references = references_of(slots, reference)
        data = Path(path).read_bytes()
        try:
            network = cls(data, slots, references, split_arrays(like)[1])
            _ = network._decoded
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return network

    def certificate(
        self,
        apply: Apply,
        x: Any,
        y: Any,
        *,
        delta: float = 0.01,
        tried: int = 1,
        batch_size: int = 1000,
    ) -> CompressedCertificate:
        r"""Bound the true error of the compressed network; needs the whole sample it was made with.

        With probability ``1 - delta`` over n independent examples, for all networks that a file
        can hold at once::

            true error <= kl^{-1}(errors / n; (bits log 2 + log tried + log(1/delta)) / n)

        ``kl^{-1}(q; c) = sup {p : q log(q/p) + (1-q) log((1-q)/(1-p)) <= c}``, rounded outward.
        Proof: Chernoff for each message, union over all messages with weights ``2^-bits``. The
        weights sum to at most 1 since no message begins another. The message determines the
        network, and the 32 bits of the checksum are a function of the message and of what was
        fixed before the data were seen; so a file is chosen by choosing its message, and ``bits``
        counts the message alone.

        Args:
            apply: ``apply(params, x) -> logits``; each example is evaluated as a separate batch,
                so that none can depend on another. Each call traces it anew. Arrays that it
                closes over are not stored; the assumptions say how many there are.
            x: inputs of *all* examples that training and choosing have used.
            y: labels, integers.
            delta: confidence.
            tried: how many structures, ``apply`` functions or references were tried on this sample
                before this one was chosen. Different training runs cost nothing.
            batch_size: examples per call.

        Raises:
            ValueError: ``delta`` outside (0, 1/2], ``tried < 1``, labels or outputs that do not
                fit.
        """
        check_confidence(delta, tried)
        values = replace(self)._values()  # of the file, not of what was made of it in memory
        counter = ErrorCounter(apply, values, self.skeleton, x, y, batch_size=batch_size)
        assumptions = ASSUMPTIONS + counter.held.assumptions()
        return CompressedCertificate(
            value=1.0, errors=counter(values), n=counter.n, delta=float(delta), tried=tried,
            bits=self.bits, assumptions=assumptions,
        ).settled()  # fmt: skip

    def __str__(self) -> str:
        rows = [("array", "shape", "code", "step", "non-zero", "nats")]
        for slot, array in zip(self.slots, self._decoded, strict=True):
            kind = ("reference", "integers", f"rank {array.rank}")[len(array.symbols)]
            step = f"2^({array.exponent}/8)" if array.symbols else "-"
            size = sum(s.size for s in array.symbols)
            nats = f"{array.nats(slot):.1f}"
            rows.append(
                (slot.path, str(slot.shape), kind, step, f"{array.non_zero} of {size}", nats)
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        size = f"message: {self.bits} bits, {self.nats:.1f} nats; file: {len(self.data)} bytes"
        return "\n".join([*lines, size])

    @cached_property
    def _decoded(self) -> tuple[StoredArray, ...]:
        seed = fingerprint(self.slots, self.references)
        return tuple(unpack(self.slots, self.data, seed))

    def _values(self) -> list[Any]:
        triples = zip(self.slots, self._decoded, self.references, strict=True)
        return [jnp.asarray(array.value(slot, reference)) for slot, array, reference in triples]
