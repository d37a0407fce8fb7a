"""Which kind of checkpoint a path is, judged by its first bytes, not by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankjax.network import LeftOut
from rankjax.report.checkpoints._errors import CheckpointError, shown
from rankjax.report.checkpoints._flax_msgpack import read_flax_msgpack
from rankjax.report.checkpoints._folder import ORBAX, checkpoint_in, is_part, refuse_slices
from rankjax.report.checkpoints._foreign import refuse_foreign
from rankjax.report.checkpoints._hub import PREFIX, from_hub
from rankjax.report.checkpoints._json import json_object
from rankjax.report.checkpoints._keras import read_keras
from rankjax.report.checkpoints._npz import read_npz
from rankjax.report.checkpoints._orbax import read_orbax
from rankjax.report.checkpoints._safetensors import read_safetensors
from rankjax.report.checkpoints._sharded import read_sharded
from rankjax.report.checkpoints._torch import is_pickle, read_torch

_READ = (
    "safetensors, npz, Flax msgpack, torch and Keras files, a folder with one of them or with an "
    "index, an Orbax folder"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory (safetensors: mapped from disk).

    Attributes:
        source: where it was read from.
        format: what it was.
        tree: nested dictionaries of arrays (msgpack, Orbax, torch; a list has the keys "0", "1",
            ...), or one dictionary from full names to arrays (safetensors, npz, Keras).
        unread: what it holds and was not read, with the reason.
        adapter: what ``adapter_config.json`` beside it says (PEFT), or nothing.
        metadata: what the header of a safetensors file says beside the arrays.
        whole: ``False`` for one of several files (``model-00002-of-00003.safetensors``).
    """

    source: str
    format: str
    tree: Any
    unread: tuple[LeftOut, ...] = ()
    adapter: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint: safetensors, npz, Flax msgpack, torch, Keras, or an Orbax folder.

    No code of the file is run; only ``torch.load(weights_only=True)`` reads pickles. Every size is
    checked against the bytes that are there before anything of that size is allocated.

    Args:
        path: a file, an index of files, a folder, or ``hf://owner/name`` for a repository of the
            Hugging Face Hub (needs the package ``huggingface_hub``).

    Raises:
        CheckpointError: if it cannot be read, with the reason.

    Cost: the size of the file once; safetensors are mapped, not read.
    """
    if str(path).startswith(PREFIX):
        path = from_hub(str(path))
    path = Path(path)
    try:
        if not path.exists():
            raise CheckpointError(f"{shown(str(path))}: no such file or folder")
        if path.is_dir():
            path = checkpoint_in(path)
        elif not path.is_file():
            raise CheckpointError(f"{shown(str(path))} is neither a file nor a folder")
        kind, (tree, unread, *told) = _read(path)
        config = path.parent / "adapter_config.json"
        adapter = json_object(config.read_bytes(), config) if config.is_file() else {}
    except OSError as error:
        raise CheckpointError(f"{shown(str(path))}: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{shown(str(path))} does not fit into memory") from None
    metadata = told[0] if told else {}
    whole = not is_part(path)
    return Checkpoint(str(path), kind, tree, tuple(unread), adapter, metadata, whole)


def _read(path: Path) -> tuple[str, tuple[Any, ...]]:
    if path.is_dir():
        return "Orbax", read_orbax(path)
    if path.name == ORBAX:
        return "Orbax", read_orbax(path.parent)
    refuse_foreign(path)
    refuse_slices(path)
    if path.name.endswith(".index.json"):
        return "several files", read_sharded(path)
    with path.open("rb") as file:
        head = file.read(16)
    name = path.suffix.lower()
    if is_pickle(path, head):
        return "torch", read_torch(path)
    if name == ".safetensors" or head[8:9] == b"{":
        return "safetensors", read_safetensors(path)
    if head.startswith(b"\x89HDF") or name == ".keras":
        return "Keras", read_keras(path)
    if head.startswith(b"PK"):
        return "npz", read_npz(path)
    if name == ".npz":
        raise CheckpointError(f"{shown(str(path))} is truncated or no archive of NumPy")
    # A MessagePack map, whatever the name.
    if name in {".msgpack", ".flax"} or 0x80 <= head[0] <= 0x8F or head[0] in {0xDE, 0xDF}:
        return "Flax msgpack", read_flax_msgpack(path)
    raise CheckpointError(f"{shown(str(path))} is of no known kind. Read are: {_READ}")
