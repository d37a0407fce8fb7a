"""A factorized tree in a safetensors file, for deployment and to go on from."""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.network.internal import path_string, paths_and_leaves
from rankjax.training._factorize import Factors


def save_factorized(path: str | os.PathLike[str], factorized: Any, /) -> None:
    """Write the arrays of a tree to a safetensors file, factors as ``<path>/left``, ``.../right``.

    The metadata of the file say under ``factors``, as JSON by path, which axes of the leaf are
    ``out``, ``in``, ``stacked`` and ``parallel``, and how many ``groups`` there are, so that other
    programs can multiply the factors. A tree from ``densify`` is written the same way, with one
    array per leaf. Leaves that are no arrays are left out.

    Raises:
        ValueError: two leaves of one name, or a random key.
        ImportError: without the package ``safetensors`` (``pip install 'rankjax[report]'``).

    Example:
        >>> import jax.numpy as jnp, pathlib, tempfile
        >>> from rankjax import describe
        >>> from rankjax.training import factorize
        >>> params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
        >>> small = factorize(describe(params), params, ranks=1)
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> save_factorized(file, small)
        >>> load_factorized(file, small)["kernel"].left.shape
        (1, 20)
    """
    from safetensors.numpy import save_file

    leaves = [(name, a) for name, a in paths_and_leaves(factorized) if hasattr(a, "shape")]
    for name, array in leaves:
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise ValueError(f"factorized: {name!r} is a random key; pass the parameters alone")
    arrays = {name: np.asarray(a, order="C") for name, a in leaves}
    if len(arrays) < len(leaves):
        raise ValueError(f"factorized: several leaves of one name; got {[n for n, _ in leaves]}")
    nodes, _ = jax.tree_util.tree_flatten_with_path(
        factorized, is_leaf=lambda node: isinstance(node, Factors)
    )
    views = {
        path_string(key): {
            "out": node.view.out,
            "in": node.view.in_,
            "stacked": node.view.stacked,
            "parallel": node.view.parallel,
            "groups": node.groups,
        }
        for key, node in nodes
        if isinstance(node, Factors)
    }
    save_file(arrays, path, metadata={"factors": json.dumps(views)})


def load_factorized(path: str | os.PathLike[str], like: Any, /) -> Any:
    """The tree that ``save_factorized`` wrote.

    Args:
        path: of the file.
        like: a tree of the same form, such as that of ``jax.eval_shape`` over ``factorize``; its
            leaves that are no arrays are kept.

    Raises:
        ValueError: the file lacks a leaf, or has it in another shape or dtype.
        ImportError: without the package ``safetensors``.
    """
    from safetensors.numpy import load_file

    found = load_file(path)

    def read(key: Any, leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        name = path_string(key)
        array = found.get(name)
        if array is None or (array.shape, array.dtype) != (tuple(leaf.shape), leaf.dtype):
            got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ValueError(
                f"path: {os.fspath(path)} has {got} at {name!r}, must be "
                f"{jnp.dtype(leaf.dtype)}{list(leaf.shape)}"
            )
        return jnp.asarray(array)

    return jax.tree_util.tree_map_with_path(read, like)
