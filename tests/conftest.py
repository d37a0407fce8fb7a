"""Every test and doctest runs in float64 with strict promotion; float32 is asked for by name."""

import os

# OpenBLAS threads spin while they wait; next to a second test process that is many times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Most of the time of most tests is XLA's: a quarter to a half of it is saved.
jax.config.update("jax_disable_most_optimizations", True)
