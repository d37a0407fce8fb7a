"""Arguments that several functions take, checked in one way."""

from __future__ import annotations

import numbers


def check_delta(delta: float) -> None:
    """Raise ``ValueError`` unless ``delta`` is a number between 0 and 1."""
    check_number(delta, "delta", above=0, below=1)


def check_number(
    value: float, name: str, *, above: float | None = None, below: float | None = None,
    least: float | None = None, most: float | None = None,
) -> None:  # fmt: skip
    """Raise ``ValueError`` unless ``value`` is a real number in the range."""
    limits = [
        (">", above, lambda v: v > above),
        ("<", below, lambda v: v < below),
        (">=", least, lambda v: v >= least),
        ("<=", most, lambda v: v <= most),
    ]
    limits = [(sign, limit, holds) for sign, limit, holds in limits if limit is not None]
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not all(holds(value) for _, _, holds in limits):
        wanted = " and ".join(f"{sign} {limit}" for sign, limit, _ in limits)
        raise ValueError(f"{name}: got {value!r}, must be a number {wanted}")


def check_count(value: int, name: str, *, least: int = 1, most: int | None = None) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer in the range."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        limit = "" if most is None else f" and <= {most}"
        raise ValueError(f"{name}: got {value!r}, must be an integer >= {least}{limit}")
