"""The gradient flow of a Schatten power: what many small steps of decay do, at once.

Along ``dA/dt = -grad weight |A|_{S_p}^p`` the singular vectors stay and each singular value falls
by itself, ``ds/dt = -weight s q(s)`` with ``q(s) = p (s^2 + e^2)^(p/2-1)``. The scalar equations
take no time to integrate, whatever the number of steps, so one decomposition serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import known_scalar, non_negative, one_of
from rankjax._explicit_axes import automatic
from rankjax._linear_algebra import eigh, matmul, transpose
from rankjax.matrix._canonical import canonicalize
from rankjax.matrix._scalar_power import EpsMode
from rankjax.matrix._scaling import divisor, gram_floor, gram_matrix, safe_unit, tall
from rankjax.matrix.engines._ladder import (
    CUSHION,
    LEAST_EPS,
    combined,
    odd_weights,
    points_like,
    product,
)
from rankjax.matrix.engines._top_eigenvalue import top_eigenvalue

#: Of the products, at a time: the largest power of e by which a singular value may shrink.
STRONGEST = 4
#: exp(-ALL) is nothing: nothing falls faster than by that factor in one step.
ALL = 100.0
#: The scalar equations are integrated in so many parts, where there are more steps.
PARTS = 32


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

    Cost: on CPU one ``eigh`` of the smaller Gram matrix and three products. On accelerators, in
    float32 and with a relative eps of at least 8e-3 that is known when the function is traced, some
    25 products and no decomposition; a flow that shrinks small singular values by more than
    ``exp(-4)`` is taken in several portions at that price. It is within 5e-3 of the other (of its
    change, in the Frobenius norm, from p = 1/2 on; 1e-2 at p = 0.3). Not differentiable: it is a
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
    known_eps = known_scalar(eps) if eps_mode == "relative" else None
    batch = matrix.shape[:-2]
    numbers = [jnp.broadcast_to(jnp.asarray(x, matrix.dtype), batch) for x in (p, weight, eps)]
    exact = partial(by_decomposition, eps_mode=eps_mode, steps=steps)
    if matrix.dtype == jnp.float32 and known_eps is not None and known_eps >= LEAST_EPS:
        fast = partial(by_products, steps=steps)
        moved = jax.lax.platform_dependent(small, *numbers, cpu=exact, default=fast)
    else:
        moved = exact(small, *numbers)
    moved = transpose(moved) if turned else moved
    return jnp.moveaxis(moved, (-2, -1), tuple(axes)).astype(dtype)


def by_decomposition(
    a: Array, p: Array, weight: Array, eps: Array, *, eps_mode: EpsMode, steps: int
) -> Array:
    """The flow of tall ``(..., m, n)`` by the eigenvectors of the Gram matrix."""
    _, unit, g = gram_matrix(a)
    eigenvalues, v = eigh(g)
    start = jnp.sqrt(jnp.maximum(eigenvalues, 0))
    p, weight, eps, unit = (x[..., None] for x in (p, weight, eps, unit))
    # The rates, in units of the largest entry.
    rate = p * (weight / steps) * unit ** (p - 2)
    floor = gram_floor(a.dtype)

    def fall(_: Array, exponent: Array) -> Array:
        s = start * jnp.exp(exponent)
        top = jnp.max(s, axis=-1, keepdims=True)
        e = jnp.maximum(eps * top if eps_mode == "relative" else eps / unit, floor * top)
        t = s * s + e * e
        return exponent - rate * jnp.where(t > 0, t, 1) ** (p / 2 - 1)

    exponent = jax.lax.fori_loop(0, steps, fall, jnp.zeros_like(start))
    # What is added, rather than what is left: exact to the last digit where little happens.
    change = matmul(v * jnp.expm1(exponent)[..., None, :], transpose(v))
    return a + matmul(a, change)


def by_products(a: Array, p: Array, weight: Array, eps: Array, *, steps: int) -> Array:
    """The same without a decomposition, for a relative eps from ``LEAST_EPS`` on.

    What is taken from each singular value is a function of it that is fitted (``engines._ladder``),
    mostly to 1e-3 of the largest change where no singular value shrinks by more than a factor of
    ``exp(-STRONGEST)``; a stronger flow is taken in several equal portions.
    """
    unit = safe_unit(a)
    p, weight, eps = (x[..., None] for x in (p, weight, eps))
    rate = p * (weight / steps) * unit[..., None] ** (p - 2)
    s = points_like(rate)

    def portion(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, taken, left = state
        r = product(transpose(a), a)
        # Measured each time: what the last fit left of another may be larger by now.
        top = divisor(jnp.sqrt(top_eigenvalue(r, unrolled=True)))[..., None]
        # What shrinks most is near 0, for p > 2 at the top.
        most = jnp.where(p < 2, eps * eps, 1 + eps * eps) * top * top
        strength = left * jnp.max(rate * most ** (p / 2 - 1))
        portions = jnp.clip(jnp.nan_to_num(jnp.ceil(strength / STRONGEST)), 1, left)
        now = jnp.ceil(left / portions)
        exponents = _exponents(s * top, top, p, rate, eps, now, min(PARTS, steps))
        length = (CUSHION * top)[..., None]
        falls = odd_weights(-s * jnp.expm1(exponents))
        step, _ = combined(a / length, r / (length * length), falls)
        step = top[..., None] * step
        return a - step, taken + step, left - now

    scaled = a / unit[..., None, None]
    state = (scaled, jnp.zeros_like(a), jnp.asarray(float(steps), a.dtype))
    _, taken, _ = jax.lax.while_loop(lambda state: state[-1] > 0, portion, state)
    return a - taken * unit[..., None, None]


def _exponents(
    s: Array, top: Array, p: Array, rate: Array, eps: Array, steps: Array, parts: int
) -> Array:
    """The logarithm of what is left of each ``s`` after a number of steps, seen at run time.

    One after the other, up to ``parts`` of them. More are taken in so many equal parts, each to
    second order in its length: the flow, and what steps of length 1 miss of it.
    """
    length = jnp.maximum(steps / parts, 1)

    def part(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        exponent, of_top = state
        x, largest = s * jnp.exp(exponent), top * jnp.exp(of_top)
        e = eps * largest
        t, t_top = x * x + e * e, largest * largest + e * e
        t, t_top = (jnp.where(x > 0, x, 1) for x in (t, t_top))
        v, v_top = (-jnp.minimum(rate * x ** (p / 2 - 1), ALL) for x in (t, t_top))
        # How the speeds change while x, e and the top shrink with the speeds v and v_top.
        turn = (p - 2) * v * (x * x * v + e * e * v_top) / t
        turn_top = (p - 2) * v_top * v_top
        here = jnp.where(i < steps, length, 0)
        bend = here * (length - 1) / 2
        return exponent + here * v + bend * turn, of_top + here * v_top + bend * turn_top

    return jax.lax.fori_loop(0, parts, part, (jnp.zeros_like(s), jnp.zeros_like(top)))[0]
