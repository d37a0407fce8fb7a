"""One network trained twice on real images: plainly, and with the bound as a loss term."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples.datasets import Dataset
from examples.demo_small import shrink
from rankjax.bounds import rank_sparse
from rankjax.matrix import spectrum
from rankjax.network import Sample, Structure, describe, measure
from rankjax.training import rank_sparse_penalty

Progress = Callable[[str, int, int, str], None]  # (run, step, steps, message)


@dataclass(frozen=True)
class Settings:
    """What the demo trains; every number is printed with the results.

    Attributes:
        width: units of each of the two hidden layers.
        epochs: passes over the training set, the same for both runs.
        batch_size: examples per step.
        learning_rate: peak of Adam's cosine schedule.
        weight: factor of ``log bound`` in the loss of the regularized run.
        p: Schatten exponent of that loss term.
        eps: its smoothing, relative to each layer's spectral norm.
        gamma: its margin (a factor of the bound, so it does not change this loss's gradient).
        seed: initialization and order of the examples.
        record_every: steps between two records of the curves.
    """

    width: int = 256
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight: float = 0.5
    p: float = 0.3
    eps: float = 3e-3
    gamma: float = 1.0
    seed: int = 0
    record_every: int = 100


QUICK = Settings(width=64, epochs=100, batch_size=128, weight=1.0, record_every=100)


@dataclass
class Run:
    """What one training run left: its curves and its final measurements (plain numbers)."""

    name: str
    seconds: float = 0.0
    steps: list[int] = field(default_factory=list)
    bound_curve: list[float] = field(default_factory=list)
    soft_rank_curve: list[list[float]] = field(default_factory=list)
    test_error_curve: list[float] = field(default_factory=list)
    train_error: float = 0.0
    test_error: float = 0.0
    margin: float = 0.0
    layers: list[dict[str, Any]] = field(default_factory=list)
    bounds: dict[str, dict[str, Any]] = field(default_factory=dict)


class MLP(nnx.Module):
    """Two hidden ReLU layers on flattened images."""

    def __init__(self, inputs: int, width: int, classes: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(inputs, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.last = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``(batch, classes)`` of images ``(batch, ...)``."""
        x = x.reshape(x.shape[0], -1)
        return self.last(nnx.relu(self.second(nnx.relu(self.first(x)))))


def run_demo(
    data: Dataset, settings: Settings, progress: Progress | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train plainly and with the bound, and measure both.

    Returns:
        A JSON-able dictionary: ``settings``, ``dataset``, ``structure`` (as printed), ``runs``, and
        what they become when they are cut, ``small``; and the trained parameters by the name of the
        run.
    """
    pixels = int(np.prod(data.x_train.shape[1:]))
    model = MLP(pixels, settings.width, data.classes, rngs=nnx.Rngs(settings.seed))
    graph, initial = nnx.split(model)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)

    structure = describe(initial, apply=apply, example=data.x_train[:1])
    runs, trained, small = [], {}, {}
    for name, weight in (("plain", 0.0), ("rank-sparse", settings.weight)):
        run, trained[name] = _train(
            name, weight, data, settings, structure, initial, progress, apply=apply
        )
        runs.append(run)
        small[name] = shrink(structure, trained[name], data, apply=apply)
    results = {
        "dataset": data.name,
        "examples": {"train": len(data.x_train), "test": len(data.x_test)},
        "settings": asdict(settings),
        "structure": str(structure),
        "runs": [asdict(run) for run in runs],
        "small": small,
    }
    return results, trained


def _train(
    name: str,
    weight: float,
    data: Dataset,
    settings: Settings,
    structure: Structure,
    params: Any,
    progress: Progress | None,
    *,
    apply: Callable[[Any, Any], jax.Array],
) -> tuple[Run, Any]:
    n = len(data.x_train)
    per_epoch = n // settings.batch_size
    steps = settings.epochs * per_epoch
    optimizer = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    known = Sample.of_size(n, radius=_largest_norm(data.x_train))

    penalty = partial(
        rank_sparse_penalty, structure, p=settings.p, gamma=settings.gamma, eps=settings.eps
    )

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        entropy = optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()
        return entropy + penalty(params, known, weight=weight) if weight else entropy

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def record(params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        measured = measure(structure, params)
        bound = rank_sparse(measured, known, p=settings.p, gamma=settings.gamma)
        soft = measured.soft_rank(settings.p)
        wrong = jnp.argmax(apply(params, jnp.asarray(data.x_test)), -1) != data.y_test
        return bound.value, soft, jnp.mean(wrong)

    run = Run(name)
    params = jax.tree.map(jnp.copy, params)  # the first step donates its input
    state = optimizer.init(params)
    started = time.perf_counter()
    batches = _batches(n, settings)
    for number in range(steps + 1):
        if number % settings.record_every == 0 or number == steps:
            bound, soft, error = record(params)
            run.steps.append(number)
            run.bound_curve.append(float(bound))
            run.soft_rank_curve.append([float(r) for r in soft])
            run.test_error_curve.append(float(error))
            if progress:
                message = f"test error {error:.2%}, bound term {bound:.3g}"
                progress(name, number, steps, message)
        if number < steps:
            index = next(batches)
            params, state = step(params, state, data.x_train[index], data.y_train[index])
    jax.block_until_ready(params)
    run.seconds = time.perf_counter() - started
    _final_measurements(run, data, settings, structure, params, apply=apply)
    return run, params


def _final_measurements(
    run: Run,
    data: Dataset,
    settings: Settings,
    structure: Structure,
    params: Any,
    *,
    apply: Callable[[Any, Any], jax.Array],
) -> None:
    train = Sample.from_data(structure, params, data.x_train, data.y_train, apply=apply)
    test = Sample.from_data(structure, params, data.x_test, data.y_test, apply=apply)
    measured = measure(structure, params)
    run.train_error, run.test_error = float(train.error()), float(test.error())
    run.margin = float(train.margin_at(0.01))
    for name in structure.names:
        one = measured[name]
        run.layers.append(
            {
                "name": name,
                "shape": list(one.layer.matrix_shape),
                "numerical_rank": int(spectrum.numerical_rank(one.sigma, rtol=1e-3)),
                "stable_rank": float(spectrum.stable_rank(one.sigma)),
                "soft_rank": float(spectrum.soft_rank(one.sigma, p=settings.p)),
                "spectral_norm": float(one.spectral_norm),
                "singular_values": [float(v) for v in one.sigma],
            }
        )
    for key, options in {
        "fixed p": {"p": settings.p},
        "optimal p": {},
        "optimal p, augmented": {"form": "augmented"},
    }.items():
        bound = rank_sparse(measured, train, **options)
        run.bounds[key] = {
            "value": float(bound.value),
            "kind": bound.kind,
            "source": bound.source,
            "p": [float(p) for p in bound.terms["p"]],
            "per_layer": [float(v) for v in bound.per_layer],
        }


def _largest_norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.max(np.sum(np.square(x.reshape(len(x), -1)), axis=1))))


def _batches(n: int, settings: Settings) -> Iterator[np.ndarray]:
    """Endless shuffled index batches; the incomplete one at the end of an epoch is dropped."""
    rng = np.random.default_rng(settings.seed)
    while True:
        order = rng.permutation(n)
        for start in range(0, n - settings.batch_size + 1, settings.batch_size):
            yield order[start : start + settings.batch_size]
