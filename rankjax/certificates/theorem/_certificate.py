"""The certificate of a network itself: its coded neighbor, the distance to it, and the count."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from rankjax.certificates._guarantee import Guarantee, check_integer, shown, sure
from rankjax.certificates._lengths import Length, one_of, total
from rankjax.certificates.theorem._distances import distances_length
from rankjax.certificates.theorem._lattice import LeafCode, code_length

Kind = TypeVar("Kind", bound=Guarantee)


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What the run-time guard saw: a report, no part of the claim, and not verified.

    Attributes:
        networks: how many networks inside the coded distances were drawn.
        largest: the largest move of an output, as a share of its bound; at most 1.
    """

    networks: int
    largest: float

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        check_integer(self.networks, "guard.networks", 1)
        if type(self.largest) is not float or not 0 <= self.largest <= 1:
            raise ValueError(f"guard.largest: got {self.largest!r}, must be a float in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Certificate(Guarantee):
    """What ``certify`` guarantees about a trained network itself.

    Attributes:
        leaves: the coded neighbor, leaf by leaf.
        distances: exponents of the coded distances between the network and its neighbor, in the
            order in which the forward function uses them; ``None`` where they are equal.
        guard: what the run-time guard saw, or ``None`` if it was switched off.
    """

    leaves: tuple[LeafCode, ...]
    distances: tuple[int | None, ...]
    guard: GuardReport | None = None

    def length(self) -> Length:
        """The whole code length."""
        return total(
            [code_length(self.leaves), distances_length(self.distances), one_of(self.tried)]
        )

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        super().check()
        check_distances(self.distances)
        if type(self.leaves) is not tuple or not self.leaves:
            raise ValueError(f"leaves: got {self.leaves!r}, must be a tuple of coded leaves")
        for leaf in self.leaves:
            if type(leaf) is not LeafCode:
                raise ValueError(f"leaves: got {leaf!r}, must be a coded leaf")
            leaf.check()
        if self.guard is not None:
            if type(self.guard) is not GuardReport:
                raise ValueError(f"guard: got {self.guard!r}, must be a report or None")
            self.guard.check()

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read what ``to_json`` wrote, and verify it.

        Raises:
            ValueError: if the text is not a certificate, or its value does not follow from its
                integers.
        """
        found, nats = fields_of_text(cls, text, ("leaves", "distances", "assumptions"))
        leaf_fields = {field.name for field in fields(LeafCode)}
        leaves = []
        for item in found["leaves"]:
            item = _record(item, leaf_fields, "leaves")
            for name in ("shape", "matrices", "symbols"):
                if not isinstance(item[name], list):
                    raise ValueError(f"leaves.{name}: got {item[name]!r}, must be a list")
                item[name] = tuple(item[name])
            leaves.append(LeafCode(**item))
        found["leaves"] = tuple(leaves)
        if found["guard"] is not None:
            names = {field.name for field in fields(GuardReport)}
            found["guard"] = GuardReport(**_record(found["guard"], names, "guard"))
        return verified(cls(**found), nats)

    def __str__(self) -> str:
        rows = [
            (leaf.path, " x ".join(map(str, leaf.shape)) or "1", leaf.summary())
            for leaf in self.leaves
        ]
        lines = [
            headline(self),
            f"  counted errors {self.errors} of {self.n} ({self.empirical:.4f}), "
            f"code {self.nats:.1f} nats",
            *aligned(rows),
        ]
        if self.guard is not None:
            lines.append(
                f"  guard (reported, not verified): {self.guard.networks} networks within the "
                "coded distances moved no output by more than "
                f"{self.guard.largest:.2g} of its bound"
            )
        return "\n".join([*lines, "assumptions:", *(f"  - {text}" for text in self.assumptions)])


def headline(guarantee: Guarantee) -> str:
    """The statement itself."""
    return (
        f"certificate: true error <= {shown(guarantee.value)} "
        f"with probability >= {sure(guarantee.delta)}"
    )


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def check_distances(distances: Any) -> None:
    """Raise ``ValueError`` unless these are exponents or ``None``."""
    if type(distances) is not tuple:
        raise ValueError(f"distances: got {distances!r}, must be a tuple")
    for exponent in distances:
        if exponent is not None and abs(check_integer(exponent, "distances")) > 8000:
            raise ValueError(f"distances: got {exponent}, must be from -8000 to 8000")


def fields_of_text(
    cls: type[Guarantee], text: str, lists: tuple[str, ...]
) -> tuple[dict[str, Any], Any]:
    """The fields of a certificate in JSON, lists as tuples, and the stated nats apart."""
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"text: must be the JSON of a certificate ({error})") from None
    found = _record(found, {field.name for field in fields(cls)} | {"nats"}, "text")
    nats = found.pop("nats")
    for name in lists:
        if not isinstance(found[name], list):
            raise ValueError(f"{name}: got {found[name]!r}, must be a list")
        found[name] = tuple(found[name])
    return found, nats


def verified(certificate: Kind, nats: Any) -> Kind:
    """The certificate, if its value follows from its integers and the stated nats are right."""
    certificate.verify()
    # Not part of the claim, but nobody should read a wrong number.
    if type(nats) is not float or not math.isclose(nats, certificate.nats, rel_tol=1e-9):
        raise ValueError(f"nats: got {nats!r}, must be {certificate.nats!r}")
    return certificate


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ``ValueError`` if it has a field twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a field twice among {sorted(name for name, _ in pairs)}")
    return found


def _record(item: Any, names: set[str], where: str) -> dict[str, Any]:
    """The fields of a JSON object; a ``ValueError`` unless they are exactly these."""
    if not isinstance(item, Mapping) or set(item) != names:
        got = sorted(item) if isinstance(item, Mapping) else item
        raise ValueError(f"{where}: got {got!r}, must have exactly the fields {sorted(names)}")
    return dict(item)
