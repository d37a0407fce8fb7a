"""``rankjax certify``: a guarantee for a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rankjax import certificates
from rankjax.report._network import read_data
from rankjax.report.cli._lipschitz import constants
from rankjax.report.cli._opened import opened
from rankjax.report.cli._options import (
    ApplyOption,
    DataOption,
    JsonOption,
    LayoutOption,
    LipschitzOption,
    PathArgument,
    ReferenceOption,
    SequentialOption,
)
from rankjax.report.cli._outputs import Outputs
from rankjax.report.cli._screen import clear_errors, console


def certify(
    path: PathArgument,
    data: DataOption,
    apply: ApplyOption = None,
    sequential: SequentialOption = None,
    layout: LayoutOption = None,
    reference: ReferenceOption = None,
    delta: Annotated[float, typer.Option(help="Probability that the bound fails.")] = 0.01,
    tried: Annotated[
        int, typer.Option(min=1, help="Architectures or codes tried on this sample.")
    ] = 1,
    every: Annotated[
        bool, typer.Option("--all", help="All guarantees, in a table of which every row holds.")
    ] = False,
    held_out: Annotated[
        Path | None,
        typer.Option(help="With --all: npz with labeled examples that nothing has seen."),
    ] = None,
    stored: Annotated[
        Path | None, typer.Option(help="With --all: a file that CompressedNetwork.save wrote.")
    ] = None,
    lipschitz: LipschitzOption = [],  # noqa: B006 - typer reads it, nothing changes it
    json: JsonOption = None,
) -> None:
    """A bound on the true error of a checkpoint, with every constant.

    DATA must be all that the network was trained on; --reference weights must not depend on it.
    """
    with clear_errors():
        outputs = Outputs([path, data, reference, held_out, stored], json=json)
        if not every and (held_out or stored):
            raise ValueError("--held-out and --stored: only with --all")
        told = constants(lipschitz)
    with opened(path, data, apply, sequential, layout, reference, told) as (network, x, y):
        mine = (network.structure, network.params, x, y)
        options: dict[str, Any] = {
            "apply": network.apply, "reference": network.reference, "activations": told,
        }  # fmt: skip
        if every:
            fresh = None if held_out is None else read_data(held_out)
            file = None
            if stored is not None:
                file = certificates.CompressedNetwork.load(
                    stored, network.structure, network.params, reference=network.reference
                )
            # The inputs of the held-out examples compare the network with the file.
            unlabeled = None if fresh is None or file is None else fresh[0]
            found = certificates.certify_all(
                *mine, held_out=fresh, unlabeled=unlabeled, stored=file, joint=True, delta=delta,
                tried=tried, **options,
            )  # fmt: skip
        else:
            found = certificates.certify(*mine, delta=delta, tried=tried, **options)
            certificates.verify(found, *mine, **options)
        if not outputs.printed:
            console().print(str(found), highlight=False, markup=False)
        outputs.write("--json", found.to_json)
