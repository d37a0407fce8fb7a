"""The recursion: how far each value of a network moves when its weights do.

A network is read into a list of ``Node``s (``_walk.py``). A node bounds ``|v - v~|_2``, the
distance between a value ``v`` of the network and the same value ``v~`` of its coded neighbor, from
the nodes it reads, from coded distances of weights, and from sizes measured on the coded neighbor.
Every formula here is a line of the theory page; ``_rules.py`` says which primitive uses which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

Op = Literal[
    "exact", "leaf", "scale", "measured", "sum", "join", "matrix", "bilinear", "product",
    "quotient", "local",
]  # fmt: skip


#: Added to each product: what underflows in it, or is flushed to 0 as it is subnormal, is smaller.
TINY = 1e-300

#: Covers the rounding of a chain of sums, products and roots of non-negative numbers. What is
#: subtracted from a size (``local``, ``quotient``) needs it at once: there errors are enlarged.
ROOM = 1 + 1e-12


@dataclass(frozen=True)
class Node:
    """One step of the recursion (static).

    Attributes:
        op: which formula, see ``evaluate``.
        args: numbers of the nodes it reads.
        factors: constants of the formula.
        slots: numbers of the measured sizes it reads.
        distance: number of the coded distance it reads, or -1.
        gain: number of the operator norm it reads, or -1.
        function: for ``local``, the name of the function.
    """

    op: Op
    args: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    slots: tuple[int, ...] = ()
    distance: int = -1
    gain: int = -1
    function: str = ""


def evaluate(
    node: Node,
    args: Sequence[Any],
    slots: Sequence[Any],
    distance: Any = 0.0,
    gain: Any = 0.0,
) -> Any:
    r"""The bound of one node; ``E`` are the bounds of its arguments, ``s`` the measured sizes.

    =============  =================================================================================
    ``exact``      0
    ``leaf``       ``f d``: weights of coded distance d, each repeated ``f^2`` times
    ``scale``      ``f E``
    ``measured``   ``f s E``: a linear map of norm s, which only the data decide
    ``sum``        ``sum_i f_i E_i``
    ``join``       ``sqrt(sum_i (f_i E_i)^2)``
    ``matrix``     ``(G + g d) E + d s``: ``A h - A~ h~ = A (h - h~) + (A - A~) h~``, G the norm of
                   the coded operator, g that of its gathering part, s that of what A~ is applied to
    ``bilinear``   ``f E_a (s_b + E_b) + s_a E_b``: the same for two values that both move
    ``product``    entrywise; each term with the better of ``|uv|_2 <= |u|_2 |v|_inf`` and its twin
    ``quotient``   ``(f_a E_a + f_b E_b s_q) / (s_b - E_b)``, infinite unless ``|b~| > E_b``
    ``local``      ``E`` times the largest slope between ``s_min - E`` and ``s_max + E``
    =============  =================================================================================

    An argument may be infinite or NaN: then so is the bound, and the example counts as an error.
    Every formula grows with the args, the slots (``s_b`` of a quotient, where it falls, and
    ``s_min``, where it may do either, excepted), the distance and the gain.
    """
    f, s = node.factors, slots
    match node.op:
        case "exact":
            return 0.0
        case "leaf":
            return times(f[0], distance)
        case "scale":
            return times(f[0], args[0])
        case "measured":
            return times(f[0], s[0], args[0])
        case "sum":
            return sum(times(a, b) for a, b in zip(f, args, strict=True))
        case "join":
            return length([times(a, b) for a, b in zip(f, args, strict=True)])
        case "matrix":
            return times(gain + times(f[0], distance), args[0]) + times(distance, s[0])
        case "bilinear":
            a, b = args
            return times(f[0], a, s[1] + b) + times(s[0], b)
        case "product":
            (a, b), (fa, fb), (a_inf, a_two, b_inf, b_two) = args, f, s
            first = times(jnp.minimum(times(fa, b_inf + b), times(fb, b_two + b)), a)
            return first + times(jnp.minimum(times(fb, a_inf), times(fa, a_two)), b)
        case "quotient":
            (a, b), (fa, fb), (quotient, smallest) = args, f, s
            room = smallest - b * ROOM
            moved = times(fa, a) + times(fb, b, quotient)
            bound = moved / jnp.where(room > 0, room, 1) + TINY
            return jnp.where(room > 0, bound, jnp.inf)
        case "local":
            moved = args[0] * ROOM
            low, high = s[0] - moved, s[1] + moved  # both rounded, so one step outward
            low, high = low - jnp.abs(low) * 2.0**-52, high + jnp.abs(high) * 2.0**-52
            slope = SLOPES[node.function](low, high, *f)
            return jnp.where(args[0] == 0, 0.0, times(slope + TINY, args[0]))
    raise AssertionError(node.op)


def times(first: Any, *others: Any) -> Any:
    """A product from left to right, never below the exact one."""
    for other in others:
        first = first * other + TINY
    return first


def length(parts: Sequence[Any]) -> Any:
    """The 2-norm of some numbers; no square underflows."""
    unit = jax.lax.stop_gradient(reduce(jnp.maximum, parts))
    unit = jnp.where(unit > 0, unit, 1)
    return unit * root(jnp.asarray(sum((part / unit) ** 2 for part in parts)))


def root(squares: Array) -> Array:
    """The square root, with derivative 0 at 0; NaN, such as 0 times infinity, stays NaN."""
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _positive(low: Array, slope: Callable[[Array], Array]) -> Array:
    """``slope(low)`` where ``low > 0``, else infinite: beyond, the function has no slope."""
    return jnp.where(low > 0, slope(jnp.where(low > 0, low, 1)), jnp.inf)


def _size(low: Array, high: Array) -> Array:
    return jnp.maximum(jnp.abs(low), jnp.abs(high))


#: ``(low, high, *constants)`` -> the largest absolute slope on ``[low, high]``.
SLOPES: dict[str, Callable[..., Array]] = {
    "exp": lambda low, high: jnp.exp(high),
    "exp2": lambda low, high: jnp.exp2(high) * 0.6931471805599454,
    "expm1": lambda low, high: jnp.exp(high),
    "log": lambda low, high: _positive(low, lambda t: 1 / t),
    "log1p": lambda low, high: _positive(1 + low, lambda t: 1 / t),
    "sqrt": lambda low, high: _positive(low, lambda t: 0.5 / jnp.sqrt(t)),
    "rsqrt": lambda low, high: _positive(low, lambda t: 0.5 / (t * jnp.sqrt(t))),
    "square": lambda low, high: 2 * _size(low, high),
    # The last factor covers the rounding of a power by repeated squaring.
    "integer_pow": lambda low, high, y: (
        (1 + abs(y) * 2.0**-50)
        * abs(y)
        * (
            _size(low, high) ** (y - 1)
            if y > 0
            else _positive(jnp.maximum(low, -high), lambda t: t ** (y - 1))
        )
    ),
}


@dataclass(frozen=True)
class Recursion:
    """The recursion of a network; the last node is the logits (static).

    Attributes:
        nodes: in the order of computation.
        slots: how many sizes are measured per example.
    """

    nodes: tuple[Node, ...]
    slots: int

    def perturbations(self, slots: Array, distances: Array, gains: Array) -> list[Any]:
        """The bounds of all nodes, each ``(n,)`` or a number.

        Args:
            slots: ``(slots, n)`` measured sizes.
            distances: ``(distances,)`` coded distances.
            gains: ``(gains,)`` operator norms of the coded network.

        Pure, differentiable; cost O(nodes n).
        """
        values: list[Any] = []
        for node in self.nodes:
            distance = distances[node.distance] if node.distance >= 0 else 0.0
            gain = gains[node.gain] if node.gain >= 0 else 0.0
            values.append(
                evaluate(
                    node,
                    [values[i] for i in node.args],
                    [slots[i] for i in node.slots],
                    distance,
                    gain,
                )
            )
        return values


def prune(
    nodes: Sequence[Node], wanted: Sequence[int], slots: Sequence[int]
) -> tuple[list[Node], dict[int, int], list[int], list[int], list[int]]:
    """Only the nodes that ``wanted`` ones rest on.

    Returns:
        The nodes, the new number of each kept one, and which slots, distances and gains are still
        read, in the order of their new numbers. ``slots`` are kept in any case.
    """
    needed: set[int] = set()
    stack = list(wanted)
    while stack:
        number = stack.pop()
        if number not in needed:
            needed.add(number)
            stack.extend(nodes[number].args)
    order = sorted(needed)
    number_of = {old: new for new, old in enumerate(order)}
    kept = [nodes[old] for old in order]
    used_slots = sorted({s for node in kept for s in node.slots} | set(slots))
    used_distances = sorted({node.distance for node in kept} - {-1})
    used_gains = sorted({node.gain for node in kept} - {-1})
    renumbered = [
        replace(
            node,
            args=tuple(number_of[i] for i in node.args),
            slots=tuple(used_slots.index(i) for i in node.slots),
            distance=used_distances.index(node.distance) if node.distance >= 0 else -1,
            gain=used_gains.index(node.gain) if node.gain >= 0 else -1,
        )
        for node in kept
    ]
    return renumbered, number_of, used_slots, used_distances, used_gains
