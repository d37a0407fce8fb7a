"""A forward function as a recursion, and its run on a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._caches import afresh
from rankjax.certificates._held import check_subnormal, held_by, is_weight
from rankjax.certificates.theorem._nodes import Recursion, prune
from rankjax.certificates.theorem._rules import touched
from rankjax.certificates.theorem._values import (
    DATA,
    Distance,
    Entries,
    Gain,
    Recorder,
    Tag,
    Unknown,
    wide,
)
from rankjax.certificates.theorem._walk import Reader, as_declared, refused
from rankjax.network.internal import (
    batches,
    check_labels,
    checked_activations,
    logits_of_one,
    number_of_examples,
    paths_and_leaves,
    split_arrays,
)

if TYPE_CHECKING:
    from rankjax._jax_internals import ClosedJaxpr

_MANY_NODES = 40  # beyond, see Network.jit
_MOST_CLASSES = 256  # beyond, differences of each pair of classes would take too much memory


@dataclass(frozen=True)
class Leaves:
    """The weights of a tree: which leaves they are, and all of them as one vector.

    Attributes:
        paths: of the leaves that hold numbers.
        shapes: theirs.
        flags: how many Python booleans stand among the leaves.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    flags: int

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each leaf begins in the vector."""
        return np.concatenate([[0], np.cumsum([math.prod(s) for s in self.shapes])]).astype(int)

    @classmethod
    def of(cls, params: Any) -> Leaves:
        """Read a tree.

        Raises:
            ValueError: for Python numbers and complex arrays among the leaves, and for two leaves
                with one path.
        """
        paths, shapes, flags, seen = [], [], 0, set()
        for path, leaf in paths_and_leaves(params):
            if isinstance(leaf, bool):
                flags += 1
                continue
            if not is_weight(path, leaf) or not _numeric_type(leaf.dtype):
                continue
            if np.issubdtype(leaf.dtype, np.complexfloating):
                raise ValueError(f"params[{path!r}]: got {leaf.dtype}, must be real")
            if path in seen:
                raise ValueError(f"params: two leaves have the path {path!r}; rename one")
            seen.add(path)
            paths.append(path)
            shapes.append(tuple(leaf.shape))
        if not paths:
            raise ValueError("params: got a tree without arrays, must hold the weights")
        return cls(tuple(paths), tuple(shapes), flags)

    def vector(self, params: Any) -> np.ndarray:
        """All weights in float64."""
        found = dict(paths_and_leaves(params))
        parts = []
        for path, shape in zip(self.paths, self.shapes, strict=True):
            if path not in found or tuple(np.shape(found[path])) != shape:
                raise ValueError(f"params: lacks {path!r} of shape {shape}")
            if not isinstance(found[path], np.ndarray | np.generic | Array):
                raise ValueError(f"params[{path!r}]: got {type(found[path]).__name__}, no array")
            leaf = np.asarray(found[path])
            part = leaf.astype(np.float64).ravel()
            if leaf.dtype.kind in "iu" and np.any((leaf > 2**53) | (leaf < -(2**53))):
                raise ValueError(f"params[{path!r}]: integers beyond 2^53 have no float64")
            parts.append(part)
        vector = np.concatenate(parts)
        if not np.isfinite(vector).all():
            raise ValueError("params: the weights must be finite")
        check_sizes("params", vector)
        return vector

    def leaf(self, vector: Any, number: int) -> Any:
        """One leaf of the vector."""
        start, end = self.starts[number], self.starts[number + 1]
        return vector[start:end].reshape(self.shapes[number])


def check_sizes(name: str, numbers: np.ndarray) -> None:
    """Refuse numbers whose products could underflow, or be flushed to 0 on the way.

    Raises:
        ValueError: for a number that is neither 0 nor between 1e-100 and 1e100 in size.
    """
    sizes = np.abs(numbers)
    beyond = sizes[((sizes < 1e-100) & (sizes > 0)) | (sizes > 1e100)]
    if beyond.size:
        raise ValueError(
            f"{name}: got a number of size {beyond[0]:g}, must be 0 or from 1e-100 to 1e100"
        )


def _numeric_type(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_


@dataclass(frozen=True)
class Head:
    """Differences of classes: ``f_y - f_j = (a_y - a_j) . h + biases``.

    Attributes:
        rows: the weights of each class.
        node: how far h moves.
        slot: its norm.
        distance: number of the coded difference of rows.
        ranges: numbers of the coded ranges of the biases.
    """

    rows: Entries
    node: int
    slot: int
    distance: int
    ranges: tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """A coded network on the sample, rounded to the safe side.

    Attributes:
        gaps: ``(n, classes)``: lower bounds of ``f(x)_y - f(x)_j``, infinite at j = y.
        slots: ``(slots, n)``: measured sizes.
        y: labels.
    """

    gaps: np.ndarray
    slots: np.ndarray
    y: np.ndarray

    def part(self, count: int) -> Observed:
        """Evenly spaced examples, at most ``count``."""
        n = len(self.y)
        index = np.unique(np.linspace(0, n - 1, min(count, n)).astype(int))
        return Observed(self.gaps[index], self.slots[:, index], self.y[index])


class Network:
    """A forward function as the theorem sees it.

    Attributes:
        leaves: its weights.
        recursion: how far its logits move.
        distances: what is coded of the distance to the coded neighbor.
        gains: the operator norms that the recursion reads.
        head: differences of classes, if the last layer allows them.
        used: numbers of the leaves that the logits depend on.
        classes: number of logits.
        held: arrays and numbers that the function holds besides its parameters.
        told: Lipschitz constants that the caller vouched for.
    """

    def __init__(
        self,
        apply: Callable[[Any, Any], Any],
        params: Any,
        x: Any,
        activations: Mapping[str, float] | None = None,
    ):
        """Read ``apply``; ``x`` is a batch, its first example is looked at (shapes only).

        Raises:
            ValueError: for whatever has no rule, for what is not a network's output, and for
                constants of activations that are not positive numbers or are never met.
        """
        self.told = checked_activations(activations)
        self.leaves = Leaves.of(params)
        arrays, skeleton = split_arrays(params)
        numbers = {path: i for i, path in enumerate(self.leaves.paths)}
        # Arrays that hold no numbers (random keys) are constants of the function.
        pairs = [(p, leaf) for p, leaf in paths_and_leaves(params) if hasattr(leaf, "shape")]
        self._which = [numbers.get(path) for path, _ in pairs]
        self._constant = [leaf for _, leaf in pairs]
        first = jax.tree.map(_one_example, x)
        declared = [
            jax.ShapeDtypeStruct(np.shape(a), _declared_dtype(a)) if i is not None else a
            for a, i in zip(arrays, self._which, strict=True)
        ]

        def run(arrays: Any, x: Any) -> Any:
            return apply(skeleton.fill(arrays), x)

        # In the types in which it runs: what becomes of the data may depend on them.
        with afresh():
            try:
                closed, shape = jax.make_jaxpr(run, return_shape=True)(declared, first)
            except Exception as error:  # whatever the function says of shapes that do not fit
                raise ValueError(f"apply: must take params and x; it says: {error}") from error
        if not isinstance(shape, jax.ShapeDtypeStruct):
            raise ValueError(
                "apply: must return the logits alone, one array; got "
                f"{type(shape).__name__} of {len(jax.tree.leaves(shape))} arrays"
            )
        jax.eval_shape(logits_of_one, shape)  # refuses other shapes
        self.classes = shape.shape[1]
        self._closed: ClosedJaxpr = closed
        self._run = run
        passed = [a for a, i in zip(self._constant, self._which, strict=True) if i is None]
        self.held = held_by(closed, passed, exact=True)
        with jax.enable_x64(True):
            self._finish_reading(first)
        self._pass = self.jit(self.batch)
        self._logits = jax.jit(
            lambda weights, x: jax.vmap(lambda one: self._read(weights, one)[1])(x)
        )

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``jax.jit`` of what evaluates the recursion, a long chain of numbers.

        On CPUs XLA copies the chain into everything that reads a part of it. Of many nodes that
        makes a program of quadratic size: 95 s to compile a recurrence over seven steps, and 6 s
        without this pass, which saves little time here.
        """
        many = len(self.recursion.nodes) > _MANY_NODES and jax.default_backend() == "cpu"
        options = {"xla_disable_hlo_passes": "fusion"} if many else None
        return jax.jit(function, compiler_options=options)

    def _finish_reading(self, first: Any) -> None:
        record: dict[str, Any] = {}

        def read(weights: Array, x: Any) -> Array:
            recorder, logits, tag, met = self._read(weights, jax.tree.map(lambda a: a[0], x))
            unmet = sorted(set(self.told) - met)
            if unmet:
                raise ValueError(
                    f"activations: {unmet} are never met; name jitted functions that apply calls "
                    "on what depends on weights"
                )
            if isinstance(tag, Unknown):
                raise refused(tag.what)
            if not touched(tag):
                raise ValueError("apply: the logits do not depend on params")
            moved = recorder.moved(tag)
            # Nothing that is traced: it would outlive its trace.
            record.update(recorder=replace(recorder, weights=None, slots=[]), tag=moved.static())
            return logits

        jax.eval_shape(
            read, jax.ShapeDtypeStruct((int(self.leaves.starts[-1]),), jnp.float64), first
        )
        recorder, tag = record["recorder"], record["tag"]
        rows = tag.rows if self.classes <= _MOST_CLASSES else None
        head_distances: list[Distance] = []
        if rows is not None:
            head_distances = [
                Distance("rows", rows.rows),
                *(Distance("range", bias) for bias in rows.biases),
            ]
        wanted = [rows.node] if rows is not None else [tag.node]
        nodes, number_of, slots, distances, gains = prune(
            recorder.nodes, wanted, [rows.slot] if rows is not None else []
        )
        self.recursion = Recursion(tuple(nodes), len(slots))
        self._slots = slots
        self.distances: tuple[Distance, ...] = (
            *(recorder.distances[i] for i in distances), *head_distances
        )  # fmt: skip
        self.gains: tuple[Gain, ...] = tuple(recorder.gains[i] for i in gains)
        self.output = number_of[wanted[0]]
        self.head: Head | None = None
        if rows is not None:
            count = len(distances)
            self.head = Head(
                rows.rows, number_of[rows.node], slots.index(rows.slot), count,
                tuple(range(count + 1, count + 1 + len(rows.biases))),
            )  # fmt: skip
        used = np.zeros(int(self.leaves.starts[-1]), bool)
        for distance in self.distances:
            used[distance.entries.index.ravel()] = True
        starts = self.leaves.starts
        self.used = tuple(
            i for i in range(len(self.leaves.paths)) if used[starts[i] : starts[i + 1]].any()
        )

    def _read(self, weights: Array, x: Any) -> tuple[Recorder, Array, Tag, set[str]]:
        """Evaluate on one example; what is recorded on the way is the same for every one."""
        recorder = Recorder(weights)
        reader = Reader(recorder, self.told)
        values, tags = [], []
        for constant, number in zip(self._constant, self._which, strict=True):
            if number is None:
                values.append(constant)
                tags.append(None)
                continue
            start, shape = int(self.leaves.starts[number]), self.leaves.shapes[number]
            index = start + np.arange(math.prod(shape)).reshape(shape)
            values.append(self.leaves.leaf(weights, number))
            tags.append(Entries.plain(index))
        types = self._closed.in_avals[len(values) :]
        inputs = [as_declared(a, t)[None] for a, t in zip(jax.tree.leaves(x), types, strict=True)]
        outs, out_tags = reader.run(
            self._closed, [*values, *inputs], [*tags, *(DATA for _ in inputs)]
        )
        logits = wide(outs[0])[0]
        return recorder, logits, out_tags[0], reader.met

    def batch(self, weights: Array, x: Any, y: Array) -> tuple[Array, Array]:
        """Gaps ``(n, classes)`` and slots ``(slots, n)`` of a batch; traceable, differentiable."""

        def one(x, y):
            recorder, logits, tag, _ = self._read(weights, x)
            slots = [recorder.slots[i] for i in self._slots]
            off = recorder.moved(tag).rounding
            # Two logits are off by at most sqrt(2) of that; the rest covers these very lines.
            gaps = (logits[y] - logits) - 1.5 * off
            gaps = gaps - 1e-15 * (jnp.abs(logits[y]) + jnp.abs(logits) + 1.5 * off)
            gaps = jnp.where(jnp.arange(self.classes) == y, jnp.inf, gaps)
            return gaps, jnp.stack(slots) if slots else jnp.zeros((0,))

        return jax.vmap(one, out_axes=(0, 1))(x, y)

    def observe(self, weights: np.ndarray, x: Any, y: Any, *, batch_size: int = 1024) -> Observed:
        """One pass of the network with these weights over the sample, in float64.

        Raises:
            ValueError: for labels that do not fit, values that are not finite or whose rounding
                errors have no finite bound, and inputs that are neither 0 nor between 1e-100 and
                1e100 in size.
        """
        y = np.asarray(y)
        n = number_of_examples(x, y, batch_size)
        check_labels(y, self.classes)
        y = y.astype(np.int64)
        for leaf in jax.tree.leaves(x):
            array = np.asarray(leaf)
            if array.dtype == np.float64:  # no other type holds such numbers
                check_sizes("x", array)
            if not jnp.issubdtype(array.dtype, np.complexfloating):
                check_subnormal("x: got", array.astype(_declared_dtype(leaf)))
        gaps, slots = [], []
        with jax.enable_x64(True):
            weights_on_device = jnp.asarray(weights, jnp.float64)
            for index, real in batches(n, min(batch_size, n)):
                part = jax.tree.map(lambda a, index=index: np.asarray(a)[index], x)
                gap, slot = self._pass(weights_on_device, part, jnp.asarray(y[index]))
                gaps.append(np.asarray(gap)[:real])
                slots.append(np.asarray(slot)[:, :real])
        found = Observed(np.concatenate(gaps), np.concatenate(slots, axis=1), y)
        if np.isnan(found.gaps).any() or not np.isfinite(found.slots).all():
            raise ValueError(self._why_not_finite(weights, x, batch_size))
        return found

    def _why_not_finite(self, weights: np.ndarray, x: Any, batch_size: int) -> str:
        n = len(jax.tree.leaves(x)[0])
        with jax.enable_x64(True):
            on_device = jnp.asarray(weights, jnp.float64)
            for index, _ in batches(n, min(batch_size, n)):
                part = jax.tree.map(lambda a, index=index: np.asarray(a)[index], x)
                if not np.isfinite(np.asarray(self.logits(on_device, part))).all():
                    return (
                        "params: the network's values on x are not finite, or multiply weights "
                        "with numbers too close to 0 or too large"
                    )
        return (
            "params: the network's values on x are finite, but the slopes of its operations, one "
            "after another, leave no finite bound on what rounding (in float64) may do to them; "
            "normalization and attention in many layers do that"
        )

    def logits(self, weights: Any, x: Any) -> Array:
        """The logits of the exact network in float64, ``(n, classes)``; differentiable."""
        return self._logits(weights, x)

    def as_it_runs(self, weights: np.ndarray, x: Any) -> Array:
        """The logits of a batch by ``apply`` itself, in its own types.

        Raises:
            ValueError: if ``apply`` takes one example only.
        """
        types = map(_declared_dtype, self._constant)
        arrays = [
            constant if number is None else jnp.asarray(self.leaves.leaf(weights, number), dtype)
            for constant, number, dtype in zip(self._constant, self._which, types, strict=True)
        ]
        n = len(jax.tree.leaves(x)[0])
        with afresh():
            try:
                found = jax.jit(self._run)(arrays, jax.tree.map(jnp.asarray, x))
            except Exception as error:  # whatever the function says of shapes that do not fit
                raise ValueError(
                    f"apply: must take a batch of {n} examples; it says: {error}"
                ) from error
        if np.shape(found) != (n, self.classes):
            raise ValueError(
                f"apply: returned {np.shape(found)} for a batch of {n} examples, must be "
                f"{(n, self.classes)}"
            )
        return found


def _declared_dtype(a: Any) -> Any:
    dtype = a.dtype if hasattr(a, "dtype") else np.asarray(a).dtype
    extended = jnp.issubdtype(dtype, jax.dtypes.extended)
    return dtype if extended else jax.dtypes.canonicalize_dtype(dtype)


def _one_example(a: Any) -> jax.ShapeDtypeStruct:
    dtype = _declared_dtype(a)
    if not _numeric_type(dtype):
        raise ValueError(f"x: got {dtype}, must be arrays of numbers")
    return jax.ShapeDtypeStruct((1, *np.shape(a)[1:]), dtype)


def trace_network(
    params: Any,
    x: Any,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    activations: Mapping[str, float] | None = None,
) -> Network:
    """Read the recursion of a network off its forward function.

    Args:
        params: the parameters; only their shapes are used.
        x: a batch; only its shape is used.
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
        activations: Lipschitz constants of jitted functions by name, for activations without a
            rule.

    Returns:
        The input of ``surrogate``; ``recursion.nodes`` shows how far each value can move.

    Raises:
        ValueError: for operations on weights that no rule bounds, by name; for Python numbers,
            complex arrays and duplicate paths in ``params``; for outputs that are not logits.

    Cost: one trace of ``apply``; nothing is computed.
    """
    return Network(apply, params, x, activations)
