# Optax types updates and states as a union of every kind of tree.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false

"""Decay between two decompositions: what is kept, when it is renewed, how exact it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.network import View, describe
from rankjax.training import add_schatten_decay, proximal_schatten, schatten_penalty


def low_rank(key, m, n):
    u, v = jax.random.split(key)
    return jax.random.normal(u, (m, 2)) @ jax.random.normal(v, (2, n))


def tree():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "a": {"kernel": low_rank(keys[0], 8, 12), "bias": jnp.ones(12)},
        "big": {"kernel": jax.random.normal(keys[1], (12, 12))},
        "stack": {"experts": jax.random.normal(keys[2], (3, 6, 4))},
    }


PARAMS = tree()
VIEW = View(out=(2,), in_=(1,), parallel=(0,))
STRUCTURE = describe(PARAMS, axes={"stack/experts": VIEW})
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def gradient(params, p=0.5, eps=0.05, weight=1.0):
    penalty = lambda q: schatten_penalty(  # noqa: E731
        STRUCTURE, q, p=p, eps=eps, weight=weight, method="svd"
    )
    return jax.grad(penalty)(params)


def drifted(params, size):
    def move(leaf, key):
        noise = jax.random.normal(key, leaf.shape)
        return leaf + size * noise * jnp.linalg.norm(leaf) / jnp.linalg.norm(noise)

    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    return jax.tree.map(move, params, jax.tree.unflatten(jax.tree.structure(params), list(keys)))


def distance(a, b):
    squares = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2), a, b)
    return float(jnp.sqrt(sum(jax.tree.leaves(squares))))


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_exact_when_renewed_and_renewed_when_due():
    decay = add_schatten_decay(STRUCTURE, 2.0, p=0.5, eps=0.05, refresh=3)
    update = jax.jit(decay.update)
    state, params = decay.init(PARAMS), PARAMS
    errors = []
    for number in range(7):
        updates, state = update(ZERO, state, params)
        errors.append(distance(updates, gradient(params, weight=2.0)))
        params = drifted(params, 1e-3 * (number + 1))
    scale = distance(gradient(params, weight=2.0), ZERO)
    exact = np.asarray(errors) < 1e-6 * scale
    np.testing.assert_array_equal(exact, [i % 3 == 0 for i in range(7)])


def test_the_kept_basis_is_within_a_percent_where_the_kept_gradient_is_not():
    """1e-3 of drift, the worst kind: low rank."""
    moved = drifted(PARAMS, 1e-3)
    expected, before = gradient(moved), gradient(PARAMS)
    decay = add_schatten_decay(STRUCTURE, 1.0, p=0.5, eps=0.05, refresh=10)
    update = jax.jit(decay.update)
    _, state = update(ZERO, decay.init(PARAMS), PARAMS)
    updates, _ = update(ZERO, state, moved)
    error, stale = (distance(x, expected) / distance(expected, ZERO) for x in (updates, before))
    assert error < 0.01
    assert stale > 3 * error


def test_each_matrix_renews_its_basis_by_itself():
    """A matrix that moves fast is decomposed, without the others of its shape."""
    keys = jax.random.split(jax.random.key(7), 3)
    params = {f"d{i}": {"kernel": low_rank(k, 8, 6)} for i, k in enumerate(keys)}
    structure = describe(params)
    decay = add_schatten_decay(structure, 1.0, p=0.5, eps=0.05, refresh=100)
    zero = jax.tree.map(jnp.zeros_like, params)
    _, state = decay.update(zero, decay.init(params), params)
    moved = params | {"d1": {"kernel": low_rank(jax.random.key(8), 8, 6)}}
    _, after = decay.update(zero, state, moved)
    same = [
        bool(jnp.all(a == b)) for a, b in zip(state.kept[0].basis, after.kept[0].basis, strict=True)
    ]
    assert same == [True, False, True]
    assert after.kept[0].error[1] > 0.004 > after.kept[0].error[0]


def test_with_every_it_acts_now_and_then_and_as_strongly():
    decay = add_schatten_decay(STRUCTURE, 1.0, p=0.5, eps=0.05, every=2, refresh=4)
    state, sizes, kept = decay.init(PARAMS), [], []
    update = jax.jit(decay.update)
    params = PARAMS
    for _ in range(6):
        updates, state = update(ZERO, state, params)
        sizes.append(distance(updates, ZERO) > 0)
        kept.append(jax.tree.leaves(state.kept)[0])
        if len(sizes) == 2:
            assert_close(updates, jax.tree.map(lambda g: 2 * g, gradient(params)), atol=1e-6)
        params = drifted(params, 1e-3)
    assert sizes == [False, True] * 3
    same = [bool(jnp.all(a == b)) for a, b in itertools.pairwise(kept)]
    assert same == [False, True, True, True, False]


def test_weights_by_path_and_scheduled():
    weight = {"a/kernel": lambda count: 0.5 * count.astype(float), "big/kernel": 0.0}
    decay = add_schatten_decay(STRUCTURE, weight, p=1.0, eps=0.05, method="svd")
    state = decay.init(PARAMS)._replace(count=jnp.asarray(2, jnp.int32))
    updates, _ = decay.update(ZERO, state, PARAMS)
    expected = gradient(PARAMS, p=1.0, weight={"a/kernel": 1.0, "big/kernel": 0.0})
    assert_close(updates, expected, rtol=1e-8, atol=1e-12)


def test_large_leaves_alone_are_the_same_as_in_a_batch(monkeypatch):
    together = add_schatten_decay(STRUCTURE, 1.0, p=0.5)
    expected, _ = together.update(ZERO, together.init(PARAMS), PARAMS)
    monkeypatch.setattr("rankjax.training._in_turn.LARGE", 1)
    jax.clear_caches()
    found, _ = together.update(ZERO, together.init(PARAMS), PARAMS)
    assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_peak_memory_is_near_that_of_the_bare_step():
    """Eight large leaves: their updates are held, and what one leaf takes, not what eight take."""
    keys = jax.random.split(jax.random.key(5), 8)
    shapes = [jax.random.normal(k, (256, 256), jnp.float32) / 16 for k in keys]
    params = {f"d{i}": {"kernel": w, "bias": w[0]} for i, w in enumerate(shapes)}
    structure = describe(params)
    x = jax.random.normal(jax.random.key(6), (32, 256), jnp.float32)

    def loss(params):
        y = x
        for layer in params.values():
            y = jax.nn.relu(y @ layer["kernel"] + layer["bias"][None])
        return jnp.mean(y * y)

    def peak(inside, last):
        chain = optax.chain(optax.scale_by_adam(), inside, optax.scale(-1e-3), last)

        def step(params, state):
            updates, state = chain.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        with jax.numpy_dtype_promotion("standard"):  # Adam's float by int
            compiled = (
                jax.jit(step, donate_argnums=(0, 1)).lower(params, chain.init(params)).compile()
            )
        memory = compiled.memory_analysis()
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes

    identity = optax.identity()
    bare = peak(identity, identity)
    decay = lambda **k: add_schatten_decay(structure, 0.01, p=0.5, eps=0.01, **k)  # noqa: E731
    leaf = shapes[0].size * 4
    updates = 8 * leaf
    # The engine of "auto" has temporaries of its own.
    assert peak(decay(every=10, method="gram"), identity) < 1.3 * bare
    last = proximal_schatten(structure, 0.01, p=0.5, every=10)
    assert peak(identity, last) < 1.3 * bare
    kept = 8 * leaf  # the state, which is there anyway
    assert peak(decay(refresh=10), identity) < bare + updates + kept + 8 * leaf


def test_a_training_run_ends_where_the_exact_decay_ends():
    """Refreshed every 10 steps, it finds the same low-rank matrix from the same noisy one."""
    target = low_rank(jax.random.key(3), 10, 8)
    noisy = {"kernel": target + 0.1 * jax.random.normal(jax.random.key(4), (10, 8))}
    structure = describe(noisy)

    def final(**options):
        chain = optax.chain(
            add_schatten_decay(structure, 0.6, p=0.5, eps=0.02, **options), optax.sgd(0.03)
        )

        @jax.jit
        def run(params):
            def step(carry, _):
                params, state = carry
                slope = jax.tree.map(jnp.subtract, params, noisy)
                updates, state = chain.update(slope, state, params)
                return (optax.apply_updates(params, updates), state), None

            state = chain.init(params)
            return jax.lax.scan(step, (params, state), None, length=300)[0][0]

        return np.linalg.svd(run(noisy)["kernel"], compute_uv=False)

    exact, found = final(), final(refresh=10)
    assert np.sum(exact > 0.05 * exact[0]) == 2
    np.testing.assert_allclose(found[:2], exact[:2], rtol=0.02)
    assert np.sum(found > 0.05 * found[0]) == 2


def test_what_does_not_fit_is_named():
    make = lambda **k: add_schatten_decay(STRUCTURE, 1.0, p=0.5, **k)  # noqa: E731
    with pytest.raises(ValueError, match="refresh: got 3, must be a multiple of every = 2"):
        make(every=2, refresh=3)
    with pytest.raises(ValueError, match="refresh: got 0, must be a whole number"):
        make(refresh=0)
    with pytest.raises(ValueError, match=r"method: got .*, must be one of"):
        make(method="x")
    with pytest.raises(ValueError, match=r"with refresh: got .*, must be one of 'auto', 'gram'"):
        make(refresh=2, method="svd")
    with pytest.raises(ValueError, match="weight names unknown paths"):
        add_schatten_decay(STRUCTURE, {"x": 1.0}, p=0.5)
