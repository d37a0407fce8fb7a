"""The flow called from the loop is the flow in the chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.network import describe
from rankjax.training import SchattenFlow, apply_schatten_flow


def tree():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 6)), "bias": jnp.ones(6)},
        "b": {"kernel": jax.random.normal(keys[1], (6, 6))},
        "c": {"kernel": jax.random.normal(keys[2], (6, 6))},
    }


STRUCTURE = describe(tree())
SETTINGS = {
    "numbers": {"weight": 0.02, "p": 0.5},
    "schedules": {
        "weight": optax.linear_schedule(0.0, 0.05, 8),
        "p": optax.linear_schedule(1.0, 0.5, 8),
        "eps": optax.constant_schedule(0.02),
    },
    "per layer": {
        "weight": {"a/kernel": 0.02, "b/*": optax.linear_schedule(0.0, 0.05, 8)},
        "p": 1.0,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("source", [STRUCTURE, describe])
def test_the_same_numbers_as_inside_of_the_chain(name, source):
    options, every = dict(SETTINGS[name]), 3
    weight = options.pop("weight")
    inside = apply_schatten_flow(source, weight, every=every, **options)
    flow = SchattenFlow(source, weight, every=every, **options)

    def trained(transformation, after=None):
        params = tree()
        state = transformation.init(params)

        @jax.jit
        def step(params, state):
            slopes = jax.tree.map(lambda w: 0.1 * jnp.sin(3 * w), params)
            updates, state = transformation.update(slopes, state, params)
            return optax.apply_updates(params, updates), state

        for count in range(7):
            params, state = step(params, state)
            if after and (count + 1) % every == 0:
                params = after(params, count)
        return params

    bare = trained(optax.sgd(0.1))
    found, expected = (
        trained(optax.sgd(0.1), flow),
        trained(optax.chain(optax.sgd(0.1), inside)),
    )
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), expected, bare)
    assert moved["a"]["kernel"] > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11), found, expected
    )


def test_it_compiles_once_and_takes_the_memory_of_the_parameters(caplog):
    flow = SchattenFlow(STRUCTURE, 0.01, p=0.5, every=10)
    given = tree()
    params = flow(given)
    assert given["a"]["kernel"].is_deleted()
    with jax.log_compiles():
        for count in (1, np.int64(2), jnp.asarray(3)):
            params = flow(params, count)
    assert not [r for r in caplog.records if "moved" in r.getMessage()]
    np.testing.assert_array_equal(params["a"]["bias"], tree()["a"]["bias"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"every": 0}, "every: got 0, must be a whole number of at least 1"),
        ({"every": 1.5}, "every: got 1.5, must be a whole number"),
        ({"every": jnp.asarray(3)}, "must be a number here and no array"),
        ({"weight": -1.0}, "weight: got -1.0, must be >= 0"),
        ({"p": -1.0}, "p: got -1.0, must be >= 0"),
        ({"weight": {"d/kernel": 1.0}}, "unknown paths"),
    ],
)
def test_wrong_arguments_are_named(change, match):
    options = {"weight": 0.1, "p": 0.5, "every": 5} | change
    with pytest.raises(ValueError, match=match):
        SchattenFlow(STRUCTURE, options.pop("weight"), **options)


def test_parameters_of_another_network_are_refused():
    flow = SchattenFlow(STRUCTURE, 0.01, p=0.5, every=10)
    with pytest.raises(ValueError, match="b/kernel"):
        flow({"a": tree()["a"]})
