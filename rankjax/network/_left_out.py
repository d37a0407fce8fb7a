"""Why a leaf is not measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why a leaf is left out; the value is the text that is printed."""

    STATE = "running statistics or state, not a trained weight"
    TABLE = "embedding: a lookup table, not a matrix applied to activations"
    BIAS = "a bias, not a weight matrix"
    SCALE = "a scale, not a weight matrix"
    VECTOR = "vector or scalar, not a weight matrix"
    DEPTHWISE = "depthwise kernel: one filter per channel, not a matrix"
    UNKNOWN_NAME = "not recognized by its name"
    AMBIGUOUS = (
        "its axes may be those of a convolution, of heads, of experts or of stacked layers: "
        "pass apply= and example=, or axes="
    )
    REPARAMETRIZED = (
        "not the matrix that acts (normalized or pruned): make the change permanent, or pass apply="
    )
    COPIES = "has an axis more that all leaves have"
    ADDED = "added to the data: a bias"
    MULTIPLIED = "multiplies the data entry by entry: a scale"
    LOOKED_UP = "a lookup table (embedding), not a matrix applied to activations"
    OTHER_USE = "meets the data otherwise than as a matrix"
    PART = "part of a matrix that is computed from several leaves"
    NOT_USED = "not used by apply"
    MASKED = "by the mask"
    # of the leaves of a checkpoint
    NOT_READ = "cannot be read"
    NOT_FLOATING = "holds no floating point weights"
    EMPTY = "empty"
    NOT_FINITE = "holds entries that are not finite"
    NO_REFERENCE = "not in the reference"
    FAILED = "could not be decomposed"
    NOT_CHOSEN = "not chosen by only or skip"
    TOO_LARGE = "more entries than max_size"


@dataclass(frozen=True)
class LeftOut:
    """A leaf that is not measured, and why.

    Attributes:
        path: the leaf's path.
        shape: its shape.
        why: the reason, for programs.
        detail: what is printed in place of the reason's own text, where there is more to say.
    """

    path: str
    shape: tuple[int, ...]
    why: Reason
    detail: str = ""

    @property
    def text(self) -> str:
        """The reason, for readers."""
        return self.detail or self.why.value
