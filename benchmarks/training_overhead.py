"""What a penalty or a transformation adds to a step of training.

    python benchmarks/training_overhead.py [--case mlp-128 ...] [--only NAME ...]

Timing: one Adam step of an MLP 784-1024-1024-1024-10 at batches of 128 and 1024, and of a stack of
6 transformer blocks (d = 384, 1024 tokens), without and with each setting, all in one process,
measured in turns. A setting that decomposes on every k-th step alone has two kinds of steps; both
are timed (the step counter in the state is set to either), and the row shows

    amortised = ((k - 1) * median of the steps between + median of the step that decomposes) / k

so the refresh is in the figure; its ratio to the bare step of the same round; the same in a row,
where a step between is one of 50 of which none is waited for (as in a loop that does not look at
its results: on a GPU the host's work then hides behind the device's); compile time; and
``compiled.memory_analysis()``: arguments and results (aliased once) and temporaries, relative to
the bare step. The workspace that LAPACK allocates for itself is not in it. Whether cheaper is as
good: ``training_quality.py``.

On Linux, memory that XLA returns to glibc after each step has to be mapped anew: above 32 MiB of
temporaries that costs more than the products do. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_TOP_PAD_``
and ``MALLOC_MMAP_THRESHOLD_`` (all 4000000000) keep it; whether they are set is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import headline, write_results
from rich.console import Console
from rich.table import Table

from rankjax.network import Sample, Structure, View, describe
from rankjax.training import (
    SchattenFlow,
    add_schatten_decay,
    apply_schatten_flow,
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
# At 1e-3, the first steps of Adam move these weights by 2 % of their norm each, and a kept basis
# has to be renewed at each of them; at this rate by 2e-4, as late in a training.
RATE = 1e-5


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
    outside: Callable[[Structure], SchattenFlow] | None = None  # called by the loop
    period: int = 1
    acts_at: int = 0  # value of the step counter before a step that decomposes


def plain_svd(structure, params):
    """What one writes without this library: autodiff of a smoothed sum of singular values.

    Stacked matrices one after the other: as several batches in one program they hang on two cores.
    """
    total = 0.0
    for a in structure.matrices(params):
        a = a.reshape(-1, *a.shape[-2:])
        s = jax.lax.map(lambda a: jnp.linalg.svd(a, full_matrices=False)[1], a)
        e = EPS * jax.lax.stop_gradient(s[..., :1])
        total += jnp.sum((s * s + e * e) ** (P / 2) - e**P)
    return WEIGHT * total


def decay(**options):
    return lambda structure: add_schatten_decay(structure, WEIGHT, p=P, eps=EPS, **options)


def lazy(every):
    return Setting(inside=decay(every=every), period=every, acts_at=every - 1)


def kept(refresh):
    return Setting(inside=decay(refresh=refresh), period=refresh)


def at_last(transformation, every, **options):
    def last(structure):
        return transformation(structure, 1e-3 * WEIGHT, p=P, every=every, **options)

    return Setting(last=last, period=every, acts_at=every - 1)


def outside(every):
    def flow(structure):
        return SchattenFlow(structure, 1e-3 * WEIGHT, p=P, eps=EPS, every=every)

    return Setting(outside=flow, period=every, acts_at=every - 1)


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
    **{f"decay refresh={k}": kept(k) for k in (10, 20, 50)},
    **{
        f"flow every={k}": at_last(apply_schatten_flow, k, eps=EPS) for k in (20, 50, 100, 200, 500)
    },
    **{f"SchattenFlow every={k}": outside(k) for k in (20, 100)},
    **{f"proximal every={k}": at_last(proximal_schatten, k) for k in (100, 500)},
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


def optimizer(setting, structure, rate=1e-3):
    inside = [setting.inside(structure)] if setting.inside else []
    last = [setting.last(structure)] if setting.last else []
    scale = optax.scale_by_learning_rate(rate)
    return optax.chain(optax.scale_by_adam(), *inside, scale, *last)


@dataclass
class Program:
    """A compiled step with its own copy of the parameters, and the times measured so far."""

    run: Any
    carry: Any
    setting: Setting
    compile_seconds: float
    bytes: int
    flow: Any = None
    in_a_row: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    acting: list[float] = field(default_factory=list)

    def step(self, count):
        """Seconds of one step with the counters at ``count``."""
        params, state = self.carry
        state = optax.tree_utils.tree_set(state, count=np.asarray(count, np.int32))
        jax.block_until_ready(state)
        start = time.perf_counter()
        params, state = self.run(params, state)
        if self.flow and count == self.setting.acts_at:
            params = self.flow(params, count)
        self.carry = jax.block_until_ready((params, state))
        return time.perf_counter() - start

    def steps_in_a_row(self):
        """Seconds of each of 50 steps that are not waited for, none of which decomposes."""
        params, state = self.carry
        state = optax.tree_utils.tree_set(state, count=jnp.asarray(1, jnp.int32))
        carry = jax.block_until_ready(jax.tree.map(jnp.copy, (params, state)))
        start = time.perf_counter()
        for _ in range(50):
            carry = self.run(*carry)
        self.carry = jax.block_until_ready(carry)
        return (time.perf_counter() - start) / 50

    def amortised(self):
        """Seconds of a step on average over a period."""
        act, k = statistics.median(self.acting), self.setting.period
        if k == 1:
            return statistics.median(self.acting + self.between)
        return ((k - 1) * statistics.median(self.between) + act) / k

    def amortised_in_a_row(self):
        """The same where only a step that decomposes is waited for; None if that was not timed."""
        if not self.in_a_row:
            return None
        step, k = statistics.median(self.in_a_row), self.setting.period
        if k == 1:
            return step
        more = statistics.median(self.acting) - statistics.median(self.between)
        return step + more / k


def build(case, setting):
    chain = optimizer(setting, case.structure, RATE)

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
    flow = setting.outside(case.structure) if setting.outside else None
    return Program(compiled, (params, state), setting, seconds, size, flow)


def time_case(name, chosen, rounds, budget, console):
    case = CASES[name]()
    programs = {}
    for key in chosen:
        programs[key] = build(case, SETTINGS[key])
        programs[key].step(programs[key].setting.acts_at)  # warm, and what is kept is there
    start = time.perf_counter()
    for round_ in range(rounds):
        for program in programs.values():
            # Not timed: the threads of LAPACK go on spinning for a while after the program before.
            begin = time.perf_counter()
            while time.perf_counter() - begin < 0.1:
                program.step(1)
            # 1 acts in no setting whose period exceeds 2.
            cheap = program.setting.period > 1 or program.setting.term is None
            program.between += [program.step(1) for _ in range(3 if cheap else 0)]
            program.acting.append(program.step(program.setting.acts_at))
            if program.setting.period > 60 or program is programs["bare"]:
                program.in_a_row.append(program.steps_in_a_row())
        if time.perf_counter() - start > budget and round_ >= 2:
            break
    return case_rows(name, programs, console)


def case_rows(name, programs, console):
    bare = programs["bare"]
    table = Table(title=f"{name}: {len(bare.acting)} rounds")
    columns = ("setting", "ms between", "ms decomposing", "quartiles", "ms amortised", "ratio")
    for column in (*columns, "in a row", "ratio", "compile s", "memory"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    rows = []
    for key, program in programs.items():
        common = program.between or program.acting
        low, high = np.quantile(common, [0.25, 0.75]) * 1e3
        in_a_row = program.amortised_in_a_row()
        row = {
            "case": name,
            "setting": key,
            "ms_between": statistics.median(common) * 1e3,
            "ms_acting": statistics.median(program.acting) * 1e3,
            "quartiles": [low, high],
            "ms_amortised": program.amortised() * 1e3,
            "ratio": program.amortised() / bare.amortised(),
            "ms_in_a_row": in_a_row and statistics.median(program.in_a_row) * 1e3,
            "ms_in_a_row_amortised": in_a_row and in_a_row * 1e3,
            "ratio_in_a_row": in_a_row and in_a_row / bare.amortised_in_a_row(),
            "compile_seconds": program.compile_seconds,
            "memory_ratio": program.bytes / bare.bytes,
            "memory_mib": program.bytes / 2**20,
        }
        rows.append(row)
        table.add_row(
            key,
            f"{row['ms_between']:.2f}",
            f"{row['ms_acting']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{row['ms_amortised']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['ms_in_a_row']:.3f}" if in_a_row else "",
            f"{row['ratio_in_a_row']:.2f}" if in_a_row else "",
            f"{row['compile_seconds']:.1f}",
            f"{row['memory_ratio']:.2f}",
        )
    console.print(table)
    return rows


def report(measure):
    """Print the machine and what ``measure(console)`` shows; write its rows."""
    console = Console(width=120)
    console.print(f"{headline()}; p = {P}, eps = {EPS}, weight = {WEIGHT}")
    write_results(measure(console))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--only", nargs="+", help="settings by name; bare is always measured")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds a case")
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(SETTINGS)
    if unknown:
        parser.error(f"--only: got {sorted(unknown)}, must be of {list(SETTINGS)}")
    chosen = ["bare", *(k for k in options.only or SETTINGS if k != "bare")]

    def time_all(console):
        return [
            row
            for name in options.case
            for row in time_case(name, chosen, options.rounds, options.budget, console)
        ]

    report(time_all)


if __name__ == "__main__":
    main()
