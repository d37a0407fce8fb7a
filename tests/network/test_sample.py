from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import Perturbed, Sample, describe
from rankjax.network._running import run
from rankjax.network._tracing import trace_uses
from rankjax.network.internal import margin_of, positive_margin
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


def test_nan_is_an_error_in_every_batch():
    logits = jnp.asarray([[1.0, 0.0, 0.0], [jnp.nan, 0.0, 0.0], [0.0, jnp.nan, -1.0]])
    sample = Sample.from_data(STRUCTURE, PARAMS, X[:3], np.zeros(3, int), apply=two_layers)
    given = replace(sample, margins=jnp.asarray([1.0, jnp.nan, jnp.nan]))
    np.testing.assert_allclose(given.error(), 2 / 3)
    np.testing.assert_allclose(given.margin_at(0.0), 1.0)
    # XLA drops NaN from maxima along the last axis of an array like this one.
    many = jnp.tile(logits, (400, 1))
    margins = jax.jit(jax.vmap(lambda row: margin_of(row, jnp.asarray(0))))(many)
    np.testing.assert_array_equal(np.isnan(margins[:3]), [False, True, True])
    x = np.where(np.arange(5)[:, None] == 3, np.nan, X)
    broken = Sample.from_data(STRUCTURE, PARAMS, x, Y, apply=two_layers)
    assert all(
        np.isnan(np.asarray(v)) for v in (broken.radius, broken.inf_radius, broken.column_norm)
    )
    assert np.isnan(np.max(np.asarray(broken.patch_norms), axis=1)).all()
    noisy = Perturbed.from_data(
        {"first": PARAMS["first"], "last": {"weight": W2 * jnp.nan}}, X, Y, apply=two_layers,
        scales=[0.1], draws=2, batch_size=4,
    )  # fmt: skip
    np.testing.assert_array_equal(noisy.errors, 1)


@pytest.mark.parametrize("largest", [1e-25, 1e25])
def test_norms_of_very_small_and_very_large_inputs(largest):
    x = (X * largest).astype(np.float32)
    params = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    sample = Sample.from_data(STRUCTURE, params, x, Y, apply=two_layers)
    np.testing.assert_allclose(sample.radius, 5 * largest, rtol=1e-6)


def test_inputs_count_as_what_meets_the_first_weight():
    pixels = np.asarray([[0, 255], [51, 0]], np.uint8)

    def apply(p, x):
        return two_layers(p, x.astype(float) / 255)

    structure = describe(PARAMS, apply=apply, example=pixels)
    sample = Sample.from_data(structure, PARAMS, pixels, Y[:2], apply=apply)
    np.testing.assert_allclose(sample.radius, 1)
    np.testing.assert_allclose(np.asarray(sample.column_norm), 1)

    def twice(p, x):  # the same vector meets two weights: it counts once
        return two_layers(p, x) + x @ p["last"]["weight"][:2, :2] @ jnp.ones((2, 3))

    structure = describe(PARAMS, apply=twice, example=X)
    sample = Sample.from_data(structure, PARAMS, X, Y, apply=twice)
    np.testing.assert_allclose(sample.radius, 5)
    assert sample.dimension == 2


def recurrent(p, x):
    """Layers one after another, each a recurrence over the tokens."""

    def layer(tokens, w):
        def step(h, token):
            h = jnp.tanh(token + h @ w)
            return h, h

        return jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), tokens)[1], None

    return jax.lax.scan(layer, jnp.swapaxes(x, 0, 1), p["w"])[0][-1]


def test_a_recurrence_inside_a_stack_is_measured_by_layer():
    rng = np.random.default_rng(0)
    stack, x = rng.normal(size=(2, 3, 3)), rng.normal(size=(4, 5, 3))
    params = {"w": jnp.asarray(stack)}
    structure = describe(params, apply=recurrent, example=x)
    sample = Sample.from_data(structure, params, x, np.zeros(4, int), apply=recurrent)
    tokens, norms = x, []
    for w in stack:
        h, hidden = np.zeros((4, 3)), []
        for t in range(5):
            hidden.append(h)
            h = np.tanh(tokens[:, t] + h @ w)
        norms.append(np.linalg.norm(hidden, axis=-1).max(0))
        tokens = np.stack([*hidden[1:], h], 1)
    np.testing.assert_allclose(np.asarray(sample.patch_norms), norms, rtol=1e-6)
    np.testing.assert_allclose(sample.radius, np.linalg.norm(x.reshape(4, -1), axis=1).max())
    assert [(layer.uses, layer.positions) for layer in structure.layers] == [(5, 5)]


def test_a_stack_that_the_input_enters_first_knows_the_input():
    params = {"w": jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])}

    def apply(p, x):
        return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["w"])[0]

    structure = describe(params, apply=apply, example=jnp.ones((1, 3)))
    x = np.asarray([[3.0, 4.0, 0.0]])
    sample = Sample.from_data(structure, params, x, np.zeros(1, int), apply=apply)
    np.testing.assert_allclose(sample.radius, 5)
    assert sample.dimension == 3
    assert structure.outside == ()


def test_long_recurrences_are_not_unrolled():
    params = {"w": jnp.eye(3), "u": jnp.eye(3)}
    x = np.ones((2, 4000, 3))

    def apply(p, x):
        step = lambda h, t: (jnp.tanh(t @ p["u"] + h @ p["w"]), None)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.swapaxes(x, 0, 1))[0]

    structure = describe(params, apply=apply, example=x)
    assert [layer.positions for layer in structure.layers] == [4000, 4000]
    one = trace_uses(apply, params, jnp.ones((1, 4000, 3)))
    outputs = jax.make_jaxpr(lambda p, x: run(one, p, x, at=set(one.trace.uses))[0])
    assert len(outputs(params, jnp.ones((1, 4000, 3))).jaxpr.eqns) < 20
    sample = Sample.from_data(structure, params, x, np.zeros(2, int), apply=apply)
    np.testing.assert_allclose(np.asarray(sample.dimension), 12000)


def gathered(p, x):
    expert = jnp.argmax(x @ p["router"], -1)
    h = jax.nn.relu(jnp.einsum("td,tdh->th", x, p["up"][expert]))
    return jnp.einsum("th,thd->td", h, p["down"][expert])


def of_two(p, x):
    expert = jax.lax.top_k(x @ p["router"], 2)[1]
    h = jax.nn.relu(jnp.einsum("td,tkdh->tkh", x, jnp.take(p["up"], expert, axis=0)))
    return jnp.einsum("tkh,tkhd->td", h, jnp.take(p["down"], expert, axis=0))


def ragged(p, x):
    expert = jnp.argmax(x @ p["router"], -1)
    order, sizes = jnp.argsort(expert), jnp.bincount(expert, length=4)
    h = jax.nn.relu(jax.lax.ragged_dot(x[order], p["up"], sizes))
    return jax.lax.ragged_dot(h, p["down"], sizes)[jnp.argsort(order)]


@pytest.mark.parametrize("apply", [gathered, of_two, ragged])
def test_experts_are_matrices_side_by_side(apply):
    rng = np.random.default_rng(0)
    shapes = {"router": (6, 4), "up": (4, 6, 8), "down": (4, 8, 6)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x, y = rng.normal(size=(5, 6)), np.zeros(5, int)
    structure = describe(params, apply=apply, example=x)
    assert structure.names == ("router", "up", "down")
    assert [layer.parallel for layer in structure.layers] == [1, 4, 4]
    for matrix, name in zip(structure.matrices(params), structure.names, strict=True):
        np.testing.assert_array_equal(
            matrix[0], jnp.swapaxes(jnp.atleast_3d(params[name].T).T, 1, 2)
        )
    assert "chooses a matrix for each input (experts)" in (structure.outside or ())
    norms = np.asarray(Sample.from_data(structure, params, x, y, apply=apply).patch_norms)
    np.testing.assert_allclose(norms[:2], np.linalg.norm(x, axis=1)[None].repeat(2, 0))
    hidden = np.maximum(np.einsum("td,edh->teh", x, params["up"]), 0)
    chosen = np.argsort(x @ np.asarray(params["router"]), axis=1)[
        :, -2 if apply is of_two else -1 :
    ]
    sizes = np.take_along_axis(np.linalg.norm(hidden, axis=-1), chosen, 1).max(1)
    np.testing.assert_allclose(norms[2], sizes)


def test_of_complex_values_the_moduli_count():
    def apply(p, x):
        turned = jax.lax.complex(x, 2.0 * x)  # sqrt(5) times as long
        first = p["first"]["weight"].T.astype(complex)
        return jnp.abs(turned @ first) @ p["last"]["weight"].T

    structure = describe(PARAMS, apply=apply, example=X)
    assert structure.outside == ("computes with complex numbers",)
    sample = Sample.from_data(structure, PARAMS, X, Y, apply=apply)
    hidden = np.sqrt(5) * np.abs(X @ np.asarray(W1).T)
    inputs = np.stack([np.sqrt(5) * np.linalg.norm(X, axis=1), np.linalg.norm(hidden, axis=1)])
    np.testing.assert_allclose(np.asarray(sample.patch_norms), inputs)
    np.testing.assert_allclose(sample.radius, np.sqrt(5) * 5)
    np.testing.assert_allclose(sample.frobenius, np.sqrt(5) * np.linalg.norm(X))
    np.testing.assert_allclose(float(jnp.asarray(sample.inf_radius)), np.sqrt(5) * 4)


def test_a_complex_matrix_of_real_leaves_is_refused_by_path():
    def spectral(p, x):  # of a Fourier neural operator that keeps its weights as real numbers
        weight = jax.lax.complex(p["real"], p["imag"])
        return jnp.fft.irfft(jnp.fft.rfft(x, axis=0) @ weight, axis=0) @ p["out"]

    params = {"imag": W1[:2], "real": 2 * W1[:2], "out": W2[:2]}
    x = np.ones((2, 2, 2))
    apply = lambda p, x: jax.vmap(lambda one: spectral(p, one).mean(0))(x)  # noqa: E731
    with pytest.raises(ValueError, match=r"'imag', computed from \['imag', 'real'\], is complex"):
        describe(params, apply=apply, example=x)
    structure = describe(params, apply=apply, example=x, mask=lambda path, _: path == "out")
    assert structure.names == ("out",)


def test_complex_weights_are_refused_by_path():
    params = {"first": PARAMS["first"], "last": {"weight": W2.astype(complex)}}
    for call in (
        lambda: describe(params),
        lambda: describe(
            params,
            apply=lambda p, x: jnp.abs(x.astype(complex) @ p["last"]["weight"]),
            example=jnp.ones((1, 3)),
        ),
        lambda: STRUCTURE.matrices(params),
        lambda: Sample.from_data(STRUCTURE, params, X, Y, apply=two_layers),
    ):
        with pytest.raises(ValueError, match=r"'last/weight'.* is complex"):
            call()


@pytest.mark.parametrize("beside", ["joined", "added"])
def test_an_input_that_only_stands_beside_activations_is_an_input(beside):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5, 3))
    params = {"w": jnp.asarray(rng.normal(size=(6 if beside == "joined" else 3, 3)))}

    def cell(p, x):
        def step(h, token):
            into = jnp.concatenate([token, h], -1) if beside == "joined" else token + h
            return jnp.tanh(into @ p["w"]), None

        return jax.lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.swapaxes(x, 0, 1))[0]

    structure = describe(params, apply=cell, example=x)
    sample = Sample.from_data(structure, params, x, np.zeros(4, int), apply=cell)
    flat = x.reshape(4, -1)
    np.testing.assert_allclose(sample.radius, np.linalg.norm(flat, axis=1).max())
    np.testing.assert_allclose(np.asarray(sample.inf_radius), np.abs(flat).max())
    assert sample.dimension == 15
