"""How these guarantees are printed: the number, what it is about, what it needs."""

from __future__ import annotations

from collections.abc import Iterable

from rankjax.certificates._guarantee import Guarantee, shown

INDEPENDENT = "the examples are independent draws from one distribution, and new ones come from it"
AS_COMPUTED = (
    "the network is meant as it is computed here, in floating point, each example alone; ties of "
    "the largest logit and NaN count as errors"
)


def statement(guarantee: Guarantee, about: str, rows: Iterable[str]) -> str:
    """The guarantee in words, with all that is assumed."""
    return "\n".join(
        [
            f"guarantee: true error of {about} <= {shown(guarantee.value)} "
            f"with probability >= {1 - guarantee.delta:g}",
            *(f"  {row}" for row in rows),
            "assumptions:",
            *(f"  - {text}" for text in guarantee.assumptions),
        ]
    )


def among(tried: int, what: str) -> list[str]:
    """The row about what was tried, where more than one was."""
    return [f"one of {tried} {what}: each has that share of delta"] if tried > 1 else []
