"""Arrays on a mesh with explicit axes: JAX types their shardings and refuses what is ambiguous.

``A^T A`` of a matrix that is cut along its rows has no obvious sharding, an SVD has no rule at
all, and both are errors on explicit axes. On automatic axes the compiler chooses. The public
functions here that take weights run in that mode, whatever the axes of the mesh are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import jax
from jax import Array
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

F = TypeVar("F", bound=Callable[..., Any])


def automatic(function: F) -> F:
    """``function`` with the explicit axes of its arguments' mesh turned into automatic ones.

    The results are replicated over the mesh; derivatives have the sharding of what they belong to.
    Without explicit axes it is the same function.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        arrays = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Array)]
        mesh = _explicit_mesh([leaves[i] for i in arrays])
        if mesh is None:
            return function(*args, **kwargs)

        def on_arrays(*values: Array) -> Any:
            filled = list(leaves)
            for i, value in zip(arrays, values, strict=True):
                filled[i] = value
            args, kwargs = jax.tree.unflatten(treedef, filled)
            return function(*args, **kwargs)

        everywhere = NamedSharding(mesh, PartitionSpec())  # pyright: ignore[reportArgumentType]
        inside = jax.sharding.auto_axes(on_arrays, axes=mesh.explicit_axes, out_sharding=everywhere)
        return inside(*(leaves[i] for i in arrays))

    return run  # pyright: ignore[reportReturnType]


def on_devices(a: Array) -> bool:
    """Whether the compiler may cut ``a``: it lies on a mesh with automatic axes of several devices.

    How it is cut only the compiler knows.
    """
    mesh = jax.typeof(a).sharding.mesh
    sizes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return any(size > 1 for size, kind in sizes if kind == AxisType.Auto)


def _explicit_mesh(arrays: Sequence[Array]) -> AbstractMesh | None:
    """The mesh of the context or of an array, if it has explicit axes."""
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(a).sharding.mesh for a in arrays]
    return next((m for m in meshes if AxisType.Explicit in m.axis_types), None)
