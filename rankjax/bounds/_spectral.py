"""The spectrally-normalized margin bound of Bartlett, Foster and Telgarsky (NeurIPS 2017)."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax._arguments import one_of
from rankjax.bounds._facts import Facts, check_delta, log, total
from rankjax.bounds._result import BoundResult, Kind
from rankjax.network import Measured, Sample

SOURCE = "Bartlett, Foster, Telgarsky, NeurIPS 2017, Theorem 1.1"


def spectral(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
    delta: float = 0.05,
) -> BoundResult:
    r"""Spectral complexity: products of operator norms times distances in the (2,1) norm.

    ``dominant``: a term without constants and logarithms, not a guarantee::

        |X|_F / (gamma n)  S (sum_l (|A_l - M_l|_{2,1} / |A_l|)^{2/3})^{3/2},   S = prod rho_l |A_l|

    ``explicit``: with ``R`` that term, ``W`` the largest number of entries of a layer's matrix::

        gap <= 8 / n^{3/2} + 72 ln(2 W) ln(n) R + 3 sqrt(ln(1 / delta) / (2 n))

    with probability ``1 - delta``, for classes whose norms were fixed before the data are seen (the
    constants are those of Theorem 1.1 with Lemma A.8, recalled; the union over norms that the
    theorem adds is not part of it). Norms are those of the layer as a linear map: for a convolution
    ``Measured.operator_norm`` and ``positions |K|_{2,1}``.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: needs ``n``, ``|X|_F`` and a margin.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.
        delta: confidence of the explicit form.

    Returns:
        ``BoundResult``. ``per_layer``: the summands with all factors drawn in, so that the term
        ``R`` is their sum to the power 3/2.

    Raises:
        ValueError: unknown ``kind``, ``gamma <= 0``, ``delta`` outside (0, 1), a convolution with
            unknown positions.

    Differentiable in the weights where no layer equals its reference (there the derivative is taken
    as 0). Cost: O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": 2 * jnp.eye(8)}
        >>> measured = measure(describe(params), params)
        >>> bound = spectral(measured, Sample.of_size(400), gamma=0.5)
        >>> round(float(bound.value), 4)  # |X|_F = 20, (2,1) norm = 16
        1.6
    """
    one_of(kind, "kind", Kind)
    facts = Facts(measured, sample, gamma)
    n = facts.n
    scale = log(facts.number(sample.frobenius)) - jnp.log(facts.gamma * n)
    each = scale + facts.log_rest() + log(facts.row_norms_moved)
    times = jnp.log(facts.times)
    log_term, per_layer = total(each + 1.5 * times, 2 / 3)
    parts = "value = (sum of parts)^(3/2)"
    if kind == "dominant":
        return facts.result(
            log_term, per_layer, name="spectral", kind=kind, source=SOURCE, parts=parts
        )
    check_delta(delta)
    # What an empirical Rademacher complexity needs on top.
    confidence = 3 * jnp.sqrt(jnp.log(facts.number(1 / delta)) / (2 * n))
    entries = (facts.inputs * facts.outputs).max()
    constant = 72 * jnp.log(facts.number(2 * entries)) * jnp.log(n)
    rest = 8 / n**1.5 + confidence
    return facts.result(
        jnp.logaddexp(jnp.log(constant) + log_term, jnp.log(rest)), per_layer,
        name="spectral", kind=kind, quantity="gap", source=f"{SOURCE} and Lemma A.8",
        parts="value = constant (sum of parts)^(3/2) + rest",
        terms={"constant": constant, "rest": rest, "confidence": confidence},
    )  # fmt: skip
