"""Keras files, through h5py where it is installed."""

import json
import zipfile

import numpy as np
import pytest

from rankjax.report import CheckpointError, analyze, load

h5py = pytest.importorskip("h5py")


def saved(path):
    with h5py.File(path, "w") as file:
        layers = file.create_group("layers")
        layers["dense/vars/0"] = np.arange(6, dtype=np.float32).reshape(3, 2)
        layers["dense/vars/1"] = np.ones(2, np.float32)
        layers["lstm/cell/vars/1"] = np.ones((2, 8), np.float32)
        layers["name/vars/0"] = "text"
        layers["away"] = h5py.ExternalLink("other.h5", "/secret")
        layers["soft"] = h5py.SoftLink("/layers/dense/vars/0")
    return path


def test_names_and_numbers(tmp_path):
    found = load(saved(tmp_path / "m.weights.h5"))
    assert set(found.tree) == {
        "layers/dense/vars/0", "layers/dense/vars/1", "layers/lstm/cell/vars/1",
    }  # fmt: skip
    np.testing.assert_array_equal(found.tree["layers/dense/vars/0"], [[0, 1], [2, 3], [4, 5]])
    assert [leaf.path for leaf in found.unread] == ["layers/name/vars/0"]
    rows = {row.path: row.shape for row in analyze(found).rows}
    assert rows == {"layers/dense/vars/0": (2, 3), "layers/lstm/cell/vars/1": (8, 2)}


def test_an_archive(tmp_path):
    saved(tmp_path / "w")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.write(tmp_path / "w", "model.weights.h5")
        archive.writestr("config.json", json.dumps({}))
    assert "layers/dense/vars/0" in load(tmp_path / "m.keras").tree
    (tmp_path / "w.keras").write_bytes((tmp_path / "w").read_bytes())
    assert "layers/dense/vars/0" in load(tmp_path / "w.keras").tree
    with zipfile.ZipFile(tmp_path / "n.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({}))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(tmp_path / "n.keras")


def test_numbers_in_other_files_are_not_read(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "m.h5", "w") as file:
        external = [(str(tmp_path / "raw"), 0, 16)]
        file.create_dataset("kernel", (2, 2), "f4", external=external)
        layout = h5py.VirtualLayout((2, 2), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "x.h5"), "a", (2, 2))
        file.create_virtual_dataset("virtual", layout)
    found = load(tmp_path / "m.h5")
    assert found.tree == {}
    assert {leaf.text for leaf in found.unread} == {"its numbers are in another file"}


def test_bombs_and_truncations(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("kernel", (2**16, 2**16), "f4", chunks=(64, 64))
    with pytest.raises(CheckpointError, match="would unpack to"):
        load(tmp_path / "m.h5")
    raw = saved(tmp_path / "w.h5").read_bytes()
    for cut in range(8, len(raw), 97):
        (tmp_path / "w.h5").write_bytes(raw[:cut])
        with pytest.raises(CheckpointError):
            load(tmp_path / "w.h5")
