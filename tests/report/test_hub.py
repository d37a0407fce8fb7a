"""hf:// through huggingface_hub: a stand-in for the package serves a folder as repositories."""

import fnmatch
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from rankjax.report import CheckpointError, load
from tests.report.checkpoints import save_npz, save_safetensors, weights
from tests.report.test_checkpoints import check


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Repositories under ``served``; what is asked for is copied, as by ``snapshot_download``."""
    served, cache = tmp_path / "served", tmp_path / "cache"
    calls = []

    def files(repo):
        root = served / repo
        if not root.is_dir():
            raise FileNotFoundError(f"404: {repo}")
        return {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}

    class HfApi:
        def list_repo_files(self, repo, *, revision=None):
            return sorted(files(repo))

    def snapshot_download(repo, *, revision=None, allow_patterns=()):
        calls.append((repo, revision))
        for name, path in files(repo).items():
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    module = types.SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download, calls=calls)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    module.root, module.cache = served / "owner" / "name", cache
    (module.root / "part").mkdir(parents=True)
    (module.root / "config.json").write_text("{}")
    return module


def test_a_repository(hub):
    save_safetensors(weights(), hub.root / "model.safetensors")
    (hub.root / "pytorch_model.bin").write_bytes(b"\x80\x02}.")
    save_safetensors(weights(), hub.root / "part" / "model.safetensors")
    check(load("hf://owner/name"), weights())
    check(load(Path("hf://owner/name@v1.0")), weights())
    assert hub.calls == [("owner/name", None), ("owner/name", "v1.0")]
    held = {path.name for path in hub.cache.rglob("*") if path.is_file()}
    assert held == {"config.json", "model.safetensors"}  # not the same weights again


def test_a_folder_and_a_file_of_a_repository(hub):
    save_safetensors(weights(), hub.root / "model.safetensors")
    save_safetensors({"w": {"kernel": np.eye(2)}}, hub.root / "part" / "m.safetensors")
    assert set(load("hf://owner/name/part").tree) == {"w/kernel"}
    save_npz(weights(), hub.root / "part" / "w.npz")
    check(load("hf://owner/name/part/w.npz"), weights())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://owner", "must be hf://owner/name"),
        ("hf://owner/../x", "must be hf://owner/name"),
        ("hf://owner/name;x", "must be hf://owner/name"),
        ("hf://owner/other", "404: owner/other"),
        ("hf://owner/name", "no weights that are read are there"),
    ],
)
def test_what_is_not_there(hub, address, message):
    with pytest.raises(CheckpointError, match=message):
        load(address)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        load("hf://owner/name")
