"""How long the table of all bounds takes for a 784-1000-1000-1000-1000-10 network on MNIST's size.

python benchmarks/compare_time.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results import headline, write_results

from rankjax.bounds import compare
from rankjax.network import Sample, describe, measure

SIZES = (784, 1000, 1000, 1000, 1000, 10)
REPEATS = 5


def apply(params: Any, x: jax.Array) -> jax.Array:
    for i in range(len(SIZES) - 1):
        x = x @ params[f"layer{i}"]["kernel"]
        x = jax.nn.relu(x) if i < len(SIZES) - 2 else x
    return x


def timed(call: Callable[[], Any]) -> tuple[float, float, float]:
    """First call (with compilation), then median and spread of the following ones."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:]), max(seconds[1:]) - min(seconds[1:])


def main() -> None:
    keys = jax.random.split(jax.random.key(0), len(SIZES) - 1)
    params = {
        f"layer{i}": {"kernel": jax.random.normal(k, (a, b)) / a**0.5}
        for i, (k, a, b) in enumerate(zip(keys, SIZES[:-1], SIZES[1:], strict=True))
    }
    x = np.random.default_rng(0).random((60000, 784), np.float32)
    y = np.asarray(jnp.concatenate([jnp.argmax(apply(params, x[i : i + 5000]), -1)
                                    for i in range(0, 60000, 5000)]))  # fmt: skip
    structure = describe(params, apply=apply, example=x[:1])
    sample = Sample.from_data(structure, params, x, y, apply=apply)
    calls = {
        "measure (the singular values)": lambda: measure(structure, params),
        "compare, sample measured before": lambda: (
            compare(structure, params, sample=sample).results
        ),
        "Sample.from_data, 60000 examples": lambda: Sample.from_data(
            structure, params, x, y, apply=apply
        ),
        "compare from data, all of it": lambda: (
            compare(structure, params, x, y, apply=apply).results
        ),
    }
    print(f"{headline()}, float32, {REPEATS} runs\n")
    print("| what | first call, with compilation (s) | median (s) | spread (s) |")
    print("|---|--:|--:|--:|")
    rows = []
    for name, call in calls.items():
        first, median, spread = timed(call)
        print(f"| {name} | {first:.2f} | {median:.2f} | {spread:.2f} |", flush=True)
        rows.append({"what": name, "first": first, "median": median, "spread": spread})
    write_results(rows)


if __name__ == "__main__":
    main()
