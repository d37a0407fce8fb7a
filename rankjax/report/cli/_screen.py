"""What a command prints: tables, a bar of progress, errors of one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rankjax.report.checkpoints import shown

_WIDTH_OF_A_FILE = 220  # where the output is no terminal, nothing is broken into lines


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough where it is a file."""
    plain = Console(highlight=False, markup=False)
    return plain if plain.is_terminal else Console(
        highlight=False, markup=False, width=_WIDTH_OF_A_FILE
    )  # fmt: skip


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str, float], None]]:
    """A bar on standard error that goes away: call it with (done, total, path, share of the work).

    The bar and the time left go by the work, which the large matrices at the beginning have most
    of.
    """
    columns = (BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn(),
               TextColumn("{task.fields[path]}", markup=False))  # fmt: skip
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda *told: None
        return
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=1.0, path="", count="")

        def progress(done: int, total: int, path: str, share: float) -> None:
            bar.update(task, completed=share, path=shown(path, 60), count=f"{done}/{total}")

        yield progress


@contextmanager
def clear_errors() -> Iterator[None]:
    """What is wrong with the input is one line and exit code 1, never a traceback.

    Exit code 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    except BrokenPipeError:  # of "| head": typer leaves quietly
        raise
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        fail("out of memory")
    except (ValueError, ImportError) as error:
        fail(str(error))


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print one line on standard error and leave with an exit code."""
    typer.echo(f"rankjax: {message}", err=True)
    raise typer.Exit(code) from None
