"""Value and gradient of a Schatten power: every engine against plain SVD autodiff.

    python benchmarks/schatten.py [--quick] [--case NAME ...] [--engine NAME ...] [--p 0.5 1]
                                  [--spectrum NAME ...] [--eps 0.01] [--float64]

Prints one Markdown row per case and engine, and writes them (``results.py``): compile time (once
per case and p), median and spread (quartiles) of the run time, ratio of the medians to plain
``jnp.linalg.svd`` autodiff *of the same smoothed function in the same process, measured in turns*,
relative error of the gradient and of the value against float64, peak memory of the compiled program
(arguments, results, temporaries).
``torch`` is the same autodiff by ``torch.linalg``. Larger cases run only where a GPU is present.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from results import write_results

from rankjax import matrix as rm
from rankjax.matrix.engines import METHODS

CASES = {
    "128": (128, 128),
    "256": (256, 256),
    "512": (512, 512),
    "1024": (1024, 1024),
    "2048": (2048, 2048),
    "tall": (2048, 512),
    "batch": (8, 256, 256),
}
GPU_CASES = {"4096": (4096, 4096)}
QUICK = ("128", "512", "tall", "batch")
SPECTRA = ("gauss", "rank8", "decay")
PLAIN, WARM, TORCH = "plain svd", "warm step", "torch svd"
ENGINES = (*METHODS, WARM, TORCH)
REST, IN_A_ROW = 0.1, 3  # seconds, calls: on CPU


def make(spectrum, shape):
    """A matrix (or a batch of different ones) with the named spectrum, largest value about 1."""
    rng = np.random.default_rng(0)
    *batch, m, n = shape
    a = rng.normal(size=shape) / (np.sqrt(m) + np.sqrt(n))
    if spectrum != "gauss":
        k = min(m, n)
        index = np.arange(1, k + 1)
        sigma = (index <= 8) * 1.0 if spectrum == "rank8" else index**-2.0
        with jax.enable_x64(True):
            u, v = (jnp.linalg.qr(rng.normal(size=(*batch, i, k)))[0] for i in (m, n))
            a = np.asarray((u * sigma) @ jnp.swapaxes(v, -1, -2))
    return a


def decomposed(a):
    """``a``, eigenvalues and eigenvectors of ``a^T a``, in float64.

    At ``eps = 1e-2`` the square costs four of the sixteen digits.
    """
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(a, np.float64))
        eigenvalues, v = jnp.linalg.eigh(jnp.swapaxes(x, -1, -2) @ x)
        return x, jnp.maximum(eigenvalues, 0), v


def reference(decomposition, p, eps):
    """Value and gradient from the definition, in float64."""
    with jax.enable_x64(True):
        x, eigenvalues, v = decomposition
        square = eps**2 * eigenvalues[..., -1:]
        value = jnp.sum((eigenvalues + square) ** (p / 2) - square ** (p / 2))
        q = p * (eigenvalues + square) ** (p / 2 - 1)
        gradient = x @ ((v * q[..., None, :]) @ jnp.swapaxes(v, -1, -2))
        return float(value), np.asarray(gradient)


def plain(a, p, eps):
    """What one writes without this library; smoothed the same way."""
    s = jnp.linalg.svd(a, full_matrices=False)[1]
    e = eps * jax.lax.stop_gradient(s[..., :1])
    return jnp.sum((s * s + e * e) ** (p / 2) - e**p)


def power(a, p, eps, method):
    return jnp.sum(rm.schatten_power(a, p=p, eps=eps, method=method))


def candidates(a, state, p, eps, chosen):
    """Name -> compiled function of the matrix and a warm state, compile seconds, bytes."""

    def of_matrix(function, **options):
        both = jax.value_and_grad(partial(function, p=p, eps=eps, **options))
        return lambda x, _: both(x)

    functions = {PLAIN: of_matrix(plain)}
    functions |= {name: of_matrix(power, method=name) for name in METHODS if name in chosen}
    if WARM in chosen:
        functions[WARM] = lambda x, state: rm.warm.step(x, state, p=p, eps=eps)[:2]
    compiled = {}
    for name, function in functions.items():
        start = time.perf_counter()
        program = jax.jit(function).lower(a, state).compile()
        compiled[name] = (program, time.perf_counter() - start, peak(program))
    if TORCH in chosen and (found := torch_candidate(a, p, eps)) is not None:
        compiled[TORCH] = found
    return compiled


def warm_state(a):
    """Refreshed before a drift of 1e-3 (relative): what a step of training looks like."""
    noise = np.random.default_rng(1).normal(size=a.shape)
    scale = np.linalg.norm(a, axis=(-2, -1), keepdims=True)
    scale = 1e-3 * scale / np.linalg.norm(noise, axis=(-2, -1), keepdims=True)
    return rm.warm.refresh(a - jnp.asarray(scale * noise, a.dtype))


def peak(program):
    """Bytes that the compiled program holds at most: arguments, results and temporaries."""
    memory = program.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(memory, part, 0) for part in parts)


def torch_candidate(a, p, eps):
    """The same by torch autodiff, on the device of JAX; or None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    def run(a, _):
        x = torch.from_dlpack(a).clone().requires_grad_()
        s = torch.linalg.svdvals(x)
        e = eps * s[..., :1].detach()
        value = ((s * s + e * e) ** (p / 2) - e**p).sum()
        value.backward()
        if x.is_cuda:
            torch.cuda.synchronize()
        return value.detach(), x.grad

    return run, 0.0, None


def measure(programs, arguments, repeats, budget):
    """Seconds of every program, measured in turns so that a disturbance hits all.

    LAPACK threads go on spinning for a while after a call and slow whatever comes next, so on CPU
    each program begins when they are at rest, with one call that is not timed; what it does to
    itself that way is in its own time.
    """
    times = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(*arguments))
    on_cpu = jax.default_backend() == "cpu"
    start = time.perf_counter()
    for turn in range(repeats):
        for name, program in programs.items():
            if on_cpu:
                time.sleep(REST)
                jax.block_until_ready(program(*arguments))
            for _ in range(IN_A_ROW if on_cpu else 1):
                begin = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                times[name].append(time.perf_counter() - begin)
        if turn >= 2 and time.perf_counter() - start > budget:
            break
    return times


def header(dtype):
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")
    )
    device = jax.devices()[0]
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "default")
    print(
        f"{platform.system()} {platform.machine()}, {device.device_kind}, {os.cpu_count()} cores, "
    )
    precision = jax.config.jax_default_matmul_precision or "the backend's default"
    print(f"LAPACK threads {threads}; {versions}; {dtype}; products of rankjax at ")
    print(f"Precision.HIGHEST, of plain svd at {precision}; ")
    print(f"XLA_FLAGS {os.environ.get('XLA_FLAGS') or 'none'}; ")
    print(f"load average at start {os.getloadavg()[0]:.1f}\n")
    print("| case | spectrum | p | engine | compile s | median ms | quartiles | ratio | ", end="")
    print("gradient error | value error | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few cases, the Gaussian spectrum")
    parser.add_argument("--case", nargs="+", choices=[*CASES, *GPU_CASES])
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--spectrum", nargs="+", choices=SPECTRA)
    parser.add_argument("--p", nargs="+", type=float, default=[0.5, 1.0])
    parser.add_argument("--eps", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds a case")
    parser.add_argument("--float64", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.float64)
    dtype = jnp.float64 if options.float64 else jnp.float32
    cases = CASES | (GPU_CASES if jax.default_backend() == "gpu" else {})
    names = options.case or (QUICK if options.quick else tuple(cases))
    spectra = options.spectrum or (("gauss",) if options.quick else SPECTRA)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: its rows are left out.")
    header(jnp.dtype(dtype).name)
    rows = []
    for name in names:
        shape = CASES.get(name) or GPU_CASES[name]
        matrices = {x: jnp.asarray(make(x, shape), dtype) for x in spectra}
        exact = {x: decomposed(a) for x, a in matrices.items()}
        states = {x: warm_state(a) for x, a in matrices.items()}
        for p in options.p:
            first = spectra[0]
            compiled = candidates(matrices[first], states[first], p, options.eps, options.engine)
            programs = {key: program for key, (program, _, _) in compiled.items()}
            for spectrum, a in matrices.items():
                arguments = (a, states[spectrum])
                times = measure(programs, arguments, options.repeats, options.budget)
                expected = reference(exact[spectrum], p, options.eps)
                for key, program in programs.items():
                    accuracy = errors(program(*arguments), *expected)
                    ratio = statistics.median(times[PLAIN]) / statistics.median(times[key])
                    label = f"{name} | {spectrum} | {p:g} | {key}"
                    row(label, compiled[key], times[key], ratio, accuracy)
                    low, mid, high = np.quantile(times[key], [0.25, 0.5, 0.75]) * 1e3
                    rows.append(
                        {
                            "case": name,
                            "spectrum": spectrum,
                            "p": p,
                            "engine": key,
                            "ms": mid,
                            "quartiles": [low, high],
                            "ratio": ratio,
                            "gradient_error": float(accuracy[0]),
                            "value_error": float(accuracy[1]),
                            "compile_seconds": compiled[key][1],
                            "bytes": compiled[key][2],
                        }
                    )
    write_results(rows)


def errors(result, value, gradient):
    """Of the gradient and of the value, relative, as texts."""
    found, slope = (to_numpy(x) for x in result)
    off = f"{abs(found.sum() / value - 1):.0e}"
    return f"{np.linalg.norm(slope - gradient) / np.linalg.norm(gradient):.0e}", off


def row(label, compiled, times, ratio, accuracy):
    _, seconds, size = compiled
    low, mid, high = np.quantile(times, [0.25, 0.5, 0.75]) * 1e3
    size = "unknown" if size is None else f"{size / 2**20:.1f}"
    print(
        f"| {label} | {seconds:.1f} | {mid:.2f} | {low:.2f}-{high:.2f} "
        f"| {ratio:.2f} | {' | '.join(accuracy)} | {size} |",
        flush=True,
    )


def to_numpy(x):
    """float64 of a JAX array or a torch tensor, wherever it lies."""
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.float64)


if __name__ == "__main__":
    main()
