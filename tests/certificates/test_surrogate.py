"""The surrogate: an upper bound of what it stands for, scale-free, differentiable."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rankjax.certificates import surrogate, trace_recursion
from rankjax.certificates.forward import observe
from rankjax.network import describe
from tests.certificates.networks import NETWORKS

NAMES = ["dense", "convolutional", "residual"]


def case(name, bits=9.0):
    apply, params, x = NETWORKS[name]()
    x = jnp.asarray(x)
    program = trace_recursion(apply, params, x)
    structure = describe(params, apply=apply, example=x)
    y = jnp.argmax(apply(params, x), axis=1)
    precision = dict.fromkeys((*program.matrices, *program.biases), jnp.asarray(bits))

    def value(params, precision=precision, **options):
        return surrogate(
            structure, program, params, x, y, apply=apply, precision=precision, n=10**5, **options
        )

    return value, structure, program, params, apply, x, y, precision


@pytest.mark.parametrize("bits", [2.0, 6.0, 12.0])
@pytest.mark.parametrize("name", NAMES)
def test_soft_count_is_at_least_the_hard_one(name, bits):
    value, structure, program, params, apply, x, y, _ = case(name, bits)
    here = observe(program, apply, params, np.asarray(x), np.asarray(y))
    pairs = zip(structure.spec, structure.layers(params), strict=True)
    gain = {s.path: float(np.linalg.norm(m, 2, axis=(-2, -1)).max()) for s, m in pairs}
    q = 2 ** (1 - bits)
    moved, _ = program.perturbation(
        here.norms,
        gain=gain,
        error={path: q * gain[path] for path in program.matrices},
        bias_error={path: q * float(np.linalg.norm(params[path])) for path in program.biases},
    )
    hard = float(np.mean(here.margins <= math.sqrt(8) * np.asarray(moved)))
    for temperature in (1e-4, 1e-2, 1.0):
        assert float(value(params, temperature=temperature).error) >= hard - 1e-12
    # Cold, and away from the threshold, the two agree on examples that are right.
    if hard == 0:
        assert float(value(params, temperature=1e-6).error) < 1e-6


def test_nats_by_hand():
    value, structure, _, params, *_ = case("dense", bits=3.0)
    total = 0.0
    for stack in structure.layers(params):
        m, n = stack.shape[-2:]
        sigma = np.linalg.svd(np.asarray(stack[0, 0]), compute_uv=False)
        smooth = (sigma**2 + (1e-3 * sigma[0]) ** 2) ** 0.25 - (1e-3 * sigma[0]) ** 0.5
        k = smooth.sum() / sigma[0] ** 0.5 * (2 / 0.25) ** 0.5
        theta = m / (m + n)
        rank = k * (m * math.log1p(4 / (theta * 0.25)) + n * math.log1p(4 / ((1 - theta) * 0.25)))
        total += min(m * n * math.log1p(2 / 0.25), rank)
    assert float(value(params).nats) == pytest.approx(total, rel=1e-9)


def test_low_rank_is_cheaper():
    apply, params, x, y = (
        lambda p, x: x @ p["a"],
        {"a": jnp.ones((40, 30)) / 35 + 1e-9 * jnp.eye(40, 30)},
        jnp.ones((4, 40)),
        jnp.zeros(4, int),
    )
    structure = describe(params, apply=apply, example=x)
    program = trace_recursion(apply, params, x)
    options = {"apply": apply, "precision": {"a": 4.0}, "n": 100, "p": 0.1}
    low = surrogate(structure, program, params, x, y, **options)
    full = surrogate(structure, program, {"a": jnp.eye(40, 30)}, x, y, **options)
    assert float(low.nats) < 0.3 * float(full.nats)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    value, _, _, params, _, _, _, precision = case(name, bits=14.0)

    def loss(params, precision):
        return value(params, precision, temperature=0.05).value

    check_grads(
        jax.jit(loss), (params, precision), order=1, modes=("fwd", "rev"), rtol=1e-3, atol=1e-6
    )
    slopes = jax.jit(jax.grad(loss, argnums=1))(params, precision)
    assert all(np.isfinite(float(s)) for s in slopes.values())


def test_scaling_a_layer_and_back_changes_nothing():
    value, *_, params, _, _, _, _ = case("dense")
    params = {**params, "a_bias": jnp.zeros(8), "b_bias": jnp.zeros(3)}
    other = {**params, "a": 7 * params["a"], "b": params["b"] / 7}
    np.testing.assert_allclose(value(other).value, value(params).value, rtol=1e-9)


def test_one_compilation_for_all_temperatures_and_bits():
    value, _, _, params, _, _, _, precision = case("dense")
    traces = []

    @jax.jit
    def loss(params, precision, temperature, p):
        traces.append(None)
        return value(params, precision, temperature=temperature, p=p).value

    for number in (1.0, 2.0, 3.0):
        bits = {path: b + number for path, b in precision.items()}
        assert np.isfinite(float(loss(params, bits, 0.01 * number, 0.3 * number)))
    assert len(traces) == 1


def test_every_leaf_needs_a_precision():
    value, *_, params, _, _, _, precision = case("dense")
    precision.pop("a_bias")
    with pytest.raises(ValueError, match=r"precision: lacks \['a_bias'\]"):
        value(params, precision)
