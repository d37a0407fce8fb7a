"""What a penalty or a transformation adds to the compile time of a training step.

    python benchmarks/compile_time.py [--case mlp transformer] [--d 768] [--blocks 12]
        [--only NAME ...] [--rounds 3] [--limit 600] [--json PATH]

One Adam step of an MLP (784-1024-1024-1024-10) and of an ordinary unrolled transformer, which
holds six matrices per block and one at the end (73 for 12 blocks), is traced, lowered and compiled
with each setting. Every figure comes from a process of its own that has compiled nothing before and
holds no parameters (the arguments are shapes), so that its peak memory is that of the compiler.
``seconds`` is the wall clock, ``cpu`` the processor time of all threads, which a busy machine
changes less; ratios are to the bare step of the same case.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTHS = (784, 1024, 1024, 1024, 10)
BATCH, SEQUENCES, LENGTH, HEAD = 128, 4, 64, 64
P, WEIGHT = 0.5, 1e-3
RESULTS = Path(__file__).parent / "results" / "compile_time.json"
COLUMNS = ("case", "setting", "seconds", "ratio", "cpu", "cpu_ratio", "peak_mib", "peak_ratio")


def settings() -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """By name: where it goes (``loss``, ``inside`` or ``last``), and what makes it."""
    from rankjax import Sample, training

    def decay(**options):
        return "inside", lambda s: training.add_schatten_decay(s, WEIGHT, p=P, **options)

    def penalty(function, *extra, **options):
        return "loss", lambda s: lambda q: function(s, q, *extra, weight=WEIGHT, **options)

    known = Sample.of_size(60000, radius=28.0)
    return {
        "bare": ("loss", lambda _: lambda q: 0.0),
        "schatten_penalty": penalty(training.schatten_penalty, p=P),
        "nuclear_penalty": penalty(training.nuclear_penalty),
        "log_det_penalty": penalty(training.log_det_penalty),
        "stable_rank_penalty": penalty(training.stable_rank_penalty),
        "rank_sparse_penalty": penalty(training.rank_sparse_penalty, known, p=P),
        "decay": decay(),
        "decay every=100": decay(every=100),
        "decay method=gram": decay(method="gram"),
        "decay refresh=20": decay(refresh=20),
        "flow every=100": (
            "last",
            lambda s: training.apply_schatten_flow(s, WEIGHT, p=P, every=100),
        ),
        "proximal every=100": (
            "last",
            lambda s: training.proximal_schatten(s, WEIGHT, p=P, every=100),
        ),
        "project_spectral_norm": (
            "last",
            lambda s: training.project_spectral_norm(s, 1.0, every=100),
        ),
        "project_rank": ("last", lambda s: training.project_rank(s, 8, every=100)),
        "record_metrics": ("last", lambda s: training.record_metrics(s, every=100)),
    }


def mlp(params, x):
    import jax

    for i in range(len(params)):
        layer = params[f"dense_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def transformer(params, x):
    import jax
    import jax.numpy as jnp

    def norm(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    for name in sorted((n for n in params if n.startswith("block_")), key=lambda n: int(n[6:])):
        block = params[name]
        h = norm(x, block["norm_1"]["scale"])
        q, k, v = (
            dense(block[n], h).reshape(*h.shape[:2], -1, HEAD) for n in ("query", "key", "value")
        )
        x = x + dense(block["out"], jax.nn.dot_product_attention(q, k, v).reshape(x.shape))
        h = jax.nn.gelu(dense(block["up"], norm(x, block["norm_2"]["scale"])))
        x = x + dense(block["down"], h)
    return dense(params["head"], x)


def shapes(case: str, d: int, blocks: int) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    import jax
    import jax.numpy as jnp

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def dense(m, n):
        return {"kernel": array(m, n), "bias": array(n)}

    if case == "mlp":
        pairs = itertools.pairwise(WIDTHS)
        params = {f"dense_{i}": dense(m, n) for i, (m, n) in enumerate(pairs)}
        return params, array(BATCH, WIDTHS[0]), mlp
    params: dict[str, Any] = {
        f"block_{i}": {
            **{name: dense(d, d) for name in ("query", "key", "value", "out")},
            "up": dense(d, 4 * d),
            "down": dense(4 * d, d),
            "norm_1": {"scale": array(d)},
            "norm_2": {"scale": array(d)},
        }
        for i in range(blocks)
    }
    params["head"] = dense(d, 1000)
    return params, array(SEQUENCES, LENGTH, d), transformer


def compile_once(case: str, setting: str, d: int, blocks: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import optax

    from rankjax import describe

    params, x, apply = shapes(case, d, blocks)
    axes = dict.fromkeys(_kernels(params), ((1,), (0,)))
    structure = describe(params, axes=axes, mask=lambda path, _: path in axes)
    place, make = settings()[setting]
    made = make(structure)
    optimizer = optax.chain(
        optax.scale_by_adam(),
        made if place == "inside" else optax.identity(),
        optax.scale_by_learning_rate(1e-3),
        made if place == "last" else optax.identity(),
    )
    term = made if place == "loss" else lambda q: 0.0

    def loss(params, x):
        return jnp.mean(apply(params, x) ** 2) + term(params)

    def step(params, state, x):
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x)
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return {
        "seconds": time.perf_counter() - wall,
        "trace_seconds": lowered_at - wall,
        "cpu": time.process_time() - cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mib": before / 1024,
        "step_mib": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20,
    }


def _kernels(tree: dict[str, Any], root: str = "") -> list[str]:
    found = []
    for name, node in tree.items():
        if isinstance(node, dict):
            found += _kernels(node, f"{root}{name}/")
        elif name == "kernel":
            found.append(f"{root}{name}")
    return found


def in_own_process(options: argparse.Namespace, case: str, setting: str) -> dict[str, float] | None:
    """The figures of one fresh process, ``None`` where it did not end within the limit."""
    command = [sys.executable, __file__, "--case", case, "--d", str(options.d)]
    command += ["--blocks", str(options.blocks), "--one", setting]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=options.limit
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


Found = dict[str, list[dict[str, float] | None]]


def rows_of(options: argparse.Namespace, case: str, found: Found) -> list[dict[str, Any]]:
    """Medians over the rounds so far, and their ratios to the bare step."""
    rows: list[dict[str, Any]] = []
    for name, runs in found.items():
        row: dict[str, Any] = {"case": case, "setting": name}
        if case == "transformer":
            row |= {"d": options.d, "blocks": options.blocks}
        done = [one for one in runs if one is not None]
        row |= {"rounds": len(runs), "over_limit": len(runs) - len(done)}
        for key in done[0] if done else ():
            row[key] = round(statistics.median(one[key] for one in done), 3)
        rows.append(row)
        for key, ratio in (("seconds", "ratio"), ("cpu", "cpu_ratio"), ("peak_mib", "peak_ratio")):
            if key in row and key in rows[0]:
                row[ratio] = round(row[key] / rows[0][key], 3)
    return rows


def measure(options: argparse.Namespace, save: Callable[[list[dict[str, Any]]], None]) -> None:
    names = ["bare", *(n for n in options.only or settings() if n != "bare")]
    finished: list[dict[str, Any]] = []
    for case in options.case:
        found: Found = {}
        for _ in range(options.rounds):
            for name in names:
                found.setdefault(name, []).append(in_own_process(options, case, name))
                save(finished + rows_of(options, case, found))
        finished += rows_of(options, case, found)
    print("  ".join(f"{column:>22}" for column in COLUMNS))
    for row in finished:
        print("  ".join(f"{row.get(column, 'over'):>22}" for column in COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", default=["mlp", "transformer"])
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--only", nargs="+", help="settings by name; bare is always measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a compilation may take")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(compile_once(options.case[0], options.one, options.d, options.blocks)))
        return
    versions = {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "optax", "numpy")}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 1),
    }
    versions["python"] = platform.python_version()
    print(machine, versions)
    command = " ".join(["python", "benchmarks/compile_time.py", *sys.argv[1:]])
    options.json.parent.mkdir(exist_ok=True)

    def save(rows: list[dict[str, Any]]) -> None:
        result = {"machine": machine, "versions": versions, "command": command, "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n")

    measure(options, save)


if __name__ == "__main__":
    main()
