"""What a bound needs to know of the data: one pass over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import at_least_float32, concrete
from rankjax._linear_algebra import largest
from rankjax.matrix import spectrum
from rankjax.network._cushions import Cushions
from rankjax.network._examples import (
    batches,
    check_labels,
    logits_of_one,
    margin_of,
    number_of_examples,
)
from rankjax.network._left_out import LeftOut
from rankjax.network._paths import Skeleton, array_paths, split_arrays
from rankjax.network._running import run
from rankjax.network._structure import Structure, check_structure
from rankjax.network._traced_layers import layers_of, uses_by_name
from rankjax.network._tracing import Use, trace_uses


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "n",
        "radius",
        "frobenius",
        "margins",
        "patch_norms",
        "inf_radius",
        "column_norm",
        "dimension",
        "cushions",
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class Sample:
    """A sample of ``n`` labeled examples, as seen by the bounds (a pytree of arrays).

    Attributes:
        n: number of examples.
        radius: ``B = max_i |x_i|_2``, of what ``apply`` makes of an input before parameters enter:
            the input itself, or a fixed function of it; of inputs that are only looked up (token
            ids), what is found.
        frobenius: ``|X|_F = sqrt(sum_i |x_i|_2^2)``.
        margins: ``f(x_i)_{y_i} - max_{j != y_i} f(x_i)_j``, shape ``(n,)``; ``None`` if unknown.
        patch_norms: ``(layers, n)``, the largest 2-norm of a vector that the layer's matrix is
            applied to in example i (a patch of a convolution, a token, the whole input of a dense
            layer); ``None`` if unknown.
        inf_radius: ``max_i |x_i|_inf``; ``None`` if unknown, like the following.
        column_norm: ``max_j sqrt(sum_i x_ij^2)``.
        dimension: number of entries of an input.
        cushions: what the compression bound needs, see ``with_cushions``.
    """

    n: ArrayLike
    radius: ArrayLike
    frobenius: ArrayLike
    margins: Array | None = None
    patch_norms: Array | None = None
    inf_radius: ArrayLike | None = None
    column_norm: ArrayLike | None = None
    dimension: ArrayLike | None = None
    cushions: Cushions | None = None

    @classmethod
    def of_size(
        cls,
        n: ArrayLike,
        *,
        radius: ArrayLike = 1.0,
        inf_radius: ArrayLike | None = None,
        dimension: ArrayLike | None = None,
    ) -> Sample:
        """A sample known only by its size and radii, for scaling laws and for training.

        ``|X|_F`` is taken as large as they allow, ``sqrt(n)`` times the radius; so are columns.

        Example:
            >>> Sample.of_size(60000, radius=1.0).radius
            1.0
        """
        root = jnp.sqrt(jnp.asarray(n, float))
        return cls(
            n=n,
            radius=radius,
            frobenius=radius * root,
            inf_radius=inf_radius,
            column_norm=None if inf_radius is None else inf_radius * root,
            dimension=dimension,
        )

    def with_cushions(self, cushions: Cushions) -> Sample:
        """The same sample with cushions, see ``Cushions.from_data``."""
        return replace(self, cushions=cushions)

    @classmethod
    def from_data(
        cls,
        structure: Structure,
        params: Any,
        x: Any,
        y: ArrayLike,
        *,
        apply: Callable[[Any, Any], Array],
        batch_size: int = 1024,
    ) -> Sample:
        """Measure a sample with the network: margins, input norms and every layer's input norms.

        One compiled pass; the examples are handed over in batches of ``batch_size``, the last one
        padded, so any number of them fits. Not meant to be differentiated.

        Args:
            structure: from ``describe(params, apply=..., example=...)``, or by names.
            params: the parameters.
            x: inputs with a leading example axis (an array or a tree of arrays).
            y: integer labels, shape ``(n,)``.
            apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
            batch_size: examples in one call.

        Raises:
            ValueError: for parameters that do not fit the structure, labels of another shape, dtype
                or range, or outputs that are not logits.
        """
        check_structure(structure, params)
        y = np.asarray(y)
        n = number_of_examples(x, y, batch_size)
        arrays, skeleton = split_arrays(params)
        parts, columns = [], 0.0
        for index, real in batches(n, batch_size):
            batch = jax.tree.map(lambda a, index=index: a[index], x)
            counts = np.arange(len(index)) < real
            out, squares = _observe(structure, skeleton, arrays, batch, y[index], counts, apply)
            parts.append(jax.tree.map(lambda a, real=real: a[:real], out))
            columns = columns + np.asarray(squares, np.float64)
        joined = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
        norms, tops, margins, patch, classes = joined
        check_labels(y, int(classes[0]))
        return cls(
            n=n,
            radius=largest(norms),
            frobenius=jnp.sqrt(jnp.sum(jnp.square(norms))),
            margins=margins,
            patch_norms=patch.T,
            inf_radius=float(largest(tops)),
            column_norm=float(np.sqrt(np.max(columns, initial=0))),
            dimension=np.size(columns),
        )

    def error(self) -> Array:
        """Share of the sample that is misclassified; ties (margin 0) and NaN count as errors."""
        return jnp.mean(~(self._margins() > 0))

    def margin_at(self, share: float) -> Array:
        """The largest margin ``gamma`` that costs at most ``share`` of the accuracy.

        The supremum of all gamma with ``mean(margins <= gamma) <= error + share``; just below one
        of the margins, so that "at most gamma" does not count that one.

        Raises:
            ValueError: if ``share`` is not in [0, 1), or (outside ``jit``) the margin found is not
                positive. Under ``jit`` such a margin comes back as NaN.

        Example:
            >>> import jax.numpy as jnp
            >>> sample = Sample(n=4, radius=1.0, frobenius=2.0, margins=jnp.array([-1.0, 1, 2, 3]))
            >>> round(float(sample.margin_at(0.25)), 4)
            2.0
        """
        if not 0 <= share < 1:
            raise ValueError(f"share: got {share}, must be in [0, 1)")
        margins = self._margins()
        allowed = jnp.sum(~(margins > 0)) + jnp.floor(share * margins.size + 1e-9).astype(int)
        ordered = jnp.sort(jnp.where(jnp.isnan(margins), -jnp.inf, margins))
        found = ordered[jnp.minimum(allowed, margins.size - 1)]
        gamma = jnp.nextafter(found, jnp.asarray(-jnp.inf, margins.dtype))
        gamma = jnp.where(found == -jnp.inf, jnp.nan, gamma)
        return positive_margin(gamma, f"the margin at a share of {share}")

    def _margins(self) -> Array:
        if self.margins is None:
            raise ValueError("margins: this sample has none; make it with Sample.from_data")
        return self.margins


def positive_margin(gamma: ArrayLike, name: str = "gamma") -> Array:
    """``gamma`` if it is positive; else a ``ValueError``, or NaN where its value is not known yet.

    A margin is never made positive by ``abs`` or clipping: every bound here assumes ``gamma > 0``.
    """
    gamma = jnp.asarray(gamma, float) if isinstance(gamma, int | float) else jnp.asarray(gamma)
    known = concrete(gamma)
    if known is not None and not (known > 0).all():
        raise ValueError(f"{name}: got {known}, must be > 0")
    return jnp.where(gamma > 0, gamma, jnp.nan)


@partial(jax.jit, static_argnames=("structure", "apply", "skeleton"))
def _observe(
    structure: Structure,
    skeleton: Skeleton,
    arrays: list[Array],
    x: Any,
    y: Array,
    counts: Array,
    apply: Callable[[Any, Any], Any],
) -> tuple[tuple[Array, ...], Array]:
    """Per example: input norm and entry, margin, patch norm per layer, number of classes.

    Also, of the examples that count, the sums of squares of each entry of the input.
    """
    paths = array_paths(skeleton.fill(arrays))
    shapes = {path: jnp.shape(a) for path, a in zip(paths, arrays, strict=True)}

    def one(x: Any, y: Array) -> tuple[Array, ...]:
        batch = jax.tree.map(lambda a: a[None], x)
        program = trace_uses(lambda p, x: apply(skeleton.fill(p), x), arrays, batch)
        trace = program.trace

        def look(number: int, values: list[Any], outs: list[Any]) -> tuple[list[Any], Any]:
            entries = [
                (_sizes(outs[0] if operand < 0 else values[operand]), inside)
                for operand, inside in trace.entries.get(number, [])
            ]
            use, rows = trace.uses.get(number), None
            if use is not None:
                squares = use.squared_row_norms(_sizes(values[1 - use.side]))
                rows = largest(squares)
            return outs, ([value for value, _ in entries], rows)

        at = set(trace.uses) | set(trace.entries)
        output, kept = run(program, arrays, batch, at=at, look=look)
        entries = []
        for number, places in trace.entries.items():
            for (_, inside), value in zip(places, kept[number][0], strict=True):
                for _ in range(inside):  # the same at every step of these loops
                    value = jnp.take(value, 0, axis=0)
                entries.append(value.ravel())
        entry = jnp.concatenate(_alike(entries)) if entries else jnp.zeros(0, jnp.float32)
        logits = logits_of_one(output)
        rows = {number: kept[number][1] for number in trace.uses}
        uses = uses_by_name(trace, shapes)
        for layer in structure.layers:
            if layer.path not in uses:
                found = layers_of(trace, shapes).get(layer.path)
                text = found.text if isinstance(found, LeftOut) else "there is no such leaf"
                raise ValueError(
                    f"apply never multiplies {layer.path!r} with the data as it is: {text}; leave "
                    "it out by mask=, or describe the network with apply="
                )
        patch = _layer_norms(structure, uses, rows)
        top = largest(jnp.abs(entry))
        unit = spectrum.divisor(top)
        norm = unit * jnp.linalg.norm(entry / unit)  # squares of 1e20 would overflow
        classes = jnp.asarray(logits.shape[0])
        return norm, top, margin_of(logits, y), patch, classes, entry

    *found, entries = jax.vmap(one)(x, y)
    counted = jnp.where(jnp.asarray(counts)[:, None], entries, 0)
    return tuple(found), jnp.sum(jnp.square(counted), axis=0)


def _sizes(values: Array) -> Array:
    """Numbers with the same norms: of complex ones their moduli."""
    is_complex = jnp.issubdtype(values.dtype, jnp.complexfloating)
    return at_least_float32(jnp.abs(values) if is_complex else values)


def _layer_norms(structure: Structure, uses: dict[str, list[Use]], rows: dict[int, Array]) -> Array:
    """Largest row norm per layer, also of a layer that is used several times."""
    found = []
    for layer in structure.layers:
        for member in range(layer.stacked):
            mine = []
            for use in uses[layer.path]:
                steps = np.flatnonzero(np.isin(use.members, (member, -1)))
                mine += [largest(rows[use.number].ravel()[steps])] if steps.size else []
            top = largest(jnp.stack(_alike(mine))) if mine else jnp.zeros((), jnp.float32)
            found.append(jnp.sqrt(top))
    return jnp.stack(_alike(found))


def _alike(values: list[Array]) -> list[Array]:
    """In the widest of their dtypes."""
    dtype = max((value.dtype for value in values), key=lambda dtype: dtype.itemsize)
    return [value.astype(dtype) for value in values]
