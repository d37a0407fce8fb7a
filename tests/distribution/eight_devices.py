"""Tests that need eight devices: ``test_eight_devices.py`` runs them in a process of its own."""

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
from rankjax.matrix.engines import _newton_schulz
from rankjax.network import View
from rankjax.training import (
    add_schatten_decay,
    apply_schatten_flow,
    densify,
    factorize,
    lowrank,
    orthogonalize,
    project_rank,
    proximal_schatten,
    rank_sparse_penalty,
    schatten_penalty,
)
from tests.distribution import network

# Optax' Adam multiplies floats by integer counts.
jax.config.update("jax_numpy_dtype_promotion", "standard")

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: compilations.append(1) if "backend_compile" in event else None  # pyright: ignore[reportArgumentType]
)

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def three_axes(kind):
    kinds = (KINDS[kind],) * 3
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=kinds)


def place(mesh, tree, specs):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def assert_close(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), got, expected)


def trained(step, optimiser, params, data, steps=4):
    state = jax.jit(optimiser.init)(params)
    values, compiled = [], []
    for _ in range(steps):
        before = len(compilations)
        params, state, value = step(params, state, data)
        compiled.append(len(compilations) - before)
        values.append(value)
    return (params, state, values), compiled


@pytest.mark.parametrize(
    ("kind", "way", "spread"),
    [("auto", "penalty", False), ("auto", "decay", True), ("explicit", "penalty", True)],
)
def test_a_training_step_gives_the_numbers_of_one_device(kind, way, spread):
    mesh, explicit = three_axes(kind), kind == "explicit"
    structure = network.structure()
    optimiser, step = network.make_step(structure, way)
    expected, _ = trained(jax.jit(step), optimiser, network.parameters(), network.batch())

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
        got, compiled = trained(counted, optimiser, params, data)
    assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert len(traces) == 1
    # On automatic axes ``jit(init)`` leaves the moments whole on every device; out of the first
    # step they come cut like the parameters, and the second is compiled for that.
    assert compiled == ([1, 0, 0, 0] if explicit else [1, 1, 0, 0])
    for layer, spec in specs.items():
        for leaf in spec:
            sharding = NamedSharding(mesh, spec[leaf])
            moments = [s.mu[layer][leaf] for s in got[1] if hasattr(s, "mu")]
            for array in (got[0][layer][leaf], *moments):
                assert array.sharding.is_equivalent_to(sharding, array.ndim)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# Eleven matrices of one shape: no multiple of eight. And one alone.
RAGGED = {
    "stack": {"kernel": normal(0, 10, 6, 4)},
    "same": {"kernel": normal(1, 6, 4)},
    "other": {"kernel": normal(2, 4, 4)},
}
STRUCTURE = describe(RAGGED, axes={"stack/kernel": View(out=(2,), in_=(1,), stacked=(0,))})
SPECS = {
    "stack": {"kernel": P("data", "fsdp", "tensor")},
    "same": {"kernel": P("fsdp", "tensor")},
    "other": {"kernel": P("tensor", "fsdp")},
}
SCALARS = {
    "schatten": lambda s, q, w: schatten_penalty(s, q, p=0.5, weight=w),
    "traced p": lambda s, q, w: schatten_penalty(s, q, p=w, eps=w),
    "bound": lambda s, q, w: rank_sparse_penalty(s, q, Sample.of_size(9), weight=w),
}


@pytest.mark.parametrize("name", SCALARS)
def test_spread_values_and_derivatives_are_the_same(name):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def everything(structure):
        def function(params, weight):
            return SCALARS[name](structure, params, weight)

        params, weight = jax.tree.map(lambda x: 2 * x + 0.1, RAGGED), jnp.asarray(0.7)
        forward = jax.jvp(function, (params, weight), (RAGGED, weight))
        return forward, jax.value_and_grad(function, argnums=(0, 1))(params, weight)

    expected = jax.jit(lambda: everything(STRUCTURE))()
    got = jax.jit(lambda: everything(STRUCTURE.spread_over(mesh)))()
    assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["p", "eps"])
def test_spread_derivatives_by_numbers_of_python(name):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def everything(structure):
        def function(x):
            return schatten_penalty(structure, RAGGED, **{"p": 0.5, "eps": 0.05, name: x})

        def derivatives(x):
            return jax.grad(function)(x), jax.jvp(function, (x,), (1.0,))[1]

        return derivatives(0.3), jax.jit(lambda: derivatives(0.3))()

    got = everything(STRUCTURE.spread_over(mesh))
    assert_close(got, everything(STRUCTURE), rtol=1e-8)


def test_spread_second_derivatives_and_vmap_are_the_same():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))

    def along(structure):
        def function(t):
            params = jax.tree.map(lambda x: (1 + t) * x + t, RAGGED)
            return schatten_penalty(structure, params, p=0.5, method="svd")

        return jax.jit(jax.vmap(jax.grad(jax.grad(function))))(jnp.asarray([0.1, 0.2]))

    np.testing.assert_allclose(along(STRUCTURE.spread_over(mesh)), along(STRUCTURE), rtol=1e-9)


def decompositions(function, *arguments):
    """How many matrices one device decomposes: LAPACK calls times the trips of their loops."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    computations = {
        m.group(1): m.group(2)
        for m in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S)  # pyright: ignore[reportArgumentType, reportCallIssue]
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

    return count(computations[re.search(r"^ENTRY %?([\w.\-]+)", text, re.M).group(1)])  # pyright: ignore[reportArgumentType, reportCallIssue]


def updated(transformation, params):
    return transformation.update(params, transformation.init(params), params)[0]


def test_each_device_decomposes_only_its_share(monkeypatch):
    monkeypatch.setattr(
        "rankjax._linear_algebra.cores", lambda: 1
    )  # one call a pass: no padding to count
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    params = {"kernel": normal(0, 24, 7, 5)}
    structure = describe(params, axes={"kernel": View(out=(1,), in_=(2,), stacked=(0,))})
    params = jax.device_put(params, NamedSharding(mesh, P()))
    for function in (
        lambda s, q: measure(s, q).sigma,
        lambda s, q: jax.grad(lambda x: schatten_penalty(s, x, p=0.5, method="svd"))(q),
    ):
        assert decompositions(lambda q, f=function: f(structure, q), params) == 24
        spread = structure.spread_over(mesh)
        assert decompositions(lambda q, f=function, s=spread: f(s, q), params) == 3


MAKERS = {
    "flow": lambda s: apply_schatten_flow(s, 0.1, p=0.5),
    "prox": lambda s: proximal_schatten(s, optax.constant_schedule(0.1), p=0.5),
    "rank": lambda s: project_rank(s, 2),
    "lazy": lambda s: add_schatten_decay(s, 0.1, p=1.0, every=1),
    "polar": orthogonalize,
}


@pytest.mark.parametrize("kind", KINDS)
def test_spread_transformations_are_the_same(kind):
    mesh = three_axes(kind)
    placed = place(mesh, RAGGED, SPECS)

    def all_of_them(structure, params):
        return {name: updated(make(structure), params) for name, make in MAKERS.items()}

    expected = jax.jit(lambda q: all_of_them(STRUCTURE, q))(RAGGED)
    structure = STRUCTURE.spread_over(mesh)
    got = jax.jit(lambda q: all_of_them(structure, q))(placed)
    assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_many_matrices_of_mixed_shapes_end():
    """Independent decompositions on every device at once: what deadlocks with batched calls."""
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    shapes = [(48, 48), (64, 32), (32, 48), (40, 40), (56, 24)]
    params = {str(i): {"kernel": normal(i, *shapes[i % 5])} for i in range(24)}
    structure = describe(params).spread_over(mesh)

    @jax.jit
    def everything(params):
        def penalty(q):
            return schatten_penalty(structure, q, p=0.5)

        gradient = jax.grad(penalty)(params)
        return gradient, sum(jnp.sum(s) for s in measure(structure, params).sigma)

    expected = sum(np.linalg.svd(layer["kernel"])[1].sum() for layer in params.values())
    for _ in range(5):
        gradient, total = everything(params)
        np.testing.assert_allclose(total, expected, rtol=1e-9)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_inside_the_shard_map_of_a_caller():
    """Of a mesh whose axes are partly taken by the caller the others are used."""
    mesh = jax.make_mesh((2, 4), ("outer", "inner"), axis_types=(AxisType.Auto,) * 2)
    structure = STRUCTURE.spread_over(mesh)
    for taken in (("outer",), ("outer", "inner")):
        value = jax.shard_map(
            lambda q, taken=taken: jax.lax.pmean(schatten_penalty(structure, q, p=0.5), taken),
            mesh=mesh,
            in_specs=P(),
            out_specs=P(),
            axis_names=set(taken),
            check_vma=False,
        )
        expected = schatten_penalty(STRUCTURE, RAGGED, p=0.5)
        np.testing.assert_allclose(jax.jit(value)(RAGGED), expected, rtol=1e-9)


def gathered(text):
    """Sizes of what the collectives of a compiled program hand to each device whole."""
    pattern = r"= \(?[a-z]+\d+\[([\d,]*)\][^=]* (?:all-gather|all-to-all)(?:-start)?\("
    return [math.prod(int(n) for n in m.split(",") if n) for m in re.findall(pattern, text)]


def penalty_and_gradient(structure, method, p):
    def value(q):
        return schatten_penalty(structure, q, p=p, eps=0.05, method=method)

    return jax.jit(jax.value_and_grad(value))


# Cut along both axes, along one, along one more often than along the other.
CUTS = [P("fsdp", "tensor"), P("fsdp", None), P(None, "tensor"), P(("data", "fsdp"), "tensor")]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize(
    ("kind", "shape", "p"), [("auto", (256, 256), 1.0), ("explicit", (256, 384), 1.0)]
)
def test_products_only_never_gather_a_matrix(kind, shape, p, cut):
    mesh = three_axes(kind)
    params = {"kernel": normal(0, *shape)}
    structure = describe(params)
    placed = place(mesh, params, {"kernel": cut})
    text = penalty_and_gradient(structure, "newton_schulz", p).lower(placed).compile().as_text()
    assert "lapack" not in text  # pyright: ignore[reportOperatorIssue]
    assert max(gathered(text), default=0) <= math.prod(shape) / 4  # strips of it, for the products


def test_a_gathered_matrix_is_seen():
    params = {"kernel": normal(0, 64, 48)}
    structure = describe(params)
    placed = place(three_axes("auto"), params, {"kernel": P(None, "tensor")})
    for method, lapack in (
        ("svd", True),
        ("newton_schulz", False),
    ):  # so small a one is left to XLA
        text = penalty_and_gradient(structure, method, 1.0).lower(placed).compile().as_text()
        assert ("lapack" in text) == lapack  # pyright: ignore[reportOperatorIssue]
        assert max(gathered(text)) >= 64 * 48


@pytest.mark.parametrize(
    ("cut", "kind", "p"),
    list(zip(CUTS, ("auto", "explicit", "auto", "auto"), (1.0, 1.0, 0.5, 1.0), strict=True)),
)
def test_products_in_strips_give_the_same_numbers(monkeypatch, kind, p, cut):
    monkeypatch.setattr(_newton_schulz, "LARGE", 0)
    mesh = three_axes(kind)
    params = {"square": {"kernel": normal(0, 16, 16)}, "wide": {"kernel": normal(1, 12, 20)}}
    structure = describe(params)
    placed = place(mesh, params, {name: {"kernel": cut} for name in params})
    expected = penalty_and_gradient(structure, "newton_schulz", p)(params)
    got = penalty_and_gradient(structure, "newton_schulz", p)(placed)
    assert_close(got, expected, rtol=1e-8, atol=1e-9)


OF_A_MATRIX = {
    "singular values": rm.singular_values,
    "gram": lambda a: rm.schatten_power(a, p=0.5, eps=0.1, method="gram"),
    "rational": lambda a: rm.schatten_power(a, p=0.5, eps=0.1, method="rational"),
    "newton_schulz": lambda a: rm.schatten_power(a, p=1.0, eps=0.1, method="newton_schulz"),
    "prox": lambda a: rm.prox_schatten(a, p=0.5, weight=0.1),
    "ball": lambda a: rm.project_nuclear_ball(a, 2.0),
}


@pytest.mark.parametrize("context", [False, True])
def test_functions_of_a_matrix_on_explicit_axes(context):
    mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Explicit,) * 3)
    a = normal(0, 2, 8, 6)
    placed = jax.device_put(a, NamedSharding(mesh, P("x", "y", "z")))

    @jax.jit
    def everything(a):
        values = {name: function(a) for name, function in OF_A_MATRIX.items()}
        gradients = {
            name: jax.grad(lambda x, f=function: jnp.sum(f(x)))(a)
            for name, function in OF_A_MATRIX.items()
        }
        return values, gradients

    expected = everything(a)
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        got = everything(placed)
    assert_close(got, expected, rtol=1e-7, atol=1e-8)
    for gradient in got[1].values():
        assert gradient.sharding.is_equivalent_to(placed.sharding, 3)


def test_without_a_context_explicit_weights_are_measured_eagerly():
    mesh = three_axes("explicit")
    params = {"kernel": normal(0, 6, 4)}
    structure = describe(params)
    placed = place(mesh, params, {"kernel": P("tensor", "fsdp")})
    sigma = measure(structure, placed)["kernel"].sigma
    np.testing.assert_allclose(sigma, np.linalg.svd(params["kernel"])[1], rtol=1e-9)
    value = schatten_penalty(structure, placed, p=2.0, eps=0.0)
    np.testing.assert_allclose(value, np.sum(params["kernel"] ** 2), rtol=1e-9)


def test_an_explicit_mesh_takes_parameters_that_lie_on_one_device():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    params = {"a": jnp.eye(6, 8), "b": 2 * jnp.eye(8, 6), "c": jnp.eye(6, 8)}
    structure = describe(params, axes=dict.fromkeys(params, ((1,), (0,))))
    norms = measure(structure.spread_over(mesh), params).spectral_norm
    np.testing.assert_allclose(norms, [1, 2, 1], rtol=1e-6)


def test_factors_cut_over_devices_give_the_numbers_of_one_device():
    mesh = three_axes("auto")
    structure, params, data = network.structure(), network.parameters(), network.batch()
    small = factorize(structure, params, 2)

    def apply(tree, data):
        # As Flax does it for a weight with logical axes.
        placed = NamedSharding(mesh, P("fsdp", "tensor"))
        return network.loss(tree, data, lambda w: _constrained(w, placed))

    def _constrained(w, placed):
        return jax.lax.with_sharding_constraint(w, placed) if w.ndim == 2 else w

    slopes = jax.value_and_grad(lowrank(apply))
    expected = jax.value_and_grad(lambda tree: apply(densify(structure, tree), data))(small)
    specs = jax.tree.map(
        lambda a: P("fsdp", None) if a.ndim == 2 and a.shape[1] == 2 else P(), small
    )
    placed = place(mesh, small, specs), place(mesh, data, (P("data"), P("data")))
    assert_close(jax.jit(slopes)(*placed), expected, rtol=1e-9, atol=1e-12)
    text = jax.jit(lowrank(apply)).lower(*placed).as_text()
    assert re.search(r'sharding_constraint.*"fsdp"', text)
