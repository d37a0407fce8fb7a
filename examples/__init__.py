"""Demos, data sets and example networks, run from a checkout: ``python -m examples.demo``."""

import os

# OpenBLAS threads wait by spinning: beside other work on few cores that is many times slower than
# one thread. It reads this once, when JAX loads it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
