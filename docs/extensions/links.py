"""Links every public name that stands as code in a page to its place in the API.

The pages themselves hold the bare name, so that they read well where nothing is built.
"""

import ast
import re
from collections import Counter
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FLOORS = ("matrix", "network", "bounds", "certificates", "training", "report")

# What is left as it is: fenced and indented blocks, headings, comments and links. Or: a code span.
_TOKEN = re.compile(
    r"^```.*?^```|^#+ [^\n]*|^ {4}[^\n]*|<!--.*?-->|\[[^\]]*\]\([^)]*\)|\[[^\]]*\]\[[^\]]*\]"
    r"|(?<!`)`(?P<name>[A-Za-z_][\w.]*)(?:\([^`\n]*\))?`(?!`)",
    re.DOTALL | re.MULTILINE,
)


def _public_names() -> dict[str, str]:
    """From ``certify`` and ``certificates.certify`` to ``rankjax.certificates.certify``."""
    found = {}
    for floor in FLOORS:
        tree = ast.parse((ROOT / "rankjax" / floor / "__init__.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name
                    found[f"{floor}.{name}"] = f"rankjax.{floor}.{name}"
    counts = Counter(key.split(".")[1] for key in found)
    short = {
        key.split(".")[1]: path for key, path in found.items() if counts[key.split(".")[1]] == 1
    }
    return found | short


NAMES = _public_names()
# On the page about theory this is a kind of distance.
ELSEWHERE = {"theory.md": {"spectral"}}


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its names as references, which mkdocs-autorefs resolves."""
    if page.file.src_uri.startswith(("api/", "notebooks/")):
        return markdown
    not_here = ELSEWHERE.get(page.file.src_uri, set())

    def linked(match: re.Match[str]) -> str:
        name = (match["name"] or "").removeprefix("rankjax.")
        if name in not_here or name not in NAMES:
            return match[0]
        return f"[{match[0]}][{NAMES[name]}]"

    return _TOKEN.sub(linked, markdown)
