"""Check a certificate against the network and the sample it speaks of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from rankjax.certificates import codes
from rankjax.certificates.certificate import Certificate
from rankjax.certificates.codes import BiasCode
from rankjax.certificates.forward import ROOM, observe, singular_values, spectral_norm
from rankjax.certificates.problem import problem_of
from rankjax.certificates.recursion import trace_recursion
from rankjax.certificates.weights import read_weights
from rankjax.network.structure import Structure


def verify(
    certificate: Certificate,
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    reference: Any = None,
    radius: float | None = None,
    activations: Mapping[str, float] | None = None,
    batch_size: int = 1024,
) -> Decimal:
    """Recompute everything from the stored integers, the weights and the data.

    Nothing of the search is used: that every scale covers its matrix and every error its rank and
    precision is checked on the singular values, the errors of the sample are counted again, and the
    bound is computed from the integers to fifty digits. Each step rounds to the safe side: singular
    values and norms upwards by the error of computing them, margins downwards by the rounding of
    the forward pass (which the recursion itself bounds), logarithms and roots upwards.

    Args:
        certificate: from ``certify``.
        structure: as given to ``certify``, like everything that follows.
        params: the parameters.
        x: the sample's inputs.
        y: its labels.
        apply: the network.
        reference: its reference weights.
        radius: the largest norm of the inputs, for the radius form.
        activations: the Lipschitz constants told.
        batch_size: examples in one call.

    Returns:
        The bound to fifty digits.

    Raises:
        ValueError: naming the first claim that does not hold.
    """
    program = trace_recursion(apply, params, x, activations=activations)
    leaves, moved, _ = read_weights(structure, program, params, reference)
    codes_of: dict[str, list[Any]] = {}
    for item in certificate.coded:
        path = item.name if item.name in moved else item.name.rsplit("[", 1)[0]
        codes_of.setdefault(path, []).append(item.code)
    if list(codes_of) != [*program.matrices, *program.biases]:
        raise ValueError(f"certificate: codes {list(codes_of)}, the network has {list(moved)}")
    errors, gain = [], {}
    for path, members in codes_of.items():
        if path in program.biases:
            _check_bias(path, members[0], moved[path])
            errors.append(members[0].error() * ROOM)
            continue
        scales = []
        for code, matrix in zip(members, moved[path], strict=True):
            _check_matrix(path, code, matrix, certificate.matrices)
            scales.append(code.scale(certificate.matrices))
        errors.append(max(code.error(certificate.matrices) for code in members) * ROOM)
        base = (spectral_norm(m) if m.any() else 0.0 for m in leaves[path] - moved[path])
        gain[path] = max(b + s for b, s in zip(base, scales, strict=True)) * ROOM
    observed = observe(program, apply, params, x, y, batch_size=batch_size)
    if len(observed.margins) != certificate.n:
        raise ValueError(f"n: got {len(observed.margins)} examples, not {certificate.n}")
    coded_margin = certificate.gamma is not None
    problem = problem_of(program, observed, leaves, gain, radius, coded_margin=coded_margin)
    if certificate.recursion != ("data" if radius is None else "radius"):
        raise ValueError(f"radius: got {radius}, the recursion is {certificate.recursion!r}")
    if problem.gamma(np.array(errors)) != certificate.gamma and coded_margin:
        raise ValueError(
            f"gamma: got {certificate.gamma}, must be {problem.gamma(np.array(errors))}"
        )
    counted = int(problem(np.array(errors)[None])[0][0])
    if counted > certificate.errors:
        raise ValueError(f"errors: got {certificate.errors}, counted {counted}")
    return certificate.verify()


def _check_matrix(path: str, code: Any, matrix: np.ndarray, matrices: int) -> None:
    if code.mode == codes.EQUAL:
        if matrix.any():
            raise ValueError(f"{path}: differs from its reference")
        return
    sigma = singular_values(matrix)
    scale = code.scale(matrices)
    if sigma[0] > scale:
        raise ValueError(f"{path}: the scale {scale} is less than the spectral norm {sigma[0]}")
    if code.mode == codes.RANK and code.k:
        tail = sigma[code.k] if code.k < len(sigma) else 0.0
        if tail + 2.0 ** (1 - code.b) * scale > code.error(matrices):
            raise ValueError(
                f"{path}: the error {code.error(matrices)} does not cover rank {code.k}"
            )


def _check_bias(path: str, code: BiasCode, bias: np.ndarray) -> None:
    if np.linalg.norm(bias) > code.scale():
        raise ValueError(f"{path}: the scale {code.scale()} is less than its norm")
