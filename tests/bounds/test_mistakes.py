"""Mistakes seen in public implementations of these bounds, one test each, and bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax import bounds
from rankjax.bounds import all_bounds
from rankjax.matrix import stable_rank
from rankjax.network import Perturbed, Sample, describe, measure
from tests.bounds import networks

PARAMS = networks.chain([3, 5, 4, 2])
MEASURED = networks.measured(PARAMS)
SAMPLE = networks.sample(3)


def test_a_bound_changes_nothing_it_reads():
    before = jax.tree.map(np.array, (PARAMS, MEASURED, SAMPLE))
    first, _ = all_bounds(MEASURED, SAMPLE, gamma=0.4)
    second, _ = all_bounds(MEASURED, SAMPLE, gamma=0.4)
    for one, two in zip(first, second, strict=True):
        assert float(one.value) == float(two.value), one.name
    alone = bounds.spectral(MEASURED, SAMPLE, gamma=0.4)
    assert float(alone.value) == pytest.approx(
        next(float(r.value) for r in first if (r.name, r.kind) == ("spectral", "dominant"))
    )
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves((PARAMS, MEASURED, SAMPLE)), strict=True
    ):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_every_layer_has_its_own_norm():
    kernels = {name: {"kernel": s * jnp.eye(4)} for name, s in (("a", 1.0), ("b", 2.0), ("c", 5.0))}
    measured = networks.measured(kernels)
    bound = bounds.frobenius(measured, Sample.of_size(100), gamma=1.0)
    np.testing.assert_allclose(bound.per_layer, [2.0, 4.0, 10.0])
    bound = bounds.low_rank(measured, Sample.of_size(100), gamma=1.0)
    np.testing.assert_allclose(bound.per_layer, [1.0, 2.0, 5.0])


def test_noise_is_given_as_a_standard_deviation_not_a_variance():
    """With f(x) = (w, 0), w ~ N(1, s^2), the error is P(w < 0) = Phi(-1/s)."""

    def apply(params, x):
        return jnp.stack([params["w"] * jnp.ones(len(x)), jnp.zeros(len(x))], axis=1)

    x, y = np.zeros((4, 1)), np.zeros(4, int)
    noise = Perturbed.from_data(
        {"w": jnp.ones(())}, x, y, apply=apply, scales=[0.5], draws=2000, batch_size=1
    )
    assert float(noise.errors.mean()) == pytest.approx(0.02275, abs=0.012)  # Phi(-2)
    # Taken for a variance, 0.5 would mean s = 0.71 and Phi(-1.41) = 0.079.
    assert float(noise.squared_distance) == 1.0
    assert noise.parameters == 1


def test_stable_rank_has_the_square():
    a = jnp.diag(jnp.array([2.0, 1.0, 1.0]))
    assert float(stable_rank(a)) == pytest.approx(1.5)
    measured = networks.measured({"a": {"kernel": a}})
    # The ratio that pac_bayes_spectral sums is |A|_F^2 / |A|^2.
    bound = bounds.pac_bayes_spectral(measured, Sample.of_size(100), gamma=1.0)
    assert float(bound.value) ** 2 * 100 / (3 * 4) == pytest.approx(1.5)


def test_the_spectral_norm_is_sigma_and_not_its_square():
    measured = networks.measured({"a": {"kernel": 3 * jnp.eye(4)}})
    np.testing.assert_allclose(measured.spectral_norm, [3.0])
    bound = bounds.low_rank(measured, Sample.of_size(1), gamma=1.0)
    assert float(bound.value) == pytest.approx(3 * 4 * 2)


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "SAME"), (3, "VALID")])
def test_convolutions_are_measured_as_operators(stride, padding):
    """Every norm in the bounds is at least that of the explicit matrix of the convolution."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))

    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["kernel"], (stride, stride), padding, dimension_numbers=numbers
        )

    params, shape = {"kernel": kernel}, (1, 9, 9, 2)
    structure = describe(params, apply=apply, example=np.zeros(shape))
    measured = measure(structure, params)
    matrix = jax.jacobian(lambda x: apply(params, x.reshape(shape)).ravel())(jnp.zeros(162))
    matrix = np.asarray(matrix)
    norm, rows = np.linalg.norm(matrix, 2), np.linalg.norm(matrix, axis=1)
    flat = np.asarray(kernel).reshape(18, 4)
    sample = Sample.of_size(100, inf_radius=1.0, dimension=162)
    spectral = bounds.spectral(measured, sample, gamma=1.0)
    frobenius = bounds.frobenius(measured, sample, gamma=1.0)
    one_inf = bounds.one_inf(measured, sample, gamma=1.0)
    positions = matrix.shape[0] // 4
    exact = padding == "VALID"  # disjoint windows without padding: the bounds are attained
    for got, true in (
        (float(measured.operator_norm[0]), norm),
        (float(spectral.value) * 10, rows.sum()),
        (float(frobenius.per_layer[0]), np.linalg.norm(matrix)),
        (float(one_inf.per_layer[0]), np.abs(matrix).sum(1).max()),
    ):
        assert got >= true * (1 - 1e-9)
        assert not exact or got == pytest.approx(true)
    if not exact:
        # What the reshaped kernel would say is too small.
        assert norm > np.linalg.norm(flat, 2)
        assert float(measured.operator_norm[0]) > np.linalg.norm(flat, 2)
    assert float(frobenius.per_layer[0]) == pytest.approx(np.sqrt(positions) * np.linalg.norm(flat))
    # Graf et al. count a kernel once, by its channels' norms.
    taps = np.linalg.norm(np.asarray(kernel), axis=2).sum()
    assert float(measured.tap_norms_moved[0][0, 0]) == pytest.approx(taps)


@pytest.mark.parametrize("gamma", [0.0, -0.3])
def test_a_margin_is_never_made_positive(gamma):
    for name in ("rank_sparse", "spectral", "frobenius", "one_inf", "path_norm", "low_rank",
                 "pac_bayes_spectral", "compression", "graf_norm", "conv_norm"):  # fmt: skip
        with pytest.raises(ValueError, match=r"gamma: got .*must be > 0"):
            getattr(bounds, name)(MEASURED, SAMPLE, gamma=gamma)
        under_jit = jax.jit(lambda g, name=name: getattr(bounds, name)(MEASURED, SAMPLE, gamma=g))
        assert np.isnan(float(under_jit(gamma).value)), name
    wrong = Sample(n=4, radius=1.0, frobenius=2.0, margins=jnp.array([-1.0, -2.0, -0.5, 0.1]))
    with pytest.raises(ValueError, match="share"):
        bounds.frobenius(MEASURED, Sample(4, 1.0, 2.0, margins=-jnp.ones(4)))
    assert float(bounds.frobenius(MEASURED, wrong).value) > 0


def test_tied_and_parallel_matrices_count_as_often_as_they_work():
    kernel = networks.chain([4, 4])["a"]["kernel"]

    def tied(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    structure = describe({"w": kernel}, apply=tied, example=np.zeros((1, 4)))
    once = measure(structure, {"w": kernel})
    twice = networks.measured({"a": {"kernel": kernel}, "b": {"kernel": kernel}})
    sample = networks.sample(2, dimension=4)
    for name in ("spectral", "frobenius", "one_inf", "pac_bayes_spectral", "low_rank", "graf_norm"):
        values = [getattr(bounds, name)(m, sample, gamma=0.4).value for m in (once, twice)]
        assert float(values[0]) == pytest.approx(float(values[1])), name
    counts = [float(bounds.parameter_count(m, sample).value) for m in (once, twice)]
    assert counts[1] == pytest.approx(2**0.5 * counts[0])  # shared weights count once
    with pytest.raises(ValueError, match="more than once"):
        bounds.conv_norm(once, sample, gamma=0.4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spectral", {"kind": "loose"}, "kind: got 'loose'"),
        ("spectral", {"kind": "explicit", "delta": 1.0}, "delta: got 1.0"),
        ("frobenius", {"version": "old"}, "version: got 'old'"),
        ("path_norm", {"order": 3}, "order: got 3"),
        ("low_rank", {"c": 0.0}, "c: got 0.0"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(bounds, name)(MEASURED, SAMPLE, gamma=1.0, **options)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("one_inf", "inf_radius is unknown"),
        ("path_norm", "dimension is unknown"),
        ("compression", "cushions are unknown"),
        ("conv_norm", "patch_norms is unknown"),
    ],
)
def test_missing_knowledge_is_named(name, missing):
    with pytest.raises(ValueError, match=missing):
        getattr(bounds, name)(MEASURED, Sample.of_size(10), gamma=1.0)


def test_every_printout_tells_the_kind():
    for result in all_bounds(MEASURED, SAMPLE, gamma=0.4)[0]:
        words = {"dominant": "not a guarantee", "explicit": "explicit bound"}[result.kind]
        assert words in str(result)
        assert result.source
        assert result.parts
        if result.kind == "dominant":
            assert "dominant term" in result.source, result.name
