"""The files that an index names (``*.safetensors.index.json`` and the like), read as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import CheckpointError, shown
from rankjax.report.checkpoints._flax_msgpack import read_flax_msgpack
from rankjax.report.checkpoints._foreign import refuse_foreign
from rankjax.report.checkpoints._json import json_object
from rankjax.report.checkpoints._safetensors import read_safetensors
from rankjax.report.checkpoints._torch import read_torch

_LARGEST_INDEX = 100_000_000
_READERS: dict[str, Callable[[Path], tuple[Any, list[LeftOut], dict[str, str]]]] = {
    ".safetensors": read_safetensors,
    ".msgpack": lambda path: (*read_flax_msgpack(path), {}),
    ".bin": lambda path: (*read_torch(path), {}),
}


def read_sharded(index: Path) -> tuple[dict[str, Any], list[LeftOut], dict[str, str]]:
    """The arrays of all files that an index names; what is not read; the metadata of all of them.

    What the index promises and no file holds is unread. Metadata of which the files say different
    things are dropped.

    Raises:
        CheckpointError: an index that is no such index or points out of its folder, or any file.
    """
    if index.stat().st_size > _LARGEST_INDEX:
        raise CheckpointError(f"{index} has {index.stat().st_size} bytes: too large for an index")
    weight_map = json_object(index.read_bytes(), index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files")
    tree: dict[str, Any] = {}
    unread: list[LeftOut] = []
    told: dict[str, set[str]] = {}
    for name in sorted(set(weight_map.values())):
        read = _READERS.get(Path(name).suffix)
        if Path(name).name != name or read is None:
            raise CheckpointError(f"{index} names {shown(name)!r}: must be a file of its folder")
        part = index.parent / name
        if not part.is_file():
            raise CheckpointError(f"{index} names {shown(name)!r}, which is not there")
        refuse_foreign(part)
        more, not_read, metadata = read(part)
        for key, value in metadata.items():
            told.setdefault(key, set()).add(value)
        _merge(tree, more, str(index))
        unread += not_read
    held = {"/".join(keys) for keys in _paths(tree)} | {leaf.path for leaf in unread}
    for name in sorted(set(weight_map) - held):
        text = f"promised by {shown(index.name)}, and no file holds it"
        unread.append(LeftOut(name, (), Reason.NOT_READ, text))
    return tree, unread, {key: value for key, (value, *rest) in told.items() if not rest}


def _merge(tree: dict[str, Any], more: Any, where: str) -> None:
    if not isinstance(more, dict):
        raise CheckpointError(f"{where}: a file holds no dictionary")
    for key, value in more.items():
        before = tree.setdefault(key, value)
        if before is value:
            continue
        if not isinstance(before, dict) or not isinstance(value, dict):
            raise CheckpointError(f"{where}: {shown(key)!r} is in two of its files")
        _merge(before, value, where)


def _paths(tree: dict[str, Any], keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        below = (*keys, key)
        found += _paths(value, below) if isinstance(value, dict) else [below]
    return found
