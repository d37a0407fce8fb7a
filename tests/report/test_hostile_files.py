"""Truncated, damaged and malicious files: a ``CheckpointError`` with a reason, nothing else."""

import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile

import msgpack
import numpy as np
import pytest
import safetensors.numpy

from rankjax.network.internal import paths_and_leaves
from rankjax.report import analyze
from rankjax.report.checkpoints import CheckpointError, load
from rankjax.report.checkpoints._errors import check_expansion, shown
from tests.report.checkpoints import WRITERS, save_orbax, weights


def refused(path, message):
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_truncation_is_an_error(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](weights(), path)
    raw = path.read_bytes()
    for cut in range(0, len(raw), 7):
        path.write_bytes(raw[:cut])
        with pytest.raises(CheckpointError):
            load(path)


@pytest.mark.parametrize("name", WRITERS)
def test_changed_bytes_are_an_error_or_other_numbers_never_a_crash(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](weights(), path)
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    refusals = 0
    for _ in range(400):
        changed = bytearray(raw)
        # Half of the changes in the first bytes, where the headers are.
        for _ in range(rng.integers(1, 4)):
            end = len(raw) if rng.random() < 0.5 else min(200, len(raw))
            changed[rng.integers(end)] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load(path)
        except CheckpointError:
            refusals += 1
    assert refusals > 50


def damaged(raw, rng):
    """Bytes changed (of the data, anywhere, of the header), the end gone, a part gone or twice."""
    changed, kind = bytearray(raw), rng.integers(7)
    i, j = sorted(rng.integers(0, len(raw), 2))
    if kind < 3:
        for _ in range(rng.integers(1, 9)):
            first = (2 * len(raw) // 3, 0, 0)[kind]
            end = len(raw) if kind < 2 else min(300, len(raw))
            changed[rng.integers(first, end)] = rng.choice([0, 127, 128, 255, rng.integers(256)])
        return changed
    digits = [k for k, byte in enumerate(raw[:300]) if 48 <= byte < 58] or [i]
    at = digits[rng.integers(len(digits))]
    return (
        raw[:i],
        raw[:i] + rng.bytes(rng.integers(1, 20)) + raw[i:],
        raw[:i] + raw[j:] if rng.random() < 0.5 else raw[:j] + raw[i:],
        raw[:at] + rng.choice([b"-", b"0", b"1e3", b"null", b"9" * 30]) + raw[at + 1 :],
    )[kind - 3]


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    files = {name: tmp_path / name for name in WRITERS}
    for name, path in files.items():
        WRITERS[name](weights(), path)
    adapter = {"q.lora_A.weight": np.ones((2, 3)), "q.lora_B.weight": np.ones((4, 2)),
               "q.alpha": np.ones(())}  # fmt: skip
    files["adapter.safetensors"] = tmp_path / "adapter.safetensors"
    safetensors.numpy.save_file(adapter, files["adapter.safetensors"])
    codes = {"a.weight": entry(dtype="F8_E4M3", shape=(4, 4)),
             "a.weight_scale": entry((1,), (16, 20))}  # fmt: skip
    files["codes.safetensors"] = safetensors_file(
        tmp_path / "codes.safetensors",
        codes,
        bytes(range(40, 56)) + np.full(1, 2, np.float32).tobytes(),
    )
    rng, read = np.random.default_rng(0), 0
    raws = {path: path.read_bytes() for path in files.values()}
    for _ in range(10_000 // len(raws)):
        for path, raw in raws.items():
            path.write_bytes(damaged(raw, rng))
            try:
                found = analyze(path)
            except CheckpointError:
                continue
            json.loads(found.to_json())
            read += 1
    assert 500 < read < 5000


def safetensors_file(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(shape=(2, 2), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


TWICE = (
    b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, '
    b'"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'
)


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry((-2, -2))}, 16, "expected usize"),
        ({"a": entry((True, 4))}, 16, "expected usize"),
        ({"a": entry((2.0, 2))}, 16, "expected usize"),
        ({"a": entry([2] * 40)}, 16, "invalid shape"),
        ({"a": entry((2**62, 4), (0, 0))}, 0, "overflow"),
        ({"a": {**entry(), "shape": "22"}}, 16, "expected a sequence"),
        ({"a": entry((2**40, 2**40))}, 16, "overflow"),
        ({"a": entry(offsets=(16, 0))}, 16, "invalid offset"),
        ({"a": entry(offsets=(-16, 0))}, 16, "expected usize"),
        ({"a": entry(offsets=(0, 16, 32))}, 32, "expected 2 elements"),
        ({"a": entry(offsets=(0, 1e3))}, 16, "expected usize"),
        ({"a": entry()}, 15, "not fully covered"),
        ({"a": entry()}, 17, "not fully covered"),
        ({"a": entry(), "b": entry(offsets=(8, 24))}, 24, "invalid offset"),
        ({"a": entry(), "b": entry()}, 16, "invalid offset"),
        ({"a": entry(), "b": entry(offsets=(20, 36))}, 36, "invalid offset"),
        ({"a": entry([1] * 65, (0, 4))}, 4, "got shape"),
        ({"a": 3}, 16, "expected struct"),
        ([1], 0, "expected struct"),
        (TWICE, 16, "names an array twice"),
        (TWICE.replace(b'"a"', rb'"\u0061"', 1), 16, "names an array twice"),
        (b"{" * 5000, 0, "must be a string"),
        (b"[" * 100_000, 0, "invalid JSON"),
        (b'{"\xff": 1}', 0, "invalid utf-8"),
        (b'{"\\ud800": 1}', 0, "hex escape"),
        (b'{"a": {"dtype": "F32", "shape": [1' + b"0" * 6000 + b"]}}", 0, "out of range"),
        (b'{"a": {"dtype": "__import__", "shape": [], "data_offsets": [0, 0]}}', 0, "unknown"),
    ],
    ids=range(27),
)
def test_headers_of_safetensors(tmp_path, header, size, message):
    refused(safetensors_file(tmp_path / "w.safetensors", header, bytes(size)), message)


def test_lengths_of_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    refused(safetensors_file(path, {}, length=2**63), "header too large")
    refused(safetensors_file(path, {}, length=10**6), "invalid header length")
    path.write_bytes(b"\1\0\0")
    refused(path, "header too small")


def test_an_unknown_dtype_is_left_out_and_arrays_are_where_the_header_says(tmp_path):
    header = {"a": entry(dtype="F4", shape=(32,)), "b": entry((1, 4), (16, 32)),
              "none": entry((0, 3), (16, 16)), "__metadata__": {"a": "b"}}  # fmt: skip
    data = bytes(16) + np.arange(4, dtype=np.float32).tobytes()
    found = load(safetensors_file(tmp_path / "w.safetensors", header, data))
    assert [leaf.text for leaf in found.unread] == ["dtype 'F4' is not read"]
    np.testing.assert_array_equal(found.tree["b"], [[0, 1, 2, 3]])
    assert found.tree["none"].shape == (0, 3)


class Bomb:
    """Would make a file if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    mark = tmp_path / "unpickled"
    for protocol in range(6):
        for name in ("w.pt", "w.bin", "w.msgpack", "w.npz", "w"):
            (tmp_path / name).write_bytes(pickle.dumps(Bomb(mark), protocol))
            with pytest.raises(CheckpointError):
                load(tmp_path / name)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    refused(tmp_path / "w.pkl", "pickle.*never read.*safetensors.torch.save_file")
    array = np.empty((), object)
    array[()] = Bomb(mark)
    np.savez(tmp_path / "o.npz", bomb=array)
    assert load(tmp_path / "o.npz").tree == {}
    with zipfile.ZipFile(tmp_path / "t.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
        archive.writestr("archive/data/0", bytes(16))
    refused(tmp_path / "t.pt", "torch checkpoint, a pickle|weights_only=True")
    assert not mark.exists()


def npy(array=None, header=None):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 2)) if array is None else array)
    raw = buffer.getvalue()
    if header is not None:
        text = header.encode() + b"\n"
        raw = raw[:8] + struct.pack("<H", len(text)) + text + raw[128:]
    return raw


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -2)}", "damaged"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}", "damaged"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}", "damaged"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "2," * 50 + ")}", "damaged"),
        ("{'descr': 'nonsense', 'fortran_order': False, 'shape': (2, 2)}", "damaged"),
        ("__import__('os').system('true')", "damaged"),
        ("(" * 5000, "damaged"),
    ],
)
def test_headers_of_npz(tmp_path, header, message):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", npy(header=header))
    refused(tmp_path / "w.npz", message)


def test_bombs(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.zeros(1000)))
    raw = bytearray(path.read_bytes())
    # The directory promises 3 GiB for that member, which is what a reader would allocate.
    place = raw.index(b"PK\1\2") + 24
    raw[place : place + 4] = struct.pack("<I", 3 * 2**30)
    path.write_bytes(raw)
    refused(path, "would unpack to 3 GiB from .* stored bytes: refused")
    check_expansion(2**30, 1, "an ordinary file")
    with pytest.raises(CheckpointError):
        check_expansion(2**31, 2**20, "a bomb")


def test_the_same_member_twice(tmp_path):
    path = tmp_path / "w.npz"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.npy", npy())
        archive.writestr("a.npy", npy())
    refused(path, "holds a name twice")


def packed(*parts):
    return msgpack.ExtType(1, msgpack.packb(parts))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": packed([-1, -4], "float32", bytes(16))}, "got shape"),
        ({"a": packed([4, 4], "float32", bytes(16))}, "takes 64 bytes, the file holds 16"),
        ({"a": packed([2**45, 2**45], "float32", bytes(16))}, "takes"),
        ({"a": packed([4], "float32", 3)}, "dtype 'float32'"),
        ({"a": packed([4], "float32")}, "not .shape, dtype, bytes."),
        ({"a": msgpack.ExtType(1, b"\xc1")}, "truncated or no MessagePack"),
        ({"a": msgpack.ExtType(9, b"")}, "unknown extension type 9"),
        ({"a": msgpack.ExtType(2, msgpack.packb(["x"]))}, "truncated or no MessagePack"),
        ({"a": {"__msgpack_chunked_array__": True}}, "not numbered"),
        (
            {"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": "x"}}},
            "no arrays",
        ),
        ({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {}}}, "0 entries"),
    ],
)
def test_msgpack(tmp_path, tree, message):
    (tmp_path / "w.msgpack").write_bytes(msgpack.packb(tree))
    refused(tmp_path / "w.msgpack", message)


def test_an_unknown_dtype_of_msgpack_is_left_out(tmp_path):
    tree = {"a": {
        "b": packed([4], "object", bytes(32)), "c": packed([4], "S99", bytes(4)),
        "d": packed([2, 2], "int4", bytes(4)), "e": packed([2], "int8", bytes(2)),
    }}  # fmt: skip
    (tmp_path / "w.msgpack").write_bytes(msgpack.packb(tree))
    found = load(tmp_path / "w.msgpack")
    whys = {leaf.path: leaf.text for leaf in found.unread}
    assert whys == {f"a/{k}": f"dtype {name!r} is not read"
                    for k, name in (("b", "object"), ("c", "S99"), ("d", "int4"))}  # fmt: skip
    assert [path for path, _ in paths_and_leaves(found.tree)] == ["a/e"]


def test_msgpack_lengths_and_depth(tmp_path):
    path = tmp_path / "w.msgpack"
    path.write_bytes(b"\xdf\xff\xff\xff\xff")  # a map of 4 billion entries
    refused(path, "truncated or no MessagePack")
    path.write_bytes(b"\xc6\xff\xff\xff\xff")  # 4 GiB of bytes
    refused(path, "truncated or no MessagePack")
    path.write_bytes(b"\x81\xa1a" * 100_000 + b"\xc0")
    refused(path, "truncated or no MessagePack")
    path.write_bytes(msgpack.packb(5))
    refused(path, "no tree of arrays")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_orbax({**weights(), "step": 7}, folder / "ocdbt")
        save_orbax({**weights(), "step": 7}, folder / "plain", use_ocdbt=False)
    return folder


@pytest.mark.parametrize("kind", ["ocdbt", "plain"])
def test_orbax_folders_with_a_file_cut_or_gone(saved, tmp_path, kind):
    wholes = [f for f in (saved / kind).rglob("*") if f.is_file()]
    refusals = 0
    for i, whole in enumerate(wholes):
        for cut in (True, False):
            copy = tmp_path / f"{i}{cut}"
            shutil.copytree(saved / kind, copy)
            broken = copy / whole.relative_to(saved / kind)
            if cut:
                broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
            else:
                broken.unlink()
            try:
                load(copy)
            except CheckpointError:
                refusals += 1
    assert refusals >= 5
    missing = tmp_path / "missing"
    shutil.copytree(saved / kind, missing)
    if kind == "plain":  # a chunk that is gone must not turn into zeros
        (missing / "Dense_0.kernel" / "0.0").unlink()
        refused(missing, "truncated or damaged")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON text"),
        ("[" * 100_000, "no JSON text"),
        ("[]", "describes no tree"),
        ('{"tree_metadata": {"a": 1}}', "no description of a leaf"),
        ('{"tree_metadata": {"a": {"key_metadata": [{"key": "../../etc"}], '
         '"value_metadata": {"value_type": "jax.Array"}}}}', "no description of a leaf"),
        ('{"tree_metadata": {"a": {"key_metadata": [{"key": "/etc"}], '
         '"value_metadata": {"value_type": "jax.Array"}}}}', "got the key"),
        ('{"tree_metadata": {"a": {"key_metadata": [{"key": "ghost"}], '
         '"value_metadata": {"value_type": "jax.Array"}}}}', "truncated or damaged"),
    ],
)  # fmt: skip
def test_metadata_of_orbax(saved, tmp_path, text, message):
    shutil.copytree(saved / "ocdbt", tmp_path / "o")
    (tmp_path / "o" / "_METADATA").write_text(text)
    refused(tmp_path / "o", message)


def test_an_orbax_bomb(saved, tmp_path):
    shutil.copytree(saved / "plain", tmp_path / "o")
    array = tmp_path / "o" / "Dense_0.kernel" / ".zarray"
    described = json.loads(array.read_text())
    array.write_text(json.dumps({**described, "shape": [10**6, 10**6], "chunks": [10**6, 10**6]}))
    refused(tmp_path / "o", "refused|damaged")


def test_pipes_are_not_waited_for(saved, tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "neither a file nor a folder")
    refused(tmp_path, "holds no checkpoint")
    shutil.copytree(saved / "ocdbt", tmp_path / "o")
    (tmp_path / "o" / "manifest.ocdbt").unlink()
    os.mkfifo(tmp_path / "o" / "manifest.ocdbt")
    refused(tmp_path / "o", "neither a file nor a folder")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_what_is_no_checkpoint(tmp_path):
    refused(tmp_path / "nothing", "no such file or folder")
    refused(tmp_path, "holds no checkpoint")
    for name, raw, message in [
        ("empty.npz", b"", "is empty"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("a.gguf", b"GGUF    ", "GGUF"),
        ("a.npy", npy(), "single NumPy array"),
        ("b.npy", npy() + npy(), "equinox.tree_deserialise_leaves"),
        ("m.eqx", b"{}" + npy(), "equinox.tree_deserialise_leaves"),
        ("w.safetensors", LFS, "pointer of git-lfs.*git lfs pull"),
        ("w.bin", LFS, "pointer of git-lfs"),
        ("w.npz", b"\n<!DOCTYPE html><html>", "page of HTML"),
        ("x.safetensors", b"<html><head>", "page of HTML"),
        ("y.safetensors", b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "page of HTML"),
        ("z.safetensors", b"Entry not found", "holds the text 'Entry not found', not the file"),
        ("w.msgpack", b'{"error": "no such repository"}', "holds the text"),
        ("b.safetensors", b"\xef\xbb\xbf" + LFS, "pointer of git-lfs"),
        ("w.eqx", LFS, "pointer of git-lfs"),
        ("m.safetensors.index.json", LFS, "pointer of git-lfs"),
        ("n.safetensors.index.json", b"<html>", "page of HTML"),
        ("a.npz", b"garbage garbage", "truncated or no archive"),
        ("a.txt", b"hello", "of no known kind"),
    ]:
        (tmp_path / name).write_bytes(raw)
        refused(tmp_path / name, message)
    refused("/dev/null", "neither a file nor a folder")


def test_text_for_a_terminal():
    assert shown("a\x1b[31mb\r\n\u202e") == "a\\x1b[31mb\\r\\n\\u202e"
    assert len(shown("x" * 10**6)) == 200
