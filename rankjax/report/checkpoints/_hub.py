"""Checkpoints of the Hugging Face Hub: ``hf://owner/name``, ``hf://owner/name@revision/folder``."""

from __future__ import annotations

import re
from pathlib import Path

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
_BESIDE = "*config.json"


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
    repo, revision, folder = found[1], found[2], found[3].strip("/")
    start = f"{folder}/" if folder else ""
    try:
        names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        here = [name for name in names if name.startswith(start)]
        inside = [Path(name[len(start) :]) for name in here]
        kinds = [kind for kind in _KINDS if any(p.match(k) for p in inside for k in kind)]
        patterns = [start + pattern for pattern in (*(kinds[0] if kinds else ()), _BESIDE)]
        if folder and Path(folder).suffix:
            patterns = [folder]
        local = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the network, rights, a name that is not there
        raise CheckpointError(f"{shown(address)}: {shown(str(error), 400)}") from None
    return Path(local) / folder
