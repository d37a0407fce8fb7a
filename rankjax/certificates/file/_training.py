"""Train the integers of a stored network: errors against code length, through rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax.bounds import kl_inverse
from rankjax.certificates._guarantee import check_integer, check_number
from rankjax.certificates.file._format import Slot, StoredArray
from rankjax.certificates.file._quantizer import STEPS_PER_OCTAVE, rate, round_through

_WARM_UP = 0.05  # share of the training in which the learning rate rises from 0
_RAMP = 0.2  # share in which the rate's weight rises from 0
_DECAY = 0.7  # share at the end in which the learning rate falls to 0


@dataclass(frozen=True)
class Schedule:
    """How the integers are trained, and for how long.

    Attributes:
        epochs: passes over the sample.
        batch_size: examples per step.
        learning_rate: of Adam, in steps of the quantizer; constant for the first half of the
            training, while the noise of rounding lets the integers move, then a cosine to 0.
        rate_weight: factor on the weight of the code length; 1 is the exchange rate between errors
            and nats in the certificate. A larger factor helps while training still lowers errors.
        power: q of the loss ``(1 - softmax_y^q) / q`` (Zhang and Sabuncu 2018): 0 is cross-entropy,
            which weights examples that are far from correct most, 1 the expected error of a label
            drawn from the softmax, which ignores them.
        optimizer: an Optax transformation in place of Adam.
        seed: order of the examples.

    Raises:
        ValueError: a field out of range.
    """

    epochs: int = 160
    batch_size: int = 250
    learning_rate: float = 0.05
    rate_weight: float = 1.5
    power: float = 0.7
    optimizer: Any = None
    seed: int = 0

    def __post_init__(self):
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            check_integer(getattr(self, name), f"schedule.{name}", lowest, numpy=True)
        check_number(self.learning_rate, "schedule.learning_rate", 0, above=True)
        check_number(self.rate_weight, "schedule.rate_weight", 0)
        check_number(self.power, "schedule.power", 0, 1)


@dataclass(frozen=True)
class Latent:
    """Real numbers that become a ``StoredArray`` by rounding.

    Attributes:
        exponent: of the step, in units of octaves.
        factors: in units of the step, shaped as ``StoredArray.symbols``.
    """

    exponent: Any
    factors: tuple[Any, ...]

    def rounded(self) -> StoredArray:
        """The rounded numbers."""
        exponent = round(STEPS_PER_OCTAVE * float(self.exponent))
        symbols = tuple(np.rint(np.asarray(f, np.float64)).astype(np.int64) for f in self.factors)
        return StoredArray(exponent, symbols)

    def stored(self, slot: Slot) -> StoredArray:
        """The rounded numbers in their shortest form."""
        return self.rounded().simplified(slot)


jax.tree_util.register_dataclass(Latent, ["exponent", "factors"], [])


_slopes = jax.jit(jax.grad(kl_inverse, (0, 1)))


def exchange_rate(error: float, nats: float, n: int, delta: float) -> float:
    """How much more error one nat is worth: the certificate's derivatives in both, divided."""
    q = jnp.asarray(min(max(error, 1 / n), 0.5), jnp.float32)
    budget = jnp.asarray((nats + math.log(1 / delta)) / n, jnp.float32)
    by_error, by_budget = _slopes(q, budget)
    return float(by_budget / by_error) / n


def train(
    slots: tuple[Slot, ...],
    references: list[np.ndarray],
    latents: list[Latent],
    apply: Callable[[list[Array], Any], Array],
    x: Any,
    y: np.ndarray,
    *,
    delta: float,
    schedule: Schedule,
    learn_steps: bool,
    consider: Callable[[list[StoredArray]], tuple[float, float]],
) -> None:
    """Train, and hand the rounded network over after every epoch.

    The loss is that of ``schedule.power`` for the logits times a learned temperature (which is not
    part of the network: it changes no decision) plus a weight times ``rate``. The weight follows
    the certificate: its exchange rate of errors and nats at the network as it is, in units of the
    loss through its present ratio to the error.

    Args:
        slots: the arrays.
        references: what they are counted from.
        latents: the start.
        apply: ``apply(arrays, x) -> logits``, the arrays in the order of ``slots``.
        x: inputs, the leading axis is the example's.
        y: labels.
        delta: confidence of the certificate.
        schedule: how long and how.
        learn_steps: whether the steps are trained too.
        consider: takes a rounded network, returns its error on the sample and its nats.
    """
    import optax

    n, size = len(y), min(schedule.batch_size, len(y))
    per_epoch = n // size
    steps = per_epoch * schedule.epochs
    optimizer = schedule.optimizer
    if optimizer is None:
        optimizer = optax.adam(partial(_rate_at, schedule.learning_rate, steps), b2=0.99)
    fixed = [jnp.asarray(r) for r in references]

    def loss(trained, batch_x, batch_y, weight):
        latents, temperature = trained
        arrays = [
            _through(slot, latent, reference, learn_steps)
            for slot, latent, reference in zip(slots, latents, fixed, strict=True)
        ]
        logits = apply(arrays, batch_x)
        logits = logits * jnp.exp(temperature).astype(logits.dtype)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch_y)
        if schedule.power:
            entropy = -jnp.expm1(-schedule.power * entropy) / schedule.power
        cost = entropy.mean()
        nats = sum(
            (rate(f) for latent in latents for f in latent.factors), jnp.zeros((), jnp.float32)
        )
        return cost + weight.astype(cost.dtype) * nats.astype(cost.dtype), cost

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch(trained, state, x, y, order, weights):
        def step(carry, item):
            trained, state = carry
            index, weight = item
            gradient, cost = jax.grad(loss, has_aux=True)(
                trained, jax.tree.map(lambda a: a[index], x), y[index], weight
            )
            updates, state = optimizer.update(gradient, state, trained)
            return (optax.apply_updates(trained, updates), state), cost

        (trained, state), costs = jax.lax.scan(step, (trained, state), (order, weights))
        return trained, state, jnp.mean(costs)

    rng = np.random.default_rng(schedule.seed)
    trained = jax.tree.map(jnp.asarray, (latents, np.zeros((), np.float32)))
    state = optimizer.init(trained)
    x_device, y_device = jax.tree.map(jnp.asarray, x), jnp.asarray(y)
    weight = 0.0
    for number in range(schedule.epochs):
        order = rng.permutation(n)[: per_epoch * size].reshape(per_epoch, size)
        done = (number * per_epoch + np.arange(per_epoch)) / steps
        weights = (weight * np.minimum(done / _RAMP, 1)).astype(np.float32)
        trained, state, cost = epoch(trained, state, x_device, y_device, order, weights)
        rounded = [latent.stored(slot) for latent, slot in zip(trained[0], slots, strict=True)]
        error, nats = consider(rounded)
        per_error = float(cost) / max(error, 1 / n)
        weight = schedule.rate_weight * per_error * exchange_rate(error, nats, n, delta)


def _rate_at(peak: float, steps: int, step: Any) -> Array:
    """Up to the peak, there for half of the training, down to 0 along a cosine."""
    done = jnp.asarray(step, jnp.float32) / steps
    left = jnp.clip((1 - done) / _DECAY, 0, 1)
    return peak * jnp.minimum(done / _WARM_UP, 0.5 - 0.5 * jnp.cos(jnp.pi * left))


def _through(slot: Slot, latent: Latent, reference: Array, learn_steps: bool) -> Array:
    """The array that the latent numbers stand for, differentiable in them."""
    if not latent.factors:
        return reference
    factors = [round_through(f) for f in latent.factors]
    if len(factors) == 2:
        assert slot.layer is not None
        moved = slot.layer.leaf(factors[0] @ factors[1])
    else:
        moved = factors[0]
    exponent = latent.exponent if learn_steps else jax.lax.stop_gradient(latent.exponent)
    step = jnp.exp2(round_through(STEPS_PER_OCTAVE * exponent) / STEPS_PER_OCTAVE)
    return reference + (moved * step).astype(reference.dtype)
