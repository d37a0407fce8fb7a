"""Two processes on this machine, two devices each, train one network with the penalty."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from tests.distribution import network

ROOT = Path(__file__).parents[2]
TIMEOUT = 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def outputs_of_two_processes():
    """What both print; neither outlives this function."""
    program = [sys.executable, "-m", "tests.distribution.one_of_two", str(free_port())]
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([*program, str(number)], cwd=ROOT, env=env, **pipes) for number in range(2)
    ]
    end = time.monotonic() + TIMEOUT
    try:
        texts = [process.communicate(timeout=end - time.monotonic()) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    for process, (_, errors) in zip(started, texts, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [out for out, _ in texts]


def test_two_processes_train_as_one_does():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        params, data = network.parameters(np.float32), network.batch(np.float32)  # pyright: ignore[reportArgumentType]
        optimiser, step = network.make_step(network.structure(), "penalty")
        state, step = optimiser.init(params), jax.jit(step)
        for _ in range(3):
            params, state, value = step(params, state, data)
        total = sum(abs(x).sum() for x in jax.tree.leaves(params))
    for output in outputs_of_two_processes():
        got = [float(x) for x in output.split("came out")[1].split()]
        np.testing.assert_allclose(got, [value, total], rtol=1e-4)  # pyright: ignore[reportPossiblyUnboundVariable]
