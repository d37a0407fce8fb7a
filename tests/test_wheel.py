"""The wheel: built, checked, installed where nothing else is, and used there, with each extra."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.report.checkpoints import WRITERS, save_orbax, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOR_DEVELOPMENT = {"demo", "test", "docs", "dev"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

# What is done with the wheel under each extra; "" is the wheel alone.
USES = {
    "": """
import importlib.metadata, importlib.util
import jax, jax.numpy as jnp, rankjax
assert rankjax.__version__ == importlib.metadata.version("rankjax")
for absent in ("flax", "rich", "typer", "safetensors", "examples", "tests"):
    assert importlib.util.find_spec(absent) is None, absent
params = {"a": {"kernel": jnp.eye(4, 3)}, "b": {"kernel": jnp.eye(3, 2)}}
apply = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"]
x = jax.random.normal(jax.random.key(0), (50, 4))
structure = rankjax.describe(params, apply=apply, example=x[:1])
table = rankjax.compare(structure, params, x, jnp.argmax(apply(params, x), 1), apply=apply)
assert "rank_sparse" in str(table)
""",
    "flax": """
import jax.numpy as jnp, rankjax
from flax import nnx
graph, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
structure = rankjax.describe(params, apply=lambda p, x: nnx.merge(graph, p)(x),
                             example=jnp.ones((1, 3)))
assert structure.names == ("kernel",)
""",
    "orbax": """
from rankjax.report import analyze
assert [row.path for row in analyze("orbax").rows] == ["Dense_0/kernel", "Dense_1/kernel"]
""",
    "plot": """
from rankjax.report import analyze, plot_rank_map
assert len(plot_rank_map(analyze("w.npz")).texts) == 2
""",
    "report": """
import numpy as np
from rankjax.report import analyze, html_report
assert "</html>" in html_report(analyze("w.npz"))
assert len(analyze("w.safetensors").rows) == len(analyze("w.msgpack").rows) == 2
""",
}
COMMANDS = (
    ("analyze", "w.npz", "--html", "w.html"),
    ("compare", "w.npz", "--data", "data.npz", "--sequential", "dense relu dense"),
    ("certify", "w.npz", "--data", "data.npz", "--sequential", "dense relu dense"),
)


def run(*command, cwd=ROOT):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT
    )


def checked(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(folder):
    checked(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def install(python, *packages):
    checked(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    probe = run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d",
                folder / "probe", "packaging")  # fmt: skip
    if probe.returncode:
        pytest.skip(f"pip reaches no package index: {probe.stderr.strip().splitlines()[-1]}")
    python = environment(folder / "tools")
    install(python, "build", "twine")
    checked(python, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
    (built,) = (folder / "dist").iterdir()
    assert "PASSED" in checked(python, "-m", "twine", "check", "--strict", built)
    return built


def test_it_holds_the_library_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"rankjax"}
    assert {"rankjax/py.typed", "rankjax/report/report.css"} <= set(names)
    assert "rankjax/report/report.js" in names
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("rankjax/**/*.py")}
    assert sources == {name for name in names if name.endswith(".py")}


@pytest.mark.parametrize("extra", ["", *sorted(set(EXTRAS) - FOR_DEVELOPMENT)])
def test_it_works_where_nothing_else_is_installed(wheel, extra, tmp_path):
    for name, write in WRITERS.items():
        write(weights(), tmp_path / name)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=rng.integers(3, size=40))
    if extra == "orbax":
        save_orbax(weights(), tmp_path / "orbax")
    python = environment(tmp_path / "venv")
    install(python, f"{wheel}[{extra}]" if extra else wheel)
    checked(python, "-c", USES[extra], cwd=tmp_path)
    command = python.parent / "rankjax"
    if extra == "report":
        for arguments in COMMANDS:
            assert checked(command, *arguments, cwd=tmp_path)
        assert (tmp_path / "w.html").stat().st_size > 1000
    else:
        done = run(command, "analyze", "w.npz", cwd=tmp_path)
        assert done.returncode == 1
        assert "pip install 'rankjax[report]'" in done.stderr
        assert "Traceback" not in done.stderr
