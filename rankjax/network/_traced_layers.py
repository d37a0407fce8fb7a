"""The layers of a traced network, and why it may be no chain of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rankjax.network._expressions import Effect, digest
from rankjax.network._left_out import LeftOut, Reason
from rankjax.network._structure import Layer
from rankjax.network._tracing import Trace, Use

Shapes = Mapping[str, tuple[int, ...]]


def uses_by_name(trace: Trace, shapes: Shapes) -> dict[str, list[Use]]:
    """The uses of each layer, by its path, in the order of the first; ``shapes``: of all leaves."""
    paths = list(shapes)
    groups: dict[int | str, list[Use]] = {}
    for use in trace.uses.values():
        key = digest(use.source) if use.leaf is None else use.leaf
        groups.setdefault(key, []).append(use)
    taken = {paths[key] for key in groups if isinstance(key, int)}
    names: dict[str, list[Use]] = {}
    for key, uses in groups.items():
        if isinstance(key, int):
            names[paths[key]] = uses
            continue
        source, shape = uses[0].source, uses[0].shape
        main = paths[min(source.leaves, key=lambda i: (-math.prod(shapes[paths[i]]), i))]
        numbers = (f"{main} ({k})" for k in range(1, 1 + len(groups)))
        whole = shape == shapes[main] and main not in taken
        name = main if whole else next(n for n in numbers if n not in taken)
        taken.add(name)
        names[name] = uses
    return names


def layers_of(trace: Trace, shapes: Shapes) -> dict[str, Layer | LeftOut]:
    """What each leaf is, layers in the order of use."""
    paths = list(shapes)
    found: dict[str, Layer | LeftOut] = {}
    part_of: dict[str, str] = {}
    for name, uses in uses_by_name(trace, shapes).items():
        first = uses[0]
        effect = None if first.leaf is not None else Effect.of(first.source, paths, shapes)
        layer = Layer(name, first.shape, first.view, convolution=first.convolution, effect=effect)
        found[name] = _depthwise(layer) or _counted(layer, uses, trace)
        for leaf in first.source.leaves:
            part_of.setdefault(paths[leaf], name)
    for leaf, path in enumerate(paths):
        if path in found:
            continue
        if path in part_of:
            text = f"part of the matrix of {part_of[path]!r}, which is computed from it"
            found[path] = LeftOut(path, shapes[path], Reason.PART, text)
        else:
            found[path] = _other_use(path, shapes[path], trace, leaf)
    return found


def outside_of(
    trace: Trace, shapes: Shapes, left_out: Sequence[LeftOut], unknown: Sequence[str]
) -> tuple[str, ...]:
    """What the network does beside a chain of its layers, one phrase each."""
    paths = list(shapes)
    problems = sorted(trace.output.problems) if trace.output else []
    named = [re.sub(r"\{(\d+)\}", lambda m: repr(paths[int(m[1])]), text) for text in problems]
    named = [f"{n} otherwise than as a matrix" if n.startswith("uses '") else n for n in named]
    for path in unknown:
        named.append(
            f"has an activation, or another operation, after {path!r} whose Lipschitz constant is "
            "not known (lipschitz= says it)"
        )
    for leaf in left_out:
        if leaf.why in {Reason.MASKED, Reason.DEPTHWISE}:
            named.append(f"applies {leaf.path!r}, which is left out: {leaf.text}")
    for name, uses in uses_by_name(trace, shapes).items():
        members = np.concatenate([use.members.ravel() for use in uses])
        if members.min() >= 0 and len(set(members)) < uses[0].view.batch_shape(uses[0].shape)[0]:
            named.append(f"does not use all matrices of {name!r}")
    return tuple(named)


def _counted(layer: Layer, uses: Sequence[Use], trace: Trace) -> Layer:
    """The layer with its numbers of uses and positions, the largest of the members of a stack."""
    count, positions = np.zeros(layer.stacked, int), np.zeros(layer.stacked, int)
    for use in uses:
        members = use.members.ravel()
        times = np.bincount(members[members >= 0], minlength=layer.stacked)
        times = times + -(-int(np.sum(members < 0)) // layer.stacked)  # not known: dealt out
        count, positions = count + times, positions + times * use.positions
    factors = [trace.factors.get(use.number, 1.0) for use in uses]
    factor = math.nan if any(map(math.isnan, factors)) else max(1.0, *factors)
    return replace(layer, uses=int(count.max()), positions=int(positions.max()), lipschitz=factor)


def _depthwise(layer: Layer) -> LeftOut | None:
    geometry = layer.convolution
    if geometry is None or geometry.groups == 1:
        return None
    if layer.matrix_shape[1] != math.prod(window.size for window in geometry.windows):
        return None
    return LeftOut(layer.path, layer.shape, Reason.DEPTHWISE)


def _other_use(path: str, shape: tuple[int, ...], trace: Trace, leaf: int) -> LeftOut:
    primitives = trace.other.get(leaf)
    if primitives is None:
        added = leaf in trace.added_leaves
        return LeftOut(path, shape, Reason.ADDED if added else Reason.NOT_USED)
    moved = [name for name in primitives if name not in _MOVES]
    if moved == ["gather"]:
        return LeftOut(path, shape, Reason.LOOKED_UP)
    if moved and moved[-1] == "mul":
        return LeftOut(path, shape, Reason.MULTIPLIED)
    how = f"meets the data through {', then '.join(map(repr, primitives))}, not as a matrix"
    return LeftOut(path, shape, Reason.OTHER_USE, how)


_MOVES = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "slice",
          "convert_element_type"}  # fmt: skip
