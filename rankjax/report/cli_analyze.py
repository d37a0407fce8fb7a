"""``rankjax analyze``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

_WIDTH_OF_A_FILE = 220  # where the output is no terminal, nothing is broken into lines


class Layout(StrEnum):
    """How weights are stored."""

    flax = "flax"
    torch = "torch"
    equinox = "equinox"


PathArgument = Annotated[
    Path,
    typer.Argument(
        help="A safetensors, npz or Flax msgpack file, an Orbax folder, or a folder of safetensors."
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
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a report, one file.")]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Another checkpoint: measure the difference (fine-tuning, merged LoRA)."),
]


def analyze(
    path: PathArgument,
    p: PowerOption = [0.5],  # noqa: B006 - typer reads it, nothing changes it
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Measure tables of embeddings, too.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", help="Write everything, spectra included; - prints it."),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the table.")] = None,
    html: HtmlOption = None,
) -> None:
    """Norms, ranks, tails and possible savings of every weight matrix of a checkpoint."""
    with clear_errors():
        from rankjax.report.analyze import analyze as run

        with progress_bar() as progress:
            found = run(
                path,
                p=p,
                layout=layout.value if layout else None,
                embeddings=embeddings,
                reference=reference,
                progress=progress,
            )
        if str(json) == "-":
            typer.echo(found.to_json())
        else:
            console().print(found)
        written = {"JSON": (json, found.to_json), "CSV": (csv, found.to_csv),
                   "HTML": (html, found.to_html)}  # fmt: skip
        for what, (target, write) in written.items():
            if target is not None and str(target) != "-":
                write(target)
                typer.echo(f"{what}: {target}", err=True)
    if not found.rows:
        raise typer.Exit(1)


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough where it is a file."""
    plain = Console(highlight=False, markup=False)
    return plain if plain.is_terminal else Console(
        highlight=False, markup=False, width=_WIDTH_OF_A_FILE
    )  # fmt: skip


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A bar on standard error that goes away: call it with (done, total, path)."""
    from rankjax.report.checkpoints import shown

    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
               TextColumn("{task.fields[path]}", markup=False))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, path="")

        def progress(done: int, total: int, path: str) -> None:
            bar.update(task, completed=done, total=total, path=shown(path, 60))

        yield progress


@contextmanager
def clear_errors() -> Iterator[None]:
    """What is wrong with the input is one line and exit code 1, never a traceback."""
    try:
        yield
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        fail("out of memory")
    except (ValueError, ImportError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Print one line on standard error and leave with exit code 1."""
    typer.echo(f"rankjax: {message}", err=True)
    raise typer.Exit(1) from None
