"""The theory page and the code say the same."""

import importlib.util
import re
from pathlib import Path
from typing import get_args

import pytest

from rankjax.certificates.theorem import _values
from rankjax.certificates.theorem._nodes import Op

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "theory.md").read_text()


@pytest.fixture
def rules():
    spec = importlib.util.spec_from_file_location("rules", ROOT / "docs/extensions/rules.py")
    module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]
    spec.loader.exec_module(module)
    return module


def test_tables_of_rules_and_activations_are_those_of_the_code(rules):
    assert rules.filled(PAGE) == PAGE, "run: python docs/extensions/rules.py"


def test_other_text_is_kept(rules):
    emptied = re.sub(
        r"(?s)<!-- rules -->.*<!-- /rules -->", "<!-- rules -->\n<!-- /rules -->", PAGE
    )
    assert emptied != PAGE
    assert rules.filled(emptied) == PAGE


def test_every_node_has_a_line():
    table = PAGE.split("<!-- nodes -->")[1].split("<!-- /nodes -->")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(Op))


def test_every_kind_of_distance_has_a_line():
    table = PAGE.split("### Distances")[1].split("**Order.**")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(
        get_args(_values.DistanceKind)
    )


def test_constants_of_the_rounding_are_those_of_the_code():
    for text, number in (
        ("u = 2^{-50}", _values.ARITHMETIC == 2.0**-50),
        ("u' = 2^{-42}", _values.FUNCTION == 2.0**-42),
        (r"\tau = 10^{-300}", _values.UNDERFLOW == 1e-300),
        ("R = 1 + 10^{-12}", _values.ROOM == 1 + 1e-12),
    ):
        assert text in PAGE.replace("\n", " ")
        assert number
