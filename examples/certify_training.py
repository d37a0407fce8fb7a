"""Train the same network plainly, with weight decay and for its certificate, and certify each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples.datasets import Dataset
from rankjax.certificates import Network, certify, surrogate, trace_network, verify
from rankjax.network import Structure, describe
from rankjax.training import proximal_schatten

Progress = Callable[[str, int, int, str], None]  # (run, epoch, epochs, message)
ROUTES = ("plain", "weight decay", "certificate")
_BITS_RATE = 0.25  # bits are numbers of the order of ten: they move at a rate of their own


@dataclass(frozen=True)
class Settings:
    """What the demo trains; every number is printed with the results.

    Attributes:
        architecture: ``"cnn"`` or ``"mlp"``.
        sizes: channels of the two convolutions, or units of the hidden layer.
        pool: images are averaged over squares of this many pixels.
        epochs: passes over the training set, the same for every route.
        batch_size: examples per step.
        learning_rate: peak of Adam's cosine schedule; high, since the inputs have norm 1.
        weight_decay: of AdamW, on the route of that name.
        warm_up: share of the certificate route that trains the cross-entropy before the surrogate.
        surrogate_rate: peak of Adam's cosine schedule for the surrogate.
        temperature: of the surrogate.
        precision: bits it starts from, trained along.
        low_rank: strength of the proximal steps towards low rank (p = 1/2) during the first half of
            the certificate route; 0: none.
        delta: of the certificates.
        seed: initialization and order of the examples.
    """

    architecture: str = "cnn"
    sizes: tuple[int, ...] = (5, 6)
    pool: int = 2
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 0.1
    weight_decay: float = 0.003
    warm_up: float = 0.5
    surrogate_rate: float = 0.06
    temperature: float = 0.0004
    precision: float = 12.0
    low_rank: float = 0.0
    delta: float = 0.01
    seed: int = 0


MLP_SETTINGS = Settings(
    architecture="mlp", sizes=(16,), pool=4, learning_rate=0.03, warm_up=0.05, surrogate_rate=0.03,
    temperature=0.005,
)  # fmt: skip


def small_settings(data: Dataset, seed: int) -> Settings:
    """A network of one hidden layer for these images, trained in seconds."""
    if data.name == "digits":  # few examples pay for few weights
        return replace(
            MLP_SETTINGS, seed=seed, sizes=(8,), pool=2, epochs=60, batch_size=64, warm_up=0.2
        )
    return replace(MLP_SETTINGS, seed=seed)


class CNN(nnx.Module):
    """Two 3x3 convolutions, each followed by ReLU and average pooling, and one dense layer."""

    def __init__(
        self, shape: tuple[int, ...], sizes: tuple[int, ...], classes: int, rngs: nnx.Rngs
    ):
        conv = partial(nnx.Conv, kernel_size=(3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.first, self.second = conv(1, sizes[0]), conv(sizes[0], sizes[1])
        side = ((shape[0] - 2) // 2 - 2) // 2
        self.last = nnx.Linear(side * side * sizes[1], classes, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of images ``(batch, height, width, 1)``."""
        for layer in (self.first, self.second):
            x = nnx.avg_pool(nnx.relu(layer(x)), (2, 2), (2, 2))
        return self.last(x.reshape(len(x), -1))


class MLP(nnx.Module):
    """One hidden ReLU layer on flattened images."""

    def __init__(
        self, shape: tuple[int, ...], sizes: tuple[int, ...], classes: int, rngs: nnx.Rngs
    ):
        self.hidden = nnx.Linear(int(np.prod(shape)), sizes[0], use_bias=False, rngs=rngs)
        self.last = nnx.Linear(sizes[0], classes, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of images ``(batch, ...)``."""
        return self.last(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def normalized(images: np.ndarray, pool: int) -> np.ndarray:
    """Images averaged over squares and scaled to norm 1, each by itself: nothing is fitted."""
    n, height, width, channels = images.shape
    shape = (n, height // pool, pool, width // pool, pool, channels)
    small = images[:, : height // pool * pool, : width // pool * pool].reshape(shape).mean((2, 4))
    norms = np.sqrt(np.sum(small**2, axis=(1, 2, 3), keepdims=True))
    return (small / np.maximum(norms, 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Task:
    """A network and data to train it on."""

    apply: Callable[[Any, Any], jax.Array]
    initial: Any
    structure: Structure
    network: Network
    x: jax.Array
    y: jax.Array
    x_test: jax.Array
    y_test: jax.Array


def make_task(data: Dataset, settings: Settings) -> Task:
    """The network of the settings on normalized images."""
    x, x_test = (normalized(images, settings.pool) for images in (data.x_train, data.x_test))
    make = {"cnn": CNN, "mlp": MLP}[settings.architecture]
    model = make(x.shape[1:], settings.sizes, data.classes, nnx.Rngs(settings.seed))
    graph, initial = nnx.split(model)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)

    structure = describe(initial, apply=apply, example=x[:1])
    network = trace_network(initial, x[:1], apply=apply)
    arrays = (jnp.asarray(a) for a in (x, data.y_train, x_test, data.y_test))
    return Task(apply, initial, structure, network, *arrays)


def train(task: Task, route: str, settings: Settings, progress: Progress | None = None) -> Any:
    """Train on one of ``ROUTES``; the parameters.

    The certificate route trains the cross-entropy first, then the surrogate, whose precisions are
    trained along; optionally with proximal steps towards low rank before.
    """
    per_epoch = len(task.x) // settings.batch_size
    warm = settings.epochs
    if route == "certificate":
        warm = round(settings.warm_up * settings.epochs)
    bits = dict.fromkeys(task.network.leaves.paths, jnp.asarray(settings.precision))

    def entropy(params: Any, bits: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        del bits
        logits = task.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def certified(params: Any, bits: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return surrogate(
            task.network, params, x, y, precision=bits, n=len(task.x), delta=settings.delta,
            temperature=settings.temperature,
        ).value  # fmt: skip

    def optimizer(peak: float, epochs: int, decay: float = 0.0) -> optax.GradientTransformation:
        return optax.adamw(
            optax.cosine_decay_schedule(peak, max(epochs, 1) * per_epoch), weight_decay=decay
        )

    decay = settings.weight_decay if route == "weight decay" else 0.0
    first = optimizer(settings.learning_rate, warm, decay)
    if route == "certificate" and settings.low_rank:
        strength = optax.linear_schedule(settings.low_rank, 0.0, max(warm, 1) * per_epoch)
        first = optax.chain(first, proximal_schatten(task.structure, strength, p=0.5, every=50))
    second = optimizer(settings.surrogate_rate, settings.epochs - warm)
    of_bits = optimizer(_BITS_RATE, settings.epochs - warm)
    phases = [
        (_epoch_of(task, entropy, first, optax.set_to_zero()), first, optax.set_to_zero(), warm),
        (_epoch_of(task, certified, second, of_bits), second, of_bits, settings.epochs - warm),
    ]
    rng = np.random.default_rng(settings.seed)
    params, done = task.initial, 0
    for epoch, of_params, of_bits, epochs in phases:
        state = (of_params.init(params), of_bits.init(bits))
        for _ in range(epochs):
            order = rng.permutation(len(task.x))[: per_epoch * settings.batch_size]
            index = jnp.asarray(order.reshape(per_epoch, settings.batch_size))
            (params, bits), state = epoch((params, bits), state, index)
            done += 1
            if progress:
                wrong = error_of(params, task.x_test, task.y_test, apply=task.apply)
                progress(route, done, settings.epochs, f"test error {wrong:.2%}")
    return params


def _epoch_of(
    task: Task,
    loss: Callable[..., jax.Array],
    of_params: optax.GradientTransformation,
    of_bits: optax.GradientTransformation,
) -> Callable[..., Any]:
    def step(carry: Any, chosen: jax.Array) -> Any:
        (params, bits), (first, second) = carry
        slopes, more = jax.grad(loss, argnums=(0, 1))(params, bits, task.x[chosen], task.y[chosen])
        moves, first = of_params.update(slopes, first, params)
        more, second = of_bits.update(more, second, bits)
        moved = optax.apply_updates(params, moves), optax.apply_updates(bits, more)
        return (moved, (first, second)), None

    return jax.jit(lambda weights, state, index: jax.lax.scan(step, (weights, state), index)[0])


@partial(jax.jit, static_argnames="apply")
def _share_wrong(params: Any, x: jax.Array, y: jax.Array, *, apply: Callable[..., jax.Array]):
    return jnp.mean(jnp.argmax(apply(params, x), axis=1) != y)


def error_of(params: Any, x: jax.Array, y: jax.Array, *, apply: Callable[..., jax.Array]) -> float:
    """Share of misclassified examples."""
    return float(_share_wrong(params, x, y, apply=apply))


def run_certify_demo(
    data: Dataset, settings: Settings, progress: Progress | None = None
) -> dict[str, Any]:
    """Train on every route and certify each network on the sample it was trained on.

    Returns:
        A JSON-able dictionary: ``dataset``, ``settings``, ``structure`` (as printed) and
        ``routes``, each with errors, seconds, the certificate as text and as JSON.
    """
    task = make_task(data, settings)
    x, y = np.asarray(task.x), np.asarray(task.y)
    routes = []
    for route in ROUTES:
        started = time.perf_counter()
        params = train(task, route, settings, progress)
        trained = time.perf_counter()
        found = certify(task.structure, params, x, y, apply=task.apply, delta=settings.delta)
        certified = time.perf_counter()
        verify(found, task.structure, params, x, y, apply=task.apply)
        routes.append(
            {
                "route": route,
                "train_error": error_of(params, task.x, task.y, apply=task.apply),
                "test_error": error_of(params, task.x_test, task.y_test, apply=task.apply),
                "certificate": found.value,
                "counted_error": found.empirical,
                "nats": found.nats,
                "seconds": trained - started,
                "certify_seconds": certified - trained,
                "text": str(found),
                "json": found.to_json(),
            }
        )
    return {
        "dataset": data.name,
        "examples": {"train": len(x), "test": len(task.x_test)},
        "settings": asdict(settings),
        "parameters": sum(a.size for a in jax.tree.leaves(task.initial)),
        "structure": str(task.structure),
        "routes": routes,
    }
