"""What the bounds needed to be measured besides: path norms, cushions, ranks, entry norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import (
    Cushions,
    Perturbed,
    Sample,
    activation_ranks,
    describe,
    measure,
    weight_ranks,
)
from tests.bounds import networks

PARAMS = networks.chain([3, 5, 4, 2])
STRUCTURE = networks.structure_of(PARAMS)
X = np.random.default_rng(0).normal(size=(7, 3))


def test_path_norms_of_a_chain_and_by_forward_pass_agree():
    chain = measure(STRUCTURE, PARAMS).path_norms
    forward = measure(STRUCTURE, PARAMS, apply=networks.apply, example=X).path_norms
    np.testing.assert_allclose(chain, forward, rtol=1e-12)  # pyright: ignore[reportArgumentType, reportCallIssue]
    gradient = jax.grad(lambda p: measure(STRUCTURE, p).path_norms[0])(PARAMS)
    assert np.any(np.asarray(gradient["a"]["kernel"]))


def test_path_norms_of_convolutions_pooling_and_biases():
    kernel = jax.random.normal(jax.random.key(0), (2, 2, 1, 3))
    dense = jax.random.normal(jax.random.key(1), (12, 2))

    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=numbers
        )
        x = jax.nn.relu(x + params["bias"][None, None, None])
        x = x.reshape(x.shape[0], 2, 2, 2, 2, 3).max((2, 4)).reshape(x.shape[0], -1)
        return x @ params["dense"]

    params = {"kernel": kernel, "bias": jnp.ones(3), "dense": dense}
    structure = describe(params, apply=apply, example=np.zeros((1, 4, 4, 1)))
    assert measure(structure, params).path_norms is None
    got = measure(structure, params, apply=apply, example=np.zeros((1, 4, 4, 1))).path_norms
    # In every pool the place with the most incoming paths is one where the whole window fits.
    expected = np.abs(np.asarray(kernel)).sum((0, 1, 2))
    full = np.tile(expected, 4)
    assert float(got[0]) == pytest.approx((full @ np.abs(np.asarray(dense))).max())


FIRST, LAST = np.random.default_rng(1).normal(size=(2, 4, 4))


def twice(p, x):
    """The input meets two weights, one of them in a loop that it starts."""
    start = x.astype(float) / 255
    h = jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), start, p["first"][None])[0]
    return (h + start @ p["first"]) @ p["last"]


PREPARED = {
    "scaled": (
        lambda p, x: jax.nn.relu((x.astype(float) / 255) @ p["first"]) @ p["last"],
        np.uint8,
        (4,),
        1,
    ),
    "one-hot": (
        lambda p, x: jax.nn.relu(jax.nn.one_hot(x - 1000, 4, dtype=float) @ p["first"]) @ p["last"],
        int,
        (),
        1,
    ),
    "used twice": (twice, np.uint8, (4,), 2),
}


@pytest.mark.parametrize("name", PREPARED)
def test_paths_begin_where_the_data_enter(name):
    """``Sample`` measures them there: 255 in x / 255 must not shrink the bound."""
    apply, dtype, shape, times = PREPARED[name]
    params = {"first": jnp.asarray(FIRST), "last": jnp.asarray(LAST)}
    example = np.ones((1, *shape), dtype)
    structure = describe(params, apply=apply, example=example)
    got = measure(structure, params, apply=apply, example=example).path_norms
    for k, order in enumerate((1, 2)):
        paths = np.ones(4) @ np.abs(FIRST) ** order @ np.abs(LAST) ** order
        assert float(got[k]) == pytest.approx((times * paths.max()) ** (1 / order))


def test_a_network_that_is_not_homogeneous_has_no_path_norm():
    def apply(params, x):
        return jnp.tanh(x @ params["a"]["kernel"])

    params = networks.chain([3, 2])
    structure = networks.structure_of(params)
    assert np.isnan(measure(structure, params, apply=apply, example=X).path_norms).all()  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(ValueError, match="belong together"):
        measure(structure, params, apply=apply)


def test_cushions_by_explicit_jacobians():
    found = Cushions.from_data(
        STRUCTURE, PARAMS, X, apply=networks.apply, probes=4000, batch_size=4
    )
    A = networks.matrices(PARAMS)
    layer, inter, contraction, output = [np.inf] * 3, [np.inf] * 3, 1.0, 0.0
    for x in X:
        h, points, masks = x, [], []
        for i, a in enumerate(A):
            z = a @ h
            layer[i] = min(layer[i], np.linalg.norm(z) / np.linalg.norm(a) / np.linalg.norm(h))  # pyright: ignore[reportArgumentType, reportCallIssue]
            masks.append((z > 0).astype(float))
            h = np.maximum(z, 0)
            points.append(z)
            if i < 2:
                contraction = max(contraction, np.linalg.norm(z) / np.linalg.norm(h))
        output = max(output, np.linalg.norm(points[-1]))
        for i in range(3):
            jacobian = np.eye(len(points[i]))
            inter[i] = min(inter[i], len(points[i]) ** -0.5)
            for j in range(i + 1, 3):
                jacobian = A[j] @ np.diag(masks[j - 1]) @ jacobian
                ratio = np.linalg.norm(jacobian @ points[i])
                ratio /= np.linalg.norm(jacobian) * np.linalg.norm(points[i])
                inter[i] = min(inter[i], ratio)  # pyright: ignore[reportArgumentType, reportCallIssue]
    np.testing.assert_allclose(found.layer, layer, rtol=1e-10)
    np.testing.assert_allclose(found.interlayer, inter, rtol=0.1)  # Monte Carlo
    assert float(found.contraction) == pytest.approx(contraction)
    assert float(found.output) == pytest.approx(output)


def test_cushions_refuse_tied_weights():
    kernel = PARAMS["a"]["kernel"] @ PARAMS["a"]["kernel"].T

    def tied(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    structure = describe({"w": kernel}, apply=tied, example=X)
    with pytest.raises(ValueError, match="used once"):
        Cushions.from_data(structure, {"w": kernel}, X, apply=tied)


def test_entry_norms_of_a_sample():
    y = np.zeros(7, int)
    sample = Sample.from_data(STRUCTURE, PARAMS, X, y, apply=networks.apply, batch_size=3)
    assert sample.dimension == 3
    assert float(sample.inf_radius) == pytest.approx(np.abs(X).max())  # pyright: ignore[reportArgumentType]
    assert float(sample.column_norm) == pytest.approx(np.linalg.norm(X, axis=0).max())  # pyright: ignore[reportArgumentType]


def test_ranks_of_weights_and_activations():
    params = networks.exact_rank(8, 2, 3)
    structure = networks.structure_of(params)
    ranks = weight_ranks(measure(structure, params))
    np.testing.assert_allclose(ranks["numerical"], 2)
    np.testing.assert_allclose(ranks["stable"], 2)
    np.testing.assert_allclose(ranks["effective"], 2)

    def linear(params, x):
        for name in sorted(params):
            x = x @ params[name]["kernel"]
        return x

    x = np.random.default_rng(1).normal(size=(30, 8))
    found = activation_ranks(structure, params, x, apply=linear)
    np.testing.assert_allclose(found["numerical"], [8, 2, 2])
    s = np.linalg.svd(x)[1]
    assert float(found["stable"][0]) == pytest.approx((s**2).sum() / s[0] ** 2)
    q = s / s.sum()
    assert float(found["effective"][0]) == pytest.approx(np.exp(-(q * np.log(q)).sum()))


def test_noise_is_reproducible_and_positive_scales_only():
    y = np.zeros(7, int)
    runs = [
        Perturbed.from_data(
            PARAMS, X, y, apply=networks.apply, scales=[0.1], draws=4, seed=3
        ).errors
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*runs)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scales: got"):
        Perturbed.from_data(PARAMS, X, y, apply=networks.apply, scales=[0.0])


@pytest.mark.parametrize("dtype", [jnp.int8, bool])
def test_noise_says_nothing_of_whole_numbers_that_the_data_may_have_chosen(dtype):
    y, codes = np.zeros(7, int), jnp.ones((3, 2), dtype)
    params = {"net": PARAMS, "codes": codes, "step": jnp.ones((), jnp.int32)}

    def noisy(reference):
        return Perturbed.from_data(
            params, X, y, apply=lambda p, x: networks.apply(p["net"], x), scales=[0.1], draws=1,
            reference=reference,
        )  # fmt: skip

    zeros = jax.tree.map(jnp.zeros_like, params)
    for reference in (None, zeros):
        with pytest.raises(
            ValueError, match=f"'codes'. holds {jnp.dtype(dtype)} and gets no noise"
        ):
            noisy(reference)
    assert noisy(zeros | {"codes": codes}).parameters == noisy(params).parameters
