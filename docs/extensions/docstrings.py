"""What the pages of the API need to know that the source does not say in Markdown's own terms."""

import re

import griffe

_LITERAL = re.compile(r"::(?=\n\s*\n)")  # "formula::" announces an indented block in a docstring
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # else an admonition, and >>> a quotation
_AT_LEAST = re.compile(r"^( +\w+: )>(?==? )", re.MULTILINE)  # else a quotation, too


class Docstrings(griffe.Extension):
    """Docstrings as Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """A colon before an indented block, doctests as code, ``>= 0`` as it stands."""
        if obj.docstring is not None:
            text = _LITERAL.sub(":", obj.docstring.value)
            text = _AT_LEAST.sub(r"\1\>", text)
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)
