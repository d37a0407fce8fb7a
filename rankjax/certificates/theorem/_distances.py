"""Distances between a network and its coded neighbor: measured, rounded up, written down."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rankjax.certificates._lengths import Length, integer, one_of, total
from rankjax.certificates.theorem._rules import largest_spectral_norm, spectral_norm
from rankjax.certificates.theorem._values import ARITHMETIC, ROOM, Distance, Entries, Gain

_STEPS = 8  # per octave
_OCTAVES = 999  # of a distance, in units; exponents end one octave later
_MOST_WORK = 5e8  # multiplications that the norm of a convolution may take


def matrix_of(entries: Entries, vector: np.ndarray) -> np.ndarray:
    """The entries of a vector of weights."""
    return entries.factor * vector[entries.index]


def measure(distance: Distance, moved: np.ndarray) -> float:
    """An upper bound of the distance for a vector of differences."""
    entries = distance.entries
    if not np.any(moved[entries.index[entries.factor != 0]]):
        return 0.0
    found = matrix_of(entries, moved)
    match distance.kind:
        case "spectral":
            size = largest_spectral_norm(found)
        case "norm":
            size = float(length(found.ravel()))
        case "row":
            size = float(np.max(length(found)))
        case "rows":
            size = float(np.max(row_differences(found)))
        case "range":
            size = float(np.max(found) - np.min(found))
            size += ARITHMETIC * float(np.max(np.abs(found)))
    # The differences themselves are rounded once.
    return size * ROOM + 1e-300


def length(vectors: np.ndarray) -> np.ndarray:
    """The 2-norm along the last axis; no square underflows."""
    unit = float(np.max(np.abs(vectors), initial=0.0)) or 1.0
    return unit * np.linalg.norm(vectors / unit, axis=-1)


def row_differences(rows: np.ndarray) -> np.ndarray:
    """``|a_j - a_k|`` for all pairs of rows, rounded up, where each entry was rounded before."""
    sizes = length(rows)
    found = np.stack([length(rows - row) for row in rows])
    return (found + ARITHMETIC * (sizes + sizes[:, None])) * ROOM


def unit(distance: Distance, steps: np.ndarray) -> float:
    """What a distance is measured in: its size if weights are rounded to ``steps`` at random.

    Args:
        distance: which.
        steps: the step of every weight, 0 for what is equal to its reference.
    """
    entries = distance.entries
    step = float(np.max(np.abs(entries.factor) * steps[entries.index], initial=0.0))
    step = step if step > 0 else 1.0
    shape = entries.index.shape
    match distance.kind:
        case "spectral":
            size = (math.sqrt(shape[1]) + math.sqrt(shape[2])) / math.sqrt(12)
        case "norm":
            size = math.sqrt(shape[0] / 12)
        case "row":
            size = math.sqrt(shape[1] / 12)
        case "rows":
            size = math.sqrt(shape[1] / 6)
        case "range":
            size = 1.0
    return step * size


def coded_distance(exponent: int | None, unit: float) -> float:
    """``2^{a/8}`` units; ``None``: 0."""
    return 0.0 if exponent is None else unit * 2.0 ** (exponent / _STEPS)


def exponent_of(distance: float, unit: float) -> int | None:
    """The smallest exponent whose distance is certain to be large enough.

    Raises:
        ValueError: for a distance beyond all exponents.
    """
    if distance == 0:
        return None
    if not 2.0**-_OCTAVES <= distance / unit <= 2.0**_OCTAVES:
        raise ValueError(
            f"params: got weights {distance:g} from their code, whose unit is {unit:g}; must be "
            f"2^-{_OCTAVES} to 2^{_OCTAVES} units; rescale what apply multiplies the weights by"
        )
    found = math.ceil(_STEPS * math.log2(distance / unit))
    while not covers(found, distance, unit):
        found += 1
    return found


def covers(exponent: int | None, distance: float, unit: float) -> bool:
    """Whether a coded distance is certain to be at least the measured one."""
    return distance == 0 if exponent is None else coded_distance(exponent, unit) >= distance * ROOM


def distances_length(exponents: Sequence[int | None]) -> Length:
    """A symbol (0 or not) each, and differences of the exponents along the list."""
    parts, before = [], 0
    for exponent in exponents:
        parts.append(one_of(2))
        if exponent is not None:
            parts.append(integer(exponent - before))
            before = exponent
    return total(parts)


def operator_norm(gain: Gain, vector: np.ndarray) -> float:
    """An upper bound of the norm of a coded operator.

    For a convolution the smaller of two: the norm of the operator that gathers patches times that
    of the kernel as a matrix; and the largest transfer matrix on a torus, see
    ``Convolution.torus``.
    """
    matrices = matrix_of(gain.entries, vector)
    bound = gain.gather * largest_spectral_norm(matrices) * ROOM
    geometry = gain.convolution
    if geometry is None or bound == 0:
        return bound
    torus = geometry.torus
    groups, outputs, _ = matrices.shape
    channels = matrices.shape[2] // math.prod(gain.window)
    points = math.prod(torus)
    if points * groups * outputs * channels * min(outputs, channels) > _MOST_WORK:
        return bound
    taps = [np.arange(w.size) * w.dilation for w in geometry.windows]
    largest = 0.0
    scale = float(np.max(np.abs(matrices)))
    for matrix in matrices / scale:  # so that no square underflows
        image = np.zeros((*torus, outputs, channels))
        kernel = np.moveaxis(matrix.reshape(outputs, *gain.window, channels), 0, -2)
        image[np.ix_(*taps)] = kernel
        transfer = np.fft.fftn(image, axes=tuple(range(len(torus))))
        found = np.linalg.norm(transfer.reshape(-1, outputs, channels), 2, axis=(1, 2))
        # Backward error of the Fourier transform, in the sum over all frequencies.
        room = ARITHMETIC * (math.log2(points) + 8) * math.sqrt(points) * np.linalg.norm(matrix)
        largest = max(largest, float(np.max(found)) + float(room))
    return min(bound, scale * largest * ROOM)


__all__ = [
    "coded_distance", "covers", "distances_length", "exponent_of", "matrix_of", "measure",
    "operator_norm", "row_differences", "spectral_norm", "unit",
]  # fmt: skip
