"""What tells the scale of an adapter: PEFT's config beside it, or the metadata of its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rankjax.report.checkpoints import Checkpoint, CheckpointError

Configs = Mapping[str, Mapping[str, Any]]  # by the start of the paths that they are about


def adapter_configs(checkpoint: Checkpoint) -> Configs:
    """What holds for the factors whose paths start with a key, with PEFT's names.

    Of the metadata: what Diffusers writes, one config per component; else kohya's
    ``ss_network_alpha`` for the rank ``ss_network_dim``, with those of convolutions; else
    ``lora_alpha``.

    Raises:
        CheckpointError: metadata of Diffusers that are no JSON object.
    """
    if checkpoint.adapter:
        return {"": checkpoint.adapter}
    metadata = checkpoint.metadata
    if "lora_adapter_metadata" in metadata:
        found: dict[str, dict[str, Any]] = {}
        for name, value in _object(metadata["lora_adapter_metadata"], checkpoint.source).items():
            component, dot, key = name.rpartition(".")
            found.setdefault(component + dot, {})[key] = value
        return found
    text = metadata.get("ss_network_args", "")
    arguments = {} if text in {"", "None", "null"} else _object(text, checkpoint.source)
    told = {
        "lora_alpha": _number(metadata.get("ss_network_alpha", metadata.get("lora_alpha"))),
        "rank": _number(metadata.get("ss_network_dim")),
        "conv_alpha": _number(arguments.get("conv_alpha")),
        "conv_rank": _number(arguments.get("conv_dim")),
    }
    return {"": {key: value for key, value in told.items() if value is not None}}


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{source}: what its metadata say of the adapter is no JSON object")
    return found


def _number(text: Any) -> float | None:
    """Kohya writes "None" for what was not given."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
