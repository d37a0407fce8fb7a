"""Value and gradient of a Schatten power: every engine against plain SVD autodiff.

    python benchmarks/schatten.py [--quick] [--case NAME ...] [--float64] [--p 0.5 1] [--eps 0.01]

Prints one Markdown row a case and engine: compile time, median and spread (quartiles) of the run
time, ratio of the medians to plain ``jnp.linalg.svd`` autodiff *of the same smoothed function in
the same process, measured in turns*, relative error of the gradient and of the value against NumPy
in float64, peak memory of the compiled program (arguments, results, temporaries). ``matfree`` is
the value alone, by stochastic Lanczos quadrature, with its standard error; ``torch`` the same
autodiff by ``torch.linalg``. Larger cases run only where a GPU is present.
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

from rankjax import matrix as rm

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
SLQ = "matfree (value)"
REST, IN_A_ROW = 0.1, 3  # seconds, calls
SPECTRA = ("gauss", "rank8", "decay")


def make(spectrum, shape, dtype):
    """A matrix (or a batch of different ones) with the named spectrum, largest value about 1."""
    rng = np.random.default_rng(0)
    *batch, m, n = shape
    a = rng.normal(size=shape) / (np.sqrt(m) + np.sqrt(n))
    if spectrum != "gauss":
        k = min(m, n)
        index = np.arange(1, k + 1)
        sigma = (index <= 8) * 1.0 if spectrum == "rank8" else index**-2.0
        u = np.linalg.qr(rng.normal(size=(*batch, m, k)))[0]
        v = np.linalg.qr(rng.normal(size=(*batch, n, k)))[0]
        a = u * sigma @ np.swapaxes(v, -1, -2)
    return jnp.asarray(a, dtype)


def reference(a, p, eps):
    """Value and gradient in float64, from the definition."""
    x = np.asarray(a, np.float64)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    e = eps * s[..., :1]
    value = np.sum((s * s + e * e) ** (p / 2) - e**p)
    return value, (u * (p * s * (s * s + e * e) ** (p / 2 - 1))[..., None, :]) @ vt


def plain(a, p, eps):
    """What one writes without this library; smoothed the same way."""
    s = jnp.linalg.svd(a, full_matrices=False)[1]
    e = eps * jax.lax.stop_gradient(s[..., :1])
    return jnp.sum((s * s + e * e) ** (p / 2) - e**p)


def power(a, p, eps, method):
    return jnp.sum(rm.schatten_power(a, p=p, eps=eps, method=method))


def candidates(a, p, eps):
    """Name -> compiled function without arguments, compile seconds, temporary bytes."""
    functions = {"plain svd": jax.value_and_grad(partial(plain, p=p, eps=eps))}
    for method in ("auto", "svd", "gram", "rational", "iterative"):
        functions[method] = jax.value_and_grad(partial(power, p=p, eps=eps, method=method))
    # Refreshed before a drift of 1e-3 (relative): what a step of training looks like.
    noise = np.random.default_rng(1).normal(size=a.shape)
    scale = np.linalg.norm(a, axis=(-2, -1), keepdims=True)
    scale = 1e-3 * scale / np.linalg.norm(noise, axis=(-2, -1), keepdims=True)
    state = rm.warm.refresh(a - jnp.asarray(scale * noise, a.dtype))
    functions["warm step"] = lambda x: rm.warm.step(x, state, p=p, eps=eps)[:2]
    compiled = {}
    for name, function in functions.items():
        start = time.perf_counter()
        program = jax.jit(function).lower(a).compile()
        seconds = time.perf_counter() - start
        compiled[name] = (program, seconds, peak(program))
    return compiled


def peak(program):
    """Bytes that the compiled program holds at most: arguments, results and temporaries."""
    memory = program.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(memory, part, 0) for part in parts)


def matfree_candidate(a, p, eps):
    """The value alone by stochastic Lanczos quadrature: (program, compile seconds, bytes) or None.

    It answers ``(value, standard error)``; its gradient is too noisy to be offered.
    """
    if importlib.util.find_spec("matfree") is None:
        return None

    def total(a, key):
        if a.ndim == 2:
            return tuple(rm.estimate_schatten_power(a, p=p, key=key, eps=eps))
        keys = jax.random.split(key, a.shape[0])
        value, error = jax.vmap(total)(a, keys)
        return jnp.sum(value), jnp.sqrt(jnp.sum(error**2))

    start = time.perf_counter()
    program = jax.jit(partial(total, key=jax.random.key(0))).lower(a).compile()
    return program, time.perf_counter() - start, peak(program)


def torch_candidate(a, p, eps):
    """The same by torch autodiff, or None where torch is not installed.

    On a GPU where both have one: the transfer of the result is then not in the time of torch.
    """
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    x = torch.tensor(np.asarray(a), requires_grad=True, device="cuda" if cuda else "cpu")

    def run(_):
        x.grad = None
        s = torch.linalg.svdvals(x)
        e = eps * s[..., :1].detach()
        value = ((s * s + e * e) ** (p / 2) - e**p).sum()
        value.backward()
        if cuda:
            torch.cuda.synchronize()
        return value.detach(), x.grad

    return run


def measure(programs, a, repeats, budget):
    """Seconds of every program, measured in turns so that a disturbance hits all.

    LAPACK threads go on spinning for a while after a call and slow whatever comes next, so each
    program begins when they are at rest, with one call that is not timed; what it does to itself
    that way is in its own time.
    """
    times = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program(a))
    start = time.perf_counter()
    for _ in range(repeats):
        for name, program in programs.items():
            time.sleep(REST)
            jax.block_until_ready(program(a))
            for _ in range(IN_A_ROW):
                begin = time.perf_counter()
                jax.block_until_ready(program(a))
                times[name].append(time.perf_counter() - begin)
        if time.perf_counter() - start > budget and len(times[name]) >= 9:
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
    print(f"load average at start {os.getloadavg()[0]:.1f}\n")
    print("| case | spectrum | p | engine | compile s | median ms | quartiles | ratio | ", end="")
    print("gradient error | value error | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few cases, the Gaussian spectrum")
    parser.add_argument("--case", nargs="+", choices=[*CASES, *GPU_CASES])
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
    for package in ("torch", "matfree"):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: its rows are left out.")
    header(jnp.dtype(dtype).name)
    for name in names:
        for spectrum in spectra:
            a = make(spectrum, CASES.get(name) or GPU_CASES[name], dtype)
            for p in options.p:
                value, gradient = reference(a, p, options.eps)
                compiled = candidates(a, p, options.eps)
                programs = {key: program for key, (program, _, _) in compiled.items()}
                if (torch_run := torch_candidate(a, p, options.eps)) is not None:
                    programs["torch svd"] = torch_run
                    compiled["torch svd"] = (torch_run, 0.0, None)
                if (estimate := matfree_candidate(a, p, options.eps)) is not None:
                    programs[SLQ] = estimate[0]
                    compiled[SLQ] = estimate
                times = measure(programs, a, options.repeats, options.budget)
                base = statistics.median(times["plain svd"])
                for key, program in programs.items():
                    found, slope = (to_numpy(x) for x in program(a))
                    off = f"{abs(found.sum() / value - 1):.0e}"
                    if key == SLQ:
                        error, off = "none", f"{off} (standard error {slope / value:.0e})"
                    else:
                        error = np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)
                        error = f"{error:.0e}"
                    seconds, size = compiled[key][1:]
                    size = "unknown" if size is None else f"{size / 2**20:.1f}"
                    low, mid, high = np.quantile(times[key], [0.25, 0.5, 0.75]) * 1e3
                    print(
                        f"| {name} | {spectrum} | {p:g} | {key} | {seconds:.1f} "
                        f"| {mid:.2f} | {low:.2f}-{high:.2f} | {base * 1e3 / mid:.2f} "
                        f"| {error} | {off} | {size} |",
                        flush=True,
                    )


def to_numpy(x):
    """float64 of a JAX array or a torch tensor, wherever it lies."""
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.float64)


if __name__ == "__main__":
    main()
