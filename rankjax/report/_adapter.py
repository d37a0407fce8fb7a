"""A smaller LoRA adapter: every update cut to the rank that keeps a share of its energy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankjax.network.internal import paths_and_leaves
from rankjax.report._adapter_config import adapter_configs
from rankjax.report._matrices_by_name import matrices_by_name
from rankjax.report._spectra import energy_rank
from rankjax.report._updates import Update, factor_place, matrices_of, module_of, take_updates
from rankjax.report._whole_files import whole_file, write_whole
from rankjax.report.checkpoints import Checkpoint, CheckpointError, load

_FILE, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class SmallerAdapter:
    """What was written.

    Attributes:
        rank_pattern: the ranks, by PEFT's name of the module.
        parameters: entries of the factors before and after.
    """

    rank_pattern: dict[str, int]
    parameters: tuple[int, int]


def write_smaller_adapter(
    adapter: str | Path | Checkpoint, folder: str | Path, *, energy: float = 0.99
) -> SmallerAdapter:
    """Write an adapter whose updates are the nearest of the rank that keeps ``energy``.

    Of every update ``scale * B A`` the first ``k`` singular values stay, the fewest whose squares
    sum to ``energy`` of all (one, and zeros, for a dead layer: PEFT knows no rank 0). PEFT reads
    the folder: ``rank_pattern`` has the ranks and ``alpha_pattern`` keeps the scales. An adapter of
    kohya, or one whose metadata tell its scale, has its new ``alpha`` beside the factors.

    Args:
        adapter: as for ``load``: the names of PEFT or of kohya, as safetensors.
        folder: is made; must hold no adapter.
        energy: share of the squared Frobenius norm, in (0, 1].

    Raises:
        CheckpointError: an adapter that cannot be read or is of other names; a folder with one.
        ValueError: an energy outside of (0, 1], an adapter without a pair or with entries that are
            not finite.

    Cost: ``O((out + in) r^2)`` per pair.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy: got {energy}, must be above 0 and at most 1")
    checkpoint = adapter if isinstance(adapter, Checkpoint) else load(adapter)
    return write_checked(check_adapter(checkpoint, Path(folder)), energy)


@dataclass(frozen=True)
class Checked:
    """An adapter that can be written smaller.

    Attributes:
        folder: where to.
        leaves: arrays by path.
        updates: the pairs among them.
        config: of PEFT.
    """

    folder: Path
    leaves: dict[str, np.ndarray]
    updates: list[Update]
    config: Mapping[str, Any]


def write_checked(adapter: Checked, energy: float) -> SmallerAdapter:
    """``write_smaller_adapter`` of what ``check_adapter`` has let pass."""
    leaves, updates = dict(adapter.leaves), adapter.updates
    config: dict[str, Any] = dict(adapter.config)
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    before = after = 0
    for update in updates:
        place = factor_place(update.left.path) or ""
        rank = _cut(update, leaves, energy)
        module = module_of(place)
        before += update.rank * sum(update.shape)
        after += rank * sum(update.shape)
        ranks[module] = rank
        if update.scale is not None:
            root = math.sqrt(rank) if config.get("use_rslora") else rank
            alphas[module] = update.scale * root
            stored = leaves.get(f"{place}alpha")
            if stored is None and not config:  # the metadata told it of all ranks at once
                stored = np.zeros((), np.float32)
            if stored is not None:
                leaves[f"{place}alpha"] = np.full(stored.shape, update.scale * rank, stored.dtype)
    if config:  # of PEFT
        # PEFT takes the first key that is the end of a name; what is not cut keeps its own.
        for name, new in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
            first = dict(sorted(new.items(), key=lambda item: -len(item[0])))
            config[name] = first | {
                k: v for k, v in (config.get(name) or {}).items() if k not in new
            }
    _write(adapter.folder, leaves, config)
    return SmallerAdapter(ranks, (before, after))


def check_adapter(checkpoint: Checkpoint, folder: Path) -> Checked:
    """The adapter, if ``write_smaller_adapter`` can write it.

    Raises:
        CheckpointError, ValueError: as ``write_smaller_adapter``.
    """
    if (folder / _FILE).exists() or (folder / _CONFIG).exists():
        raise CheckpointError(f"{folder} holds an adapter already: name another folder")
    leaves = {
        path: np.asarray(leaf)
        for path, leaf in paths_and_leaves(checkpoint.tree)
        if hasattr(leaf, "shape")
    }
    updates, _ = take_updates(matrices_by_name(leaves), leaves, adapter_configs(checkpoint))
    if not updates:
        raise ValueError(
            f"{checkpoint.source} holds no pair of LoRA factors that is a plain update"
        )
    for update in updates:
        view = update.left.view  # PEFT and kohya keep (out, r)
        known = factor_place(update.left.path) is not None
        if not known or view.out != (0,) or view.stacked or view.parallel:
            raise CheckpointError(
                f"{update.left.path}: only adapters with the names of PEFT or kohya are written"
            )
        for path in (update.left.path, update.right.path):
            if not np.isfinite(leaves[path]).all():
                raise ValueError(f"{path} holds entries that are not finite: it cannot be cut")
    return Checked(folder, leaves, updates, checkpoint.adapter)


def _cut(update: Update, leaves: dict[str, np.ndarray], energy: float) -> int:
    """Replace both factors by those of the nearest product of a lower rank; the rank."""
    layers = update.left, update.right
    b, a = (matrices_of(x, leaves[x.path])[0, 0].astype(np.float64) for x in layers)
    (q1, r1), (q2, r2) = np.linalg.qr(b), np.linalg.qr(a.T)
    u, sigma, vt = np.linalg.svd(r1 @ r2.T, full_matrices=False)
    rank = max(1, energy_rank(sigma, energy))
    root = np.sqrt(sigma[:rank])
    new = (q1 @ u[:, :rank]) * root, root[:, None] * (vt[:rank] @ q2.T)
    for layer, inner, matrix in zip(layers, (1, 0), new, strict=True):
        old = leaves[layer.path]
        shape = (*old.shape[:inner], rank, *old.shape[inner + 1 :])  # (out, r, ...), (r, in, ...)
        leaves[layer.path] = matrix.reshape(shape).astype(old.dtype)
    return rank


def _write(folder: Path, leaves: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {path: np.ascontiguousarray(leaf) for path, leaf in leaves.items()}
    with whole_file(folder / _FILE) as partial:
        save_file(contiguous, partial, metadata={"format": "pt"})
        if config:
            write_whole(folder / _CONFIG, json.dumps(dict(config), indent=2))
