"""Check a certificate against its network and its sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from rankjax.certificates._inputs import checked_sample
from rankjax.certificates.theorem._certificate import Certificate
from rankjax.certificates.theorem._counting import Counter
from rankjax.certificates.theorem._neighbor import Problem
from rankjax.network import Structure


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
    activations: Mapping[str, float] | None = None,
    batch_size: int = 1024,
) -> Decimal:
    """Recompute everything from the stored integers, the weights and the data.

    Trusts no number of the claim and uses no result of the search. Checks that the code describes
    the leaves of this network, decodes the neighbor, compares each coded distance with the measured
    one, counts the errors on the sample again, and computes the bound from the integers to fifty
    digits. Each step rounds to the safe side: distances and norms up, by the error of computing
    them; margins down, by the rounding of the forward pass (which the recursion itself bounds);
    logarithms up.

    Not checked, because no data can tell: what the assumptions state, and that no more than
    ``tried`` was tried. Not checked either: ``guard``, a report that is no part of the claim. Code
    that runs in this process can change the library itself; verify a certificate from others as the
    text that ``Certificate.from_json`` reads.

    Args:
        certificate: from ``certify``.
        structure: as given to ``certify``, like everything that follows.
        params: the parameters.
        x: the sample's inputs.
        y: its labels.
        apply: the network.
        reference: its reference weights.
        activations: the Lipschitz constants given to ``certify``.
        batch_size: examples per call.

    Returns:
        The bound to fifty digits.

    Raises:
        ValueError: for the first claim that does not hold, with its name.
    """
    if type(certificate) is not Certificate:
        raise ValueError(f"certificate: got {type(certificate).__name__}, must be a Certificate")
    certificate = replace(certificate)  # without attributes set from outside
    exact = certificate.verify()
    labels, batch_size = checked_sample(x, y, batch_size)
    if len(labels) != certificate.n:
        raise ValueError(f"n: got {certificate.n}, the sample has {len(labels)} examples")
    problem = Problem.read(
        structure, params, x, apply=apply, reference=reference, activations=activations
    )
    network = problem.network
    wanted = [(network.leaves.paths[i], network.leaves.shapes[i]) for i in network.used]
    if [(leaf.path, leaf.shape) for leaf in certificate.leaves] != wanted:
        got = [(leaf.path, leaf.shape) for leaf in certificate.leaves]
        raise ValueError(f"leaves: got {got}, the network has {wanted}")
    for leaf in certificate.leaves:
        if leaf.mode == "factors":
            layer = problem.layers.get(leaf.path)
            shape = layer and (layer.stacked * layer.parallel, *layer.matrix_shape)
            if leaf.matrices != shape:
                raise ValueError(
                    f"leaves[{leaf.path!r}].matrices: got {leaf.matrices}, the leaf is {shape}"
                )
    told = problem.assumptions(with_reference=reference is not None)
    if certificate.assumptions != told:
        raise ValueError(f"assumptions: got {certificate.assumptions}, must be {told}")
    coded, steps = problem.decode(certificate.leaves)
    distances = problem.check_exponents(certificate.distances, coded, steps)
    counter = Counter(network)
    gains, pairs = counter.norms(coded)
    seen = network.observe(coded, x, labels, batch_size=batch_size)
    counted = int(counter(seen, gains, pairs, distances[None])[0])
    if counted > certificate.errors:
        raise ValueError(f"errors: got {certificate.errors}, counted {counted}")
    return exact
