"""Decoupled Schatten decay, with the decomposition at every step or now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import at_least_float32, concrete, one_of
from rankjax._explicit_axes import automatic
from rankjax.matrix import engines, schatten_power, warm
from rankjax.network import Layer, Structure
from rankjax.network.buckets import by_shape, in_turn
from rankjax.training.penalties import DEFAULT_EPS, check_paths
from rankjax.training.stepping import (
    Number,
    at,
    backward_pass,
    check_every,
    first_count,
    held,
    landmark,
    needed,
    next_count,
    on_every,
)

BETWEEN = ("frozen", "warm", "stale")


class DecayState(NamedTuple):
    """State of ``add_schatten_decay``.

    Attributes:
        count: the number of steps taken.
        kept: what is carried from one decomposition to the next, one entry per leaf of the
            structure: a ``frozen.FrozenState``, a ``warm.WarmState`` (its ``error`` says how
            exact the gradient is), a gradient of the shape of the leaf; empty without ``refresh``.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]
    kept: tuple[Any, ...] = ()


class _Keep(NamedTuple):
    """How a gradient is had between two decompositions."""

    #: (layers, leaves, p, eps) -> what is kept, per leaf
    renew: Callable[..., tuple[Any, ...]]
    #: (layer, leaf, kept, p, eps, landmark) -> gradient of the leaf, what is kept
    step: Callable[..., tuple[Array, Any]]


def add_schatten_decay(
    structure: Structure,
    weight: Number | Mapping[str, Number],
    *,
    p: Number,
    eps: Number = DEFAULT_EPS,
    every: int = 1,
    refresh: int | None = None,
    between: str = "frozen",
    method: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of ``weight sum_l |A_l|_{S_p}^p`` to the updates: decoupled decay.

    Like ``optax.add_decayed_weights`` it belongs after the preconditioner and before the learning
    rate, ``optax.chain(optax.scale_by_adam(), add_schatten_decay(...),
    optax.scale_by_learning_rate(1e-3))``; ``p = 2`` is weight decay with twice the weight.

    Two numbers save decompositions. With ``every = k`` the decay acts on every k-th step, k times
    as strongly, and costs nothing on the others (k times the step must still be stable, or small
    singular values jump to and fro: ``apply_schatten_flow`` always is). With ``refresh = k`` it
    acts on every step (every ``every``-th, if both are given) but decomposes on every k-th only,
    beginning with the first; ``between`` says what the gradient is made of on the others (``A`` is
    the matrix of the day):

    =========== ======================================= ============= ==============================
    between     kept since the last decomposition       a step costs  error of the gradient
    =========== ======================================= ============= ==============================
    "frozen"    ``P = p (A^T A + e^2 I)^(p/2 - 1)``     1 product     first order in the drift, but
                of the smaller side; gradient ``A P``                 a descent (``matrix.frozen``)
    "warm"      the eigenbasis of ``A^T A``             4 products    1 % at most: where it would be
                                                                      more, the leaf decomposes at
                                                                      that step (``matrix.warm``)
    "stale"     the gradient itself                     an addition   first order; goes on where the
                                                                      singular value is 0 already
    =========== ======================================= ============= ==============================

    ``docs/training.md`` says which to use when.

    Args:
        structure: from ``describe``.
        weight: the strength, a number or a schedule, or a mapping from paths to such (layers that
            it does not name: 1).
        p: Schatten exponent, a number or a schedule; frozen and stale use that of the last
            decomposition.
        eps: relative smoothing, a number or a schedule; like ``p``.
        every: how often the decay acts.
        refresh: how often it decomposes, a multiple of ``every``; ``None``: whenever it acts.
        between: with ``refresh``: ``"frozen"``, ``"warm"`` or ``"stale"``.
        method: how it decomposes, see ``schatten_power``; frozen knows ``"auto"``, ``"gram"`` and
            ``"svd"``, warm ``"auto"`` and ``"gram"``.

    Returns:
        The transformation; its state is a ``DecayState``, made of arrays whose shapes and dtypes
        stay the same: memory of one matrix of the smaller side (stale: of the leaf) per matrix with
        ``refresh``, of one number without.

    Raises:
        ValueError: ``every`` or ``refresh`` that is no whole number >= 1, a ``refresh`` that is no
            multiple of ``every``, an unknown ``between`` or ``method``, an unknown path; at the
            update, parameters that are ``None`` or do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.eye(2)}
        >>> decay = add_schatten_decay(describe(params), 0.5, p=2.0, eps=0.0)
        >>> updates, _ = decay.update({"kernel": jnp.zeros((2, 2))}, decay.init(params), params)
        >>> round(float(updates["kernel"][0, 0]), 3)
        1.0
    """
    check_every(every)
    one_of(between, "between", BETWEEN)
    one_of(method, "method", engines.METHODS)
    if refresh is not None:
        check_every(refresh, "refresh")
        if refresh % every:
            raise ValueError(f"refresh: got {refresh}, must be a multiple of every = {every}")
    if isinstance(weight, Mapping):
        check_paths(structure, weight)
    keep = None if refresh is None else _KEEP[between](structure, method)
    period = 1 if refresh is None else refresh // every

    def init(params: Any) -> DecayState:
        if keep is None:
            return DecayState(first_count())
        renew = partial(keep.renew, structure.spec)
        shapes = jax.eval_shape(renew, structure.leaves(params), 1.0, DEFAULT_EPS)
        return DecayState(
            first_count(), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        )

    def slopes(
        layers: list[Layer], leaves: list[Array], kept: tuple[Any, ...], count: Array, ready: Array
    ) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
        exponent, smoothing = at(p, count), at(eps, count)

        def waiting() -> list[Array]:
            return [held(leaf, ready) for leaf in leaves]

        if keep is None:
            return _exact(structure, layers, waiting(), exponent, smoothing, method), ()
        renewed = keep.renew

        def renew(_: Any) -> tuple[Any, ...]:
            return renewed(layers, waiting(), exponent, smoothing)

        due = ((count + 1) // every - 1) % period == 0
        kept = jax.lax.cond(due, renew, lambda old: old, kept)
        triples = zip(layers, leaves, kept, strict=True)
        pairs = [keep.step(*triple, exponent, smoothing, ready) for triple in triples]
        return tuple(gradient for gradient, _ in pairs), tuple(mine for _, mine in pairs)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        needed(params)
        leaves = [jnp.asarray(leaf) for leaf in structure.leaves(params)]
        new = [jnp.asarray(u) for u in structure.leaves(updates)]
        carried = list(state.kept)
        ready = backward_pass(updates)
        for group in in_turn(leaves, structure.mesh):
            layers, mine = [structure.spec[i] for i in group], [leaves[i] for i in group]

            def act(
                given: Any, layers: Any = layers, mine: Any = mine, ready: Any = ready
            ) -> tuple[list[Array], tuple[Any, ...]]:
                steps, kept = given
                found, kept = slopes(layers, mine, kept, state.count, ready)
                added = []
                for layer, u, g in zip(layers, steps, found, strict=True):
                    factor = weight.get(layer.path, 1.0) if isinstance(weight, Mapping) else weight
                    strength = jnp.asarray(at(factor, state.count), g.dtype) * every
                    added.append(u + (strength * g).astype(u.dtype))
                return added, kept

            # The steps go through the branch, and what comes out takes their place: zeros to add
            # would be one more array, in the memory layout of the matrix and not of the leaf.
            steps = [held(new[i], ready) if every > 1 else new[i] for i in group]
            kept = tuple(carried[i] for i in group) if carried else ()
            moved, kept = on_every(every, state.count, act, lambda given: given, (steps, kept))
            for i, step in zip(group, moved, strict=True):
                new[i] = step
            for i, value in zip(group, kept, strict=False):
                carried[i] = value
            # Between two branches the sum need not be written to memory, the kept part must be.
            ready = landmark(moved if every > 1 else jax.tree.leaves(kept) or moved)
        kept = tuple(carried)
        return structure.replace_leaves(updates, new), DecayState(next_count(state.count), kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _exact(
    structure: Structure,
    layers: Sequence[Layer],
    leaves: Sequence[Array],
    p: ArrayLike,
    eps: ArrayLike,
    method: str,
) -> tuple[Array, ...]:
    """The gradient of ``sum_l |A_l|_{S_p}^p`` by each leaf, in at least float32."""

    def slope(a: Array, _: Array, p: ArrayLike, eps: ArrayLike) -> Array:
        return jax.grad(lambda a: jnp.sum(schatten_power(a, p=p, eps=eps, method=method)))(a)

    @automatic
    def slopes(leaves: Sequence[Array], p: ArrayLike, eps: ArrayLike) -> tuple[Array, ...]:
        found = by_shape(slope, _matrices(layers, leaves), structure.mesh, p, eps)
        return tuple(layer.leaf(g) for layer, g in zip(layers, found, strict=True))

    return slopes(leaves, p, eps)


def _matrices(layers: Sequence[Layer], leaves: Sequence[Array]) -> tuple[Array, ...]:
    pairs = zip(layers, leaves, strict=True)
    return tuple(at_least_float32(layer.matrix(jnp.asarray(leaf))) for layer, leaf in pairs)


def _frozen(structure: Structure, method: str) -> _Keep:
    one_of(method, "method with between='frozen'", ("auto", *frozen.METHODS))

    def engine(a: Array, eps: ArrayLike) -> str:
        known = concrete(eps)
        if method != "auto":
            return method
        # As schatten_power chooses, except that an unknown eps is taken to be large enough.
        small = known is not None and float(known) < engines.threshold(a.dtype)
        return "svd" if small else "gram"

    def renew(
        layers: Sequence[Layer], leaves: Sequence[Array], p: ArrayLike, eps: ArrayLike
    ) -> tuple[Any, ...]:
        def of_batch(a: Array, _: Array, p: ArrayLike, smoothing: ArrayLike) -> Array:
            return frozen.refresh(a, p=p, eps=smoothing, method=engine(a, eps)).preconditioner

        matrices = _matrices(layers, leaves)
        found = by_shape(of_batch, matrices, structure.mesh, p, eps)
        return tuple(map(frozen.FrozenState, found))

    def step(layer: Layer, leaf: Array, kept: Any, *_: Any) -> Any:
        (matrix,) = _matrices([layer], [leaf])
        return layer.leaf(frozen.step(matrix, kept)), kept

    return _Keep(automatic(renew), automatic(step))


def _warm(structure: Structure, method: str) -> _Keep:
    one_of(method, "method with between='warm'", ("auto", "gram"))

    def renew(
        layers: Sequence[Layer], leaves: Sequence[Array], p: ArrayLike, eps: ArrayLike
    ) -> tuple[Any, ...]:
        del p, eps
        matrices = _matrices(layers, leaves)
        bases = by_shape(lambda a, _: warm.refresh(a).basis, matrices, structure.mesh)
        return tuple(warm.WarmState(v, jnp.zeros(v.shape[:-2], v.dtype)) for v in bases)

    def step(
        layer: Layer, leaf: Array, kept: Any, p: ArrayLike, eps: ArrayLike, ready: Array
    ) -> Any:
        (matrix,) = _matrices([layer], [held(leaf, ready)])
        _, gradient, kept = warm.step(matrix, kept, p=p, eps=eps)
        return layer.leaf(gradient), kept

    return _Keep(automatic(renew), automatic(step))


def _stale(structure: Structure, method: str) -> _Keep:
    def renew(
        layers: Sequence[Layer], leaves: Sequence[Array], p: ArrayLike, eps: ArrayLike
    ) -> tuple[Any, ...]:
        return _exact(structure, layers, leaves, p, eps, method)

    def step(_: Layer, __: Array, kept: Any, *___: Any) -> Any:
        return kept, kept

    return _Keep(automatic(renew), automatic(step))


_KEEP = {"frozen": _frozen, "warm": _warm, "stale": _stale}
