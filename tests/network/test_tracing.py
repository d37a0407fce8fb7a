import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network.internal import interpret
from tests.network.models import equinox_network, linen_network, nnx_network


@pytest.mark.parametrize("network", [nnx_network, linen_network])
def test_interpreting_computes_the_same_outputs(network):
    apply, params = network()
    shape = (1, 8, 8, 1) if network is nnx_network else (1, 5)
    x = jax.random.normal(jax.random.key(2), shape, jnp.float32)
    trace = jax.jit(lambda p, x: interpret(apply, p, x).output)(params, x)
    np.testing.assert_allclose(trace, apply(params, x), rtol=1e-5, atol=1e-6)


def test_layers_see_the_inputs_they_multiply():
    apply, model = equinox_network()
    x = jnp.arange(5, dtype=jnp.float32)[None]
    arrays, rebuild = jax.tree.flatten(model)
    seen = []
    leaves = [a for a in arrays if hasattr(a, "shape")]

    def forward(leaves, x):
        it = iter(leaves)
        return apply(rebuild.unflatten([next(it) if hasattr(a, "shape") else a for a in arrays]), x)

    interpret(forward, leaves, x, lambda use, data: seen.append(np.asarray(data).ravel()))
    hidden = jax.nn.relu(model.layers[0](x[0]))
    np.testing.assert_allclose(seen[0], x[0])
    np.testing.assert_allclose(seen[1], hidden, rtol=1e-6)


def test_a_reversed_scan_visits_the_layers_last_first():
    stack = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)])

    def apply(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, jnp.sum(h)), x, p, reverse=True)

    seen = []
    trace = interpret(apply, stack, jnp.ones((1, 2)), lambda use, data: seen.append(data[0, 0]))
    np.testing.assert_allclose(seen, [1, 3, 6])
    out, sums = apply(stack, jnp.ones((1, 2)))
    np.testing.assert_allclose(trace.output[0], out)
    np.testing.assert_allclose(trace.output[1], sums)


def test_weights_inside_control_flow_are_run_but_not_taken_for_layers():
    def apply(p, x):
        return jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (c[0] @ p, c[1] + 1), (x, 0))[0]

    trace = interpret(apply, 2 * jnp.eye(2), jnp.ones((1, 2)))
    assert trace.uses == []
    assert trace.other == {0: ("while",)}
    np.testing.assert_allclose(trace.output, 4 * jnp.ones((1, 2)))


@pytest.mark.parametrize(
    "reach",
    [
        lambda w: w.reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4),
        lambda w: w[:, ::2],
        lambda w: w / jnp.linalg.norm(w),
        lambda w: w[1:],
    ],
)
def test_a_weight_that_is_changed_first_is_no_layer(reach):
    w = jnp.ones((6, 4))
    x = jnp.ones((1, reach(w).shape[0]))
    trace = interpret(lambda p, x: x @ reach(p), w, x)
    assert trace.uses == []
    assert 0 in trace.other


@jax.custom_vjp
def halved(x, w):
    return x @ w / 2


halved.defvjp(lambda x, w: (halved(x, w), (x, w)), lambda r, g: (g @ r[1].T / 2, r[0].T @ g / 2))


@jax.custom_jvp
def doubled(x, w):
    return 2 * (x @ w)


@doubled.defjvp
def _doubled_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return doubled(x, w), 2 * (dx @ w + x @ dw)


@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(jax.jit(f)))]
)
@pytest.mark.parametrize("layer", [lambda x, w: x @ w, halved, doubled])
def test_layers_inside_other_transformations_are_found(wrap, layer):
    params = [jnp.full((2, 3), 0.5), jnp.full((3, 2), 2.0)]

    def apply(p, x):
        return layer(jnp.tanh(layer(x, p[0])), p[1].astype(x.dtype))

    x = jnp.ones((1, 2))
    trace = interpret(wrap(apply), params, x)
    assert [(use.leaf, use.view.out, use.view.in_) for use in trace.uses] == [
        (0, (1,), (0,)),
        (1, (1,), (0,)),
    ]
    np.testing.assert_allclose(trace.output, apply(params, x))


def test_a_layer_applied_with_vmap_is_seen_with_all_its_positions():
    def apply(p, x):
        return jax.vmap(lambda token: p @ token)(x[0])[None]

    ((use),) = interpret(apply, jnp.ones((4, 3)), jnp.ones((1, 5, 3))).uses
    assert (use.view.out, use.view.in_, use.positions) == ((0,), (1,), 5)
