"""The compressed certificate: a guarantee for a network as it is stored in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates._guarantee import Guarantee
from rankjax.certificates._lengths import Length, one_of
from rankjax.certificates.finetune import Latent, Schedule, finetune
from rankjax.certificates.initial import initial_latents
from rankjax.certificates.stored import (
    Slot,
    StoredArray,
    fingerprint,
    pack,
    references_of,
    slots_of,
    unpack,
)
from rankjax.network.paths import Skeleton, split_arrays
from rankjax.network.sample import (
    batches,
    logits_of_one,
    margin_of,
    number_of_examples,
)
from rankjax.network.structure import Structure

Apply = Callable[[Any, Any], Any]

ASSUMPTIONS = (
    "the examples are independent draws of one distribution",
    "the architecture (structure, apply, shapes, reference values) was fixed before they were seen",
    "inputs are normalised example by example, by a rule fixed before they were seen",
)


@dataclass(frozen=True, kw_only=True)
class CompressedCertificate(Guarantee):
    """What a stored network promises: a statement about the network in the file.

    ``errors`` are the misclassified examples of the sample; a tie counts, so does NaN.

    Attributes:
        bits: of the file, all of it.
    """

    bits: int
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def length(self) -> Length:
        """``bits log 2 + log tried``."""
        return Length(((self.bits, 2, 1),)) + one_of(self.tried)

    def __str__(self) -> str:
        return (
            f"With probability {1 - self.delta:g} over the sample, the COMPRESSED network "
            f"(the one in the file, not the one it was made from) errs on at most "
            f"{self.value:.4f} of all examples.\n"
            f"  error on the sample  {self.errors} of {self.n} ({self.empirical:.4f})\n"
            f"  file                 {self.bits} bits, checksum included; self-delimiting, so its "
            f"length costs nothing\n"
            f"  code length          {self.nats:.1f} nats"
            + (f", of them log {self.tried} for what was tried" if self.tried > 1 else "")
            + "\n  assumed: "
            + "\n           ".join(self.assumptions)
        )


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """A network as a file of few bits; from ``compress`` or ``CompressedNetwork.load``.

    Attributes:
        params: the decoded parameters, a tree like the one that was compressed.
        data: the content of the file.
        arrays: the integers of each array, by path.
    """

    params: Any
    data: bytes
    arrays: dict[str, StoredArray]
    slots: tuple[Slot, ...] = field(repr=False)

    @property
    def bits(self) -> int:
        """Bits of the file, all of it."""
        return 8 * len(self.data)

    @property
    def nats(self) -> float:
        """``bits log 2``: what the file costs in a certificate."""
        return self.bits * math.log(2)

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
                such as ``jax.eval_shape`` of the initialisation. No value is taken from it.
            reference: as in ``compress``.

        Raises:
            ValueError: the file is truncated, altered, made for another structure or reference, or
                something else altogether. Nothing in it is ever executed.
        """
        slots = slots_of(structure, like)
        references = references_of(slots, reference)
        data = Path(path).read_bytes()
        try:
            arrays = unpack(slots, data, fingerprint(slots, references))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return _network(slots, references, arrays, data, split_arrays(like)[1])

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
        r"""Bound the true error of the compressed network; the sample is all it was made with.

        With probability ``1 - delta`` over n independent examples, for all networks that a file
        can hold at once::

            true error <= kl^{-1}(errors / n; (bits log 2 + log tried + log(1/delta)) / n)

        ``kl^{-1}(q; c) = sup {p : q log(q/p) + (1-q) log((1-q)/(1-p)) <= c}``, rounded outward.
        Proof: Chernoff for each file, union over all files with weights ``2^-bits``, which sum to
        at most 1 since no file begins another.

        Args:
            apply: ``apply(params, x) -> logits``; each example is evaluated as a batch of its own,
                so that none can depend on another.
            x: inputs of *all* examples that training and choosing have used.
            y: labels, integers.
            delta: confidence.
            tried: how many structures, ``apply`` functions or references were tried on this sample
                before this one was chosen. Different training runs cost nothing.
            batch_size: examples in one call.

        Raises:
            ValueError: ``delta`` outside (0, 1), ``tried < 1``, labels or outputs that do not fit.
        """
        _check_delta(delta)
        if tried < 1:
            raise ValueError(f"tried must be at least 1, got {tried!r}")
        errors = count_errors(apply, self.params, x, y, batch_size=batch_size)
        return CompressedCertificate(
            value=1.0, errors=errors, n=len(y), delta=delta, tried=tried, bits=self.bits
        ).settled()

    def __str__(self) -> str:
        rows = [("array", "shape", "code", "step", "non-zero", "nats")]
        for slot in self.slots:
            array = self.arrays[slot.path]
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
        return "\n".join([*lines, f"file: {self.bits} bits, {self.nats:.1f} nats"])


def compress(
    structure: Structure,
    params: Any,
    *,
    reference: Any = None,
    tolerances: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    exponent: int | None = None,
    apply: Apply | None = None,
    x: Any = None,
    y: Any = None,
    delta: float = 0.01,
    schedule: Schedule | None = None,
) -> CompressedNetwork:
    """Code a network in few bits: low rank or not, quantised, entropy-coded, and trained as such.

    Every array of the tree is coded, as integers times a step ``2^{j/8}``, a matrix of the
    structure also as a product of two integer factors where that is shorter at the same precision.

    Args:
        structure: from ``describe``; says which arrays are matrices.
        params: a tree of floating point arrays, all that the network uses.
        reference: a tree of values, fixed before the data are seen, that are counted from (the
            initialisation, say); default 0.
        tolerances: relative errors ``|A - A~|_F / |A - M|_F`` allowed for each array. Without data
            the first is used; with data the one with the best certificate.
        exponent: instead of tolerances, integers times ``2^{exponent/8}`` for every array, and this
            step is not trained: right for networks that normalise their activations, so that the
            scale of a matrix does not matter.
        apply: ``apply(params, x) -> logits``; with it come ``x`` and ``y``.
        x: inputs, the leading axis is the example's.
        y: integer labels.
        delta: confidence of the certificate that is optimised.
        schedule: train the integers, with straight-through gradients and the code length in the
            loss; after every epoch the network is a candidate, and the best certificate wins (the
            certificate holds for all of them at once).

    Raises:
        ValueError: an argument without the others it needs, arrays that are not floating point or
            not finite, a reference that does not fit, ``delta`` outside (0, 1), or no tolerance.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import describe
        >>> params = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
        >>> print(compress(describe(params), params))
        array   shape   code       step     non-zero  nats
        bias    (4,)    reference  -        0 of 0    0.7
        kernel  (4, 4)  integers   2^(1/8)  4 of 16   17.5
        file: 64 bits, 44.4 nats
    """
    given = [name for name, value in (("apply", apply), ("x", x), ("y", y)) if value is not None]
    if given and len(given) < 3:
        raise ValueError(f"apply, x and y belong together; got only {given}")
    if schedule is not None and not given:
        raise ValueError("schedule: training needs apply, x and y")
    if not tolerances or not all(t > 0 for t in tolerances):
        raise ValueError(f"tolerances must be positive numbers, at least one, got {tolerances!r}")
    _check_delta(delta)
    slots = slots_of(structure, params)
    references = references_of(slots, reference)
    seed = fingerprint(slots, references)
    leaves, skeleton = split_arrays(params)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.device_get(leaves)]
    for slot, leaf in zip(slots, leaves, strict=True):
        if not np.all(np.isfinite(leaf)):
            raise ValueError(f"params[{slot.path!r}] must be finite")
    moved = [leaf - np.asarray(r, np.float64) for leaf, r in zip(leaves, references, strict=True)]

    def network(arrays: list[StoredArray]) -> CompressedNetwork:
        return _network(slots, references, arrays, pack(slots, arrays, seed), skeleton)

    def latents(tolerance: float) -> list[Latent]:
        pairs = zip(slots, moved, strict=True)
        return [initial_latents(slot, values, tolerance, exponent) for slot, values in pairs]

    def rounded(tolerance: float) -> list[StoredArray]:
        return [latent.stored(slot) for latent, slot in zip(latents(tolerance), slots, strict=True)]

    if apply is None:
        return network(rounded(tolerances[0]))
    best: tuple[float, CompressedNetwork | None] = (math.inf, None)

    def consider(arrays: list[StoredArray]) -> tuple[float, float]:
        nonlocal best
        candidate = network(arrays)
        certificate = candidate.certificate(apply, x, y, delta=delta)
        if certificate.value < best[0]:
            best = (certificate.value, candidate)
        return certificate.empirical, candidate.nats

    start, lowest = tolerances[0], math.inf
    for tolerance in tolerances if exponent is None else tolerances[:1]:
        consider(rounded(tolerance))
        if best[0] < lowest:
            start, lowest = tolerance, best[0]
    if schedule is not None:
        finetune(
            slots, references, latents(start), lambda arrays, x: apply(skeleton.fill(arrays), x),
            x, np.asarray(y), delta=delta, schedule=schedule, learn_steps=exponent is None,
            consider=consider,
        )  # fmt: skip
    assert best[1] is not None
    return best[1]


def count_errors(apply: Apply, params: Any, x: Any, y: Any, *, batch_size: int = 1000) -> int:
    """How many examples are misclassified; a tie with another class is an error, so is NaN.

    Every example is evaluated alone, as a batch of one.
    """
    y = np.asarray(y)
    n = number_of_examples(x, y, batch_size)
    arrays, skeleton = split_arrays(params)
    errors = 0
    for index, real in batches(n, batch_size):
        batch = jax.tree.map(lambda a, index=index: a[index], x)
        margins, classes = _margins(apply, skeleton, arrays, batch, y[index])
        if y[index].min() < 0 or y[index].max() >= int(classes[0]):
            raise ValueError(f"y must be from 0 to {int(classes[0]) - 1}, got other labels")
        errors += int(np.sum(~(np.asarray(margins)[:real] > 0)))
    return errors


@partial(jax.jit, static_argnames=("apply", "skeleton"))
def _margins(apply: Apply, skeleton: Skeleton, arrays: list[Any], x: Any, y: Any) -> Any:
    params = skeleton.fill(arrays)

    def one(x, y):
        logits = logits_of_one(apply(params, jax.tree.map(lambda a: a[None], x)))
        return margin_of(logits, y), jnp.asarray(logits.shape[0])

    return jax.vmap(one)(x, y)


def _network(
    slots: tuple[Slot, ...],
    references: list[np.ndarray],
    arrays: list[StoredArray],
    data: bytes,
    skeleton: Skeleton,
) -> CompressedNetwork:
    values = [
        jnp.asarray(array.value(slot, reference))
        for slot, array, reference in zip(slots, arrays, references, strict=True)
    ]
    by_path = {slot.path: array for slot, array in zip(slots, arrays, strict=True)}
    return CompressedNetwork(skeleton.fill(values), data, by_path, slots)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta!r}")
