"""Bounds that count: parameters, and ranks."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax._arguments import one_of
from rankjax._linear_algebra import largest
from rankjax.bounds._facts import Facts, exp, log
from rankjax.bounds._graf import graf_parameters
from rankjax.bounds._result import BoundResult, Kind
from rankjax.network import Measured, Sample


def parameter_count(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
) -> BoundResult:
    r"""The number of weights P, shared ones counted once.

    ``dominant``: ``sqrt(P L / n)``, a term without constants and logarithms, not a guarantee.
    ``explicit``: ``graf_parameters``, see there.

    Args:
        measured: from ``measure``.
        sample: needs ``n``; the explicit form also ``|X|_F`` and a margin.
        gamma: the margin of the explicit form; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.

    Returns:
        ``BoundResult``. ``per_layer``: ``P_l L / n``, the value is the root of their sum.

    Raises:
        ValueError: unknown ``kind``.

    The dominant form does not depend on the weights' values (derivative 0). Cost: O(layers).
    Source: Long and Sedghi, ICLR 2020; Graf et al., NeurIPS 2022, Theorem 3.5.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.ones((4, 4))}
        >>> measured = measure(describe(params), params)
        >>> round(float(parameter_count(measured, Sample.of_size(400)).value), 4)
        0.2
    """
    one_of(kind, "kind", Kind)
    if kind == "explicit":
        return graf_parameters(measured, sample, gamma=gamma)
    facts = Facts(measured, sample)
    return _counted(facts, 1.0, "parameter_count", "Long, Sedghi, ICLR 2020")


def vc(measured: Measured, sample: Sample, /) -> BoundResult:
    r"""VC dimension of piecewise linear networks: ``sqrt(P L ln(P) / n)``.

    A dominant term without constants (its logarithm is kept, being what the theorem adds to the
    count), not a guarantee.

    Args:
        measured: from ``measure``.
        sample: needs ``n``.

    Returns:
        ``BoundResult``. ``per_layer``: ``P_l L ln(P) / n``, the value is the root of their sum.

    Does not depend on the weights' values (derivative 0). Cost: O(layers).
    Source: Bartlett, Harvey, Liaw, Mehrabian, JMLR 2019, Theorem 6.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.ones((4, 4))}
        >>> measured = measure(describe(params), params)
        >>> round(float(vc(measured, Sample.of_size(400)).value), 4)  # 0.2 sqrt(ln 16)
        0.333
    """
    facts = Facts(measured, sample)
    log_count = jnp.log(facts.number(facts.weights.sum()))
    source = "Bartlett, Harvey, Liaw, Mehrabian, JMLR 2019, Theorem 6"
    return _counted(facts, log_count, "vc", source)


def low_rank(
    measured: Measured,
    sample: Sample,
    /,
    *,
    c: float = 1.0,
    gamma: ArrayLike | None = None,
    rtol: float | None = None,
) -> BoundResult:
    r"""``c^L S L r sqrt(h) B / (gamma sqrt(n))`` with r the smallest rank of a layer.

    A dominant term, not a guarantee. The universal constant c of the theorem is not published; 1
    and 2 are what was plotted. ``S = prod rho_l |A_l|``, norms and ranks being those of the layer
    as a linear map (``positions * rank`` for a convolution, at most its number of units).

    Args:
        measured: from ``measure``.
        sample: needs ``n``, the radius and a margin.
        c: the constant, > 0.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.
        rtol: which singular values count as zero, relative to the largest; default: rounding
            errors.

    Returns:
        ``BoundResult``. ``per_layer``: ``c rho_l |A_l|`` to the power of its uses;
        ``terms["rank"]`` are the ranks.

    Raises:
        ValueError: ``c <= 0``, ``gamma <= 0``, a convolution with unknown positions.

    Differentiable in the weights while the ranks stay as they are. Cost: O(singular values).
    Source: Pinto, Rangamani, Poggio 2025, as compared by Ledent, Alves and Lei (NeurIPS 2025).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(4)}
        >>> measured = measure(describe(params), params)
        >>> round(float(low_rank(measured, Sample.of_size(400), gamma=1.0).value), 4)
        0.4
    """
    if not c > 0:
        raise ValueError(f"c: got {c}, must be > 0")
    facts = Facts(measured, sample, gamma)
    units = jnp.minimum(facts.inputs, facts.outputs)
    rank = measured.numerical_rank(rtol) * facts.number(facts.positions)
    rank = jnp.minimum(rank, facts.number(units))
    logs = facts.log_factors + jnp.log(facts.number(c))
    powers = logs * facts.times
    radius = facts.number(sample.radius)
    scale = log(radius) - jnp.log(facts.gamma) - jnp.log(facts.n) / 2
    scale = scale + jnp.log(facts.number(facts.depth))
    scale = scale + jnp.log(facts.number(facts.width)) / 2
    log_value = scale + log(-largest(-rank)) + jnp.sum(powers)
    return facts.result(
        log_value, exp(powers), name="low_rank" if c == 1 else f"low_rank_c{c:g}",
        kind="dominant", parts="value = scale * smallest rank * product of parts",
        source="Pinto, Rangamani, Poggio 2025 (as in arXiv 2510.21945)",
        terms={"rank": rank, "scale": exp(scale)},
    )  # fmt: skip


def _counted(facts: Facts, extra: ArrayLike, name: str, source: str) -> BoundResult:
    per_layer = facts.number(facts.weights) * facts.number(facts.depth) * extra / facts.n
    return facts.result(
        jnp.log(jnp.sum(per_layer)) / 2, per_layer, name=name, kind="dominant", source=source,
        parts="value = sqrt(sum of parts)",
        terms={"parameters": facts.number(facts.weights.sum())},
    )  # fmt: skip
