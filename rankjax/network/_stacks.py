"""Which axis counts layers (a scan over them), told by the vectors that stand beside the matrices.

A bias or a scale has one axis. Where all of a subtree have one more, of one size that every other
leaf of it has at the same place, that axis counts layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile

from rankjax.network._named import Named

PROJECTIONS_IN = re.compile(r"(q|k|v|qkv|query|key|value)(_proj|_dense)?")
PROJECTIONS_OUT = re.compile(r"out|(o|out|output)_(proj|dense)|attention_output")
_STACK = re.compile(r"layers?|(.*_)?blocks?|stack|scan.*|.*block|h", re.IGNORECASE)
_WRAPPERS = {"params", "model", "module", "state", "target", "batch_stats", "ema_params"}


class Stacks:
    """The axis that counts layers, by path.

    Attributes:
        axis: of every leaf that is in a stack.
        unclear: paths of leaves for which two axes are possible.
        copies: paths of leaves of a tree all of whose leaves have that axis: copies on devices, or
            members of an ensemble.
    """

    def __init__(self, leaves: Sequence[Named]) -> None:
        self._found: dict[str, tuple[int, int]] = {}  # with the number of leaves that say so
        self.unclear: set[str] = set()
        self.copies: dict[str, int] = {}
        self._by_keys = {leaf.keys: leaf for leaf in leaves}
        below: dict[tuple[str, ...], list[Named]] = {}
        for leaf in leaves:
            for i in range(len(leaf.keys)):
                below.setdefault(leaf.keys[:i], []).append(leaf)
        fits: dict[tuple[tuple[str, ...], int, int], bool] = {}
        seen: set[tuple[tuple[str, ...], int, int]] = set()
        for leaf in leaves:
            for axis, sure in _evidence(leaf):
                size, scope = leaf.shape[axis], None
                for i in reversed(range(len(leaf.keys))):
                    key = (leaf.keys[:i], axis, size)
                    if key not in fits:
                        fits[key] = all(_fits(one, axis, size) for one in below[key[0]])
                    if not fits[key]:
                        break
                    scope = leaf.keys[:i]
                if scope is not None and (scope, axis, size) not in seen:
                    seen.add((scope, axis, size))
                    self._add(below[scope], axis, sure)
        self.axis = {path: axis for path, (axis, _) in self._found.items()}

    def _add(self, members: Sequence[Named], axis: int, sure: bool) -> None:
        parents = {one.keys[:-1] for one in members}
        several = len(parents) > 1
        ends = zip(min(parents), max(parents), strict=False)
        shared = [a for a, _ in takewhile(lambda two: two[0] == two[1], ends)]
        matrices = [one for one in members if len(one.shape) > 2 and not one.is_vector]
        if not matrices or not all(self._fits_its_bias(one, axis) for one in matrices):
            return
        if several and all(key.lower() in _WRAPPERS for key in shared):
            self.copies |= {one.path: one.shape[axis] for one in members}
        elif not (several or sure or (axis == 0 and _is_stack(shared))):
            return
        for one in members:
            mine = axis if len(one.shape) > axis else 0
            before, scope = self._found.get(one.path, (mine, 0))
            if scope == len(members) and before != mine:
                self.unclear.add(one.path)
            if scope < len(members):  # the larger part of the tree tells more
                self._found[one.path] = mine, len(members)
                self.unclear.discard(one.path)

    def _fits_its_bias(self, leaf: Named, axis: int) -> bool:
        """Without the axis, the last (of torch the first) of a matrix is that of its bias."""
        if axis == 1 and leaf.order == "out in":  # only Flax scans along the second axis
            return False
        bias = next((self._by_keys[k] for k in leaf.biases() if k in self._by_keys), None)
        if bias is None or len(bias.shape) < 2:
            return True
        first = leaf.order == "out in"
        a, b = ([n for i, n in enumerate(one.shape) if i != axis] for one in (leaf, bias))
        return a[0] == b[0] if first else a[-1] == b[-1]


def _is_stack(keys: Sequence[str]) -> bool:
    """layers/0 is a member of a list, layers/Dense_0 may be a stack."""
    return any(
        _STACK.fullmatch(key) and not below.isdecimal() for key, below in pairwise((*keys, "end"))
    )


def _evidence(leaf: Named) -> Iterator[tuple[int, bool]]:
    shape = leaf.shape
    if leaf.is_vector and not leaf.of_experts and _length(shape) > 1:
        heads = 2 if PROJECTIONS_IN.fullmatch(leaf.parent) else 1
        if len(shape) > heads:
            yield 0, False
        if len(shape) == 2 and heads == 1:
            yield 1, False
    elif len(shape) == 4 and leaf.order == "in out":
        # (in, heads, size of a head) and one axis more; as a rule heads x size is the width.
        if PROJECTIONS_IN.fullmatch(leaf.parent):
            widths = {0: shape[1], 1: shape[0]}
            yield from ((i, True) for i, n in widths.items() if n == shape[2] * shape[3])
        elif PROJECTIONS_OUT.fullmatch(leaf.parent):
            widths = {0: shape[1] * shape[2], 1: shape[0] * shape[2]}
            yield from ((i, True) for i, n in widths.items() if n == shape[3])


def _length(shape: tuple[int, ...]) -> int:
    """The number of axes without trailing ones: (8, 1, 1) is the bias of a convolution."""
    return max((i + 1 for i, n in enumerate(shape) if n > 1), default=min(1, len(shape)))


def _fits(leaf: Named, axis: int, size: int) -> bool:
    shape = leaf.shape
    if not shape or (leaf.is_vector and _length(shape) < 2):
        return False
    return shape[axis if len(shape) > axis else 0] == size
