"""What a bound needs to know of the data: one pass over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import at_least_float32, concrete
from rankjax.network.cushions import Cushions
from rankjax.network.paths import Skeleton, array_paths, split_arrays
from rankjax.network.structure import Structure
from rankjax.network.tracing import Use, interpret


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "n",
        "radius",
        "frobenius",
        "margins",
        "patch_norms",
        "gather_norms",
        "inf_radius",
        "column_norm",
        "dimension",
        "cushions",
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class Sample:
    """A sample of ``n`` labelled examples, as seen by the bounds (a pytree of arrays).

    Attributes:
        n: number of examples.
        radius: ``B = max_i |x_i|_2``.
        frobenius: ``|X|_F = sqrt(sum_i |x_i|_2^2)``.
        margins: ``f(x_i)_{y_i} - max_{j != y_i} f(x_i)_j``, shape ``(n,)``; ``None`` if unknown.
        patch_norms: ``(layers, n)``, the largest 2-norm of a vector that the layer's matrix is
            applied to in example i (a patch of a convolution, a token, the whole input of a dense
            layer); ``None`` if unknown.
        gather_norms: ``(layers, n)``, the 2-norm of all those vectors together, ``|P h(x_i)|_F``.
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
    gather_norms: Array | None = None
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
        apply: Callable[[Any, Any], Array],
        params: Any,
        x: Any,
        y: ArrayLike,
        *,
        batch_size: int = 1024,
    ) -> Sample:
        """Measure a sample with the network: margins, input norms and every layer's input norms.

        One compiled pass; the examples are handed over in batches of ``batch_size``, the last one
        padded, so any number of them fits. Not meant to be differentiated.

        Args:
            structure: from ``describe(params, apply=..., example=...)``, or by names.
            apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
            params: the parameters.
            x: inputs with a leading example axis (an array or a tree of arrays).
            y: integer labels, shape ``(n,)``.
            batch_size: examples in one call.

        Raises:
            ValueError: for labels of another shape, dtype or range, or outputs that are not logits.
        """
        y = np.asarray(y)
        n = number_of_examples(x, y, batch_size)
        arrays, skeleton = split_arrays(params)
        parts = []
        for index, real in batches(n, batch_size):
            batch = jax.tree.map(lambda a, index=index: a[index], x)
            out = _observe(structure, apply, skeleton, arrays, batch, y[index])
            parts.append(jax.tree.map(lambda a, real=real: a[:real], out))
        joined = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
        norms, margins, patch, gather, classes = joined
        check_labels(y, int(classes[0]))
        return cls(
            n=n,
            radius=jnp.max(norms),
            frobenius=jnp.sqrt(jnp.sum(jnp.square(norms))),
            margins=margins,
            patch_norms=patch.T,
            gather_norms=gather.T,
            **_entry_norms(x, batch_size),
        )

    def error(self) -> Array:
        """Share of the sample that is misclassified; a tie (margin 0) counts as an error."""
        return jnp.mean(self._margins() <= 0)

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
        allowed = jnp.sum(margins <= 0) + jnp.floor(share * margins.size + 1e-9).astype(int)
        ordered = jnp.sort(margins)
        gamma = jnp.nextafter(
            ordered[jnp.minimum(allowed, margins.size - 1)], jnp.asarray(-jnp.inf, margins.dtype)
        )
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


def _entry_norms(x: Any, batch_size: int) -> dict[str, Any]:
    """``|X|`` entrywise: the largest entry, the largest column, and the number of columns."""
    largest, columns, dimension = 0.0, 0.0, 0
    for leaf in jax.tree.leaves(x):
        squares = np.zeros(int(np.prod(leaf.shape[1:])))
        for start in range(0, len(leaf), batch_size):
            part = np.asarray(leaf[start : start + batch_size]).astype(np.float32)
            part = part.reshape(len(part), -1)
            largest = max(largest, float(np.abs(part).max(initial=0)))
            squares += np.einsum("ij,ij->j", part, part)
        dimension += squares.size
        columns = max(columns, float(np.sqrt(np.max(squares, initial=0))))
    return {"inf_radius": largest, "column_norm": columns, "dimension": dimension}


def number_of_examples(x: Any, y: np.ndarray, batch_size: int) -> int:
    """n, after checking that labels and inputs fit together."""
    sizes = {a.shape[0] if np.ndim(a) else None for a in jax.tree.leaves(x)}
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.size == 0:
        raise ValueError(
            f"y: got shape {y.shape} of {y.dtype}, must be a non-empty vector of integers"
        )
    if sizes != {len(y)}:
        raise ValueError(f"x: got leading axes {sizes}, must all be {len(y)}, the length of y")
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, must be at least 1")
    return len(y)


@partial(jax.jit, static_argnames=("structure", "apply", "skeleton"))
def _observe(
    structure: Structure,
    apply: Callable[[Any, Any], Any],
    skeleton: Skeleton,
    arrays: list[Array],
    x: Any,
    y: Array,
) -> tuple[Array, ...]:
    """Per example: input norm, margin, per layer the patch and gather norms; number of classes."""
    params = skeleton.fill(arrays)
    paths = array_paths(params)

    def one(x, y):
        rows: dict[str, list[Array]] = {}

        def on_use(use: Use, data: Array) -> None:
            squares = use.squared_row_norms(at_least_float32(data))
            rows.setdefault(paths[use.leaf], []).append(squares)

        batch = jax.tree.map(lambda a: a[None], x)
        trace = interpret(lambda p, x: apply(skeleton.fill(p), x), arrays, batch, on_use)
        logits = logits_of_one(trace.output)
        squares = [jnp.sum(jnp.square(at_least_float32(a))) for a in jax.tree.leaves(x)]
        norm = jnp.sqrt(sum(squares[1:], squares[0]))
        patch, gather = _layer_norms(structure, rows)
        return norm, margin_of(logits, y), patch, gather, jnp.asarray(logits.shape[0])

    return jax.vmap(one)(x, y)


def _layer_norms(structure: Structure, rows: dict[str, list[Array]]) -> tuple[Array, Array]:
    """Largest and total row norm per layer; a layer used several times takes the largest."""
    patch, gather = [], []
    for layer in structure.spec:
        if layer.path not in rows:
            raise ValueError(
                f"apply never multiplies {layer.path!r} with the data; leave it out by mask="
            )
        uses = rows[layer.path]
        for member in range(layer.stacked):
            # The members of a stack are used in turn; a tied matrix is used again and again.
            mine = uses[member :: layer.stacked]
            patch.append(jnp.sqrt(jnp.max(jnp.stack([jnp.max(r) for r in mine]))))
            gather.append(jnp.sqrt(jnp.max(jnp.stack([jnp.sum(r) for r in mine]))))
    return jnp.stack(patch), jnp.stack(gather)


def batches(n: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices of one batch after another, and how many of them count.

    All have ``batch_size`` entries, so that nothing is compiled anew for the last one: it is filled
    up with the last example.
    """
    for start in range(0, n, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), n - 1)
        yield index, min(batch_size, n - start)


def check_labels(y: np.ndarray, classes: int) -> None:
    """Raise ``ValueError`` unless the labels are those of the classes that ``apply`` returns."""
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"y: got labels from {y.min()} to {y.max()}; apply returns {classes} classes, so "
            f"allowed are 0 to {classes - 1}"
        )


def logits_of_one(output: Any) -> Array:
    """What ``apply`` returns for a batch of one example, as ``(classes,)``."""
    if not hasattr(output, "shape"):
        raise ValueError(
            f"apply: got {type(output).__name__} as outputs, must be one array of logits; take it "
            "out of what the network returns, as in lambda params, x: network(params, x)[0]"
        )
    logits = jnp.asarray(output)
    if logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        raise ValueError(
            f"apply: got outputs of shape {logits.shape} for one example, "
            "must be logits of shape (1, classes) with at least 2 classes"
        )
    return logits[0]


def margin_of(logits: Array, y: Array) -> Array:
    """``f(x)_y - max_{j != y} f(x)_j`` of one example."""
    others = jnp.where(jnp.arange(logits.shape[0]) == y, -jnp.inf, logits)
    return logits[y] - jnp.max(others)
