"""The PAC-Bayesian bound of Neyshabur, Bhojanapalli and Srebro (ICLR 2018)."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax._arguments import one_of
from rankjax.bounds._facts import Facts, check_delta, exp, log, total
from rankjax.bounds._result import BoundResult, Kind
from rankjax.network import Measured, Sample

SOURCE = "Neyshabur, Bhojanapalli, Srebro, ICLR 2018, Theorem 1"


def pac_bayes_spectral(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
    delta: float = 0.05,
) -> BoundResult:
    r"""Weights that may be perturbed by Gaussian noise without changing a margin by gamma / 2.

    ``dominant``: a term without constants and logarithms, not a guarantee. With h the largest
    width::

        sqrt(B^2 L^2 h S^2 sum_l |A_l - M_l|_F^2 / |A_l|^2 / (gamma^2 n)),   S = prod rho_l |A_l|

    ``explicit``: constants re-derived from the proof, where ``sigma = gamma / (42 L B beta^{L-1}
    sqrt(h ln(4 h L)))``, ``beta^L = S``, and ``beta`` is covered by ``L n^{1/(2L)}`` values::

        KL   = 42^2 B^2 L^2 h ln(4 h L) S^2 / (2 gamma^2) sum_l |A_l|_F^2 / |A_l|^2
        gap <= 4 sqrt((KL + ln(6 n L n^{1/(2 L)} / delta)) / (n - 1))

    The theorem has ``M_l = 0``: its proof rescales the layers, and a fixed prior center does not
    follow. The explicit form therefore takes ``|A_l|_F`` whatever the reference. Norms are those of
    the layer as a linear map. The theorem is about networks without biases with positively
    homogeneous activations such as ReLU; see ``frobenius`` for others.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: needs ``n``, the radius and a margin.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.
        delta: confidence of the explicit form.

    Returns:
        ``BoundResult``. ``per_layer``: the summands of the squared term (dominant) or of KL
        (explicit).

    Raises:
        ValueError: unknown ``kind``, ``gamma <= 0``, ``delta`` outside (0, 1), a convolution with
            unknown positions.

    Differentiable in the weights. Cost: O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(4)}
        >>> measured = measure(describe(params), params)
        >>> bound = pac_bayes_spectral(measured, Sample.of_size(400), gamma=0.5)
        >>> round(float(bound.value), 4)  # sqrt(4 * 4 / (0.25 * 400))
        0.4
    """
    one_of(kind, "kind", Kind)
    facts = Facts(measured, sample, gamma)
    n = facts.n
    h, layers = facts.width, facts.depth
    moved = facts.frobenius(moved=kind == "dominant")
    scale = log(facts.number(sample.radius)) - jnp.log(facts.gamma)
    scale = scale + jnp.log(facts.number(layers))
    scale = scale + jnp.log(facts.number(h)) / 2
    times = jnp.log(facts.times) / 2
    each = scale + facts.log_rest() + log(moved) + times
    if kind == "dominant":
        log_value, per_layer = total(each - jnp.log(n) / 2, 2)
        return facts.result(
            log_value, per_layer, name="pac_bayes_spectral", kind=kind, source=SOURCE,
            parts="value = sqrt(sum of parts)",
        )  # fmt: skip
    check_delta(delta)
    constant = 42**2 / 2 * jnp.log(facts.number(4 * h * layers))
    log_root, per_layer = total(each + jnp.log(constant) / 2, 2)
    union = jnp.log(facts.number(6 * layers / delta)) + (1 + 0.5 / layers) * jnp.log(n)
    log_inside = jnp.logaddexp(2 * log_root, jnp.log(union))
    log_value = jnp.log(facts.number(4)) + (log_inside - jnp.log(n - 1)) / 2
    return facts.result(
        log_value, per_layer, name="pac_bayes_spectral", kind=kind, quantity="gap",
        source=f"{SOURCE}, constants re-derived",
        parts="value = 4 sqrt((sum of parts + union) / (n - 1))",
        terms={"kl": exp(2 * log_root), "union": union},
    )  # fmt: skip
