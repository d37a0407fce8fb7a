"""A table in a terminal that is never cut: too wide, it comes in pieces, one under the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from rankjax.report.checkpoints import shown


@dataclass(frozen=True)
class Pieces:
    """A table with a name in front of every row, which every piece repeats.

    Names come from a file: they are ``Text``, in which nothing is markup. One that is longer than
    half of the width goes on in the next line.

    Attributes:
        first: the heading of the names.
        names: the first cell of each row.
        headings: of the other columns.
        rows: the other cells.
    """

    first: str
    names: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        names = [shown(name) for name in self.names]
        columns = zip(self.headings, *self.rows, strict=True)
        widths = [max(map(len, column)) + 3 for column in columns]
        longest = max(map(len, (self.first, *names)))
        room = max(options.max_width // 2, options.max_width - longest - 4)
        start = 0
        while start < len(self.headings):
            stop = start + 1
            while stop < len(self.headings) and sum(widths[start : stop + 1]) <= room:
                stop += 1
            table = Table()
            table.add_column(self.first, overflow="fold")
            for heading in self.headings[start:stop]:
                table.add_column(heading, justify="right", no_wrap=True)
            for name, row in zip(names, self.rows, strict=True):
                table.add_row(Text(name), *map(Text, row[start:stop]))
            yield table
            start = stop
