"""A certificate: the guarantee, the integers it rests on, and its assumptions in words."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Self

from rankjax.certificates import codes
from rankjax.certificates.codes import BiasCode, Length, MatrixCode

FORMS = ("kl", "hoeffding")
RECURSIONS = ("data", "radius")
_DIGITS = 50
DATA_ASSUMPTIONS = (
    "the examples are independent draws from one distribution, and new ones come from it",
    "architecture, preprocessing (example by example) and activations were fixed before the data "
    "were seen",
    "the network is meant in exact arithmetic; ties of the largest logit count as errors",
)


def check_confidence(delta: float, tried: int) -> None:
    """Raise ``ValueError`` for a confidence or a number of trials out of range."""
    if not 0 < delta <= 0.5:
        raise ValueError(f"delta: got {delta}, must be in (0, 1/2]")
    if tried < 1:
        raise ValueError(f"tried: got {tried}, must be at least 1")


@dataclass(frozen=True)
class Coded:
    """One coded matrix or bias.

    Attributes:
        name: the leaf's path, numbered where the leaf is a stack.
        shape: ``(m, n)`` of a matrix, ``(size,)`` of a bias.
        code: its integers.
    """

    name: str
    shape: tuple[int, ...]
    code: MatrixCode | BiasCode

    def length(self) -> Length:
        """What it costs."""
        return self.code.length(*self.shape)

    def summary(self) -> str:
        """The code in words."""
        code = self.code
        if isinstance(code, BiasCode):
            return {
                codes.ZERO: "equal to its reference",
                codes.DROPPED: "left out",
                codes.CODED: f"{code.b} bits",
            }[code.mode]
        if code.mode == codes.EQUAL:
            return "equal to its reference"
        if code.mode == codes.DIRECT:
            return f"entries, {code.b} bits"
        return f"rank {code.k}, {code.b} bits" if code.k else "left out"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """With probability at least ``1 - delta`` over the sample, the true error is at most ``value``.

    Attributes:
        value: the bound on the misclassification probability.
        errors: examples counted as errors, out of ``n``.
        n: number of examples.
        delta: confidence.
        form: the inequality, ``"kl"`` or ``"hoeffding"``.
        tried: how many codes or architectures were tried on this sample (``log`` of it is paid).
        assumptions: what the guarantee rests on, in words.
    """

    value: float
    errors: int
    n: int
    delta: float
    form: str = "kl"
    tried: int = 1
    assumptions: tuple[str, ...] = DATA_ASSUMPTIONS

    @property
    def empirical(self) -> float:
        """Share of the sample counted as errors."""
        return self.errors / self.n

    @property
    def nats(self) -> float:
        """Code length D in nats."""
        return self.length().nats()

    def length(self) -> Length:
        """The whole code length, as the rationals it is the logarithm of."""
        raise NotImplementedError

    def verify(self) -> Decimal:
        """Recompute the bound from the stored integers alone, rounded up at every step.

        The count of errors is taken as stored; ``verify`` in ``rankjax.certificates`` recounts it.

        Returns:
            The bound to fifty digits, at most ``value``.

        Raises:
            ValueError: if ``value`` is less than what the integers give.
        """
        exact = self._exact()
        if Decimal(self.value) < exact:
            raise ValueError(f"value: got {self.value}, the stored integers give {exact:.17f}")
        return exact

    def settled(self) -> Self:
        """The same with the value that its integers give, rounded up."""
        return replace(self, value=rounded_up(self._exact()))

    def to_json(self) -> str:
        """Everything, as text."""
        return json.dumps({**asdict(self), "nats": self.nats}, indent=1)

    def _exact(self) -> Decimal:
        return upper_bound(self.length(), self.errors, self.n, self.delta, self.form)


@dataclass(frozen=True, kw_only=True)
class Certificate(Guarantee):
    """What ``certify`` promises of a trained network itself.

    Attributes:
        recursion: ``"data"``: each example has its own perturbation; ``"radius"``: one for all.
        coded: every matrix and bias with its code.
        matrices: number of coded matrices, L in the scales ``2^{j/(8L)}``.
        gamma: with ``"radius"`` and ``"kl"``, the margin is ``2^{gamma/8}``; else ``None``.
    """

    recursion: str
    coded: tuple[Coded, ...]
    matrices: int
    gamma: int | None

    def length(self) -> Length:
        """The whole code length."""
        parts = [item.length() for item in self.coded]
        if self.gamma is not None:
            parts.append(codes.integer(self.gamma))
        return codes.total([*parts, codes.one_of(self.tried)])

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read what ``to_json`` wrote, and verify it.

        Raises:
            ValueError: if the text is not a certificate, or its value does not follow from its
                integers.
        """
        try:
            fields = json.loads(text)
            fields.pop("nats")
            coded = tuple(_coded(item) for item in fields.pop("coded"))
            fields["assumptions"] = tuple(fields["assumptions"])
            certificate = cls(coded=coded, **fields)
            certificate.verify()
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"text: not a certificate ({error})") from None
        return certificate

    def __str__(self) -> str:
        rows = [
            (item.name, " x ".join(map(str, item.shape)), item.summary(),
             f"{item.length().nats():.1f} nats")
            for item in self.coded
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = [
            "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(
            [
                f"certificate: true error <= {self.value:.4f} "
                f"with probability >= {1 - self.delta:g}",
                f"  counted errors {self.errors} of {self.n} ({self.empirical:.4f}), "
                f"code {self.nats:.1f} nats, {self.form} form, {self.recursion} recursion",
                *table,
                "assumptions:",
                *(f"  - {text}" for text in self.assumptions),
            ]
        )


def _coded(item: dict) -> Coded:
    kind = MatrixCode if len(item["shape"]) == 2 else BiasCode
    code = kind(**item["code"])
    integers = {key: value for key, value in item["code"].items() if key != "mode"}
    if not all(type(value) is int for value in integers.values()):
        raise ValueError(f"code: got {item['code']}, must hold integers")
    return Coded(item["name"], tuple(item["shape"]), code)


def upper_bound(length: Length, errors: int, n: int, delta: float, form: str) -> Decimal:
    """The bound from the code length and the count, in fifty digits, rounded up."""
    if not 0 <= errors <= n:
        raise ValueError(f"errors: got {errors}, must be from 0 to n = {n}")
    with localcontext() as context:
        context.prec = _DIGITS
        room = 1 + Decimal(10) ** (10 - _DIGITS)
        budget = (length.upper() + (1 / Decimal(delta)).ln()) * room / n
        if form == "hoeffding":
            context.rounding = ROUND_CEILING
            return min(Decimal(1), (Decimal(errors) / n + (budget / 2).sqrt()) * room)
        q, low, high = Decimal(errors) / n, Decimal(errors) / n, Decimal(1)
        for _ in range(160):
            middle = (low + high) / 2
            if middle < 1 and _divergence(q, middle) <= budget * room:
                low = middle
            else:
                high = middle
        return min(Decimal(1), high * room)


def _divergence(q: Decimal, p: Decimal) -> Decimal:
    first = q * (q / p).ln() if q else Decimal(0)
    return first + ((1 - q) * ((1 - q) / (1 - p)).ln() if q < 1 else Decimal(0))


def rounded_up(value: Decimal) -> float:
    """The smallest float that is not below."""
    found = float(value)
    return found if Decimal(found) >= value else math.nextafter(found, math.inf)
