"""``--lipschitz NAME=NUMBER``, and the constants that need no option."""

from __future__ import annotations

from collections.abc import Sequence

from rankjax.network.internal import ACTIVATIONS

#: Under the help of the commands that take the option.
KNOWN = "Known Lipschitz constants: relu, tanh 1; " + ", ".join(
    [
        f"{name.replace(',', ' in its')} {known.constant(0.0):.5g}"
        for name, known in ACTIVATIONS.items()
        if name not in {"elu", "leaky_relu"}
    ]
    + ["elu(a) and leaky_relu(a) max(1, |a|)."]
)


def constants(given: Sequence[str]) -> dict[str, float]:
    """The constants by name.

    Raises:
        ValueError: anything but NAME=NUMBER, or a name that is given twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if name in found:
            raise ValueError(f"--lipschitz: {name!r} is given twice")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise ValueError(
                f"--lipschitz: got {text!r}, must be NAME=NUMBER, such as gelu=1.13"
            ) from None
    return found
