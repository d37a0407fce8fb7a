"""Schatten, nuclear, spectral and Frobenius norms of a matrix or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import concrete, known_scalar, one_of, positive
from rankjax._explicit_axes import automatic
from rankjax.matrix import spectrum
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._scaling import divisor, safe_unit
from rankjax.matrix._schatten_power import checked, power_of, schatten_power
from rankjax.matrix._singular_values import singular_values_of
from rankjax.matrix.engines import Method
from rankjax.matrix.large import spectral_norm_bounds

SpectralNormMethod = Literal["auto", "svd", "lanczos"]
_SMALL_EXPONENT = 4


def _norm_unit(matrix: Array, p: np.ndarray | None) -> Array:
    """A constant to divide by (the norm is homogeneous: it takes no part in derivatives).

    The largest entry is within ``sqrt(m n)`` of ``sigma_1``, near enough for small exponents; a
    large or unknown one needs ``sigma_1`` itself.
    """
    constant = jax.lax.stop_gradient(matrix)
    if p is not None and np.all(p <= _SMALL_EXPONENT):
        return safe_unit(constant)
    top = spectrum.largest(singular_values_of(constant))
    return divisor(top)


@automatic
def schatten_norm(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    p: ArrayLike,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    axes: Sequence[int] = (-2, -1),
    method: Method = "auto",
) -> Float[Array, "..."]:
    """``|A|_{S_p} = (sum_i sigma_i^p)^(1/p)``; a quasi-norm for ``p < 1``.

    The root of ``schatten_power`` (see there for ``eps``), computed in units of ``sigma_1``: it
    overflows only where the norm itself does. ``p = inf`` must be concrete. The derivative at a
    matrix whose norm is 0 is 0 by convention.

    Args:
        p: exponent > 0, may be traced; ``inf`` (concrete) for the spectral norm, which ignores eps.
        eps: smoothing >= 0.

    Raises:
        ValueError: as ``schatten_power``, and a concrete ``p <= 0``.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> round(float(schatten_norm(a, p=0.5)), 3)
        9.0
        >>> round(float(schatten_norm(a, p=float("inf"))), 3)
        4.0
    """
    positive(p, "p")
    known = concrete(p)
    if known is not None and known.ndim == 0 and known == float("inf"):
        checked(a, axes, eps, eps_mode, method)
        return spectral_norm(a, axes=axes)
    matrix, dtype = checked(a, axes, eps, eps_mode, method)
    if 0 in matrix.shape:
        return jnp.zeros(matrix.shape[:-2], dtype)
    safe = _norm_unit(matrix, known)
    if eps_mode == "absolute" and known_scalar(eps) != 0:
        eps = jnp.asarray(eps, matrix.dtype) / safe
    power = power_of(matrix / safe[..., None, None], p, eps, eps_mode, method)
    zero = power == 0
    root = jnp.where(zero, 1, power) ** (1 / jnp.asarray(p, matrix.dtype))
    return (safe * jnp.where(zero, 0, root)).astype(dtype)


@automatic
def spectral_norm(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    axes: Sequence[int] = (-2, -1),
    method: SpectralNormMethod = "auto",
) -> Float[Array, "..."]:
    """``|A| = sigma_1``, the largest gain ``|Ax| / |x|``.

    The gradient is ``u_1 v_1^T`` (one subgradient where ``sigma_1`` is repeated; 0 at 0).

    Args:
        method: ``"auto"`` or ``"svd"`` (the same), or ``"lanczos"``: a lower bound from 32 steps of
            ``spectral_norm_bounds``, which also says how good it is.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(spectral_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        4.0
    """
    one_of(method, "method", SpectralNormMethod)
    if method == "lanczos":
        return spectral_norm_bounds(a, axes=axes).value
    matrix, dtype = canonicalize(a, axes)
    top = spectrum.largest(singular_values_of(matrix))
    return jnp.where(top == 0, 0, top).astype(dtype)


def nuclear_norm(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    axes: Sequence[int] = (-2, -1),
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    method: Method = "auto",
) -> Float[Array, "..."]:
    """``|A|_* = sum_i sigma_i``: ``schatten_power`` at ``p = 1``, which is its own root.

    Args:
        eps: smoothing >= 0.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(nuclear_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        7.0
    """
    return schatten_power(a, p=1.0, eps=eps, eps_mode=eps_mode, axes=axes, method=method)


@automatic
def frobenius_norm(
    a: Float[ArrayLike, "... m n"], /, *, axes: Sequence[int] = (-2, -1)
) -> Float[Array, "..."]:
    """``|A|_F = sqrt(sum_ij a_ij^2)``, without a decomposition.

    Computed in units of the largest entry (1e20 and 1e-20 are safe in float32); the derivative at
    the zero matrix is 0 by convention.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(frobenius_norm(jnp.array([[0.0, 3.0], [4.0, 0.0]]))), 3)
        5.0
    """
    matrix, dtype = canonicalize(a, axes)
    if 0 in matrix.shape:
        return jnp.zeros(matrix.shape[:-2], dtype)
    unit = safe_unit(jax.lax.stop_gradient(matrix))
    square = jnp.sum((matrix / unit[..., None, None]) ** 2, axis=(-2, -1))
    zero = square == 0
    return (unit * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))).astype(dtype)
