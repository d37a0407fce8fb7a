"""Which weight matrices a parameter tree holds: a static description, made by ``describe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from rankjax.network._convolution import Convolution
from rankjax.network._expressions import Effect
from rankjax.network._left_out import LeftOut
from rankjax.network._paths import path_string, paths_and_leaves
from rankjax.network._view import View


@dataclass(frozen=True)
class Layer:
    """One leaf that is a weight matrix, or a stack of them (static, hashable).

    Where ``apply`` changes leaves before they meet the data (a scale, a mask, weight normalization,
    ``W + A B``, a part of a leaf), the layer is what comes out, computed by ``effect``.

    Attributes:
        path: the leaf's path, keys joined by ``/``; of a matrix that is computed from leaves, the
            path of the largest, numbered where several come from one.
        shape: the leaf's shape, or that of the array that is computed.
        view: which of its axes are outputs, inputs and batch.
        lipschitz: Lipschitz constant of what follows the layer, before the next one.
        uses: uses of each of its matrices in one forward pass (more than 1: tied weights).
        positions: how many times each matrix is applied to one example (patches, tokens),
            ``None`` where that is not known because ``describe`` had no forward function.
        convolution: its geometry, where the layer is a convolution and was traced.
        effect: how it is computed from leaves; ``None``: it is a leaf.
    """

    path: str
    shape: tuple[int, ...]
    view: View
    lipschitz: float = 1.0
    uses: int = 1
    positions: int | None = None
    convolution: Convolution | None = None
    effect: Effect | None = None

    @property
    def groups(self) -> int:
        """Number of groups of a grouped convolution; each is a matrix of its own."""
        return self.convolution.groups if self.convolution else 1

    @property
    def stacked(self) -> int:
        """Number of matrices that follow one another (scanned layers)."""
        return self.view.batch_shape(self.shape)[0]

    @property
    def parallel(self) -> int:
        """Number of matrices that work side by side (experts, groups)."""
        return self.view.batch_shape(self.shape)[1] * self.groups

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """``(out, in)`` of each matrix."""
        out, in_ = self.view.matrix_shape(self.shape)
        return out // self.groups, in_

    @property
    def gather_norm(self) -> float:
        """Norm of the operator that gathers patches, 1 for a dense layer."""
        return self.convolution.gather_norm if self.convolution else 1.0

    def matrix(self, leaf: Array) -> Array:
        """The leaf as ``(stacked, parallel, out, in)``."""
        return self.view.to_matrix(leaf).reshape(self.stacked, self.parallel, *self.matrix_shape)

    @property
    def leaves(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Paths and shapes of the leaves that it is, or is computed from."""
        if self.effect is None:
            return ((self.path, self.shape),)
        return tuple(zip(self.effect.paths, self.effect.shapes, strict=True))

    def array(self, leaves: Mapping[str, Any]) -> Array:
        """The array that holds the matrix, from leaves by path."""
        compute = None if self.effect is None else self.effect.compute
        return jnp.asarray(leaves[self.path]) if compute is None else compute(leaves)

    def leaf(self, matrix: Array) -> Array:
        """Undo ``matrix``."""
        return self.view.from_matrix(matrix, self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """One name per matrix that follows another: the path, numbered where it is a stack."""
        if not self.view.stacked:
            return (self.path,)
        return tuple(f"{self.path}[{i}]" for i in range(self.stacked))


@dataclass(frozen=True)
class Structure:
    """The weight matrices of a parameter tree, in the order in which they are applied.

    Static and hashable: pass it through ``jax.jit`` as a static argument or close over it. Printing
    it shows what is included, how it is seen as a matrix, and what is left out and why.

    Attributes:
        layers: the leaves that are matrices, or stacks of them.
        left_out: the other leaves, each with the reason.
        mesh: devices to spread decompositions over, see ``spread_over``.
        outside: what the network does that a chain of these layers does not, one phrase each; an
            explicit bound for chains says nothing about it then. ``None``: ``describe`` had no
            ``apply``, and nobody knows.
        biases: leaves that are added to activations; no bound counts them.
        homogeneous: whether the network, without its biases, is positively homogeneous and nothing
            is outside, as the theory of path norms asks; only a trace can tell.
    """

    layers: tuple[Layer, ...]
    left_out: tuple[LeftOut, ...] = ()
    mesh: Mesh | None = None
    outside: tuple[str, ...] | None = None
    biases: tuple[str, ...] = ()
    homogeneous: bool = False

    def spread_over(self, mesh: Mesh | None) -> Structure:
        """The same structure, whose decompositions are spread over the devices of ``mesh``.

        Without it, every device decomposes every matrix. With it, the matrices of equal shape are
        dealt out, in ``measure``, in the penalties and in the Optax transformations, under ``jit``
        and differentiation alike; ``None`` undoes it. See ``docs/distribution.md``.

        Example:
            >>> import jax
            >>> from rankjax import describe
            >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
            >>> structure = describe({"kernel": jax.numpy.eye(2)}).spread_over(mesh)
            >>> structure.mesh is mesh
            True
        """
        return replace(self, mesh=mesh)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices, one for each member of a stack."""
        return tuple(name for layer in self.layers for name in layer.names)

    def matrices(self, params: Any) -> tuple[Array, ...]:
        """The weight matrices of ``params``, each ``(stacked, parallel, out, in)``.

        Pure and traceable; the tree may be any that has these paths with these shapes (parameters,
        gradients, an initialization, a pure dictionary of an NNX state).

        Raises:
            ValueError: if a path is missing or a leaf has another shape.
        """
        found = self.check(params)
        return tuple(layer.matrix(layer.array(found)) for layer in self.layers)

    def check(self, params: Any) -> dict[str, Any]:
        """All leaves of ``params`` by path, after a look at those that the layers need.

        Raises:
            ValueError: if one is missing, has another shape, or is complex.
        """
        found = dict(paths_and_leaves(params))
        for layer in self.layers:
            for path, shape in layer.leaves:
                if path not in found:
                    raise ValueError(
                        f"params has no leaf {path!r}; it holds {sorted(found)} and should hold "
                        f"{[other.path for other in self.layers]}"
                    )
                got = jnp.shape(found[path])
                if got != shape:
                    raise ValueError(
                        f"params[{path!r}] has shape {got}; this structure expects {shape}"
                    )
                check_real(path, found[path])
        return found

    def leaves(self, params: Any) -> tuple[Any, ...]:
        """The leaves themselves, checked, in the order of ``layers``.

        Raises:
            ValueError: as ``matrices``; for a matrix that is computed from leaves, which cannot be
                set.
        """
        found = self.check(params)
        for layer in self.layers:
            if layer.effect is not None:
                raise ValueError(
                    f"structure: the matrix of {layer.path!r} is computed from "
                    f"{list(layer.effect.paths)} (by {', '.join(layer.effect.steps)}), so that it "
                    "can be measured and penalized, not replaced; leave it out by mask="
                )
        return tuple(found[layer.path] for layer in self.layers)

    def replace(self, params: Any, matrices: Sequence[Array]) -> Any:
        """``params`` with its weight matrices replaced; everything else is kept.

        ``matrices`` are as the method of that name returns them.
        """
        pairs = zip(self.layers, matrices, strict=True)
        return self.replace_leaves(params, [layer.leaf(matrix) for layer, matrix in pairs])

    def replace_leaves(self, params: Any, leaves: Sequence[Any]) -> Any:
        """``params`` with its weight leaves replaced; ``leaves`` are as ``leaves`` returns them."""
        self.leaves(params)  # refuses matrices that are computed
        new = {layer.path: leaf for layer, leaf in zip(self.layers, leaves, strict=True)}
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: new.get(path_string(path), leaf), params
        )

    def __str__(self) -> str:
        rows = [("layer", "leaf", "seen as (out, in)", "matrices", "positions", "Lipschitz after")]
        for layer in self.layers:
            m, n = layer.matrix_shape
            count = " x ".join(str(c) for c in (layer.stacked, layer.parallel) if c > 1) or "1"
            positions = "?" if layer.positions is None else str(layer.positions)
            shape = str(layer.shape)
            rows.append((layer.path, shape, f"{m} x {n}", count, positions, f"{layer.lipschitz:g}"))
        text = _align(rows)
        computed = [layer for layer in self.layers if layer.effect is not None]
        if computed:
            rows = [(x.path, "from " + ", ".join(x.effect.paths), "by " + ", ".join(x.effect.steps))
                    for x in computed if x.effect is not None]  # fmt: skip
            text += "\n\ncomputed\n" + _align(rows)
        if self.left_out:
            rows = [(leaf.path, str(leaf.shape), leaf.text) for leaf in self.left_out]
            text += "\n\nleft out\n" + _align(rows)
        if self.outside:
            text += "\n\nno chain of these layers: it " + "; ".join(self.outside)
        return text


def check_structure(structure: Any, params: Any = None) -> Structure:
    """The structure itself.

    Raises:
        ValueError: anything else, such as parameters that were passed in its place; ``params``
            that are given and do not fit.
    """
    if not isinstance(structure, Structure):
        raise ValueError(
            f"structure: got {type(structure).__name__}, must be a Structure from "
            "describe; the structure comes first, then the parameters"
        )
    if params is not None:
        structure.check(params)
    return structure


def check_real(path: str, leaf: Any) -> None:
    """Raise ``ValueError`` for complex numbers: their imaginary part would be dropped."""
    if jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.complexfloating):
        raise ValueError(
            f"params[{path!r}] is complex ({leaf.dtype}); weights must be real, or leave it out by "
            "mask="
        )


def check_real_effect(layer: Layer, leaves: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a complex matrix that is computed from real leaves."""
    if layer.effect is None:
        return
    used = {path: leaves[path] for path in layer.effect.paths}
    dtype = jax.eval_shape(layer.array, used).dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"the matrix of {layer.path!r}, computed from {list(used)}, is complex ({dtype}); it "
            f"must be real, or leave {layer.effect.paths[0]!r} out by mask="
        )


def check_both(apply: Any, example: Any) -> None:
    """Raise ``ValueError`` if only one of them is given."""
    if (apply is None) != (example is None):
        given = "example" if apply is None else "apply"
        raise ValueError(f"apply and example belong together; got only {given}")


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
