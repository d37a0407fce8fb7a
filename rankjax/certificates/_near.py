"""Certify a trained network by a stored neighbor: a short file close to it is its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from rankjax.certificates._guarantee import Guarantee, check_confidence, check_integer
from rankjax.certificates._inputs import checked_sample
from rankjax.certificates._lengths import Length, one_of, total
from rankjax.certificates.file import CompressedNetwork
from rankjax.certificates.theorem._certificate import (
    aligned,
    check_distances,
    fields_of_text,
    headline,
    verified,
)
from rankjax.certificates.theorem._counting import Counter
from rankjax.certificates.theorem._distances import distances_length
from rankjax.certificates.theorem._guard import guard as run_guard
from rankjax.certificates.theorem._neighbor import Problem, weights_of
from rankjax.network import Structure

_MOST_BITS = 2**50


@dataclass(frozen=True, kw_only=True)
class NearCertificate(Guarantee):
    """What ``certify_near`` guarantees about a trained network itself.

    Attributes:
        bits: of the message in the neighbor's file.
        distances: exponents of the coded distances between the network and its neighbor, in the
            order in which the forward function uses them; ``None`` where they are equal.
    """

    bits: int
    distances: tuple[int | None, ...]

    def length(self) -> Length:
        """The whole code length."""
        file = Length(((self.bits, 2, 1),))
        return total([file, distances_length(self.distances), one_of(self.tried)])

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        super().check()
        check_integer(self.bits, "bits", 1)
        if self.bits > _MOST_BITS:
            raise ValueError(f"bits: got {self.bits}, must be at most {_MOST_BITS}")
        check_distances(self.distances)

    @classmethod
    def from_json(cls, text: str) -> NearCertificate:
        """Read what ``to_json`` wrote, and verify it.

        Raises:
            ValueError: if the text is not a certificate, or its value does not follow from its
                integers.
        """
        found, nats = fields_of_text(cls, text, ("distances", "assumptions"))
        return verified(cls(**found), nats)

    def __str__(self) -> str:
        rows = [
            ("distance", str(i), "equal" if a is None else f"2^({a}/8) units")
            for i, a in enumerate(self.distances)
        ]
        return "\n".join(
            [
                headline(self),
                f"  counted errors {self.errors} of {self.n} ({self.empirical:.4f}), "
                f"code {self.nats:.1f} nats, of them {self.bits} bits for the stored neighbor",
                *aligned(rows),
                "assumptions:",
                *(f"  - {text}" for text in self.assumptions),
            ]
        )


def certify_near(
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    neighbor: CompressedNetwork,
    delta: float = 0.01,
    activations: Mapping[str, float] | None = None,
    tried: int = 1,
    batch_size: int = 1024,
) -> NearCertificate:
    r"""A bound on the true error of the network itself, through a stored network close to it.

    The theorem of ``certify`` with another code. For a network close to a *short file* from
    ``compress``, D counts the bits of that file plus the coded distances.

    Args:
        structure: from ``describe`` with the forward function.
        params: the trained parameters.
        x: the training inputs.
        y: integer labels.
        apply: ``apply(params, x) -> logits``.
        neighbor: from ``compress``.
        delta: confidence.
        activations: see ``certify``.
        tried: number of architectures or codes tried on this sample.
        batch_size: examples per call.

    Returns:
        A ``NearCertificate``; check it with ``verify_near``.

    Raises:
        ValueError: as for ``certify``, its guard included.

    Not differentiable. Cost: one forward pass of the neighbor in float64, and the guard.

    Source: derived for this library (documentation, theory).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import compress
        >>> from rankjax.network import describe
        >>> x = jax.random.normal(jax.random.key(0), (4000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.01]])}
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> structure = describe(params)
        >>> neighbor = compress(structure, params)
        >>> certify_near(structure, params, x, y, apply=apply, neighbor=neighbor).value < 0.1
        True
    """
    check_confidence(delta, tried)
    labels, batch_size = checked_sample(x, y, batch_size)
    neighbor = _fresh(neighbor)
    problem, coded, steps = _problem(structure, params, x, apply, neighbor, activations)
    exponents = problem.exponents(coded, steps)
    distances = problem.check_exponents(exponents, coded, steps)
    counter = Counter(problem.network)
    errors = _count(problem, counter, coded, distances, x, labels, batch_size)
    run_guard(problem, counter, coded, distances, x, labels)
    draft = NearCertificate(
        value=1.0,
        errors=errors,
        n=len(labels),
        delta=float(delta),
        tried=tried,
        assumptions=problem.assumptions(with_reference=_has_reference(neighbor)),
        bits=neighbor.bits,
        distances=tuple(exponents),
    )
    return draft.settled()


def verify_near(
    certificate: NearCertificate,
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    neighbor: CompressedNetwork,
    activations: Mapping[str, float] | None = None,
    batch_size: int = 1024,
) -> Decimal:
    """Recompute a certificate of ``certify_near`` from the file, the weights and the data.

    Trusts and checks what ``verify`` does. The neighbor is decoded anew from ``data``, and its
    weights are matched by path; the tree around them (``skeleton``) is not used.

    Returns:
        The bound to fifty digits.

    Raises:
        ValueError: naming the first claim that does not hold.
    """
    if type(certificate) is not NearCertificate:
        raise ValueError(
            f"certificate: got {type(certificate).__name__}, must be a NearCertificate"
        )
    certificate = replace(certificate)  # without attributes set from outside
    exact = certificate.verify()
    labels, batch_size = checked_sample(x, y, batch_size)
    neighbor = _fresh(neighbor)
    if certificate.bits != neighbor.bits:
        raise ValueError(f"bits: got {certificate.bits}, the file has {neighbor.bits}")
    problem, coded, steps = _problem(structure, params, x, apply, neighbor, activations)
    if certificate.n != len(labels):
        raise ValueError(f"n: got {certificate.n}, the sample has {len(labels)} examples")
    told = problem.assumptions(with_reference=_has_reference(neighbor))
    if certificate.assumptions != told:
        raise ValueError(f"assumptions: got {certificate.assumptions}, must be {told}")
    distances = problem.check_exponents(certificate.distances, coded, steps)
    counter = Counter(problem.network)
    counted = _count(problem, counter, coded, distances, x, labels, batch_size)
    if counted > certificate.errors:
        raise ValueError(f"errors: got {certificate.errors}, counted {counted}")
    return exact


def _fresh(neighbor: CompressedNetwork) -> CompressedNetwork:
    """The same file, decoded anew: nothing that was changed since in memory counts."""
    if type(neighbor) is not CompressedNetwork:
        raise ValueError(
            f"neighbor: got {type(neighbor).__name__}, must be a CompressedNetwork from compress"
        )
    return replace(neighbor)


def _has_reference(neighbor: CompressedNetwork) -> bool:
    return any(bool(np.any(a) or np.any(np.signbit(a))) for a in neighbor.references)


def _problem(
    structure: Structure,
    params: Any,
    x: Any,
    apply: Callable[[Any, Any], Any],
    neighbor: CompressedNetwork,
    activations: Mapping[str, float] | None,
) -> tuple[Problem, np.ndarray, np.ndarray]:
    problem = Problem.read(structure, params, x, apply=apply, activations=activations)
    arrays = zip(neighbor.slots, neighbor.arrays.values(), neighbor.references, strict=True)
    values = {slot.path: array.value(slot, reference) for slot, array, reference in arrays}
    coded = weights_of(problem.network, values, "neighbor.params")
    return problem, coded, np.zeros_like(coded)


def _count(
    problem: Problem,
    counter: Counter,
    coded: np.ndarray,
    distances: np.ndarray,
    x: Any,
    y: Any,
    batch_size: int,
) -> int:
    gains, pairs = counter.norms(coded)
    seen = problem.network.observe(coded, x, y, batch_size=batch_size)
    return int(counter(seen, gains, pairs, distances[None])[0])
