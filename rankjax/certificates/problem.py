"""What the integers of a certificate are chosen for: errors counted for given perturbations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates import codes
from rankjax.certificates.forward import ROOM, Observed, spectral_norm
from rankjax.certificates.recursion import Recursion

_AT_ONCE = 32  # candidates counted in one call


@dataclass(frozen=True)
class DataForm:
    """Each example has its own perturbation; it is an error if ``M <= 2 sqrt(2) E(x)``.

    Attributes:
        recursion: of the network.
        observed: the sample.
        gain: ``G >= |A|`` per matrix path, from coded numbers alone.
    """

    recursion: Recursion
    observed: Observed
    gain: Mapping[str, float]

    def __call__(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(candidates, leaves)`` -> errors of the sample, and further nats (none)."""
        margins, norms, counts = self.observed.margins, self.observed.norms, []
        with jax.enable_x64(True):
            for start in range(0, len(errors), _AT_ONCE):  # one shape, so one compilation
                part = errors[start : start + _AT_ONCE]
                padded = jnp.asarray(np.pad(part, ((0, _AT_ONCE - len(part)), (0, 0)), "edge"))
                found = _counts(self.recursion, margins, norms, dict(self.gain), padded)
                counts.append(np.asarray(found)[: len(part)])
        return np.concatenate(counts), np.zeros(len(errors))

    def gamma(self, errors: np.ndarray) -> None:
        """No margin is coded in this form."""
        return


@dataclass(frozen=True)
class RadiusForm:
    """One perturbation for all inputs; an error is a margin of at most ``gamma >= 2 sqrt(2) E``.

    Attributes:
        recursion: of the network.
        observed: the sample; only its margins are used.
        norms: ``(uses, 1)``, the largest norms that the matrices can meet.
        own: ``|A|`` per matrix path.
        gain: ``G`` per matrix path.
        coded_margin: whether gamma is rounded up to ``2^{g/8}`` and g is paid for.
    """

    recursion: Recursion
    observed: Observed
    norms: np.ndarray
    own: Mapping[str, float]
    gain: Mapping[str, float]
    coded_margin: bool

    def __call__(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(candidates, leaves)`` -> errors of the sample, and the nats of the margin."""
        ordered = np.sort(self.observed.margins)
        gammas = [self.gamma(e) for e in errors]
        thresholds = [
            2 ** (g / 8) if self.coded_margin else self._threshold(e)
            for g, e in zip(gammas, errors, strict=True)
        ]
        nats = [codes.integer(g).nats() if self.coded_margin else 0.0 for g in gammas]
        return np.searchsorted(ordered, thresholds, side="right"), np.array(nats)

    def gamma(self, errors: np.ndarray) -> int:
        """The smallest g with ``2^{g/8} >= 2 sqrt(2) E``."""
        return math.ceil(8 * math.log2(max(self._threshold(errors), 1e-300)))

    def _threshold(self, errors: np.ndarray) -> float:
        with jax.enable_x64(True):
            error, bias_error = _split(self.recursion, jnp.asarray(errors))
            gain = {p: min(g, self.own[p] + float(error[p])) for p, g in self.gain.items()}
            moved, _ = self.recursion.perturbation(
                jnp.asarray(self.norms), gain=gain, error=error, bias_error=bias_error,
                of_coded=True,
            )  # fmt: skip
            return float(moved[0]) * math.sqrt(8) * ROOM


def problem_of(
    recursion: Recursion,
    observed: Observed,
    leaves: Mapping[str, np.ndarray],
    gain: Mapping[str, float],
    radius: float | None,
    *,
    coded_margin: bool,
) -> DataForm | RadiusForm:
    """The data form, or with a radius the radius form."""
    if radius is None:
        return DataForm(recursion, observed, gain)
    own = {p: max(map(spectral_norm, leaves[p])) * ROOM for p in recursion.matrices}
    bias = {p: float(np.linalg.norm(leaves[p])) * ROOM for p in recursion.biases}
    norms = np.asarray(recursion.norms(radius, gain=own, bias=bias)) * ROOM
    return RadiusForm(recursion, observed, norms, own, gain, coded_margin)


def _split(recursion: Recursion, errors):
    pairs = list(zip((*recursion.matrices, *recursion.biases), errors, strict=True))
    matrices = len(recursion.matrices)
    return dict(pairs[:matrices]), dict(pairs[matrices:])


@partial(jax.jit, static_argnames="recursion")
def _counts(recursion: Recursion, margins, norms, gain, errors):
    def count(errors):
        error, bias_error = _split(recursion, errors)
        moved, _ = recursion.perturbation(norms, gain=gain, error=error, bias_error=bias_error)
        return jnp.sum(margins <= math.sqrt(8) * ROOM * moved)

    return jax.lax.map(count, errors)


def sensitivity(
    recursion: Recursion,
    norms: np.ndarray,
    gain: Mapping[str, float],
    largest: Sequence[float],
) -> np.ndarray:
    """Mean growth of the outputs' perturbation with each leaf's error, at small errors."""
    with jax.enable_x64(True):
        return np.asarray(_slopes(recursion, norms, dict(gain), jnp.asarray(largest) * 1e-3))


@partial(jax.jit, static_argnames="recursion")
def _slopes(recursion: Recursion, norms, gain, errors):
    def mean(errors):
        error, bias_error = _split(recursion, errors)
        moved, _ = recursion.perturbation(norms, gain=gain, error=error, bias_error=bias_error)
        return jnp.mean(moved)

    return jax.grad(mean)(errors)
