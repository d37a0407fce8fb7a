import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import describe
from rankjax.network._running import run
from rankjax.network._tracing import trace_uses
from tests.network.models import equinox_network, linen_network, nnx_network


def seen(apply, params, x):
    """The outputs, and the uses with the arrays that the matrices are applied to."""
    program = trace_uses(apply, params, x)
    uses = program.trace.uses

    def look(number, values, outs):
        return outs, values[1 - uses[number].side]

    outputs, kept = run(program, params, x, at=set(uses), look=look)
    return outputs, [(use, kept[number]) for number, use in uses.items()]


@pytest.mark.parametrize("network", [nnx_network, linen_network])
def test_running_computes_the_same_outputs(network):
    apply, params = network()
    shape = (1, 8, 8, 1) if network is nnx_network else (1, 5)
    x = jax.random.normal(jax.random.key(2), shape, jnp.float32)
    outputs = jax.jit(lambda p, x: seen(apply, p, x)[0])(params, x)
    np.testing.assert_allclose(outputs, apply(params, x), rtol=1e-5, atol=1e-6)


def test_layers_see_the_inputs_they_multiply():
    apply, model = equinox_network()
    x = jnp.arange(5, dtype=jnp.float32)[None]
    arrays, rebuild = jax.tree.flatten(model)
    leaves = [a for a in arrays if hasattr(a, "shape")]

    def forward(leaves, x):
        it = iter(leaves)
        return apply(rebuild.unflatten([next(it) if hasattr(a, "shape") else a for a in arrays]), x)

    found = [np.ravel(data) for _, data in seen(forward, leaves, x)[1]]
    hidden = jax.nn.relu(model.layers[0](x[0]))
    np.testing.assert_allclose(found[0], x[0])
    np.testing.assert_allclose(found[1], hidden, rtol=1e-6)


def test_a_reversed_scan_visits_the_layers_last_first():
    stack = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)])

    def apply(p, x):
        return jax.lax.scan(lambda h, w: (h @ w, jnp.sum(h)), x, p, reverse=True)

    found, ((use, data),) = seen(apply, stack, jnp.ones((1, 2)))
    np.testing.assert_allclose(data[:, 0, 0], [6, 3, 1])  # as the members are numbered
    np.testing.assert_array_equal(use.members, [0, 1, 2])
    out, sums = apply(stack, jnp.ones((1, 2)))
    np.testing.assert_allclose(found[0], out)
    np.testing.assert_allclose(found[1], sums)


def test_weights_inside_control_flow_are_run_but_not_taken_for_layers():
    def apply(p, x):
        return jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (c[0] @ p, c[1] + 1), (x, 0))[0]

    program = trace_uses(apply, 2 * jnp.eye(2), jnp.ones((1, 2)))
    assert program.trace.uses == {}
    assert program.trace.other == {0: ("while",)}
    np.testing.assert_allclose(seen(apply, 2 * jnp.eye(2), jnp.ones((1, 2)))[0], [[4, 4]])


W = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))
STACK = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4)))
GAIN, U, V = W[0] + 3, W[:, :2], W[:2]
ROW = GAIN[None]
MASK = np.tri(6, 4)


def scaled_stack(p, x):
    return jax.lax.scan(lambda h, w: (h @ (w[0] * w[1]), None), x, (p["w"], p["g"]))[0]


CHANGES = {
    "a scale": (lambda p, x: x @ (p["w"] * 0.5), {"w": W}, [W / 2]),
    "a learned scale": (lambda p, x: x @ (p["w"] * p["g"]), {"w": W, "g": ROW}, [W * ROW]),
    "a mask": (lambda p, x: x @ (p["w"] * MASK), {"w": W}, [W * MASK]),
    "its sign": (lambda p, x: x @ -p["w"], {"w": W}, [-W]),
    "turned around": (lambda p, x: x @ p["w"][::-1], {"w": W}, [W[::-1]]),
    "a part": (lambda p, x: x[:, 1:] @ p["w"][1:], {"w": W}, [W[1:]]),
    "one column": (lambda p, x: x @ p["w"][:, :1], {"w": W}, [W[:, :1]]),
    "every other column": (lambda p, x: x @ p["w"][:, ::2], {"w": W}, [W[:, ::2]]),
    "its axes regrouped": (
        lambda p, x: x @ p["w"].reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4),
        {"w": W},
        [W.reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4)],
    ),
    "weight normalization": (
        lambda p, x: x @ (p["w"] * (p["g"] / jnp.linalg.norm(p["w"], axis=0))[None]),
        {"w": W, "g": GAIN},
        [W * (GAIN / jnp.linalg.norm(W, axis=0))[None]],
    ),
    "W + s A B": (
        lambda p, x: x @ (p["w"] + 0.25 * p["a"] @ p["b"]),
        {"w": W, "a": U, "b": V},
        [W + U @ V / 4],
    ),
    "joined": (
        lambda p, x: x @ jnp.concatenate([p["w"], p["v"]], 1),
        {"w": W, "v": U},
        [jnp.concatenate([W, U], 1)],
    ),
    "split": (
        lambda p, x: sum(x @ part for part in jnp.split(p["w"], 2, 1)),
        {"w": W},
        [W[:, :2], W[:, 2:]],
    ),
    "integers and their scale": (
        lambda p, x: x @ (p["w"].astype(float) * p["s"][None]),
        {"w": jnp.asarray(MASK, jnp.int8), "s": GAIN},
        [MASK * np.asarray(GAIN)],
    ),
    "scaled in a loop over layers": (
        lambda p, x: scaled_stack(p, x[:, :4]),
        {"w": STACK, "g": jnp.asarray([2.0, 3.0, 4.0])},
        [STACK * np.asarray([2.0, 3.0, 4.0])[:, None, None]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_is_changed_first_is_the_matrix_that_acts(change):
    apply, params, expected = CHANGES[change]
    structure = describe(params, apply=apply, example=jnp.ones((1, 6)))
    matrices = structure.matrices(params)
    assert len(matrices) == len(expected)
    for matrix, right in zip(matrices, expected, strict=True):
        np.testing.assert_allclose(
            matrix[:, 0], np.swapaxes(np.asarray(right), -1, -2).reshape(matrix[:, 0].shape)
        )
    assert hash(structure) == hash(describe(params, apply=apply, example=jnp.ones((1, 6))))
    assert structure == describe(params, apply=apply, example=jnp.ones((1, 6)))
    # The other leaves are named as parts of it.
    for leaf in structure.left_out:
        assert leaf.text.startswith("part of the matrix of ")
    gradients = jax.grad(
        lambda q: sum(jnp.sum(a**2) for a in structure.matrices(q)), allow_int=True
    )
    for path, gradient in gradients(params).items():
        if jnp.issubdtype(gradient.dtype, jnp.floating):
            assert float(jnp.abs(gradient).max()) > 0, path
    with pytest.raises(ValueError, match="is computed from"):
        structure.leaves(params)


@pytest.mark.parametrize("scaled", [lambda w: w, lambda w: 3 * w])
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.bool_, jnp.float8_e4m3fn])
def test_a_cast_that_cuts_off_is_followed(dtype, scaled):
    params = {"w": W, "v": W.T}

    def apply(p, x):
        return x @ scaled(p["w"]).astype(dtype).astype(float) @ p["v"].astype(jnp.float32)

    with jax.numpy_dtype_promotion("standard"):
        structure = describe(params, apply=apply, example=jnp.ones((1, 6)))
    right = np.asarray(scaled(W).astype(dtype).astype(float))
    assert not np.allclose(right, scaled(W))
    np.testing.assert_array_equal(structure.matrices(params)[0][0, 0], right.T)
    assert structure.layers[0].effect is not None
    assert structure.layers[1].effect is None  # fewer digits of the same numbers
    jax.grad(lambda q: sum(jnp.sum(a) for a in structure.matrices(q)))(params)


def test_structures_of_different_steps_differ():
    structures = [
        describe({"w": W}, apply=lambda p, x, c=c: x @ (p["w"] * c), example=jnp.ones((1, 6)))
        for c in (0.5, 0.25)
    ]
    assert structures[0] != structures[1]


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
    outputs, found = seen(wrap(apply), params, x)
    assert [(use.leaf, use.view.out, use.view.in_) for use, _ in found] == [
        (0, (1,), (0,)),
        (1, (1,), (0,)),
    ]
    np.testing.assert_allclose(outputs, apply(params, x))


def test_a_layer_applied_with_vmap_is_seen_with_all_its_positions():
    def apply(p, x):
        return jax.vmap(lambda token: p @ token)(x[0])[None]

    (use,) = trace_uses(apply, jnp.ones((4, 3)), jnp.ones((1, 5, 3))).trace.uses.values()
    assert (use.view.out, use.view.in_, use.positions) == ((0,), (1,), 5)


def by_index(p, x):
    for i in (0, 0, 1, 1):
        x = x @ p[i]
    return x


def by_counter(p, x):
    return jax.lax.fori_loop(0, 4, lambda i, h: h @ p[i // 2], x)


def by_scan(p, x):
    def twice(h, w):
        return jax.lax.scan(lambda h, _: (h @ w, None), h, None, length=2)[0], None

    return jax.lax.scan(twice, x, p)[0]


@pytest.mark.parametrize("apply", [by_index, by_counter, by_scan])
def test_the_member_of_a_stack_is_told_by_its_index(apply):
    stack = jnp.stack([0.1 * jnp.eye(3), 2 * jnp.eye(3)])
    _, found = seen(apply, stack, jnp.full((1, 3), 10.0))
    largest = {}
    for use, data in found:
        for member, value in zip(np.ravel(use.members), np.ravel(data)[::3], strict=True):
            largest[int(member)] = max(largest.get(int(member), 0), float(value))
    assert largest[0] == pytest.approx(10)
    assert largest[1] == pytest.approx(0.2)
    (layer,) = describe(stack, apply=apply, example=jnp.ones((1, 3))).layers
    assert (layer.uses, layer.positions, layer.stacked) == (2, 2, 2)
