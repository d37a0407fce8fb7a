"""Tests that need eight devices; ``test_eight_devices.py`` runs this file in a process of its own."""

import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rankjax.matrix as rm
from rankjax import Sample, describe, measure
from rankjax.training import (
    nuclear_penalty,
    project_rank,
    project_spectral_norm,
    proximal_schatten,
    rank_sparse_penalty,
    schatten_penalty,
    stable_rank_penalty,
)
from tests.distribution import network

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


@pytest.fixture(params=KINDS)
def mesh(request):
    kinds = (KINDS[request.param],) * 3
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=kinds)


def place(mesh, tree, specs):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def assert_close(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), got, expected)


def trained(step, optimiser, params, data, steps=4):
    state = jax.jit(optimiser.init)(params)
    values = []
    for _ in range(steps):
        params, state, value = step(params, state, data)
        values.append(value)
    return params, state, values


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("way", ["penalty", "decay"])
def test_a_training_step_gives_the_numbers_of_one_device(mesh, way, spread):
    explicit = AxisType.Explicit in mesh.axis_types
    structure = network.structure()
    optimiser, step = network.make_step(structure, way)
    expected = trained(jax.jit(step), optimiser, network.parameters(), network.batch())

    def whole(w):
        return jax.sharding.reshard(w, NamedSharding(mesh, P())) if explicit else w

    optimiser, step = network.make_step(structure.spread_over(mesh if spread else None), way, whole)
    specs = network.shardings()
    params = place(mesh, network.parameters(), specs)
    data = place(mesh, network.batch(), (P("data"), P("data")))
    traces = []

    @jax.jit
    def counted(*arguments):
        traces.append(1)
        return step(*arguments)

    with jax.set_mesh(mesh):
        got = trained(counted, optimiser, params, data)
    assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert len(traces) <= 2  # XLA may choose other shardings for what comes out of the first step
    for layer, spec in specs.items():
        for leaf in spec:
            sharding = NamedSharding(mesh, spec[leaf])
            moments = [s.mu[layer][leaf] for s in got[1] if hasattr(s, "mu")]
            for array in (got[0][layer][leaf], *moments):
                assert array.sharding.is_equivalent_to(sharding, array.ndim)


RAGGED = {str(i): {"kernel": np.random.default_rng(i).normal(size=(6, 4))} for i in range(11)}
STRUCTURE = describe(RAGGED)
SCALARS = {
    "schatten": lambda s, q, w: schatten_penalty(s, q, p=0.5, weight=w),
    "traced p": lambda s, q, w: schatten_penalty(s, q, p=w, eps=w),
    "absolute": lambda s, q, w: schatten_penalty(s, q, p=1.0, eps=w, eps_mode="absolute"),
    "iterative": lambda s, q, w: nuclear_penalty(s, q, weight=w, method="iterative"),
    "stable rank": lambda s, q, w: stable_rank_penalty(s, q, weight=w),
    "bound": lambda s, q, w: rank_sparse_penalty(s, q, Sample.of_size(9), weight=w),
    "measured": lambda s, q, w: w * jnp.sum(measure(s, q, reference=RAGGED).frobenius_norm),
}


@pytest.mark.parametrize("name", SCALARS)
def test_spread_values_and_derivatives_are_the_same(name):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def everything(structure):
        def function(params, weight):
            return SCALARS[name](structure, params, weight)

        params = jax.tree.map(lambda x: 2 * x + 0.1, RAGGED)
        forward = jax.jvp(function, (params, 0.7), (RAGGED, 0.3))
        backward = jax.grad(function, argnums=(0, 1))(params, 0.7)
        many = jax.vmap(function, in_axes=(None, 0))(params, jnp.asarray([0.5, 0.7]))
        return forward, backward, many

    expected = jax.jit(lambda: everything(STRUCTURE))()
    got = jax.jit(lambda: everything(STRUCTURE.spread_over(mesh)))()
    assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_spread_second_derivatives_are_the_same():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def along(structure):
        def function(t):
            params = jax.tree.map(lambda x: (1 + t) * x + t, RAGGED)
            return schatten_penalty(structure, params, p=0.5, method="svd")

        return jax.jit(jax.grad(jax.grad(function)))(0.1)

    np.testing.assert_allclose(along(STRUCTURE.spread_over(mesh)), along(STRUCTURE), rtol=1e-9)


def decompositions(function, *arguments):
    """How many matrices one device decomposes: LAPACK calls times the trips of their loops."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    computations = {
        m.group(1): m.group(2)
        for m in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S)
    }

    def count(body):
        total = 0
        for line in body.splitlines():
            if 'custom_call_target="lapack' in line:
                total += 1
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for kind, name in re.findall(r"(body|to_apply|calls)=%?([\w.\-]+)", line):
                times = int(trips.group(1)) if trips and kind == "body" else 1
                assert kind != "body" or trips, line
                total += times * count(computations[name])
        return total

    return count(computations[re.search(r"^ENTRY %?([\w.\-]+)", text, re.M).group(1)])


def test_each_device_decomposes_only_its_share(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one call a pass: no padding to count
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    params = {
        str(i): {"kernel": np.random.default_rng(i).normal(size=(7, 5))} for i in range(24)
    }
    structure = describe(params)
    params = jax.device_put(params, NamedSharding(mesh, P()))
    for function in (
        lambda s, q: measure(s, q).sigma,
        lambda s, q: jax.grad(lambda x: schatten_penalty(s, x, p=0.5, method="svd"))(q),
        lambda s, q: proximal_schatten(s, 0.1, p=1.0).update(q, optax.EmptyState(), q)[0],
    ):
        assert decompositions(lambda q, f=function: f(structure, q), params) == 24
        spread = structure.spread_over(mesh)
        assert decompositions(lambda q, f=function, s=spread: f(s, q), params) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda s: proximal_schatten(s, 0.1, p=0.5),
        lambda s: proximal_schatten(s, optax.constant_schedule(0.1), p=1.0, every=2),
        lambda s: project_spectral_norm(s, 0.5),
        lambda s: project_rank(s, 2),
    ],
)
def test_spread_transformations_are_the_same(mesh, make):
    placed = place(mesh, RAGGED, jax.tree.map(lambda _: P("fsdp", "tensor"), RAGGED))

    def twice(structure, params):
        transformation = make(structure)
        state = transformation.init(params)
        updates, state = transformation.update(params, state, params)
        return transformation.update(updates, state, params)[0]

    expected = jax.jit(lambda q: twice(STRUCTURE, q))(RAGGED)
    for structure in (STRUCTURE, STRUCTURE.spread_over(mesh)):
        got = jax.jit(lambda q, s=structure: twice(s, q))(placed)
        assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_many_matrices_of_mixed_shapes_end():
    """Independent decompositions on every device at once: what deadlocks with batched calls."""
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    shapes = [(48, 48), (64, 32), (32, 48), (40, 40), (56, 24)]
    params = {
        str(i): {"kernel": np.random.default_rng(i).normal(size=shapes[i % 5])} for i in range(24)
    }
    structure = describe(params)

    def total(structure, params):
        powers = schatten_penalty(structure, params, p=0.5) + nuclear_penalty(structure, params)
        return powers + sum(jnp.sum(s) for s in measure(structure, params).sigma)

    gradient = jax.jit(jax.grad(total, argnums=1), static_argnums=0)
    expected = gradient(structure, params)
    for _ in range(3):
        got = gradient(structure.spread_over(mesh), params)
        assert_close(got, expected, rtol=1e-8, atol=1e-9)


def test_inside_the_shard_map_of_a_caller():
    """Of a mesh whose axes are partly taken by the caller the others are used."""
    mesh = jax.make_mesh((2, 4), ("outer", "inner"), axis_types=(AxisType.Auto,) * 2)
    structure = STRUCTURE.spread_over(mesh)
    for taken in ({"outer"}, {"outer", "inner"}):
        value = jax.shard_map(
            lambda q: jax.lax.pmean(schatten_penalty(structure, q, p=0.5), tuple(taken)),
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
            axis_names=taken,
            check_vma=False,
        )
        expected = schatten_penalty(STRUCTURE, RAGGED, p=0.5)
        np.testing.assert_allclose(jax.jit(value)(RAGGED), expected, rtol=1e-9)


def gathered(text):
    """Sizes of what the collectives of a compiled program hand to each device whole."""
    pattern = r"= \(?[a-z]+\d+\[([\d,]*)\][^=]* (?:all-gather|all-to-all)(?:-start)?\("
    return [math.prod(int(n) for n in m.split(",") if n) for m in re.findall(pattern, text)]


@pytest.mark.parametrize("shape", [(64, 48), (48, 64)])
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_products_only_never_gather_a_matrix(mesh, shape, p):
    params = {str(i): np.random.default_rng(i).normal(size=shape) for i in range(2)}
    structure = describe(params)
    placed = place(mesh, params, jax.tree.map(lambda _: P("fsdp", "tensor"), params))

    def compiled(method):
        def value(q):
            return schatten_penalty(structure, q, p=p, eps=0.05, method=method)

        return jax.jit(jax.value_and_grad(value)).lower(placed).compile()

    products = compiled("iterative")
    assert_close(
        products(placed),
        jax.value_and_grad(
            lambda q: schatten_penalty(structure, q, p=p, eps=0.05, method="iterative")
        )(params),
        rtol=1e-8,
        atol=1e-9,
    )
    text = products.as_text()
    assert "lapack" not in text
    largest = max(gathered(text))
    assert largest <= 2 * math.prod(shape) / 2  # of the two matrices in one call: one half panel
    # The same check does see a gathered matrix where there is one.
    assert max(gathered(compiled("svd").as_text())) >= 2 * math.prod(shape)


OF_A_MATRIX = {
    "singular values": rm.singular_values,
    "power, svd": lambda a: rm.schatten_power(a, p=0.5, eps=0.1, method="svd"),
    "power, gram": lambda a: rm.schatten_power(a, p=0.5, eps=0.1, method="gram"),
    "power, iterative": lambda a: rm.schatten_power(a, p=0.5, eps=0.1, method="iterative"),
    "norm": lambda a: rm.schatten_norm(a, p=1.0),
    "spectral norm": rm.spectral_norm,
    "lanczos": lambda a: rm.spectral_norm_bounds(a).value,
    "frobenius": rm.frobenius_norm,
    "soft rank": lambda a: rm.soft_rank(a, p=0.5, eps=0.1),
    "sum": lambda a: rm.spectral_sum(a, jnp.tanh),
    "map": lambda a: rm.spectral_map(a, jnp.tanh),
    "prox": lambda a: rm.prox_schatten(a, p=0.5, weight=0.1),
    "ball": lambda a: rm.project_nuclear_ball(a, 2.0),
    "rank": lambda a: rm.project_rank(a, 2),
    "warm": lambda a: rm.warm.step(a, rm.warm.refresh(a), p=0.5, eps=0.1)[1],
}


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("name", OF_A_MATRIX)
def test_functions_of_a_matrix_on_explicit_axes(name, context):
    mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Explicit,) * 3)
    a = np.random.default_rng(0).normal(size=(2, 8, 6))
    placed = jax.device_put(a, NamedSharding(mesh, P("x", "y", "z")))
    function = OF_A_MATRIX[name]
    expected = function(a)
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        np.testing.assert_allclose(function(placed), expected, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(jax.jit(function)(placed), expected, rtol=1e-8, atol=1e-9)
        if name == "warm":
            return
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(function(x))))
        got = gradient(placed)
        assert got.sharding.is_equivalent_to(placed.sharding, 3)
        assert_close(got, gradient(a), rtol=1e-7, atol=1e-8)


def test_without_a_context_explicit_weights_are_measured_eagerly():
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    placed = place(mesh, RAGGED, jax.tree.map(lambda _: P("tensor", "fsdp"), RAGGED))
    for structure in (STRUCTURE, STRUCTURE.spread_over(mesh)):
        got, expected = measure(structure, placed), measure(STRUCTURE, RAGGED)
        assert_close(got.sigma, expected.sigma, rtol=1e-9)
        value = schatten_penalty(structure, placed, p=0.5)
        np.testing.assert_allclose(value, schatten_penalty(STRUCTURE, RAGGED, p=0.5), rtol=1e-9)
