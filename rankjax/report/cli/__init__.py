"""The command line, ``rankjax``."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Annotated

# OpenBLAS threads wait by spinning: beside other work on few cores that is many times slower than
# one thread. It reads this once, when JAX loads it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

try:
    import typer
except ImportError as error:  # pragma: no cover - needs an environment without the extra
    raise SystemExit(
        f"rankjax: {error}. The command line needs: pip install 'rankjax[report]'"
    ) from None

from rankjax.report.cli._analyze import analyze
from rankjax.report.cli._certify import certify
from rankjax.report.cli._compare import compare
from rankjax.report.cli._lipschitz import KNOWN

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rankjax {metadata.version('rankjax')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Ranks, bounds and guarantees of trained weights.

    Exit codes: 0 success; 1 unusable input, explained in one line; 2 bad usage; 130 Ctrl-C.
    """


app.command()(analyze)
app.command(epilog=KNOWN)(compare)
app.command(epilog=KNOWN)(certify)
