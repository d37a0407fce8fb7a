"""What all certificates share: the statement, and how its value follows from integers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any, Self

import numpy as np

from rankjax.certificates._lengths import DIGITS, Length

DATA_ASSUMPTIONS: tuple[str, ...] = (
    "the examples are independent draws from one distribution, and new ones come from it",
    "architecture, preprocessing (example by example) and activations were fixed before the data "
    "were seen",
    "the network decides each example alone; from the first weight on, it is meant in exact "
    "arithmetic (floating point casts are the identity); ties of the largest logit count as errors",
)

_MOST_TRIED = 10**18


def shown(value: float) -> str:
    """Four digits, never below the value."""
    return str(Decimal(value).quantize(Decimal("0.0001"), rounding=ROUND_CEILING))


def sure(delta: float) -> str:
    """``1 - delta``, never above it."""
    fails = Decimal(repr(float(delta)))
    digits = max(6, 2 - fails.adjusted())
    if digits > 20:
        return f"1 - {delta:g}"
    return str((1 - fails).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR).normalize())


def check_confidence(delta: Any, tried: Any) -> None:
    """Raise ``ValueError`` for a confidence or a number of trials out of range."""
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta <= 0.5:
        raise ValueError(f"delta: got {delta!r}, must be a number in (0, 1/2]")
    if check_integer(tried, "tried", 1) > _MOST_TRIED:
        raise ValueError(f"tried: got {tried}, must be from 1 to {_MOST_TRIED}")


def check_integer(value: Any, name: str, lowest: int | None = None, *, numpy: bool = False) -> int:
    """Raise ``ValueError`` unless the value is an integer from ``lowest`` on.

    What a certificate stores must be Python's; with ``numpy`` NumPy's will do, for arguments.
    """
    integer = type(value) is int or (numpy and isinstance(value, np.integer))
    if not integer or (lowest is not None and value < lowest):
        wanted = "an integer" if lowest is None else f"an integer of at least {lowest}"
        raise ValueError(f"{name}: got {value!r}, must be {wanted}")
    return int(value)


def check_number(
    value: Any, name: str, lowest: float, highest: float = math.inf, *, above: bool = False
) -> None:
    """Raise ``ValueError`` unless the value is a real number in the range (``above`` its end)."""
    kinds = int | float | np.integer | np.floating
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if not number or not lowest <= value <= highest or (above and value == lowest):
        wanted = f"{'>' if above else '>='} {lowest}"
        wanted += "" if highest == math.inf else f" and <= {highest}"
        raise ValueError(f"{name}: got {value!r}, must be a number {wanted}")


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """With probability at least ``1 - delta`` over the sample, the true error is at most ``value``.

    Attributes:
        value: the bound on the misclassification probability.
        errors: examples counted as errors, out of ``n``.
        n: number of examples.
        delta: confidence.
        tried: how many codes or architectures were tried on this sample (costs ``log tried`` nats).
        assumptions: of the guarantee, in words.
    """

    value: float
    errors: int
    n: int
    delta: float
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
        """The whole code length."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ``ValueError`` unless every field is of the stated form."""
        check_integer(self.n, "n", 1)
        check_integer(self.errors, "errors", 0)
        if self.errors > self.n:
            raise ValueError(f"errors: got {self.errors}, must be from 0 to n = {self.n}")
        check_confidence(self.delta, self.tried)
        if type(self.delta) is not float:  # a subclass can say one thing and be another
            raise ValueError(f"delta: got {self.delta!r}, must be a float")
        if type(self.value) is not float or not 0 < self.value <= 1:
            raise ValueError(f"value: got {self.value!r}, must be a float in (0, 1]")
        texts = self.assumptions
        if type(texts) is not tuple or not all(type(text) is str for text in texts):
            raise ValueError(f"assumptions: got {texts!r}, must be a tuple of strings")

    def verify(self) -> Decimal:
        """Recompute the bound from the stored integers alone, rounded up at every step.

        What the integers stand for is taken as stored: the count of errors, the distances, what
        was tried, the guard's report. ``rankjax.certificates.verify`` checks the first two.

        Returns:
            The bound to fifty digits; ``value`` is the next float above.

        Raises:
            ValueError: naming the field that is not of the stated form, or ``value`` if it is not
                what the integers give.
        """
        self.check()
        exact = self._exact()
        if self.value != rounded_up(exact):
            raise ValueError(
                f"value: got {self.value!r}, the stored integers give {rounded_up(exact)!r}"
            )
        return exact

    def settled(self) -> Self:
        """The same with the value that its integers give, rounded up.

        Raises:
            ValueError: for a field that ``verify`` would refuse.
        """
        self.check()
        return replace(self, value=rounded_up(self._exact()))

    def to_json(self) -> str:
        """Everything, as text."""
        return json.dumps({**asdict(self), "nats": self.nats}, indent=1)

    def _exact(self) -> Decimal:
        return upper_bound(self.length(), self.errors, self.n, self.delta)


def upper_bound(length: Length, errors: int, n: int, delta: float) -> Decimal:
    """``kl^{-1}(errors/n, (D + log(1/delta))/n)`` to fifty digits, never below the exact value.

    Bisection; the upper end of the last bracket is returned, where the divergence is certain to
    exceed the budget.
    """
    if not 0 <= errors <= n:
        raise ValueError(f"errors: got {errors}, must be from 0 to n = {n}")
    with localcontext() as context:
        context.prec = DIGITS
        room = 1 + Decimal(10) ** (10 - DIGITS)
        budget = (length.upper() + (1 / Decimal(delta)).ln()) * room / n
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
