"""The one recognizer: which leaves are matrices, told by names and shapes, of any framework.

The name says what a leaf is and which axes its framework puts first; a bias beside it, the other
factor, the other half of an expert or the norms of a stack of layers say the rest. What they do not
settle is left out. Where the forward function is at hand, ``_tracing`` decides by what a leaf does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from rankjax.network._channels import Kernel, doubts
from rankjax.network._factors import not_plain, pairs, views
from rankjax.network._left_out import LeftOut, Reason
from rankjax.network._masks import Masks
from rankjax.network._named import MASK, Layout, Named, Order
from rankjax.network._packed import packed
from rankjax.network._paths import natural_order
from rankjax.network._scales import is_code, scale_beside
from rankjax.network._stacks import PROJECTIONS_IN, PROJECTIONS_OUT, Stacks
from rankjax.network._structure import Layer
from rankjax.network._view import View

_ORDERS: dict[Layout | None, Order | None] = {
    None: None, "flax": "in out", "torch": "out in", "equinox": "out in",
}  # fmt: skip
# Flax's ConvTranspose_0 is (in, out); not so conv2_d_transpose (Haiku), conv2d_transpose (Keras).
_TRANSPOSED: dict[Order, re.Pattern[str]] = {
    "out in": re.compile(
        r"deconv|conv\w*transpose|(^|_)(t|up|trans(posed?)?)_?conv|conv_?(tr?|up|trans)([0-9]|_|$)"
    ),
    "in out": re.compile(r"conv\d_?d_transpose"),
}  # fmt: skip
_CONVOLUTION = re.compile(r"conv|patch|stem|^embed")
_OF_HEADS = re.compile(r"einsum|(^|_|w)(q|k|v|kv|qkv)(_|$)|query|key|value|attn|attention|heads?")
_OF_DENSE = re.compile(
    r"dense(?!_?(net|block|layer))|linear|(^|_)(gat(e|ing)|router|mlp|ff|ffn|fc)\d*(_|$)|feed_?forward"
)
_EITHER = re.compile(r"(.*_)?encoder")
_BILINEAR = "a convolution along one axis, or a bilinear map of two inputs"
# Gemma: (heads, in, size), (2 or 3, heads, in, size), (heads, size, out).
_EINSUMS = {
    "q_einsum": View(out=(0, 2), in_=(1,)),
    "kv_einsum": View(out=(1, 3), in_=(2,), parallel=(0,)),
    "qkv_einsum": View(out=(1, 3), in_=(2,), parallel=(0,)),
    "attn_vec_einsum": View(out=(2,), in_=(0, 1)),
}
# Two weights of one block: of the first, the outputs are the inputs of the second.
_FIRST = {"gate_up_proj", "gate_proj", "up_proj", "w1", "w3", "wi", "wi_0", "wi_1", "gating_einsum"}
_SECOND = ("down_proj", "w2", "wo", "linear")
_WIDEST = 8  # heads times size of a head, per width of the model, at most
_TALL = 4  # rows per column of a table with an entry for each word, user or item, at least
_NORMALIZERS = re.compile(r"(^|/)(weight|spectral)norm", re.IGNORECASE)
_MOMENTS = {"mu", "nu", "trace", "exp_avg", "exp_avg_sq", "momentum_buffer"}
# Trees with the paths of the weights that hold no weights, whatever is beside them; and those of
# Adam in short, beside the parameters alone.
_NO_WEIGHTS = re.compile(
    r"grads?|gradients?|grad_accum\w*|acc_grads?|momentum(_buffers?)?|velocity|exp_avg(_sq)?"
)
_SHORT, _PARAMETERS = {"m", "v"}, {"params", "param", "parameters", "weights", "model"}
_SETTLE = "pass apply= and example=, or axes="


@dataclass(frozen=True)
class _Seen:
    """A leaf as a matrix; ``convolution``: how often it is applied, a tree does not tell."""

    view: View
    convolution: bool = False


_Verdict = _Seen | Reason | str  # a text: why it is ambiguous


def layers_by_name(
    leaves: Mapping[str, Any],
    *,
    layout: Layout | None = None,
    embeddings: bool = False,
    whole: bool = True,
) -> dict[str, Layer | LeftOut]:
    """What each leaf is, in natural order of the paths.

    Args:
        leaves: arrays (or anything with a shape and a dtype) by path, keys joined by ``/`` or
            ``.``.
        layout: how weights are stored, where names do not tell; then every leaf with two axes is a
            matrix, whatever its name, unless it is a bias, a scale, a table or state.
        embeddings: tables of embeddings are matrices, too: (features, entries).
        whole: whether these are all leaves of a model.

    Example:
        >>> found = layers_by_name({"Conv_0/kernel": jnp.ones((3, 3, 16, 32))})
        >>> found["Conv_0/kernel"].view
        View(out=(3,), in_=(0, 1, 2), stacked=(), parallel=())
        >>> layers_by_name({"bias": jnp.ones(100)})["bias"].text
        'a bias, not a weight matrix'
    """
    named = {path: Named(path, tuple(leaves[path].shape)) for path in leaves}
    tree = _Tree(list(named.values()), _ORDERS[layout], embeddings)
    why_packed = packed(leaves)
    found: dict[str, Layer | LeftOut] = {}
    for path in sorted(named, key=natural_order):
        leaf = named[path]
        dtype = leaves[path].dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            scale = scale_beside(path, leaves) if len(leaf.shape) > 1 else None
            what = f"codes that {scale} multiplies" if scale else "not floating point weights"
            text = why_packed.get(path, f"holds {dtype.name}, {what}")
            found[path] = LeftOut(path, leaf.shape, Reason.NOT_FLOATING, text)
        elif path in why_packed and leaf.is_vector is None:
            found[path] = LeftOut(path, leaf.shape, Reason.PART, why_packed[path])
        elif len(leaf.shape) >= 2 and 0 in leaf.shape:
            found[path] = LeftOut(path, leaf.shape, Reason.EMPTY)
        else:
            found[path] = tree.layer(leaf)
            if isinstance(found[path], LeftOut):
                continue
            other = None if is_code(dtype) else scale_beside(path, leaves)
            other = f"{other} beside it" if other else tree.mask_of(leaf)
            if other:
                text = f"whether {other} changes it is not told: {_SETTLE}"
                found[path] = LeftOut(path, leaf.shape, Reason.AMBIGUOUS, text)
    tree.check_channels(found, whole)
    if whole:
        tree.check_chain(found)
    return found


class _Tree:
    """All leaves, for what each says of the others."""

    def __init__(self, leaves: list[Named], order: Order | None, embeddings: bool) -> None:
        self.order: Order | None = order
        self.embeddings = embeddings
        self.by_keys = {leaf.keys: leaf for leaf in leaves}
        self.mask_of = Masks(leaves).of
        self.by_end: dict[str, list[Named]] = {}
        for leaf in leaves:
            self.by_end.setdefault(leaf.keys[-1], []).append(leaf)
        self.stacks = Stacks(leaves)
        by_path = {leaf.path: leaf for leaf in leaves}
        self.adapters = not_plain(leaves)
        self.factors: dict[str, View | str] = {}
        for pair in pairs(leaf for leaf in leaves if len(leaf.shape) > 1)[0]:
            both = views(by_path[pair.left], by_path[pair.right])
            pair_of = (both, both) if isinstance(both, str) else both
            self.factors[pair.left], self.factors[pair.right] = pair_of
        # b_Q (heads, size) of W_Q (heads, width, size); alone, a b may be a matrix.
        first = {
            leaf: next((k for k in leaf.biases() if k in self.by_keys), None) for leaf in leaves
        }
        self.biases = {
            keys
            for leaf, keys in first.items()
            if keys is not None and len(self.by_keys[keys].shape) < len(leaf.shape)
        }
        self.normalized = {leaf.keys[-3:-1] for leaf in leaves if _NORMALIZERS.search(leaf.path)}
        norms = [self._core(leaf) for leaf in leaves if leaf.is_vector is Reason.SCALE]
        self.widths = {shape[0] for shape in norms if len(shape) == 1}
        self.in_out = {leaf.parent for leaf in leaves if self._kept_in_out(leaf)}
        self.tables = {leaf.shape[0]: leaf.path for leaf in leaves if leaf.is_table and leaf.shape}

    def layer(self, leaf: Named) -> Layer | LeftOut:
        """The leaf as a layer, or why it is none."""
        if leaf.path in self.adapters and not leaf.is_state:
            return LeftOut(leaf.path, leaf.shape, Reason.OTHER_USE, self.adapters[leaf.path])
        verdict = self._verdict(leaf)
        if isinstance(verdict, str):
            return LeftOut(leaf.path, leaf.shape, Reason.AMBIGUOUS, f"{verdict}: {_SETTLE}")
        if isinstance(verdict, Reason):
            text = ""
            if verdict is Reason.UNKNOWN_NAME:
                text = f"{verdict.value} {leaf.keys[-1]!r}: axes= includes it"
                if len(leaf.shape) != 3:
                    text += ", in analyze also a layout (flax, torch, equinox)"
            elif verdict is Reason.TABLE and leaf.name == "weight":
                text = (
                    f"{leaf.parent!r} without a bias is the name of a lookup table (embedding): "
                    "axes= includes it, in analyze also embeddings"
                )
            return LeftOut(leaf.path, leaf.shape, verdict, text)
        copies = self.stacks.copies.get(leaf.path)
        if copies is not None:
            text = (
                f"all leaves have {copies} members: copies on devices, an ensemble or a stack of "
                f"layers; take one, jax.tree.map(lambda a: a[0], params), or {_SETTLE}"
            )
            return LeftOut(leaf.path, leaf.shape, Reason.COPIES, text)
        positions = None if verdict.convolution else 1
        return Layer(leaf.path, leaf.shape, verdict.view, positions=positions)

    def check_channels(self, found: dict[str, Layer | LeftOut], whole: bool) -> None:
        """Leave out kernels that may be those of grouped convolutions."""
        layers = [layer for layer in found.values() if isinstance(layer, Layer)]
        kernels = []
        for layer in layers:
            (first, *_), (out_axis, *_), last = layer.view.in_, layer.view.out, layer.view.in_[-1]
            # Channels stand beside the outputs; a transposed convolution has them on both sides.
            if layer.positions is None and not first < out_axis < last:
                channels = last if last < out_axis else first
                out, in_ = layer.matrix_shape[0], layer.shape[channels]
                leaf = Named(layer.path, layer.shape)
                swapped = layer.view.out == (0,) and self._bias(leaf) is None
                kernels.append(Kernel(leaf, out, in_, swapped))
        outputs = {layer.matrix_shape[0] for layer in layers}
        for leaf, why in doubts(kernels, outputs if whole else None):
            text = f"{why}: {_SETTLE}"
            found[leaf.path] = LeftOut(leaf.path, leaf.shape, Reason.AMBIGUOUS, text)

    def check_chain(self, found: dict[str, Layer | LeftOut]) -> None:
        """Leave out matrices without biases of which none takes what another one gives."""
        layers = [layer for layer in found.values() if isinstance(layer, Layer)]
        leaves = [Named(layer.path, layer.shape) for layer in layers]
        alike = all(
            leaf.name == "weight" and len(leaf.shape) == 2 and self._bias(leaf) is None
            for leaf in leaves
        )
        rows, columns = ({leaf.shape[i] for leaf in leaves if alike} for i in (0, 1))
        tall = any(leaf.shape[0] > _TALL * leaf.shape[1] for leaf in leaves if alike)
        told = self.order is not None or self.embeddings or self.adapters or self.factors
        if tall and len(leaves) > 1 and not told:
            for leaf in () if rows & columns else leaves:
                text = (
                    "no matrix here takes what another one gives: tables of embeddings, or layers "
                    "side by side: axes= includes it, in analyze also a layout"
                )
                found[leaf.path] = LeftOut(leaf.path, leaf.shape, Reason.AMBIGUOUS, text)

    def _verdict(self, leaf: Named) -> _Verdict:
        if leaf.is_state or self._is_moment(leaf):
            return Reason.STATE
        factor = self.factors.get(leaf.path)
        if factor is not None:
            return factor if isinstance(factor, str) else _Seen(factor)
        vector = leaf.is_vector
        if vector is not None:
            return vector
        if leaf.keys in self.biases:
            return Reason.BIAS
        if self._is_normalized(leaf):
            return Reason.REPARAMETRIZED
        stack = self.stacks.axis.get(leaf.path)
        axes = [i for i in range(len(leaf.shape)) if i != stack]
        core = tuple(leaf.shape[i] for i in axes)
        bias = self._bias(leaf)
        # With more axes it is the convolution that makes patches.
        if bias is None and leaf.is_table and (len(core) < 3 or leaf.order is None):
            if len(core) != 2 or not self.embeddings:
                return Reason.TABLE
            seen = _Seen(View(out=(1,), in_=(0,)))
        else:
            seen = self._seen(leaf, core, bias)
        if not isinstance(seen, _Seen):
            return seen
        if leaf.path in self.stacks.unclear:
            return Reason.AMBIGUOUS
        view = seen.view
        out, in_, parallel = (
            tuple(axes[i] for i in part) for part in (view.out, view.in_, view.parallel)
        )
        return replace(seen, view=View(out, in_, () if stack is None else (stack,), parallel))

    def _seen(self, leaf: Named, core: tuple[int, ...], bias: tuple[int, ...] | None) -> _Verdict:
        known = leaf.order is not None or self.order is not None
        if len(core) < 2 or (not known and sum(n > 1 for n in core) < 2):
            return Reason.VECTOR
        if leaf.is_depthwise:
            return Reason.DEPTHWISE
        if bias == core:  # a norm of several axes
            return Reason.SCALE
        if bias is None and self.order is None and leaf.name == "weight" and len(core) == 2:
            if core[0] > core[1] and leaf.keys[-2:-1] and _EITHER.fullmatch(leaf.keys[-2].lower()):
                return f"a table of embeddings or a dense layer, both are called {leaf.parent!r}"
            if core[0] > core[1] == 1 and core[0] in self.tables:
                table = self.tables[core[0]]
                return f"one column and as many rows as the table {table}: one number per entry"
        what = leaf.name if leaf.name in {*_EINSUMS, *_FIRST, *_SECOND} else leaf.parent
        if what in _EINSUMS:
            view = _EINSUMS[what]
            return _Seen(view) if len(view.order) == len(core) else Reason.AMBIGUOUS
        if len(core) > 3 and leaf.of_experts and not _CONVOLUTION.search(leaf.parent):
            return Reason.AMBIGUOUS  # layers, or a second number of experts
        # A bias of one axis is that of a convolution, whatever its name.
        of_experts = leaf.of_experts and not (bias == core[:1] and core[-1] == 1)
        if len(core) == 3 and (of_experts or what == "gating_einsum"):
            order = self.order or self._order_of_experts(leaf, core, bias, what)
            if order is None:
                return "what is put in and what comes out is not told apart"
            return _Seen(_view(order, (1, 2), parallel=(0,)))
        order = self.order or leaf.order
        if len(core) == 2:
            order = self.order or self._order_of_two(leaf, core, bias)
            return Reason.UNKNOWN_NAME if order is None else _Seen(_view(order, (0, 1)))
        if order is None:
            return Reason.UNKNOWN_NAME
        return _of_many_axes(leaf, core, bias, order, self.order is not None)

    def _order_of_two(
        self, leaf: Named, core: tuple[int, ...], bias: tuple[int, ...] | None
    ) -> Order | None:
        """The bias tells, or else the name."""
        fits = [i for i in (0, 1) if bias == (core[i],)]
        if len(fits) == 1:
            return "out in" if fits == [0] else "in out"
        if leaf.order == "out in" and leaf.parent in self.in_out:
            return "in out"
        if leaf.order is None and len(fits) == 2:
            return "out in" if "weight" in leaf.name else "in out"
        if leaf.name == "linear" and self._beside(leaf, "gating_einsum"):
            return "in out"
        return leaf.order

    def _order_of_experts(
        self, leaf: Named, core: tuple[int, ...], bias: tuple[int, ...] | None, what: str
    ) -> Order | None:
        """What of (experts, a, b) is put in: the bias, the name, the other half or a norm tells."""
        e, a, b = core
        if bias is not None and len(bias) == 2 and a != b:
            return "in out" if bias == (e, b) else "out in"
        if leaf.order == "out in":
            return "out in"
        if what not in {*_FIRST, *_SECOND}:
            return leaf.order
        is_first = what in _FIRST
        others = [self._beside(leaf, name) for name in (_SECOND if is_first else sorted(_FIRST))]
        other = next((self._core(x)[-2:] for x in others if x), (0, 0))
        (a, b), (c, d) = ((a, b), other) if is_first else (other, (a, b))
        if what == "gating_einsum" and a != b:
            return "out in" if (a, b) == (c, d) else "in out" if (a, b) == (d, c) else None
        # The first takes what the second gives, the width of the model; gates may double the rest.
        in_out = a == d and b in (c, 2 * c)
        out_in = b == c and a in (d, 2 * d)
        if in_out == out_in:
            mine, other_side = core[1:] if is_first else core[:0:-1]
            in_out, out_in = mine in self.widths, other_side in self.widths
        if in_out != out_in:
            return "in out" if in_out else "out in"
        return leaf.order

    def _core(self, leaf: Named) -> tuple[int, ...]:
        stack = self.stacks.axis.get(leaf.path)
        return tuple(n for i, n in enumerate(leaf.shape) if i != stack)

    def _beside(self, leaf: Named, name: str) -> Named | None:
        """The leaf of that name, or below that name, in the same place."""
        if leaf.name in {"w", "kernel"} and len(leaf.keys) > 1:
            return self.by_keys.get((*leaf.keys[:-2], name, leaf.keys[-1]))
        return self.by_keys.get((*leaf.keys[:-1], name))

    def _bias(self, leaf: Named) -> tuple[int, ...] | None:
        for keys in leaf.biases():
            found = self.by_keys.get(keys)
            if found is not None:
                shape = self._core(found)
                while len(shape) > 1 and shape[-1] == 1:  # (8, 1, 1), of a convolution
                    shape = shape[:-1]
                return shape
        return None

    def _kept_in_out(self, leaf: Named) -> bool:
        """Conv1D of GPT-2: a weight of torch whose bias is as long as the second axis."""
        bias = self._bias(leaf) if leaf.name == "weight" and len(leaf.shape) == 2 else None
        return bias == leaf.shape[1:] and leaf.shape[0] != leaf.shape[1]

    def _is_normalized(self, leaf: Named) -> bool:
        keys, name = leaf.keys, leaf.name
        torch = name in {"weight_v", "weight_orig", "original1"} or (
            name == "original" and "parametrizations" in keys
        )
        nnx = leaf.parent == "layer_instance" and any(
            (*keys[:-2], where, f"('{keys[-1]}'{end}") in self.by_keys
            for where, end in (("scales", ",)"), ("batch_stats", ", 'u')"))
        )
        equinox = leaf.keys[-2:] == ("layer", "weight") and (*keys[:-2], "g") in self.by_keys
        return torch or nnx or equinox or (len(keys) > 1 and keys[-2:] in self.normalized)

    def _is_moment(self, leaf: Named) -> bool:
        """Whether an optimizer keeps it: of the same name and shape as another leaf."""
        for i, key in enumerate(leaf.keys[:-1]):
            never = bool(_NO_WEIGHTS.fullmatch(key) or MASK.fullmatch(key))
            if never or key in _MOMENTS | _SHORT:
                rest = leaf.keys[i + 1 :]
                for twin in self.by_end[leaf.keys[-1]]:
                    same = twin.shape == leaf.shape and twin.keys[-len(rest) :] == rest
                    # mu beside nu is a moment, mu beside logvar is a part of a network.
                    *place, last = ("", *twin.keys[: -len(rest)])
                    beside = tuple(place[1:]) == leaf.keys[:i] and place
                    partners = _PARAMETERS if key in _SHORT else _MOMENTS
                    elsewhere = len(rest) > 1 and key not in _SHORT
                    moment = last in partners if beside else elsewhere
                    moment = moment or (never and elsewhere)
                    if same and moment and twin is not leaf:
                        return True
        return False


def _of_many_axes(
    leaf: Named, core: tuple[int, ...], bias: tuple[int, ...] | None, order: Order, given: bool
) -> _Verdict:
    """Convolutions and projections to and from heads; ``given``: the order, by the caller."""
    rank = len(core)
    axes = tuple(range(rank))
    named = _CONVOLUTION.search(leaf.parent) is not None or (
        rank > 3 and any("patch" in key.lower() for key in leaf.keys[:-1])
    )
    sizes = core[:-2] if order == "in out" else core[2:]
    # Two equal axes may be a window, or heads and groups of an einsum; odd sizes are of windows.
    square = len(set(sizes)) == 1 and (order == "out in" or sizes[0] % 2 == 1)
    elsewhere = _OF_HEADS.search(leaf.parent) or any(
        _OF_DENSE.search(key.lower()) for key in leaf.keys[:-1]
    )
    window = rank > 3 and (set(sizes) == {1} or ((given or square) and not elsewhere))
    # A transposed convolution of torch and of Keras puts what it takes where others put out.
    swapped = (1, 0) if order == "out in" else (rank - 2, rank - 1)
    transposed = _TRANSPOSED[order].search(leaf.parent) is not None
    # ups of a vocoder; of an interpolated picture or signal the window is odd.
    transposed |= order == "out in" and leaf.parent == "ups" and any(n % 2 == 0 for n in sizes)
    if (rank > 3 or transposed) and bias == (core[swapped[0]],) != (core[swapped[1]],):
        rest = tuple(i for i in axes if i != swapped[0])
        return _Seen(View(out=swapped[:1], in_=rest), convolution=True)
    if transposed and (bias is None or core[swapped[0]] == core[swapped[1]]):
        return "a transposed convolution: what it takes and what it gives is not told apart"
    if order == "out in":
        fits = bias is None or bias == core[:1]
        if rank == 3 and bias == core[:1] and not named:
            # A member of a sequence takes one input, and windows are short and odd.
            alone = len(leaf.keys) < 2 or not leaf.keys[-2].isdecimal()
            if "bilinear" in leaf.parent or (alone and not (core[2] % 2 and core[2] < 16)):
                return _BILINEAR
        convolution = fits and (window or named or bias is not None)
        return _Seen(_view(order, axes), convolution=True) if convolution else Reason.AMBIGUOUS
    into, back = (found.fullmatch(leaf.parent) for found in (PROJECTIONS_IN, PROJECTIONS_OUT))
    if rank == 3 and (into or back):
        width, inner = (core[0], core[1] * core[2]) if into else (core[2], core[0] * core[1])
        heads = bias is None and inner <= _WIDEST * width  # or a stack of (in, out)
        if heads or bias == (core[1:] if into else core[2:]):
            return _Seen(View(axes[1:], axes[:1]) if into else View(axes[2:], axes[:2]))
    if bias is not None:
        several = len(bias) < rank and bias == core[-len(bias) :]
        if len(bias) > 1 and several and bias != (core[0], core[-1]):
            return _Seen(View(axes[-len(bias) :], axes[: -len(bias)]))
        return _Seen(_view(order, axes), convolution=True) if bias == core[-1:] else (
            Reason.AMBIGUOUS
        )  # fmt: skip
    if into or back:
        return Reason.AMBIGUOUS
    if core[-1] == 1 < core[-2] and rank > 3:
        return "one filter per channel (depthwise), or a convolution to one channel"
    return _Seen(_view(order, axes), convolution=True) if named or window else Reason.AMBIGUOUS


def _view(order: Order, axes: tuple[int, ...], parallel: tuple[int, ...] = ()) -> View:
    if order == "out in":
        return View(out=axes[:1], in_=axes[1:], parallel=parallel)
    return View(out=axes[-1:], in_=axes[:-1], parallel=parallel)
