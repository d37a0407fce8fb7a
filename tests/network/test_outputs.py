"""Second moments of outputs against the outputs themselves, and the cut that they make best."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rankjax import describe
from rankjax.network import OutputMoments
from rankjax.training import densify, effective_params, factorize

RNG = np.random.default_rng(0)
assert_close = np.testing.assert_allclose


def moment(rows):
    rows = np.reshape(rows, (-1, np.shape(rows)[-1]))
    return rows.T @ rows


def test_every_form_of_a_product():
    params = {
        name: jnp.asarray(RNG.normal(size=shape))
        for name, shape in {
            "right": (5, 4), "left": (6, 4), "heads": (6, 2, 3), "conv": (3, 3, 2, 4),
        }.items()
    }  # fmt: skip
    x, image = jnp.asarray(RNG.normal(size=(7, 3, 5))), jnp.asarray(RNG.normal(size=(7, 5, 5, 2)))

    def outputs(p, data):
        x, image = data
        right = x @ p["right"]
        left = jnp.einsum("oi,bti->obt", p["left"], jnp.tanh(right))
        heads = jnp.einsum("btd,dhk->bthk", left.transpose(1, 2, 0), p["heads"])
        numbers = jax.lax.conv_dimension_numbers(
            image.shape, p["conv"].shape, ("NHWC", "HWIO", "NHWC")
        )
        conv = jax.lax.conv_general_dilated(
            image, p["conv"], (2, 1), "SAME", dimension_numbers=numbers
        )
        rows = (right, left.transpose(1, 2, 0), heads.reshape(*heads.shape[:2], 6), conv)
        return heads.sum((1, 2, 3))[:, None] + conv.mean((1, 2)), rows

    def apply(p, data):
        return outputs(p, data)[0]

    structure = describe(params, apply=apply, example=(x[:2], image[:2]))
    found = OutputMoments.from_data(structure, params, (x, image), apply=apply, batch_size=3)
    assert found.missing == ()
    _, (right, left, heads, conv) = outputs(params, (x, image))
    expected = {"right": right, "left": left, "heads": heads, "conv": conv}
    assert set(found.moments) == set(expected)
    for path, rows in expected.items():
        assert_close(found.moments[path], moment(rows)[None], rtol=1e-10)


def test_stacks_and_tied_matrices():
    params = {"stack": jnp.asarray(RNG.normal(size=(3, 4, 4))), "out": jnp.ones((4, 4))}
    x = jnp.asarray(RNG.normal(size=(9, 4)))

    def apply(p, x):
        h = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["stack"], reverse=True)[0]
        return jnp.tanh(h @ p["out"]) @ p["out"]

    structure = describe(params, apply=apply, example=x[:1])
    found = OutputMoments.from_data(structure, params, x, apply=apply).moments
    for member in (2, 1, 0):
        out = x @ params["stack"][member]
        assert_close(found["stack"][member], moment(out), rtol=1e-10)
        x = jnp.tanh(out)
    first = x @ params["out"]
    both = moment(first) + moment(jnp.tanh(first) @ params["out"])
    assert_close(found["out"][0], both, rtol=1e-10)


def test_every_step_of_a_loop_counts():
    params = {"w": jnp.asarray(RNG.normal(size=(4, 4))), "out": jnp.ones((4, 2))}
    x = jnp.asarray(RNG.normal(size=(5, 4)))

    def apply(p, x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, length=3)[0] @ p["out"]

    structure = describe(params, apply=apply, example=x[:1])
    found = OutputMoments.from_data(structure, params, x, apply=apply).moments["w"][0]
    expected = 0.0
    for _ in range(3):
        out = x @ params["w"]
        expected, x = expected + moment(out), jnp.tanh(out)
    assert_close(found, expected, rtol=1e-10)


class Groups(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3,), feature_group_count=2, param_dtype=float)(x))
        return nn.Dense(3, param_dtype=float)(x.mean(1))


def test_what_is_not_one_product_is_missing_and_cut_as_without():
    x = jnp.asarray(RNG.normal(size=(6, 8, 4)))
    network = Groups()
    params = network.init(jax.random.key(0), x)
    apply: Any = network.apply
    structure = describe(params, apply=apply, example=x[:1])
    found = OutputMoments.from_data(structure, params, x, apply=apply)
    assert found.missing == ("params/Conv_0/kernel",)
    ranks = {"params/Conv_0/kernel": 1}
    plain = factorize(structure, params, ranks)
    aware = factorize(structure, params, ranks, moments=found)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, aware))


DATA = jnp.asarray(RNG.normal(size=(50, 12)) @ np.diag(2.0 ** -np.arange(12)))
WIDE = {
    "a": jnp.asarray(RNG.normal(size=(12, 10))),
    "b": jnp.asarray(RNG.normal(size=(10, 12))),
}


def two_layers(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


WIDE_STRUCTURE = describe(WIDE, apply=two_layers, example=DATA[:1])
WIDE_MOMENTS = OutputMoments.from_data(WIDE_STRUCTURE, WIDE, DATA, apply=two_layers)


def test_the_cut_is_the_best_on_the_sample():
    for path, x in (("a", DATA), ("b", jnp.tanh(DATA @ WIDE["a"]))):
        small = factorize(WIDE_STRUCTURE, WIDE, {path: 3}, moments=WIDE_MOMENTS)
        root = jnp.linalg.norm(small[path].right), jnp.linalg.norm(small[path].left)
        assert_close(*root, rtol=1e-10)  # balanced
        off = jnp.linalg.norm(x @ (densify(WIDE_STRUCTURE, small)[path] - WIDE[path]))
        # Eckart-Young: of all matrices of rank 3, so also of all products with x.
        best = np.linalg.norm(np.linalg.svd(x @ WIDE[path], compute_uv=False)[3:])
        assert_close(off, best, rtol=1e-9)
        plain = densify(WIDE_STRUCTURE, factorize(WIDE_STRUCTURE, WIDE, {path: 3}))[path]
        assert off < 0.99 * jnp.linalg.norm(x @ (plain - WIDE[path]))


@pytest.mark.parametrize("moments", [None, WIDE_MOMENTS])
@pytest.mark.parametrize("budget", [0.3, 0.55, 0.9])
def test_a_budget_is_kept_and_buys_the_most(moments, budget):
    size = effective_params(WIDE_STRUCTURE, WIDE, budget=budget, moments=moments)
    assert sum(size.effective.values()) <= budget * 240
    small = factorize(WIDE_STRUCTURE, WIDE, budget=budget, moments=moments)
    assert sum(map(jnp.size, jax.tree.leaves(small))) == size.total_effective
    energies = {}
    for path in ("a", "b"):
        squares = np.linalg.svd(WIDE[path], compute_uv=False) ** 2
        if moments is not None:
            squares = np.linalg.eigvalsh(moments.moments[path][0])[::-1]
        energies[path] = np.cumsum(squares) / np.sum(squares)

    def kept(ranks):
        return sum(energies[path][rank - 1] for path, rank in ranks.items())

    def fits(ranks):
        return sum(min(22 * rank, 120) for rank in ranks.values()) <= budget * 240

    every = [{"a": i, "b": j} for i in range(1, 11) for j in range(1, 11)]
    best = max(kept(ranks) for ranks in every if fits(ranks))
    mine = {path: size.ranks.get(path, 10) for path in ("a", "b")}
    # Whole ranks do not always fill a budget: one more may not fit where two of the other do.
    largest_step = max(np.max(np.diff(energy)) for energy in energies.values())
    assert best - largest_step <= kept(mine) <= best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.5, "ranks": 2}, "budget: give either ranks or budget"),
        ({"budget": 0.0}, r"budget: got 0.0, must be in \(0, 1\]"),
        ({"budget": float("nan")}, r"budget: got nan, must be in \(0, 1\]"),
        ({"budget": 0.1}, "budget: got 0.1, rank 1 everywhere needs 0.183 already"),
        (
            {"moments": OutputMoments({"a": np.ones((1, 9, 9))}, ())},
            r"moments: at 'a' of shape \(1, 9, 9\), must be \(1, 10, 10\)",
        ),
        ({"moments": OutputMoments({"c": np.ones((1, 9, 9))}, ())}, "moments: at 'c'"),
        (
            {"moments": OutputMoments({"a": np.full((1, 10, 10), np.nan)}, ()), "ranks": 2},
            "moments: those of 'a' are not finite",
        ),
        ({"moments": {}}, "moments: got dict, must be from OutputMoments.from_data"),
        ({"budget": "0.4"}, r"budget: got '0.4', must be in \(0, 1\]"),
        ({"ranks": "8"}, "ranks for 'a': got '8', must be a whole number"),
        ({"ranks": True}, "ranks for 'a': got True, must be a whole number"),
        ({"ranks": 1000.5}, "ranks for 'a': got 1000.5, must be a whole number"),
        ({"rtol": float("nan")}, r"rtol: got nan, must be in \[0, 1\)"),
        ({"rtol": 1.0}, r"rtol: got 1.0, must be in \[0, 1\)"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        factorize(WIDE_STRUCTURE, WIDE, **options)


@pytest.mark.parametrize("options", [{}, {"budget": 0.5}])
def test_parameters_that_are_not_finite_are_named(options):
    broken = {**WIDE, "b": WIDE["b"] * np.nan}
    with pytest.raises(ValueError, match="params: 'b' holds numbers that are not finite"):
        factorize(WIDE_STRUCTURE, broken, **options)
    with pytest.raises(ValueError, match="params: 'a' is traced, so that its rank is not known"):
        jax.jit(lambda params: factorize(WIDE_STRUCTURE, params, **options))(WIDE)


def test_no_examples_and_no_common_axis_are_named():
    for x in (DATA[:0], (DATA, DATA[:3])):
        with pytest.raises(ValueError, match="must be arrays with one leading axis"):
            OutputMoments.from_data(WIDE_STRUCTURE, WIDE, x, apply=lambda p, x: x)
