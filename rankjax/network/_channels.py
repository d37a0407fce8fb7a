"""Whether a convolution mixes all channels, told by the convolutions before it in the tree.

Kernels of grouped and depthwise convolutions have the input channels of one group alone, and those
of transposed ones (torch) have the inputs first; no name says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from rankjax.network._named import Named

_UP = re.compile(r"(^|_)up([0-9]|_|s?$|sampl|scal|block)")
_ONE = "one input channel: filters per channel (depthwise), or a convolution of one channel"


@dataclass(frozen=True)
class Kernel:
    """A convolution with its channels: ``in_`` of one group; ``unbiased``: of torch, no bias."""

    leaf: Named
    out: int
    in_: int
    unbiased: bool = False

    @property
    def swapped(self) -> bool:
        """Whether neither a name nor a bias says that it is not transposed."""
        return self.unbiased and "conv" not in self.leaf.parent

    @property
    def window(self) -> tuple[int, ...]:
        """Its sizes along the positions."""
        shape = self.leaf.shape
        return shape[2:] if self.leaf.order == "out in" else shape[:-2]

    @property
    def is_pointwise(self) -> bool:
        """Whether it looks at one position alone."""
        return set(self.window) <= {1}

    @property
    def may_go_up(self) -> bool:
        """Whether its name is of what makes pictures larger, and its sizes are as of such.

        That is a transposed convolution to fewer channels, or one of an interpolated picture.
        """
        named = any(_UP.search(key.lower()) for key in self.leaf.keys[:-1])
        even = all(size % 2 == 0 for size in self.window)
        more = self.out >= self.in_ if even else self.swapped and self.out > self.in_
        return self.unbiased and named and more and not self.is_pointwise


def doubts(kernels: Sequence[Kernel], outputs: Set[int] | None) -> Iterator[tuple[Named, str]]:
    """The kernels that may be those of grouped or transposed convolutions, and why.

    Args:
        kernels: all kernels of the tree.
        outputs: how many outputs each matrix of the tree has, the kernels too; ``None``: others are
            not known.
    """
    below = Counter(k.leaf.keys[:i] for k in kernels for i in range(len(k.leaf.keys)))
    places = {kernel: _place(kernel, below) for kernel in kernels}
    beside: dict[tuple[str, ...], list[Kernel]] = {}
    for kernel, place in places.items():
        beside.setdefault(place[:-1], []).append(kernel)
    for kernel, place in places.items():
        before = [k for k in beside[place[:-1]] if k.leaf.precedes(kernel.leaf)]
        last = max(before, key=lambda k: _number(places[k]), default=kernel)
        if kernel.swapped and last.swapped and kernel.in_ != last.out != kernel.out == last.in_:
            chain = " before ".join(f"{k.leaf.path} {k.leaf.shape}" for k in (last, kernel))
            why = f"may be transposed, with inputs first: {chain}"
            yield from ((one.leaf, why) for one in (last, kernel))
        elif kernel.may_go_up:
            yield kernel.leaf, "may be transposed, with inputs first: what it takes is not told"
        elif kernel.in_ > 1 and last is not kernel:
            if kernel.in_ < last.out and last.out % kernel.in_ == 0:
                takes = f"gives {last.out} channels, this kernel takes {kernel.in_}"
                which = "grouped or transposed" if kernel.swapped else "grouped"
                yield kernel.leaf, f"may be {which}: {last.leaf.path} {takes}"
                if last.swapped and kernel.in_ == last.in_ and not last.is_pointwise:
                    takes = f"{kernel.leaf.path} takes {kernel.in_} channels"
                    yield last.leaf, f"may be transposed, with inputs first: {takes}"
        elif kernel.in_ == 1 < kernel.out and not _takes_the_image(kernel, kernels, outputs):
            yield kernel.leaf, _ONE


def _takes_the_image(kernel: Kernel, kernels: Sequence[Kernel], outputs: Set[int] | None) -> bool:
    """Whether a kernel of one channel is the first: the data have one channel."""
    if outputs is None:
        return False
    others = [other for other in kernels if other is not kernel]
    if any(other.leaf.precedes(kernel.leaf) for other in others):
        return False
    if any(int(key[:18]) > 1 for key in kernel.leaf.keys if key.isdecimal()):
        return False  # of a file that begins in the middle
    if any(other.in_ not in outputs for other in others):
        return False  # that one takes the data
    after = [k for k in others if kernel.leaf.precedes(k.leaf) and k.in_ == kernel.out]
    # What mixes the channels of a depthwise one looks at one position alone.
    return any(not k.is_pointwise for k in after)


def _place(kernel: Kernel, below: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """The keys of what holds this kernel alone: conv2 of conv2/conv/weight."""
    keys = kernel.leaf.keys
    return next((keys[:i] for i in range(1, len(keys)) if below[keys[:i]] == 1), keys)


def _number(place: tuple[str, ...]) -> tuple[int, str]:
    found = re.search(r"[0-9]{1,18}$", place[-1])
    return int(found[0]) if found else 0, place[-1]
