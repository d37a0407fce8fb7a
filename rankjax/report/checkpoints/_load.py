"""Which kind of checkpoint a path is, judged by its first bytes, not by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankjax.network import LeftOut
from rankjax.report.checkpoints._errors import CheckpointError, shown
from rankjax.report.checkpoints._flax_msgpack import read_flax_msgpack
from rankjax.report.checkpoints._npz import NO_PICKLES, read_npz
from rankjax.report.checkpoints._orbax import orbax_root, read_orbax
from rankjax.report.checkpoints._safetensors import read_safetensors, read_sharded

_READ = (
    "safetensors (a file, or a folder with one or with an index), npz, Flax msgpack, Orbax folder"
)
_PICKLE_NAMES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
_FOREIGN = {
    b"\x89HDF": "HDF5 (Keras)",
    b"GGUF": "GGUF",
    b"\x93NUMPY": "a single NumPy array (np.savez makes an archive with a name for it)",
    b"\x1f\x8b": "gzip (unpack it first)",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory (safetensors: mapped from disk).

    Attributes:
        source: where it was read from.
        format: what it was.
        tree: nested dictionaries of arrays (msgpack, Orbax; a list has the keys "0", "1", ...), or
            one dictionary from full names to arrays (safetensors, npz).
        unread: what it holds and was not read, with the reason.
    """

    source: str
    format: str
    tree: Any
    unread: tuple[LeftOut, ...] = ()


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint: safetensors, npz, Flax msgpack, or an Orbax folder.

    Nothing is unpickled and no code of the file is run; every size is checked against the bytes
    that are there before anything of that size is allocated.

    Raises:
        CheckpointError: if it cannot be read, with the reason.

    Cost: the size of the file once; safetensors are mapped, not read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise CheckpointError(f"{shown(str(path))}: no such file or folder")
        if not path.is_file():
            raise CheckpointError(f"{shown(str(path))} is neither a file nor a folder")
        return _file(path)
    except OSError as error:
        raise CheckpointError(f"{shown(str(path))}: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"{shown(str(path))} does not fit into memory") from None


def _folder(path: Path) -> Checkpoint:
    root = orbax_root(path)
    if root is not None:
        tree, unread = read_orbax(root)
        return Checkpoint(str(root), "Orbax", tree, tuple(unread))
    indices = _files(path, "*.safetensors.index.json")
    files = _files(path, "*.safetensors")
    if len(indices) == 1:
        arrays, unread = read_sharded(indices[0])
        return Checkpoint(str(path), "safetensors, sharded", arrays, tuple(unread))
    if len(files) == 1:
        return _file(files[0])
    found = ", ".join(shown(f.name) for f in (indices or files)[:8])
    raise CheckpointError(
        f"{shown(str(path))} holds several checkpoints ({found}): name one of them"
        if found
        else f"{shown(str(path))} holds no checkpoint. Read are: {_READ}"
    )


def _files(folder: Path, pattern: str) -> list[Path]:
    # A pipe of such a name would be waited for, for ever.
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _file(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{shown(str(path))} is empty")
    name = path.suffix.lower()
    if name == ".safetensors" or (name not in _PICKLE_NAMES and head[8:9] == b"{"):
        arrays, unread = read_safetensors(path)
        return Checkpoint(str(path), "safetensors", arrays, tuple(unread))
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise CheckpointError(f"{shown(str(path))} is {what}, which is not read. Read: {_READ}")
    if head.startswith(b"PK"):
        arrays, unread = read_npz(path)
        return Checkpoint(str(path), "npz", arrays, tuple(unread))
    if name in _PICKLE_NAMES or (head[0] == 0x80 and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}):
        raise CheckpointError(f"{shown(str(path))} looks like a pickle. {NO_PICKLES}")
    if name == ".npz":
        raise CheckpointError(f"{shown(str(path))} is truncated or no archive of NumPy")
    # A MessagePack map, whatever the name.
    if name in {".msgpack", ".flax"} or 0x80 <= head[0] <= 0x8F or head[0] in {0xDE, 0xDF}:
        return Checkpoint(str(path), "Flax msgpack", read_flax_msgpack(path))
    raise CheckpointError(f"{shown(str(path))} is of no known kind. Read are: {_READ}")
