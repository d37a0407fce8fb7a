"""torch's files, which are pickles: read by ``torch.load(weights_only=True)`` or not at all.

That unpickler knows tensors and plain containers and nothing else, from version 2.6 on
(CVE-2025-32434); no other pickle is ever read.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints._errors import CheckpointError, shown

_NAMES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
_TORCH_NAMES = {".pt", ".pth", ".ckpt", ".bin"}
NO_PICKLES = (
    "Pickles run code when they are loaded, so they are never read. Where you trust the file, "
    "convert it: safetensors.torch.save_file(torch.load(PATH, weights_only=True), "
    "'model.safetensors'), or numpy.savez for plain arrays."
)
# dtypes that NumPy lacks, by the integers of the same size.
_VIEWED = {
    "torch.bfloat16": ("int16", ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": ("uint8", ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": ("uint8", ml_dtypes.float8_e5m2),
}


def is_pickle(path: Path, head: bytes) -> bool:
    """Whether a file is a pickle, or an archive of torch with one inside."""
    if head.startswith(b"PK"):
        return _is_archive(path)
    # Lengths of a safetensors header may begin with the same two bytes.
    protocol = head[0] == 0x80 and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}
    return path.suffix.lower() in _NAMES or (protocol and head[2:9] != bytes(6) + b"{")


def read_torch(path: Path) -> tuple[dict[str, Any], list[LeftOut]]:
    """The tensors of a file as nested dictionaries; and what was not read.

    Raises:
        CheckpointError: without torch 2.6 or later, for a pickle that holds anything but tensors
            and plain containers, or for a pickle of another kind.
    """
    if path.suffix.lower() not in _TORCH_NAMES and not _is_archive(path):
        raise CheckpointError(f"{shown(str(path))} looks like a pickle. {NO_PICKLES}")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise CheckpointError(
            f"{shown(str(path))} is a torch checkpoint, a pickle: with torch installed (pip "
            f"install torch) it is read by torch.load(weights_only=True). {NO_PICKLES}"
        ) from None
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or (int(version[1]), int(version[2])) < (2, 6):
        raise CheckpointError(
            f"torch {torch.__version__}: weights_only=True may run code before 2.6 "
            "(CVE-2025-32434): pip install -U torch"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and its unpickler raise errors of many kinds
        raise CheckpointError(
            f"{shown(str(path))}: torch.load(weights_only=True) refuses it: {shown(str(error))}"
        ) from None
    unread: list[LeftOut] = []
    tree = _arrays(found, (), unread, torch)
    return (tree if isinstance(tree, dict) else {"tensor": tree}), unread


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except Exception:  # zipfile raises errors of many kinds; then it is none
        return False


def _arrays(item: Any, keys: tuple[str, ...], unread: list[LeftOut], torch: Any) -> Any:
    if isinstance(item, dict):
        found = {str(k): _arrays(v, (*keys, str(k)), unread, torch) for k, v in item.items()}
        return {key: value for key, value in found.items() if value is not None}
    if isinstance(item, list | tuple):
        return _arrays({str(i): one for i, one in enumerate(item)}, keys, unread, torch)
    if not isinstance(item, torch.Tensor):
        return None  # a step, a name
    try:
        viewed, dtype = _VIEWED.get(str(item.dtype), (None, None))
        item = item.detach()
        if viewed is None:
            return np.asarray(item.numpy())
        return item.contiguous().view(getattr(torch, viewed)).numpy().view(dtype)
    except (TypeError, RuntimeError) as error:  # sparse, quantized
        why = f"{shown(str(item.dtype))}: {shown(str(error), 80)}"
        unread.append(LeftOut("/".join(keys), tuple(item.shape), Reason.NOT_READ, why))
        return None
