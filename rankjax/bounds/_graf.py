"""The two bounds of Graf, Zeng, Rieck, Niethammer and Kwitt (NeurIPS 2022), with constants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.bounds._facts import Facts, exp, log
from rankjax.bounds._result import BoundResult
from rankjax.network import Measured, Sample

SOURCE = "Graf, Zeng, Rieck, Niethammer, Kwitt, NeurIPS 2022, Theorem 3.5({})"
_ZETA = 2.612375348685488  # zeta(3/2)


def graf_norm(
    measured: Measured, sample: Sample, /, *, gamma: ArrayLike | None = None
) -> BoundResult:
    r"""Rademacher complexity of a margin loss over convolutional networks, from norms.

    ::

        C_l = (4 / gamma) (|X|_F / sqrt(n)) S |A_l - M_l|_{2,1} / |A_l|
        4 / n + 12 H_{n-1} / sqrt(n) sqrt(ln(2 W)) (sum_l ceil(C_l^{2/3}))^{3/2}

    ``S = prod rho_l |A_l|`` with norms of linear maps, W the largest number of weights of a layer,
    H the harmonic number. Here the (2,1) norm of a kernel sums the 2-norms over the input
    *channels*, for every output channel and every place of the window; for a dense layer it is the
    usual one.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: needs ``n``, ``|X|_F`` and a margin.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.

    Returns:
        ``BoundResult`` of kind ``"explicit"`` (Rademacher complexity; a gap is at most twice that
        plus ``3 sqrt(ln(2/delta)/(2n))``). ``per_layer``: ``ceil(C_l^{2/3})`` times the layer's
        uses; the value is the sum to the power 3/2 times ``terms["scale"]``, plus 4 / n.

    Raises:
        ValueError: ``gamma <= 0``, or a convolution whose number of positions is unknown.

    Not differentiable in a useful way: it is constant between the jumps of ``ceil``. Cost:
    O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(2)}
        >>> measured = measure(describe(params), params)
        >>> bound = graf_norm(measured, Sample.of_size(400), gamma=1.0)
        >>> round(float(bound.per_layer[0]), 4)  # C = 8
        4.0
    """
    facts = Facts(measured, sample, gamma)
    n = facts.n
    rounded = _ceil(_log_c(facts) * (2 / 3))
    per_layer = rounded * facts.times
    harmonic = jax.scipy.special.digamma(n) + np.euler_gamma
    entries = facts.number(2 * facts.weights.max())
    scale = 12 * harmonic / jnp.sqrt(n) * jnp.sqrt(jnp.log(entries))
    log_term = jnp.log(scale) + 1.5 * log(jnp.sum(per_layer))
    return facts.result(
        jnp.logaddexp(log_term, jnp.log(4 / n)), per_layer, name="graf_norm",
        kind="explicit", source=SOURCE.format("a"),
        parts="value = scale (sum of parts)^(3/2) + 4/n", terms={"scale": scale},
    )  # fmt: skip


def graf_parameters(
    measured: Measured, sample: Sample, /, *, gamma: ArrayLike | None = None
) -> BoundResult:
    r"""Rademacher complexity of a margin loss over convolutional networks, from parameter counts.

    With ``C_l`` and the conventions of ``graf_norm``, ``P_l`` the number of weights::

        12 / sqrt(n) sqrt(sum_l 2 P_l (ln(1 + ceil(L^2 C_l^2)) + psi(ceil(L^2 C_l^2))))
        psi(x) = zeta(3/2)^{1/3} zeta(3/2, 1 + 1/x^2)^{2/3},   psi(0) = 0

    The argument of psi could be ``ceil(L C_l)``; psi is increasing and below 2.62, so this is at
    most a little larger.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: needs ``n``, ``|X|_F`` and a margin.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.

    Returns:
        ``BoundResult`` of kind ``"explicit"``, a Rademacher complexity. ``per_layer``: the summands
        times 144 / n; the value is the root of their sum.

    Raises:
        ValueError: ``gamma <= 0``, or a convolution whose number of positions is unknown.

    Not differentiable in a useful way: it is constant between the jumps of ``ceil``. Cost:
    O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(2)}
        >>> measured = measure(describe(params), params)
        >>> bound = graf_parameters(measured, Sample.of_size(400), gamma=1.0)
        >>> round(float(bound.value), 2)
        4.42
    """
    facts = Facts(measured, sample, gamma)
    n = facts.n
    depth = facts.number(facts.depth)
    log_square = 2 * (_log_c(facts) + jnp.log(depth))
    # Past 2^24 a float32 is whole anyway; the logarithm cannot overflow.
    big = log_square > 16
    square = _ceil(jnp.where(big, 0, log_square))
    log_count = jnp.where(big, log_square, jnp.log1p(square))
    inside = log_count + _psi(jnp.where(big, jnp.inf, square))
    counts = facts.number(2 * facts.weights * facts.uses)
    per_layer = 144 / n * counts * inside
    return facts.result(
        log(jnp.sum(per_layer)) / 2, per_layer, name="graf_parameters",
        kind="explicit", source=SOURCE.format("b"),
        parts="value = sqrt(sum of parts)",
        terms={"parameters": facts.number(facts.weights.sum())},
    )  # fmt: skip


def _log_c(facts: Facts) -> Array:
    facts.positions  # noqa: B018  (for its error: the norm of a convolution needs its geometry)
    data = log(facts.number(facts.sample.frobenius)) - jnp.log(facts.n) / 2
    taps = facts.measured.per_layer(facts.measured.tap_norms_moved, jnp.sum)
    return jnp.log(4 / facts.gamma) + data + facts.log_rest() + log(taps)


def _ceil(log_value: Array) -> Array:
    """``ceil(exp(log_value))``; what is whole up to rounding is not lifted to the next number."""
    return jnp.ceil(exp(log_value) * (1 - 32 * jnp.finfo(log_value.dtype).eps))


def _psi(x: Array) -> Array:
    """0 at 0, increasing, ``zeta(3/2)`` at infinity."""
    positive = x > 0
    shift = 1 / jnp.where(positive, x, 1) ** 2
    value = jax.scipy.special.zeta(jnp.asarray(1.5, x.dtype), 1 + shift)
    return jnp.where(positive, _ZETA ** (1 / 3) * value ** (2 / 3), 0)
