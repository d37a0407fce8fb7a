"""What ``import rankjax`` brings along, and that no floor imports a higher one."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ["matrix", "network", "bounds", "certificates", "training", "report"]


def imports():
    """By module, the modules of rankjax that it imports anywhere, functions included."""
    files = {path.relative_to(ROOT).with_suffix(""): path for path in ROOT.glob("rankjax/**/*.py")}
    names = {".".join(p.parts).removesuffix(".__init__"): path for p, path in files.items()}
    found = {}
    for name, path in names.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & set(names)
                targets |= inside or {node.module}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        found[name] = (targets & set(names)) - {name}
    return found


def test_no_import_runs_in_a_circle():
    TopologicalSorter(imports()).prepare()


def test_imports_go_down():
    for name, targets in imports().items():
        here = [floor for floor in FLOORS if name.startswith(f"rankjax.{floor}")]
        for target in targets if here else ():
            there = [floor for floor in FLOORS if target.startswith(f"rankjax.{floor}")]
            below = target.rpartition(".")[2].startswith("_")  # what all floors share
            assert there or below, f"{name} imports {target}"
            assert not there or FLOORS.index(there[0]) <= FLOORS.index(here[0]), (
                f"{name} imports {target}"
            )


def test_no_package_looks_behind_the_face_of_another():
    looked = []
    for folder in ("rankjax", "examples"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            own = ".".join(path.relative_to(ROOT).parts[:2])
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    package, _, rest = node.module.removeprefix("rankjax.").partition(".")
                    names = [*rest.split("."), *(alias.name for alias in node.names)]
                    private = any(name.startswith("_") for name in names)
                    if package in FLOORS and private and own != f"rankjax.{package}":
                        looked.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert not looked


def test_no_public_name_of_a_package_hides_a_module():
    for floor in FLOORS:
        folder = ROOT / "rankjax" / floor
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        modules |= {path.name for path in folder.iterdir() if path.is_dir()}
        tree = ast.parse((folder / "__init__.py").read_text())
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        public = {
            a.asname for node in imports for a in node.names if node.module != f"rankjax.{floor}"
        }
        assert not public & modules


def test_what_is_imported_at_first_use_is_found():
    code = (
        "import sys, rankjax; assert not {f'rankjax.{x}' for x in ('training', 'certificates')} & "
        "set(sys.modules); assert {'training', 'certify'} <= set(dir(rankjax)); "
        "rankjax.training.factorize, rankjax.certify, rankjax.certificates.verify"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_imports_no_extra_and_the_report_none_before_it_is_used():
    extras = {
        "jax._src.pallas.core",
        "flax",
        "rich",
        "typer",
        "msgpack",
        "safetensors",
        "tensorstore",
        "threadpoolctl",
    }
    code = (
        f"import sys, rankjax.report; found = {extras} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
