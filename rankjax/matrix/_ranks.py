"""Four notions of rank, from one decomposition each.

    effective, stable, soft <= numerical rank <= min(m, n)

They agree (with the rank) on a matrix whose non-zero singular values are equal. All are invariant
under scaling, 0 for the zero and the empty matrix, NaN for a matrix that is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import non_negative
from rankjax.matrix import spectrum
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._singular_values import singular_values

_AXES = (-2, -1)


def _values(a: ArrayLike, axes: Sequence[int]) -> tuple[Array, jnp.dtype, float]:
    matrix, dtype = canonicalize(a, axes)
    rtol = spectrum.default_rtol(max(matrix.shape[-2:]), matrix.dtype)
    return singular_values(matrix), dtype, rtol


def numerical_rank(
    a: Float[ArrayLike, "... m n"], /, *, rtol: float | None = None, axes: Sequence[int] = _AXES
) -> Float[Array, "..."]:
    """Number of singular values above ``rtol * sigma_1``; piecewise constant, derivative 0.

    Args:
        rtol: >= 0; default ``max(m, n) * machine eps``.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(numerical_rank(jnp.ones((3, 4)))), 3)
        1.0
    """
    sigma, dtype, default = _values(a, axes)
    if rtol is None:
        rtol = default
    else:
        non_negative(rtol, "rtol")
    return spectrum.numerical_rank(sigma, rtol=rtol).astype(dtype)


def stable_rank(
    a: Float[ArrayLike, "... m n"], /, *, axes: Sequence[int] = _AXES
) -> Float[Array, "..."]:
    """``|A|_F^2 / |A|^2`` (squared), in ``[1, rank A]``.

    Differentiable where ``sigma_1`` is simple.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(stable_rank(jnp.diag(jnp.array([2.0, 1.0, 1.0])))), 3)
        1.5
    """
    sigma, dtype, _ = _values(a, axes)
    return spectrum.stable_rank(sigma).astype(dtype)


def soft_rank(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    axes: Sequence[int] = _AXES,
) -> Float[Array, "..."]:
    """``(|A|_{S_p} / |A|)^p``, in ``[1, rank A]`` for ``eps = 0``.

    Tends to the rank for ``p -> 0``, to the multiplicity of ``sigma_1`` for ``p -> inf``.

    Args:
        p: exponent >= 0, may be traced; ``inf`` counts the values equal to ``sigma_1``.
        eps: smoothing >= 0 as in ``schatten_power``.

    Differentiable where ``sigma_1`` is simple.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(soft_rank(jnp.diag(jnp.array([4.0, 1.0, 0.0])), p=0.5)), 3)
        1.5
    """
    sigma, dtype, rtol = _values(a, axes)
    return spectrum.soft_rank(sigma, p=p, eps=eps, eps_mode=eps_mode, rtol=rtol).astype(dtype)


def effective_rank(
    a: Float[ArrayLike, "... m n"], /, *, axes: Sequence[int] = _AXES
) -> Float[Array, "..."]:
    """``exp`` of the entropy of ``sigma / sum(sigma)`` (Roy and Vetterli, EUSIPCO 2007).

    The slope at a zero singular value is infinite; here such a value contributes no derivative.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(effective_rank(jnp.eye(3))), 3)
        3.0
    """
    sigma, dtype, _ = _values(a, axes)
    return spectrum.effective_rank(sigma).astype(dtype)
