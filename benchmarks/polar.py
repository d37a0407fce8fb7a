"""The polar factor, and nuclear decay after the step: time and what is left to the exact results.

    python benchmarks/polar.py [--repeats 15] [--sizes 256 512 1024]

One row per size and way, float32, Gaussian matrices; the ways of a size are called in turns.

- ``polar``: ``rankjax.matrix.polar`` with ``eps = 1e-2``; ``optax``: five steps of
  ``orthogonalize_via_newton_schulz``; ``svd``: ``U V^T`` by ``jnp.linalg.svd``. The error is the
  median distance of a singular value from 1: ways that leave small values small are not charged
  for those.
- ``flow``: ``schatten_flow`` with ``p = 1``, by products on accelerators; ``polar step``:
  ``W - w U V^T``. The error is relative to the change that soft thresholding makes, ``w`` a tenth
  of the largest singular value.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import _muon
from results import headline, write_results

from rankjax.matrix import polar, schatten_flow

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # the defaults of optax.contrib.muon


def exact_factor(a: Any) -> Any:
    u, _, vt = jnp.linalg.svd(a, full_matrices=False)
    return u @ vt


OF_FACTOR = {
    "polar": lambda a: polar(a, eps=1e-2),
    "optax": lambda a: _muon.orthogonalize_via_newton_schulz(a, jnp.asarray(COEFFICIENTS)),
    "svd": exact_factor,
}


def of_decay(a: Any) -> dict[str, Any]:
    w = 0.1 * jnp.linalg.norm(a, 2)
    return {
        "flow": lambda a: schatten_flow(a, p=1.0, weight=w, eps=1e-2),
        "polar step": lambda a: a - w * exact_factor(a),
    }


def error_of(way: str, a: Any, found: Any) -> float:
    if way in OF_FACTOR:
        values = np.linalg.svd(np.asarray(found, float), compute_uv=False)
        return float(np.median(np.abs(values - 1)))
    u, s, vt = np.linalg.svd(np.asarray(a, float), full_matrices=False)
    exact = (u * np.maximum(s - 0.1 * s[0], 0)) @ vt
    return float(np.linalg.norm(found - exact) / np.linalg.norm(a - exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    options = parser.parse_args()
    print(headline())
    rows = []
    for size in options.sizes:
        a = jnp.asarray(np.random.default_rng(0).normal(size=(size, size)), jnp.float32)
        for ways in (OF_FACTOR, of_decay(a)):
            compiled = {name: jax.jit(way).lower(a).compile() for name, way in ways.items()}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.repeats):
                for name, way in compiled.items():
                    start = time.perf_counter()
                    jax.block_until_ready(way(a))
                    times[name].append(time.perf_counter() - start)
            for name, seconds in times.items():
                low, middle, high = statistics.quantiles(seconds, n=4)
                row = {
                    "size": size,
                    "way": name,
                    "milliseconds": 1e3 * middle,
                    "quartiles": [1e3 * low, 1e3 * high],
                    "error": error_of(name, a, compiled[name](a)),
                }
                rows.append(row)
                print(f"| {size} | {name} | {row['milliseconds']:.1f} | {row['error']:.2g} |")
    write_results(rows)


if __name__ == "__main__":
    main()
