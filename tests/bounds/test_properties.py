"""The properties listed for the bounds: invariances, rates, scaling laws, derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax import bounds
from rankjax.bounds import all_bounds
from rankjax.network import Sample, measure
from tests.bounds import networks

PARAMS = networks.chain([3, 5, 4, 2])
STRUCTURE = networks.structure_of(PARAMS)
SAMPLE = networks.sample(3)
GAMMA = 0.4
DOMINANT = {
    "rank_sparse": {"p": 0.5},
    "spectral": {},
    "frobenius": {},
    "one_inf": {},
    "path_norm": {},
    "pac_bayes_spectral": {},
    "compression": {},
    "parameter_count": {},
    "vc": {},
    "low_rank": {},
}


def results(params, sample=SAMPLE, gamma=GAMMA, reference=None):
    measured = measure(STRUCTURE, params, reference=reference)
    found, left_out = all_bounds(measured, sample, gamma=gamma)
    assert not left_out
    return {(r.name, r.kind): r for r in found}


def call(name, measured, sample=SAMPLE, **options):
    if name not in {"parameter_count", "vc"}:
        options.setdefault("gamma", GAMMA)
    return getattr(bounds, name)(measured, sample, **options)


def test_rescaling_layers_of_a_relu_network_changes_nothing():
    scaled = {
        "a": {"kernel": 3 * PARAMS["a"]["kernel"]},
        "b": {"kernel": PARAMS["b"]["kernel"] / 6},
        "c": {"kernel": 2 * PARAMS["c"]["kernel"]},
    }
    before, after = results(PARAMS), results(scaled)
    assert len(before) == 25
    for key, bound in before.items():
        # These two read hidden norms from the sample, which is fixed here, and the explicit
        # rank-sparse bound rounds sizes to a grid.
        fixed = {"conv_norm", "rank_sparse_augmented"}
        if key[0] not in fixed and key != ("rank_sparse", "explicit"):
            assert float(after[key].value) == pytest.approx(float(bound.value), rel=1e-9), key


def test_rescaling_leaves_the_bounds_of_hidden_norms_unchanged_when_the_data_are_measured_again():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.zeros(40, int)
    scaled = {
        "a": {"kernel": 4 * PARAMS["a"]["kernel"]},
        "b": {"kernel": PARAMS["b"]["kernel"] / 4},
        "c": PARAMS["c"],
    }
    values = []
    for params in (PARAMS, scaled):
        sample = Sample.from_data(STRUCTURE, params, x, y, apply=networks.apply)
        measured = measure(STRUCTURE, params)
        values.append([
            float(bounds.conv_norm(measured, sample, gamma=1.0).value),
            float(bounds.rank_sparse(measured, sample, gamma=1.0, form="augmented").value),
        ])  # fmt: skip
    # The logarithm of conv_norm's largest part is all that may move.
    assert values[1] == pytest.approx(values[0], rel=1e-9)


def test_permuting_hidden_units_changes_nothing():
    order = np.random.default_rng(0).permutation(5)
    permuted = dict(PARAMS)
    permuted["a"] = {"kernel": PARAMS["a"]["kernel"][:, order]}
    permuted["b"] = {"kernel": PARAMS["b"]["kernel"][order]}
    before, after = results(PARAMS), results(permuted)
    for key, bound in before.items():
        assert float(after[key].value) == pytest.approx(float(bound.value), rel=1e-9), key
        assert np.asarray(after[key].per_layer) == pytest.approx(np.asarray(bound.per_layer))


@pytest.mark.parametrize("name", DOMINANT)
def test_dominant_terms_fall_like_one_over_root_n(name):
    measured = measure(STRUCTURE, PARAMS)
    few, many = networks.sample(3, n=400), networks.sample(3, n=40000)
    ratio = call(name, measured, few, **DOMINANT[name]).value
    ratio = ratio / call(name, measured, many, **DOMINANT[name]).value
    assert float(ratio) == pytest.approx(10, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("frobenius", lambda n: n**-0.5),
        ("one_inf", lambda n: n**-0.5),
        ("path_norm", lambda n: n**-0.5),
        ("parameter_count", lambda n: n**-0.5),
    ],
)
def test_explicit_forms_without_logarithms_fall_like_one_over_root_n(name, rate):
    measured = measure(STRUCTURE, PARAMS)
    values = [
        float(call(name, measured, networks.sample(3, n=n), kind="explicit", gamma=GAMMA).value)
        for n in (400, 40000)
    ]
    assert values[0] / values[1] == pytest.approx(rate(400) / rate(40000), rel=1e-9)


def test_explicit_gap_of_spectral_falls_like_log_n_over_root_n():
    measured = measure(STRUCTURE, PARAMS)
    parts = []
    for n in (400, 40000):
        bound = bounds.spectral(measured, networks.sample(3, n=n), gamma=GAMMA, kind="explicit")
        parts.append(float(bound.value - bound.terms["rest"]))
    assert parts[0] / parts[1] == pytest.approx(10 * math.log(400) / math.log(40000), rel=1e-9)


def test_equal_to_the_reference_gives_zero_where_the_bound_says_so():
    found = results(PARAMS, reference=PARAMS)
    names = "rank_sparse", "rank_sparse_augmented", "rank_sparse_tail", "spectral"
    for name in (*names, "pac_bayes_spectral"):
        assert float(found[name, "dominant"].value) == 0, name
        assert np.all(np.asarray(found[name, "dominant"].per_layer) == 0)
    assert float(found["graf_norm", "explicit"].value) == pytest.approx(4 / 500)
    assert float(found["graf_parameters", "explicit"].value) == 0
    assert float(found["conv_norm", "explicit"].value) == pytest.approx(4 / 500)
    explicit = found["spectral", "explicit"]
    assert float(explicit.value) == pytest.approx(float(explicit.terms["rest"]))
    others = [k for k, r in found.items() if float(r.value) == 0]
    assert len(others) == 6  # the others do not know a reference


def test_rank_sparse_at_p_zero_on_exact_rank():
    params = networks.exact_rank(12, 3, 4)
    measured = networks.measured(params)
    bound = bounds.rank_sparse(measured, Sample.of_size(100), p=0.0, gamma=1.0)
    assert float(bound.value) == pytest.approx(math.sqrt(2 * 3 * 12 * 4**2 / 100), rel=1e-9)


def slope(name, axis, **options):
    """Slope of log(bound^2 n) when one of width, rank and depth is doubled."""
    small = {"width": 16, "rank": 4, "depth": 3}
    large = {**small, axis: 2 * small[axis]}
    logs = []
    for sizes in (small, large):
        measured = networks.measured(networks.exact_rank(**sizes))
        sample = Sample.of_size(100, inf_radius=1.0, dimension=sizes["width"])
        bound = call(name, measured, sample, **options)
        logs.append(2 * float(bound.terms["log"]) + math.log(100))
    return (logs[1] - logs[0]) / math.log(2)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("rank_sparse", {"p": 0.0}, {"width": 1, "rank": 1, "depth": 2}),
        ("rank_sparse", {"p": 0.5, "form": "tail"}, {"width": 1, "rank": 1, "depth": 2}),
        ("rank_sparse", {"p": 1.5, "form": "tail"}, {"width": 1, "rank": 1, "depth": 2.5}),
        ("parameter_count", {}, {"width": 2, "rank": 0, "depth": 2}),
        ("low_rank", {}, {"width": 1, "rank": 2, "depth": 2}),
        # prod |A_l|_F = r^(L/2): its square grows by 2^L with the rank, by r^(2L - L) with L.
        ("frobenius", {}, {"width": 0, "rank": 3, "depth": 1 + 3 * math.log2(4)}),
        ("pac_bayes_spectral", {}, {"width": 1, "rank": 1, "depth": 3}),
    ],
)
def test_slopes_match_the_sample_complexities(name, options, expected):
    for axis, value in expected.items():
        assert slope(name, axis, **options) == pytest.approx(value, abs=1e-9), axis


def test_slopes_of_spectral_match_up_to_the_spread_of_the_rows():
    # |A|_{2,1} of a random projection of rank r is sqrt(r W) up to the spread of its row norms.
    for axis, value in {"width": 1, "rank": 1, "depth": 3}.items():
        assert slope("spectral", axis) == pytest.approx(value, abs=0.2), axis


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_improvement_over_the_parameter_count_is_width_over_rank(rank):
    width = 16
    measured = networks.measured(networks.exact_rank(width, rank, 3))
    sample = Sample.of_size(100)
    ours = bounds.rank_sparse(measured, sample, p=0.0, gamma=1.0).value
    theirs = bounds.parameter_count(measured, sample).value
    # m + n = 2 W is where the 2 comes from.
    assert 2 * float((theirs / ours) ** 2) == pytest.approx(width / rank, rel=1e-9)


# Differentiable in the weights: these, at weights in general position. The others are constant in
# the weights (parameter_count, vc), rounded (the two of Graf et al.), or measured on data
# (compression, pac_bayes_gaussian).
DIFFERENTIABLE = [
    ("rank_sparse", {"p": 0.5}),
    ("rank_sparse", {}),
    ("rank_sparse", {"form": "augmented"}),
    ("rank_sparse", {"form": "tail"}),
    ("rank_sparse", {"form": "tail", "p": 1.7}),
    ("spectral", {}),
    ("spectral", {"kind": "explicit"}),
    ("frobenius", {}),
    ("frobenius", {"kind": "explicit"}),
    ("one_inf", {}),
    ("path_norm", {}),
    ("path_norm", {"order": 2}),
    ("pac_bayes_spectral", {}),
    ("pac_bayes_spectral", {"kind": "explicit"}),
    ("low_rank", {}),
    ("conv_norm", {}),
]


@pytest.mark.parametrize(("name", "options"), DIFFERENTIABLE)
def test_derivatives_against_finite_differences(name, options):
    def value(params):
        return call(name, measure(STRUCTURE, params), **options).terms["log"]

    keys = jax.random.split(jax.random.key(3), 3)
    direction = {
        k: {"kernel": jax.random.normal(key, PARAMS[k]["kernel"].shape)}
        for k, key in zip(PARAMS, keys, strict=True)
    }
    slope = jax.jit(lambda p, d: jax.jvp(value, (p,), (d,))[1])(PARAMS, direction)
    value = jax.jit(value)
    h = 1e-5
    ends = [jax.tree.map(lambda a, d, s=s: a + s * h * d, PARAMS, direction) for s in (1, -1)]
    difference = (value(ends[0]) - value(ends[1])) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["parameter_count", "vc"])
def test_counts_have_derivative_zero(name):
    gradient = jax.grad(lambda p: call(name, measure(STRUCTURE, p)).value)(PARAMS)
    assert all(not np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["spectral", "pac_bayes_spectral", "frobenius"])
def test_gradients_are_finite_at_zero_and_at_the_reference(name):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for params, reference in ((zero, None), (PARAMS, PARAMS), (zero, PARAMS)):

        def value(p, reference=reference):
            return call(name, measure(STRUCTURE, p, reference=reference)).value

        gradient = jax.jit(jax.grad(value))(params)
        assert all(np.all(np.isfinite(np.asarray(a))) for a in jax.tree.leaves(gradient))


def test_jit_gives_the_same_and_does_not_compile_again():
    names = [*DOMINANT, "graf_norm", "conv_norm"]

    @jax.jit
    def values(params, sample, gamma):
        measured = measure(STRUCTURE, params)
        return [call(n, measured, sample, **({} if n in {"parameter_count", "vc"} else
                {"gamma": gamma})).value for n in names]  # fmt: skip

    measured = measure(STRUCTURE, PARAMS)
    eager = [call(name, measured).value for name in names]
    assert np.asarray(values(PARAMS, SAMPLE, GAMMA)) == pytest.approx(np.asarray(eager))
    size = values._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    values(jax.tree.map(lambda a: 2 * a, PARAMS), SAMPLE, 0.7)
    assert values._cache_size() == size  # pyright: ignore[reportAttributeAccessIssue]


def test_float32_stays_float32_and_large_products_keep_their_logarithm():
    params = {k: {"kernel": (1e15 * v["kernel"]).astype(jnp.float32)} for k, v in PARAMS.items()}
    exact = {k: {"kernel": 1e15 * v["kernel"]} for k, v in PARAMS.items()}
    for key, bound in results(params).items():
        assert bound.value.dtype == jnp.float32, key
        assert bound.per_layer.dtype == jnp.float32, key
        log = float(results(exact)[key].terms["log"]) if key[0] == "frobenius" else None
        if log is not None:
            assert float(bound.terms["log"]) == pytest.approx(log, rel=1e-5)
    assert np.isinf(float(results(params)["frobenius", "dominant"].value))
