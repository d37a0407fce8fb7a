"""What the pages of the API need to know that the source does not say in Markdown's own terms."""

import re

import griffe

_LITERAL = re.compile(r"::(?=\n\s*\n)")  # "formula::" announces an indented block in a docstring
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # else an admonition, and >>> a quotation
_AT_LEAST = re.compile(r"^( +\w+: )>(?==? )", re.MULTILINE)  # else a quotation, too


class Docstrings(griffe.Extension):
    """Docstrings as Markdown, and ``rankjax.bounds.spectral`` as the function, not its module."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """A colon before an indented block, doctests as code, ``>= 0`` as it stands."""
        if obj.docstring is not None:
            text = _LITERAL.sub(":", obj.docstring.value)
            text = _AT_LEAST.sub(r"\1\>", text)
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Bind what each ``__init__`` re-exports, also where a submodule has the same name."""
        floors = [pkg, *(m for m in pkg.modules.values() if m.is_init_module)]
        exported = [
            (floor, name, pkg.modules_collection[path])
            for floor in floors
            for name, path in floor.imports.items()
            if path.startswith(f"{pkg.path}.") and path != f"{floor.path}.{name}"
        ]
        for floor, name, target in exported:
            while target.is_alias:  # re-exported from a floor's own __init__
                target = pkg.modules_collection[target.target_path]
            floor.members[name] = griffe.Alias(name, target, parent=floor)
