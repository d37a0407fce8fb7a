"""The rounds of Pick-to-Learn: find the examples that are wrong, add the worst, train on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._jax_internals import as_function
from rankjax.certificates._guarantee import check_integer, check_number
from rankjax.certificates._held import Held, held_by
from rankjax.certificates._one_example import Apply, trace_of_one
from rankjax.network.internal import check_labels, margin_of

if TYPE_CHECKING:
    import optax

Loss = Callable[[Any, Any, Array, Array], Array]


@dataclass(frozen=True)
class Picking:
    """How many examples a round picks, and how long it trains on all that are picked.

    None of it may depend on the sample: the picks and the networks must come out the same for any
    part of the sample that holds the picked examples.

    Attributes:
        rounds: at most so many; examples that are wrong after the last one count like picked ones.
        group: examples that a round picks, at most.
        growth: or this share of those picked so far, if that is more.
        steps: optimizer steps per round.
        minibatch: examples per step, drawn from the picked ones with replacement.
        warm: train on from the last round's network; otherwise from the first one.
        seed: of the draws.

    Raises:
        ValueError: a field out of range.
    """

    rounds: int = 200
    group: int = 8
    growth: float = 0.05
    steps: int = 200
    minibatch: int = 64
    warm: bool = True
    seed: int = 0

    def __post_init__(self):
        for name, lowest in (("rounds", 0), ("group", 1), ("steps", 1), ("minibatch", 1)):
            check_integer(getattr(self, name), f"picking.{name}", lowest, numpy=True)
        if check_integer(self.seed, "picking.seed", 0, numpy=True) >= 2**63:
            raise ValueError(f"picking.seed: got {self.seed}, must be below 2^63")
        check_number(self.growth, "picking.growth", 0)
        if type(self.warm) is not bool:
            raise ValueError(f"picking.warm: got {self.warm!r}, must be True or False")


@dataclass(frozen=True)
class PickState:
    """Where a run of ``pick_to_learn`` stands after a round: a pytree, so that it can be stored.

    Attributes:
        params: the network.
        optimizer: state of the optimizer.
        picked: the picked examples in their order, then -1.
        count: how many they are.
        round: rounds done.
        origin: a digest of the sample, the first network and ``Picking``.
    """

    params: Any
    optimizer: Any
    picked: Array
    count: Array
    round: Array
    origin: str


jax.tree_util.register_dataclass(
    PickState, ["params", "optimizer", "picked", "count", "round"], ["origin"]
)


class Rounds:
    """The jitted parts of a round, compiled once each.

    Attributes:
        n: number of examples.
        held: what ``apply`` uses besides the parameters and the input.
    """

    def __init__(
        self,
        apply: Apply,
        params: Any,
        x: Any,
        y: np.ndarray,
        *,
        optimizer: optax.GradientTransformation,
        loss: Loss | None,
        picking: Picking,
        batch_size: int,
    ):
        if type(picking) is not Picking:
            raise ValueError(f"picking: got {type(picking).__name__}, must be a Picking")
        if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, must be an Optax transformation, such "
                "as optax.adam(1e-3)"
            )
        self.n, self._picking, self._optimizer = len(y), picking, optimizer
        if loss is not None and not callable(loss):
            raise ValueError(f"loss: got {loss!r}, must be a function of params, x, y and a key")
        self._first, self._rest = _partition(params)
        if not jax.tree.leaves(self._first):
            raise ValueError("params: got no floating point array, must have one to train")
        traced = trace_of_one(lambda t, x: apply(_combine(t, self._rest), x), self._first, x)
        self.held: Held = held_by(traced)
        check_labels(y, traced.out_avals[0].shape[0])
        self._run, self._loss = as_function(traced), loss or _cross_entropy(apply)
        self._sample = jax.tree.map(jnp.asarray, x), jnp.asarray(y, int)
        self._origin = _digest(picking, x, y, params)
        index = np.minimum(np.arange(-(-self.n // batch_size) * batch_size), self.n - 1)
        self._index = jnp.asarray(index.reshape(-1, batch_size), jnp.int32)
        # The sample is an argument: as a constant it would be written into the programs.
        self._jitted_scores, self._jitted_pick = jax.jit(self._scores), jax.jit(self._pick)
        self._jitted_step = jax.jit(self._step)

    def start(self, resume: PickState | None) -> PickState:
        """The state before the first round, or the one to go on from."""
        if resume is None:
            return PickState(
                params=self._first,
                optimizer=self._optimizer.init(self._first),
                picked=jnp.full(self.n, -1, jnp.int32),
                count=jnp.zeros((), jnp.int32),
                round=jnp.zeros((), jnp.int32),
                origin=self._origin,
            )
        if type(resume) is not PickState:
            raise ValueError(f"resume: got {type(resume).__name__}, must be a PickState")
        if resume.origin != self._origin:
            raise ValueError(
                f"resume: got the state of a run with digest {resume.origin}, must be of this "
                f"sample, first network and picking, {self._origin}"
            )
        found, expected = (
            jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), state)
            for state in (resume, self.start(None))
        )
        if found != expected:
            raise ValueError("resume: got the state of another optimizer, must be of the same one")
        return jax.tree.map(jnp.asarray, resume)

    def network(self, state: PickState) -> Any:
        """The whole tree of parameters."""
        return _combine(state.params, self._rest)

    def scores(self, state: PickState) -> tuple[Array, Array]:
        """Margins of the examples not picked that are wrong, ``inf`` of all others; how many."""
        return self._jitted_scores(state, self._sample, self._index)

    def advance(self, state: PickState, scores: Array, left: Array) -> PickState:
        """Pick the worst of the wrong examples, and train on all that are picked.

        The steps are a loop of Python's: on a CPU, XLA runs the derivatives of convolutions inside
        a compiled loop ten times slower.
        """
        picked, count, keys = self._jitted_pick(state, scores, left)
        params, memory = state.params, state.optimizer
        if not self._picking.warm:
            params, memory = self._first, self._optimizer.init(self._first)
        for key in keys:
            params, memory = self._jitted_step(params, memory, self._sample, picked, count, key)
        return PickState(params, memory, picked, count, state.round + 1, state.origin)

    def _scores(self, state: PickState, sample: Any, index: Array) -> tuple[Array, Array]:
        x, y = sample

        def margin(index: Array) -> Array:
            batch = jax.tree.map(lambda a: a[index][None], x)
            arrays = jax.tree.leaves((state.params, batch))
            return margin_of(self._run(*arrays)[0], y[index])

        margins = jax.lax.map(jax.vmap(margin), index).reshape(-1)[: self.n]
        # The unused places of ``picked`` are -1: they are sent beyond the end and dropped.
        places = jnp.where(state.picked < 0, self.n, state.picked)
        picked = jnp.zeros(self.n, bool).at[places].set(True, mode="drop")
        wrong = ~(margins > 0) & ~picked
        worst = jnp.where(jnp.isnan(margins), -jnp.inf, margins)
        return jnp.where(wrong, worst, jnp.inf), jnp.sum(wrong, dtype=jnp.int32)

    def _pick(self, state: PickState, scores: Array, left: Array) -> tuple[Array, Array, Array]:
        """The picked examples, how many they are, and one key per step."""
        more = jnp.floor(self._picking.growth * state.count.astype(jnp.float32)).astype(jnp.int32)
        more = jnp.minimum(jnp.maximum(self._picking.group, more), left)
        order = jnp.argsort(scores, stable=True).astype(jnp.int32)
        place = jnp.arange(self.n, dtype=jnp.int32) - state.count
        new = (place >= 0) & (place < more)
        picked = jnp.where(new, order[jnp.clip(place, 0, self.n - 1)], state.picked)
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(self._picking.seed), state.round), self._picking.steps
        )
        return picked, state.count + more, keys

    def _step(
        self, params: Any, memory: Any, sample: Any, picked: Array, count: Array, key: Array
    ) -> tuple[Any, Any]:
        import optax

        x, y = sample
        draw, noise = jax.random.split(key)
        chosen = jax.random.randint(draw, (self._picking.minibatch,), 0, count, jnp.int32)
        index = picked[chosen]
        batch = jax.tree.map(lambda a: a[index], x)

        def objective(params: Any) -> Array:
            value = self._loss(_combine(params, self._rest), batch, y[index], noise)
            if jnp.shape(value) != ():
                raise ValueError(
                    f"loss: returned an array of shape {jnp.shape(value)}, must be a scalar"
                )
            return value

        updates, memory = self._optimizer.update(jax.grad(objective)(params), memory, params)
        return optax.apply_updates(params, updates), memory


def _cross_entropy(apply: Apply) -> Loss:
    import optax

    def loss(params: Any, x: Any, y: Array, key: Array) -> Array:
        del key
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    return loss


def _partition(params: Any) -> tuple[Any, Any]:
    """The floating point arrays of a tree, and everything else; ``None`` in the other's places."""

    def trained(leaf: Any) -> bool:
        return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)

    first = jax.tree.map(lambda a: jnp.asarray(a) if trained(a) else None, params)
    return first, jax.tree.map(lambda a: None if trained(a) else a, params)


def _combine(trained: Any, rest: Any) -> Any:
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda a: a is None
    )


def _digest(picking: Picking, x: Any, y: np.ndarray, params: Any) -> str:
    digest = hashlib.sha256(repr(picking).encode())
    arrays = [leaf for leaf in jax.tree.leaves(params) if hasattr(leaf, "shape")]
    for leaf in jax.tree.leaves((x, y.astype(int), arrays)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
