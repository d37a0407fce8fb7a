"""A leaf by its path: the words of its name, and what they say by themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rankjax.network._left_out import Reason

Layout = Literal["flax", "torch", "equinox"]  # how weights are stored
Order = Literal["in out", "out in"]

_STATE = re.compile(
    r"(^|[/.])(batch_stats|cache|opt_state|optimizer(_state)?|param_states|weight_u|"
    r"(running|moving)_(mean|var|variance)|num_batches_tracked)([/.]|$)"
)
# weight_mask, masks, the mask_scores of movement pruning; in front, whose it is.
MASK = re.compile(r"(?:(.*)_)?masks?(_scores?)?", re.IGNORECASE)
_EXPERTS = re.compile(
    r"(^|[/.])(([^/.]*_)?experts?(_[^/.]*)?|([^/.]*_)?moe(block)?(_[0-9]+)?|(in|out)put_linear)([/.]|$)",
    re.IGNORECASE,
)
_BIAS = re.compile(r"(.*_)?bias(es)?(_.*)?|beta|offset")
_SCALE = re.compile(
    r"(.*_)?[wq]?scales?(_(inv|\d+|weight|input|parameter|and_zeros))?|(.*_)?(zero_?points?|q?zeros)|"
    r"(.*_)?(layer_?)?norm(_.*)?_weight|gamma|weight_g|original0"
)
_NORM = re.compile(r"norm(?!al)|(^|_)([blg]n)(_|\d|$)")
_DENSE = re.compile(r"proj|linear|dense")
_TABLE = re.compile(r"embe?d|^w[tp]e$|(^|_)embs?(_|$)|^shared$|tokens?$|^[ui]_weight$")
_TABLES = re.compile(r"emb(edding)?_?(bag|table|dict)s?")  # whatever each is called
_LOOKUP = re.compile(r"embed|(^|_)emb$|^cls$|tokens?$")
# As the whole name: a linear_pos is a dense layer, and so is to_vocab.
_ROWS = re.compile(
    r"(?!(.*_)?(to|from|proj)_)("
    r"(.*_)?(vocab(ulary)?|lookup|table|factors|code_?books?|code_?vectors|prompts?)|w[tp]e|w_pos|lut|"
    r"words?|chars?|pe|(vector_?)?quanti[sz]e(rs?)?|vq|query_(feat|pos)|"
    r"(object|learned|latent)_quer(y|ies)|"
    r"(abs(olute)?_?|rel(ative)?_?|learned_)?pos(ition(al)?)?s?(_enc(od(er|ings?))?)?)"
)
_NO_TABLE = re.compile(r"^embed_out$|unembed|conv|proj(ection)?$|_(linear|dense|fc)$")
_DEPTHWISE = re.compile(r"depthwise|(^|_)dw_?conv|conv_?dw(_|\d|$)|(^|_)dw$")
_IN_OUT = re.compile(r"(recurrent_|pointwise_)?kernel|w|lora_[ab]")
_OUT_IN = re.compile(r"weight|[qkv]_proj_weight|in_proj_weight|weight_[ih][hr](_l\d+)?(_reverse)?")
_MATRIX = re.compile(r"(.*_)?(weight|kernel)s?(_.*)?|w(\d+|_.*)")  # where a bias stands beside it
# What PEFT and torch put between a module and its weights.
_WRAPPERS = re.compile(
    r"[0-9]+|base_layer|original_module|modules_to_save|default|module|_orig_mod|_\w+_wrapped_module"
)
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Named:
    """A leaf of a tree or a checkpoint: its path as words, and its shape."""

    path: str
    shape: tuple[int, ...]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of the path, without what the frameworks put behind the name."""
        keys = re.split(r"[/.]", self.path)
        # A saved NNX state has a level more, for the value of each variable.
        if len(keys) > 1 and keys[-1] in {"value", "raw_value"}:
            keys.pop()
        if len(keys) > 2 and keys[-2] == "vars" and keys[-1].isdecimal():
            keys[-2:] = [_of_keras(keys[-3].lower(), int(keys[-1]))]
        keys[-1] = re.sub(":[0-9]+$", "", keys[-1])  # kernel:0, of TensorFlow
        return tuple(keys)

    @cached_property
    def name(self) -> str:
        """The last key."""
        return self.keys[-1].lower()

    @cached_property
    def parent(self) -> str:
        """The last key before it that names something: of a list, the name of the list."""
        keys = self.keys[:-1]
        if "modules_to_save" in keys:  # of an adapter, whose name follows
            keys = keys[: keys.index("modules_to_save")]
        words = [key for key in keys if not _WRAPPERS.fullmatch(key)]
        return words[-1].lower() if words else ""

    def says(self, pattern: re.Pattern[str]) -> bool:
        """Whether the name or its parent has such a word."""
        return pattern.search(self.name) is not None or pattern.search(self.parent) is not None

    @property
    def is_state(self) -> bool:
        """Running statistics, of an optimizer, or a mask."""
        return bool(_STATE.search(self.path) or MASK.fullmatch(self.name))

    @property
    def is_depthwise(self) -> bool:
        """One filter per channel."""
        return self.says(_DEPTHWISE)

    @cached_property
    def is_vector(self) -> Reason | None:
        """``BIAS`` or ``SCALE``, whatever the number of axes (stacks, norms of several axes)."""
        if _BIAS.fullmatch(self.name) or (self.name == "b" and len(self.shape) < 2):
            return Reason.BIAS
        norm = self.name == "weight" and _NORM.search(self.parent) is not None
        if norm and len(self.shape) > 1 and _DENSE.search(self.parent):
            norm = False
        return Reason.SCALE if norm or _SCALE.fullmatch(self.name) else None

    @property
    def is_table(self) -> bool:
        """The name of a table of embeddings. Flax keeps no table under ``kernel``."""
        if self.name in {"w", "weight"} and _ROWS.fullmatch(self.parent):
            return True
        if self.name == "w":
            return self.parent.startswith("embed")
        if self.name == "weight":
            table = _TABLE.search(self.parent) and not _NO_TABLE.search(self.parent)
            table = table or any(_TABLES.fullmatch(key.lower()) for key in self.keys[:-1])
            return bool(table) or self.parent.endswith("_bias")  # of relative positions
        return bool(_LOOKUP.search(self.name) or _ROWS.fullmatch(self.name))

    @property
    def order(self) -> Order | None:
        """Which axes the framework of such names puts first."""
        if _OUT_IN.fullmatch(self.name):
            return "out in"
        return "in out" if _IN_OUT.fullmatch(self.name) else None

    def biases(self) -> Sequence[tuple[str, ...]]:
        """The keys of the bias beside it, where there is one: w1 has b1, in_weight has in_bias."""
        if self.order is None and not _MATRIX.fullmatch(self.name) and not self.of_experts:
            return ()
        last = self.keys[-1]
        names = [last.replace("weight", "bias"), last.replace("kernel", "bias"),
                 re.sub("^[wW]", "b", last), f"{last}_bias", "bias", "biases", "b"]  # fmt: skip
        return [(*self.keys[:-1], name) for name in names if name != last]

    @cached_property
    def of_experts(self) -> bool:
        """Among the experts of a mixture."""
        return _EXPERTS.search(self.path) is not None

    def precedes(self, other: Named) -> bool:
        """Whether the first keys that differ are one word with a smaller number, or a before b."""
        for mine, theirs in zip(self.keys, other.keys, strict=False):
            if mine != theirs:
                if len(mine) == len(theirs) == 1 and mine.isalpha() and theirs.isalpha():
                    return mine < theirs
                a, b = _NUMBERED.fullmatch(mine), _NUMBERED.fullmatch(theirs)
                return bool(a and b and a[1] == b[1] and int(a[2][:18]) < int(b[2][:18]))
        return False


def _of_keras(parent: str, number: int) -> str:
    """Keras numbers the variables of a layer, the kernel first."""
    if "embedding" in parent:
        return "embeddings"
    if "norm" in parent:
        return ("gamma", "beta", "moving_mean", "moving_variance")[min(number, 3)]
    if number == 0:
        return "depthwise_kernel" if "separable" in parent else "kernel"
    second = {"cell": "recurrent_kernel", "separable": "pointwise_kernel"}
    found = [name for word, name in second.items() if word in parent]
    return found[0] if found and number == 1 else "bias"
