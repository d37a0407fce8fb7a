"""The gradient flow of a Schatten power: what many small steps of decay do, at once.

Along ``dA/dt = -grad weight |A|_{S_p}^p`` the singular vectors stay and each singular value falls
by itself, ``ds/dt = -weight s q(s)`` with ``q(s) = p (s^2 + e^2)^(p/2-1)``. The scalar equations
take no time to integrate, whatever the number of steps, so one decomposition serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import non_negative, one_of
from rankjax._explicit_axes import automatic
from rankjax._linear_algebra import eigh, matmul, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._scaling import gram_floor, gram_matrix, tall


@automatic
def schatten_flow(
    a: Float[ArrayLike, "... m n"],
    /,
    *,
    p: ArrayLike,
    weight: ArrayLike,
    eps: ArrayLike,
    eps_mode: EpsMode = "relative",
    steps: int = 32,
    axes: Sequence[int] = (-2, -1),
) -> Float[Array, "... m n"]:
    """``A`` after a unit of time of the gradient flow of ``weight |A|_{S_p}^p`` (smoothed).

    Divided into ``steps`` parts, each of which takes the decay
    ``s <- s exp(-(weight / steps) q(s))``. This shrinks every singular value and lets none cross 0,
    whatever the weight; as many steps of gradient descent could jump to and fro.

    Args:
        p: exponent >= 0, a scalar or of the batch shape, may be traced.
        weight: >= 0, like p.
        eps: smoothing, like p; raised to the floor of the Gram engine, ``sqrt(machine eps)``.
        eps_mode: ``"relative"`` (to the current largest singular value) or ``"absolute"``.
        steps: into how many parts the unit of time is divided; static.

    Raises:
        ValueError: ``steps`` below 1 or not whole.

    Cost: one ``eigh`` of the smaller Gram matrix and three products. Not differentiable: it is a
    step of an optimizer. A matrix that is not finite becomes NaN.

    Shared arguments: see ``rankjax.matrix``.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.diag(jnp.array([4.0, 1.0]))
        >>> x = schatten_flow(a, p=2.0, weight=0.5, eps=0.0)  # ds/dt = -s
        >>> [round(float(d), 3) for d in jnp.diag(x)]
        [1.472, 0.368]
    """
    non_negative(p, "p")
    non_negative(weight, "weight")
    non_negative(eps, "eps")
    one_of(eps_mode, "eps_mode", EpsMode)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
    matrix, dtype = canonicalize(a, axes)
    if 0 in matrix.shape:
        return jnp.asarray(a)
    small, turned = tall(matrix)
    _, unit, g = gram_matrix(small)
    eigenvalues, v = eigh(g)
    start = jnp.sqrt(jnp.maximum(eigenvalues, 0))
    batch = matrix.shape[:-2]
    p, weight, eps = (
        jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch)[..., None] for x in (p, weight, eps)
    )
    unit = unit[..., None]
    # The rates, in units of the largest entry.
    rate = p * (weight / steps) * unit ** (p - 2)
    floor = gram_floor(matrix.dtype)

    def fall(_: Array, exponent: Array) -> Array:
        s = start * jnp.exp(exponent)
        top = jnp.max(s, axis=-1, keepdims=True)
        e = jnp.maximum(eps * top if eps_mode == "relative" else eps / unit, floor * top)
        t = s * s + e * e
        return exponent - rate * jnp.where(t > 0, t, 1) ** (p / 2 - 1)

    exponent = jax.lax.fori_loop(0, steps, fall, jnp.zeros_like(start))
    # What is added, rather than what is left: exact to the last digit where little happens.
    change = matmul(v * jnp.expm1(exponent)[..., None, :], transpose(v))
    moved = small + matmul(small, change)
    moved = transpose(moved) if turned else moved
    return jnp.moveaxis(moved, (-2, -1), tuple(axes)).astype(dtype)
