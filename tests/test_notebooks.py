"""Every notebook runs from top to bottom, small and offline, in a kernel of its own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@each_notebook
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKJAX_NOTEBOOK_QUICK", "1")
    # No download, neither found in the cache nor made.
    monkeypatch.setenv("RANKJAX_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # As a reader runs it: float32 on one device, whatever the other tests have set.
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), "."]))
    # Nearly all of the time is compilation.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    assert not list(_streams(notebook, "stderr"))


@each_notebook
def test_committed_outputs(path):
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.language == notebook.metadata.language_info.name == "python"
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    assert outputs, "committed without outputs"
    assert not [out for out in outputs if out.output_type == "error"]
    assert not list(_streams(notebook, "stderr"))
    text = path.read_text()
    assert not [place for place in ("/home/", "/root/", "/tmp/", "site-packages") if place in text]
    # The small run of the tests is not what a reader should see.
    assert not [out for out in _streams(notebook, "stdout") if out.startswith("digits ")]


def _streams(notebook, name):
    for cell in notebook.cells:
        for out in cell.get("outputs", ()):
            if out.output_type == "stream" and out.name == name:
                yield out.text
