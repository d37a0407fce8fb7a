"""The rank-sparse bound with every constant, against NumPy and against networks themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from rankjax.bounds import Inapplicable, rank_sparse
from rankjax.network import Sample, describe, measure
from tests.bounds import networks

SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)


def decaying(sizes, seed=0):
    """A chain whose singular values fall like 1 / i^2."""
    params = networks.chain(sizes, seed)
    for leaf in params.values():
        u, s, vt = np.linalg.svd(np.asarray(leaf["kernel"]), full_matrices=False)
        leaf["kernel"] = jnp.asarray((u * (1.3 / np.arange(1, len(s) + 1) ** 2)) @ vt)
    return params


PARAMS = decaying([20, 30, 25, 10])
MEASURED = networks.measured(PARAMS)
SAMPLE = networks.sample(3, n=60000, dimension=20)


def explicit(measured=MEASURED, sample=SAMPLE, **options):
    return rank_sparse(measured, sample, kind="explicit", **options)


def integer(j):
    return np.log(1.5 * (abs(j) + 1) * (abs(j) + 2))


def natural(i):
    return np.log((i + 1) * (i + 2))


def shortest(matrix, error, count, blocks=1):
    """Nats of one layer, from the theorem; ``count(t)`` singular values are above t."""
    m, n = matrix.shape
    norm = np.linalg.norm(matrix, 2)
    if norm <= error:
        return np.log(3)
    j = np.ceil(8 * np.log2(norm) + 1e-3)

    def net(resolution, factor):
        i = max(0, np.ceil(j - 8 * np.log2(resolution) + 1e-3))
        return np.log(3) + integer(j) + natural(i), np.log1p(factor * 2 ** (i / 8))

    start, dimension = net(error, 2)
    found = [start + blocks * m * n * dimension]
    for split in SPLITS:
        start, dimension = net((1 - split) * error, 4)
        ranks = blocks * np.log(min(m, n) + 1)
        found.append(start + ranks + count(split * error) * (m + n) * dimension)
    return min(found)


def test_lengths_are_those_of_a_code():
    j = np.arange(-(10**6), 10**6 + 1)
    assert 1 - 1e-5 < np.sum(np.exp(-integer(j))) <= 1
    assert 1 - 1e-5 < np.sum(np.exp(-natural(np.arange(10**6)))) <= 1


@pytest.mark.parametrize("p", [None, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("gamma", [0.9, 3e-3])
def test_by_hand(p, gamma):
    bound = explicit(p=p, gamma=gamma, delta=0.02)
    errors = np.asarray(bound.terms["error"])
    for matrix, error, part in zip(networks.matrices(PARAMS), errors, bound.per_layer, strict=True):
        sigma = np.linalg.svd(matrix, compute_uv=False)

        def count(t, sigma=sigma):
            t = t * np.exp(-1e-4)
            k = np.sum(sigma > t) if p is None else np.floor(np.sum((sigma / t) ** p) * (1 + 1e-4))
            return min(k, len(sigma))

        assert float(part) * 60000 == pytest.approx(shortest(matrix, error, count), rel=1e-9)
    g = np.floor(8 * np.log2(gamma))
    b = np.ceil(8 * np.log2(SAMPLE.radius) + 1e-3)
    assert float(bound.terms["margin"]) == pytest.approx(2 ** (g / 8))
    share = float(np.mean(SAMPLE.margins <= 2 ** (g / 8)))
    assert float(bound.terms["margin_error"]) == share
    rest = integer(g) + integer(b) + np.log(1 / 0.02)
    assert float(bound.terms["rest"]) * 60000 == pytest.approx(rest)
    budget = float(np.sum(bound.per_layer)) + rest / 60000
    kl = lambda q: (  # noqa: E731
        -np.log1p(-q)
        if share == 0
        else share * np.log(share / q) + (1 - share) * np.log((1 - share) / (1 - q))
    )
    expected = brentq(lambda q: kl(q) - budget, share, 1 - 1e-12, xtol=1e-14)
    assert float(bound.value) == pytest.approx(expected, rel=1e-6)


def test_networks_within_the_errors_stay_within_half_of_the_margin():
    rng = np.random.default_rng(3)
    bound = explicit(gamma=0.5)
    gamma, errors = float(bound.terms["margin"]), np.asarray(bound.terms["error"])
    x = rng.normal(size=(200, 20))
    x = jnp.asarray(SAMPLE.radius * x / np.linalg.norm(x, axis=1, keepdims=True))
    plain = networks.apply(PARAMS, x)
    moved = 0.0
    for _ in range(20):
        other = {}
        for (name, leaf), error in zip(sorted(PARAMS.items()), errors, strict=True):
            change = rng.normal(size=leaf["kernel"].shape)
            change = np.outer(*(rng.normal(size=s) for s in change.shape))
            other[name] = {"kernel": leaf["kernel"] + error * change / np.linalg.norm(change, 2)}
        moved = max(
            moved, float(jnp.max(jnp.linalg.norm(networks.apply(other, x) - plain, axis=1)))
        )
    assert 0 < moved <= gamma / np.sqrt(8)


@pytest.mark.parametrize("tied", [False, True])
def test_the_errors_use_up_the_margin_and_no_more(tied):
    """A chain of multiples of I, each enlarged by its error: there the proof is tight."""
    eye = {"kernel": 1.5 * jnp.eye(6)}
    params = {"a": eye} if tied else {"a": eye, "b": eye, "c": eye}

    def apply(params, x):
        for i in range(3):
            x = x @ params["a" if tied else "abc"[i]]["kernel"]
        return x

    structure = describe(params, apply=apply, example=jnp.ones((1, 6)))
    sample = Sample(n=10**6, radius=1.0, frobenius=1e3, margins=jnp.ones(10))
    bound = explicit(measure(structure, params), sample, gamma=1.0)
    errors = np.broadcast_to(np.asarray(bound.terms["error"]), 3)
    radius = 2 ** (1 / 8)  # the next grid point: 1 itself could have been rounded down
    moved = radius * (np.prod(1.5 + errors) - 1.5**3)
    assert 0.999 / np.sqrt(8) <= moved <= 1 / np.sqrt(8)


def test_a_convolution_is_coded_once_and_its_patches_overlap():
    params = {"c": {"kernel": 0.5 * jnp.ones((3, 3, 1, 4))}, "d": {"kernel": jnp.ones((144, 2))}}

    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, params["c"]["kernel"], (1, 1), "SAME", dimension_numbers=numbers
        )
        return jax.nn.relu(x).reshape(len(x), -1) @ params["d"]["kernel"]

    example = jnp.ones((1, 6, 6, 1))
    measured = measure(describe(params, apply=apply, example=example), params)
    bound = explicit(measured, networks.sample(2, n=10**6), gamma=0.5)
    norms, errors = np.asarray(measured.operator_norm), np.asarray(bound.terms["error"])
    relative = np.array([3.0, 1.0]) * errors / norms
    radius = 2 ** ((8 + 1) / 8)
    gamma = float(bound.terms["margin"])
    assert np.prod(1 + relative) == pytest.approx(
        1 + gamma / np.sqrt(8) / radius / np.prod(norms), rel=1e-3
    )
    assert np.prod(1 + relative) <= 1 + gamma / np.sqrt(8) / radius / np.prod(norms)
    by_name = {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}}
    with pytest.raises(Inapplicable, match="positions"):
        explicit(measure(describe(by_name), by_name), SAMPLE)


def test_the_best_margin_and_the_exact_counts_are_the_smallest():
    free = explicit()
    assert 0 < float(free.value) < 1
    for gamma in (2.0, 1.0, 0.5, 0.25):
        assert float(free.value) <= float(explicit(gamma=gamma).value) + 1e-12
    for p in (0.0, 0.2, 0.5, 1.0, 2.0, jnp.array([0.1, 1.0, 2.0])):
        assert float(free.value) <= float(explicit(p=p).value) + 1e-12


def test_flat_in_width_times_rank():
    """At a fixed rank the nats grow like the width, and the bound is below 1."""
    found = {}
    for width, rank in ((64, 1), (128, 1), (128, 2), (256, 1)):
        measured = networks.measured(networks.exact_rank(width, rank, 3))
        bound = explicit(measured, networks.sample(3, n=60000, dimension=width))
        assert np.all(np.asarray(bound.terms["rank"]) == rank)
        found[width, rank] = float(jnp.sum(bound.per_layer))
        assert float(bound.value) < 0.3
    assert found[128, 1] / found[64, 1] == pytest.approx(2, rel=0.02)
    assert found[256, 1] / found[128, 1] == pytest.approx(2, rel=0.02)
    assert found[128, 2] / found[128, 1] == pytest.approx(2, rel=0.02)


def test_a_network_at_its_reference_pays_for_nothing():
    measured = networks.measured(PARAMS, PARAMS)
    assert float(jnp.sum(explicit(measured, gamma=1.0).per_layer)) * 60000 == pytest.approx(
        3 * np.log(3)
    )


def test_margins_that_are_no_numbers_count_as_errors():
    margins = jnp.asarray([2.0, 2.0, jnp.nan, -1.0])
    sample = Sample(n=4, radius=1.0, frobenius=2.0, margins=margins)
    assert float(explicit(sample=sample, gamma=1.0).terms["margin_error"]) == 0.5
    wrong = Sample(n=4, radius=1.0, frobenius=2.0, margins=-jnp.ones(4))
    assert float(explicit(sample=wrong).value) == 1


def test_float32_rounds_in_the_safe_direction():
    structure = networks.structure_of(PARAMS)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    double = jax.tree.map(lambda a: a.astype(float), single)
    for gamma in (2.0, 0.3, 1e-2, 1e-4):
        low = explicit(measure(structure, double), gamma=gamma)
        high = explicit(measure(structure, single), gamma=gamma)
        assert high.value.dtype == jnp.float32
        assert float(high.value) >= float(low.value) * (1 - 1e-6)
        assert float(high.value) == pytest.approx(float(low.value), rel=0.02)


def test_the_derivative_lowers_the_bound():
    structure = networks.structure_of(PARAMS)
    value = lambda params: jnp.sum(  # noqa: E731
        explicit(measure(structure, params), p=0.5, gamma=0.5).per_layer
    )
    both = jax.jit(jax.value_and_grad(value))
    here, slope = both(PARAMS)
    assert all(np.all(np.isfinite(a)) and np.any(a != 0) for a in jax.tree.leaves(slope))
    size = np.sqrt(sum(float(jnp.sum(a**2)) for a in jax.tree.leaves(slope)))
    step = 0.05 / size
    lower = jax.tree.map(lambda w, s: w - step * s, PARAMS, slope)
    assert float(both(lower)[0]) < float(here)


def test_a_traced_p_compiles_once():
    measured, traces = networks.measured(networks.exact_rank(32, 1, 2)), []
    sample = networks.sample(2, n=60000, dimension=32)

    @jax.jit
    def value(p):
        traces.append(p)
        return explicit(measured, sample, p=p).value

    assert float(value(0.1)) < float(value(0.5))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "augmented"}, "form: got 'augmented', must be one of 'plain', 'chained'"),
        ({"last_width": 1}, "kind: got 'explicit'; then last_width"),
        ({"eps": 0.1}, "kind: got 'explicit'; then last_width"),
        ({"delta": 0.0}, "delta: got 0.0"),
        ({"gamma": -1.0}, "gamma"),
        ({"p": -1.0}, "p: got"),
        ({"p": jnp.ones(2)}, "p: got shape"),
        ({"sample": Sample.of_size(10)}, "sample: margins is unknown"),
    ],
)
def test_wrong_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        explicit(**options)
    with pytest.raises(ValueError, match="kind: got 'x'"):
        rank_sparse(MEASURED, SAMPLE, kind="x")  # pyright: ignore[reportArgumentType]
