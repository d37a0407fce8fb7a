"""How these guarantees are printed and read: the number, what it is about, what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from rankjax.certificates._guarantee import Guarantee, shown, sure
from rankjax.certificates.theorem._certificate import fields_of_text, verified

INDEPENDENT = "the examples are independent draws from one distribution, and new ones come from it"
AS_COMPUTED = (
    "the network is meant as it is computed here, in floating point, each example alone; ties of "
    "the largest logit and NaN count as errors"
)


@dataclass(frozen=True)
class StoredGuarantee(Guarantee):
    """A guarantee whose text holds its numbers, and its assumptions."""

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote, and verify it.

        Raises:
            ValueError: if the text is not a certificate, or its value does not follow from its
                numbers.
        """
        found, nats = fields_of_text(cls, text, ("assumptions",))
        return verified(cls(**found), nats)


def statement(guarantee: Guarantee, about: str, rows: Iterable[str]) -> str:
    """The guarantee in words, with all that is assumed."""
    return "\n".join(
        [
            f"guarantee: true error of {about} <= {shown(guarantee.value)} "
            f"with probability >= {sure(guarantee.delta)}",
            *(f"  {row}" for row in rows),
            "assumptions:",
            *(f"  - {text}" for text in guarantee.assumptions),
        ]
    )


def among(tried: int, what: str) -> list[str]:
    """The row about what was tried, where more than one was."""
    return [f"one of {tried} {what}: each has that share of delta"] if tried > 1 else []
