"""A network on its factors against the same network on dense weights: time, memory, parameters.

    python benchmarks/factorized.py [--case mlp transformer] [--rounds 15]

Cases, both unmodified Flax Linen code: an MLP 784-1024-1024-1024-10 at batch 1024, and a
transformer of 4 blocks (d = 384, 6 heads, 16 and 64 sequences of 64 tokens). All their weight
matrices are cut to a quarter and to an eighth of their rank. Measured in one process, in turns: a
forward pass and a step of Adam, with

- the dense weights;
- ``lowrank(apply)``, which applies one factor after the other;
- ``apply`` after ``densify``, which multiplies them first (for a quarter of the rank).

Each row: median and quartiles in milliseconds, the median over rounds of the ratio to the dense
program of the same round, compile time, ``compiled.memory_analysis()`` (arguments, results and
temporaries), parameters, and the largest difference to ``apply(densify(...))`` over the largest
output.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from results import headline, write_results
from rich.console import Console
from rich.table import Table

from rankjax import describe
from rankjax.training import densify, factorize, lowrank

D, HEADS, BLOCKS, TOKENS, SEQUENCES = 384, 6, 4, 64, 16


class MLP(nn.Module):
    """784-1024-1024-1024-10."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(10)(x)


class Transformer(nn.Module):
    """Blocks of attention and a hidden layer, both after a norm."""

    @nn.compact
    def __call__(self, x):
        for _ in range(BLOCKS):
            x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x))
            x = x + nn.Dense(D)(nn.gelu(nn.Dense(4 * D)(nn.LayerNorm()(x))))
        return x


CASES = {
    "mlp": (MLP(), (1024, 784)),
    "transformer": (Transformer(), (SEQUENCES, TOKENS, D)),
    "transformer, larger batch": (Transformer(), (4 * SEQUENCES, TOKENS, D)),
}


@dataclass
class Program:
    """A compiled function, its arguments, and the times measured so far."""

    name: str
    what: str
    run: Any
    arguments: Any
    compile_seconds: float
    mib: float
    times: list[float] = field(default_factory=list)

    def once(self):
        start = time.perf_counter()
        jax.block_until_ready(self.run(*self.arguments))
        self.times.append(time.perf_counter() - start)


def build(name, what, function, *arguments):
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(name, what, compiled, arguments, seconds, size / 2**20)


def step_of(forward: Callable[..., Any], optimizer):
    def step(params, state, x):
        slopes = jax.grad(lambda p: jnp.mean(forward(p, x) ** 2))(params)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state

    return step


def time_case(case, rounds):
    model, shape = CASES[case]
    x = jax.random.normal(jax.random.key(1), shape)
    params = model.init(jax.random.key(0), x)
    structure = describe(params, apply=model.apply, example=x)

    def multiplied(tree, x):
        return model.apply(densify(structure, tree), x)

    trees: dict[str, Any] = {"dense": (model.apply, params, None)}
    for part in (4, 8):
        # The output layer of the MLP has 10 rows: it stays as it is.
        ranks = {y.path: max(1, min(y.matrix_shape) // part) for y in structure.layers}
        tree = factorize(structure, params, ranks)
        run, expected = lowrank(model.apply), multiplied(tree, x)
        error = float(jnp.max(jnp.abs(run(tree, x) - expected)) / jnp.max(jnp.abs(expected)))
        trees[f"lowrank, rank 1/{part}"] = (run, tree, error)
        if part == 4:
            trees["densify, rank 1/4"] = (multiplied, tree, None)
    optimizer = optax.adam(1e-3)
    programs = []
    for name, (run, tree, _) in trees.items():
        programs.append(build(name, "forward", run, tree, x))
        state = optimizer.init(tree)
        programs.append(build(name, "step", step_of(run, optimizer), tree, state, x))
    for round_ in range(rounds + 2):
        for program in programs:
            program.once()
        if round_ == 1:
            for program in programs:  # warm
                program.times.clear()
    dense = {p.what: p for p in programs if p.name == "dense"}
    rows = []
    for p in programs:
        ratios = [mine / theirs for mine, theirs in zip(p.times, dense[p.what].times, strict=True)]
        rows.append({
            "case": case,
            "what": p.what,
            "weights": p.name,
            "parameters": int(sum(np.size(a) for a in jax.tree.leaves(trees[p.name][1]))),
            "ms": 1e3 * statistics.median(p.times),
            "quartiles": [1e3 * q for q in np.quantile(p.times, [0.25, 0.75])],
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [float(q) for q in np.quantile(ratios, [0.25, 0.75])],
            "compile_seconds": p.compile_seconds,
            "mib": p.mib,
            "error": trees[p.name][2],
            "rounds": len(p.times),
        })  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    console = Console(width=120)
    console.print(headline())
    rows = [row for case in options.case for row in time_case(case, options.rounds)]
    table = Table("case", "what", "weights", "parameters", "ms", "quartiles", "ratio", "compile s")
    for row in rows:
        low, high = row["quartiles"]
        table.add_row(
            row["case"], row["what"], row["weights"], f"{row['parameters']:,}", f"{row['ms']:.1f}",
            f"{low:.1f}-{high:.1f}", f"{row['ratio']:.2f}", f"{row['compile_seconds']:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print({f"{r['case']}, {r['weights']}": r["error"] for r in rows if r["error"]})
    write_results(rows)


if __name__ == "__main__":
    main()
