"""Spectra and ranks of every weight matrix of a checkpoint or of a tree of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankjax._arguments import positive
from rankjax.network import Layer, LeftOut, Reason, Structure
from rankjax.network.internal import check_structure, paths_and_leaves
from rankjax.report._adapter_config import adapter_configs
from rankjax.report._analysis import SHARES, Analysis
from rankjax.report._kept_spectra import KeptSpectra
from rankjax.report._matrices_by_name import Layout, guessed_layout, is_floating, matrices_by_name
from rankjax.report._row import Row
from rankjax.report._scaled import with_scales
from rankjax.report._selection import Selection
from rankjax.report._spectra import (
    Spectrum,
    energy_rank,
    measures,
    saved_parameters,
    spectra_of,
    spectrum_of,
    tail_exponent,
)
from rankjax.report._updates import Update, matrices_of, spectrum_of_product, take_updates
from rankjax.report.checkpoints import Checkpoint, load

Progress = Callable[[int, int, str, float], None]


def analyze(
    params: Any,
    *,
    p: Sequence[float] = (0.5,),
    layout: Layout | None = None,
    structure: Structure | None = None,
    embeddings: bool = False,
    reference: Any = None,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    max_size: int | None = None,
    keep: str | Path | None = None,
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
        only: patterns of paths, such as ``"*attn*"``; measured is what matches one of them. A
            pattern covers the whole path: ``*`` stands for any characters, ``/`` too, ``?`` for
            one, ``[ab]`` for one of these. A path matches itself.
        skip: patterns of paths to leave out, also of those that ``only`` chooses.
        max_size: leave out matrices (updates: pairs of factors) with more entries.
        keep: a folder for the singular values of each matrix (not of pairs of factors), as soon as
            they are known; what an earlier run has left there is not computed again.
        progress: called with (matrices done, matrices, path, share of the work that is done) after
            each.

    Pairs of LoRA factors, under the names of every common library, are measured as the update
    ``scale * B A`` that they make, by QR decompositions of the factors; the scale is that of
    ``alpha`` beside them, of ``adapter_config.json`` or of the file's metadata, else 1. 8 bit codes
    are multiplied by the scales beside them.

    Returns:
        ``Analysis``. Leaves with NaN or infinite entries are listed, not measured. What ``only``,
        ``skip`` and ``max_size`` leave out is not decomposed.

    Raises:
        CheckpointError: a path that cannot be read.
        ValueError: an unknown layout, a p that is not positive, layout or embeddings together with
            a structure, a structure that does not fit, a pattern that matches no matrix, a
            ``max_size`` below 1, a ``keep`` that is a file.

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
    selection = Selection.of(only, skip, max_size)
    checkpoint = _checkpoint(params)
    leaves = _arrays(checkpoint)
    if structure is None:
        structure = matrices_by_name(
            leaves, layout=layout, embeddings=embeddings, whole=checkpoint.whole
        )
        seen_as = layout or f"{guessed_layout(structure)}, told by the names"
    else:
        check_structure(structure, checkpoint.tree)
        seen_as = "described"
    updates, structure = take_updates(structure, leaves, adapter_configs(checkpoint))
    base = None if reference is None else _checkpoint(reference)
    left_out = [*structure.left_out, *checkpoint.unread]
    selection.check([one.path for one in (*structure.layers, *updates)], left_out)
    bad, bad_paths = _not_finite(leaves)
    stored, refused = _with_scales(leaves, checkpoint)
    others, refused_there = ({}, {}) if base is None else _with_scales(_arrays(base), base)
    refused = refused_there | refused

    def why_not(layer: Layer) -> LeftOut | None:
        for path, shape in layer.leaves:
            if path in refused:
                return refused[path]
            if path in bad_paths:
                return LeftOut(path, shape, Reason.NOT_FINITE)
            without = None if base is None else _no_partner(path, shape, others)
            if without is not None:
                return without
        return None

    decompose = spectrum_of if keep is None else KeptSpectra(keep)
    matrices: list[_Matrix] = []
    for layer in structure.layers:
        why = selection.why_not(layer.path, layer.shape, math.prod(layer.matrix_shape))
        why = why or why_not(layer)
        if why is None:
            there_too = None if base is None else _array(layer, others)
            matrices += _matrices(layer, _array(layer, stored), there_too, decompose)
        else:
            left_out.append(why)
    there: dict[str, Update] = {}
    if base is not None:
        found, _ = take_updates(matrices_by_name(others), others, adapter_configs(base))
        there = {one.path: one for one in found}
    for update in updates:
        whys = [selection.why_not(update.path, update.shape, update.rank * sum(update.shape))]
        whys = whys if whys[0] else [why_not(update.left), why_not(update.right)]
        if any(whys):
            left_out += [why for why in whys if why]
        else:
            matrices += _products(update, stored, there.get(update.path), others)
    rows, failed = _rows(matrices, tuple(p), progress or (lambda *told: None))
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
    shape: tuple[int, int]
    spectrum: Callable[[], Spectrum]
    leaf_path: str
    update: Update | None = None

    @property
    def work(self) -> int:
        """Multiplications: of the Gram matrix, and twice the cube of its size for eigenvalues."""
        few, many = sorted(self.shape)
        if self.update is None:
            return few**2 * (many + 2 * few)
        return self.update.rank**2 * (few + many)


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


def _with_scales(
    leaves: dict[str, np.ndarray], checkpoint: Checkpoint
) -> tuple[dict[str, Any], dict[str, LeftOut]]:
    return with_scales(leaves, {leaf.path for leaf in checkpoint.unread})


def _array(layer: Layer, leaves: dict[str, Any]) -> Any:
    """What holds the matrix: a leaf, or an array that is computed from leaves."""
    if layer.effect is None:
        return leaves[layer.path]
    return np.asarray(layer.array({path: np.asarray(leaves[path]) for path, _ in layer.leaves}))


def _no_partner(path: str, shape: tuple[int, ...], others: dict[str, Any]) -> LeftOut | None:
    other = others.get(path)
    if other is None:
        why = Reason.NO_REFERENCE.value
    elif other.shape != shape:
        why = f"has shape {other.shape} in the reference"
    elif not is_floating(other.dtype):
        why = f"holds {other.dtype.name} in the reference"
    elif not np.isfinite(np.asarray(other)).all():
        why = "holds entries that are not finite in the reference"
    else:
        return None
    return LeftOut(path, shape, Reason.NO_REFERENCE, why)


def _matrices(
    layer: Layer, leaf: Any, other: Any, decompose: Callable[..., Spectrum]
) -> Iterator[_Matrix]:
    stored = None if other is None else (leaf.dtype, other.dtype)
    for i, j, name in _members(layer, layer.path):

        def spectrum(i: int = i, j: int = j) -> Spectrum:
            reference = None if other is None else matrices_of(layer, other)[i, j]
            return decompose(matrices_of(layer, leaf)[i, j], reference, stored)

        yield _Matrix(name, layer.shape, leaf.dtype, layer.matrix_shape, spectrum, layer.path)


def _products(
    update: Update, leaves: dict[str, Any], other: Update | None, others: dict[str, Any]
) -> Iterator[_Matrix]:
    def factors(one: Update, of: dict[str, Any], i: int, j: int) -> tuple[float, Any, Any]:
        b, a = (matrices_of(layer, of[layer.path])[i, j] for layer in (one.left, one.right))
        return (1.0 if one.scale is None else one.scale), b, a

    for i, j, name in _members(update.left, update.path):

        def spectrum(i: int = i, j: int = j) -> Spectrum:
            reference = None if other is None else factors(other, others, i, j)
            return spectrum_of_product(*factors(update, leaves, i, j), reference)

        dtype = leaves[update.left.path].dtype
        yield _Matrix(name, update.left.shape, dtype, update.shape, spectrum, update.path, update)


def _members(layer: Layer, path: str) -> Iterator[tuple[int, int, str]]:
    for i in range(layer.stacked):
        name = f"{path}[{i}]" if layer.view.stacked else path
        for j in range(layer.parallel):
            yield i, j, name if layer.parallel == 1 else f"{name}[{j}]"


def _rows(
    matrices: list[_Matrix], p: tuple[float, ...], progress: Progress
) -> tuple[list[Row], list[LeftOut]]:
    # The large ones first, so that no core is left with one of them at the end.
    order = sorted(range(len(matrices)), key=lambda i: -matrices[i].work)
    count, work, all_work = 0, 0, sum(one.work for one in matrices)

    def done(i: int) -> None:
        nonlocal count, work
        count, work = count + 1, work + matrices[order[i]].work
        progress(count, len(matrices), matrices[order[i]].path, work / all_work)

    calls = [matrices[i].spectrum for i in order]
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
    out, in_ = one.shape
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
        saved_at=tuple(_saved(one, rank) for rank in ranks),
        relative_change=None if norm is None else change,
        singular_values=spectrum.sigma,
        given_rank=None if one.update is None else one.update.rank,
        scale=None if one.update is None else one.update.scale,
        leaf_path=one.leaf_path,
    )


def _saved(one: _Matrix, rank: int) -> int:
    out, in_ = one.shape
    if one.update is None:
        return saved_parameters(out, in_, rank)
    return max(0, one.update.rank - rank) * (out + in_)
