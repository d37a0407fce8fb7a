"""JSON objects out of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rankjax.report.checkpoints._errors import CheckpointError, shown


def json_object(raw: bytes, path: Path) -> dict[str, Any]:
    """The object; of a name that is there twice, other readers would each take another one.

    Raises:
        CheckpointError: no JSON text, or a name twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path} names an array twice")
        return found

    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no JSON text: {shown(str(error))}") from None
    return found if isinstance(found, dict) else {}
