"""Which checkpoint a folder holds."""

from __future__ import annotations

import re
from pathlib import Path

from rankjax.report.checkpoints._errors import CheckpointError, shown

ORBAX = "_METADATA"
_STEP = re.compile(r"(.*?[_.-]?)([0-9]{1,18})", re.DOTALL)  # checkpoint_100
_UNFINISHED = "orbax-checkpoint-tmp"
# A folder may hold the same weights twice; the first of these that is there is read.
_PATTERNS = (
    "*.safetensors.index.json", "*.safetensors", "*.msgpack.index.json", "*.msgpack",
    "*.bin.index.json", "*.bin", "*.pt", "*.pth", "*.keras", "*.h5", "*.npz", "*.eqx", "*.gguf",
)  # fmt: skip
_PART = re.compile(r".*-[0-9]+-of-0*([0-9]+)\.\w+")  # model-00001-of-00002.safetensors
# consolidated.00.pth (Llama), mp_rank_00 (Megatron, DeepSpeed), model-rank-0-part-0 (vLLM)
_RANK = re.compile(r"(consolidated\.|(?:.*[_-])?rank[_-]?)([0-9]+)(.*)", re.DOTALL)
_OTHERS = re.compile(r"training_args\.bin|optimizer\.(bin|pt)|scheduler\.pt|rng_state.*|scaler\.pt")


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint: a file, an index of files, or a folder of Orbax.

    It is the folder itself, a file in it, its newest step (``7``, ``step_7``, ``checkpoint_7``), or
    its only folder.

    Raises:
        CheckpointError: if there is none, or several and none is the newest.
    """
    found = _found(folder)
    if found is None:
        below = [path for path in sorted(folder.iterdir()) if path.is_dir() and _holds(path)]
        where = ", ".join(shown(path.name) for path in below[:8])
        more = f", but its folders do ({where}): name one of them" if below else ""
        raise CheckpointError(f"{shown(str(folder))} holds no checkpoint{more}")
    return found


def is_part(path: Path) -> bool:
    """Whether the name says that other files hold other leaves."""
    part = _PART.fullmatch(path.name)
    return part is not None and part[1] != "1"


def refuse_slices(path: Path) -> None:
    """Refuse a file of which others hold the other slices of the same matrices.

    Raises:
        CheckpointError: names that differ in the rank of a process alone, beside it.
    """
    for place in (path.absolute(), path.absolute().parent):
        rank = _RANK.fullmatch(place.name)
        if rank is None:
            continue
        others = [
            found for other in place.parent.iterdir() if (found := _RANK.fullmatch(other.name))
        ]
        count = sum((found[1], found[3]) == (rank[1], rank[3]) for found in others)
        if count > 1:
            raise CheckpointError(
                f"{shown(str(path))} is one of {count} parts, one per process: it may hold a "
                "slice of every matrix (tensor parallelism); join them first, or read a copy of it "
                f"under another name than {shown(place.name)}"
            )


def _holds(folder: Path) -> bool:
    return any(path.is_file() for pattern in _PATTERNS for path in folder.glob(pattern))


def _found(folder: Path) -> Path | None:
    if (folder / ORBAX).is_file():
        return folder
    for pattern in _PATTERNS:
        # A pipe of such a name would be waited for, for ever.
        files = [file for file in sorted(folder.glob(pattern)) if file.is_file()]
        files = [file for file in files if not _OTHERS.fullmatch(file.name)]
        part = next((p for file in files if (p := _PART.fullmatch(file.name))), None)
        if part and part[1] != "1":
            first = shown(files[0].name)
            raise CheckpointError(
                f"{shown(str(folder))} holds {len(files)} of {part[1]} parts of a checkpoint, and "
                f"no index that names them ({first}, ...): name one of them to read it"
            )
        if len(files) > 1:
            names = ", ".join(shown(file.name) for file in files[:8])
            raise CheckpointError(
                f"{shown(str(folder))} holds several checkpoints ({names}): name one of them"
            )
        if files:
            return files[0]
    steps: dict[str, dict[int, Path]] = {}
    below = []
    for path in sorted(folder.iterdir()):
        step = _STEP.fullmatch(path.name)
        if _UNFINISHED in path.name:
            continue
        if step and (path.is_dir() or (path.is_file() and step[1].startswith("checkpoint"))):
            steps.setdefault(step[1], {})[int(step[2])] = path
        elif path.is_dir() and (path / ORBAX).is_file():
            below.append(path)
    newest = [found for numbered in steps.values() if (found := _newest(numbered)) is not None]
    if len(newest) + len(below) > 1 and not (len(newest) == 1 and "" in steps):
        names = ", ".join(shown(path.name) for path in (*below, *newest))
        raise CheckpointError(f"{folder} holds several trees ({names}): name one of them")
    return next(iter((*newest, *below)), None)


def _newest(steps: dict[int, Path]) -> Path | None:
    for number in sorted(steps, reverse=True):
        path = steps[number]
        found = path if path.is_file() else _found(path)
        if found is not None:
            return found
    return None
