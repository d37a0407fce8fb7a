"""Path norms: the sum over all paths from inputs to an output of products of weights."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike

from rankjax._arguments import one_of
from rankjax.bounds._facts import Facts, exp, log
from rankjax.bounds._result import BoundResult, Inapplicable, Kind
from rankjax.network import Measured, Sample

_SOURCES = {
    1: "Golowich, Rakhlin, Shamir, COLT 2018, Theorem 2, "
    "with Neyshabur, Tomioka, Srebro, COLT 2015, Theorem 5",
    2: "Neyshabur, Tomioka, Srebro, COLT 2015, Theorems 1 and 5",
}


def path_norm(
    measured: Measured,
    sample: Sample,
    /,
    *,
    order: Literal[1, 2] = 1,
    gamma: ArrayLike | None = None,
    kind: Kind = "dominant",
) -> BoundResult:
    r"""L1 or L2 path norm, the largest over the outputs.

    The path norm of a ReLU network is the smallest product of ``|A_l|_{1,inf}`` (order 1) or
    ``max_units |row|_2`` (order 2) over all rescalings of its units, so a theorem about those
    products is one about path norms. ``dominant``: a term without constants and logarithms, not a
    guarantee; ``explicit``: the Rademacher complexity of one output (see ``frobenius``; constants
    re-derived)::

        order 1, dominant   B_inf path_1 sqrt(L + ln d) / (gamma sqrt(n))
        order 1, explicit   2 path_1 sqrt(L + 1 + ln d) sqrt(max_j sum_i x_ij^2) / n
        order 2, dominant   B path_2 2^{L-1} h^{(L-1)/2} / (gamma sqrt(n))
        order 2, explicit   sqrt(min(2, 4 ln(2 d))) times that, without gamma

    Args:
        measured: from ``measure(..., apply=..., example=...)``; without them for a plain chain of
            dense layers that ``describe`` traced. Biases are not part of the paths.
        sample: needs ``n``, and ``dimension`` with ``inf_radius`` or ``column_norm`` (order 1).
        order: 1 or 2.
        gamma: the margin of the dominant form; ``None``: ``sample.margin_at(0.01)``.
        kind: ``"dominant"`` or ``"explicit"``.

    Returns:
        ``BoundResult``; NaN where the network is not positively homogeneous (tanh, normalization).
        ``per_layer``: paths run through all layers, so each gets the L-th root of the path norm, to
        the power of its uses. ``terms["path_norm"]`` is the norm itself.

    Raises:
        ValueError: unknown ``order`` or ``kind``, ``gamma <= 0``, measurements without path norms
            or a sample without these norms.

    Differentiable in the weights where no weight is 0. Cost: O(1); ``measure`` makes two forward
    passes of one example.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import Sample, describe, measure
        >>> params = {"a": {"kernel": jnp.ones((2, 3))}, "b": {"kernel": -jnp.ones((3, 1))}}
        >>> apply = lambda p, x: x @ p["a"]["kernel"] @ p["b"]["kernel"]
        >>> structure = describe(params, apply=apply, example=jnp.ones((1, 2)))
        >>> measured = measure(structure, params)
        >>> sample = Sample.of_size(400, inf_radius=1.0, dimension=2)
        >>> round(float(path_norm(measured, sample, gamma=1.0).terms["path_norm"]), 4)
        6.0
    """
    one_of(kind, "kind", Kind)
    if order not in _SOURCES:
        raise ValueError(f"order: got {order!r}, must be 1 or 2")
    facts = Facts(measured, sample, gamma)
    if measured.path_norms is None:
        raise Inapplicable("measured: path norms need measure(..., apply=..., example=...)")
    norm = facts.number(measured.path_norms[order - 1])
    depth = facts.number(facts.depth)
    explicit = kind == "explicit"
    if order == 1:
        inside = depth + (1 if explicit else 0) + jnp.log(facts.known("dimension"))
        size = facts.known("column_norm" if explicit else "inf_radius")
        scale = jnp.log(inside) / 2 + log(size)
        scale = scale + jnp.log(2 / facts.n) if explicit else scale - jnp.log(facts.n) / 2
    else:
        h = facts.number(facts.width)
        scale = log(facts.known("radius")) - jnp.log(facts.n) / 2
        scale = scale + (depth - 1) * (jnp.log(facts.number(2)) + jnp.log(h) / 2)
        if explicit:
            d = facts.known("dimension")
            scale = scale + jnp.log(jnp.minimum(2, 4 * jnp.log(2 * d))) / 2
    if not explicit:
        scale = scale - jnp.log(facts.gamma)
    logs = log(norm)
    return facts.result(
        scale + logs, exp(logs * facts.times / depth), name=f"path_norm_{order}", kind=kind,
        source=_SOURCES[order], parts="value = scale * product of parts (equal shares)",
        terms={"path_norm": norm, "scale": exp(scale)},
    )  # fmt: skip
