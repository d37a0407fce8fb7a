"""Which leaves are the masks of which weights (pruning), told by their names."""

from __future__ import annotations

from collections.abc import Sequence

from rankjax.network._named import MASK, Named


class Masks:
    """All masks of a tree."""

    def __init__(self, leaves: Sequence[Named]) -> None:
        self._beside: dict[tuple[str, ...], list[Named]] = {}  # by the keys of what they mask
        self._trees: dict[tuple[str, ...], list[Named]] = {}  # by the last of these keys
        for leaf in leaves:
            *above, last = leaf.keys
            name = MASK.fullmatch(last)
            if name:
                owner = (*above, name[1]) if name[1] else tuple(above)
                self._beside.setdefault(owner, []).append(leaf)
            for i, key in enumerate(above[:-1]):
                if MASK.fullmatch(key):
                    self._trees.setdefault(leaf.keys[i + 1 :], []).append(leaf)

    def of(self, leaf: Named) -> str | None:
        """Its mask: beside it or below it, with its name or that of the module; or in a tree."""
        for owner in (leaf.keys, leaf.keys[:-1]):
            for mask in self._beside.get(owner, ()):
                scores = mask.name.endswith(("score", "scores"))  # of blocks or rows, too
                if scores or mask.shape == leaf.shape:
                    return f"{mask.keys[-1]} beside it"
        for i in range(len(leaf.keys)):
            for mask in self._trees.get(leaf.keys[i:], ()):
                if mask.shape == leaf.shape and mask is not leaf:
                    return mask.path
        return None
