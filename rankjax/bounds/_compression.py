"""The compression bound of Arora, Ge, Neyshabur and Zhang (ICML 2018), from noise stability."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax.bounds._facts import Facts, log, total
from rankjax.bounds._result import BoundResult, Inapplicable
from rankjax.network import Measured, Sample

SOURCE = "Arora, Ge, Neyshabur, Zhang, ICML 2018, Theorem 4.1"


def compression(
    measured: Measured, sample: Sample, /, *, gamma: ArrayLike | None = None
) -> BoundResult:
    r"""How far the network could be compressed, judged by cushions measured on data.

    A dominant term, not a guarantee; and the theorem is about the *compressed* network::

        sqrt(c^2 L^2 max_i |f(x_i)|^2 sum_l 1 / (mu_l^2 mu_{l->}^2) / (gamma^2 n))

    ``mu_l`` is the layer cushion, ``mu_{l->}`` the smallest interlayer cushion, ``c`` the
    activation contraction, see ``rankjax.network.Cushions``. The theorem also asks for interlayer
    smoothness, which is not measured.

    Args:
        measured: from ``measure`` (only its structure is used).
        sample: with ``cushions``, which ``sample.with_cushions(Cushions.from_data(...))`` adds.
        gamma: the margin; ``None``: ``sample.margin_at(0.01)``.

    Returns:
        ``BoundResult``. ``per_layer``: the summands of the square; the value is the root of their
        sum.

    Raises:
        ValueError: ``gamma <= 0`` or a sample without cushions.

    Not differentiable in the weights: cushions are measured on data. Cost: O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Cushions, Sample, describe, measure
        >>> params = {"kernel": jnp.eye(2)}
        >>> measured = measure(describe(params), params)
        >>> one = jnp.ones(1)
        >>> cushions = Cushions(layer=one / 2, interlayer=one, contraction=one[0], output=one[0])
        >>> sample = Sample.of_size(400).with_cushions(cushions)
        >>> round(float(compression(measured, sample, gamma=0.5).value), 4)
        0.2
    """
    facts = Facts(measured, sample, gamma)
    cushions = sample.cushions
    if cushions is None:
        raise Inapplicable(
            "sample: cushions are unknown; use sample.with_cushions(Cushions.from_data(...))"
        )
    scale = jnp.log(facts.number(cushions.contraction))
    scale = scale + log(facts.number(cushions.output)) - jnp.log(facts.gamma)
    scale = scale + jnp.log(facts.number(facts.depth)) - jnp.log(facts.n) / 2
    times = jnp.log(facts.times) / 2
    cushion = facts.number(cushions.layer) * facts.number(cushions.interlayer)
    log_value, per_layer = total(scale + times - jnp.log(cushion), 2)
    return facts.result(
        log_value, per_layer, name="compression", kind="dominant", source=SOURCE,
        parts="value = sqrt(sum of parts)",
        terms={"layer_cushion": cushions.layer, "interlayer_cushion": cushions.interlayer},
    )  # fmt: skip
