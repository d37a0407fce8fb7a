"""A smaller parameter tree: weight matrices of low rank as two thin factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._arguments import at_least_float32, concrete
from rankjax._linear_algebra import matmul, svd
from rankjax.matrix import spectrum
from rankjax.network import Layer, OutputMoments, Structure, View, measure
from rankjax.network.internal import check_structure, path_string, paths_and_leaves, ranks_within
from rankjax.training._schedule import matched

Ranks = int | np.integer | Mapping[str, int | np.integer]
#: Singular values up to this, relative to the largest of their matrix, are cut away by default.
DEFAULT_RTOL = 1e-3


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("left", "right"),
    meta_fields=("view", "groups"),
)
@dataclass(frozen=True)
class Factors:
    """Two factors in place of a weight leaf: ``A = left @ right``, as matrices ``(out, in)``.

    Each factor has the axes of the leaf, except that one axis of length ``r`` replaces the (first)
    output axis in ``right`` and the (first) input axis in ``left``. Further output or input axes
    are dropped, batch axes stay. So for

    - a Flax kernel ``(in, out)``: ``right (in, r)``, ``left (r, out)``, ``x @ right @ left``;
    - a torch or Equinox weight ``(out, in)``: ``left (out, r)``, ``right (r, in)``;
    - attention ``(in, heads, head)``: ``right (in, r)``, ``left (r, heads, head)``;
    - a Flax convolution ``(h, w, in, out)``: ``right (h, w, in, r)``, a convolution into ``r``
      channels, and ``left (r, out)``, a 1 x 1 convolution;
    - the same with g groups: ``right (h, w, in / g, g r)`` and ``left (r, out)``, both of g groups;
    - a stack ``(layers, in, out)``: ``right (layers, in, r)``, ``left (layers, r, out)``.

    A node of the tree, so optimizers and ``jax.tree.map`` reach both factors.

    Attributes:
        left: the factor with the output axes.
        right: the factor with the input axes.
        view: the axes of the leaf by role (static).
        groups: of a grouped convolution (static).
    """

    left: Any
    right: Any
    view: View
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf that they replace."""
        places = _places(self.view)
        return tuple(
            jnp.shape(self.right)[places["right"].index(axis)]
            if axis in self.view.in_
            else jnp.shape(self.left)[places["left"].index(axis)]
            for axis in range(len(self.view.order))
        )


@dataclass(frozen=True)
class EffectiveParams:
    """How many numbers a parameter tree holds, and how many are left when it is factorized.

    Attributes:
        ranks: the rank of each leaf of the structure that becomes smaller by factors.
        dense: entries of each leaf of the structure.
        effective: entries of each leaf when it is factorized, ``dense`` where that is no less.
        rest: entries of all other leaves.
    """

    ranks: dict[str, int]
    dense: dict[str, int]
    effective: dict[str, int]
    rest: int

    @property
    def total(self) -> int:
        """Entries of the whole tree as it is."""
        return sum(self.dense.values()) + self.rest

    @property
    def total_effective(self) -> int:
        """Entries of the whole tree when it is factorized."""
        return sum(self.effective.values()) + self.rest

    @property
    def saved(self) -> int:
        """The difference."""
        return self.total - self.total_effective

    def __str__(self) -> str:
        rows = [("layer", "rank", "parameters", "factorized", "saved")]
        sizes = [(path, self.dense[path], self.effective[path]) for path in self.dense]
        for path, old, new in [*sizes, ("other leaves", self.rest, self.rest)]:
            rank = str(self.ranks.get(path, "-"))
            rows.append((path, rank, str(old), str(new), _percent(old, new)))
        old, new = self.total, self.total_effective
        rows.append(("total", "", str(old), str(new), _percent(old, new)))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        return "\n".join(lines)


def effective_params(
    structure: Structure,
    params: Any,
    *,
    ranks: Ranks | None = None,
    budget: float | None = None,
    moments: OutputMoments | None = None,
    rtol: float = DEFAULT_RTOL,
) -> EffectiveParams:
    """What ``factorize`` saves, leaf by leaf and in total; a table when printed.

    Args:
        params: the parameters, concrete where ``ranks`` is ``None``.
        ranks: one rank, or a mapping from paths or patterns (leaves that it does not name stay
            dense); one per leaf, shared by the matrices of a stack. ``None``: the largest number,
            over the matrices of the leaf, of singular values above ``rtol`` times the largest.
        budget: in place of ``ranks``: the share of the entries of all leaves of the structure that
            may remain, in (0, 1]. Ranks are shared out where an entry keeps most of its matrix's
            squared Frobenius norm, or of its outputs' where ``moments`` are given.
        moments: what the matrices make of a sample; see ``factorize``.
        rtol: for neither.

    Raises:
        ValueError: a tree that does not fit, an unknown path, a rank below 1 or above the leaf's,
            both ``ranks`` and ``budget``, or a budget below what rank 1 everywhere needs.

    Cost: one SVD per matrix for ``ranks=None``, else nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
        >>> print(effective_params(describe(params), params))
        layer         rank  parameters  factorized  saved
        kernel           1         600          50    92%
        other leaves     -          20          20     0%
        total                      620          70    89%
    """
    check_structure(structure)
    dense = {layer.path: int(np.prod(layer.shape)) for layer in structure.layers}
    chosen = _ranks(structure, params, ranks, budget, moments, rtol)
    sizes = [(layer, _factored_size(layer, chosen.get(layer.path))) for layer in structure.layers]
    smaller = {layer.path: size for layer, size in sizes if size < dense[layer.path]}
    structure.leaves(params)
    arrays = [leaf for _, leaf in paths_and_leaves(params) if hasattr(leaf, "shape")]
    everything = sum(int(np.prod(leaf.shape)) for leaf in arrays)
    return EffectiveParams(
        ranks={path: chosen[path] for path in smaller},
        dense=dense,
        effective={path: smaller.get(path, size) for path, size in dense.items()},
        rest=everything - sum(dense.values()),
    )


def factorize(
    structure: Structure,
    params: Any,
    ranks: Ranks | None = None,
    *,
    budget: float | None = None,
    moments: OutputMoments | None = None,
    rtol: float = DEFAULT_RTOL,
) -> Any:
    """A smaller tree: weight leaves replaced by the two ``Factors`` of their best approximation.

    Each matrix is cut to its ``r`` largest singular values (Eckart-Young: the best of rank r in
    every unitarily invariant norm), ``left = U sqrt(S)`` and ``right = sqrt(S) V^T``: balanced, fit
    for further training. A leaf that two factors would not make smaller stays as it is.

    With ``moments`` the best approximation is that of what the matrix makes of a sample: of all
    ``A'`` of rank r the one with the smallest ``|(A - A') X|_F``, which is ``U U^T A`` with the r
    top eigenvectors ``U`` of ``A X X^T A^T``. A pretrained network loses far less accuracy that
    way. Leaves among ``moments.missing`` are cut as without.

    Args:
        params: the parameters; concrete where ``ranks`` is ``None``, otherwise also traced.
        ranks: one rank, or a mapping from paths, as in ``effective_params``, whose ``ranks`` fit.
        budget: share of the entries that may remain, in place of ``ranks``.
        moments: from ``OutputMoments.from_data`` of these parameters.
        rtol: for neither.

    Returns:
        The tree with a ``Factors`` in place of each chosen leaf (its dtype, half precision
        decomposed in float32). ``lowrank`` runs the network on it; ``densify`` restores the tree
        that the network expects.

    Raises:
        ValueError: as ``effective_params``.

    Cost: one SVD per matrix, two for ``ranks=None``; with ``moments`` an ``eigh`` of the
    smaller side each.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
        >>> small = factorize(describe(params), params, ranks=2)
        >>> small["kernel"].right.shape, small["kernel"].left.shape
        ((30, 2), (2, 20))
        >>> round(float(densify(describe(params), small)["kernel"][3, 4]), 4)
        1.0
    """
    options = {"ranks": ranks, "budget": budget, "moments": moments, "rtol": rtol}
    chosen = effective_params(structure, params, **options).ranks
    known = {} if moments is None else moments.moments
    new = [
        _split(layer, jnp.asarray(leaf), chosen[layer.path], known.get(layer.path))
        if layer.path in chosen
        else leaf
        for layer, leaf in zip(structure.layers, structure.leaves(params), strict=True)
    ]
    return structure.replace_leaves(params, new)


def densify(structure: Structure, factorized: Any) -> Any:
    """Undo ``factorize``: multiply the factors, so that the network can be applied.

    Pure and differentiable: ``apply(densify(structure, small), x)`` trains the factors themselves.
    The product costs as much as applying the layer to ``r`` vectors; ``lowrank`` runs the network
    without it, and saves time as well.

    Args:
        structure: the one of the dense tree.
        factorized: from ``factorize``, or a tree of that form.

    Returns:
        The tree with an array in place of each ``Factors``.

    Raises:
        ValueError: if the result does not fit the structure.
    """
    check_structure(structure)
    layers = {layer.path: layer for layer in structure.layers}

    def dense(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, Factors):
            return leaf
        name = path_string(path)
        if name not in layers:
            raise ValueError(f"factorized: factors at {name!r}; the structure has {list(layers)}")
        return _join(layers[name], leaf)

    tree = jax.tree_util.tree_map_with_path(
        dense, factorized, is_leaf=lambda node: isinstance(node, Factors)
    )
    structure.leaves(tree)
    return tree


def _percent(old: int, new: int) -> str:
    return f"{100 * (old - new) / max(old, 1):.0f}%"


def _ranks(
    structure: Structure,
    params: Any,
    ranks: Ranks | None,
    budget: float | None,
    moments: OutputMoments | None,
    rtol: float,
) -> dict[str, int]:
    _check_moments(structure, moments)
    if budget is not None:
        if ranks is not None:
            raise ValueError("budget: give either ranks or budget, not both")
        return _within(budget, structure, params, moments)
    if ranks is None:
        if not 0 <= rtol < 1:
            raise ValueError(f"rtol: got {rtol!r}, must be in [0, 1)")
        sigma = measure(structure, params).sigma
        found = {}
        for layer, s in zip(structure.layers, sigma, strict=True):
            _check_finite(layer.path, s)
            rank = np.max(np.asarray(spectrum.numerical_rank(s, rtol=rtol)), initial=0)
            found[layer.path] = max(1, int(rank))  # a zero matrix keeps one column, of zeros
        return found
    if isinstance(ranks, Mapping):
        chosen = matched([layer.path for layer in structure.layers], ranks, "ranks")
    else:
        # One number for all: leaves of a smaller rank keep theirs (and so stay dense).
        chosen = {
            layer.path: min(ranks, *layer.matrix_shape) if _whole(ranks) else ranks
            for layer in structure.layers
        }
    for layer in structure.layers:
        rank, most = chosen.get(layer.path, 1), min(layer.matrix_shape)
        if not _whole(rank) or not 1 <= rank <= max(most, 1):
            raise ValueError(
                f"ranks for {layer.path!r}: got {rank!r}, must be a whole number from 1 to {most}"
            )
    return {path: int(rank) for path, rank in chosen.items()}


def _whole(rank: Any) -> TypeGuard[int | np.integer]:
    return isinstance(rank, (int, np.integer)) and not isinstance(rank, bool)


def _check_finite(path: str, sigma: Any) -> None:
    known = concrete(sigma)
    if known is None:
        raise ValueError(
            f"params: {path!r} is traced, so that its rank is not known; give ranks=, or call this "
            "outside of jit"
        )
    if not np.all(np.isfinite(known)):
        raise ValueError(f"params: {path!r} holds numbers that are not finite")


def _check_moments(structure: Structure, moments: OutputMoments | None) -> None:
    if moments is None:
        return
    if not isinstance(moments, OutputMoments):
        raise ValueError(
            f"moments: got {type(moments).__name__}, must be from OutputMoments.from_data"
        )
    layers = {layer.path: layer for layer in structure.layers}
    for path, moment in moments.moments.items():
        layer = layers.get(path)
        expected = None if layer is None else (layer.stacked, *2 * layer.matrix_shape[:1])
        if moment.shape != expected:
            raise ValueError(
                f"moments: at {path!r} of shape {moment.shape}, must be {expected} for this "
                "structure; take them from OutputMoments.from_data with this structure"
            )
        if not np.all(np.isfinite(moment)):
            raise ValueError(
                f"moments: those of {path!r} are not finite; the params or the x that they were "
                "taken from make outputs that are not"
            )


def _within(
    budget: float, structure: Structure, params: Any, moments: OutputMoments | None
) -> dict[str, int]:
    """Ranks under a budget, by the energy that each rank keeps."""
    known = {} if moments is None else moments.moments
    gains = []
    for layer, sigma in zip(structure.layers, measure(structure, params).sigma, strict=True):
        _check_finite(layer.path, sigma)
        squares = np.square(np.asarray(sigma, np.float64)).reshape(-1, np.shape(sigma)[-1])
        if layer.path in known:
            squares = np.maximum(_principal(layer, known[layer.path])[0], 0.0)
        whole = np.sum(squares, -1, keepdims=True)
        gains.append(np.mean(squares / np.where(whole > 0, whole, 1), 0) / sum(layer.matrix_shape))

    def cost(ranks: list[int]) -> int:
        pairs = zip(structure.layers, ranks, strict=True)
        return sum(min(_factored_size(y, rank), _factored_size(y, None)) for y, rank in pairs)

    whole = sum(_factored_size(layer, None) for layer in structure.layers)
    found = ranks_within(budget, gains, cost, whole)
    return {layer.path: rank for layer, rank in zip(structure.layers, found, strict=True)}


def _principal(layer: Layer, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors, from the largest: as many as the matrix may have rank.

    Outputs of a matrix with fewer inputs lie in as many directions, which random mixtures of them
    span: a decomposition of the smaller side, not of the larger.
    """
    out, in_ = layer.matrix_shape
    if in_ < out:
        mixtures = moment @ np.random.default_rng(0).normal(size=(out, in_))
        span = np.linalg.qr(mixtures)[0]
        values, inner = np.linalg.eigh(np.swapaxes(span, -1, -2) @ moment @ span)
        vectors = span @ inner
    else:
        values, vectors = np.linalg.eigh(moment)
    return values[:, ::-1], vectors[..., ::-1]


def _factored_size(layer: Layer, rank: int | None) -> int:
    out, in_ = layer.matrix_shape
    count = layer.stacked * layer.parallel
    return count * (out + in_) * rank if rank is not None else count * out * in_


def _split(layer: Layer, leaf: Array, rank: int, moment: np.ndarray | None) -> Factors:
    matrix = at_least_float32(layer.matrix(leaf))
    if moment is None:
        u, s, vt = svd(matrix)
    else:
        vectors = _principal(layer, moment)[1]
        basis = jnp.asarray(vectors[:, None, :, :rank], matrix.dtype)
        inner, s, vt = svd(matmul(jnp.swapaxes(basis, -1, -2), matrix))
        u = matmul(basis, inner)
    root = jnp.sqrt(s[..., :rank])
    left, right = u[..., :rank] * root[..., None, :], root[..., :, None] * vt[..., :rank, :]
    thin, wide = _thin(layer, "in_", rank), _thin(layer, "out", rank)
    factors = thin.leaf(left).astype(leaf.dtype), wide.leaf(right).astype(leaf.dtype)
    return Factors(*factors, view=layer.view, groups=layer.groups)


def _join(layer: Layer, factors: Factors) -> Array:
    check_factors(factors, layer.path)
    found, expected = (factors.view, factors.shape), (layer.view, layer.shape)
    if found != expected or factors.groups != layer.groups:
        raise ValueError(
            f"factorized: at {layer.path!r} the factors are those of a leaf {found}, with groups: "
            f"{factors.groups}; the structure has {expected}, {layer.groups}"
        )
    rank = jnp.shape(factors.left)[_places(layer.view)["left"].index(min(layer.view.in_))]
    left = _thin(layer, "in_", rank).matrix(jnp.asarray(factors.left))
    right = _thin(layer, "out", rank).matrix(jnp.asarray(factors.right))
    return layer.leaf(matmul(left, right))


def check_factors(factors: Factors, path: str) -> None:
    """Refuses factors whose axes do not fit each other.

    Raises:
        ValueError: with the shapes.
    """
    left, right = jnp.shape(factors.left), jnp.shape(factors.right)
    places, view = _places(factors.view), factors.view
    fits = (len(left), len(right)) == (len(places["left"]), len(places["right"]))
    if fits:
        rank = left[places["left"].index(min(view.in_))]
        fits = right[places["right"].index(min(view.out))] == rank * factors.groups
        fits &= factors.shape[min(view.out)] % factors.groups == 0
        fits &= all(
            left[places["left"].index(axis)] == right[places["right"].index(axis)]
            for axis in (*view.stacked, *view.parallel)
        )
    if not fits:
        raise ValueError(
            f"factorized: at {path!r} left has shape {left} and right {right}, which are no "
            f"factors of a leaf seen as {view}; see Factors"
        )


def _places(view: View) -> dict[str, list[int]]:
    """The axis of the leaf in the place of each axis of a factor."""
    axes = range(len(view.order))
    return {
        "left": [axis for axis in axes if axis not in view.in_ or axis == min(view.in_)],
        "right": [axis for axis in axes if axis not in view.out or axis == min(view.out)],
    }


def _thin(layer: Layer, side: str, rank: int) -> Layer:
    """The layer with one axis of length ``rank`` for all axes of ``side`` ("out" or "in_")."""
    replaced: tuple[int, ...] = getattr(layer.view, side)
    first = min(replaced)
    kept = [axis for axis in range(len(layer.shape)) if axis not in replaced or axis == first]
    length = rank * layer.groups if side == "out" else rank
    shape = tuple(length if axis == first else layer.shape[axis] for axis in kept)

    def moved(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(kept.index(axis) for axis in axes if axis in kept)

    view = layer.view
    new = View(moved(view.out), moved(view.in_), moved(view.stacked), moved(view.parallel))
    return replace(layer, shape=shape, view=new)
