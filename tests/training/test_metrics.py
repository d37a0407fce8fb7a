import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankjax.bounds import rank_sparse
from rankjax.network import Sample, View, describe, measure, weight_ranks
from rankjax.training import metrics, record_metrics


def tree(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 6))},
        "stack": {"experts": jax.random.normal(keys[1], (3, 2, 6, 4))},
    }


VIEW = View(out=(3,), in_=(2,), stacked=(0,), parallel=(1,))
PARAMS = tree()
STRUCTURE = describe(PARAMS, axes={"stack/experts": VIEW})


def test_values_against_numpy_and_the_reported_bound():
    sample = Sample.of_size(50, radius=2.0)
    found = jax.jit(lambda q: metrics(STRUCTURE, q, p=0.7, eps=0.0, sample=sample))(PARAMS)
    measured = measure(STRUCTURE, PARAMS)
    bound = rank_sparse(measured, sample, p=0.7, gamma=1.0)
    np.testing.assert_allclose(found["rank_sparse"], bound.value, rtol=1e-8)
    ranks = weight_ranks(measured)
    for i, name in enumerate(STRUCTURE.names):
        leaf = PARAMS["a"]["kernel"][None] if i == 0 else PARAMS["stack"]["experts"][i - 1]
        s = np.linalg.svd(np.asarray(leaf), compute_uv=False)
        expected = {
            "spectral_norm": s.max(),
            "frobenius_norm": np.sqrt((s**2).sum()),
            "numerical_rank": ranks["numerical"][i],
            "stable_rank": ranks["stable"][i],
            "soft_rank": ((s / s[:, :1]) ** 0.7).sum(),
            "rank_sparse_term": bound.per_layer[i],
        }
        assert len(found) == 6 * len(STRUCTURE.names) + 1
        for key, value in expected.items():
            assert found[f"{name}/{key}"].shape == ()
            np.testing.assert_allclose(found[f"{name}/{key}"], value, rtol=1e-8)


def test_the_record_is_renewed_every_so_many_steps_and_found_in_any_chain():
    optimizer = optax.chain(optax.sgd(0.3), record_metrics(STRUCTURE, every=3, p=1.0))
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimizer.init(PARAMS)
    assert np.isnan(optax.tree_utils.tree_get(state, "metrics")["a/kernel/soft_rank"])
    seen, actual = [], []
    for _ in range(7):
        actual.append(float(metrics(STRUCTURE, params, p=1.0)["a/kernel/soft_rank"]))
        params, state = step(params, state)
        seen.append(float(optax.tree_utils.tree_get(state, "metrics")["a/kernel/soft_rank"]))
    assert len(traces) == 1
    np.testing.assert_allclose(seen, [actual[i // 3 * 3] for i in range(7)], rtol=1e-9)
    assert len(set(seen)) == 3


def test_updates_are_left_alone_and_bad_numbers_are_named():
    recorder = record_metrics(STRUCTURE)
    updates, _ = recorder.update(PARAMS, recorder.init(PARAMS), PARAMS)
    assert updates is PARAMS
    with pytest.raises(ValueError, match="params: got None"):
        recorder.update(PARAMS, recorder.init(PARAMS))
    with pytest.raises(ValueError, match="every: got 0"):
        record_metrics(STRUCTURE, every=0)


def test_matrices_that_are_computed_from_leaves_are_recorded():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"q": {"lora_a": jax.random.normal(keys[0], (9, 2)),
                    "lora_b": jax.random.normal(keys[1], (2, 5))},
              "d": {"kernel": jnp.eye(3)}}  # fmt: skip
    structure = describe(params)
    recorder = record_metrics(structure)
    _, state = recorder.update(params, recorder.init(params), params)
    product = params["q"]["lora_a"] @ params["q"]["lora_b"]
    found = optax.tree_utils.tree_get(state, "metrics")
    np.testing.assert_allclose(found["q/spectral_norm"], jnp.linalg.norm(product, 2))
    masked = optax.masked(recorder, {"q": {"lora_a": False, "lora_b": True}, "d": True})
    _, state = masked.update(params, masked.init(params), params)
    found = optax.tree_utils.tree_get(state, "metrics")
    assert {name.split("/")[0] for name in found} == {"d"}
