"""Penalties of the product of two factors that are trained in place of a matrix (LoRA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import at_least_float32
from rankjax.matrix import product_schatten_power
from rankjax.network import Layer, Reason, Structure
from rankjax.network.internal import Named, check_structure, factors_of
from rankjax.network.internal import pairs as pairs_of
from rankjax.training._penalties import DEFAULT_EPS, EpsMode, Method, Weights, total
from rankjax.training._schedule import matched


def lora_pairs(structure: Structure, /) -> tuple[tuple[str, str], ...]:
    """The paths of the factors of each update, such as ``(.../lora_b, .../lora_a)``.

    Args:
        structure: from ``describe``; factors are known by the names of NNX (``lora_b``), Qwix
            (``kernel_lora_b``), Keras (``lora_kernel_b``), PEFT (``lora_B.weight``) and kohya
            (``lora_up.weight``).

    Returns:
        ``(left, right)``: the layer's matrix is ``left @ right``, both seen as ``(out, in)``.

    Raises:
        ValueError: if there is none, or a factor lacks the other.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> lora_pairs(describe({"lora_a": jnp.ones((5, 2)), "lora_b": jnp.ones((2, 4))}))
        (('lora_b', 'lora_a'),)
    """
    check_structure(structure)
    factors = _factors(structure)
    parts = {x.path: x for x in structure.left_out if x.why is Reason.OTHER_USE}
    found, single = pairs_of(Named(x.path, x.shape) for x in (*factors.values(), *parts.values()))
    if single or not found:
        raise ValueError(
            "structure: must hold pairs of factors with the names of LoRA, such as 'lora_b' and "
            f"'lora_a'; it has {list(factors)}, without a partner: "
            f"{list(single)}. Name pairs of other names by pairs="
        )
    return tuple((pair.left, pair.right) for pair in found if pair.left in factors)


def _factors(structure: Structure) -> dict[str, Layer]:
    """The layers, those that are products as their two factors, by path."""
    products = factors_of(structure.layers)
    parts = (x for layer in structure.layers for x in products.get(layer.path, (layer,)))
    return {x.path: x for x in parts}


def lora_schatten_penalty(
    structure: Structure,
    params: Any,
    /,
    *,
    p: ArrayLike,
    weight: Weights = 1.0,
    eps: ArrayLike = DEFAULT_EPS,
    eps_mode: EpsMode = "relative",
    pairs: Sequence[tuple[str, str]] | None = None,
    method: Method = "auto",
) -> Float[Array, ""]:
    """``sum weight |B A|_{S_p}^p`` over pairs of factors, without forming a product.

    Lowers the rank of an update ``B A`` below the rank that its factors allow. Training then finds
    out how much rank each layer needs.

    Args:
        structure: from ``describe``, with both factors of every pair.
        p: Schatten exponent, > 0 (the smoothed power of ``p = 0`` is 0).
        weight: as for the other penalties, by paths of left factors.
        pairs: paths ``(left, right)`` of the factors, as matrices ``(out, r)`` and ``(r, in)``;
            ``None``: ``lora_pairs``. Stacked factors are multiplied member by member.

    Returns:
        A scalar, once differentiable in the factors, also where they are 0.

    Raises:
        ValueError: a tree, path or pair of shapes that does not fit.
        NotImplementedError: a second derivative.

    Cost: per pair ``O((out + in) r^2)`` and one decomposition of ``(r, r)``.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"lora_a": jnp.ones((9, 2)), "lora_b": jnp.ones((2, 4))}
        >>> structure = describe(params)
        >>> round(float(lora_schatten_penalty(structure, params, p=1.0, eps=0.0)), 3)
        12.0
    """
    check_structure(structure)
    chosen = lora_pairs(structure) if pairs is None else tuple(pairs)
    lefts = [left for left, _ in chosen]
    factors = _factors(structure)
    known = list(factors)
    unknown = sorted({path for pair in chosen for path in pair} - set(known))
    if unknown:
        raise ValueError(f"pairs names unknown paths {unknown}; the structure has {known}")
    named = weight
    if isinstance(weight, Mapping):
        named = matched(lefts, weight, "weight", "the left factors are")
    leaves = structure.check(params)
    # Equal shapes in one call, as for single matrices.
    buckets: dict[Any, list[tuple[Array, Array, Array]]] = {}
    for left, right in chosen:
        two = (factors[path] for path in (left, right))
        b, a = (at_least_float32(x.matrix(x.array(leaves))) for x in two)
        if b.shape[:2] != a.shape[:2] or b.shape[-1] != a.shape[-2]:
            raise ValueError(
                f"pairs: {left!r} is {b.shape} and {right!r} is {a.shape} as (stacked, parallel, "
                "out, in); they must be (..., out, r) and (..., r, in) with the same batch"
            )
        mine = named.get(left, 1.0) if isinstance(named, Mapping) else named
        factor = jnp.broadcast_to(jnp.asarray(mine, b.dtype), b.shape[:2]).reshape(-1)
        flat = (b.reshape(-1, *b.shape[-2:]), a.reshape(-1, *a.shape[-2:]), factor)
        buckets.setdefault((b.shape[-2:], a.shape[-2:], b.dtype, a.dtype), []).append(flat)
    sums = []
    for members in buckets.values():
        b, a, factor = (jnp.concatenate(parts) for parts in zip(*members, strict=True))
        powers = product_schatten_power(b, a, p=p, eps=eps, eps_mode=eps_mode, method=method)
        sums.append(jnp.sum(powers * factor))
    return total(tuple(sums))
