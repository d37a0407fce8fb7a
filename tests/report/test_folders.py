"""Which of the files of a folder is read."""

import json
import os

import flax.serialization
import numpy as np
import pytest

from rankjax.report import CheckpointError, analyze, load
from tests.report.checkpoints import save_msgpack, save_npz, save_safetensors, weights
from tests.report.test_checkpoints import check


def test_a_folder_of_flax_models(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_msgpack(weights(), tmp_path / "flax_model.msgpack")
    check(load(tmp_path), weights())
    # Safetensors are the same weights again, and read faster.
    save_safetensors(weights(), tmp_path / "model.safetensors")
    assert load(tmp_path).format == "safetensors"


def test_a_folder_of_several_msgpack_files_with_an_index(tmp_path):
    tree = weights()
    parts = {"one.msgpack": {"Dense_0": {"kernel": tree["Dense_0"]["kernel"]}},
             "two.msgpack": {"Dense_0": {"bias": tree["Dense_0"]["bias"]},
                             "Dense_1": tree["Dense_1"], "step": tree["step"]}}  # fmt: skip
    for name, part in parts.items():
        save_msgpack(part, tmp_path / name)
    index = tmp_path / "flax_model.msgpack.index.json"
    index.write_text(json.dumps({"weight_map": {"Dense_0/kernel": "one.msgpack",
                                                "Dense_0/bias": "two.msgpack"}}))  # fmt: skip
    found = load(tmp_path)
    check(found, tree)
    assert found.unread == ()
    save_msgpack({"Dense_0": tree["Dense_0"]}, tmp_path / "two.msgpack")
    with pytest.raises(CheckpointError, match="'kernel' is in two of its files"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint_{}", "step-{}", "ckpt{}", "{}"])
def test_the_newest_step_of_any_prefix(tmp_path, name):
    for step in (9, 10):
        folder = tmp_path / name.format(step)
        folder.mkdir()
        tree = {"w": {"kernel": np.full((2, 2), step, np.float32)}}
        save_safetensors(tree, folder / "m.safetensors")
    unfinished = tmp_path / f"{name.format(11)}.orbax-checkpoint-tmp-12"
    unfinished.mkdir()
    save_npz(weights(), unfinished / "w.npz")
    (tmp_path / name.format(12)).mkdir()  # nothing in it yet
    found = load(tmp_path)
    assert found.tree["w/kernel"][0, 0] == 10
    (tmp_path / "other_3").mkdir()
    save_npz(weights(), tmp_path / "other_3" / "w.npz")
    if name != "{}":
        with pytest.raises(CheckpointError, match=r"several trees.*name one of them"):
            load(tmp_path)


def test_files_of_steps_as_flax_once_wrote_them(tmp_path):
    (tmp_path / "checkpoint_9").write_bytes(flax.serialization.to_bytes(weights(1)))
    (tmp_path / "checkpoint_20").write_bytes(flax.serialization.to_bytes(weights()))
    (tmp_path / "events.out.tfevents.1700000000").write_bytes(b"log")
    check(load(tmp_path), weights())


def test_what_stands_beside_a_model_is_not_the_model(tmp_path):
    for name in ("training_args.bin", "optimizer.bin", "rng_state_0.pth"):
        (tmp_path / name).write_bytes(b"\x80\x02.")
    os.mkfifo(tmp_path / "checkpoint_1")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(tmp_path)
    save_npz(weights(), tmp_path / "w.npz")
    check(load(tmp_path), weights())


def test_parts_without_their_index_are_not_the_model(tmp_path):
    save_safetensors(weights(), tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 1 of 2 parts of a checkpoint, and no index"):
        load(tmp_path)
    check(load(tmp_path / "model-00001-of-00002.safetensors"), weights())
    (tmp_path / "model-00001-of-00002.safetensors").rename(
        tmp_path / "model-00001-of-00001.safetensors"
    )
    check(load(tmp_path), weights())


def test_folders_below_that_hold_some_are_named(tmp_path):
    for name in ("unet", "vae", "scheduler"):
        (tmp_path / name).mkdir()
    save_safetensors(weights(), tmp_path / "unet" / "m.safetensors")
    save_npz(weights(), tmp_path / "vae" / "m.npz")
    with pytest.raises(CheckpointError, match=r"its folders do \(unet, vae\): name one of them"):
        load(tmp_path)


def test_what_is_not_read_is_named_in_a_folder_too(tmp_path):
    (tmp_path / "model.eqx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.eqx holds arrays one after the other"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("consolidated.00.safetensors", "consolidated.01.safetensors"),
        ("mp_rank_00/w.safetensors", "mp_rank_01/w.safetensors"),
        ("model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"),
    ],
)
def test_a_part_that_may_hold_slices_of_matrices_is_refused(tmp_path, mine, other):
    for name in (mine, other):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_safetensors(weights(), tmp_path / name)
    with pytest.raises(CheckpointError, match="one of 2 parts, one per process"):
        load(tmp_path / mine)
    (tmp_path / other).unlink()
    if (tmp_path / other).parent != tmp_path:
        (tmp_path / other).parent.rmdir()
    load(tmp_path / mine)


def test_a_kernel_of_one_channel_in_a_part_is_not_that_of_the_image(tmp_path):
    kernels = {"conv1": {"weight": np.ones((6, 1, 5, 5), np.float32)},
               "conv2": {"weight": np.ones((12, 6, 5, 5), np.float32)}}  # fmt: skip
    for name, paths in {
        "model-00001-of-00001.safetensors": ["conv1.weight", "conv2.weight"],
        "model-00002-of-00003.safetensors": ["conv2.weight"],
    }.items():
        save_safetensors(kernels, tmp_path / name)
        found = analyze(tmp_path / name)
        assert [row.path.replace("/", ".") for row in found.rows] == paths
