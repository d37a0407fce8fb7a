"""Each example is evaluated alone, and what is handed over is read as it is, in every guarantee."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax import describe
from rankjax.certificates import Picking, certify_all, certify_by, hold_out, pick_to_learn
from rankjax.certificates._guarantee import sure
from rankjax.certificates.file import count_errors

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), RNG.integers(2, size=60)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(3, 2)))}


def linear(p, x):
    return x @ p["w"]


def by_holding_out(apply, params, x, y):
    return hold_out(params, x, y, apply=apply)


def by_picking(apply, params, x, y):
    return pick_to_learn(
        params, x, y, apply=apply, optimizer=optax.sgd(0.1), picking=Picking(rounds=0)
    )


def by_surrogate(apply, params, x, y):
    known = hold_out(PARAMS, X, Y, apply=linear, delta=0.005)
    return certify_by(
        params, x, apply=apply, surrogate=PARAMS, surrogate_apply=linear, certificate=known
    )


WAYS = [by_holding_out, by_picking, by_surrogate, count_errors]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", ["plain", "jitted", "looped"])
def test_random_numbers_that_depend_on_the_batch_are_refused(way, inside):
    def noise(v):
        key = jax.random.key(0, impl="rbg")
        return jax.random.normal(jax.random.fold_in(key, (v[0] * 1e6).astype(jnp.int32)), (3,))

    def one(v):
        if inside == "looped":
            return jax.lax.scan(lambda c, _: (c + noise(c), None), v, None, length=2)[0]
        return v + (jax.jit(noise)(v) if inside == "jitted" else noise(v))

    with pytest.raises(ValueError, match=r"random numbers by '.*' that differ from batch to batch"):
        way(lambda p, x: linear(p, jax.vmap(one)(x)), PARAMS, X, Y)


@pytest.mark.parametrize("way", WAYS)
def test_random_numbers_that_are_the_same_for_every_example_are_not(way):
    def apply(p, x):
        return linear(p, x + jax.random.normal(jax.random.key(0, impl="rbg"), (3,))[None])

    way(apply, PARAMS, X, Y)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: np.ma.masked_array(a, a > 0), "a masked array"),
        (lambda a: a.astype(a.dtype.newbyteorder(">")), "byte order of another machine"),
    ],
)
def test_arrays_that_are_not_what_they_hold_are_named(way, spoil, message):
    with pytest.raises(ValueError, match=f"^x: got .*{message}"):
        way(linear, PARAMS, spoil(X), Y)
    with pytest.raises(ValueError, match=rf"^params\['w'\]: got .*{message}"):
        way(linear, {"w": spoil(np.asarray(PARAMS["w"]))}, X, Y)
    if way is not by_surrogate:
        with pytest.raises(ValueError, match=f"^y: got .*{message}"):
            way(linear, PARAMS, X, spoil(Y))


def picked(**options):
    settings = {"optimizer": optax.sgd(0.1), "picking": Picking(rounds=1, steps=1), **options}
    return pick_to_learn(PARAMS, X, Y, apply=linear, **settings)


def all_of(**options):
    return certify_all(describe(PARAMS), PARAMS, X, Y, apply=linear, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hold_out({}, X, Y, apply=linear), r"apply: must take params and x; .*KeyError"),
        (lambda: hold_out(PARAMS, X[:, :2], Y, apply=linear), "apply: must take params and x"),
        (lambda: picked(loss=3), "loss: got 3, must be a function"),
        (
            lambda: picked(loss=lambda p, x, y, key: x),
            r"loss: returned an array of shape \(64, 3\)",
        ),
        (lambda: picked(progress=3), "progress: got 3"),
        (lambda: Picking(seed=2**70), r"picking.seed: got \d+, must be below 2\^63"),
        (lambda: all_of(stored="x"), "stored: got str, must be a CompressedNetwork"),
        (lambda: all_of(picked=3), "picked: got int, must be a Picked"),
        (lambda: all_of(held_out=X), "held_out: got ndarray, must be a pair"),
        (lambda: all_of(joint="yes"), "joint: got 'yes', must be True or False"),
        (lambda: all_of(unlabeled=X), "unlabeled: needs stored or picked"),
        (
            lambda: count_errors(lambda p, x: linear(p, x).astype(complex), PARAMS, X, Y),
            "of complex",
        ),
        (lambda: count_errors(lambda p, x: linear(p, x).astype(int), PARAMS, X, Y), "outputs of i"),
    ],
)
def test_bad_input_is_a_value_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_state_of_another_optimizer_is_refused():
    states = []
    picked(progress=lambda state, left: states.append(state))
    picked(resume=states[-1])
    with pytest.raises(ValueError, match="resume: got the state of another optimizer"):
        picked(resume=states[-1], optimizer=optax.adam(0.1))


def test_labels_of_any_integer_type_count_the_same():
    for dtype in (np.uint8, np.int16, np.uint64):
        assert count_errors(linear, PARAMS, X, Y.astype(dtype)) == count_errors(
            linear, PARAMS, X, Y
        )


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (0.01, "0.99"), (0.5, "0.5"), (1e-7, "0.9999999"), (1.4e-6, "0.9999986"),
        (0.01 / 3, "0.996666"), (1e-30, "1 - 1e-30"),
    ],
)  # fmt: skip
def test_a_confidence_is_never_printed_above_its_value(delta, text):
    assert sure(delta) == text
    found = hold_out(PARAMS, X, Y, apply=linear, delta=delta)
    assert f"with probability >= {text}" in str(found)
