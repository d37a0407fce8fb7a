"""What ``flax.serialization.to_bytes`` writes, read without Flax.

MessagePack with three extension types: 1 an array, 2 a complex number, 3 a NumPy scalar. Any other
is refused. Arrays over 1 GiB come in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import (
    DTYPES,
    CheckpointError,
    checked_shape,
    number_of_bytes,
    shown,
)

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


@dataclass(frozen=True)
class _Unread:
    shape: tuple[int, ...]
    why: str


def read_flax_msgpack(path: Path) -> tuple[Any, list[LeftOut]]:
    """The tree of dictionaries and arrays that a file holds (keys are strings); what was not read.

    Raises:
        CheckpointError: a truncated or damaged file, one that is no tree of arrays, or without the
            package ``msgpack``.
    """
    try:
        import msgpack
    except ImportError as error:
        raise CheckpointError(f"{path}: {error}; pip install 'rankjax[report]'") from None
    try:
        # Lengths are checked by msgpack against the size of the file, depth against its stack.
        tree = msgpack.unpackb(
            path.read_bytes(), ext_hook=_extension, raw=False, strict_map_key=False
        )
        unread: list[LeftOut] = []
        tree = _joined(tree, (), unread)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (
        ValueError, TypeError, OverflowError, RecursionError, msgpack.exceptions.UnpackException
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path} is truncated or no MessagePack file: {shown(str(error))}"
        ) from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds no tree of arrays, but {shown(repr(tree), 40)}")
    return tree, unread


def _extension(code: int, data: bytes) -> Any:
    import msgpack

    if code in {_ARRAY, _SCALAR}:
        parts = msgpack.unpackb(data, raw=True)
        if not isinstance(parts, list) or len(parts) != 3:
            raise CheckpointError("an array that is not (shape, dtype, bytes)")
        shape, name, buffer = parts
        what = "an array"
        shape = checked_shape(shape, what)
        name = name.decode("ascii", "replace") if isinstance(name, bytes) else repr(name)
        if not isinstance(buffer, bytes):
            raise CheckpointError(f"an array of dtype {shown(name)!r} without bytes")
        if name not in DTYPES:
            return _Unread(shape, f"dtype {shown(name)!r} is not read")
        expected = number_of_bytes(shape, DTYPES[name])
        if len(buffer) != expected:
            raise CheckpointError(
                f"an array of shape {shape} and dtype {name} takes {expected} bytes, "
                f"the file holds {len(buffer)}"
            )
        return np.frombuffer(buffer, DTYPES[name]).reshape(shape)
    if code == _COMPLEX:
        return complex(*msgpack.unpackb(data))
    raise CheckpointError(f"an unknown extension type {code}")


def _joined(tree: Any, keys: tuple[str, ...], unread: list[LeftOut]) -> Any:
    """Chunks put together, keys made strings, what is not read put aside."""
    if isinstance(tree, list):
        tree = {str(i): item for i, item in enumerate(tree)}
    if isinstance(tree, _Unread):
        unread.append(LeftOut("/".join(keys), tree.shape, Reason.NOT_READ, tree.why))
        return None
    if not isinstance(tree, dict):
        return tree
    if _CHUNKED not in tree:
        return {str(key): _joined(item, (*keys, str(key)), unread) for key, item in tree.items()}
    shape, chunks = (_in_order(tree.get(key)) for key in ("shape", "chunks"))
    shape = checked_shape(shape, "an array in chunks")
    if not all(isinstance(chunk, np.ndarray) and chunk.ndim == 1 for chunk in chunks):
        raise CheckpointError("an array in chunks that are no arrays")
    whole = np.concatenate([np.empty(0, chunks[0].dtype), *chunks]) if chunks else np.empty(0)
    if whole.nbytes != number_of_bytes(shape, whole.dtype):
        raise CheckpointError(f"an array of shape {shape} in chunks of {whole.size} entries")
    return whole.reshape(shape)


def _in_order(parts: Any) -> list[Any]:
    if not isinstance(parts, dict) or set(parts) != {str(i) for i in range(len(parts))}:
        raise CheckpointError("an array in chunks that are not numbered")
    return [parts[str(i)] for i in range(len(parts))]
