"""The PAC-Bayes bound for a Gaussian around the weights (Dziugaite and Roy, UAI 2017)."""

from __future__ import annotations

import jax.numpy as jnp

from rankjax.bounds._binary_kl import kl_inverse
from rankjax.bounds._facts import Facts, check_delta, log
from rankjax.bounds._result import BoundResult
from rankjax.network import Measured, Perturbed, Sample

SOURCE = "Dziugaite, Roy, UAI 2017; Maurer 2004, Theorem 5"
_STEPS_PER_FACTOR_OF_TWO = 8


def pac_bayes_gaussian(
    measured: Measured,
    sample: Sample,
    /,
    *,
    perturbed: Perturbed,
    delta: float = 0.05,
) -> BoundResult:
    r"""A bound on the true error of the network *with Gaussian noise on its weights*.

    ``Q = N(w, s^2 I)`` over all d parameters, prior ``P = N(w_0, lambda^2 I)``. With probability
    ``1 - delta`` over the sample and the noise, for every trial scale s::

        kl(Qhat || Q) <= (KL + ln(2 sqrt(n) / delta_1)) / n
        KL = d/2 ln(lambda^2 / s^2) + (d s^2 + |w - w_0|^2) / (2 lambda^2) - d/2

    ``lambda^2 = 2^{j/8}`` is the grid value next to the optimal ``s^2 + |w - w_0|^2 / d``; integer
    j costs ``ln(3 (|j| + 1)(|j| + 2) / 2)``. The empirical error ``Qhat`` of the noisy network is a
    mean of k independent draws, hence at most ``kl^{-1}(mean, ln(2 T / delta_2) / k)`` for all T
    trial scales at once. ``delta_1 = delta_2 = delta / 2``. The best scale is reported; the value
    bounds the error itself, not a gap.

    ``w_0`` must not depend on the sample: 0, or the initialization.

    Args:
        measured: from ``measure``; only shares of the layers are taken from it.
        sample: needs ``n``.
        perturbed: from ``Perturbed.from_data`` on the same sample.
        delta: confidence.

    Returns:
        ``BoundResult`` of kind ``"explicit"`` and quantity ``"error"``. ``per_layer``: ``|A_l -
        M_l|_F^2`` over twice the prior's variance, the layer's part of KL.

    Raises:
        ValueError: ``delta`` outside (0, 1).

    Not differentiable: the noisy errors are counted. Cost: O(trial scales).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Perturbed, Sample, describe, measure
        >>> params = {"kernel": jnp.zeros((2, 2))}
        >>> measured = measure(describe(params), params)
        >>> noise = Perturbed(scales=jnp.ones(1), errors=jnp.zeros((1, 1000)),
        ...                   squared_distance=jnp.zeros(()), parameters=4)
        >>> bound = pac_bayes_gaussian(measured, Sample.of_size(1000), perturbed=noise)
        >>> round(float(bound.value), 3)
        0.02
    """
    check_delta(delta)
    facts = Facts(measured, sample)
    n = facts.n
    d = facts.number(perturbed.parameters)
    distance = facts.number(perturbed.squared_distance)
    variance = jnp.square(facts.number(perturbed.scales))
    best = variance + distance / d
    j = jnp.round(_STEPS_PER_FACTOR_OF_TWO * jnp.log2(best))
    prior = 2 ** (j / _STEPS_PER_FACTOR_OF_TWO)
    kl = d / 2 * jnp.log(prior / variance) + (d * variance + distance) / (2 * prior) - d / 2
    code = jnp.log(1.5 * (jnp.abs(j) + 1) * (jnp.abs(j) + 2))
    trials, draws = perturbed.errors.shape
    mean = jnp.mean(facts.number(perturbed.errors), axis=1)
    confidence = jnp.log(facts.number(4 * trials / delta)) / draws
    noisy = kl_inverse(mean, confidence)
    budget = (kl + code + jnp.log(4 * jnp.sqrt(n) / delta)) / n
    values = kl_inverse(noisy, budget)
    which = jnp.argmin(values)
    shares = jnp.square(measured.frobenius_norm_moved) / (2 * prior[which])
    return facts.result(
        log(values[which]), shares, name="pac_bayes_gaussian", kind="explicit",
        quantity="error", source=SOURCE, parts="parts: distance part of KL",
        terms={"scale": perturbed.scales[which], "kl": kl[which], "empirical_error": noisy[which],
               "prior_variance": prior[which], "values": values},
    )  # fmt: skip
