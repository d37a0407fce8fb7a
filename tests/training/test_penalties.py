import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rankjax.bounds import rank_sparse
from rankjax.network import Sample, View, describe, measure
from rankjax.training import (
    add_schatten_decay,
    log_det_penalty,
    nuclear_penalty,
    rank_sparse_penalty,
    schatten_penalty,
    stable_rank_penalty,
)
from tests.network.models import linen_network


def tree(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (4, 6)), "bias": jnp.ones(6)},
        "b": {"kernel": jax.random.normal(keys[1], (6, 6))},
        "c": {"kernel": jax.random.normal(keys[2], (6, 6))},
        "stack": {"kernel": jax.random.normal(keys[3], (3, 6, 4))},
    }


PARAMS, REFERENCE = tree(), tree(1)
STRUCTURE = describe(PARAMS, axes={"stack/kernel": View(out=(2,), in_=(1,), stacked=(0,))})


def matrices(params, reference=None):
    out = {}
    for name in "abc":
        out[f"{name}/kernel"] = [np.asarray(params[name]["kernel"])]
    out["stack/kernel"] = list(np.asarray(params["stack"]["kernel"]))
    if reference is not None:
        other = matrices(reference)
        out = {k: [a - m for a, m in zip(v, other[k], strict=True)] for k, v in out.items()}
    return out


@pytest.mark.parametrize("reference", [None, REFERENCE])
@pytest.mark.parametrize("weight", [0.3, {"b/kernel": 2.0, "stack/kernel": 0.1}])
def test_values_against_numpy(reference, weight):
    def factor(path):
        return weight.get(path, 1.0) if isinstance(weight, dict) else weight

    given = matrices(PARAMS, reference)
    options = {"weight": weight, "reference": reference}
    sigmas = [(factor(k), np.linalg.svd(a)[1]) for k, v in given.items() for a in v]
    for p in (0.5, 1.0, 2.0):
        expected = sum(f * np.sum(s**p) for f, s in sigmas)
        value = schatten_penalty(STRUCTURE, PARAMS, p=p, eps=0.0, **options)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        smooth = sum(f * np.sum((s**2 + 0.25) ** (p / 2) - 0.5**p) for f, s in sigmas)
        value = schatten_penalty(STRUCTURE, PARAMS, p=p, eps=0.5, eps_mode="absolute", **options)
        np.testing.assert_allclose(value, smooth, rtol=1e-8)
    expected = sum(f * np.sum(s) for f, s in sigmas)
    np.testing.assert_allclose(nuclear_penalty(STRUCTURE, PARAMS, eps=0.0, **options), expected)
    for mode, unit in (("absolute", 1.0), ("relative", None)):
        expected = sum(f * np.sum(np.log1p((s / (0.3 * (unit or s[0]))) ** 2)) for f, s in sigmas)
        value = log_det_penalty(STRUCTURE, PARAMS, eps=0.3, eps_mode=mode, **options)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    expected = sum(f * np.sum(s**2) / s[0] ** 2 for f, s in sigmas)
    np.testing.assert_allclose(stable_rank_penalty(STRUCTURE, PARAMS, **options), expected)


@pytest.mark.parametrize("form", ["plain", "tail"])
def test_the_rank_sparse_penalty_is_the_logarithm_of_the_reported_bound(form):
    sample = Sample.of_size(100, radius=2.0)
    bound = rank_sparse(measure(STRUCTURE, PARAMS), sample, p=0.5, gamma=0.3, form=form)
    value = rank_sparse_penalty(
        STRUCTURE, PARAMS, sample, p=0.5, gamma=0.3, eps=0.0, weight=0.7, method="svd", form=form
    )
    np.testing.assert_allclose(value, 0.7 * np.log(bound.value), rtol=1e-12)


PENALTIES = {
    "schatten": lambda p, w: schatten_penalty(STRUCTURE, p, p=0.5, weight=w, eps_mode="absolute"),
    "nuclear": lambda p, w: nuclear_penalty(STRUCTURE, p, weight=w, eps_mode="absolute"),
    "log det": lambda p, w: log_det_penalty(STRUCTURE, p, weight=w, eps=0.1, eps_mode="absolute"),
    "stable rank": lambda p, w: stable_rank_penalty(STRUCTURE, p, weight=w),
    "rank-sparse": lambda p, w: rank_sparse_penalty(
        STRUCTURE, p, Sample.of_size(9), weight=w, eps=0.0, method="svd"
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_leave_everything_else_alone(name):
    penalty = PENALTIES[name]
    check_grads(penalty, (PARAMS, 0.3), order=1, modes=("rev",), rtol=1e-4)
    gradient = jax.grad(penalty)(PARAMS, 1.0)
    np.testing.assert_array_equal(gradient["a"]["bias"], 0)
    assert np.abs(gradient["stack"]["kernel"]).min(axis=(1, 2)).max() > 0


SCHEDULED = {
    "schatten": schatten_penalty,
    "log det": lambda structure, params, *, p, **numbers: log_det_penalty(
        structure, params, **numbers
    ),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_schedules_do_not_recompile(name):
    count = []

    @jax.jit
    def value(params, p, eps, weight):
        count.append(1)
        return SCHEDULED[name](STRUCTURE, params, p=p, eps=eps, weight=weight)

    values = [value(PARAMS, p, 0.01 * p, 1 / p) for p in (0.5, 1.0, 1.5)]
    assert len(count) == 1
    eager = SCHEDULED[name](STRUCTURE, PARAMS, p=1.0, eps=0.01, weight=1.0)
    np.testing.assert_allclose(values[1], eager, rtol=1e-6)


def test_float32_and_bfloat16_trees():
    apply, params = linen_network()
    structure = describe(params, apply=apply, example=jnp.zeros((1, 5), jnp.float32))
    exact = schatten_penalty(structure, params, p=0.5)
    assert exact.dtype == jnp.float32
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    value, gradient = jax.value_and_grad(lambda q: schatten_penalty(structure, q, p=0.5))(half)
    np.testing.assert_allclose(value, exact, rtol=0.02)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


def test_bad_weights_and_trees_are_named():
    with pytest.raises(ValueError, match=r"weight names unknown paths \['x'\]"):
        schatten_penalty(STRUCTURE, PARAMS, p=1.0, weight={"x": 1.0})
    with pytest.raises(ValueError, match="params has no leaf"):
        schatten_penalty(STRUCTURE, {"a": PARAMS["a"]}, p=1.0)
    with pytest.raises(ValueError, match=r"p: got .*, must be >= 0"):
        schatten_penalty(STRUCTURE, PARAMS, p=-1.0)


def test_a_computed_matrix_is_penalized_through_its_leaves_and_not_replaced():
    params = {"w": jnp.eye(3, 4), "gain": jnp.full(4, 2.0)}
    apply = lambda p, x: x @ (p["w"] * p["gain"][None])  # noqa: E731
    structure = describe(params, apply=apply, example=jnp.ones((1, 3)))
    folded = {"kernel": params["w"] * params["gain"][None]}
    same = nuclear_penalty(describe(folded), folded)
    np.testing.assert_allclose(nuclear_penalty(structure, params), same)
    gradient = jax.grad(lambda p: nuclear_penalty(structure, p))(params)
    np.testing.assert_allclose(gradient["gain"], [1, 1, 1, 0], atol=0.02)
    decay = add_schatten_decay(structure, 0.1, p=1.0)
    with pytest.raises(ValueError, match="'w' is computed from"):
        decay.update(params, decay.init(params), params)
