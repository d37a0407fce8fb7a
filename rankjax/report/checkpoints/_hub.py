"""Checkpoints of the Hugging Face Hub: ``hf://owner/name``, ``hf://owner/name@revision/folder``."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rankjax.report.checkpoints._errors import CheckpointError, shown

PREFIX = "hf:/"  # as a Path, hf://owner has one slash
_PART = r"[\w][\w.-]*"
_ADDRESS = re.compile(rf"({_PART}/{_PART})(?:@({_PART}))?((?:/{_PART})*)", re.ASCII)
# What is downloaded, the first that is there: no weights twice, and nothing that is not read.
_KINDS = (
    ["*.safetensors", "*.safetensors.index.json"],
    ["*.msgpack", "*.msgpack.index.json"],
    ["*.weights.h5", "*.keras"],
    ["*.bin", "*.bin.index.json", "*.pt", "*.pth"],
)


def from_hub(address: str) -> Path:
    """Download a repository's weights into the cache of ``huggingface_hub``; the local folder.

    Raises:
        CheckpointError: an address of another form, one that cannot be downloaded, or without the
            package ``huggingface_hub``.
    """
    found = _ADDRESS.fullmatch(address.removeprefix(PREFIX).removeprefix("/"))
    if found is None:
        raise CheckpointError(
            f"{shown(address)}: must be hf://owner/name, hf://owner/name@revision or "
            "hf://owner/name/folder"
        )
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise CheckpointError(
            f"{shown(address)}: pip install huggingface_hub, which downloads it"
        ) from None
    repo, revision, folder = found[1], found[2], PurePosixPath(found[3].strip("/"))
    try:
        files = map(PurePosixPath, huggingface_hub.HfApi().list_repo_files(repo, revision=revision))
        wanted = _wanted(list(files), folder)
        local = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=[glob.escape(str(name)) for name in wanted]
        )
    except Exception as error:  # the network, rights, a name that is not there
        raise CheckpointError(f"{shown(address)}: {shown(str(error), 400)}") from None
    return Path(local) / folder


def _wanted(files: Sequence[PurePosixPath], folder: PurePosixPath) -> Sequence[PurePosixPath]:
    """The weights of a folder and what describes them; or the file of that name."""
    if folder in files:
        return [folder]
    here = [name for name in files if name.parent == folder]
    for kind in _KINDS:
        weights = [name for name in here if any(name.match(pattern) for pattern in kind)]
        if weights:
            return [*weights, *(name for name in here if name.match("*config.json"))]
    raise CheckpointError("no weights that are read are there")
