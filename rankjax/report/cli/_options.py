"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankjax.report._matrices_by_name import Layout

PathArgument = Annotated[
    Path,
    typer.Argument(
        help="A safetensors, npz, Flax msgpack, torch or Keras file, a folder with one, an Orbax "
        "folder, or hf://owner/name."
    ),
]
LayoutOption = Annotated[
    Layout | None,
    typer.Option(
        help="flax: (in, out), HWIO; torch, equinox: (out, in), OIHW. Default: by the names."
    ),
]
PowerOption = Annotated[
    list[float], typer.Option("--p", help="Exponent of the Schatten norm; may be repeated.")
]
OnlyOption = Annotated[
    list[str],
    typer.Option(help='Measure only what matches, such as "*attn*" (whole paths); repeatable.'),
]
SkipOption = Annotated[
    list[str], typer.Option(help="Leave out what matches, also of --only; repeatable.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write everything as JSON; - prints it.")
]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", help="Write the table as CSV; - prints it.")
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write a report, one file; - prints it.")
]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", help="Write the table as Markdown; - prints it.")
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Another checkpoint: measure the difference (fine-tuning, merged LoRA)."),
]
DataOption = Annotated[
    Path, typer.Option(help="npz with x (examples first) and y (integer labels).")
]
ApplyOption = Annotated[
    str | None,
    typer.Option(help="module:function or file.py:function with function(params, x) -> logits."),
]
SequentialOption = Annotated[
    str | None,
    typer.Option(help='The network in words, such as "dense relu dense", in place of --apply.'),
]
LipschitzOption = Annotated[
    list[str],
    typer.Option(
        metavar="NAME=NUMBER",
        help="Lipschitz constant of an activation, a jitted function that --apply calls by this "
        "name; you vouch for it. Repeatable.",
    ),
]
