from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import minimize_scalar

from rankjax.bounds import Inapplicable, optimal_p, rank_sparse
from rankjax.network import Sample, describe, measure

N, RADIUS, GAMMA = 500, 3.0, 0.7
SHAPES = {"a": (5, 8), "b": (8, 8), "c": (8, 3)}  # Flax kernels (in, out)
SAMPLE = Sample(
    n=N,
    radius=RADIUS,
    frobenius=10.0,
    patch_norms=jnp.asarray([[3.0, 1.0], [0.4, 0.9], [0.2, 0.1]]),
)


def random_params(seed=0, shapes=None):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = shapes or SHAPES
    return {
        name: {"kernel": jax.random.normal(key, shape)}
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def exact_rank_params(rank, seed=0):
    params = random_params(seed)
    for name, leaf in params.items():
        u, s, vt = np.linalg.svd(np.asarray(leaf["kernel"]), full_matrices=False)
        params[name] = {"kernel": jnp.asarray(u[:, :rank] * s[:rank] @ vt[:rank])}
    return params


def by_hand(params, reference, p, form, last_width=None, lipschitz=(1.0, 1.0, 1.0)):
    """The formula of the theorem, with loops and NumPy."""
    matrices = [np.asarray(params[k]["kernel"]).T for k in SHAPES]
    moved = [
        a - (np.asarray(reference[k]["kernel"]).T if reference else 0)
        for k, a in zip(SHAPES, matrices, strict=True)
    ]
    norms = [np.linalg.norm(a, 2) for a in matrices]
    p = np.broadcast_to(p, 3)
    reach = [3.0, 0.9, 0.2] if form == "augmented" else [RADIUS] * 3
    total = 0.0
    for i, (a, d) in enumerate(zip(matrices, moved, strict=True)):
        used = range(i, 3) if form == "augmented" else range(3)
        T = reach[i] / GAMMA * np.prod([lipschitz[j] * norms[j] for j in used])
        m, n = a.shape
        width = last_width if last_width and i == 2 else m
        soft = np.sum(np.linalg.svd(d)[1] ** p[i]) / norms[i] ** p[i]
        if p[i] == 0:
            soft = np.linalg.matrix_rank(d)
        if form == "tail":
            q = p[i]
            total += soft * (m + n) ** (1 - q / 2) * (T**2 * m) ** (q / 2) * 3 ** max(q - 1, 0)
            continue
        w = 2 / (p[i] + 2)
        total += T ** (2 * (1 - w)) * soft**w * (m + n) ** w * width ** (1 - w)
    return np.sqrt(3 / N) * np.sqrt(total)


@pytest.mark.parametrize(
    ("form", "p"),
    [
        *product(["plain", "augmented", "tail"], [0.0, 0.3, 1.0, 2.0, (0.2, 1.5, 0.0)]),
        *product(["plain", "augmented"], [5.0]),
    ],
)
def test_value_against_the_formula(form, p):
    params, reference = random_params(), random_params(1)
    for ref in (None, reference):
        measured = measure(describe(params), params, reference=ref)
        bound = rank_sparse(measured, SAMPLE, p=jnp.asarray(p), gamma=GAMMA, form=form)
        expected = by_hand(params, ref, p, form)
        np.testing.assert_allclose(bound.value, expected, rtol=1e-10)
        summed = np.sqrt(3 / N * np.sum(bound.per_layer))
        np.testing.assert_allclose(bound.value, summed, rtol=1e-12)
    assert bound.kind == "dominant"
    assert bound.name == {"plain": "rank_sparse"}.get(form, f"rank_sparse_{form}")
    assert {"plain": "3.6", "augmented": "3.7", "tail": "derived"}[form] in bound.source


def test_lipschitz_constants_and_the_width_of_the_last_layer_take_part():
    params = random_params()
    structure = describe(params, lipschitz={"a/kernel": 2.0, "c/kernel": 0.5})
    bound = rank_sparse(measure(structure, params), SAMPLE, p=1.0, gamma=GAMMA, last_width=1)
    expected = by_hand(params, None, 1.0, "plain", last_width=1, lipschitz=(2.0, 1.0, 0.5))
    np.testing.assert_allclose(bound.value, expected, rtol=1e-10)


def test_the_limits_of_p():
    params = exact_rank_params(2)
    measured = measure(describe(params), params)
    sizes = [sum(shape) for shape in SHAPES.values()]
    zero = rank_sparse(measured, SAMPLE, p=0.0, gamma=GAMMA)
    np.testing.assert_allclose(zero.value, np.sqrt(3 * 2 * sum(sizes) / N), rtol=1e-12)
    np.testing.assert_allclose(zero.terms["soft_rank"], 2.0, rtol=1e-12)
    nearly = rank_sparse(measured, SAMPLE, p=1e-6, gamma=GAMMA)
    np.testing.assert_allclose(nearly.value, zero.value, rtol=1e-4)
    infinite = rank_sparse(measured, SAMPLE, p=jnp.inf, gamma=GAMMA)
    norms = np.asarray(measured.spectral_norm)
    T = RADIUS * np.prod(norms) / GAMMA
    widths = np.asarray([shape[1] for shape in SHAPES.values()])
    np.testing.assert_allclose(infinite.value, np.sqrt(3 / N * np.sum(T**2 * widths)), rtol=1e-12)
    large = rank_sparse(measured, SAMPLE, p=1e7, gamma=GAMMA)
    np.testing.assert_allclose(large.value, infinite.value, rtol=1e-4)
    gradient = jax.grad(
        lambda q: rank_sparse(measure(describe(q), q), SAMPLE, p=jnp.inf, gamma=GAMMA).value
    )(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("form", ["plain", "augmented", "tail"])
@pytest.mark.parametrize("gamma", [0.01, GAMMA, 100.0, 1e4])
def test_optimal_p_is_the_minimum_of_each_layer(form, gamma):
    params = exact_rank_params(3)
    params["a"] = random_params()["a"]
    measured = measure(describe(params), params)
    best = optimal_p(measured, SAMPLE, gamma=gamma, form=form)
    value = rank_sparse(measured, SAMPLE, gamma=gamma, form=form)
    np.testing.assert_array_equal(value.terms["p"], best)
    assert np.all((best >= 0) & (best <= 2))

    @jax.jit
    def parts(p):
        return rank_sparse(measured, SAMPLE, p=p, gamma=gamma, form=form).per_layer

    grid = np.asarray(jax.vmap(parts)(jnp.linspace(0, 2, 201)))
    assert np.all(value.per_layer <= grid.min(axis=0) * (1 + 1e-9))
    for layer in range(3):
        found = minimize_scalar(
            lambda p, layer=layer: float(parts(p)[layer]), bounds=(0, 2), method="bounded",
            options={"xatol": 1e-10},
        )  # fmt: skip
        assert value.per_layer[layer] <= found.fun * (1 + 1e-9)


def test_optimal_p_reaches_both_ends_and_the_inside():
    params = random_params()
    measured = measure(describe(params), params)
    found = [float(optimal_p(measured, SAMPLE, gamma=g)[1]) for g in (1e-3, 30.0, 1e6)]
    assert found[0] == 0.0
    assert 0 < found[1] < 2
    assert found[2] == pytest.approx(2.0)


def test_the_tail_form_counts_a_kernel_by_its_channels_and_overlaps():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))

    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params["k"], (1, 1), "SAME", dimension_numbers=numbers)
        return x.reshape(len(x), -1)

    structure = describe({"k": kernel}, apply=apply, example=jnp.ones((1, 5, 5, 2)))
    measured = measure(structure, {"k": kernel})
    bound = rank_sparse(measured, Sample.of_size(100), p=1.0, gamma=0.5, form="tail")
    nuclear = np.linalg.svd(np.asarray(kernel).reshape(18, 4), compute_uv=False).sum()
    # Without other layers, |A| T^2 is B^2 / gamma^2; 9 patches hold a pixel, 4 channels come out.
    expected = nuclear * np.sqrt(4 + 18) * np.sqrt(2.0**2 * 9 * 4)
    np.testing.assert_allclose(bound.per_layer[0], expected, rtol=1e-12)


@pytest.mark.parametrize("p", [2.1, jnp.asarray([0.1, 0.1, 3.0])])
def test_the_tail_form_ends_at_two(p):
    measured = measure(describe(random_params()), random_params())
    with pytest.raises(ValueError, match=r"p: got .* must be in \[0, 2"):
        rank_sparse(measured, SAMPLE, p=p, gamma=GAMMA, form="tail")
    traced = jax.jit(lambda p: rank_sparse(measured, SAMPLE, p=p, gamma=GAMMA, form="tail").value)
    assert np.isnan(traced(p))
    with pytest.raises(ValueError, match=r"p_max: got 2.5, must be in \(0, 2"):
        optimal_p(measured, SAMPLE, gamma=GAMMA, form="tail", p_max=2.5)
    with pytest.raises(ValueError, match="last_width: got 1, must be left out"):
        rank_sparse(measured, SAMPLE, p=1.0, gamma=GAMMA, form="tail", last_width=1)
    with pytest.raises(ValueError, match="last_width: got 1, must be left out"):
        optimal_p(measured, SAMPLE, gamma=GAMMA, form="tail", last_width=1)


def test_a_layer_at_its_reference_costs_nothing_and_has_finite_gradients():
    params = random_params()
    reference = {**random_params(1), "b": params["b"]}
    structure = describe(params)

    def value(params):
        measured = measure(structure, params, reference=reference)
        return rank_sparse(measured, SAMPLE, p=0.5, gamma=GAMMA, eps=1e-2)

    assert value(params).per_layer[1] == 0
    assert value(params).value > 0
    gradient = jax.grad(lambda p: value(p).value)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    measured = measure(structure, params, reference=params)
    assert rank_sparse(measured, SAMPLE, gamma=GAMMA).value == 0


@pytest.mark.parametrize("form", ["plain", "augmented", "tail"])
@pytest.mark.parametrize(("p", "eps"), [(0.5, 0.0), (0.5, 0.3), (2.0, 0.0), ((0.1, 1.0, 1.7), 0.1)])
def test_derivative_in_the_weights(form, p, eps):
    params = random_params()
    structure = describe(params)

    def value(params, gamma):
        measured = measure(structure, params, reference=random_params(1))
        options = {"p": jnp.asarray(p), "eps": eps, "eps_mode": "absolute", "form": form}
        return rank_sparse(measured, SAMPLE, gamma=gamma, **options).value

    check_grads(value, (params, jnp.asarray(GAMMA)), order=1, modes=("fwd", "rev"), rtol=1e-5)


def test_derivative_at_the_optimal_p_is_that_of_the_minimum():
    params = random_params()
    structure = describe(params)

    def value(params):
        return rank_sparse(measure(structure, params), SAMPLE, gamma=10.0).value

    check_grads(value, (params,), order=1, modes=("rev",), rtol=1e-5)


def test_relative_smoothing_holds_the_eps_constant():
    params = random_params()
    structure = describe(params)
    norms = measure(structure, params).spectral_norm

    def value(params, eps, mode):
        options = {"p": 0.5, "gamma": GAMMA, "eps": eps, "eps_mode": mode}
        return rank_sparse(measure(structure, params), SAMPLE, **options).value

    same = {"a": params["a"]}
    single = describe(same)

    def of_one(params, eps, mode):
        sample = Sample.of_size(N)
        options = {"p": 0.5, "gamma": GAMMA, "eps": eps, "eps_mode": mode}
        return rank_sparse(measure(single, params), sample, **options).value

    relative = jax.grad(of_one)(same, 0.1, "relative")["a"]["kernel"]
    absolute = jax.grad(of_one)(same, 0.1 * norms[0], "absolute")["a"]["kernel"]
    np.testing.assert_allclose(relative, absolute, rtol=1e-9)
    assert value(params, 0.1, "relative") < value(params, 0.0, "relative")


def test_one_layers_norm_cancels_from_its_own_term():
    params = random_params()
    structure = describe(params)
    before = rank_sparse(measure(structure, params), SAMPLE, p=0.8, gamma=GAMMA).per_layer
    scaled = {**params, "b": {"kernel": 3.0 * params["b"]["kernel"]}}
    after = rank_sparse(measure(structure, scaled), SAMPLE, p=0.8, gamma=GAMMA).per_layer
    w = 2 / 2.8
    # Both through |A_b|_{S_p} in its own term and through the product in the others.
    np.testing.assert_allclose(after / before, 3.0 ** (2 * (1 - w)), rtol=1e-10)


def test_rescaling_and_permuting_a_relu_network_changes_nothing():
    params = random_params()
    structure = describe(params)

    def value(params):
        return rank_sparse(measure(structure, params), SAMPLE, p=0.7, gamma=GAMMA).value

    rescaled = {**params, "a": {"kernel": 4 * params["a"]["kernel"]}}
    rescaled["b"] = {"kernel": params["b"]["kernel"] / 4}
    np.testing.assert_allclose(value(rescaled), value(params), rtol=1e-10)
    order = np.random.default_rng(0).permutation(8)
    permuted = {**params, "a": {"kernel": params["a"]["kernel"][:, order]}}
    permuted["b"] = {"kernel": params["b"]["kernel"][order]}
    np.testing.assert_allclose(value(permuted), value(params), rtol=1e-10)


def test_it_falls_like_one_over_root_n():
    params = random_params()
    measured = measure(describe(params), params)
    values = [
        rank_sparse(measured, Sample.of_size(n, radius=RADIUS), p=0.5, gamma=GAMMA).value
        for n in (100, 10000)
    ]
    np.testing.assert_allclose(values[0] / values[1], 10.0, rtol=1e-12)


def test_groups_count_as_one_layer_of_blocks():
    def apply(p, x):
        return jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "VALID", feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).mean((1, 2))  # fmt: skip

    kernel = jax.random.normal(jax.random.key(0), (1, 1, 3, 8))
    params = {"kernel": kernel}
    structure = describe(params, apply=apply, example=jnp.zeros((1, 2, 2, 6)))
    bound = rank_sparse(measure(structure, params), SAMPLE, p=0.5, gamma=GAMMA)
    blocks = [np.asarray(kernel[0, 0, :, i : i + 4]).T for i in (0, 4)]
    norm = max(np.linalg.norm(b, 2) for b in blocks)
    soft = sum(np.sum((np.linalg.svd(b)[1] / norm) ** 0.5) for b in blocks)
    np.testing.assert_allclose(bound.terms["soft_rank"], [soft], rtol=1e-10)
    w = 2 / 2.5
    T = RADIUS * norm / GAMMA  # a 1x1 window gathers each pixel once
    term = T ** (2 * (1 - w)) * soft**w * (4 + 3) ** w * (4 * 8) ** (1 - w)
    np.testing.assert_allclose(bound.value, np.sqrt(term / N), rtol=1e-10)


def test_p_gamma_and_eps_are_traced_and_vmap_works():
    params = random_params()
    structure = describe(params)
    count = []

    @jax.jit
    def value(params, p, gamma, eps):
        count.append(1)
        measured = measure(structure, params)
        return rank_sparse(measured, SAMPLE, p=p, gamma=gamma, eps=eps).value

    for p, gamma, eps in ((0.5, 1.0, 0.0), (1.0, 2.0, 0.1), (jnp.inf, 3.0, 0.0)):
        got = value(params, p, gamma, eps)
        eager = rank_sparse(measure(structure, params), SAMPLE, p=p, gamma=gamma, eps=eps).value
        np.testing.assert_allclose(got, eager, rtol=1e-12)
    assert len(count) == 1
    many = jax.vmap(lambda p: value(params, p, 1.0, 0.0))(jnp.asarray([0.5, 1.0]))
    np.testing.assert_allclose(many[1], value(params, 1.0, 1.0, 0.0), rtol=1e-12)


def test_float32_is_close_to_float64_and_nan_stays_nan():
    params = random_params()
    structure = describe(params)
    exact = rank_sparse(measure(structure, params), SAMPLE, gamma=GAMMA).value
    single = jax.tree.map(lambda w: w.astype(jnp.float32), params)
    sample = Sample.of_size(N, radius=RADIUS)
    value = rank_sparse(measure(structure, single), sample, gamma=GAMMA).value
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    broken = {**params, "b": {"kernel": params["b"]["kernel"] * jnp.nan}}
    for p in (None, 0.0, 0.5, jnp.inf):
        bound = rank_sparse(measure(structure, broken), SAMPLE, p=p, gamma=GAMMA)
        assert np.isnan(bound.value), p


PARAMS = random_params()
MEASURED = measure(describe(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": -0.5}, r"p: got -0.5, must be in \[0, inf\]"),
        ({"p": jnp.ones(2)}, r"p: got shape \(2,\), must be a scalar or one per layer \(3,\)"),
        ({"p": float("nan")}, "p: got nan"),
        ({"gamma": 0.0}, "gamma: got 0.0, must be > 0"),
        ({"gamma": -1.0}, "gamma: got -1.0, must be > 0"),
        ({"gamma": None}, "margins: this sample has none"),
        ({"form": "other"}, "form: got 'other', must be one of 'plain', 'augmented'"),
        ({"eps": -1.0, "p": 1.0}, "eps: got -1.0, must be >= 0"),
        ({"eps_mode": "x", "p": 1.0}, "eps_mode"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        rank_sparse(MEASURED, SAMPLE, **{"gamma": GAMMA, **options})


def test_missing_knowledge_is_named():
    with pytest.raises(Inapplicable, match="sample: patch_norms is unknown"):
        rank_sparse(MEASURED, Sample.of_size(N), gamma=GAMMA, form="augmented")
    wrong = Sample(n=N, radius=1.0, frobenius=1.0, patch_norms=jnp.ones((2, 5)))
    with pytest.raises(Inapplicable, match="sample: got norms of 2 layers, measured has 3"):
        rank_sparse(MEASURED, wrong, gamma=GAMMA, form="augmented")
    conv = {"conv": {"kernel": jnp.ones((3, 3, 3, 2))}}
    with pytest.raises(Inapplicable, match=r"positions of \['conv/kernel'\] is unknown"):
        rank_sparse(measure(describe(conv), conv), SAMPLE, gamma=GAMMA)
    with pytest.raises(ValueError, match=r"p_max: got 0, must be in \(0, inf\)"):
        optimal_p(MEASURED, SAMPLE, gamma=GAMMA, p_max=0)


def test_printing_says_that_it_is_no_guarantee():
    text = str(rank_sparse(MEASURED, SAMPLE, gamma=GAMMA))
    assert "dominant term, not a guarantee" in text
    assert "b/kernel" in text
