"""Every Python block of the README and the docs runs, in the order in which it is read."""

import re
import tomllib
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "page",
    [PAGES[0], *(pytest.param(page, marks=pytest.mark.slow) for page in PAGES[1:])],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_runs(page):
    blocks = BLOCK.findall(page.read_text())
    if page.name == "README.md":
        assert blocks
    scope = {"__name__": "readme"}
    # As a reader runs it: without x64, with the ordinary promotion of dtypes and ranks.
    ordinary = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(False), ordinary[0], ordinary[1]:
        for block in blocks:
            exec(compile(block, str(page), "exec"), scope)


def test_links_of_the_readme_work_on_a_package_index():
    """They are absolute, and those into the repository name a file of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(project):
            _, path = re.fullmatch(r"/(blob|tree|raw)/main/(.+)", link[len(project) :]).groups()
            assert (ROOT / path).exists(), link
