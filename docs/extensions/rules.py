"""Makes the tables of rules and activations on the theory page from the code.

``python docs/extensions/rules.py`` writes them into the page; a test compares the two.
"""

from itertools import groupby
from pathlib import Path

from rankjax.certificates.theorem._rules import RULES
from rankjax.network.internal import ACTIVATIONS, Activation

PAGE = Path(__file__).parents[1] / "theory.md"


def rules() -> str:
    """One row per rule, with all primitives that have it."""
    lines = ["| primitive | condition | bound | proof |", "|---|---|---|---|"]
    for (condition, bound, proof), group in groupby(
        RULES, key=lambda name: (RULES[name].condition, RULES[name].bound, RULES[name].proof)
    ):
        names = ", ".join(f"`{name}`" for name in group)
        lines.append(f"| {names} | {_code(condition)} | `{bound}` | {_code(proof)} |")
    return "\n".join(lines)


def activations() -> str:
    """One row per activation."""
    lines = ["| activation | Lipschitz constant | proof |", "|---|---|---|"]
    for name, activation in ACTIVATIONS.items():
        lines.append(f"| `{name}` | {_constant(activation)} | {_code(activation.proof)} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """The page with both tables as the code has them."""
    for name, table in (("rules", rules()), ("activations", activations())):
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}{table}\n{end}{after}"
    return text


def _constant(activation: Activation) -> str:
    numbers = (0.5, 1.0, 3.0)
    found = [activation.constant(number) for number in numbers]
    if len(set(found)) == 1:
        return f"{found[0]:.5g}"
    if found != [max(1.0, number) for number in numbers]:
        raise ValueError(f"no words for the constants {found}")
    return "`max(1, |number|)`"


def _code(text: str) -> str:
    # A formula stands in a code span: a bar would end the cell of the table, a star set italics.
    return f"`{text}`" if set(text) & set("|*^~_") else text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
