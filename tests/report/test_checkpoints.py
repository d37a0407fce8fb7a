"""Every kind of checkpoint is read back as the library that wrote it meant it."""

import json
import shutil
import warnings

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rankjax.network.internal import paths_and_leaves
from rankjax.report import CheckpointError, load
from tests.report.checkpoints import WRITERS, flat, save_orbax, weights


def check(found, tree):
    expected = flat(tree)
    leaves = {p: a for p, a in paths_and_leaves(found.tree) if hasattr(a, "shape")}
    for path, value in expected.items():
        if path in leaves:
            assert leaves[path].dtype == value.dtype
            np.testing.assert_array_equal(leaves[path], value)
        else:  # a Python number to Orbax
            assert path in {leaf.path for leaf in found.unread}
    assert set(leaves) <= set(expected)
    assert len(leaves) >= 4


@pytest.mark.parametrize("name", WRITERS)
def test_files(tmp_path, name):
    WRITERS[name](weights(), tmp_path / name)
    check(load(tmp_path / name), weights())
    # The content decides, not the name (a name that promises a pickle apart).
    other = tmp_path / "renamed.data"
    (tmp_path / name).rename(other)
    check(load(other), weights())


@pytest.fixture(scope="module")
def orbax_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = {**weights(), "step": 7}
        save_orbax(tree, folder / "ocdbt")
        save_orbax(tree, folder / "plain", use_ocdbt=False)
        save_orbax(tree, folder / "run" / "9" / "default")
        save_orbax({**tree, "Dense_0": {"kernel": np.zeros((2, 2), np.float32)}},
                   folder / "run" / "10" / "default")  # fmt: skip
        save_orbax(tree, folder / "prefixed" / "ckpt_9")
        save_orbax(tree, folder / "prefixed" / "ckpt_10" / "default")
    return folder


@pytest.mark.parametrize("name", ["ocdbt", "plain", "run/9", "prefixed"])
def test_orbax(orbax_folder, name):
    check(load(orbax_folder / name), weights())


def test_orbax_folders_whose_metadata_name_the_wrong_format(orbax_folder, tmp_path):
    shutil.copytree(orbax_folder / "plain", tmp_path / "plain")
    metadata = json.loads((tmp_path / "plain" / "_METADATA").read_text())
    (tmp_path / "plain" / "_METADATA").write_text(json.dumps({**metadata, "use_ocdbt": True}))
    check(load(tmp_path / "plain"), weights())


def test_the_newest_step_is_read_and_zeros_are_zeros(orbax_folder):
    found = load(orbax_folder / "run")
    assert "/10/" in found.source
    np.testing.assert_array_equal(found.tree["Dense_0"]["kernel"], np.zeros((2, 2)))


def test_a_folder_of_several_trees_asks_which(orbax_folder):
    with pytest.raises(CheckpointError, match=r"several trees \(ocdbt, plain\)"):
        load(orbax_folder)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_length_of_a_header_that_looks_like_the_protocol_of_a_pickle(tmp_path, length):
    entry = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps(entry).encode().ljust(length)
    path = tmp_path / "w.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + np.ones(2, np.float32).tobytes())
    np.testing.assert_array_equal(load(path).tree["a"], 1)


def test_narrow_and_wide_dtypes(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float64).reshape(2, 3),
        "b": np.arange(6, dtype=np.float16).reshape(2, 3),
        "c": np.asarray([[1.5, -2]], ml_dtypes.bfloat16),
        "d": np.asarray([1, 2], np.int64),
        "e": np.zeros((0, 3), np.float32),
        "f": np.asarray(2.5, np.float32),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    (tmp_path / "w.msgpack").write_bytes(flax.serialization.to_bytes(arrays))
    for name in ("w.safetensors", "w.msgpack"):
        found = load(tmp_path / name).tree
        for key, value in arrays.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)


def test_chunks_of_flax(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    tree = {"kernel": jnp.arange(60, dtype=jnp.float32).reshape(5, 12), "list": [jnp.ones(2)]}
    (tmp_path / "w.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    found = load(tmp_path / "w.msgpack").tree
    np.testing.assert_array_equal(found["kernel"], tree["kernel"])
    np.testing.assert_array_equal(found["list"]["0"], np.ones(2))


def test_a_folder_of_safetensors(tmp_path):
    arrays = flat(weights())
    names = sorted(arrays)
    one, two = {n: arrays[n] for n in names[:2]}, {n: arrays[n] for n in names[2:]}
    two = {n: np.asarray(a) for n, a in two.items()}
    safetensors.numpy.save_file(one, tmp_path / "m-1.safetensors")
    check_one = load(tmp_path).tree
    assert set(check_one) == set(one)
    safetensors.numpy.save_file(two, tmp_path / "m-2.safetensors")
    with pytest.raises(CheckpointError, match="several checkpoints"):
        load(tmp_path)
    index = tmp_path / "m.safetensors.index.json"
    places = dict.fromkeys(one, "m-1.safetensors") | dict.fromkeys(two, "m-2.safetensors")
    index.write_text(json.dumps({"weight_map": places}))
    check(load(tmp_path), weights())
    check(load(index), weights())  # the index itself
    # What it promises and no file holds is told, and the rest is read.
    index.write_text(json.dumps({"weight_map": {**places, "lm_head.weight": "m-1.safetensors"}}))
    stale = load(tmp_path)
    check(stale, weights())
    assert {leaf.path: leaf.text for leaf in stale.unread} == {
        "lm_head.weight": "promised by m.safetensors.index.json, and no file holds it"
    }
    for bad, message in [
        ({"a": "../m-1.safetensors"}, "must be a file of its folder"),
        ({"a": "m-3.safetensors"}, "which is not there"),
        ([1], "no weight_map"),
    ]:
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path)


def test_members_that_are_no_arrays_are_named(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, kernel=np.eye(2), note=np.asarray({"a": 1}, object),
             half=np.ones(2, ml_dtypes.bfloat16))  # fmt: skip
    found = load(path)
    assert set(found.tree) == {"kernel"}
    whys = {leaf.path: leaf.text for leaf in found.unread}
    assert "only a pickle" in whys["note"]
    assert "bfloat16 is lost" in whys["half"]


def test_a_header_is_checked_once(tmp_path, monkeypatch):
    WRITERS["w.safetensors"]({"kernel": np.ones((2, 3), np.float32)}, tmp_path / "w.safetensors")
    opened, real = [], safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", lambda *a, **k: opened.append(a) or real(*a, **k))
    load(tmp_path / "w.safetensors")
    assert len(opened) == 1
