"""What every bound returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
from jax import Array

Kind = Literal["dominant", "explicit"]
Quantity = Literal["dominant term", "gap", "Rademacher", "error"]

_KINDS: dict[Kind, str] = {
    "dominant": "dominant term, not a guarantee",
    "explicit": "published explicit bound",
}


class Inapplicable(ValueError):
    """A bound needs something that the sample or the measurements do not have."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "per_layer", "terms"],
    meta_fields=["name", "kind", "source", "layers", "quantity", "parts"],
)
@dataclass(frozen=True)
class BoundResult:
    """A bound's value with its breakdown (a pytree, so it leaves ``jit`` as it is).

    Attributes:
        value: the number, a scalar.
        per_layer: ``(layers,)``, the part of each layer; ``parts`` says how they make up the value.
        terms: the other quantities of the formula, by name. Most bounds give ``log``, the natural
            logarithm of the value, which is finite where the value overflows.
        name: the bound.
        kind: ``"dominant"``: the term of a bound without its constants and logarithms, for
            comparing and for training, not a guarantee; ``"explicit"``: a published bound with
            its constants.
        source: paper and theorem.
        layers: the names of the layers.
        quantity: what the value is about: ``"dominant term"``; ``"gap"``, true error minus margin
            error; ``"Rademacher"``, the Rademacher complexity of a class of networks; or
            ``"error"``, the true error itself.
        parts: how ``per_layer`` makes up the value.
    """

    value: Array
    per_layer: Array
    terms: dict[str, Array]
    name: str
    kind: Kind
    source: str
    layers: tuple[str, ...]
    quantity: Quantity = "dominant term"
    parts: str = ""

    def __str__(self) -> str:
        what = _KINDS[self.kind] + (f", {self.quantity}" if self.kind != "dominant" else "")
        lines = [f"{self.name} ({what}): {float(self.value):.4g}"]
        if self.parts:
            lines.append(f"  parts: {self.parts}")
        width = max(len(name) for name in self.layers)
        parts = zip(self.layers, self.per_layer, strict=True)
        lines += [f"  {name:<{width}}  {float(part):.4g}" for name, part in parts]
        return "\n".join(lines)
