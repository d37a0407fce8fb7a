"""Published model families: both entrances see the same matrices, and the right ones."""

import jax
import numpy as np
import pytest

from rankjax.network import Layer, LeftOut, Reason, describe
from rankjax.network.internal import factors_of
from rankjax.report import matrices_by_name
from tests.network.families import FAMILIES


def seen(found: Layer | LeftOut) -> str | Reason:
    if isinstance(found, LeftOut):
        return found.why
    out, in_ = found.matrix_shape
    stacked = f"{found.stacked} > " if found.view.stacked else ""
    parallel = f"{found.parallel} | " if found.view.parallel else ""
    return f"{stacked}{parallel}{out} x {in_}"


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    integers = Reason.NOT_FLOATING
    leaves = {
        path: jax.ShapeDtypeStruct(shape, np.int64 if expected is integers else np.float32)
        for path, (shape, expected) in FAMILIES[family].items()
    }
    structures = [matrices_by_name(leaves)]
    if structures[0].layers:
        structures.append(describe(leaves))
    for structure in structures:
        found = {one.path: seen(one) for one in (*structure.layers, *structure.left_out)}
        for left, right in factors_of(structure.layers).values():
            found |= {left.path: f"B {seen(left)}", right.path: f"A {seen(right)}"}
        wanted = {path: what for path, (_, what) in FAMILIES[family].items()}
        assert {p: found[p] for p in wanted if wanted[p] is not None} == {
            p: w for p, w in wanted.items() if w is not None
        }
        assert all(isinstance(found[p], Reason) for p in wanted if wanted[p] is None)
