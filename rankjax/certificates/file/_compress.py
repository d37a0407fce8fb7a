"""Turn a network into a file of few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from rankjax.bounds import kl_inverse
from rankjax.certificates._guarantee import check_confidence, check_integer, check_number
from rankjax.certificates._inputs import check_values
from rankjax.certificates._one_example import Apply
from rankjax.certificates.file._errors import ErrorCounter
from rankjax.certificates.file._format import (
    MAX_EXPONENT,
    Slot,
    StoredArray,
    fingerprint,
    pack,
    references_of,
    slots_of,
)
from rankjax.certificates.file._initial import initial_latents
from rankjax.certificates.file._network import CompressedNetwork
from rankjax.certificates.file._training import Latent, Schedule, train
from rankjax.network import Structure
from rankjax.network.internal import split_arrays

_FINEST = 1e-6  # tolerance; training is in float32
_SMALLEST, _LARGEST = 1e-25, 1e25  # so that steps from 2^-100 to 2^100 will do


def compress(
    structure: Structure,
    params: Any,
    x: Any = None,
    y: Any = None,
    *,
    apply: Apply | None = None,
    reference: Any = None,
    tolerances: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    exponent: int | None = None,
    delta: float = 0.01,
    schedule: Schedule | None = None,
) -> CompressedNetwork:
    """Code a network in few bits: low rank or not, quantized, entropy-coded, and trained as such.

    Codes every array of the tree as integers times a step ``2^{j/8}``, or a matrix of the structure
    as a product of two integer factors if that is shorter at the same precision. With data, the
    same integers with all steps 1 are a candidate, too: that code is the shortest, and it makes the
    same decisions where scales do not matter.

    Args:
        structure: from ``describe``; says which arrays are matrices.
        params: a tree of floating-point arrays, all that the network uses.
        x: inputs, examples first; needs ``y`` and ``apply``, too.
        y: integer labels.
        apply: ``apply(params, x) -> logits``.
        reference: a tree of values fixed before the data are seen, such as the initialization; the
            code describes the difference from it. Default 0.
        tolerances: relative errors ``|A - A~|_F / |A - M|_F`` allowed for each array, from 1e-6 to
            1. Without data the first one is used; with data, the one with the best certificate.
        exponent: instead of tolerances, integers times ``2^{exponent/8}`` for every array. This
            step stays fixed: right for networks that normalize their activations, where the scale
            of a matrix does not matter.
        delta: confidence of the certificate that is optimized.
        schedule: train the integers, with straight-through gradients and the code length in the
            loss; after every epoch the network is a candidate, and the best certificate wins (the
            certificate holds for all of them at once).

    Raises:
        ValueError: an argument without the others it needs; arrays that are not floating point or
            not finite, without values or beyond 1e-25 to 1e25 in size; Python numbers or two equal
            paths in ``params``; a reference that does not fit; ``delta`` outside (0, 1/2];
            tolerances or an exponent out of range.

    Not differentiable. Cost: per candidate one forward pass and a few passes over the arrays; with
    a schedule, a training of that length. Each call compiles ``apply`` anew.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import describe
        >>> params = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
        >>> print(compress(describe(params), params))
        array   shape   code       step     non-zero  nats
        bias    (4,)    reference  -        0 of 0    0.7
        kernel  (4, 4)  integers   2^(1/8)  4 of 16   17.5
        message: 32 bits, 22.2 nats; file: 8 bytes
    """
    given = [name for name, value in (("apply", apply), ("x", x), ("y", y)) if value is not None]
    if given and len(given) < 3:
        raise ValueError(f"apply, x, y: got {' and '.join(given)} alone, must be all or none")
    if schedule is not None and not isinstance(schedule, Schedule):
        raise ValueError(f"schedule: got {schedule!r}, must be a Schedule")
    if schedule is not None and not given:
        raise ValueError("schedule: got one without data, must come with apply, x and y")
    _check_precision(tolerances, exponent)
    check_confidence(delta, 1)
    check_values(params, "params")
    slots = slots_of(structure, params)
    references = references_of(slots, reference)
    seed = fingerprint(slots, references)
    leaves, skeleton = split_arrays(params)
    moved = [
        _moved(slot, leaf, r)
        for slot, leaf, r in zip(slots, jax.device_get(leaves), references, strict=True)
    ]

    def latents(tolerance: float) -> list[Latent]:
        pairs = zip(slots, moved, strict=True)
        return [initial_latents(slot, values, tolerance, exponent) for slot, values in pairs]

    def rounded(tolerance: float) -> list[StoredArray]:
        return [latent.stored(slot) for latent, slot in zip(latents(tolerance), slots, strict=True)]

    def network(arrays: list[StoredArray]) -> CompressedNetwork:
        return CompressedNetwork(pack(slots, arrays, seed), slots, references, skeleton)

    if apply is None:
        return network(rounded(tolerances[0]))
    counter = ErrorCounter(apply, leaves, skeleton, x, y)
    best: tuple[float, list[StoredArray]] = (math.inf, [])

    def consider(arrays: list[StoredArray]) -> tuple[float, float]:
        nonlocal best
        pairs = list(zip(slots, arrays, references, strict=True))
        error = counter([array.value(slot, r) for slot, array, r in pairs]) / counter.n
        nats = sum(array.nats(slot) for slot, array, _ in pairs)
        value = float(kl_inverse(error, (nats + math.log(1 / delta)) / counter.n))
        if value < best[0] or not best[1]:
            best = (value, arrays)
        return error, nats

    start, lowest = tolerances[0], math.inf
    for tolerance in tolerances if exponent is None else tolerances[:1]:
        consider(rounded(tolerance))
        if best[0] < lowest:
            start, lowest = tolerance, best[0]
    if schedule is not None:
        train(
            slots, references, latents(start), lambda arrays, x: apply(skeleton.fill(arrays), x),
            x, np.asarray(y), delta=delta, schedule=schedule, learn_steps=exponent is None,
            consider=consider,
        )  # fmt: skip
    # The step 1 has the shortest code. Where scales do not matter (homogeneous activations without
    # biases, or normalization) it makes the same decisions; elsewhere the candidate loses.
    if exponent is None:
        consider([replace(array, exponent=0) for array in best[1]])
    return network(best[1])


def _check_precision(tolerances: Sequence[float], exponent: int | None) -> None:
    if not isinstance(tolerances, Sequence | np.ndarray) or not len(tolerances):
        raise ValueError(
            f"tolerances: got {tolerances!r}, must be a sequence of at least one number"
        )
    for tolerance in tolerances:
        check_number(tolerance, "tolerances", _FINEST, 1)
    if exponent is not None:
        found = check_integer(exponent, "exponent", numpy=True)
        if abs(found) > MAX_EXPONENT:
            limit = f"from -{MAX_EXPONENT} to {MAX_EXPONENT}"
            raise ValueError(f"exponent: got {exponent!r}, must be an integer {limit}")


def _moved(slot: Slot, leaf: Any, reference: np.ndarray) -> np.ndarray:
    """What is coded of an array."""
    array = np.asarray(leaf, np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"params[{slot.path!r}]: got infinities or NaN, must be finite")
    moved = array - np.asarray(reference, np.float64)
    largest = float(np.max(np.abs(moved), initial=0.0))
    if largest and not _SMALLEST <= largest <= _LARGEST:
        raise ValueError(
            f"params[{slot.path!r}]: got numbers up to {largest:g} from the reference, must be 0 "
            f"or from {_SMALLEST:g} to {_LARGEST:g}"
        )
    return moved
