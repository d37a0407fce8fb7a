"""Orbax folders, read through TensorStore alone: which arrays there are is a JSON file.

Not through Orbax: its import takes seconds, it wants a target tree or guesses one, and sizes could
not be checked before they are allocated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import (
    DTYPES,
    CheckpointError,
    check_expansion,
    checked_shape,
    number_of_bytes,
    shown,
)
from rankjax.report.checkpoints._folder import ORBAX

_LARGEST_METADATA = 100_000_000


def read_orbax(root: Path) -> tuple[dict[str, Any], list[LeftOut]]:
    """The tree of an Orbax folder as nested dictionaries; and what was not read.

    Raises:
        CheckpointError: a damaged folder, or without the package ``tensorstore``.
    """
    try:
        import tensorstore
    except ImportError as error:
        raise CheckpointError(f"{root}: {error}; pip install 'rankjax[orbax]'") from None
    stored = _stored_bytes(root)
    metadata = _metadata(root)
    stores: dict[tuple[str, ...], Any] = {}
    unread: list[LeftOut] = []
    unpacked = 0
    for entry in metadata["tree_metadata"].values():
        keys, kind = _keys(entry, root)
        path = "/".join(keys)
        if kind not in {"jax.Array", "np.ndarray"}:
            why = f"{shown(str(kind))}, not an array"
            unread.append(LeftOut(path, (), Reason.NOT_READ, why))
            continue
        what = f"{root}, {shown(path)!r}"
        try:
            store = tensorstore.open(_spec(root, keys, metadata), open=True, read=True).result()
            dtype = store.dtype.numpy_dtype
            shape = checked_shape(list(store.shape), what)
        except CheckpointError:
            raise
        except Exception as error:  # TensorStore raises ValueError, KeyError, OSError and others
            raise _damaged(what, error) from None
        if dtype.name not in DTYPES:
            why = f"dtype {dtype.name} is not read"
            unread.append(LeftOut(path, shape, Reason.NOT_READ, why))
            continue
        if keys in stores:
            raise CheckpointError(f"{what} is there twice")
        unpacked += number_of_bytes(shape, dtype)
        stores[keys] = store
    # Sizes are known before anything is allocated.
    check_expansion(unpacked, stored, str(root))
    tree: dict[str, Any] = {}
    for keys, store in stores.items():
        try:
            array = np.asarray(store.read().result())
        except Exception as error:
            raise _damaged(f"{root}, {shown('/'.join(keys))!r}", error) from None
        _put(tree, keys, array, root)
    return tree, unread


def _stored_bytes(root: Path) -> int:
    total = 0
    for path in root.rglob("*"):
        if path.is_file():
            total += path.stat().st_size
        elif not path.is_dir():  # a pipe would be waited for, for ever
            raise CheckpointError(f"{shown(str(path))} is neither a file nor a folder")
    return total


def _damaged(what: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{what} is truncated or damaged: {shown(str(error))}")


def _metadata(root: Path) -> dict[str, Any]:
    path = root / ORBAX
    if path.stat().st_size > _LARGEST_METADATA:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes: too large")
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON text: {shown(str(error))}") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("tree_metadata"), dict):
        raise CheckpointError(f"{path} describes no tree (no 'tree_metadata')")
    return metadata


def _keys(entry: Any, root: Path) -> tuple[tuple[str, ...], Any]:
    try:
        keys = tuple(item["key"] for item in entry["key_metadata"])
        kind = entry["value_metadata"]["value_type"]
    except (TypeError, KeyError):
        keys, kind = (), None
    # A key is part of a file's path in one of the two formats.
    if not keys or not all(isinstance(k, str) and k and ".." not in k for k in keys):
        raise CheckpointError(f"{root / ORBAX}: {shown(repr(entry))} is no description of a leaf")
    if keys[0].startswith("/") or any("\0" in key for key in keys):
        raise CheckpointError(f"{root / ORBAX}: got the key {shown(keys[0])!r}")
    return keys, kind


def _spec(root: Path, keys: tuple[str, ...], metadata: Mapping[str, Any]) -> dict[str, Any]:
    name = ".".join(keys)
    if (root / "manifest.ocdbt").exists():  # the metadata of older releases say so of all folders
        base = {"driver": "file", "path": f"{root.resolve()}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        store = {"driver": "file", "path": f"{root.resolve() / name}/"}
    return {
        "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
        "kvstore": store,
        # A chunk that is not there is zeros only where zeros were not stored.
        "fill_missing_data_reads": not metadata.get("store_array_data_equal_to_fill_value"),
    }


def _put(tree: dict[str, Any], keys: tuple[str, ...], array: np.ndarray, root: Path) -> None:
    node: Any = tree
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise CheckpointError(f"{root}: {shown(key)!r} is both an array and a folder")
    if keys[-1] in node:
        raise CheckpointError(f"{root}: {shown('/'.join(keys))!r} is both an array and a folder")
    node[keys[-1]] = array
