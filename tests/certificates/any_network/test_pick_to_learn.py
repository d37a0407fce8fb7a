"""Pick-to-Learn: what its theorem needs of the rounds, and that its bound holds."""

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.certificates import PickedCertificate, Picking, pick_to_learn

SHORT = Picking(rounds=30, group=2, growth=0.25, steps=25, minibatch=8)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # Adam itself mixes integers and floats
        yield


def apply(params, x):
    return jnp.tanh(x @ params["first"] + params["bias"][None]) @ params["last"]


def first_network(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    first = jax.random.normal(keys[0], (2, 8))
    return {"first": first, "bias": jnp.zeros(8), "last": jax.random.normal(keys[1], (8, 2)) / 3}


def draw(seed, n):
    """Points of a square, one of two classes on either side of a line."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return x, (x[:, 0] > 0.2).astype(int)


def run(x, y, picking=SHORT, **more):
    options = {"apply": apply, "optimizer": optax.adam(0.03), "batch_size": 64} | more
    return pick_to_learn(first_network(), x, y, picking=picking, **options)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), a, b)))


@pytest.mark.parametrize(
    "picking",
    [SHORT, replace(SHORT, rounds=3), replace(SHORT, warm=False), replace(SHORT, growth=0.0)],
    ids=["to the end", "rounds run out", "cold", "constant groups"],
)
def test_any_part_of_the_sample_that_holds_the_picks_gives_the_same_picks_and_network(picking):
    x, y = draw(0, 300)
    y = np.where(np.arange(300) % 40 == 0, 1 - y, y)  # some labels are wrong
    whole = run(x, y, picking)
    kept = np.union1d(whole.picked, whole.left)
    assert len(kept) < 200
    assert (len(whole.left) > 0) == (picking.rounds == 3)
    rng = np.random.default_rng(1)
    for extra in (0, 50):
        others = rng.choice(np.setdiff1d(np.arange(300), kept), extra, replace=False)
        part = np.union1d(kept, others)
        again = run(x[part], y[part], picking)
        np.testing.assert_array_equal(part[again.picked], whole.picked)
        np.testing.assert_array_equal(part[again.left], whole.left)
        assert same(again.params, whole.params)


def test_all_that_is_not_kept_is_right_and_the_certificate_counts_what_is():
    x, y = draw(0, 300)
    y = np.where(np.arange(300) % 40 == 0, 1 - y, y)
    for rounds in (3, 30):
        found = run(x, y, replace(SHORT, rounds=rounds))
        logits = np.asarray(apply(found.params, x))
        wrong = np.flatnonzero(np.argmax(logits, axis=1) != y)
        np.testing.assert_array_equal(np.setdiff1d(wrong, found.picked), found.left)
        assert len(set(found.picked)) == found.certificate.picked == len(found.picked)
        assert found.certificate.errors == len(found.left)
        found.certificate.verify()


def test_coin_tosses_are_never_promised_to_be_predicted():
    # Whatever the network, its true error is 1/2.
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(-1, 1, (120, 2)), rng.integers(2, size=120)
        found = run(x, y, replace(SHORT, rounds=2 * seed))
        assert found.certificate.value >= 0.5


def test_the_true_error_is_covered_on_a_known_distribution():
    grid = np.stack(np.meshgrid(*[(np.arange(200) + 0.5) / 100 - 1] * 2), axis=-1).reshape(-1, 2)
    misses, values = 0, []
    for seed in range(5):
        x, y = draw(seed, 400)
        found = run(x, y, delta=0.2)
        answers = np.argmax(np.asarray(apply(found.params, grid)), axis=1)
        risk = np.mean(answers != (grid[:, 0] > 0.2))
        misses += found.certificate.value < risk
        values.append(found.certificate.value)
    assert misses <= 1
    assert np.median(values) < 0.2


def test_the_first_group_is_the_worst_of_the_first_network_and_ties_go_to_the_first():
    logits = jnp.asarray([[0.0, 1], [0, 3], [0, 2], [1, 0], [np.nan, 0], [0, 3], [0, 0]])
    found = pick_to_learn(
        logits, np.arange(7), np.zeros(7, int), apply=lambda params, x: params[x],
        optimizer=optax.sgd(0.0), picking=Picking(rounds=3, group=2, growth=0.0, steps=1),
    )  # fmt: skip
    np.testing.assert_array_equal(found.picked, [4, 1, 5, 2, 0, 6])
    assert len(found.left) == 0
    assert found.certificate.picked == 6


def test_groups_grow_with_what_is_picked_and_hold_wrong_examples_only():
    sizes = []
    pick_to_learn(
        jnp.zeros((1, 2)), np.zeros(100, int), np.zeros(100, int),
        apply=lambda params, x: params[x],
        optimizer=optax.sgd(0.0), picking=Picking(rounds=9, group=4, growth=0.5, steps=1),
        progress=lambda state, left: sizes.append((int(state.count), left)),
    )  # fmt: skip
    assert sizes == [(k, 100 - k) for k in (0, 4, 8, 12, 18, 27, 40, 60, 90, 100)]


def test_cold_rounds_begin_with_the_first_network_and_a_new_optimizer():
    x, y = draw(5, 100)
    two = replace(SHORT, rounds=2)
    warm, cold = (run(x, y, replace(two, warm=warm)) for warm in (True, False))
    assert [int(found.state.optimizer[0].count) for found in (warm, cold)] == [50, 25]
    assert not same(warm.params, cold.params)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been():
    x, y = draw(3, 200)
    states = []
    whole = run(x, y, progress=lambda state, left: states.append(state))
    assert len(states) > 3
    stored = jax.tree.map(np.asarray, states[2])
    again = run(x, y, resume=stored)
    assert same(again.params, whole.params)
    np.testing.assert_array_equal(again.picked, whole.picked)
    assert again.certificate == whole.certificate
    for x_, y_, picking in (
        (x + 1e-9, y, SHORT),
        (x, 1 - y, SHORT),
        (x, y, replace(SHORT, group=3)),
        (x, y, replace(SHORT, rounds=31)),
    ):
        with pytest.raises(ValueError, match="resume: got the state of a run with digest"):
            run(x_, y_, picking, resume=stored)


def test_losses_draw_noise_optimizers_see_the_tree_and_other_leaves_stay():
    x, y = draw(4, 150)
    params = first_network() | {"shift": jnp.asarray([3]), "activation": jnp.tanh}

    def with_others(params, x):
        hidden = params["activation"](x @ params["first"] + params["bias"][None])
        return hidden @ params["last"] + 0 * params["shift"].astype(float)[None]

    def augmented(params, x, y, key):
        x = x + 0.01 * jax.random.normal(key, x.shape)
        logits = with_others(params, x)
        decay = sum(jnp.sum(params[name] ** 2) for name in ("first", "last"))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() + 1e-4 * decay

    kinds = {"first": "a", "bias": "b", "last": "a", "shift": "b", "activation": "b"}
    labels = lambda tree: {k: None if tree[k] is None else kinds[k] for k in tree}  # noqa: E731
    optimizer = optax.multi_transform({"a": optax.adam(0.03), "b": optax.set_to_zero()}, labels)
    found = pick_to_learn(
        params, x, y, apply=with_others, optimizer=optimizer, loss=augmented, picking=SHORT
    )
    assert found.params["activation"] is jnp.tanh
    assert int(found.params["shift"][0]) == 3
    np.testing.assert_array_equal(found.params["bias"], 0)
    assert not np.array_equal(found.params["first"], params["first"])
    other = pick_to_learn(
        params, x, y, apply=with_others, optimizer=optimizer, loss=augmented,
        picking=replace(SHORT, seed=1),
    )  # fmt: skip
    assert not same(found.state.params, other.state.params)


def test_it_prints_what_it_is_about_and_json_comes_back():
    found = PickedCertificate(
        value=1.0, errors=2, n=60000, delta=0.01, picked=1198, tried=3
    ).settled()
    assert 0.0223 < found.value < 0.0229
    text = str(found)
    assert "trained on 1198 picked examples of 60000; 2 of the others are wrong" in text
    assert "one of 3 settings of picking" in text
    assert PickedCertificate.from_json(found.to_json()) == found
    for field, value in (("errors", 1), ("picked", 1000), ("n", 70000), ("delta", 0.02)):
        altered = json.loads(found.to_json()) | {field: value}
        with pytest.raises(ValueError, match="value: got"):
            PickedCertificate.from_json(json.dumps(altered))
    with pytest.raises(ValueError, match="picked: got 59999, must be at most n - errors = 59998"):
        replace(found, picked=59999).verify()


def test_arguments_out_of_range_are_refused_by_name():
    x, y = draw(0, 20)

    def refused(match, x=x, y=y, **more):
        with pytest.raises(ValueError, match=match):
            run(x, y, **more)

    refused("delta: got 1", delta=1)
    refused("tried: got 0", tried=0)
    refused("y: got labels from 0 to 5", y=y * 5)
    refused("x: got leading axes", x=x[1:])
    refused("picking: got dict, must be a Picking", picking={})
    refused("optimizer: got float, must be an Optax transformation", optimizer=0.1)
    refused("resume: got int, must be a PickState", resume=3)
    with pytest.raises(ValueError, match="params: got no floating point array"):
        pick_to_learn({}, x, y, apply=apply, optimizer=optax.sgd(1.0))
    out_of_range: list[tuple[str, Any]] = [
        ("rounds", -1), ("group", 0), ("steps", 0), ("minibatch", 0), ("seed", -1),
        ("growth", -0.1), ("growth", True), ("warm", 1),
    ]  # fmt: skip
    for field, value in out_of_range:
        with pytest.raises(ValueError, match=f"picking.{field}: got"):
            Picking(**{field: value})
