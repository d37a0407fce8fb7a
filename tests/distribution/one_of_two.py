"""One of two processes: ``one_of_two.py PORT NUMBER`` trains and prints what came out."""

import sys

import jax
import numpy as np


def main(port, number):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=2, process_id=number, initialization_timeout=60
    )
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from tests.distribution import network

    kinds = (AxisType.Auto,) * 3
    mesh = jax.make_mesh((2, 2, 1), ("data", "fsdp", "tensor"), axis_types=kinds)
    assert len(mesh.local_devices) == 2

    def place(x, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

    params = jax.tree.map(place, network.parameters(np.float32), network.shardings())  # pyright: ignore[reportArgumentType]
    data = tuple(place(x, P("data")) for x in network.batch(np.float32))  # pyright: ignore[reportArgumentType]
    structure = network.structure().spread_over(mesh)
    optimiser, step = network.make_step(structure, "penalty")
    state = jax.jit(optimiser.init)(params)
    step = jax.jit(step)
    for _ in range(3):
        params, state, value = step(params, state, data)
    total = jax.jit(lambda q: sum(abs(x).sum() for x in jax.tree.leaves(q)))(params)
    print("came out", float(value), float(total), flush=True)  # pyright: ignore[reportPossiblyUnboundVariable]
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
