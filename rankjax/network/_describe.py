"""Find the weight matrices of a parameter tree: by what they do, or else by their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from rankjax.network._examples import one_of
from rankjax.network._left_out import LeftOut, Reason
from rankjax.network._names import layers_by_name
from rankjax.network._paths import paths_and_leaves, split_arrays
from rankjax.network._products import joined
from rankjax.network._scales import is_code, scales_by_weight
from rankjax.network._structure import (
    Layer,
    Structure,
    check_both,
    check_real,
    check_real_effect,
)
from rankjax.network._traced_layers import layers_of, outside_of
from rankjax.network._tracing import Trace, trace_uses
from rankjax.network._view import View
from rankjax.network._vouched import checked_activations

Axes = View | tuple[Sequence[int], Sequence[int]]
Mask = Any  # a predicate of (path, leaf), or a (prefix) tree of bools; True means included


def describe(
    params: Any,
    *,
    apply: Callable[[Any, Any], Any] | None = None,
    example: Any = None,
    axes: Mapping[str, Axes] | None = None,
    mask: Mask = None,
    lipschitz: float | Mapping[str, float] | None = None,
    activations: Mapping[str, float] | None = None,
) -> Structure:
    """Find the weight matrices of a parameter tree.

    With ``apply`` and ``example`` the forward function is traced (nothing is computed): each
    leaf that multiplies the data in a matrix product or a convolution is a layer, in the order of
    use, with its rows, columns, groups, strides and number of positions as they really are. A leaf
    that is changed first (a scale, a mask, weight normalization, ``W + A B``, a part of it) is
    followed: the layer is the matrix that acts, computed by the same steps. What else the network
    does, and bounds for chains of layers do not allow, is in ``Structure.outside``. Without
    ``apply``, names, shapes and the leaves beside a leaf decide (``kernel``: Flax, ``weight``:
    torch and Equinox); what they do not settle is left out, the number of positions of a
    convolution stays unknown, and a dense layer counts as applied once. Two factors with the names
    of LoRA are one layer, their product without its scale.

    Args:
        params: Flax NNX state or Linen dictionary, Equinox module, or any tree of arrays.
        apply: ``apply(params, x) -> outputs``, the network in inference mode, for a batch ``x``.
        example: a batch (arrays or ``jax.ShapeDtypeStruct`` with a leading example axis).
        axes: for a path, ``(output axes, input axes)`` or a ``View``; overrides the default and
            includes leaves that are left out by default.
        mask: which of the matrices to keep: a predicate of ``(path, leaf)``, or a tree (or prefix
            tree) of bools; ``True`` means included.
        lipschitz: Lipschitz constant of what follows a layer, before the next one: one number, or a
            mapping from paths. ``None``, and for other paths: what the traced program shows, at
            least 1 (ReLU, tanh and max over disjoint windows have 1, GELU 1.13, SiLU 1.1); an
            activation of unknown constant is in ``outside``. Without ``apply``: 1.
        activations: Lipschitz constants of jitted functions by name, e.g. ``{"swish2": 1.2}``, for
            activations that the library does not know. You vouch for the constant, and that the
            function acts on each entry alone; whether it is 0 at 0 is evaluated.

    Returns:
        A static ``Structure``. Layers come in the order of use, or in natural order of their paths.

    Raises:
        ValueError: if the tree holds no matrix, the mask leaves none, a path is unknown, a matrix
            is complex, only one of ``apply`` and ``example`` is given, or an activation of
            ``activations`` is never met.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"Dense_0": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
        >>> print(describe(params))
        layer           leaf    seen as (out, in)  matrices  positions  Lipschitz after
        Dense_0/kernel  (4, 3)  3 x 4              1         1          1
        <BLANKLINE>
        left out
        Dense_0/bias  (3,)  a bias, not a weight matrix
    """
    leaves = {path: leaf for path, leaf in paths_and_leaves(params) if hasattr(leaf, "shape")}
    shapes: dict[str, tuple[int, ...]] = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    _check_paths("axes", axes or {}, shapes)
    if isinstance(lipschitz, Mapping):
        _check_paths("lipschitz", lipschitz, shapes)
    check_both(apply, example)
    vouched = checked_activations(activations)
    if vouched and apply is None:
        raise ValueError("activations: names functions that apply calls; give apply and example")
    found: dict[str, Layer | LeftOut] = {}
    facts = None
    if apply is None:
        found = {**layers_by_name(leaves), **_codes(leaves)}
    else:
        facts = _trace(params, example, apply, vouched)
        found = layers_of(facts, shapes)
    for path, given in (axes or {}).items():
        view = _view(path, given)
        view.validate(path, shapes[path])
        before = found[path]
        if isinstance(before, LeftOut) and facts is not None:
            raise ValueError(
                f"axes for {path!r}: apply does not multiply data by it as a matrix: {before.text}"
            )
        if isinstance(before, Layer):
            if before.convolution and sorted(view.in_) == sorted(before.view.in_):
                view = replace(view, in_=before.view.in_)  # the order of the window
            found[path] = replace(before, view=view)
        else:
            found[path] = Layer(path, shapes[path], view, positions=1)
    included = _mask_by_path(mask, params, leaves)
    layers, left_out, unknown = [], [], []
    outside = None
    entries = list(found.values())
    if apply is None:
        entries = joined(entries)
        outside = _updated(entries)
    for layer in entries:
        path = layer.path
        if isinstance(layer, LeftOut):
            if apply is None and len(layer.shape) > 1 and included(path):
                check_real(path, leaves[path])
            left_out.append(layer)
            continue
        main = layer.leaves[0][0]
        if not included(main):
            left_out.append(LeftOut(path, layer.shape, Reason.MASKED))
            continue
        for leaf, _ in layer.leaves:
            check_real(leaf, leaves[leaf])
        if facts is not None:
            check_real_effect(layer, leaves)
        given = lipschitz
        constant = given.get(path, given.get(main)) if isinstance(given, Mapping) else given
        if constant is None:
            constant = layer.lipschitz
            if math.isnan(constant):
                unknown.append(path)
                constant = 1.0
        _check_lipschitz(path, constant)
        layers.append(replace(layer, lipschitz=float(constant)))
    if not layers:
        seen = [f"  {leaf.path} {leaf.shape}: {leaf.text}" for leaf in left_out]
        which = "params holds" if mask is None else "mask matches"
        text = "\n".join(seen or ["  (no leaves)"])
        raise ValueError(f"{which} no weight matrix; its leaves are\n{text}")
    biases, homogeneous = (), False
    if facts is not None:
        paths = list(shapes)
        outside = outside_of(facts, shapes, left_out, unknown)
        biases = tuple(paths[i] for i in sorted(facts.added_leaves))
        homogeneous = not outside and facts.output is not None and not facts.output.bent
    return Structure(
        tuple(layers), tuple(left_out), outside=outside, biases=biases, homogeneous=homogeneous
    )


def _trace(
    params: Any,
    example: Any,
    apply: Callable[[Any, Any], Any],
    activations: Mapping[str, float],
) -> Trace:
    arrays, skeleton = split_arrays(params)
    abstract = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    one = one_of(example)
    return trace_uses(lambda p, x: apply(skeleton.fill(p), x), abstract, one, activations).trace


def _updated(entries: Sequence[Layer | LeftOut]) -> tuple[str, ...] | None:
    """What names alone say against a chain: weights that are updated by an adapter."""
    parts = [x.path for x in entries if isinstance(x, LeftOut) and x.why is Reason.OTHER_USE]
    updates = [x.path for x in entries if isinstance(x, Layer) and x.effect is not None]
    found = [*updates, *parts]
    return (f"updates its weights by an adapter, with {found[0]!r}",) if found else None


def _codes(leaves: dict[str, Any]) -> dict[str, LeftOut]:
    """The leaves that are no weights without the scales beside them."""
    held = scales_by_weight(leaves)
    return {
        path: LeftOut(path, leaf.shape, Reason.PART, "codes with scales beside them: "
                      "multiply them first, or use rankjax.report.analyze, which does")
        for path, leaf in leaves.items()
        if path in held and len(leaf.shape) > 1 and is_code(leaf.dtype)
    }  # fmt: skip


def _view(path: str, given: Any) -> View:
    if isinstance(given, View):
        return given
    try:
        out, in_ = (tuple(axes) for axes in given)
    except (TypeError, ValueError):
        raise ValueError(
            f"axes for {path!r}: got {given!r}, must be a pair (output axes, input axes), such as "
            "((1,), (0,)), or a View"
        ) from None
    return View(out, in_)


def _check_lipschitz(path: str, constant: Any) -> None:
    number = math.nan
    if np.ndim(constant) == 0 and not isinstance(constant, str | bool):
        number = float(constant)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"lipschitz for {path!r}: got {constant!r}, must be a positive number")


def _check_paths(argument: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{argument} names unknown paths {unknown}; params holds {sorted(known)}")


def _mask_by_path(mask: Mask, params: Any, leaves: dict[str, Any]) -> Callable[[str], bool]:
    if mask is None:
        return lambda path: True
    # A function is a leaf; an Equinox module that happens to be callable is a tree of bools.
    if callable(mask) and jax.tree_util.all_leaves([mask]):
        return lambda path: bool(mask(path, leaves[path]))
    try:
        full = jax.tree.broadcast(mask, params)
    except ValueError as error:
        raise ValueError(
            f"mask is neither a predicate nor a prefix tree of params: {error}"
        ) from None
    chosen = dict(paths_and_leaves(full))
    wrong = {path: value for path, value in chosen.items() if not isinstance(value, bool)}
    if wrong:
        path, value = next(iter(wrong.items()))
        raise ValueError(f"mask at {path!r}: got {value!r}, must be True or False")
    return lambda path: chosen[path]
