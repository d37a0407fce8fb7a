import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import Sample, describe
from rankjax.network.internal import positive_margin
from tests.network.models import equinox_network, linen_network, nnx_network

W1 = jnp.asarray([[1.0, -2.0], [0.5, 1.0], [0.0, 3.0]])
W2 = jnp.asarray([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0], [1.0, 1.0, 0.0]])
PARAMS = {"first": {"weight": W1}, "last": {"weight": W2}}
X = np.asarray([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [-1.0, 1.0], [0.5, 0.5]])
Y = np.asarray([0, 0, 1, 2, 0])


def two_layers(p, x):
    return jax.nn.relu(x @ p["first"]["weight"].T) @ p["last"]["weight"].T


STRUCTURE = describe(PARAMS, apply=two_layers, example=X)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_one_pass_against_numpy(batch_size):
    sample = Sample.from_data(STRUCTURE, PARAMS, X, Y, apply=two_layers, batch_size=batch_size)
    hidden = np.maximum(X @ np.asarray(W1).T, 0)
    logits = hidden @ np.asarray(W2).T
    margins = [f[y] - max(np.delete(f, y)) for f, y in zip(logits, Y, strict=True)]
    np.testing.assert_allclose(sample.margins, margins)  # pyright: ignore[reportArgumentType, reportCallIssue]
    np.testing.assert_allclose(sample.radius, 5.0)
    np.testing.assert_allclose(sample.frobenius, np.linalg.norm(X))
    inputs = np.stack([np.linalg.norm(X, axis=1), np.linalg.norm(hidden, axis=1)])
    np.testing.assert_allclose(sample.patch_norms, inputs)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert sample.n == 5
    np.testing.assert_allclose(sample.error(), np.mean(np.asarray(margins) <= 0))


def test_patches_of_a_convolution_and_tokens_of_attention():
    apply, params = nnx_network()
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    structure = describe(params, apply=apply, example=x)
    sample = Sample.from_data(
        structure, params, x, np.asarray([0, 1, 2]), apply=apply, batch_size=2
    )
    assert sample.patch_norms.shape == (7, 3)
    patches = jax.lax.conv_general_dilated_patches(
        x, (3, 3), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    squares = np.sum(np.square(patches), axis=-1).reshape(3, -1)
    np.testing.assert_allclose(sample.patch_norms[0], np.sqrt(squares.max(1)), rtol=1e-5)


def test_the_members_of_a_stack_have_their_own_norms():
    apply, params = linen_network()
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    structure = describe(params, apply=apply, example=x)
    sample = Sample.from_data(structure, params, x, np.asarray([0, 1, 2, 3]), apply=apply)  # pyright: ignore[reportArgumentType]
    p = jax.tree.map(np.asarray, params["params"])
    h = np.maximum(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"], 0)
    expected = [np.linalg.norm(x, axis=1)]
    for i in range(3):
        expected.append(np.linalg.norm(h, axis=1))
        block = p["blocks"]["Dense_0"]
        h = np.maximum(h @ block["kernel"][i] + block["bias"][i], 0)
    expected.append(np.linalg.norm(h, axis=1))
    np.testing.assert_allclose(sample.patch_norms, np.stack(expected), rtol=1e-5)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_margin_at_is_the_largest_margin_within_the_share():
    margins = jnp.asarray([-2.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    sample = Sample(n=10, radius=1.0, frobenius=1.0, margins=margins)
    for share, supremum in ((0.0, 0.5), (0.1, 1.0), (0.19, 1.0), (0.3, 2.0)):
        gamma = float(sample.margin_at(share))
        assert gamma == pytest.approx(supremum)
        assert np.mean(np.asarray(margins) <= gamma) <= 0.2 + share
        # Nothing larger would do.
        assert np.mean(np.asarray(margins) <= supremum) > 0.2 + share


def test_margins_that_are_not_positive_are_errors_and_nan_under_jit():
    sample = Sample(n=2, radius=1.0, frobenius=1.0, margins=jnp.asarray([-1.0, -2.0]))
    with pytest.raises(ValueError, match=r"margin at a share of 0.01: got -1.*must be > 0"):
        sample.margin_at(0.01)
    assert np.isnan(jax.jit(lambda s: s.margin_at(0.01))(sample))
    with pytest.raises(ValueError, match=r"share: got 1.5, must be in \[0, 1\)"):
        sample.margin_at(1.5)
    for gamma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"gamma: got .*, must be > 0"):
            positive_margin(gamma)
    with pytest.raises(ValueError, match="margins: this sample has none"):
        Sample.of_size(10).margin_at(0.1)


def test_the_pass_compiles_once():
    count = []

    def apply(p, x):
        count.append(1)
        return two_layers(p, x)

    structure = describe(PARAMS, apply=apply, example=X)
    described = len(count)
    for scale in (1.0, 2.0):
        params = jax.tree.map(lambda w, scale=scale: scale * w, PARAMS)
        Sample.from_data(structure, params, X, Y, apply=apply, batch_size=2)
    assert len(count) == described + 1


def test_nan_weights_show():
    params = {"first": {"weight": W1 * jnp.nan}, "last": {"weight": W2}}
    sample = Sample.from_data(STRUCTURE, params, X, Y, apply=two_layers)
    assert np.isnan(sample.margins).all()  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(ValueError, match="got nan"):
        sample.margin_at(0.01)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:, None], "y: got shape"),
        (X, Y.astype(float), "y: got shape .* of float64"),
        (X, Y[:3], r"x: got leading axes \{5\}, must all be 3"),
        (X[:0], Y[:0], "non-empty"),
        (X, Y + 1, "y: got labels from 1 to 3; apply returns 3 classes"),
        (X, Y - 1, "y: got labels from -1"),
    ],
)
def test_bad_data_is_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        Sample.from_data(STRUCTURE, PARAMS, x, y, apply=two_layers)


def test_outputs_that_are_no_logits_are_named():
    def scalar(p, x):
        return two_layers(p, x)[:, :1]

    with pytest.raises(ValueError, match=r"apply: got outputs of shape \(1, 1\)"):
        Sample.from_data(STRUCTURE, PARAMS, X, Y, apply=scalar)

    def with_state(p, x):
        return two_layers(p, x), {"seen": len(x)}

    with pytest.raises(ValueError, match=r"apply: got tuple as outputs.*network\(params, x\)\[0\]"):
        Sample.from_data(STRUCTURE, PARAMS, X, Y, apply=with_state)  # pyright: ignore[reportArgumentType] - refused

    def other(p, x):
        return x @ p["first"]["weight"].T

    with pytest.raises(ValueError, match="apply never multiplies 'last/weight'"):
        Sample.from_data(STRUCTURE, PARAMS, X, Y, apply=other)


def test_modules_with_functions_and_flags_as_leaves():
    apply, model = equinox_network()  # its activation function is a leaf of the tree
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    structure = describe(model, apply=apply, example=x)
    sample = Sample.from_data(structure, model, x, np.asarray([0, 1, 2, 0]), apply=apply)
    hidden = jax.vmap(lambda x: jax.nn.relu(model.layers[0](x)))(x)
    np.testing.assert_allclose(sample.patch_norms[1], np.linalg.norm(hidden, axis=1), rtol=1e-5)
