"""Every test and doctest runs in float64 with strict promotion; float32 is asked for by name."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

# OpenBLAS threads spin while they wait; next to a second test process that is many times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Test after test, process after process, the same small programs are compiled: here once a run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rankjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Most of the time of most tests is XLA's, for programs that run once. Without its fusion emitters a
# third of that is saved, a third of the rest where it does not split each small program to compile
# the parts in parallel, and half of what is left where LLVM does not optimize.
# With jaxlib 0.11 the emitters are no choice any more, and unknown flags end the process.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

import jax
import optax.contrib
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

from tests import annotations  # noqa: E402 - after the types are set

annotations.switch_on()

# Tracing makes many small objects. Unless what is there to stay is left out, the collector walks
# through all that earlier tests have compiled, again and again.
gc.freeze()
gc.set_threshold(50_000, 50, 50)


def pytest_collection_modifyitems(items):
    if hasattr(optax.contrib, "MuonDimensionNumbers"):
        return
    for item in items:
        if "muon" in item.name:
            item.add_marker(pytest.mark.skip(reason="Optax without dimension numbers for Muon"))


@pytest.fixture(scope="module", autouse=True)
def left_out_of_later_collections():
    yield
    gc.collect()
    gc.freeze()
