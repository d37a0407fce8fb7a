"""``rankjax certify``: a guarantee for a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from rankjax import certificates
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
    lipschitz: LipschitzOption = [],  # noqa: B006 - typer reads it, nothing changes it
    json: JsonOption = None,
) -> None:
    """A bound on the true error of a checkpoint, with every constant.

    DATA must be all that the network was trained on; --reference weights must not depend on it.
    """
    with clear_errors():
        outputs = Outputs([path, data, reference], json=json)
        told = constants(lipschitz)
    with opened(path, data, apply, sequential, layout, reference, told) as (network, x, y):
        mine = (network.structure, network.params, x, y)
        options = {
            "apply": network.apply, "reference": network.reference, "activations": told,
        }  # fmt: skip
        found = certificates.certify(*mine, delta=delta, tried=tried, **options)
        certificates.verify(found, *mine, **options)
        if not outputs.printed:
            console().print(str(found), highlight=False, markup=False)
        outputs.write("--json", found.to_json)
