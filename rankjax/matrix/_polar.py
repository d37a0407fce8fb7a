"""The polar factor: the nearest matrix with orthonormal columns (or rows)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._explicit_axes import automatic
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._schatten_power import checked, power_of
from rankjax.matrix.engines import Method


@automatic
def polar(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    eps: ArrayLike = 0.0,
    eps_mode: EpsMode = "relative",
    axes: Sequence[int] = (-2, -1),
    method: Method = "auto",
) -> Float[Array, "... m n"]:
    """``U V^T`` of ``A = U Sigma V^T``: every singular value becomes 1, or 0 where it was 0.

    The gradient of ``nuclear_norm``, with the same ``eps`` and the same engines:

    * ``eps = 0``: singular values up to ``max(m, n) * machine eps * sigma_1`` count as zero and
      stay so. What is left is ``U V^T`` over the others, which does not depend on the choice of
      ``U`` and ``V``: a partial isometry where the rank is deficient, 0 at 0.
    * ``eps > 0``: ``sigma`` becomes ``sigma / sqrt(sigma^2 + e^2)``, ``e = eps * sigma_1`` or
      ``e = eps``. Then it needs no SVD, and is smooth: what is far below ``e`` stays small, instead
      of jumping between 0 and 1.

    Args:
        eps: smoothing >= 0, a scalar or of the batch shape, may be traced. 1e-2 is a good relative
            value for directions of an optimizer.

    Raises:
        ValueError: as ``schatten_power``.
        NotImplementedError: a second derivative.

    Once differentiable (forward and reverse) in ``a`` and ``eps``, with a relative ``e`` held
    constant: exact for ``eps > 0``, and for ``eps = 0`` at full rank; there, at a deficient rank,
    directions that would raise the rank have derivative 0 by convention.

    Cost: with ``eps = 0`` one SVD; else see ``rankjax.matrix.engines``.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> x = polar(jnp.array([[0.0, -2.0], [3.0, 0.0]]))
        >>> [[round(float(v), 3) + 0.0 for v in row] for row in x]
        [[0.0, -1.0], [1.0, 0.0]]
    """
    matrix, dtype = checked(a, axes, eps, eps_mode, method)

    def total(matrix: Array) -> Array:
        return jnp.sum(power_of(matrix, 1.0, eps, eps_mode, method))

    factor = jax.grad(total)(matrix)
    return jnp.moveaxis(factor, (-2, -1), tuple(axes)).astype(dtype)
