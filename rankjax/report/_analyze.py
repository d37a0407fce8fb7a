"""Spectra and ranks of every weight matrix of a checkpoint or of a tree of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rankjax._arguments import positive
from rankjax.network import Layer, LeftOut, Reason, Structure
from rankjax.network.internal import check_structure, paths_and_leaves
from rankjax.report._analysis import SHARES, Analysis, Row
from rankjax.report._matrices_by_name import Layout, guessed_layout, is_floating, matrices_by_name
from rankjax.report._spectra import (
    Spectrum,
    energy_rank,
    measures,
    saved_parameters,
    spectra_of,
    spectrum_of,
    tail_exponent,
)
from rankjax.report.checkpoints import Checkpoint, load

Progress = Callable[[int, int, str], None]


def analyze(
    params: Any,
    *,
    p: Sequence[float] = (0.5,),
    layout: Layout | None = None,
    structure: Structure | None = None,
    embeddings: bool = False,
    reference: Any = None,
    progress: Progress | None = None,
) -> Analysis:
    """Norms, ranks, tail and possible savings of every weight matrix.

    Args:
        params: a path (see ``load``), a ``Checkpoint``, or any tree of arrays.
        p: exponents > 0 of the Schatten norms ``(sum sigma_i^p)^(1/p)`` and of the soft ranks
            ``sum (sigma_i / sigma_1)^p``.
        layout: ``"flax"``, ``"torch"`` or ``"equinox"``; ``None``: told by the names of the leaves,
            see ``matrices_by_name``.
        structure: from ``describe``, which knows the forward function; then names do not matter.
        embeddings: measure tables of embeddings, too.
        reference: like ``params``; measures ``A - M`` in place of ``A``. Leaves that are not
            in both with the same shape are left out.
        progress: called with (matrices done, matrices, path) after each.

    Returns:
        ``Analysis``. Leaves with NaN or infinite entries are listed, not measured.

    Raises:
        CheckpointError: a path that cannot be read.
        ValueError: an unknown layout, a p that is not positive, layout or embeddings together with
            a structure, a structure that does not fit.

    Cost: one decomposition per matrix (singular values alone, float64).

    Example:
        >>> import jax.numpy as jnp
        >>> found = analyze({"kernel": jnp.diag(jnp.array([3.0, 4.0]))}, p=[1.0])
        >>> round(found.rows[0].schatten_norm[0], 3), round(found.rows[0].stable_rank, 4)
        (7.0, 1.5625)
    """
    for one in p:
        positive(one, "p")
    if structure is not None and (layout is not None or embeddings):
        raise ValueError("structure: says itself what is a matrix; give no layout, no embeddings")
    checkpoint = _checkpoint(params)
    leaves = _arrays(checkpoint)
    if structure is None:
        structure = matrices_by_name(leaves, layout=layout, embeddings=embeddings)
        seen_as = layout or f"{guessed_layout(structure)}, told by the names"
    else:
        check_structure(structure, checkpoint.tree)
        seen_as = "described"
    base = None if reference is None else _checkpoint(reference)
    left_out = [*structure.left_out, *checkpoint.unread]
    bad, bad_paths = _not_finite(leaves)
    others = {} if base is None else _arrays(base)
    matrices: list[_Matrix] = []
    for layer in structure.layers:
        other = None if base is None else _partner(layer, others)
        if layer.path in bad_paths:
            other = LeftOut(layer.path, layer.shape, Reason.NOT_FINITE)
        if isinstance(other, LeftOut):
            left_out.append(other)
        else:
            matrices += _matrices(layer, leaves[layer.path], other)
    rows, failed = _rows(matrices, tuple(p), progress or (lambda done, total, path: None))
    return Analysis(
        rows=tuple(rows),
        left_out=(*left_out, *failed),
        not_finite=bad,
        p=tuple(float(x) for x in p),
        parameters=sum(a.size for a in leaves.values() if is_floating(a.dtype)),
        source=checkpoint.source,
        format=checkpoint.format,
        layout=seen_as,
        reference=None if base is None else base.source,
    )


@dataclass(frozen=True)
class _Matrix:
    path: str
    leaf: tuple[int, ...]
    dtype: np.dtype
    matrix: np.ndarray
    reference: np.ndarray | None


def _checkpoint(params: Any) -> Checkpoint:
    if isinstance(params, Checkpoint):
        return params
    return (
        load(params) if isinstance(params, str | Path) else Checkpoint("parameters", "tree", params)
    )


def _arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found = paths_and_leaves(checkpoint.tree)
    return {path: np.asarray(leaf) for path, leaf in found if hasattr(leaf, "shape")}


def _not_finite(
    leaves: dict[str, np.ndarray],
) -> tuple[tuple[tuple[str, int, int], ...], frozenset[str]]:
    found = []
    for path, a in leaves.items():
        if is_floating(a.dtype):
            bad = a.size - int(np.count_nonzero(np.isfinite(a)))
            if bad:
                found.append((path, bad, a.size))
    return tuple(found), frozenset(path for path, _, _ in found)


def _partner(layer: Layer, others: dict[str, np.ndarray]) -> np.ndarray | LeftOut:
    other, why = others.get(layer.path), ""
    if other is None:
        why = Reason.NO_REFERENCE.value
    elif other.shape != layer.shape:
        why = f"has shape {other.shape} in the reference"
    elif not is_floating(other.dtype):
        why = f"holds {other.dtype.name} in the reference"
    elif not np.isfinite(other).all():
        why = "holds entries that are not finite in the reference"
    else:
        return other
    return LeftOut(layer.path, layer.shape, Reason.NO_REFERENCE, why)


def _matrices(layer: Layer, leaf: np.ndarray, other: np.ndarray | None) -> Iterator[_Matrix]:
    """The matrices of a leaf as NumPy views (``Layer.matrix`` would compile for every shape)."""

    def seen(a: np.ndarray) -> np.ndarray:
        return a.transpose(layer.view.order).reshape(
            layer.stacked, layer.parallel, *layer.matrix_shape
        )

    a, m = seen(leaf), None if other is None else seen(other)
    for i, name in enumerate(layer.names):
        for j in range(layer.parallel):
            path = name if layer.parallel == 1 else f"{name}[{j}]"
            yield _Matrix(path, layer.shape, leaf.dtype, a[i, j], None if m is None else m[i, j])


def _rows(
    matrices: list[_Matrix], p: tuple[float, ...], progress: Progress
) -> tuple[list[Row], list[LeftOut]]:
    # The large ones first, so that no core is left with one of them at the end.
    order = sorted(range(len(matrices)), key=lambda i: -matrices[i].matrix.size)
    count = 0

    def done(i: int) -> None:
        nonlocal count
        count += 1
        progress(count, len(matrices), matrices[order[i]].path)

    calls = [partial(spectrum_of, matrices[i].matrix, matrices[i].reference) for i in order]
    found = dict(zip(order, spectra_of(calls, done), strict=True))
    rows, failed = [], []
    for i, one in enumerate(matrices):
        result = found[i]
        if isinstance(result, Spectrum):
            rows.append(_row(one, result, p))
        else:
            failed.append(LeftOut(one.path, one.leaf, Reason.FAILED, result))
    return rows, failed


def _row(one: _Matrix, spectrum: Spectrum, p: tuple[float, ...]) -> Row:
    out, in_ = one.matrix.shape
    eps = float(np.finfo(np.float64 if one.dtype.itemsize == 8 else np.float32).eps)
    found = measures(spectrum, max(out, in_), eps, p)
    ranks = tuple(energy_rank(spectrum.sigma, share / 100) for share in SHARES)
    exponent, fit = tail_exponent(spectrum.sigma, found.numerical_rank)
    norm, change = spectrum.reference_norm, found.frobenius_norm
    if norm is not None:
        change = change / norm if norm else math.inf if change else 0.0
    return Row(
        path=one.path,
        leaf=one.leaf,
        shape=(out, in_),
        dtype=one.dtype.name,
        **vars(found),
        tail_exponent=exponent,
        tail_fit=fit,
        rank_at=ranks,
        saved_at=tuple(saved_parameters(out, in_, rank) for rank in ranks),
        relative_change=None if norm is None else change,
        singular_values=spectrum.sigma,
    )
