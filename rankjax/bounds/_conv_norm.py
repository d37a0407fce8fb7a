"""The norm-based bound for convolutional networks of Ledent, Mustafa, Lei and Kloft (AAAI 2021)."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rankjax._linear_algebra import largest
from rankjax.bounds._facts import Facts, exp, log, total
from rankjax.bounds._result import BoundResult, Inapplicable
from rankjax.network import Measured, Sample

SOURCE = "Ledent, Mustafa, Lei, Kloft, AAAI 2021 (arXiv 1905.12430), Theorem 11"


def conv_norm(
    measured: Measured, sample: Sample, /, *, gamma: ArrayLike | None = None
) -> BoundResult:
    r"""Rademacher complexity of a margin loss, from norms of kernels and of patches.

    With ``b_l`` the largest norm, over the sample, of a patch that layer l + 1 is applied to, ``b_L
    = gamma``, and ``O_l`` the number of positions::

        r_l = b_{l-1} |A_l - M_l|_{2,1} sqrt(O_l)
              max_{l <= u <= L} (prod_{l < i <= u} rho_i |A_i|) / b_u
        r_L = b_{L-1} |A_L - M_L|_F / gamma
        R   = (sum_l r_l^{2/3})^{3/2}
        4/n + 768 R sqrt(log2(32 G n^2 + 7 W n)) ln(n) / sqrt(n)

    ``G = max_l r_l O_l m_l``, ``W = max_l O_l m_l`` with ``m_l`` channels. Kernels count once,
    however often they are applied. ``|A_i|`` is the norm as a linear map. Taken from a public
    implementation, with two deviations that make it larger or correct it: ``u = l`` takes part in
    the maximum, and the last layer's factor is ``b_{L-1} / gamma`` (that code multiplies it by
    ``b_{L-1}`` twice). The operator norm of the last layer replaces the smaller largest row norm of
    the theorem.

    Args:
        measured: from ``measure(structure, params, reference=...)``.
        sample: from ``Sample.from_data``: needs the layer norms.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.

    Returns:
        ``BoundResult`` of kind ``"explicit"``, a Rademacher complexity. ``per_layer``:
        ``r_l^{2/3}``.

    Raises:
        ValueError: ``gamma <= 0``, a sample without layer norms, tied weights (which the theorem
            does not cover), a convolution with unknown positions.

    Differentiable in the weights where the maxima are unique and no layer equals its reference (the
    sample's norms are held constant). Cost: O(layers^2).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(2)}
        >>> measured = measure(describe(params), params)
        >>> sample = Sample(n=400, radius=1.0, frobenius=20.0, patch_norms=jnp.ones((1, 400)))
        >>> bound = conv_norm(measured, sample, gamma=0.5)
        >>> round(float(bound.terms["R"]), 4)  # |I|_F / gamma
        2.8284
    """
    facts = Facts(measured, sample, gamma)
    if (facts.uses > 1).any():
        raise Inapplicable("structure: conv_norm does not cover weights used more than once")
    n, log_gamma = facts.n, jnp.log(facts.gamma)
    patches = log(facts.layer_norms())
    after = jnp.append(patches[1:], log_gamma)  # log b_u, u = 1..L
    growth = facts.log_factors
    # reach[l, u] = sum of log growth over l < i <= u, minus log b_u; only u >= l
    i = np.arange(len(patches))
    between = (i[None, None, :] > i[:, None, None]) & (i <= i[:, None])[None]
    reach = jnp.sum(jnp.where(between, growth, 0), -1) - after[None, :]
    reach = largest(jnp.where(i[None, :] >= i[:, None], reach, -jnp.inf), 1)
    reach = reach.at[-1].set(-log_gamma)
    rows = measured.per_layer(measured.row_norms_moved, jnp.sum)
    last = jnp.asarray(i == i[-1])
    distance = jnp.where(last, measured.frobenius_norm_moved, rows)
    spots = facts.number(facts.positions)
    logs = patches + reach + log(distance) + jnp.where(last, 0, jnp.log(spots) / 2)
    log_r, per_layer = total(logs, 2 / 3)
    sizes = jnp.log(facts.number(facts.outputs))
    log_cover = jnp.logaddexp(
        jnp.log(facts.number(32)) + largest(logs + sizes) + 2 * jnp.log(n),
        jnp.log(7 * n) + jnp.max(sizes),
    )
    constant = 768 * jnp.sqrt(log_cover / math.log(2)) * jnp.log(n) / jnp.sqrt(n)
    return facts.result(
        jnp.logaddexp(jnp.log(constant) + log_r, jnp.log(4 / n)), per_layer,
        name="conv_norm", kind="explicit", source=SOURCE,
        parts="value = constant (sum of parts)^(3/2) + 4/n",
        terms={"R": exp(log_r), "constant": constant},
    )  # fmt: skip
