"""Certify the trained network itself: the theorem with every constant, its code optimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from rankjax.certificates._guarantee import check_confidence
from rankjax.certificates._inputs import checked_sample
from rankjax.certificates.theorem._certificate import Certificate
from rankjax.certificates.theorem._counting import Counter
from rankjax.certificates.theorem._guard import guard as run_guard
from rankjax.certificates.theorem._neighbor import Problem
from rankjax.certificates.theorem._network import Observed
from rankjax.certificates.theorem._search import search
from rankjax.network import Structure

_REFINED_ON = 12000  # examples on which neighbors are compared


def certify(
    structure: Structure,
    params: Any,
    x: Any,
    y: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    delta: float = 0.01,
    reference: Any = None,
    activations: Mapping[str, float] | None = None,
    tried: int = 1,
    batch_size: int = 1024,
    guard: bool = True,
) -> Certificate:
    r"""A bound on the true error of the network, valid with probability ``1 - delta``.

    The network is within a coded distance of a *coded neighbor*, whose weights are multiples of a
    step. D nats describe the neighbor and the distances. There are countably many such pairs, and
    each gets the share ``exp(-D)`` of delta. If the network is wrong on an example, the neighbor's
    margin there is at most ``limit``, the most by which a network so near can differ. That event
    depends on the neighbor alone, and is counted on the sample::

        errors     = #{i : f~(x_i)_y - f~(x_i)_j <= limit_j(x_i) for some j != y_i}
        true error <= kl^{-1}(errors / n, (D + ln(1/delta)) / n)

    The guarantee holds for all weights at once, so the network may be trained on this very sample,
    as often as you like. A search chooses steps and ranks; the bound pays for every integer.

    Args:
        structure: from ``describe``; must include every matrix that ``apply`` uses.
        params: the trained parameters; arrays only.
        x: the training inputs, with a leading example axis.
        y: integer labels ``(n,)``.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode. Every operation
            on values that depend on weights must have a rule (see the table in the documentation).
        delta: probability, over the draw of the sample, that the bound fails; in (0, 1/2].
        reference: parameters fixed before the data were seen (usually the initialization); the code
            describes the difference from them. ``None``: 0.
        activations: Lipschitz constants of jitted functions by name, e.g. ``{"swish2": 1.2}``, for
            activations without a rule. The certificate lists them as assumptions.
        tried: number of architectures, references or codes tried on this sample.
        batch_size: examples per call.
        guard: draw networks inside the coded distances and check that none moves an output further
            than its bound.

    Returns:
        A ``Certificate``: printable, ``to_json``; check it with ``verify``.

    Raises:
        ValueError: for arguments out of range, for weights that ``structure`` leaves out, for
            networks with an operation that has no rule (named), and if the guard finds a bug.

    Not differentiable (see ``surrogate``). Cost: about 20 passes over up to 12000 examples and two
    over all examples, in float64, and one SVD per matrix and trial step.

    Source: derived for this library (documentation, theory); the relation to Ledent, Alves, Lei,
    NeurIPS 2025 is explained there.

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
    check_confidence(delta, tried)
    labels, batch_size = checked_sample(x, y, batch_size)
    problem = Problem.read(
        structure, params, x, apply=apply, reference=reference, activations=activations
    )
    network = problem.network
    counter = Counter(network)
    observed = network.observe(problem.weights, x, labels, batch_size=batch_size)
    n = len(labels)
    index = np.unique(np.linspace(0, n - 1, min(_REFINED_ON, n)).astype(int))
    part = jax.tree.map(lambda a: np.asarray(a)[index], x)

    def look(coded: np.ndarray) -> Observed:
        return network.observe(coded, part, labels[index], batch_size=batch_size)

    leaves = search(problem, counter, observed, look, delta=delta, tried=tried)
    coded, steps = problem.decode(leaves)
    exponents = problem.exponents(coded, steps)
    distances = problem.check_exponents(exponents, coded, steps)
    gains, pairs = counter.norms(coded)
    seen = network.observe(coded, x, labels, batch_size=batch_size)
    draft = Certificate(
        value=1.0,
        errors=int(counter(seen, gains, pairs, distances[None])[0]),
        n=n,
        delta=float(delta),
        tried=tried,
        assumptions=problem.assumptions(with_reference=reference is not None),
        leaves=leaves,
        distances=tuple(exponents),
        guard=run_guard(problem, counter, coded, distances, x, labels) if guard else None,
    )
    return draft.settled()
