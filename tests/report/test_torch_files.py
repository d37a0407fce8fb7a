"""torch's pickles: read by torch.load(weights_only=True), or refused; never unpickled otherwise.

torch is no dependency of the tests: a stand-in shows what is asked of it and what is done with the
answer, and where torch is installed, its own files are read.
"""

import json
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from rankjax.report import CheckpointError, load


class Tensor:
    """As much of a tensor as is used."""

    def __init__(self, array, dtype=None):
        self.array, self.dtype, self.shape = array, dtype or f"torch.{array.dtype}", array.shape

    def detach(self):
        return self

    contiguous = detach

    def view(self, dtype):
        return Tensor(self.array.view(dtype))

    def numpy(self):
        if self.dtype in {"torch.bfloat16", "torch.sparse"}:
            raise TypeError("Got unsupported ScalarType")
        return self.array


@pytest.fixture
def torch(monkeypatch):
    calls = []

    def load_(path, **options):
        calls.append(options)
        return module.content

    module = types.SimpleNamespace(
        __version__="2.9.1+cpu", load=load_, Tensor=Tensor, int16=np.int16, calls=calls, content={}
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def test_weights_only(torch, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"\x80\x02}.")
    half = np.asarray([[1.5, -2]], ml_dtypes.bfloat16)
    torch.content = {
        "state_dict": {"a.weight": Tensor(np.eye(2, dtype=np.float32)),
                       "b.weight": Tensor(half, "torch.bfloat16")},
        "list": [Tensor(np.ones(3))], "epoch": 3, "odd": Tensor(np.ones(2), "torch.sparse"),
    }  # fmt: skip
    found = load(path)
    assert torch.calls == [{"map_location": "cpu", "weights_only": True}]
    np.testing.assert_array_equal(found.tree["state_dict"]["a.weight"], np.eye(2))
    np.testing.assert_array_equal(found.tree["state_dict"]["b.weight"], half)
    assert found.tree["state_dict"]["b.weight"].dtype == ml_dtypes.bfloat16
    assert set(found.tree) == {"state_dict", "list"}
    assert [leaf.path for leaf in found.unread] == ["odd"]
    index = tmp_path / "pytorch_model.bin.index.json"
    (tmp_path / "p.bin").write_bytes(b"\x80\x02}.")
    index.write_text(json.dumps({"weight_map": {"odd": "p.bin"}}))
    assert load(index).tree.keys() == found.tree.keys()


def test_an_old_torch_and_other_pickles_are_refused(torch, tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"\x80\x02}.")
    for version in ("2.5.1", "1.13", "2.10a"):
        torch.__version__ = version
        if version.startswith("2.10"):
            load(path)
        else:
            with pytest.raises(CheckpointError, match="CVE-2025-32434"):
                load(path)
    path.rename(tmp_path / "m.pkl")
    with pytest.raises(CheckpointError, match="looks like a pickle"):
        load(tmp_path / "m.pkl")
    assert len(torch.calls) == 1


def test_what_torch_refuses_is_told(torch, tmp_path):
    def refuse(path, **options):
        raise RuntimeError("Weights only load failed: GLOBAL os.system")

    torch.load = refuse
    (tmp_path / "m.pth").write_bytes(b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="refuses it: Weights only load failed"):
        load(tmp_path / "m.pth")


def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).bfloat16()}
    torch.save(weights, tmp_path / "m.pt")
    found = load(tmp_path / "m.pt").tree
    np.testing.assert_array_equal(found["a.weight"], np.arange(6.0).reshape(2, 3))
    assert found["b"].dtype == ml_dtypes.bfloat16
