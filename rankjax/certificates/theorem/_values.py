"""What the reader of a network knows about each value, and what it records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.certificates.theorem._nodes import ROOM, Node, evaluate, root
from rankjax.network import Convolution

#: Relative error of one arithmetic operation in float64, and of exp, tanh and their like. Most are
#: right to a few units of 2^-53; XLA's exp2 and log1p are off by hundreds (a test measures).
ARITHMETIC, FUNCTION = 2.0**-50, 2.0**-42
#: Whatever underflows is smaller than this.
UNDERFLOW = 1e-300


@dataclass(frozen=True)
class Data:
    """The value depends on the inputs and on no weight: it is the same in the coded neighbor."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Each entry of the value is a constant times one weight.

    Attributes:
        index: shape of the value; which weight, counted through all leaves.
        factor: shape of the value; the constant.
        products: how many constants it was multiplied with, one after the other.
    """

    index: np.ndarray
    factor: np.ndarray
    products: int = 0

    @classmethod
    def plain(cls, index: np.ndarray) -> Entries:
        """The weights themselves."""
        return cls(index, np.ones(index.shape))


@dataclass(frozen=True, eq=False)
class RowForm:
    """The value has one entry per class, ``a_j . h + sum of biases_j + something exact``.

    Attributes:
        rows: ``(classes, inputs)``, the weights of each class.
        node: bounds how far h moves.
        slot: the 2-norm of h.
        biases: ``(classes,)`` each.
    """

    rows: Entries
    node: int
    slot: int
    biases: tuple[Entries, ...] = ()


@dataclass(frozen=True, eq=False)
class Moved:
    """The value moves with the weights.

    Attributes:
        node: bounds how far.
        rounding: bounds the 2-norm of its rounding error, per example.
        rows: set where differences between classes are known better.
    """

    node: int
    rounding: Any
    rows: RowForm | None = None

    def static(self) -> Moved:
        """All but the rounding error, which is traced."""
        return replace(self, rounding=None)


@dataclass(frozen=True)
class Unknown:
    """The value depends on weights in a way that no rule bounds; ``what`` did it."""

    what: str


#: ``None``: a constant of the network.
Tag = Data | Entries | Moved | Unknown | None
DATA = Data()

DistanceKind = Literal["spectral", "norm", "row", "rows", "range"]


@dataclass(frozen=True, eq=False)
class Distance:
    """How far some weights are from the coded ones, in one of five senses.

    ==============  ================================================================================
    ``spectral``    the largest spectral norm in a batch of matrices ``(batch, out, in)``
    ``norm``        the 2-norm of a vector
    ``row``         the largest 2-norm of a row of a matrix
    ``rows``        the largest 2-norm of a difference of two rows of a matrix
    ``range``       the largest difference of two entries of a vector
    ==============  ================================================================================
    """

    kind: DistanceKind
    entries: Entries

    def identity(self) -> tuple[Any, ...]:
        """Equal for equal distances."""
        index, factor = self.entries.index, self.entries.factor
        return self.kind, index.shape, index.tobytes(), factor.tobytes()


@dataclass(frozen=True, eq=False)
class Gain:
    """The norm of a coded linear operator.

    Attributes:
        entries: ``(batch, out, in)``; its largest spectral norm counts, times ``gather``.
        gather: the norm of the operator that gathers patches, 1 for a dense layer.
        convolution: its geometry, which may give a smaller bound.
        window: for a convolution, the sizes of its window; ``in`` is ``(*window, channels)``.
    """

    entries: Entries
    gather: float = 1.0
    convolution: Convolution | None = None
    window: tuple[int, ...] = ()


@dataclass
class Recorder:
    """Collects the nodes of the recursion, and what has to be measured for them.

    Attributes:
        weights: all weights as one float64 vector, perhaps traced: those of the coded network.
        nodes: number 0 is that of everything exact.
        slots: the measured sizes, rounded to the safe side.
    """

    weights: Any
    nodes: list[Node] = field(default_factory=lambda: [Node("exact")])
    slots: list[Any] = field(default_factory=list)
    distances: list[Distance] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)
    _known: dict[Any, int] = field(default_factory=dict)

    def add(
        self,
        node: Node,
        args: Sequence[Moved],
        rounding: Any,
        *,
        slots: Sequence[Any] = (),
        gain: Any = 0.0,
    ) -> Moved:
        """A new node; rounding errors are moved by it like any other perturbation.

        Args:
            node: the node.
            args: what it reads.
            rounding: the 2-norm of the rounding error that this step itself makes.
            slots: the computed sizes it reads.
            gain: for a matrix, at least the norm of the operator.
        """
        self.nodes.append(node)
        moved = evaluate(node, [arg.rounding for arg in args], slots, 0.0, gain)
        return Moved(len(self.nodes) - 1, moved + rounding)

    def slot(self, value: Any) -> int:
        """A new measured size."""
        self.slots.append(jnp.asarray(value, float))
        return len(self.slots) - 1

    def distance(self, distance: Distance) -> int:
        """The number of a coded distance; equal ones are coded once."""
        key = distance.identity()
        if key not in self._known:
            self.distances.append(distance)
            self._known[key] = len(self.distances) - 1
        return self._known[key]

    def gain(self, gain: Gain) -> int:
        """The number of an operator norm."""
        self.gains.append(gain)
        return len(self.gains) - 1

    def moved(self, tag: Tag) -> Moved:
        """The node of any value but an unknown one."""
        if isinstance(tag, Moved):
            return tag
        if isinstance(tag, Entries):
            return self._leaf(tag)
        return Moved(0, 0.0)

    def scale(self, arg: Moved, factor: float, rounding: Any = 0.0) -> Moved:
        """A map whose distances grow at most by ``factor``."""
        if arg.node == 0:
            return arg
        if factor == 1:
            return Moved(arg.node, arg.rounding + rounding)
        return self.add(Node("scale", (arg.node,), (float(factor),)), [arg], rounding)

    def _leaf(self, entries: Entries) -> Moved:
        """Weights that are used one by one: their 2-norm, repeats counted."""
        flat = np.stack([entries.index.ravel().astype(float), entries.factor.ravel()], axis=1)
        unique, repeats = np.unique(flat, axis=0, return_counts=True)
        once = Entries(unique[:, 0].astype(np.int64), unique[:, 1].copy())
        number = self.distance(Distance("norm", once))
        factor = math.sqrt(int(repeats.max(initial=1)))
        rounded: Any = 0.0
        if entries.products:  # the weight times its constants was rounded
            size = length_of(once.factor * self.weights[once.index])
            rounded = rounded_weights(entries) * factor * size + UNDERFLOW
        return self.add(Node("leaf", (), (factor,), distance=number), [], rounded)


def rounded_weights(entries: Entries) -> float:
    """Relative error of weights that were multiplied with constants."""
    return entries.products * ARITHMETIC


def two_norm(value: Any, arg: Moved) -> tuple[Any, Any]:
    """The computed 2-norm, and an upper bound of the exact one."""
    found = length_of(value)
    return found, found * ROOM + arg.rounding + UNDERFLOW


def length_of(value: Any) -> Array:
    """The 2-norm over all entries, with derivative 0 at 0; no square underflows."""
    value = wide(value)
    unit = unit_of(value)
    return unit * root(jnp.sum(jnp.square(value / unit)))


def unit_of(value: Any) -> Array:
    """The largest absolute entry, 1 where all are 0; a constant in derivatives."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(value), initial=0.0))
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)


def max_norm(value: Any, arg: Moved) -> tuple[Any, Any]:
    """The computed largest absolute entry, and an upper bound of the exact one."""
    found = jnp.max(jnp.abs(wide(value)), initial=0.0)
    return found, found + arg.rounding


def wide(value: Any) -> Array:
    """Floating point numbers in float64 (in the widest type there is); the rest as it is."""
    value = jnp.asarray(value)
    return value.astype(widest()) if jnp.issubdtype(value.dtype, jnp.floating) else value


def widest() -> Any:
    """float64, or float32 in a training loop without x64."""
    return jax.dtypes.canonicalize_dtype(np.float64)
