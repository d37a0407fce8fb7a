"""Products of Frobenius norms, and of (1, inf) norms: the layer-peeling bounds."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import one_of
from rankjax.bounds._facts import Facts, exp, log
from rankjax.bounds._result import BoundResult, Kind
from rankjax.network import Measured, Sample

_GOLOWICH = "Golowich, Rakhlin, Shamir, COLT 2018, Theorem {}"
_NEYSHABUR = "Neyshabur, Tomioka, Srebro, COLT 2015, Corollary 2"

Version = Literal["golowich", "neyshabur"]


def frobenius(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
    version: Version = "golowich",
) -> BoundResult:
    r"""Product of Frobenius norms.

    ``dominant``: a term without constants and logarithms, not a guarantee; ``explicit``: the
    Rademacher complexity of one output of the networks with these norms (no margin in it; for k
    outputs and a gamma-margin loss multiply by ``2 sqrt(2) k / gamma`` to bound the gap, by vector
    contraction)::

        dominant               B  prod_l rho_l |A_l|_F sqrt(L) / (gamma sqrt(n))
        explicit, golowich     prod_l rho_l |A_l|_F (sqrt(2 ln(2) L) + 1) |X|_F / n
        explicit, neyshabur    2^{L-1} prod_l rho_l |A_l|_F |X|_F / n

    Norms are those of the layer as a linear map: ``sqrt(positions) |K|_F`` for a convolution. The
    theorems are about positively homogeneous activations such as ReLU: of a network whose trace
    shows others, ``source`` says that the explicit value is not for it, and ``compare`` leaves it
    out. The reference matrices play no part.

    Args:
        measured: from ``measure``.
        sample: needs ``n`` and the radius, or ``|X|_F``.
        gamma: the margin of the dominant form; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.
        version: of the explicit form, ``"golowich"`` or ``"neyshabur"``.

    Returns:
        ``BoundResult``. ``per_layer``: ``rho_l |A_l|_F``, to the power of its uses.

    Raises:
        ValueError: unknown ``kind`` or ``version``, ``gamma <= 0``, a convolution with unknown
            positions.

    Differentiable in the weights (0 at a zero matrix). Cost: O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.eye(4)}
        >>> measured = measure(describe(params), params)
        >>> round(float(frobenius(measured, Sample.of_size(400), gamma=0.5).value), 4)
        0.2
    """
    one_of(kind, "kind", Kind)
    one_of(version, "version", Version)
    facts = Facts(measured, sample, gamma)
    logs = log(facts.frobenius())
    data = facts.known("radius" if kind == "dominant" else "frobenius")
    source, name = _GOLOWICH.format(1), "frobenius"
    depth = facts.number(facts.depth)
    if kind == "dominant":
        log_constant = jnp.log(depth) / 2
    elif version == "golowich":
        log_constant = jnp.log(jnp.sqrt(2 * jnp.log(facts.number(2)) * depth) + 1)
    else:
        log_constant = (depth - 1) * jnp.log(facts.number(2))
        source, name = _NEYSHABUR, "frobenius_neyshabur"
    return _product(facts, logs, data, log_constant, kind, name, source)


def one_inf(
    measured: Measured,
    sample: Sample,
    /,
    *,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
) -> BoundResult:
    r"""Product of ``|A_l|_{1,inf}``, the largest 1-norm of the weights of one output unit.

    ``dominant``: a term without constants and logarithms, not a guarantee; ``explicit``: the
    Rademacher complexity of one output, as for ``frobenius`` (recalled from the theorem; d is the
    dimension of the input)::

        dominant    B_inf prod_l rho_l |A_l|_{1,inf} sqrt(L + ln d) / (gamma sqrt(n))
        explicit    2 prod_l rho_l |A_l|_{1,inf} sqrt(L + 1 + ln d) sqrt(max_j sum_i x_ij^2) / n

    Args:
        measured: from ``measure``.
        sample: needs ``n``, ``dimension`` and ``inf_radius``, or ``column_norm``.
        gamma: the margin of the dominant form; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.

    Returns:
        ``BoundResult``. ``per_layer``: ``rho_l |A_l|_{1,inf}``, to the power of its uses.

    Raises:
        ValueError: unknown ``kind``, ``gamma <= 0``, or a sample without these norms.

    Differentiable in the weights where the largest row is unique and no weight is 0. Cost:
    O(layers).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"kernel": jnp.array([[1.0, 3.0], [1.0, -4.0]])}  # (in, out)
        >>> measured = measure(describe(params), params)
        >>> sample = Sample.of_size(400, inf_radius=1.0, dimension=2)
        >>> round(float(one_inf(measured, sample, gamma=0.5).value), 4)  # 7 sqrt(1 + ln 2) / 10
        0.9108
    """
    one_of(kind, "kind", Kind)
    facts = Facts(measured, sample, gamma)
    logs = log(measured.per_layer(measured.one_inf, jnp.max))  # a kernel's and its convolution's
    explicit = kind == "explicit"
    data = facts.known("column_norm" if explicit else "inf_radius")
    inside = facts.number(facts.depth + explicit) + jnp.log(facts.known("dimension"))
    constant = jnp.log(inside) / 2
    if explicit:
        constant = constant + jnp.log(facts.number(2))
    return _product(facts, logs, data, constant, kind, "one_inf", _GOLOWICH.format(2))


def _product(
    facts: Facts, logs: Array, data: Array, constant: Array, kind: Kind, name: str, source: str
) -> BoundResult:
    """Norms times ``constant data / (gamma sqrt n)``; explicit: times ``constant data / n``."""
    if kind == "explicit":
        scale = log(data) - jnp.log(facts.n) + constant
    else:
        scale = log(data) - jnp.log(facts.gamma) - jnp.log(facts.n) / 2 + constant
    powers = (logs + facts.log_lipschitz) * facts.times
    return facts.result(
        scale + jnp.sum(powers), exp(powers), name=name, kind=kind, source=source,
        parts="value = scale * product of parts", terms={"scale": exp(scale)},
    )  # fmt: skip
