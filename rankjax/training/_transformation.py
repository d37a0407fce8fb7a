"""What the Optax transformations share: which leaves they see, when they act, one compiled update.

The update is one jitted function of arrays for all transformations, so a loop that calls it without
``jit`` compiles it once and not at each step, and inside a ``jit`` it is inlined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax.network import Layer, Structure
from rankjax.network.internal import check_structure, path_string
from rankjax.training._in_turn import (
    Group,
    add_changes,
    ends_of_backward_pass,
    groups,
    held,
    landmark,
    matrices,
)
from rankjax.training._schedule import (
    Number,
    PerLayer,
    as_array,
    at,
    by_layer,
    constant,
    first_count,
    matched,
    next_count,
)

#: A structure, or a function that makes one of the parameters, such as ``describe``.
StructureOrFunction = Structure | Callable[[Any], Structure]


@dataclass(frozen=True)
class Rule:
    """What happens to a batch of tall matrices; static and hashable.

    Attributes:
        after_step: whether the matrices are where the step would take the parameters, or where
            they are now.
        per_step: whether the strength of ``every`` steps is that of one, ``every`` times.
        named_only: whether layers that a mapping of strengths does not name are left alone;
            otherwise their strength is 1.
    """

    after_step: ClassVar[bool] = True
    per_step: ClassVar[bool] = True
    named_only: ClassVar[bool] = True

    def scale(self, layer: Layer) -> float:
        """What the strength of a layer is multiplied by."""
        del layer
        return 1.0

    def change(
        self, batch: Array, kept: Any, strength: Array, count: Array, numbers: Mapping[str, Any]
    ) -> tuple[Array, Any]:
        """What is added to the batch ``(k, m, n)``, and what is kept of it for the next time."""
        raise NotImplementedError

    def fresh(self, group: Group, count: int, dtype: Any) -> Any:
        """What is kept before the first step, one entry per matrix."""
        del group, count, dtype
        return ()


def needed(params: Any) -> None:
    """Refuse an update without parameters."""
    if params is None:
        raise ValueError(
            "params: got None; call update(updates, state, params), these need the parameters"
        )


def check_source(structure: Any) -> None:
    """Refuse what is neither a structure nor a function (parameters that came first, say)."""
    # A function is a leaf; an Equinox module that happens to be callable is a tree.
    if not (callable(structure) and jax.tree_util.all_leaves([structure])):
        check_structure(structure)


def structure_of(source: StructureOrFunction, params: Any) -> Structure:
    """The structure, made of the parameters where a function was given."""
    if isinstance(source, Structure):
        return source
    if without_arrays(params):
        raise ValueError(
            "structure: got a function of the parameters, and none to ask it with; give the "
            "Structure itself where optax.tree_map_params is used"
        )
    return check_structure(source(params))


def visible(structure: Structure, *trees: Any) -> Structure:
    """The structure without the layers that ``optax.masked`` hides (an ``optax.MaskedNode``)."""
    hidden = {
        path_string(path)
        for tree in trees
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_masked)[0]
        if _is_masked(leaf)
    }
    if not hidden:
        return structure

    def seen(path: str) -> bool:
        keys = path.split("/")
        return not any("/".join(keys[:i]) in hidden for i in range(len(keys) + 1))

    shown = (x for x in structure.layers if all(seen(path) for path, _ in x.leaves))
    return replace(structure, layers=tuple(shown))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def without_arrays(params: Any) -> bool:
    """Whether this is the placeholder with which ``optax.tree_map_params`` calls ``init``."""
    return not jax.tree.leaves(params, is_leaf=_is_masked)


def transformation(
    source: StructureOrFunction,
    rule: Rule,
    strength: PerLayer,
    numbers: Mapping[str, Number],
    *,
    name: str,
    make_state: Callable[[Array, tuple[Any, ...]], Any],
) -> optax.GradientTransformationExtraArgs:
    """The transformation of a rule.

    Args:
        source: the structure, or a function of the parameters.
        rule: what happens to the matrices.
        strength: a number, or one per layer.
        numbers: further numbers of the rule; ``every`` is one of them.
        name: what the strength is called, for messages.
        make_state: makes a state of the step count and of what is kept per group of equal shapes.
    """
    check_source(source)
    if isinstance(source, Structure):
        _strengths(source, rule, strength, name, first_count())

    def init(params: Any) -> Any:
        kept = []
        if type(rule).fresh is not Rule.fresh:
            structure = structure_of(source, params)
            dtypes = {layer.path: jnp.float32 for layer in structure.layers}
            if not without_arrays(params):
                structure_now = visible(structure, params)
                pairs = zip(structure_now.layers, structure_now.leaves(params), strict=True)
                dtypes = {layer.path: jnp.asarray(leaf).dtype for layer, leaf in pairs}
            for group in groups(structure):
                layers = [structure.layers[i] for i in group.members]
                seen = [layer for layer in layers if layer.path in dtypes]
                shapes = [jax.ShapeDtypeStruct((), dtypes[layer.path]) for layer in seen]
                wide = [jax.eval_shape(at_least_float32, shape).dtype for shape in shapes]
                dtype = jnp.result_type(*wide) if wide else jnp.float32
                count = sum(matrices(layer) for layer in seen)
                kept.append(rule.fresh(group, count, dtype))
        elif isinstance(source, Structure) and not without_arrays(params):
            visible(source, params).leaves(params)
        return make_state(first_count(), tuple(kept))

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        needed(params)
        structure = structure_of(source, params)
        strengths = _strengths(structure, rule, strength, name, state.count)
        seen = visible(structure, updates, params)
        if rule.named_only and isinstance(strength, Mapping):
            named = matched([layer.path for layer in structure.layers], strength, name)
            seen = replace(seen, layers=tuple(x for x in seen.layers if x.path in named))
        paths = {layer.path for layer in seen.layers}
        live = tuple(i for i, layer in enumerate(structure.layers) if layer.path in paths)
        now = {key: at(number, state.count) for key, number in numbers.items()}
        known = tuple((key, value) for key, value in now.items() if constant(value))
        steps, kept = _moved(
            structure,
            live,
            rule,
            known,
            {key: value for key, value in now.items() if not constant(value)},
            strengths,
            state.count,
            [jnp.asarray(leaf) for leaf in seen.leaves(params)],
            [jnp.asarray(leaf) for leaf in seen.leaves(updates)],
            getattr(state, "kept", ()),
            ends_of_backward_pass(updates),
        )
        return seen.replace_leaves(updates, steps), make_state(next_count(state.count), kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _strengths(
    structure: Structure, rule: Rule, strength: PerLayer, name: str, count: Array
) -> Array:
    """One strength per layer at this step."""
    given = by_layer([layer.path for layer in structure.layers], strength, name, count)
    found = as_array(given)
    return found * np.asarray([rule.scale(layer) for layer in structure.layers], found.dtype)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _moved(
    structure: Structure,
    live: tuple[int, ...],
    rule: Rule,
    known: tuple[tuple[str, Any], ...],
    traced: Mapping[str, Any],
    strengths: Array,
    count: Array,
    leaves: Sequence[Array],
    steps: Sequence[Array],
    kept: tuple[Any, ...],
    ends: Sequence[Array],
) -> tuple[list[Array], tuple[Any, ...]]:
    """The steps of the layers ``live``, changed on every ``every``-th step; what is kept."""
    numbers = {**dict(known), **traced}
    every, ready = numbers["every"], landmark(ends)
    if rule.per_step:
        strengths = strengths * jnp.asarray(every, strengths.dtype)

    def change(
        batch: Array, state: Any, index: Array, strength: Array, count: Array, numbers: Any
    ) -> tuple[Array, Any]:
        own = strength[index].astype(batch.dtype)
        return rule.change(batch, state, own, count, dict(known) | numbers)

    def act(given: tuple[list[Array], tuple[Any, ...]]) -> tuple[list[Array], tuple[Any, ...]]:
        params = dict(zip(live, leaves, strict=True))
        new, kept, after = dict(zip(live, given[0], strict=True)), list(given[1]), ready
        for number, group in enumerate(groups(structure)):
            members = [i for i in group.members if i in params]
            if not members:
                continue
            # One strength per matrix, on whatever device it is needed.
            repeats = [matrices(structure.layers[i]) for i in members]
            mine = strengths[jnp.asarray(np.repeat(members, repeats))]
            moved, carried = add_changes(
                structure,
                group._replace(members=tuple(members)),
                [params[i] for i in members],
                [new[i] for i in members],
                change,
                kept[number] if kept else (),
                (mine, count, dict(traced)),
                after,
                after_step=rule.after_step,
            )
            new.update(zip(members, moved, strict=True))
            if kept:
                kept[number] = carried
            # Between two branches the sum need not be written to memory, what is kept must be.
            after = landmark(jax.tree.leaves(carried) or moved)
        return [new[i] for i in live], tuple(kept)

    # The steps go through the branch, and what comes out takes their place: zeros to add would be
    # one more array.
    if isinstance(every, int) and every == 1:
        return act((list(steps), kept))
    given = ([held(step, ready) for step in steps], kept)
    return jax.lax.cond((count + 1) % every == 0, act, lambda given: given, given)
