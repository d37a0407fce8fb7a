"""Whether a convolution mixes all channels, told by the convolutions before it in the tree.

Kernels of grouped and depthwise convolutions have the input channels of one group alone, and no
name says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from rankjax.network._named import Named

_ONE = "one input channel: filters per channel (depthwise), or a convolution of one channel"


@dataclass(frozen=True)
class Kernel:
    """A convolution with its channels: ``in_`` of one group."""

    leaf: Named
    out: int
    in_: int


def doubts(kernels: Sequence[Kernel], outputs: Set[int]) -> Iterator[tuple[Named, str]]:
    """The kernels that may be those of grouped convolutions, and why.

    Args:
        kernels: all kernels of the tree.
        outputs: how many outputs each matrix of the tree has, the kernels too.
    """
    beside: dict[tuple[str, ...], list[Kernel]] = {}
    for kernel in kernels:
        beside.setdefault(kernel.leaf.keys[:-2], []).append(kernel)
    for kernel in kernels:
        before = [k for k in beside[kernel.leaf.keys[:-2]] if k.leaf.precedes(kernel.leaf)]
        last = max(before, key=_number, default=kernel)
        if kernel.in_ > 1 and last is not kernel:
            if kernel.in_ < last.out and last.out % kernel.in_ == 0:
                takes = f"gives {last.out} channels, this kernel takes {kernel.in_}"
                yield kernel.leaf, f"may be grouped: {last.leaf.path} {takes}"
        elif kernel.in_ == 1 < kernel.out and not _takes_the_image(kernel, kernels, outputs):
            yield kernel.leaf, _ONE


def _takes_the_image(kernel: Kernel, kernels: Sequence[Kernel], outputs: Set[int]) -> bool:
    """Whether a kernel of one channel is the first: the data have one channel."""
    others = [other for other in kernels if other is not kernel]
    if any(other.leaf.precedes(kernel.leaf) for other in others):
        return False
    if any(other.in_ not in outputs for other in others):
        return False  # that one takes the data
    return any(kernel.leaf.precedes(k.leaf) and k.in_ == kernel.out for k in others)


def _number(kernel: Kernel) -> int:
    found = re.search(r"[0-9]{1,18}$", kernel.leaf.keys[-2])
    return int(found[0]) if found else 0
