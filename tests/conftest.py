"""Every test and doctest runs in float64 with strict promotion; float32 is asked for by name."""

import atexit
import os
import shutil
import tempfile

# OpenBLAS threads spin while they wait; next to a second test process that is many times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Test after test, process after process, the same small programs are compiled: here once a run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rankjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time of most tests is XLA's: a quarter to a half of it is saved.
jax.config.update("jax_disable_most_optimizations", True)

from tests import annotations  # noqa: E402 - after the types are set

annotations.switch_on()
