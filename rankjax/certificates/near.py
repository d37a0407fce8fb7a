"""Certify a trained network by a stored neighbour: a short file near it stands for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates import codes
from rankjax.certificates.certificate import DATA_ASSUMPTIONS, Guarantee, check_confidence
from rankjax.certificates.codes import Length
from rankjax.certificates.file import CompressedNetwork
from rankjax.certificates.forward import ROOM, observe, spectral_norm
from rankjax.certificates.recursion import trace_recursion
from rankjax.certificates.weights import read_weights
from rankjax.network.structure import Structure


@dataclass(frozen=True, kw_only=True)
class NearCertificate(Guarantee):
    """What ``certify_near`` promises of a trained network itself.

    Attributes:
        bits: of the neighbour's file, all of it.
        distances: ``(path, a)``: the leaf is within ``2^{a/8}`` of the neighbour's (spectral norm
            of a matrix, 2-norm of a bias); ``None``: equal to it.
    """

    bits: int
    distances: tuple[tuple[str, int | None], ...]

    def length(self) -> Length:
        """The whole code length: a symbol (equal or not) and an integer for each distance."""
        parts = [Length(((self.bits, 2, 1),)), codes.one_of(self.tried)]
        for _, a in self.distances:
            parts.append(codes.one_of(2))
            if a is not None:
                parts.append(codes.integer(a))
        return codes.total(parts)

    def __str__(self) -> str:
        width = max(len(path) for path, _ in self.distances)
        near = [
            f"  {path:<{width}}  " + ("equal" if a is None else f"within {2 ** (a / 8):.3g}")
            for path, a in self.distances
        ]
        return "\n".join(
            [
                f"certificate: true error <= {self.value:.4f} "
                f"with probability >= {1 - self.delta:g}",
                f"  counted errors {self.errors} of {self.n} ({self.empirical:.4f}), "
                f"code {self.nats:.1f} nats, of them {self.bits} bits for the stored neighbour",
                *near,
                "assumptions:",
                *(f"  - {text}" for text in self.assumptions),
            ]
        )


def certify_near(
    structure: Structure,
    params: Any,
    neighbour: CompressedNetwork,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    delta: float = 0.01,
    activations: Mapping[str, float] | None = None,
    tried: int = 1,
    batch_size: int = 1024,
) -> NearCertificate:
    r"""A bound on the true error of the network itself, by way of a stored network next to it.

    ``certify`` pays for the existence of a coded neighbour with covering numbers, several nats a
    weight. Where a network lies close to a *short file*, because it was trained to or was made from
    one by ``compress``, the file is the better code: D is its bits, plus the coded distance
    ``e_l = 2^{a_l/8} >= |A_l - A~_l|`` of every leaf. The recursion runs on the neighbour's own
    norms, ``E -> g (|A~| + e) E + e r~``, and the count is of ``M~(x_i, y_i) <= sqrt(2) E(x_i)``::

        true error of f <= kl^{-1}(count / n, (D + ln(1/delta)) / n)

    since ``M <= 0`` implies ``M~ <= sqrt(2) E``, an event of the coded network and the coded
    distances alone. The guarantee holds for every network that close to the neighbour.

    Args:
        structure: from ``describe`` with the forward function.
        params: the trained parameters.
        neighbour: from ``compress``.
        x: the training inputs.
        y: integer labels.
        apply: ``apply(params, x) -> logits``.
        delta: confidence.
        activations: see ``trace_recursion``.
        tried: number of architectures or codes tried on this sample.
        batch_size: examples in one call.

    Raises:
        ValueError: as for ``certify``.

    Not differentiable. Cost: one forward pass of the neighbour in float64.

    Source: the constructive form of the theorem behind ``certify``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import compress
        >>> from rankjax.network import describe
        >>> x = jax.random.normal(jax.random.key(0), (4000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.01]])}
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> structure = describe(params)
        >>> neighbour = compress(structure, params)
        >>> certify_near(structure, params, neighbour, x, y, apply=apply).value < 0.1
        True
    """
    check_confidence(delta, tried)
    program = trace_recursion(apply, params, x, activations=activations)
    mine, moved, _ = read_weights(structure, program, params, neighbour.params)
    theirs = {path: mine[path] - moved[path] for path in mine}
    distances: dict[str, int | None] = {}
    for path, difference in moved.items():
        if path in program.biases:
            distance = float(np.linalg.norm(difference)) * ROOM
        else:
            distance = max(spectral_norm(m) for m in difference) if difference.any() else 0.0
        distances[path] = codes.exponent(distance, 8) if distance else None
    errors = {path: 0.0 if a is None else 2 ** (a / 8) * ROOM for path, a in distances.items()}
    gain = {
        path: max(map(spectral_norm, theirs[path])) * ROOM + errors[path]
        for path in program.matrices
    }
    observed = observe(program, apply, neighbour.params, x, y, batch_size=batch_size)
    with jax.enable_x64(True):
        moved_by, _ = program.perturbation(
            jnp.asarray(observed.norms),
            gain=gain,
            error={path: errors[path] for path in program.matrices},
            bias_error={path: errors[path] for path in program.biases},
            of_coded=True,
        )
    counted = int(np.sum(observed.margins <= math.sqrt(2) * ROOM * np.asarray(moved_by)))
    draft = NearCertificate(
        value=1.0, errors=counted, n=len(observed.margins), delta=delta, tried=tried,
        assumptions=(*DATA_ASSUMPTIONS, *program.told), bits=neighbour.bits,
        distances=tuple(distances.items()),
    )  # fmt: skip
    return draft.settled()
