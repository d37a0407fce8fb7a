# Optax types updates and states as a union of every kind of tree.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

"""One battery that every transformation passes, and what each one does."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from rankjax.network import describe, measure
from rankjax.training import (
    add_schatten_decay,
    apply_schatten_flow,
    project_rank,
    project_spectral_norm,
    proximal_schatten,
    schatten_penalty,
)


def tree(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 6), dtype), "bias": jnp.ones(6, dtype)},
        "b": {"kernel": jax.random.normal(keys[1], (6, 6), dtype)},
    }


def twice(options):
    return 2 * options.get("every", 1)


STRUCTURE = describe(tree())
MAKERS = {
    "add_schatten_decay": lambda **k: add_schatten_decay(STRUCTURE, 0.01, p=0.5, **k),
    "refreshed decay": lambda **k: add_schatten_decay(
        STRUCTURE, 0.01, p=0.5, refresh=twice(k), **k
    ),
    "apply_schatten_flow": lambda **k: apply_schatten_flow(STRUCTURE, 0.1, p=0.5, **k),
    "proximal_schatten": lambda **k: proximal_schatten(STRUCTURE, 0.1, p=0.5, **k),
    "project_spectral_norm": lambda **k: project_spectral_norm(STRUCTURE, 0.8, **k),
    "project_rank": lambda **k: project_rank(STRUCTURE, 2, **k),
}
battery = pytest.mark.parametrize("name", MAKERS)


def gradients(params):
    return jax.tree.map(lambda w: 0.1 * jnp.sin(3 * w), params)


def run(transformation, params, steps=3, jit=jax.jit):
    return run_from(transformation, params, transformation.init(params), steps, jit)


def run_from(transformation, params, state, steps, jit=jax.jit):
    @jit
    def step(params, state):
        updates, state = transformation.update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@battery
def test_chained_and_jitted_without_a_second_compilation(name):
    chain = optax.chain(optax.sgd(0.1), MAKERS[name]())
    count = []

    def counted(step):
        def traced(params, state):
            count.append(1)
            return step(params, state)

        return jax.jit(traced)

    params, _ = run(chain, tree(), jit=counted)
    assert len(count) == 1
    eager, _ = run(chain, tree(), jit=lambda step: step)
    assert_close(params, eager, rtol=1e-4, atol=1e-5)


@battery
def test_only_the_matrices_are_touched(name):
    params = tree()
    plain, _ = run(optax.sgd(0.1), params)
    changed, _ = run(optax.chain(optax.sgd(0.1), MAKERS[name]()), params)
    np.testing.assert_array_equal(plain["a"]["bias"], changed["a"]["bias"])
    for key in "ab":
        assert np.abs(plain[key]["kernel"] - changed[key]["kernel"]).max() > 1e-3


@battery
def test_every_k_steps(name):
    params = tree()
    lazy = MAKERS[name](every=3)
    state = lazy.init(params)
    updates = gradients(params)
    for number in (1, 2, 3, 4):
        after, state = jax.jit(lazy.update)(updates, state, params)
        same = np.allclose(after["b"]["kernel"], updates["b"]["kernel"], atol=1e-7)
        assert same == (number != 3)
    assert int(state.count) == 4


@battery
def test_masked_and_partitioned(name):
    params = tree()
    mask = {"a": {"kernel": True, "bias": False}, "b": {"kernel": True}}
    labels = jax.tree.map(lambda m: "low" if m else "rest", mask)
    parts = {"low": MAKERS[name](), "rest": optax.identity()}
    plain, _ = run(MAKERS[name](), params, steps=1)
    for wrapped in (optax.masked(MAKERS[name](), mask), optax.partition(parts, labels)):
        assert_close(run(wrapped, params, steps=1)[0], plain, rtol=1e-6)


@battery
def test_inside_multi_steps_and_with_extra_arguments(name):
    steps = optax.MultiSteps(optax.chain(optax.sgd(0.1), MAKERS[name]()), every_k_schedule=2)
    params = tree()
    state = steps.init(params)
    with jax.numpy_dtype_promotion("standard"):  # MultiSteps itself divides float by int
        first, state = steps.update(gradients(params), state, params)
        second, state = steps.update(gradients(params), state, params)
    np.testing.assert_array_equal(first["b"]["kernel"], 0)
    assert np.abs(second["b"]["kernel"]).max() > 0
    alone = MAKERS[name]()
    updates, _ = alone.update(gradients(params), alone.init(params), params, value=1.0)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@battery
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_dtypes_are_kept(name, dtype):
    params, state = run(MAKERS[name](), tree(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(params))
    assert int(state.count) == 3


@battery
def test_missing_parameters_and_bad_numbers_are_named(name):
    transformation = MAKERS[name]()
    with pytest.raises(ValueError, match="params: got None"):
        transformation.update(tree(), transformation.init(tree()))
    for every in (0, 1.5):
        with pytest.raises(ValueError, match=f"every: got {every}, must be a whole number"):
            MAKERS[name](every=every)


@battery
def test_in_a_scan_with_a_state_of_fixed_type(name):
    chain = optax.chain(optax.sgd(0.1), MAKERS[name]())
    params = tree(jnp.bfloat16)
    state = chain.init(params)
    shapes = jax.eval_shape(chain.init, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )

    @jax.jit
    def run_all(params, state):
        def step(carry, _):
            params, state = carry
            updates, state = chain.update(gradients(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), None, length=5)[0]

    params, state = run_all(params, state)  # scan refuses a carry that changes its type
    assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(params))


@battery
def test_a_checkpoint_goes_on_where_it_stopped(name, tmp_path):
    chain = optax.chain(optax.sgd(0.1), MAKERS[name]())
    params = tree()
    params, state = run_from(chain, params, chain.init(params), 3)
    straight, _ = run_from(chain, params, state, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax' own, about sharding that is not given
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "saved", {"params": params, "state": state})
            checkpointer.wait_until_finished()
            saved = jax.eval_shape(lambda: {"params": params, "state": state})
            back = checkpointer.restore(tmp_path / "saved", saved)
    assert jax.tree.structure(back["state"]) == jax.tree.structure(state)
    again, _ = run_from(chain, back["params"], back["state"], 2)
    assert_close(again, straight, rtol=1e-6)


def test_hyperparameters_as_schedules_and_injected():
    params = tree()
    schedule = optax.linear_schedule(0.0, 0.2, 2)
    scheduled = add_schatten_decay(STRUCTURE, schedule, p=0.5)
    state = scheduled.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    sizes = []
    for _ in range(3):
        updates, state = scheduled.update(zero, state, params)
        sizes.append(float(jnp.linalg.norm(updates["b"]["kernel"])))
    np.testing.assert_allclose(sizes, [0.0, sizes[2] / 2, sizes[2]], rtol=1e-5)
    assert sizes[2] > 0

    @optax.inject_hyperparams
    def injected(weight):
        return proximal_schatten(STRUCTURE, weight, p=1.0)

    transformation = injected(weight=0.3)
    state = transformation.init(params)
    updates, _ = transformation.update(zero, state, params)
    plain = proximal_schatten(STRUCTURE, 0.3, p=1.0)
    assert_close(updates, plain.update(zero, plain.init(params), params)[0], rtol=1e-5)
    decay = optax.inject_hyperparams(add_schatten_decay, static_args=("every", "refresh"))(
        STRUCTURE, 0.3, p=0.5, eps=0.02, refresh=2
    )
    state = decay.init(params)
    updates, state = jax.jit(decay.update)(zero, state, params)
    plain = add_schatten_decay(STRUCTURE, 0.3, p=0.5, eps=0.02, refresh=2)
    assert_close(updates, plain.update(zero, plain.init(params), params)[0], rtol=1e-4, atol=1e-5)
    state.hyperparams["weight"] = jnp.asarray(0.0, jnp.float32)
    updates, _ = jax.jit(decay.update)(zero, state, params)
    np.testing.assert_array_equal(updates["b"]["kernel"], 0)


def test_decay_is_the_gradient_of_the_penalty_and_weight_decay_at_p_two():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)
    decay = add_schatten_decay(STRUCTURE, 0.3, p=0.7, eps=0.05, every=1, method="svd")
    updates, _ = decay.update(zero, decay.init(params), params)
    gradient = jax.grad(
        lambda q: schatten_penalty(STRUCTURE, q, p=0.7, weight=0.3, eps=0.05, method="svd")
    )(params)
    assert_close(updates, gradient, rtol=1e-9)
    lazy = add_schatten_decay(STRUCTURE, 0.3, p=2.0, eps=0.0, every=4)
    state = lazy.init(params)._replace(count=jnp.asarray(3, jnp.int32))
    updates, _ = lazy.update(zero, state, params)
    np.testing.assert_allclose(updates["b"]["kernel"], 4 * 0.3 * 2 * params["b"]["kernel"])


def test_the_flow_of_k_steps_is_k_steps_of_decay():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)
    rate, weight, every = 1e-2, 1e-2, 20
    decay = add_schatten_decay(STRUCTURE, weight, p=0.5, eps=0.05)
    chain = optax.chain(decay, optax.scale_by_learning_rate(rate))
    flow = apply_schatten_flow(STRUCTURE, rate * weight, p=0.5, eps=0.05, every=every)

    @jax.jit
    def twenty(transformation_state, params):
        def step(carry, _):
            state, params = carry
            updates, state = chain.update(zero, state, params)
            return (state, optax.apply_updates(params, updates)), None

        return jax.lax.scan(step, (transformation_state, params), None, length=every)[0][1]

    expected = twenty(chain.init(params), params)
    state = flow.init(params)._replace(count=jnp.asarray(every - 1, jnp.int32))
    found = optax.apply_updates(params, flow.update(zero, state, params)[0])
    for key in "ab":
        moved = np.linalg.norm(expected[key]["kernel"] - params[key]["kernel"])
        assert moved > 1e-3
        assert np.linalg.norm(found[key]["kernel"] - expected[key]["kernel"]) <= 0.01 * moved


def test_ranks_and_exponents_as_schedules():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)
    schedules = [
        (project_rank(STRUCTURE, lambda count: 3 - count), project_rank(STRUCTURE, 2)),
        (
            proximal_schatten(STRUCTURE, 0.2, p=lambda count: 1.0 / count.astype(float)),
            proximal_schatten(STRUCTURE, 0.2, p=1.0),
        ),
    ]
    for scheduled, plain in schedules:
        state = scheduled.init(params)._replace(count=jnp.asarray(1, jnp.int32))
        found, _ = jax.jit(scheduled.update)(zero, state, params)
        expected, _ = plain.update(zero, plain.init(params), params)
        assert_close(found, expected, atol=1e-9)


def test_projections_and_proximal_steps_reach_their_sets():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)

    def after(transformation):
        updates, _ = transformation.update(zero, transformation.init(params), params)
        new = optax.apply_updates(params, updates)
        return spectra(new)

    def spectra(params):
        measured = measure(STRUCTURE, params)
        return [np.asarray(measured[name].sigma) for name in STRUCTURE.names]

    before = spectra(params)
    for old, new in zip(before, after(project_spectral_norm(STRUCTURE, 0.8)), strict=True):
        np.testing.assert_allclose(new, np.minimum(old, 0.8), atol=1e-12)
    for old, new in zip(before, after(project_rank(STRUCTURE, 2)), strict=True):
        np.testing.assert_allclose(new[:2], old[:2])
        np.testing.assert_allclose(new[2:], 0, atol=1e-12)
    for old, new in zip(before, after(proximal_schatten(STRUCTURE, 0.5, p=1.0)), strict=True):
        np.testing.assert_allclose(new, np.maximum(old - 0.5, 0), atol=1e-12)


@pytest.mark.parametrize("every", [1, 3])
def test_a_rank_is_reached_along_a_straight_line(every):
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)
    by = 12
    transformation = project_rank(STRUCTURE, 2, by=by, every=every)
    start = np.linalg.svd(params["a"]["kernel"], compute_uv=False)
    state = transformation.init(params)
    for step in range(1, by + 4):
        updates, state = jax.jit(transformation.update)(zero, state, params)
        params = optax.apply_updates(params, updates)
        done = step // every * every
        expected = start * np.where(np.arange(4) < 2, 1, max(0, 1 - done / by))
        found = np.linalg.svd(params["a"]["kernel"], compute_uv=False)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_turn_that_does_not_fall_on_the_step_is_the_next_one():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)
    transformation = project_rank(STRUCTURE, 2, by=5, every=4)
    state = transformation.init(params)
    ranks = []
    for _ in range(8):
        updates, state = transformation.update(zero, state, params)
        params = optax.apply_updates(params, updates)
        ranks.append(np.linalg.matrix_rank(params["b"]["kernel"]))
    assert ranks == [6] * 7 + [2]


def test_a_share_of_the_rank():
    params = tree(jnp.float64)
    zero = jax.tree.map(jnp.zeros_like, params)

    def rank_after(share):
        transformation = project_rank(STRUCTURE, share)
        updates, _ = transformation.update(zero, transformation.init(params), params)
        new = optax.apply_updates(params, updates)
        return [np.linalg.matrix_rank(new[name]["kernel"]) for name in "ab"]

    assert rank_after(0.5) == [2, 3]
    assert rank_after(0.1) == [1, 1]
    assert rank_after(1) == [1, 1]
    assert rank_after({"b/*": 0.9}) == [4, 5]
    assert rank_after({"a/*": np.inf, "b/*": 2}) == [4, 2]


def test_a_rank_that_has_been_reached_is_held_without_a_decomposition():
    """Beside the nearest matrix, by little; from anywhere else the nearest one is taken."""
    noise = np.random.default_rng(0).normal(size=(2, 140, 150))
    noise[0] += np.outer(noise[0, :, 0], noise[0, 0]) / 9  # far above the others
    params = {"a": {"kernel": jnp.asarray(noise[0])}, "b": {"kernel": jnp.asarray(noise[1].T)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    asked = {"a/kernel": 1, "b/*": 30}
    transformation = project_rank(describe(params), asked, by=4, every=2)
    update, first = jax.jit(transformation.update), transformation.init(params)

    def excess(turn):
        state = first._replace(count=jnp.asarray(2 * turn - 1, jnp.int32))
        moved = optax.apply_updates(params, update(zero, state, params)[0])
        for name, rank in zip("ab", (1, 30), strict=True):
            a, x = params[name]["kernel"], moved[name]["kernel"]
            left = np.linalg.svd(a, compute_uv=False)[rank:]
            assert np.linalg.matrix_rank(x) == rank or turn < 2
            yield np.linalg.norm(a - x) / np.linalg.norm(left) - 1

    np.testing.assert_allclose(list(excess(2)), 0, atol=1e-12)  # it may have been anywhere
    gap, none = excess(3)
    assert gap < 1e-3
    assert 1e-6 < none < 0.02
    # What has the rank is left alone.
    state = first._replace(count=jnp.asarray(3, jnp.int32))
    held = optax.apply_updates(params, update(zero, state, params)[0])
    updates, _ = update(zero, state._replace(count=jnp.asarray(5, jnp.int32)), held)
    assert_close(updates, zero, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20, 1e37])
def test_a_rank_is_held_at_any_scale(size):
    rng = np.random.default_rng(0)
    low = rng.normal(size=(96, 4)) @ rng.normal(size=(4, 80)) * (size / 10)
    params = {"a": {"kernel": jnp.asarray(low, jnp.float32)}}
    transformation = project_rank(describe(params), 4)
    state = transformation.init(params)._replace(count=jnp.asarray(5, jnp.int32))
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert np.abs(updates["a"]["kernel"]).max() <= 1e-5 * np.abs(low).max()


def test_the_optimizer_does_not_keep_a_rank_from_being_reached():
    params = tree(jnp.float64)
    chain = optax.chain(optax.sgd(0.1), project_rank(STRUCTURE, 2, by=20))
    early, state = run(chain, params, steps=10)
    assert np.linalg.matrix_rank(early["b"]["kernel"]) == 6
    late, _ = run_from(chain, early, state, steps=15)
    assert all(np.linalg.matrix_rank(late[name]["kernel"]) == 2 for name in "ab")
