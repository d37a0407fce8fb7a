# Optax types updates and states as a union of every kind of tree.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

"""What Optax and JAX ask of a transformation, for all of them alike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.matrix import schatten_flow
from rankjax.network import View, describe
from rankjax.training import (
    add_schatten_decay,
    apply_schatten_flow,
    log_det_penalty,
    lora_pairs,
    lora_schatten_penalty,
    metrics,
    muon_dimension_numbers,
    nuclear_penalty,
    project_rank,
    project_spectral_norm,
    proximal_schatten,
    record_metrics,
    schatten_penalty,
    stable_rank_penalty,
)

SHAPES = {"a": (4, 6), "b": (6, 6), "c": (6, 4)}


def tree(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), len(SHAPES))
    return {
        name: {"kernel": jax.random.normal(key, shape, dtype), "bias": jnp.ones(shape[1], dtype)}
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


PARAMS = tree()
UPDATES = jax.tree.map(lambda w: 0.1 * jnp.sin(3 * w), PARAMS)
STRUCTURE = describe(PARAMS)
#: How each is made: the factory, its positional numbers and its named ones.
CASES = {
    "decay": (add_schatten_decay, (0.1,), {"p": 0.5}),
    "refreshed decay": (add_schatten_decay, (0.1,), {"p": 0.5, "refresh": 4}),
    "flow": (apply_schatten_flow, (0.1,), {"p": 0.5}),
    "proximal step": (proximal_schatten, (0.1,), {"p": 0.5}),
    "spectral norm": (project_spectral_norm, (0.8,), {}),
    "rank": (project_rank, (2,), {}),
    "metrics": (record_metrics, (), {}),
}
battery = pytest.mark.parametrize("name", CASES)
acting = pytest.mark.parametrize("name", [name for name in CASES if name != "metrics"])


def make(name, structure=STRUCTURE, **options):
    factory, numbers, named = CASES[name]
    return factory(structure, *numbers, **named, **options)


def once(transformation, params=PARAMS, updates=UPDATES, jit=jax.jit):
    return jit(transformation.update)(updates, transformation.init(params), params)


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@battery
@pytest.mark.parametrize("every", [1, 2])
def test_strict_modes_of_jax(name, every):
    def twice(jit):
        transformation = make(name, every=every)
        update, state = jit(transformation.update), transformation.init(PARAMS)
        for _ in range(2):
            found, state = update(UPDATES, state, PARAMS)
        return found  # pyright: ignore[reportPossiblyUnboundVariable]

    with jax.numpy_rank_promotion("raise"), jax.debug_nans(True), jax.checking_leaks():
        strict = twice(jax.jit), twice(lambda update: update)
    for found in strict:
        assert_close(found, twice(jax.jit), rtol=1e-5, atol=1e-6)


@battery
def test_states_are_mapped_like_those_of_optax(name):
    transformation = optax.chain(optax.scale_by_adam(), make(name))
    state = transformation.init(PARAMS)
    doubled = optax.tree_map_params(transformation, lambda x: x + 1, state)
    assert_close(doubled[0].mu, jax.tree.map(jnp.ones_like, PARAMS))
    assert_close(doubled[1], state[1])  # nothing there has the shapes of the parameters


@battery
def test_layers_that_a_mask_hides_are_left_alone(name):
    mask = {key: {"kernel": key != "b", "bias": True} for key in SHAPES}
    for chosen in (mask, {"a": True, "b": False, "c": True}):
        found, state = once(optax.masked(make(name), chosen))
        np.testing.assert_array_equal(found["b"]["kernel"], UPDATES["b"]["kernel"])
        plain, _ = once(make(name))
        assert_close(found["a"], plain["a"], rtol=1e-6, atol=1e-7)
    if name == "metrics":
        assert {key.split("/")[0] for key in state.inner_state.metrics} == {"a", "c"}


@battery
def test_a_function_of_the_parameters_in_place_of_a_structure(name):
    found, expected = once(make(name, describe)), once(make(name))
    assert_close(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="structure: got ShapeDtypeStruct, must be a Structure"):
        once(make(name, lambda params: jax.ShapeDtypeStruct((), jnp.float32)))


@battery
def test_parameters_in_the_place_of_the_structure_are_named(name):
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        make(name, PARAMS)


@battery
def test_injected_hyperparameters_need_no_static_arguments(name):
    factory, numbers, named = CASES[name]
    injected = optax.inject_hyperparams(factory)(STRUCTURE, *numbers, **named)
    found, state = once(injected)
    assert_close(found, once(make(name))[0], rtol=1e-4, atol=1e-5)
    for every in (2, np.int64(2)):
        injected = optax.inject_hyperparams(factory)(STRUCTURE, *numbers, **named, every=every)
        state = injected.init(PARAMS)
        for _ in range(2):
            found, state = jax.jit(injected.update)(UPDATES, state, PARAMS)
        plain = make(name, every=2)
        first = once(plain)[1]
        expected, _ = jax.jit(plain.update)(UPDATES, first, PARAMS)
        # A Python number becomes an array, and a flow of unknown length has 32 parts, not 2.
        if name == "flow" and isinstance(every, int):
            expected = jax.tree.map(lambda x: x, UPDATES)
            for key in SHAPES:
                arrived = PARAMS[key]["kernel"] + UPDATES[key]["kernel"]
                goal = schatten_flow(arrived, p=0.5, weight=0.2, eps=0.01, steps=32)
                expected[key]["kernel"] = goal - PARAMS[key]["kernel"]
        assert_close(found, expected, rtol=1e-4, atol=1e-5)


@battery
def test_whole_numbers_of_numpy(name):
    found = once(make(name, every=np.int64(1)))
    assert_close(found, once(make(name, every=1)), rtol=1e-6)
    for every in (0, 1.5, True, np.float32(2), np.int64(-1), jnp.asarray(0)):
        with pytest.raises(
            ValueError, match=r"every: got .*, must be a whole number of at least 1"
        ):
            make(name, every=every)


@battery
def test_a_loop_without_jit_compiles_once(name):
    transformation = make(name, every=2)
    state = transformation.init(PARAMS)
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    for number in range(4):
        if number == 2:
            jax.monitoring.register_event_duration_secs_listener(listener)
        _, state = transformation.update(UPDATES, state, PARAMS)
    if hasattr(jax.monitoring, "unregister_event_duration_listener"):
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "compile" in event or "trace" in event]


@acting
def test_numbers_by_path_and_pattern(name):
    factory, (number,), named = CASES[name]
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    alone = factory(STRUCTURE, {"a/kernel": number, "c/*": number}, **named)
    found, _ = once(alone, updates=zero)
    expected, _ = once(make(name), updates=zero)
    assert_close(found["a"], expected["a"], rtol=1e-6)
    assert_close(found["c"], expected["c"], rtol=1e-6)
    if name.endswith("decay"):  # like the weights of the penalties: 1
        ones, _ = once(factory(STRUCTURE, 1.0, **named), updates=zero)
        assert_close(found["b"], ones["b"], rtol=1e-6)
    else:
        np.testing.assert_array_equal(found["b"]["kernel"], 0)
    # The path itself comes before a pattern, and each may be a schedule.
    both = factory(STRUCTURE, {"*": lambda _: 1e9, "a/kernel": lambda _: number}, **named)
    assert_close(once(both, updates=zero)[0]["a"], expected["a"], rtol=1e-6)
    argument = {"spectral norm": "radius", "rank": "rank"}.get(name, "weight")
    with pytest.raises(ValueError, match=rf"{argument} names unknown paths \['d/\*', 'x'\]"):
        factory(STRUCTURE, {"x": number, "d/*": number, "*": number}, **named)


def test_ranks_of_a_schedule_of_floats_are_the_nearest_whole_numbers():
    params = {"kernel": jnp.diag(jnp.arange(12.0, 0.0, -1.0))}
    structure = describe(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    transformation = project_rank(structure, optax.linear_schedule(10.0, 1.0, 9))
    update, state, ranks = jax.jit(transformation.update), transformation.init(params), []
    for _ in range(12):
        updates, state = update(zero, state, params)
        ranks.append(np.linalg.matrix_rank(params["kernel"] + updates["kernel"]))
    assert ranks == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1]


def test_negative_numbers_are_named():
    for make_one, name in (
        (lambda x: apply_schatten_flow(STRUCTURE, x, p=1.0), "weight"),
        (lambda x: proximal_schatten(STRUCTURE, 0.1, p=x), "p"),
        (lambda x: project_spectral_norm(STRUCTURE, {"*": x}), r"radius for '\*'"),
        (lambda x: project_rank(STRUCTURE, x), "rank"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: got -1, must be >= 0"):
            make_one(-1)
        with pytest.raises(ValueError, match=rf"^{name}: got Array\(-1.*, must be >= 0"):
            make_one(jnp.asarray(-1))
        for wrong in ("3", None, [3]):
            with pytest.raises(ValueError, match=rf"^{name}: got .* must be a number >= 0 or a"):
                make_one(wrong)
        with pytest.raises(
            ValueError, match=rf"^{name}: got an array of shape \(2,\), must be one"
        ):
            make_one(jnp.ones(2))


PENALTIES = {
    "schatten": lambda s, q: schatten_penalty(s, q, p=0.5),
    "nuclear": nuclear_penalty,
    "log det": log_det_penalty,
    "stable rank": stable_rank_penalty,
    "lora": lambda s, q: lora_schatten_penalty(s, q, p=0.5),
    "lora pairs": lambda s, q: lora_pairs(s),
    "metrics": metrics,
}


@pytest.mark.parametrize("name", PENALTIES)
def test_swapped_arguments_are_named(name):
    with pytest.raises(ValueError, match="structure: got dict, must be a Structure"):
        PENALTIES[name](PARAMS, STRUCTURE)


def convolution(kernel, x, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers)


def test_the_radius_of_a_convolution_bounds_its_linear_map():
    params = {"conv": {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 2, 3))}}
    x = jnp.zeros((1, 6, 6, 2))
    apply = lambda p, x: convolution(p["conv"]["kernel"], x)  # noqa: E731
    structure = describe(params, apply=apply, example=x)
    zero = jax.tree.map(jnp.zeros_like, params)

    def norms(**options):
        ball = project_spectral_norm(structure, 0.7, **options)
        new = optax.apply_updates(params, ball.update(zero, ball.init(params), params)[0])
        linear = jax.jacobian(lambda x: apply(new, x))(x).reshape(6 * 6 * 3, -1)
        kernel = structure.matrices(new)[0][0, 0]
        return (float(np.linalg.norm(np.asarray(a), 2)) for a in (linear, kernel))

    of_map, of_kernel = norms()
    assert of_map <= 0.7 * (1 + 1e-6)
    assert of_kernel == pytest.approx(0.7 / 3)
    of_map, of_kernel = norms(of="matrix")
    assert of_map > 0.7 == pytest.approx(of_kernel)
    by_name = describe(params)
    with pytest.raises(ValueError, match="the convolution 'conv/kernel' was described by its name"):
        project_spectral_norm(by_name)
    with pytest.raises(ValueError, match=r"of: got .*, must be one of 'operator', 'matrix'"):
        project_spectral_norm(structure, of="x")


@pytest.mark.slow
def test_leaves_of_one_shape_are_the_same_in_a_loop_and_in_a_batch(monkeypatch):
    """Stacks, transposed leaves and single ones, large and small: one result."""
    keys = jax.random.split(jax.random.key(2), 4)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (8, 5))},
        "b": {"kernel": jax.random.normal(keys[1], (5, 8))},
        "s": {"w": jax.random.normal(keys[2], (3, 5, 8))},
        "t": {"w": jax.random.normal(keys[3], (5, 3, 8))},
    }
    axes = {
        "s/w": View(out=(2,), in_=(1,), stacked=(0,)),
        "t/w": View(out=(0,), in_=(2,), parallel=(1,)),
    }
    structure = describe(params, axes=axes)
    updates = jax.tree.map(jnp.sin, params)
    for name in CASES:
        expected, _ = once(make(name, structure), params, updates)
        with monkeypatch.context() as patch:
            patch.setattr("rankjax.training._in_turn.LARGE", 1)
            jax.clear_caches()
            found, _ = once(make(name, structure), params, updates)
            patch.setattr("rankjax.training._in_turn._in_place", lambda *_: False)
            jax.clear_caches()
            copied, _ = once(make(name, structure), params, updates)
        jax.clear_caches()
        assert_close(found, expected, rtol=1e-8, atol=1e-10)
        assert_close(copied, expected, rtol=1e-8, atol=1e-10)


def test_equal_shapes_share_one_program():
    def decompositions(count):
        params = {f"d{i}": {"kernel": jnp.zeros((300, 260))} for i in range(count)}
        params |= {f"e{i}": {"kernel": jnp.zeros((260, 300))} for i in range(count)}
        decay = add_schatten_decay(describe(params), 0.1, p=0.5, method="gram")
        lowered = jax.jit(decay.update).lower(params, decay.init(params), params)
        return lowered.as_text().count("syevd_ffi")

    assert decompositions(4) == decompositions(1) > 0


def test_dimension_numbers_for_muon():
    params = tree() | {
        "attention": {"query": {"kernel": jnp.ones((6, 2, 3))}},
        "stack": {"w": jnp.ones((3, 6, 4))},
        "embedding": jnp.ones((9, 4)),
    }
    view = View(out=(2,), in_=(1,), stacked=(0,))
    structure = describe(params, axes={"stack/w": view})
    numbers = muon_dimension_numbers(structure)(params)
    assert numbers["attention"]["query"]["kernel"] == ((0,), (1, 2))
    assert numbers["stack"]["w"] == ((1,), (2,))
    assert numbers["a"]["bias"] is numbers["embedding"] is None
    with jax.numpy_dtype_promotion("standard"):  # Muon itself mixes dtypes
        muon = optax.contrib.muon(
            1e-2, muon_weight_dimension_numbers=muon_dimension_numbers(structure)
        )
        updates, _ = muon.update(params, muon.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
