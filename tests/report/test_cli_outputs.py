"""What the commands write, where they may, and what is left when something goes wrong."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from rankjax import report
from rankjax.report._whole_files import write_whole
from rankjax.report.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (np.diag(d).astype(np.float32) for d in ([2, 1], [3, 0.5]))
    np.savez("w.npz", **{"a/kernel": first, "b/kernel": second})  # pyright: ignore[reportArgumentType]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2)).astype(np.float32)
    np.savez("data.npz", x=x, y=np.argmax(np.maximum(x * [2, 1], 0) * [3, 0.5], 1))
    (tmp_path / "taken").mkdir()
    (tmp_path / "link.json").symlink_to("w.npz")
    return tmp_path


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["--json", "no/x.json"], "--json: there is no folder no"),
        (["--csv", "taken"], "--csv: taken is a folder; name a file"),
        (["--html", "w.npz"], "--html: w.npz is an input; name another file"),
        (["--json", "link.json"], "--json: link.json is an input"),
        (["--json", "x", "--csv", "./x"], "--csv: the file x is taken by --json already"),
        (["--json", "-", "--html", "-"], "--html: standard output is taken by --json already"),
        (["--csv", "x" * 300], "cannot be written: File name too long"),
        (["--write", "no/r.json"], "--write: there is no folder no"),
        (["--write", "w.npz/new"], "--write: w.npz is a file, must be a folder"),
        (["--write", "new"], "w.npz holds no pair of LoRA factors"),
    ],
)
def test_outputs_are_checked_before_the_work_starts(folder, monkeypatch, outputs, message):
    monkeypatch.setattr(report, "analyze", lambda *a, **k: pytest.fail("the work has started"))
    before = sorted(os.listdir(folder))
    result = run("analyze", "w.npz", *outputs)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("command", ["compare", "certify"])
def test_other_commands_check_them_too(folder, command):
    options = ["no.npz", "--data", "data.npz", "--sequential", "dense relu dense"]
    result = run(command, *options, "--json", "data.npz")
    assert result.exit_code == 1
    assert result.stderr == "rankjax: --json: data.npz is an input; name another file\n"


def test_each_written_file_is_named(folder):
    result = run("analyze", "w.npz", "--json", "a.json", "--csv", "a.csv", "--html", "a.html",
                 "--write", "r.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    named = [line.removeprefix("written: ") for line in result.stderr.splitlines()]
    assert named == ["a.json", "a.csv", "a.html", "r.json"]
    for name in named:
        assert (folder / name).read_text().endswith("\n")


def test_a_dash_is_standard_output(folder):
    network = ["w.npz", "--data", "data.npz", "--sequential", "dense relu dense"]
    assert json.loads(run("analyze", "w.npz", "--json", "-").stdout)["p"] == [0.5]
    assert run("analyze", "w.npz", "--csv", "-").stdout.startswith("path,leaf,out,in,")
    assert run("analyze", "w.npz", "--html", "-").stdout.startswith("<!DOCTYPE html>")
    both = run("compare", *network, "--markdown", "-", "--json", "t.json")
    assert both.exit_code == 0, both.stderr
    assert both.stdout.startswith("**Explicit bounds**\n\n| bound | kind |")
    assert both.stderr == "written: t.json\n"
    assert json.loads(run("certify", *network, "--json", "-").stdout)["n"] == 40


def test_ctrl_c_leaves_everything_as_it_was(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (folder / "a.html").write_text("old")
    monkeypatch.setattr(report, "html_report", interrupted)
    before = sorted(os.listdir(folder))
    result = run("analyze", "w.npz", "--html", "a.html")
    assert result.exit_code == 130
    assert result.stderr == "rankjax: interrupted\n"
    assert (folder / "a.html").read_text() == "old"
    assert sorted(os.listdir(folder)) == before
    assert "130 Ctrl-C" in run("--help").output


def test_a_file_is_written_whole_or_not_at_all(folder):
    path = folder / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \udc80")
    assert path.read_text() == "old"
    assert not [name for name in os.listdir(folder) if "partial" in name]
    (folder / "link.txt").symlink_to("a.txt")
    write_whole(folder / "link.txt", "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)
    assert (folder / "link.txt").is_symlink()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_named(folder):
    result = run("analyze", "w.npz", "--csv", "/dev/full")
    assert result.exit_code == 1
    assert result.stderr == "rankjax: /dev/full: No space left on device\n"


def test_pipes_are_written_to_directly(folder):
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        result = run("analyze", "w.npz", "--csv", "pipe")
        assert (result.exit_code, result.stderr) == (0, "written: pipe\n")
        assert os.read(reader, 100_000).startswith(b"path,leaf,out,in,")
    finally:
        os.close(reader)
    assert (folder / "pipe").is_fifo()
