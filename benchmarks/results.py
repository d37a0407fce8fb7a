"""What every benchmark writes: ``benchmarks/results/<script>.json``, ``<script>_gpu.json``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")
_LOAD_AT_START = os.getloadavg()[0]


def machine() -> dict[str, Any]:
    """Where the numbers come from, with the settings that change them."""
    malloc = sorted(key for key in os.environ if key.startswith("MALLOC_"))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "malloc_settings": malloc or "none",
        "xla_flags": os.environ.get("XLA_FLAGS") or "none",
        "load_at_start": round(_LOAD_AT_START, 1),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def headline() -> str:
    """Machine and versions in one line, for the screen."""
    described = ", ".join(f"{key} {value}" for key, value in (machine() | versions()).items())
    return described.replace("system ", "", 1)


def write_results(rows: Sequence[dict[str, Any]], part: str = "") -> Path:
    """Write the rows of the running script, or of one part of it; returns the path."""
    script = Path(sys.argv[0])
    backend = jax.default_backend()
    suffix = "" if backend == "cpu" else f"_{backend}"
    path = Path(__file__).parent / "results" / f"{script.stem}{part}{suffix}.json"
    document = {
        "machine": machine(),
        "versions": versions(),
        "command": shlex.join(["python", f"benchmarks/{script.name}", *sys.argv[1:]]),
        "rows": list(rows),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path}")
    return path
