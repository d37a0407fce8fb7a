"""Certificates on full MNIST: what can be promised of trained networks, with every constant.

For each architecture and seed, six routes to a guarantee at delta = 0.01, from the 60000 training
images alone (each pooled and scaled to norm 1 by itself; nothing else is fitted):

- ``plain``, ``weight decay``, ``certificate``: three ways to train, certified by ``certify``: the
  statement is about the trained network itself;
- ``the file``: the plainly trained network, trained on as integers by ``compress``: the statement
  is about the integers as they are stored (section "compressed" of the docs);
- ``near a file``: the integers, trained on as real numbers close to them, certified by
  ``certify_near``: the statement is about the real network;
- ``Gaussian``: ``pac_bayes_gaussian`` around the certificate-trained network: the statement is
  about the network with noise on its weights. Its prior is centred at 0.

    python benchmarks/certificates.py                     # about an hour on 2 cores
    python benchmarks/certificates.py --seeds 0 --architectures cnn
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import headline, write_results

from examples.certify_training import (
    MLP_SETTINGS,
    ROUTES,
    Settings,
    Task,
    error_of,
    make_task,
    train,
)
from examples.datasets import load_mnist
from rankjax.bounds import pac_bayes_gaussian
from rankjax.certificates import Schedule, certify, certify_near, compress, verify, verify_near
from rankjax.network import Perturbed, Sample, measure

ARCHITECTURES = {
    "mlp 49-16-10": MLP_SETTINGS,
    "cnn 5, 6": Settings(),
    "cnn 4, 6": Settings(sizes=(4, 6)),
}
NOISE = tuple(float(s) for s in np.geomspace(0.003, 0.3, 9))


def stay_near(task: Task, params: Any, settings: Settings) -> Any:
    """Train the real numbers on for an epoch, with steps so small that they stay close.

    The distances are coded by their logarithms, so tiny ones cost no more than large ones, but a
    large one moves the margins that are counted.
    """
    optimizer = optax.sgd(1e-6)

    def loss(params, x, y):
        logits = task.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def epoch(params, index):
        def step(carry, chosen):
            params, state = carry
            slopes = jax.grad(loss)(params, task.x[chosen], task.y[chosen])
            moves, state = optimizer.update(slopes, state)
            return (optax.apply_updates(params, moves), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), index)[0][0]

    order = np.random.default_rng(settings.seed).permutation(len(task.x))
    size = settings.batch_size
    index = order[: len(order) // size * size].reshape(-1, size)
    return epoch(params, jnp.asarray(index))


def gaussian_row(task: Task, params: Any, x, y, tried: int, record) -> None:
    started = time.perf_counter()
    noise = Perturbed.from_data(params, x, y, apply=task.apply, scales=NOISE)
    gaussian = pac_bayes_gaussian(
        measure(task.structure, params), Sample.of_size(len(x)), perturbed=noise, delta=0.01 / tried
    )
    noisy = float(gaussian.terms["empirical_error"])
    record("Gaussian", params, float(gaussian.value), noisy, float(gaussian.terms["kl"]), started)


def run(
    name: str, settings: Settings, data, tried: int, epochs: int, routes: set[str]
) -> list[dict[str, Any]]:
    task = make_task(data, settings)
    x, y = np.asarray(task.x), np.asarray(task.y)
    rows = []

    def record(route, params, value, counted, nats, started):
        rows.append(
            {
                "architecture": name,
                "weights": sum(a.size for a in jax.tree.leaves(task.initial)),
                "seed": settings.seed,
                "route": route,
                "train error": error_of(params, task.x, task.y, apply=task.apply),
                "test error": error_of(params, task.x_test, task.y_test, apply=task.apply),
                "counted": counted,
                "nats": nats,
                "true error at most": value,
                "seconds": time.perf_counter() - started,
            }
        )
        print(line(rows[-1]), flush=True)

    params, plain = task.initial, None
    for route in (route for route in ROUTES if route in routes):
        started = time.perf_counter()
        params = train(task, route, settings)
        plain = params if route == "plain" else plain
        found = certify(task.structure, params, x, y, apply=task.apply, tried=tried)
        verify(found, task.structure, params, x, y, apply=task.apply)
        record(route, params, found.value, found.empirical, found.nats, started)

    if "Gaussian" in routes:
        gaussian_row(task, params, x, y, tried, record)
    if "file" not in routes:
        return rows
    started = time.perf_counter()
    plain = train(task, "plain", settings) if plain is None else plain
    schedule = Schedule(epochs=epochs, seed=settings.seed)
    stored = compress(task.structure, plain, x, y, apply=task.apply, schedule=schedule)
    of_file = stored.certificate(task.apply, x, y, tried=tried)
    record("the file", stored.params, of_file.value, of_file.empirical, of_file.nats, started)

    started = time.perf_counter()
    close = stay_near(task, stored.params, settings)
    near = certify_near(task.structure, close, x, y, apply=task.apply, neighbor=stored, tried=tried)
    verify_near(near, task.structure, close, x, y, apply=task.apply, neighbor=stored)
    record("near a file", close, near.value, near.empirical, near.nats, started)
    return rows


COLUMNS = ("architecture", "weights", "seed", "route", "train error", "test error", "counted",
           "nats", "true error at most", "seconds")  # fmt: skip


def line(row: dict[str, Any]) -> str:
    cells = [
        f"{row[c]:.4f}" if isinstance(row[c], float) and c not in {"nats", "seconds"}
        else f"{row[c]:.0f}" if isinstance(row[c], float) else str(row[c])
        for c in COLUMNS
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architectures", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--routes", nargs="+", choices=(*ROUTES, "Gaussian", "file"),
                        default=(*ROUTES, "Gaussian", "file"))  # fmt: skip
    parser.add_argument("--file-epochs", type=int, default=160, help="of the integers' training")
    parser.add_argument("--tried", type=int, default=16, help="architectures tried on this sample")
    options = parser.parse_args()
    data = load_mnist()
    print(
        f"{headline()}; {len(data.x_train)} examples, "
        f"delta 0.01, log {options.tried} = {math.log(options.tried):.1f} nats for what was tried\n"
    )
    print("| " + " | ".join(COLUMNS) + " |\n|---|--:|--:|---|" + "--:|" * (len(COLUMNS) - 4))
    rows = []
    for name, settings in ARCHITECTURES.items():
        if any(name.startswith(wanted) for wanted in options.architectures):
            for seed in options.seeds:
                chosen = replace(settings, seed=seed)
                rows += run(
                    name, chosen, data, options.tried, options.file_epochs, set(options.routes)
                )
                write_results(rows)  # of what there is so far


if __name__ == "__main__":
    main()
