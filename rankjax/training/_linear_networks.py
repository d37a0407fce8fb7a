"""Weight decay on a deep linear network is Schatten-2/L regularization of its product."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from rankjax._linear_algebra import matmul, svd, transpose


def balanced_factors(
    a: Float[Array, "... m n"], /, depth: int, *, width: int | None = None
) -> tuple[Float[Array, "..."], ...]:
    """Factors ``W_1, ..., W_L`` with ``W_L ... W_1 = a`` and the least weight decay.

    With ``a = U diag(sigma) V^T``::

        W_1 = diag(sigma^{1/L}) V^T,   W_l = diag(sigma^{1/L}),   W_L = U diag(sigma^{1/L})

    They are balanced, ``W_{l+1}^T W_{l+1} = W_l W_l^T``, and reach
    ``(1/L) sum_l |W_l|_F^2 = |a|_{S_{2/L}}^{2/L}``.

    Args:
        a: ``(..., m, n)``.
        depth: L, the number of factors, at least 1.
        width: of the hidden layers, at least ``min(m, n)`` (its default): more is padded with
            zeros.

    Returns:
        The factors in the order of application: ``(..., width, n)``, ``(..., width, width)``, ...,
        ``(..., m, width)``.

    Raises:
        ValueError: ``depth < 1`` or a width below ``min(m, n)``.

    Differentiable where the singular values are distinct and positive. Cost: one SVD.

    Example:
        >>> import jax.numpy as jnp
        >>> first, second = balanced_factors(jnp.diag(jnp.array([4.0, 9.0])), 2)
        >>> round(float((second @ first)[1, 1]), 4)
        9.0
    """
    if depth < 1:
        raise ValueError(f"depth: got {depth}, must be at least 1")
    smallest = min(a.shape[-2:])
    width = smallest if width is None else width
    if width < smallest:
        raise ValueError(f"width: got {width}, must be at least min(m, n) = {smallest}")
    if depth == 1:
        return (a,)
    u, s, vt = svd(a)
    root = s ** (1 / depth)
    pad = [(0, 0)] * (a.ndim - 2)
    extra = width - smallest
    first = jnp.pad(root[..., :, None] * vt, [*pad, (0, extra), (0, 0)])
    last = jnp.pad(u * root[..., None, :], [*pad, (0, 0), (0, extra)])
    root = jnp.pad(root, [*pad, (0, extra)])
    middle = jnp.where(jnp.eye(width, dtype=bool), root[..., :, None], 0)
    return (first, *[middle] * (depth - 2), last)


def schatten_from_weight_decay(factors: Sequence[Float[Array, "..."]], /) -> Float[Array, "..."]:
    """``(1/L) sum_l |W_l|_F^2``: at least ``|W_L ... W_1|_{S_{2/L}}^{2/L}``, equal when balanced.

    The weight decay of the factors of a linear network. Its minimum over all factors of a product,
    with hidden widths of at least the rank, is the Schatten power of the product (for L = 2 the
    nuclear norm).

    Args:
        factors: the L weight matrices ``(..., out, in)``, in any order.

    Returns:
        ``(...)``.

    Raises:
        ValueError: without factors.

    Differentiable any number of times. Cost: O(entries).
    Source: Srebro, Rennie, Jaakkola, NIPS 2004 (L = 2); Dai, Karzand, Srebro, NeurIPS 2021 (any L).

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.matrix import schatten_power
        >>> a = jnp.array([[3.0, 1.0], [0.0, 2.0]])
        >>> decay = schatten_from_weight_decay(balanced_factors(a, 3))
        >>> round(float(decay / schatten_power(a, p=2 / 3)), 4)
        1.0
    """
    if not factors:
        raise ValueError("factors: got none, must hold at least one matrix")
    squares = [jnp.sum(jnp.square(w), (-2, -1)) for w in factors]
    return sum(squares[1:], squares[0]) / len(factors)


def imbalance(factors: Sequence[Float[Array, "..."]], /) -> Float[Array, "..."]:
    """``max_l |W_{l+1}^T W_{l+1} - W_l W_l^T|_F``: 0 at every stationary point of a decayed loss.

    Args:
        factors: in the order of application.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(imbalance([jnp.eye(2), 2 * jnp.eye(2)])), 4)
        4.2426
    """
    gaps = [
        jnp.sqrt(jnp.sum(jnp.square(matmul(transpose(b), b) - matmul(a, transpose(a))), (-2, -1)))
        for a, b in itertools.pairwise(factors)
    ]
    return jnp.max(jnp.stack(gaps), axis=0)
