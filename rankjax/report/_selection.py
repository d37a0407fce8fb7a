"""Which matrices are measured: patterns of paths, and a largest size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rankjax.network import LeftOut, Reason
from rankjax.report.checkpoints import shown


@dataclass(frozen=True)
class Selection:
    """What to measure.

    A pattern is compared with the whole path, upper and lower case apart: ``*`` stands for any
    characters (``/`` too), ``?`` for one, ``[ab]`` for one of these. A path matches itself.

    Attributes:
        only: patterns; with any, a matrix must match one of them.
        skip: patterns of matrices to leave out, also of those that ``only`` chooses.
        max_size: most entries of a matrix (of both factors of an update), or ``None``.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    max_size: int | None = None

    @classmethod
    def of(
        cls, only: str | Sequence[str], skip: str | Sequence[str], max_size: int | None
    ) -> Selection:
        """From the arguments of ``analyze``."""
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size: got {max_size!r}, must be at least 1")
        both = [(one,) if isinstance(one, str) else tuple(one) for one in (only, skip)]
        return cls(*both, max_size=max_size)

    def check(self, paths: Sequence[str], left_out: Iterable[LeftOut]) -> None:
        """Raise ``ValueError`` for a pattern that matches none of the paths."""
        others = {leaf.path: leaf.text for leaf in left_out}
        for name, patterns in (("only", self.only), ("skip", self.skip)):
            for pattern in patterns:
                if any(_matches(path, pattern) for path in paths):
                    continue
                known = next((path for path in others if _matches(path, pattern)), None)
                if known is not None:
                    why = f"{shown(known)} is left out: {others[known]}"
                elif any(pattern in path for path in paths):
                    why = f"a pattern covers the whole path: '*{pattern}*' matches"
                else:
                    few = ", ".join(shown(path) for path in paths[:3])
                    why = f"paths are such as {few}" if few else "there is none"
                raise ValueError(f"{name}: {pattern!r} matches no weight matrix; {why}")

    def why_not(self, path: str, shape: tuple[int, ...], entries: int) -> LeftOut | None:
        """Why a leaf of matrices of so many entries is left out; ``None``: it is not."""
        if self.only and not any(_matches(path, pattern) for pattern in self.only):
            return LeftOut(path, shape, Reason.NOT_CHOSEN, "not chosen by only")
        for pattern in self.skip:
            if _matches(path, pattern):
                return LeftOut(path, shape, Reason.NOT_CHOSEN, f"chosen by skip, {pattern!r}")
        if self.max_size is not None and entries > self.max_size:
            why = f"more than {self.max_size:,} entries (max_size)"
            return LeftOut(path, shape, Reason.TOO_LARGE, why)
        return None


def _matches(path: str, pattern: str) -> bool:
    return path == pattern or fnmatchcase(path, pattern)
