"""The pages of the documentation speak of every public name."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import get_origin

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["matrix", "network", "bounds", "certificates", "training", "report"]


def public_names(module):
    tree = ast.parse((ROOT / module / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.asname or name.name for node in imports for name in node.names}


@pytest.mark.parametrize("floor", FLOORS)
def test_page_of_a_floor_has_all_its_public_names(floor):
    page = (ROOT / "docs" / "api" / f"{floor}.md").read_text()
    shown = re.findall(rf"^::: rankjax\.{floor}\.(\w+)$", page, re.MULTILINE)
    face = importlib.import_module(f"rankjax.{floor}")
    names = public_names(f"rankjax/{floor}")
    aliases = {name for name in names if isinstance(getattr(face, name), tuple)}
    aliases |= {name for name in names if get_origin(getattr(face, name)) is not None}
    assert sorted(shown) == sorted(names - aliases)


def test_overview_has_all_short_names():
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    assert public_names("rankjax") - set(FLOORS) <= set(re.findall(r"`(\w+)`", page))


@pytest.mark.parametrize("floor", FLOORS)
def test_every_function_is_in_a_column(floor):
    lines = (ROOT / "docs" / "numbers.md").read_text().splitlines()
    row = " ".join(line for line in lines if line.startswith(f"| `{floor}` |"))
    functions = {name for name in public_names(f"rankjax/{floor}") if name.islower()}
    assert functions <= set(re.findall(r"`(\w+)`", row)) or "all of it" in row


def test_tables_of_the_benchmarks_page_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/extensions/benchmarks.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert tables.filled(page) == page, "run: python docs/extensions/benchmarks.py"


def test_messages_of_the_page_about_errors_are_those_of_the_code():
    texts = set()
    for path in (ROOT / "rankjax").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        texts |= {
            n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        for part in message.split("…"):
            assert any(part.strip() in text for text in texts), part
