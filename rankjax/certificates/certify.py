"""Certify the trained network itself: the theorem with every constant, its integers optimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rankjax._arguments import one_of
from rankjax.bounds.binary_kl import kl_inverse
from rankjax.certificates import codes
from rankjax.certificates.certificate import (
    DATA_ASSUMPTIONS,
    FORMS,
    RECURSIONS,
    Certificate,
    Coded,
    check_confidence,
)
from rankjax.certificates.codes import BiasCode, MatrixCode
from rankjax.certificates.forward import ROOM, observe, singular_values, spectral_norm
from rankjax.certificates.optimise import Choices, minimise, pareto, together
from rankjax.certificates.problem import problem_of, sensitivity
from rankjax.certificates.recursion import Recursion, trace_recursion
from rankjax.certificates.weights import read_weights
from rankjax.network.structure import Structure

_LARGEST_B = 24


def certify(
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    delta: float = 0.01,
    form: str = "kl",
    recursion: str = "data",
    reference: Any = None,
    radius: float | None = None,
    activations: Mapping[str, float] | None = None,
    tried: int = 1,
    batch_size: int = 1024,
) -> Certificate:
    r"""A bound on the true error of the network, valid with probability ``1 - delta``.

    Every network is within computable distance of a *coded* one; the coded ones are countable, and
    a coded network that costs D nats gets the share ``exp(-D)`` of delta. The margin of the trained
    network can exceed that of its coded neighbour by at most ``sqrt(2) E(x)``, where ``E`` follows
    the layers (``Recursion``), so with ``errors = #{i : M(x_i, y_i) <= 2 sqrt(2) E(x_i)}``::

        true error <= kl^{-1}(errors / n, (D + ln(1/delta)) / n)               form="kl"
        true error <= errors / n + sqrt((D + ln(1/delta)) / (2 n))             form="hoeffding"

    The guarantee holds for all weights at once, so the network may be trained on this very sample,
    as often as one likes. Scales, ranks, precisions and with them the errors are chosen by search
    over the exact objective, all layers jointly; each of these integers is paid for.

    Args:
        structure: from ``describe``; must include every matrix that ``apply`` uses.
        params: the trained parameters.
        x: the training inputs, with a leading example axis.
        y: integer labels ``(n,)``.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
        delta: probability, over the draw of the sample, that the bound fails.
        form: see above. ``"hoeffding"`` holds for all margins at once and is never smaller.
        recursion: ``"data"``: each example has its own perturbation, from the norms the network
            really has on it; ``"radius"``: one perturbation for all inputs of norm at most
            ``radius``; usually far larger for deep networks.
        reference: parameters fixed before the data were seen (usually the initialisation); the code
            is of the difference. ``None``: 0.
        radius: for ``recursion="radius"``: the largest norm of what the first weights see, known
            before the data (e.g. 1 for normalised inputs).
        activations: Lipschitz constants of jitted activations by name, see ``trace_recursion``.
        tried: number of architectures, references or codes tried on this sample.
        batch_size: examples in one call.

    Returns:
        A ``Certificate``: printable, ``to_json``, ``verify``.

    Raises:
        ValueError: for arguments out of range, for weights that ``structure`` leaves out, and for
            networks that do what ``trace_recursion`` does not know.

    Not differentiable (see ``surrogate``). Cost: one forward pass in float64 and, per leaf and
    round of the search, one recursion over the sample for each of about a hundred codes.

    Source: derived for this library from covering numbers of matrices of rank k and a union bound;
    the relation to Ledent, Alves, Lei, NeurIPS 2025 is in the documentation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.network import describe
        >>> x = jax.random.normal(jax.random.key(0), (4000, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> certificate = certify(describe(params), params, x, y, apply=apply)
        >>> 0 < certificate.value < 0.2
        True
        >>> float(certificate.verify()) <= certificate.value
        True
    """
    one_of(form, "form", FORMS)
    one_of(recursion, "recursion", RECURSIONS)
    check_confidence(delta, tried)
    if (radius is None) == (recursion == "radius") or (radius is not None and not radius > 0):
        raise ValueError(f"radius: got {radius}; a positive number with recursion='radius' only")
    program = trace_recursion(apply, params, x, activations=activations)
    leaves, moved, shapes = read_weights(structure, program, params, reference)
    observed = observe(program, apply, params, x, y, batch_size=batch_size)
    matrices = sum(len(members) for path, members in moved.items() if path in program.matrices)
    choices, gain = _choices(program, leaves, moved, matrices)
    form_of = problem_of(program, observed, leaves, gain, radius, coded_margin=form == "kl")
    n = len(observed.margins)

    def value(errors: np.ndarray, nats: np.ndarray) -> np.ndarray:
        counted, more = form_of(errors)
        budget = (nats + more + math.log(tried / delta)) / n
        if form == "hoeffding":
            return np.minimum(counted / n + np.sqrt(budget / 2), 1)
        size = len(budget)
        room = (0, -size % 64)  # few shapes, so few compilations
        with jax.enable_x64(True):
            return np.asarray(kl_inverse(np.pad(counted / n, room), np.pad(budget, room)))[:size]

    largest = [choice.errors[0] for choice in choices.values()]
    weight = sensitivity(program, observed.norms, gain, largest)
    pick = minimise(list(choices.values()), value, weight)
    chosen = [
        (path, choice.codes[i], choice.errors[i])
        for (path, choice), i in zip(choices.items(), pick, strict=True)
    ]
    errors = np.array([error for _, _, error in chosen])
    coded = tuple(
        Coded(path if len(found) == 1 else f"{path}[{number}]", shapes[path], code)
        for path, found, _ in chosen
        for number, code in enumerate(found)
    )
    draft = Certificate(
        value=1.0, errors=int(form_of(errors[None])[0][0]), n=n, delta=delta, form=form,
        recursion=recursion, coded=coded, matrices=matrices,
        gamma=form_of.gamma(errors) if form == "kl" else None, tried=tried,
        assumptions=_assumptions(program, reference, radius),
    )  # fmt: skip
    return draft.settled()


def _choices(
    program: Recursion,
    leaves: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    matrices: int,
) -> tuple[dict[str, Choices], dict[str, float]]:
    """The codes of each leaf that are worth having, and ``G = |M| + S`` per matrix path."""
    choices, gain = {}, {}
    for path in program.matrices:
        sigmas = [singular_values(matrix) if matrix.any() else None for matrix in moved[path]]
        shape = moved[path].shape[1], moved[path].shape[2]
        choices[path] = together([matrix_choices(s, shape, matrices) for s in sigmas])
        scales = [
            0.0 if s is None else 2 ** (codes.exponent(s[0], 8 * matrices) / (8 * matrices))
            for s in sigmas
        ]
        base = leaves[path] - moved[path]
        gain[path] = ROOM * max(
            spectral_norm(m) + scale if m.any() else scale
            for m, scale in zip(base, scales, strict=True)
        )
    for path in program.biases:
        norm = float(np.linalg.norm(moved[path])) * ROOM
        choices[path] = bias_choices(norm, moved[path].size)
    return choices, gain


def matrix_choices(sigma: np.ndarray | None, shape: tuple[int, int], matrices: int) -> Choices:
    """All codes of one matrix with these singular values (``None``: equal to its reference)."""
    if sigma is None:
        return _sorted_out([MatrixCode(codes.EQUAL)], shape, lambda code: code.error(matrices))
    j = codes.exponent(sigma[0], 8 * matrices)
    scale = 2 ** (j / (8 * matrices))
    found = [MatrixCode(codes.RANK, j)]
    for b in range(1, _LARGEST_B + 1):
        found.append(MatrixCode(codes.DIRECT, j, b=b))
        for k in range(1, min(shape) + 1):
            tail = sigma[k] if k < min(shape) else 0.0
            a = codes.exponent((tail / scale + 2.0 ** (1 - b)) * ROOM, 8)
            found.append(MatrixCode(codes.RANK, j, k, b, a))
    return _sorted_out(found, shape, lambda code: code.error(matrices) * ROOM)


def bias_choices(norm: float, size: int) -> Choices:
    """All codes of a bias vector of this norm."""
    if norm == 0:
        return _sorted_out([BiasCode(codes.ZERO)], (size,), lambda code: 0.0)
    j = codes.exponent(norm, 8)
    found = [BiasCode(codes.DROPPED, j)]
    found += [BiasCode(codes.CODED, j, b) for b in range(1, _LARGEST_B + 1)]
    return _sorted_out(found, (size,), lambda code: code.error() * ROOM)


def _sorted_out(found: Sequence[Any], shape: tuple[int, ...], error: Callable[[Any], float]):
    nats = [code.length(*shape).nats() for code in found]
    return pareto([error(code) for code in found], nats, [(code,) for code in found])


def _assumptions(program: Recursion, reference: Any, radius: float | None) -> tuple[str, ...]:
    found: list[str] = [*DATA_ASSUMPTIONS]
    if reference is not None:
        found.append("the reference weights were fixed before the data were seen")
    if radius is not None:
        found.append(f"what the first weights see has norm at most {radius:g}, for every input")
    return (*found, *program.told)
