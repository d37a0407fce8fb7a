"""Progress of trainings on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def training_progress(screen: Console) -> Iterator[Callable[[str, int, int, str], None]]:
    """One bar a run: call it with (run, done, total, message)."""
    columns = (
        TextColumn("{task.description:<13}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[message]}"),
    )
    with Progress(*columns, console=screen) as bar:
        tasks = {}

        def progress(run: str, done: int, total: int, message: str) -> None:
            if run not in tasks:
                tasks[run] = bar.add_task(run, total=total, message="")
            bar.update(tasks[run], completed=done, message=message)

        yield progress
