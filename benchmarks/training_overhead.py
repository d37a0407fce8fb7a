"""What a penalty or a transformation adds to a step of training, and whether cheaper is as good.

    python benchmarks/training_overhead.py [--case mlp-128 ...] [--only NAME ...] [--json FILE]
    python benchmarks/training_overhead.py --train [--seeds 3] [--epochs 5] [--width 256]

Timing: one Adam step of an MLP 784-1024-1024-1024-10 at batches of 128 and 1024, and of a stack of
6 transformer blocks (d = 384, 1024 tokens), without and with each setting, all in one process,
measured in turns. A setting that decomposes on every k-th step alone has two kinds of steps; both
are timed (the step counter in the state is set to either), and the row shows

    amortised = ((k - 1) * median of the steps between + median of the step that decomposes) / k

so the refresh is in the figure; its ratio to the bare step of the same round; compile time; and
``compiled.memory_analysis()``: arguments and results (aliased once) and temporaries, relative to
the bare step.

``--train``: the same MLP, narrower, trained equally on MNIST with the decay at every step and with
each cheaper setting, over several seeds: test accuracy and soft ranks of the layers at the end.

On Linux, memory that XLA returns to glibc after each step has to be mapped anew: above 32 MiB of
temporaries that costs more than the products do. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_TOP_PAD_``
and ``MALLOC_MMAP_THRESHOLD_`` (all 4000000000) keep it; whether they are set is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from rankjax.matrix import spectrum
from rankjax.network import Sample, Structure, View, describe, measure
from rankjax.report.datasets import load_mnist
from rankjax.training import (
    add_schatten_decay,
    log_det_penalty,
    nuclear_penalty,
    proximal_schatten,
    rank_sparse_penalty,
    schatten_penalty,
    stable_rank_penalty,
)

WIDTHS = (784, 1024, 1024, 1024, 10)
BLOCKS, D, HEADS, LENGTH, SEQUENCES = 6, 384, 6, 64, 16
P, EPS, WEIGHT = 0.5, 1e-2, 1e-3


@dataclass(frozen=True)
class Case:
    """A network with one batch: ``loss(params)`` and what is known of its matrices."""

    params: Any
    loss: Callable[[Any], jax.Array]
    structure: Structure


@dataclass(frozen=True)
class Setting:
    """A term of the loss and transformations; ``period`` steps pass between decompositions."""

    term: Callable[[Structure, Any], jax.Array] | None = None
    inside: Callable[[Structure], optax.GradientTransformation] | None = None
    last: Callable[[Structure], optax.GradientTransformation] | None = None
    period: int = 1
    acts_at: int = 0  # value of the step counter before a step that decomposes


def plain_svd(structure, params):
    """What one writes without this library: autodiff of a smoothed sum of singular values."""
    total = 0.0
    for a in structure.layers(params):
        s = jnp.linalg.svd(a, full_matrices=False)[1]
        e = EPS * jax.lax.stop_gradient(s[..., :1])
        total += jnp.sum((s * s + e * e) ** (P / 2) - e**P)
    return WEIGHT * total


def decay(**options):
    return lambda structure: add_schatten_decay(structure, WEIGHT, p=P, eps=EPS, **options)


def lazy(every):
    return Setting(inside=decay(every=every), period=every, acts_at=every - 1)


def kept(refresh, between):
    return Setting(inside=decay(refresh=refresh, between=between), period=refresh)


def bound(structure, params):
    known = Sample.of_size(60000, radius=28.0)
    return rank_sparse_penalty(structure, params, known, p=P, eps=EPS, weight=WEIGHT)


SETTINGS = {
    "bare": Setting(),
    "weight decay": Setting(inside=lambda _: optax.add_decayed_weights(WEIGHT)),
    "loss: plain SVD autodiff": Setting(term=plain_svd),
    "loss: schatten_penalty": Setting(term=partial(schatten_penalty, p=P, eps=EPS, weight=WEIGHT)),
    "loss: nuclear_penalty": Setting(term=partial(nuclear_penalty, eps=EPS, weight=WEIGHT)),
    "loss: log_det_penalty": Setting(term=partial(log_det_penalty, eps=EPS, weight=WEIGHT)),
    "loss: stable_rank_penalty": Setting(term=partial(stable_rank_penalty, weight=WEIGHT)),
    "loss: rank_sparse_penalty": Setting(term=bound),
    **{f"decay every={k}": lazy(k) for k in (1, 20, 50, 100, 200, 500)},
    **{f"frozen refresh={k}": kept(k, "frozen") for k in (20, 100)},
    **{f"warm refresh={k}": kept(k, "warm") for k in (10, 20, 50)},
    **{f"stale refresh={k}": kept(k, "stale") for k in (20, 100)},
    **{
        f"proximal every={k}": Setting(
            last=lambda s, k=k: proximal_schatten(s, 1e-3 * WEIGHT, p=P, every=k),
            period=k,
            acts_at=k - 1,
        )
        for k in (100, 500)
    },
}


def mlp_params(key, widths):
    keys = jax.random.split(key, len(widths) - 1)
    normal = jax.nn.initializers.he_normal()
    sizes = zip(keys, widths[:-1], widths[1:], strict=True)
    return {
        f"dense_{i}": {"kernel": normal(k, (m, n)), "bias": jnp.zeros(n)}
        for i, (k, m, n) in enumerate(sizes)
    }


def mlp(params, x):
    for i in range(len(params)):
        layer = params[f"dense_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def mlp_case(batch):
    key, data = jax.random.split(jax.random.key(0))
    params = mlp_params(key, WIDTHS)
    x, y = jax.random.uniform(data, (batch, WIDTHS[0])), jnp.arange(batch) % 10
    return Case(params, lambda p: cross_entropy(mlp(p, x), y), describe(params))


def transformer_case():
    names = {"q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "up": (D, 4 * D)}
    names["down"] = (4 * D, D)
    keys = jax.random.split(jax.random.key(0), len(names) + 1)
    normal = jax.nn.initializers.lecun_normal(batch_axis=0)
    params = {
        name: normal(k, (BLOCKS, *shape))
        for k, (name, shape) in zip(keys, names.items(), strict=False)
    }
    x = jax.random.normal(keys[-1], (SEQUENCES, LENGTH, D))

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    def heads(x):
        return x.reshape(SEQUENCES, LENGTH, HEADS, D // HEADS)

    def block(x, w):
        h = norm(x)
        attended = jax.nn.dot_product_attention(*(heads(h @ w[n]) for n in ("q", "k", "v")))
        x = x + attended.reshape(x.shape) @ w["o"]
        return x + jax.nn.gelu(norm(x) @ w["up"]) @ w["down"], None

    def loss(params):
        return jnp.mean((jax.lax.scan(block, x, params)[0] - jnp.roll(x, 1, 1)) ** 2)

    view = View(out=(2,), in_=(1,), stacked=(0,))
    return Case(params, loss, describe(params, axes=dict.fromkeys(names, view)))


CASES = {
    "mlp-128": partial(mlp_case, 128),
    "mlp-1024": partial(mlp_case, 1024),
    "transformer": transformer_case,
}


def optimizer(setting, structure):
    inside = [setting.inside(structure)] if setting.inside else []
    last = [setting.last(structure)] if setting.last else []
    rate = optax.scale_by_learning_rate(1e-3)
    return optax.chain(optax.scale_by_adam(), *inside, rate, *last)


@dataclass
class Program:
    """A compiled step with its own copy of the parameters, and the times measured so far."""

    run: Any
    carry: Any
    setting: Setting
    compile_seconds: float
    bytes: int
    between: list[float] = field(default_factory=list)
    acting: list[float] = field(default_factory=list)

    def step(self, count):
        """Seconds of one step with the counters at ``count``."""
        params, state = self.carry
        state = optax.tree_utils.tree_set(state, count=np.asarray(count, np.int32))
        jax.block_until_ready(state)
        start = time.perf_counter()
        self.carry = jax.block_until_ready(self.run(params, state))
        return time.perf_counter() - start

    def amortised(self):
        """Seconds of a step on average over a period."""
        act, k = statistics.median(self.acting), self.setting.period
        return act if k == 1 else ((k - 1) * statistics.median(self.between) + act) / k


def build(case, setting):
    chain = optimizer(setting, case.structure)

    def loss(params):
        extra = setting.term(case.structure, params) if setting.term else 0.0
        return case.loss(params) + extra

    def step(params, state):
        updates, state = chain.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    # Copies: the arguments are donated, and every setting starts from the same parameters.
    params = jax.tree.map(jnp.copy, case.params)
    state = jax.tree.map(jnp.copy, chain.init(params))
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(compiled, (params, state), setting, seconds, size)


def time_case(name, chosen, rounds, budget, console):
    case = CASES[name]()
    programs = {}
    for key in chosen:
        programs[key] = build(case, SETTINGS[key])
        programs[key].step(programs[key].setting.acts_at)  # warm, and what is kept is there
    start = time.perf_counter()
    for round_ in range(rounds):
        for program in programs.values():
            if program.setting.period > 1:
                for _ in range(3):
                    # 1 acts in no setting whose period exceeds 2.
                    program.between.append(program.step(1))
            program.acting.append(program.step(program.setting.acts_at))
        if time.perf_counter() - start > budget and round_ >= 2:
            break
    return case_rows(name, programs, console)


def case_rows(name, programs, console):
    bare = programs["bare"]
    table = Table(title=f"{name}: {len(bare.acting)} rounds")
    columns = ("setting", "ms between", "ms decomposing", "quartiles", "ms amortised")
    for column in (*columns, "ratio", "compile s", "memory"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    rows = []
    for key, program in programs.items():
        common = program.between or program.acting
        low, high = np.quantile(common, [0.25, 0.75]) * 1e3
        row = {
            "case": name,
            "setting": key,
            "ms_between": statistics.median(common) * 1e3,
            "ms_acting": statistics.median(program.acting) * 1e3,
            "quartiles": [low, high],
            "ms_amortised": program.amortised() * 1e3,
            "ratio": program.amortised() / bare.amortised(),
            "compile_seconds": program.compile_seconds,
            "memory_ratio": program.bytes / bare.bytes,
            "memory_mib": program.bytes / 2**20,
        }
        rows.append(row)
        table.add_row(
            key,
            f"{row['ms_between']:.1f}",
            f"{row['ms_acting']:.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{row['ms_amortised']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['memory_ratio']:.2f}",
        )
    console.print(table)
    return rows


# Equal training: every step against now and then.


def training_settings(weight, rate, batch):
    every = {128: (20, 100, 200, 500), 1024: (10, 20, 50, 100)}.get(batch, (20, 100))

    def make(**options):
        return lambda s: add_schatten_decay(s, weight, p=P, eps=EPS, **options)

    return {
        "no decay": Setting(),
        "every step": Setting(inside=make()),
        **{f"every={k}": Setting(inside=make(every=k)) for k in every},
        "frozen refresh=20": Setting(inside=make(refresh=20)),
        "warm refresh=20": Setting(inside=make(refresh=20, between="warm")),
        "stale refresh=20": Setting(inside=make(refresh=20, between="stale")),
        # The proximal step has no learning rate: its strength is that of rate * weight.
        "proximal every=100": Setting(
            last=lambda s: proximal_schatten(s, rate * weight, p=P, every=100)
        ),
    }


def train_one(setting, data, options, seed):
    widths = (784, options.width, options.width, options.width, 10)
    params = mlp_params(jax.random.key(seed), widths)
    structure = describe(params)
    chain = optimizer(setting, structure)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, y):
        slope = jax.grad(lambda p: cross_entropy(mlp(p, x), y))(params)
        updates, state = chain.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    x = data.x_train.reshape(len(data.x_train), -1)[: options.examples]
    y = data.y_train[: options.examples]
    rng, state = np.random.default_rng(seed), chain.init(params)
    start = time.perf_counter()
    for _ in range(options.epochs):
        order = rng.permutation(len(x))
        for first in range(0, len(x) - options.batch + 1, options.batch):
            rows = order[first : first + options.batch]
            params, state = step(params, state, x[rows], y[rows])
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    predicted = jnp.argmax(mlp(params, data.x_test.reshape(len(data.x_test), -1)), -1)
    accuracy = float(jnp.mean(predicted == data.y_test))
    sigma = measure(structure, params).sigma
    ranks = [float(spectrum.soft_rank(s[0, 0], p=P, eps=EPS)) for s in sigma]
    return {"accuracy": accuracy, "soft_ranks": ranks, "seconds": seconds}


def train_all(options, console):
    data = load_mnist()
    settings = training_settings(options.weight, 1e-3, options.batch)
    table = Table(
        title=f"MNIST, 784-3x{options.width}-10, batch {options.batch}, {options.epochs} epochs, "
        f"weight {options.weight}, p = {P}; mean (standard deviation) of {options.seeds} seeds"
    )
    for column in ("setting", "test accuracy %", "soft ranks of the layers", "seconds"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    rows = []
    for name in options.only or settings:
        runs = [train_one(settings[name], data, options, seed) for seed in range(options.seeds)]
        rows.append({"setting": name, "runs": runs})
        ranks = np.asarray([run["soft_ranks"] for run in runs]).T
        table.add_row(
            name,
            _mean([100 * run["accuracy"] for run in runs], 2),
            ", ".join(_mean(layer, 1) for layer in ranks),
            _mean([run["seconds"] for run in runs], 0),
        )
        console.print(f"{name} is done")
    console.print(table)
    return rows


def _mean(values, digits):
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.{digits}f} ({spread:.{digits}f})"


def machine():
    packages = ("jax", "jaxlib", "optax", "numpy")
    malloc = sorted(key for key in os.environ if key.startswith("MALLOC_"))
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "malloc_settings": malloc or "none",
        "load_at_start": round(os.getloadavg()[0], 1),
        "settings": {"p": P, "eps": EPS, "weight": WEIGHT},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", nargs="+", help="settings by name; bare is always measured")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds a case")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--examples", type=int, default=60000)
    parser.add_argument("--weight", type=float, default=3.0, help="of the decay in --train")
    options = parser.parse_args()
    console = Console(width=120)
    found = {"machine": machine()}
    console.print(found["machine"])
    if options.train:
        found["training"] = train_all(options, console)
    else:
        unknown = set(options.only or ()) - set(SETTINGS)
        if unknown:
            parser.error(f"--only: got {sorted(unknown)}, must be of {list(SETTINGS)}")
        chosen = ["bare", *(k for k in options.only or SETTINGS if k != "bare")]
        found["timing"] = [
            row
            for name in options.case
            for row in time_case(name, chosen, options.rounds, options.budget, console)
        ]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
