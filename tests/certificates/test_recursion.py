"""The recursion bounds every perturbation of its size, and refuses what it does not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.certificates.forward import observe
from rankjax.certificates.recursion import trace_recursion
from rankjax.network import describe
from tests.certificates.networks import NETWORKS, dense


def perturbed(structure, params, error, bias_error, rng):
    """Random weights at exactly these distances; half of them of rank 1, the worst shape."""
    matrices = []
    for layer, stack in zip(structure.spec, structure.layers(params), strict=True):
        noise = rng.normal(size=stack.shape)
        if rng.random() < 0.5:
            noise = noise[..., :, :1] * noise[..., :1, :]
        size = np.linalg.norm(noise, 2, axis=(-2, -1), keepdims=True)
        matrices.append(stack + error[layer.path] * noise / size)
    changed = structure.replace(params, matrices)
    for path, size in bias_error.items():
        noise = rng.normal(size=changed[path].shape)
        changed = {**changed, path: changed[path] + size * noise / np.linalg.norm(noise)}
    return changed


def norms_of(structure, params):
    pairs = zip(structure.spec, structure.layers(params), strict=True)
    return {
        layer.path: float(np.linalg.norm(stack, 2, axis=(-2, -1)).max()) for layer, stack in pairs
    }


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_perturbation_exceeds_the_bound(name, scale):
    apply, params, x = NETWORKS[name]()
    structure = describe(params, apply=apply, example=x)
    program = trace_recursion(apply, params, x)
    y = np.zeros(len(x), int)
    here = observe(program, apply, params, x, y)
    gain = norms_of(structure, params)
    rng = np.random.default_rng(1)
    worst = 0.0
    for _ in range(30):
        error = {path: scale * rng.random() for path in program.matrices}
        bias_error = {path: scale * rng.random() for path in program.biases}
        other = perturbed(structure, params, error, bias_error, rng)
        moved = np.linalg.norm(apply(params, x) - apply(other, x), axis=1)
        options = {"error": error, "bias_error": bias_error}
        bound, _ = program.perturbation(here.norms, gain=gain, **options)
        there = observe(program, apply, other, x, y)
        coded, _ = program.perturbation(there.norms, gain=gain, of_coded=True, **options)
        for found in (bound, coded):
            assert (moved <= found * (1 + 1e-12)).all()
            worst = max(worst, float((moved / found).max()))
    # The norms of the layers' inputs are bounded, too, and no bound is off by orders of magnitude.
    biases = {path: float(np.linalg.norm(params[path])) for path in program.biases}
    if not program.moves_zero:
        radius = float(np.linalg.norm(x.reshape(len(x), -1), axis=1).max())
        largest = program.norms(radius, gain=gain, bias=biases)
        assert (here.norms.max(axis=1) <= largest[:, 0] * (1 + 1e-9)).all()
    assert worst > 1e-2


def test_the_bound_is_attained_by_aligned_changes():
    # Two positive diagonal layers, changed along the first axis: each inequality is an equality.
    params = {"a": jnp.diag(jnp.array([2.0, 1.0])), "b": jnp.diag(jnp.array([3.0, 1.0]))}
    other = {"a": jnp.diag(jnp.array([2.25, 1.0])), "b": jnp.diag(jnp.array([3.5, 1.0]))}

    def apply(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    x = np.array([[5.0, 0.0]])
    program = trace_recursion(apply, params, x)
    here = observe(program, apply, params, x, np.array([0]))
    bound, at_use = program.perturbation(
        here.norms, gain={"a": 2.0, "b": 3.0}, error={"a": 0.25, "b": 0.5}, bias_error={}
    )
    moved = np.linalg.norm(apply(params, x) - apply(other, x))
    np.testing.assert_allclose(bound, moved, rtol=1e-12)
    np.testing.assert_allclose(at_use[:, 0], [0, 1.25], rtol=1e-12)


def layer_norm(p, x):
    h = x @ p["a"]
    return (h / jnp.std(h, axis=1, keepdims=True)) @ p["b"]


def scaled(p, x):
    return (x @ p["a"] * p["a_bias"]) @ p["b"]


def attention(p, x):
    h = x @ p["a"]
    return jax.nn.softmax(h @ h.T) @ h @ p["b"]


def looked_up(p, x):
    return (x @ p["a"])[:, jnp.argmax(p["a_bias"])][:, None] * p["b_bias"]


def squared(p, x):
    return jnp.square(x @ p["a"]) @ p["b"]


def two_ways(p, x):
    return (x @ p["a"]) @ p["a"].T @ p["a"][:, :3]


@pytest.mark.parametrize("apply", [layer_norm, scaled, attention, looked_up, squared, two_ways])
def test_what_is_not_known_is_refused(apply):
    _, params, x = dense()
    with pytest.raises(ValueError, match=r"apply:|params:"):
        trace_recursion(apply, params, x)


def test_activations_that_the_caller_vouches_for():
    _, params, x = dense()

    def apply(p, x):
        return jax.nn.silu(x @ p["a"]) @ p["b"]

    with pytest.raises(ValueError, match="activations="):
        trace_recursion(apply, params, x)
    program = trace_recursion(apply, params, x, activations={"silu": 1.1})
    assert program.assumed == (("silu", 1.1),)
    assert [node.factor for node in program.nodes if node.kind == "scale"] == [1.1, 1.0]
    with pytest.raises(ValueError, match="recursion"):
        program.norms(1.0, gain={"a": 1.0, "b": 1.0}, bias={})


def test_outputs_must_be_logits():
    _, params, x = dense()
    with pytest.raises(ValueError, match="logits"):
        trace_recursion(lambda p, x: (x @ p["a"])[0], params, x)
    with pytest.raises(ValueError, match="logits"):
        trace_recursion(lambda p, x: (x @ p["a"], x), params, x)
