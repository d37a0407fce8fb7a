"""Where the integers of an array start: the shortest code of it that is precise enough."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rankjax.certificates.file._format import MAX_EXPONENT, Slot
from rankjax.certificates.file._quantizer import STEPS_PER_OCTAVE, grid_exponent, grid_step
from rankjax.certificates.file._training import Latent

_RANKS = 8  # how many ranks are tried for one matrix
_LARGEST_SYMBOL = 2**31


def initial_latents(
    slot: Slot, moved: np.ndarray, tolerance: float, exponent: int | None
) -> Latent:
    """The array in units of a step; or its two factors, where they have the shorter code.

    Of all codes with ``|A - A~|_F <= tolerance |A|_F`` that are tried (``moved`` is A): direct
    with the largest step that will do, and for a few ranks the balanced factors ``U sqrt(S)``,
    ``sqrt(S) V^T`` with the largest step that will do.
    """
    if exponent is not None:
        factors = (moved / grid_step(exponent),)
        if np.max(np.abs(moved), initial=0.0) / grid_step(exponent) > _LARGEST_SYMBOL:
            raise ValueError(
                f"exponent: got {exponent}, too fine for params[{slot.path!r}]: its integers must "
                f"be at most {_LARGEST_SYMBOL}"
            )
        return Latent(_octaves(exponent), tuple(np.asarray(f, np.float32) for f in factors))
    norm = float(np.linalg.norm(moved))
    if norm == 0:
        return Latent(_octaves(0), ())
    allowed = tolerance * norm
    best, shortest = None, np.inf
    for factors in _ways(slot, moved, allowed):
        candidate = _largest_step(slot, moved, factors, allowed)
        if candidate is None:
            continue
        nats = candidate.stored(slot).nats(slot)
        if nats < shortest:
            best, shortest = candidate, nats
    if best is None:
        raise ValueError(
            f"tolerances: got {tolerance}, too fine for params[{slot.path!r}]: its step must be at "
            f"least 2^-{MAX_EXPONENT // STEPS_PER_OCTAVE}"
        )
    return best


def _ways(slot: Slot, moved: np.ndarray, allowed: float) -> Iterator[tuple[np.ndarray, ...]]:
    yield (moved,)
    if slot.full_rank == 0:
        return
    matrix = slot.to_matrix(moved)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    tails = np.sqrt(np.cumsum(np.sum(s**2, (0, 1))[::-1])[::-1])
    tails = np.append(tails, 0.0)  # what is lost by keeping 0, 1, ... of them
    first = max(1, int(np.argmax(tails < allowed)))
    for k in np.unique(np.linspace(first, slot.full_rank, _RANKS).astype(int)):
        root = np.sqrt(s[..., :k])
        yield u[..., :k] * root[..., None, :], root[..., None] * vt[..., :k, :]


def _largest_step(
    slot: Slot, moved: np.ndarray, factors: tuple[np.ndarray, ...], allowed: float
) -> Latent | None:
    """The factors in units of a step, as large as can be; ``None`` if none of a file will do."""
    count = len(factors)
    exponent = grid_exponent(2 * max(float(np.max(np.abs(f))) for f in factors) ** count)
    exponent = min(exponent, MAX_EXPONENT)
    while exponent >= -MAX_EXPONENT:
        unit = grid_step(exponent) ** (1 / count)
        latent = Latent(_octaves(exponent), tuple(f / unit for f in factors))
        value = latent.rounded().integers(slot) * grid_step(exponent)
        if np.linalg.norm(moved - value) <= allowed:
            single = tuple(np.asarray(f, np.float32) for f in latent.factors)
            return Latent(latent.exponent, single)
        exponent -= 1
    return None


def _octaves(exponent: int) -> np.ndarray:
    return np.asarray(exponent / STEPS_PER_OCTAVE, np.float32)
