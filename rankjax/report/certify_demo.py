"""Train the same network plainly, with weight decay and for its certificate, and certify each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from rankjax.certificates import Recursion, certify, surrogate, trace_recursion, verify
from rankjax.matrix import spectral_norm
from rankjax.network import Structure, describe
from rankjax.report.datasets import Dataset
from rankjax.training import proximal_schatten

Progress = Callable[[str, int, int, str], None]  # (run, epoch, epochs, message)
ROUTES = ("plain", "weight decay", "certificate")


@dataclass(frozen=True)
class Settings:
    """What the demo trains; every number is printed with the results.

    Attributes:
        architecture: ``"cnn"`` or ``"mlp"``.
        sizes: channels of the two convolutions, or units of the hidden layer.
        pool: images are averaged over squares of this many pixels.
        epochs: passes over the training set, the same for every route.
        batch_size: examples a step.
        learning_rate: peak of Adam's cosine schedule.
        weight_decay: of AdamW, on the route of that name.
        warm_up: share of the certificate route that trains normalised logits before the surrogate.
        logit_temperature: of the logits over the product of spectral norms, while warming up.
        temperature: of the surrogate.
        precision: bits it starts from, trained along.
        low_rank: strength of the proximal steps towards low rank (p = 1/2) during the first half of
            the certificate route; 0: none.
        delta: of the certificates.
        seed: initialisation and order of the examples.
    """

    architecture: str = "cnn"
    sizes: tuple[int, ...] = (5, 6)
    pool: int = 2
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    warm_up: float = 0.3
    logit_temperature: float = 0.005
    temperature: float = 0.001
    precision: float = 12.0
    low_rank: float = 0.0
    delta: float = 0.01
    seed: int = 0


MLP_SETTINGS = Settings(
    architecture="mlp", sizes=(16,), pool=4, logit_temperature=0.03, temperature=0.01
)


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


def normalised(images: np.ndarray, pool: int) -> np.ndarray:
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
    recursion: Recursion
    x: jax.Array
    y: jax.Array
    x_test: jax.Array
    y_test: jax.Array


def make_task(data: Dataset, settings: Settings) -> Task:
    """The network of the settings on normalised images."""
    x, x_test = (normalised(images, settings.pool) for images in (data.x_train, data.x_test))
    make = {"cnn": CNN, "mlp": MLP}[settings.architecture]
    model = make(x.shape[1:], settings.sizes, data.classes, nnx.Rngs(settings.seed))
    graph, initial = nnx.split(model)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(x)

    structure = describe(initial, apply=apply, example=x[:1])
    recursion = trace_recursion(apply, initial, x[:1])
    arrays = (jnp.asarray(a) for a in (x, data.y_train, x_test, data.y_test))
    return Task(apply, initial, structure, recursion, *arrays)


def train(task: Task, route: str, settings: Settings, progress: Progress | None = None) -> Any:
    """Train on one of ``ROUTES``; the parameters.

    The certificate route first trains the cross-entropy of the logits over the product of the
    spectral norms (a margin that no scaling changes), then the surrogate, whose precisions are
    trained along.
    """
    per_epoch = len(task.x) // settings.batch_size
    steps = settings.epochs * per_epoch
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps)
    warm = round(settings.warm_up * settings.epochs)
    decay = settings.weight_decay if route == "weight decay" else 0.0
    optimizer = optax.adamw(rate, weight_decay=decay)
    if route == "certificate" and settings.low_rank:
        strength = optax.linear_schedule(settings.low_rank, 0.0, steps // 2)
        lowered = proximal_schatten(task.structure, strength, p=0.5, every=50)
        optimizer = optax.chain(optimizer, lowered)

    def entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def plain(state: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return entropy(task.apply(state["params"], x), y)

    def scale_free(state: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        layers = task.structure.layers(state["params"])
        product = jnp.prod(jnp.stack([jnp.max(spectral_norm(a)) for a in layers]))
        logits = task.apply(state["params"], x) / product
        return entropy(logits / settings.logit_temperature, y)

    def certified(state: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return surrogate(
            task.structure, task.recursion, state["params"], x, y, apply=task.apply,
            precision=state["precision"], n=len(task.x), delta=settings.delta,
            temperature=settings.temperature,
        ).value  # fmt: skip

    coded = (*task.recursion.matrices, *task.recursion.biases)
    bits = dict.fromkeys(coded, jnp.asarray(settings.precision))
    state = {"params": task.initial, "precision": bits}
    # Bits are numbers of the order of ten, weights of the order of a tenth.
    of_bits = optax.adam(lambda step: 50 * rate(step))
    memory = (optimizer.init(state["params"]), of_bits.init(bits))

    def epoch_of(loss: Callable[..., jax.Array]) -> Callable[..., Any]:
        def step(carry: Any, chosen: jax.Array) -> Any:
            state, (first, second) = carry
            slopes = jax.grad(loss)(state, task.x[chosen], task.y[chosen])
            moves, first = optimizer.update(slopes["params"], first, state["params"])
            more, second = of_bits.update(slopes["precision"], second)
            state = optax.apply_updates(state, {"params": moves, "precision": more})
            return (state, (first, second)), None

        return jax.jit(lambda carry, index: jax.lax.scan(step, carry, index)[0])

    first = epoch_of(scale_free if route == "certificate" else plain)
    second = epoch_of(certified) if route == "certificate" else first
    rng = np.random.default_rng(settings.seed)
    for number in range(settings.epochs):
        order = rng.permutation(len(task.x))[: per_epoch * settings.batch_size]
        index = jnp.asarray(order.reshape(per_epoch, settings.batch_size))
        state, memory = (first if number < warm else second)((state, memory), index)
        if progress:
            wrong = error_of(task.apply, state["params"], task.x_test, task.y_test)
            progress(route, number + 1, settings.epochs, f"test error {wrong:.2%}")
    return state["params"]


@partial(jax.jit, static_argnames="apply")
def _share_wrong(apply: Callable[..., jax.Array], params: Any, x: jax.Array, y: jax.Array):
    return jnp.mean(jnp.argmax(apply(params, x), axis=1) != y)


def error_of(apply: Callable[..., jax.Array], params: Any, x: jax.Array, y: jax.Array) -> float:
    """Share of misclassified examples."""
    return float(_share_wrong(apply, params, x, y))


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
                "train_error": error_of(task.apply, params, task.x, task.y),
                "test_error": error_of(task.apply, params, task.x_test, task.y_test),
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
