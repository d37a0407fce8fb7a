"""The grid of steps, rounding with straight-through gradients, and the code length as a loss."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import float_array, positive

STEPS_PER_OCTAVE = 8
# 2^(j/8) for j = 0..7; a step is one of these times a power of two, the same on every machine.
_ROOTS = (
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)
_RATE_LEVELS = 8


def grid_step(exponent: int, /) -> float:
    """The step ``2^{exponent/8}`` in float64, without ``pow``, in which machines may differ.

    Example:
        >>> grid_step(0), grid_step(-8), round(grid_step(4), 4)
        (1.0, 0.5, 1.4142)
    """
    octave, part = divmod(int(exponent), STEPS_PER_OCTAVE)
    return math.ldexp(_ROOTS[part], octave)


def grid_exponent(step: float, /) -> int:
    """The exponent of the grid step nearest to ``step``, in octaves.

    Example:
        >>> grid_exponent(0.5), grid_exponent(1.45)
        (-8, 4)
    """
    positive(step, "step")
    return round(STEPS_PER_OCTAVE * math.log2(step))


def round_through(values: ArrayLike, /) -> Array:
    """Values rounded to integers, with the derivative of the identity (Bengio et al. 2013).

    Halves are rounded to the even neighbor. Every mode of differentiation; first order only: the
    second derivative is 0.

    Example:
        >>> import jax
        >>> float(round_through(0.7)), float(jax.grad(round_through)(0.7))
        (1.0, 1.0)
    """
    values = float_array(values, name="values")
    return values + jax.lax.stop_gradient(jnp.round(values) - values)


def rate(values: ArrayLike, /) -> Array:
    r"""Nats that ``write_symbols`` would take for these numbers if they were integers: a loss term.

    Between integers every entry counts as both its neighbors, in proportion to its nearness: the
    number of magnitudes ``>= m`` becomes ``sum clip(|v| - m + 1, 0, 1)``, and the adaptive code's
    length is taken at these counts,

        sum_questions ln B(1/2, 1/2) - ln B(no + 1/2, yes + 1/2).

    At integers up to 8 in magnitude it *is* the length (with one coin for all zeros), the cost of
    learning the frequencies included. A lone non-zero entry is pulled to zero harder than one among
    many.

    Args:
        values: floating point numbers in units of the quantizer's step.

    Returns:
        A scalar of the same dtype. Differentiable almost everywhere; at integers and beyond
        magnitude 9 the derivative is the one from the side that ``jnp.clip`` takes.

    Cost: one pass over the entries for each of 9 levels.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(rate(jnp.asarray([0.0, 0.0, 1.0, -2.0]))), 2)
        8.61
    """
    values = float_array(values, name="values")
    magnitudes = jnp.abs(values)
    levels = jnp.arange(_RATE_LEVELS + 1, dtype=values.dtype).reshape(-1, *[1] * values.ndim)
    above = jnp.sum(
        jnp.clip(magnitudes[None] - levels, 0, 1), axis=tuple(range(1, values.ndim + 1))
    )
    at_least = jnp.append(jnp.asarray(values.size, values.dtype), above[:-1])
    negative = jnp.sum(jnp.where(values < 0, jnp.clip(magnitudes, 0, 1), 0))
    # All coins in one call: the gamma function takes long to compile.
    no = jnp.append(at_least - above, above[0] - negative)
    return jnp.sum(_coin(no, jnp.append(above, negative)))


def _coin(no: Array, yes: Array) -> Array:
    half = jnp.asarray(0.5, no.dtype)
    lgamma = jax.scipy.special.gammaln
    # The difference of two counts may be a rounding below zero.
    no, yes = jnp.maximum(no, 0), jnp.maximum(yes, 0)
    return lgamma(no + yes + 1) + math.log(math.pi) - lgamma(no + half) - lgamma(yes + half)
