"""A network on factors: numbers and slopes of the dense one, and no array of the dense shape."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from rankjax.network import View, describe
from rankjax.training import Factors, densify, factorize, lowrank
from tests.network.models import equinox_network, nnx_network


def leaf(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def small_tree(params, axes, rank=2):
    structure = describe(params, axes=axes, mask=lambda path, _: path in axes)
    return structure, factorize(structure, params, rank)


def shapes_in(program):
    """Of every value of a program, those of inner programs included."""
    found = set()
    for eqn in program.eqns:
        found |= {tuple(var.aval.shape) for var in eqn.outvars}
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= shapes_in(inner)
    return found


def factors_of(tree):
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Factors))
    return [node for node in found if isinstance(node, Factors)]


def check(apply, structure, small, *x, rtol=1e-12):
    """Numbers and slopes as with the dense weights; none of their shape in either program."""
    assert factors_of(small)

    def loss(run):
        def of(tree):
            out = run(tree, *x)
            return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

        return jax.value_and_grad(of)

    run = lowrank(apply)
    dense = lambda tree, *x: apply(densify(structure, tree), *x)  # noqa: E731
    expected = jax.jit(dense)(small, *x)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(run(small, *x), expected, rtol=0, atol=rtol * scale)
    (_, slopes), (_, wanted) = jax.jit(loss(run))(small), jax.jit(loss(dense))(small)
    assert jax.tree.structure(slopes) == jax.tree.structure(small)
    largest = max(float(jnp.abs(a).max()) for a in jax.tree.leaves(wanted))
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=10 * rtol * largest)
    shapes = shapes_in(jax.make_jaxpr(loss(run))(small).jaxpr)
    sizes = [int(np.prod(s)) for s in shapes]
    assert all(int(np.prod(node.shape)) not in sizes for node in factors_of(small))
    return max(sizes)


# Sizes are different primes, so that no array is as large as the weight by chance.
PRODUCTS = {
    "dense": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: x @ w),
    "torch": ((11, 13), View((0,), (1,)), (5, 13), lambda w, x: x @ w.T),
    "from the left": ((11, 13), View((0,), (1,)), (13, 5), lambda w, x: w @ x),
    "the other way": ((13, 11), View((1,), (0,)), (5, 11), lambda w, x: x @ w.T),
    "query": ((13, 3, 7), View((1, 2), (0,)), (5, 13), lambda w, x: jnp.einsum(
        "bi,ihd->bhd", x, w)),
    "query as one": (
        (13, 3, 7), View((1, 2), (0,)), (5, 13), lambda w, x: x @ w.reshape(13, 21)
    ),
    "out": (
        (3, 7, 13), View((2,), (0, 1)), (5, 3, 7), lambda w, x: jnp.einsum("bhd,hdo->bo", x, w)
    ),
    "out as one": (
        (3, 7, 13), View((2,), (0, 1)), (5, 21), lambda w, x: x @ w.reshape(21, 13)
    ),
    "heads apart": ((13, 21), View((1,), (0,)), (5, 13), lambda w, x: jnp.einsum(
        "bi,ihd->hbd", x, w.reshape(13, 3, 7))),
    "two inputs apart": ((3, 13, 7), View((1,), (0, 2)), (5, 3, 7), lambda w, x: jnp.einsum(
        "bhd,hod->bo", x, w)),
    "over outputs and inputs": ((13, 3, 7), View((1, 2), (0,)), (5, 13, 3), lambda w, x: jnp.einsum(
        "bih,ihd->bd", x, w)),
    "experts": ((3, 13, 7), View((2,), (1,), parallel=(0,)), (3, 5, 13), lambda w, x: x @ w),
    "all experts": ((3, 13, 7), View((2,), (1,), parallel=(0,)), (5, 13), lambda w, x: jnp.einsum(
        "bi,eio->beo", x, w)),
    "sum of experts": ((3, 13, 7), View((2,), (1,), parallel=(0,)), (5, 3, 13),
        lambda w, x: jnp.einsum("bei,eio->bo", x, w)),
    "experts last": ((13, 7, 3), View((1,), (0,), parallel=(2,)), (5, 13, 3),
        lambda w, x: jnp.einsum("bie,ioe->boe", x, w)),
    "one of a stack": ((3, 13, 7), View((2,), (1,), stacked=(0,)), (5, 13), lambda w, x: x @ w[1]),
    "one of a stack, traced": ((3, 13, 7), View((2,), (1,), stacked=(0,)), (5, 13),
        lambda w, x: x @ w[jnp.argmax(x[0, :3])]),
    "chosen experts": ((3, 13, 7), View((2,), (1,), parallel=(0,)), (5, 13),
        lambda w, x: jnp.einsum("bi,bio->bo", x, w[jnp.argmax(x[:, :3], axis=1)])),
    "halves": ((13, 22), View((1,), (0,)), (5, 13), lambda w, x: jnp.tanh(x @ w[:, :10]) @ (
        x @ w[:, 10:20]).T),
    "split": ((13, 22), View((1,), (0,)), (5, 13), lambda w, x: jnp.tanh(
        x @ jnp.split(w, 2, axis=1)[0]) - x @ jnp.split(w, 2, axis=1)[1]),
    "every second input": ((13, 11), View((1,), (0,)), (5, 7), lambda w, x: x @ w[::2]),
    "flipped": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: x @ w[::-1, ::-1]),
    "scaled": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: x @ (-w * x[0, 0] / 3)),
    "broadcast": ((13, 11), View((1,), (0,)), (5, 2, 13), lambda w, x: x @ jnp.broadcast_to(
        w, (5, 13, 11))),
    "sum over copies": ((13, 11), View((1,), (0,)), (5, 3, 13), lambda w, x: jnp.einsum(
        "bki,kio->bo", x, jnp.broadcast_to(w, (3, 13, 11)))),
    "inputs apart": ((21, 11), View((1,), (0,)), (5, 3, 7), lambda w, x: jnp.einsum(
        "bhd,hdo->bo", x, w.reshape(3, 7, 11))),
    "with other weights": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: x @ jnp.concatenate(
        [w, jnp.ones((13, 2)), w], axis=1)),
    "on other inputs": ((13, 11), View((1,), (0,)), (5, 26), lambda w, x: (x @ jnp.concatenate(
        [w.T, w.T], axis=1).T)),
    "stopped": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: x @ w + x @ lax.stop_gradient(w)),
    "vmapped": ((11, 13), View((0,), (1,)), (5, 13), lambda w, x: jax.vmap(lambda x: w @ x)(x)),
    "slope by the input": ((13, 11), View((1,), (0,)), (5, 13), lambda w, x: jax.grad(
        lambda x: jnp.sum(jnp.tanh(x @ w)))(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    shape, view, of_x, function = PRODUCTS[name]
    structure, small = small_tree({"w": leaf(shape)}, {"w": view})
    largest = check(lambda tree, x: function(tree["w"], x), structure, small, leaf(of_x, 1))
    assert largest < np.prod(shape)  # also not on the way, as in the order of more multiplications


CONVOLUTIONS = {
    "plain": {},
    "strides": {"window_strides": (2, 1), "padding": "VALID"},
    "dilation": {"rhs_dilation": (2, 2), "padding": ((2, 1), (0, 3))},
    "transposed": {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))},
    "groups": {"feature_group_count": 2},
    "groups and strides": {"feature_group_count": 2, "window_strides": (2, 2)},
}


@pytest.mark.parametrize("spec", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, spec):
    options = {"window_strides": (1, 1), "padding": "SAME", **CONVOLUTIONS[name]}
    groups = options.get("feature_group_count", 1)
    of = {"H": 3, "W": 5, "I": 4 // groups, "O": 14}

    def apply(tree, x):
        return lax.conv_general_dilated(x, tree["kernel"], dimension_numbers=spec, **options)

    params = {"kernel": leaf([of[axis] for axis in spec[1]])}
    x = leaf([{"N": 2, "C": 4, "H": 9, "W": 8}[axis] for axis in spec[0]], 1)
    view = View((spec[1].index("O"),), tuple(spec[1].index(axis) for axis in "HWI"))
    for structure in (
        describe(params, apply=apply, example=x),
        describe(params, axes={"kernel": view}),  # which does not know of groups
    ):
        small = factorize(structure, params, 2)
        check(apply, structure, small, x)


def test_a_convolution_that_flips_its_kernel():
    model = nn.ConvTranspose(7, (5,), strides=(2,), transpose_kernel=True, param_dtype=jnp.float64)
    x = leaf((2, 6, 3))
    params = model.init(jax.random.key(0), x)
    # Its kernel has the outputs where other convolutions have their inputs.
    structure, small = small_tree(params, {"params/kernel": View((1,), (0, 2))})
    check(model.apply, structure, small, x)
    structure, small = small_tree(params, {"params/kernel": View((2,), (0, 1))})
    expected: Any = model.apply(densify(structure, small), x)
    with pytest.warns(UserWarning, match="'params/kernel' is multiplied out"):
        found = lowrank(model.apply)(small, x)
    np.testing.assert_allclose(found, expected, atol=1e-12)


TABLES = {
    "lookup": lambda e, ids: e[ids],
    "take": lambda e, ids: jnp.take(e, ids, axis=0),
    "take, clipped": lambda e, ids: jnp.take(e, ids + 5, axis=0, mode="clip"),
    "entries": lambda e, ids: e[ids, ids % 7],
    "columns": lambda e, ids: e[:, ids % 7],
    "zeros beyond": lambda e, ids: e.at[ids + 5].get(mode="fill", fill_value=0),
    "tied": lambda e, ids: jnp.tanh(e[ids]) @ e.T,
    "one hot": lambda e, ids: jax.nn.one_hot(ids, 11, dtype=e.dtype) @ e,
    "vmapped": lambda e, ids: jax.vmap(lambda i: e[i])(ids),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", [(2, 4), (3,)])
def test_tables(name, shape):
    ids = jnp.asarray(np.random.default_rng(1).integers(0, 11, size=shape))
    structure, small = small_tree({"e": leaf((11, 7))}, {"e": View((1,), (0,))})
    if name == "one hot" and shape == (3,):
        ids = ids[:, None]
    check(lambda tree, ids: TABLES[name](tree["e"], ids), structure, small, ids)


def test_beyond_the_table_are_no_numbers():
    _, small = small_tree({"e": leaf((11, 7))}, {"e": View((1,), (0,))})
    out = lowrank(lambda tree, ids: jnp.take(tree["e"], ids, axis=0))(small, jnp.asarray([3, 11]))
    np.testing.assert_array_equal(np.isnan(out).any(axis=1), [False, True])


def test_ragged_products():
    x, sizes = leaf((10, 13), 1), jnp.asarray([4, 1, 5], jnp.int32)
    view = View((2,), (1,), parallel=(0,))
    structure, small = small_tree({"w": leaf((3, 13, 7))}, {"w": view})
    check(lambda tree, x: lax.ragged_dot(x, tree["w"], sizes), structure, small, x)
    transposed = View((1,), (2,), parallel=(0,))
    structure, small = small_tree({"w": leaf((3, 7, 13))}, {"w": transposed})
    check(lambda tree, x: lax.ragged_dot(x, tree["w"].mT, sizes), structure, small, x)


STACK = View((2,), (1,), stacked=(0,))


def loop(tree, x):
    def step(h, layer):
        return jnp.tanh(h @ layer["w"] + layer["b"][None]), None

    return lax.scan(step, x, {"w": tree["stack"], "b": tree["b"]})[0]


def loop_backwards(tree, x):
    # The weights come out again, as in a loop over the state of a module.
    out, again = lax.scan(
        lambda h, w: (jnp.tanh(h @ w), w), x, tree["stack"], reverse=True, unroll=2
    )
    return out @ again[0]


def checkpointed(tree, x):
    step = jax.checkpoint(lambda h, w: jnp.tanh(h @ w))
    return lax.scan(lambda h, w: (step(h, w), None), x, tree["stack"])[0]


def with_a_key(tree, x):
    def step(c, _):
        key, other = jax.random.split(c[0])
        return (key, jnp.tanh(c[1] @ tree["w"] + jax.random.normal(other, x.shape))), None

    return lax.scan(step, (jax.random.key(0), x), length=3)[0][1]


def recurrent(tree, x):
    (w, h), _ = lax.scan(
        lambda c, _: ((c[0], jnp.tanh(c[1] @ c[0])), None), (tree["w"], x), length=3
    )
    return h @ w


def branches(tree, x):
    w = tree["w"]
    h = lax.cond(x[0, 0] > 0, lambda w, x: x @ w, lambda w, x: jnp.sin(x @ w), w, x)
    return lax.switch(2, [lambda h: h, lambda h: h @ w, lambda h: jnp.tanh(h @ w.T)], h)


def nested(tree, x):
    return jax.jit(lambda w, x: jax.nn.relu(jax.jit(jnp.matmul)(x, w.T)))(tree["w"], x)


CONTROL = {
    "scan": loop,
    "scan backwards": loop_backwards,
    "scan and checkpoint": checkpointed,
    "a recurrent weight": recurrent,
    "a random key": with_a_key,
    "branches": branches,
    "jit": nested,
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_flow(name):
    params = {"stack": leaf((3, 13, 13)) / 3, "b": leaf((3, 13), 1), "w": leaf((13, 13), 2) / 3}
    axes = {"stack": STACK, "w": View((1,), (0,))}
    structure, small = small_tree(params, axes)
    check(CONTROL[name], structure, small, leaf((5, 13), 3))


def test_while_loops_and_forward_derivatives():
    def apply(tree, x):
        def step(c):
            return c[0] + 1, c[1], jnp.tanh(c[2] @ c[1])

        return lax.while_loop(lambda c: c[0] < 3, step, (0, tree["w"], x))[2]

    structure, small = small_tree({"w": leaf((13, 13))}, {"w": View((1,), (0,))})
    x = leaf((5, 13))
    run = lowrank(apply)
    dense = lambda tree, x: apply(densify(structure, tree), x)  # noqa: E731
    np.testing.assert_allclose(run(small, x), dense(small, x), atol=1e-12)
    found, wanted = (jax.jvp(lambda t, f=f: f(t, x), (small,), (small,))[1] for f in (run, dense))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def attention_nnx():
    model = nnx.MultiHeadAttention(2, 14, decode=False, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params, x):
        with jax.numpy_dtype_promotion("standard"):
            return nnx.merge(graph, params, rest)(x)

    return apply, params, leaf((2, 5, 14))


def attention_linen():
    model = nn.MultiHeadDotProductAttention(2, param_dtype=jnp.float64)
    x = leaf((2, 5, 14))
    return model.apply, model.init(jax.random.key(0), x), x


def scanned_nnx():
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return nnx.Linear(13, 13, rngs=nnx.Rngs(key), param_dtype=jnp.float64)

    graph, params = nnx.split(make(jax.random.split(jax.random.key(0), 3)))

    def apply(params, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return nnx.relu(layer(x))

        return forward(x, nnx.merge(graph, params))

    return apply, params, leaf((5, 13))


def scanned_linen():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.Dense(13, param_dtype=jnp.float64)(x)), None

    block = nn.scan(
        nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    )()
    x = leaf((5, 13))
    return lambda p, x: block.apply(p, x, None)[0], block.init(jax.random.key(0), x, None), x


def lstm():
    model = nn.RNN(nn.OptimizedLSTMCell(7, param_dtype=jnp.float64))
    x = leaf((2, 5, 13))
    return model.apply, model.init(jax.random.key(0), x), x


@pytest.mark.parametrize(
    "network", [attention_nnx, attention_linen, scanned_nnx, scanned_linen, lstm]
)
def test_code_of_frameworks(network):
    apply, params, x = network()
    known = {} if network is lstm else {"apply": apply, "example": x}
    structure = describe(params, **known)
    small = factorize(structure, params, 2)
    assert len(factors_of(small)) == len(structure.layers)
    check(apply, structure, small, x)


@pytest.mark.parametrize("network", [nnx_network, equinox_network])
def test_whole_networks(network):
    apply, params = network()
    x = leaf((2, 9, 9, 1) if network is nnx_network else (2, 5)).astype(jnp.float32)
    structure = describe(params, apply=apply, example=x)
    small = factorize(structure, params, 1)
    expected = apply(densify(structure, small), x)
    np.testing.assert_allclose(lowrank(apply)(small, x), expected, rtol=1e-5, atol=1e-6)


def network():
    def apply(tree, x, *, scale: Any = 1.0, train=False):
        h = jax.nn.relu(x @ tree["a"] + tree["b"][None])
        return scale * (h if train else h @ tree["c"])

    params = {"a": leaf((13, 11)), "b": leaf((11,), 1), "c": leaf((11, 7), 2)}
    axes = {"a": View((1,), (0,)), "c": View((1,), (0,))}
    return (apply, *small_tree(params, axes))


def test_factors_are_trained_by_any_optimizer_inside_a_scan():
    apply, structure, small = network()
    x, y = leaf((20, 13), 3), leaf((20, 7), 4)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))

    def train(run):
        def step(c, _):
            tree, state = c
            loss, slopes = jax.value_and_grad(lambda t: jnp.mean((run(t, x) - y) ** 2))(tree)
            updates, state = optimizer.update(slopes, state, tree)
            return (optax.apply_updates(tree, updates), state), loss

        return lax.scan(step, (small, optimizer.init(small)), length=30)

    with jax.numpy_dtype_promotion("standard"):  # Adam multiplies floats by integers
        (trained, _), losses = jax.jit(lambda: train(lowrank(apply)))()
        _, wanted = jax.jit(lambda: train(lambda t, x: apply(densify(structure, t), x)))()
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    assert losses[-1] < 0.7 * losses[0]
    assert [f.shape for f in factors_of(trained)] == [f.shape for f in factors_of(small)]


def test_many_networks_at_once():
    apply, structure, small = network()
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), small)
    x = leaf((5, 13), 3)
    found = jax.vmap(lowrank(apply), (0, None))(many, x)
    for i, scale in enumerate((1, 2)):
        one = jax.tree.map(lambda a, scale=scale: scale * a, small)
        np.testing.assert_allclose(found[i], apply(densify(structure, one), x), atol=1e-10)


def test_options_are_passed_on_and_nothing_is_traced_twice():
    apply, structure, small = network()
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return apply(*args, **kwargs)

    run, x = lowrank(counted), leaf((5, 13), 3)
    dense = densify(structure, small)
    for train in (True, False, True):
        for i in range(3):
            scale = jnp.asarray(2.0 + i)
            np.testing.assert_allclose(
                run(small, x + i, scale=scale, train=train),
                apply(dense, x + i, scale=scale, train=train),
                atol=1e-11,
            )
    assert len(calls) == 2
    assert run.__name__ == "counted"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_weights_that_are_cast(dtype):
    def apply(tree, x):
        return jnp.dot(x, tree["w"].astype(dtype), preferred_element_type=jnp.float32)

    structure, small = small_tree({"w": leaf((13, 11))}, {"w": View((1,), (0,))})
    x = leaf((5, 13)).astype(dtype)
    found, wanted = lowrank(apply)(small, x), apply(densify(structure, small), x)
    assert found.dtype == wanted.dtype == jnp.float32
    error = float(jnp.max(jnp.abs(found - wanted)) / jnp.max(jnp.abs(wanted)))
    assert error < 8 * float(jnp.finfo(dtype).eps)
    text = str(jax.make_jaxpr(lowrank(apply))(small, x))
    assert f"{jnp.dtype(dtype).name.replace('float', 'f').replace('bf', 'bf')}[13,2]" in text


def test_precision_of_each_side_is_kept():
    _, small = small_tree({"w": leaf((11, 13))}, {"w": View((0,), (1,))})
    two = lax.Precision.HIGHEST, lax.Precision.DEFAULT  # of the weight, of the data
    run = lowrank(lambda tree, x: jnp.matmul(tree["w"], x, precision=two))
    (eqn,) = jax.make_jaxpr(run)(small, leaf((13, 5))).jaxpr.eqns
    found = [e for e in eqn.params["jaxpr"].jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [e.params["precision"] for e in found] == [two[::-1]] * 2


FALLBACKS = {
    "integer_pow": lambda w, x: x @ w**2,
    "add": lambda w, x: x @ (w + 1.0),
    "dot_general": lambda w, x: x @ (w.T @ w),
    "the output": lambda w, x: w,
    "scan": lambda w, x: lax.scan(lambda c, _: (-c, None), w, length=3)[0],
    "custom_jvp_call": lambda w, x: x @ jax.nn.relu(w),
    "convert_element_type": lambda w, x: x @ (w.astype(int) + 1).astype(x.dtype),
    "convert_element_type.*": lambda w, x: x @ w.astype(jnp.float8_e4m3fn).astype(x.dtype),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_has_no_rule_is_multiplied_out_once_and_says_so(name):
    structure, small = small_tree({"a": {"w": leaf((13, 13))}}, {"a/w": View((1,), (0,))})
    apply = lambda tree, x: FALLBACKS[name](tree["a"]["w"], x)  # noqa: E731
    run, x = lowrank(apply), leaf((5, 13))
    with pytest.warns(
        UserWarning, match=f"'a/w' is multiplied out where it meets .*{name}"
    ) as told:
        found = run(small, x)
    assert len(told) == 1
    assert told[0].filename == __file__
    np.testing.assert_allclose(found, apply(densify(structure, small), x), atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(small, leaf((4, 13)))  # compiled anew, told once
    text = str(jax.make_jaxpr(lambda t: apply({"a": {"w": t}}, x))(leaf((13, 13))))
    dense_products = str(jax.make_jaxpr(run)(small, x)).count("dot_general")
    assert dense_products == text.count("dot_general") + 1 + (name == "dot_general")


def test_results_that_nobody_reads_multiply_nothing_out():
    def apply(tree, x):
        jnp.sum(tree["w"] ** 2)
        return lax.scan(lambda h, _: (h @ tree["w"], jnp.sum(tree["w"])), x, length=2)[0]

    structure, small = small_tree({"w": leaf((13, 13))}, {"w": View((1,), (0,))})
    x = leaf((5, 13))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lowrank(lambda tree, x: (jnp.sum(tree["w"] ** 2), x @ tree["w"])[1])(small, x)
    np.testing.assert_allclose(found, x @ densify(structure, small)["w"], atol=1e-10)


def test_rules_of_differentiation_are_kept():
    @jax.custom_vjp
    def twice(x):
        return x

    twice.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))
    structure, small = small_tree({"w": leaf((13, 11))}, {"w": View((1,), (0,))})
    check(lambda tree, x: twice(jnp.tanh(x @ tree["w"])), structure, small, leaf((5, 13)))
    # A rule for the weight itself: the weight is multiplied out, and the rule holds.
    run = lowrank(lambda tree, x: x @ twice(tree["w"]))
    with pytest.warns(UserWarning, match="'w' is multiplied out where it meets 'custom_vjp_call'"):
        slopes = jax.grad(lambda t: jnp.sum(run(t, leaf((5, 13)))))(small)
    plain = jax.grad(lambda t: jnp.sum(leaf((5, 13)) @ densify(structure, t)["w"]))(small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-9), slopes, plain)


def test_a_tree_without_factors_and_bad_input():
    apply, structure, small = network()
    x, dense = leaf((5, 13), 3), densify(structure, small)
    np.testing.assert_allclose(lowrank(apply)(dense, x), apply(dense, x))
    with pytest.raises(ValueError, match="apply: got Structure, must be a function"):
        lowrank(structure)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="options must be hashable, got an unhashable type: 'set'"):
        lowrank(lambda tree, x, _: apply(tree, x))(small, x, {1})
    wrong = {**small, "c": Factors(jnp.ones((3, 7)), jnp.ones((11, 2)), View((1,), (0,)))}
    with pytest.raises(ValueError, match=r"factorized: at 'c' left has shape \(3, 7\) and right"):
        lowrank(apply)(wrong, x)
