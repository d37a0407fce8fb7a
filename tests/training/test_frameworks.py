"""The same chain in the training loop of each framework, without its own code here."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

from rankjax.network import describe, measure
from rankjax.training import (
    add_schatten_decay,
    log_det_penalty,
    project_spectral_norm,
    record_metrics,
    schatten_penalty,
)
from tests.network.models import ScannedLinen

X = jax.random.normal(jax.random.key(0), (32, 5), jnp.float32)
Y = jnp.sin(X[:, :3])


@pytest.fixture(autouse=True)
def ordinary_promotion():
    with jax.numpy_dtype_promotion("standard"):  # the frameworks themselves mix dtypes
        yield


def chain(structure):
    return optax.chain(
        optax.scale_by_adam(),
        add_schatten_decay(structure, 5.0, p=0.5, eps=0.1, refresh=5),
        optax.scale_by_learning_rate(1e-2),
        project_spectral_norm(structure, 1.5, every=5),
        record_metrics(structure, every=5),
    )


def check(structure, before, after, state):
    low, high = (schatten_penalty(structure, p, p=0.5, eps=0.1) for p in (after, before))
    assert low < 0.8 * high
    assert np.max(measure(structure, after).spectral_norm) <= 1.51
    recorded = optax.tree_utils.tree_get(state, "metrics")
    assert np.isfinite(jax.tree.leaves(recorded)).all()


def test_nnx_optimizer():
    model = nnx.Sequential(
        nnx.Linear(5, 16, rngs=nnx.Rngs(0), param_dtype=jnp.float32),
        nnx.relu,
        nnx.Linear(16, 3, rngs=nnx.Rngs(1), param_dtype=jnp.float32),
    )
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    structure = describe(before)
    optimizer = nnx.Optimizer(model, chain(structure), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            penalty = log_det_penalty(structure, nnx.state(model, nnx.Param), weight=1e-3)
            return jnp.mean((model(X) - Y) ** 2) + penalty

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(30):
        step(model, optimizer)
    check(structure, before, nnx.state(model, nnx.Param), optimizer.opt_state)


def test_linen_train_state_with_scanned_layers():
    model = ScannedLinen()
    variables = model.init(jax.random.key(0), X)
    apply = lambda params, x: model.apply({"params": params}, x)  # noqa: E731
    structure = describe(variables["params"], apply=apply, example=X)
    state = TrainState.create(apply_fn=apply, params=variables["params"], tx=chain(structure))

    @jax.jit
    def step(state):
        loss = lambda p: jnp.mean((state.apply_fn(p, X)[:, :3] - Y) ** 2)  # noqa: E731
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    for _ in range(30):
        state = step(state)
    check(structure, variables["params"], state.params, state.opt_state)


def test_equinox_module():
    model = eqx.nn.MLP(5, 3, 16, 2, key=jax.random.key(0), dtype=jnp.float32)
    before = params = eqx.filter(model, eqx.is_inexact_array)
    structure = describe(params)
    optimizer = chain(structure)

    @eqx.filter_jit
    def step(model, state):
        gradients = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(gradients, state, params)
        return eqx.apply_updates(model, updates), state

    state = optimizer.init(params)
    for _ in range(30):
        model, state = step(model, state)
    check(structure, before, eqx.filter(model, eqx.is_inexact_array), state)


def test_a_convolution_and_attention_in_one_plain_tree():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3))(x)).reshape(x.shape[0], -1, 8)
            return nn.Dense(3)(nn.MultiHeadDotProductAttention(2)(x, x).mean(1))

    images = jax.random.normal(jax.random.key(1), (8, 4, 4, 1), jnp.float32)
    net = Net()
    params = before = net.init(jax.random.key(0), images)
    structure = describe(params, apply=net.apply, example=images)
    optimizer = chain(structure)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: jnp.mean((net.apply(p, images) - Y[:8]) ** 2))(params)  # pyright: ignore[reportOperatorIssue]
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(30):
        params, state = step(params, state)
    check(structure, before, params, state)
