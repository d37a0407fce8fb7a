"""The patch operator against the matrix of the convolution, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from rankjax.network import describe, measure
from rankjax.network._tracing import trace_uses

CASES = [
    # size, kernel, stride, padding, dilation, input dilation
    (7, 3, 1, "SAME", 1, 1),
    (7, 3, 2, "SAME", 1, 1),
    (8, 3, 3, "VALID", 1, 1),
    (8, 3, 2, "VALID", 2, 1),
    (7, 5, 2, ((2, 2), (2, 2)), 1, 1),
    (4, 3, 1, ((2, 2), (2, 2)), 1, 2),
    (5, 3, 2, "SAME", 2, 1),
    (3, 3, 1, ((2, 2), (2, 2)), 1, 1),
]


def network(case, groups=1):
    _, _, stride, padding, dilation, input_dilation = case

    def apply(p, x):
        return lax.conv_general_dilated(
            x, p["kernel"], (stride, stride), padding,
            lhs_dilation=(input_dilation, input_dilation), rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    return apply


@pytest.mark.parametrize("case", CASES)
def test_gather_norm_is_the_norm_of_the_patch_operator(case):
    size, kernel = case[:2]
    params = {"kernel": jnp.ones((kernel, kernel, 1, 1))}
    apply = network(case)
    structure = describe(params, apply=apply, example=jnp.zeros((1, size, size, 1)))
    geometry = structure.layers[0].convolution

    def gather(x):
        # All taps as separate output channels: this is P itself.
        taps = jnp.eye(kernel**2).reshape(kernel, kernel, 1, kernel**2)
        return apply({"kernel": taps}, x.reshape(1, size, size, 1)).ravel()

    matrix = jax.jacobian(gather)(jnp.zeros(size * size))
    assert np.linalg.norm(matrix, 2) == pytest.approx(geometry.gather_norm, abs=1e-12)
    assert geometry.positions == gather(jnp.zeros(size * size)).size // kernel**2


@pytest.mark.parametrize(("case", "groups"), [(c, g) for c in CASES[:5] for g in (1, 2)])
def test_patch_norms_bound_the_output_and_are_those_of_the_patches(case, groups):
    size, kernel = case[:2]
    key = jax.random.key(0)
    x = jax.random.normal(key, (1, size, size, 4))
    params = {"kernel": jax.random.normal(key, (kernel, kernel, 4 // groups, 4))}
    (use,) = trace_uses(network(case, groups), params, x).trace.uses.values()
    squares = np.asarray(use.squared_row_norms(x))
    # Each group's patches, gathered one tap and one channel at a time.
    taps = kernel**2 * 4 // groups
    eye = jnp.eye(taps).reshape(kernel, kernel, 4 // groups, taps)
    patches = network(case)({"kernel": eye}, x[..., : 4 // groups])
    np.testing.assert_allclose(squares[..., 0], np.sum(patches**2, -1), rtol=1e-12)


def test_a_norm_of_the_whole_layer_never_exceeds_the_bound():
    case = CASES[1]
    params = {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 2, 5))}
    apply = network(case)
    structure = describe(params, apply=apply, example=jnp.zeros((1, 7, 7, 2)))
    jacobian = jax.jacobian(lambda x: apply(params, x.reshape(1, 7, 7, 2)).ravel())(jnp.zeros(98))
    operator = np.linalg.norm(jacobian, 2)
    kernel = np.linalg.norm(structure.matrices(params)[0][0, 0], 2)
    bound = structure.layers[0].gather_norm * kernel
    assert kernel < operator <= bound  # the reshaped kernel's norm is not the operator's


@pytest.mark.parametrize(("case", "groups"), [*((c, 1) for c in CASES), (CASES[0], 2)])
def test_the_measured_operator_norm_lies_between_the_exact_one_and_the_product(case, groups):
    """All strides, paddings and dilations: the torus is never too small."""
    size, width = case[:2]
    # A wave between the frequencies of a torus of the size of the image: that one is too small.
    places = np.arange(width)
    wave = np.cos(2.7473 * places[:, None] + 3.047 * places + 0.3909)
    channels = jax.random.normal(jax.random.key(2), (4 // groups, 4))
    kernel = jnp.asarray(wave[..., None, None] * np.asarray(channels))
    params, apply = {"kernel": kernel}, network(case, groups)
    structure = describe(params, apply=apply, example=jnp.zeros((1, size, size, 4)))
    measured = measure(structure, params)["kernel"]
    inputs = jnp.zeros(size * size * 4)
    matrix = jax.jacobian(lambda x: apply(params, x.reshape(1, size, size, 4)).ravel())(inputs)
    exact = np.linalg.norm(matrix, 2)
    product = structure.layers[0].gather_norm * measured.spectral_norm
    assert exact * (1 - 1e-12) <= measured.operator_norm <= product * (1 + 1e-12)


def test_the_torus_beats_the_product_where_it_is_cheap_and_is_differentiable():
    apply = network(CASES[0])

    def norm(kernel, size=7):
        example = jax.ShapeDtypeStruct((1, size, size, 2), jnp.float64)
        structure = describe({"kernel": kernel}, apply=apply, example=example)
        return measure(structure, {"kernel": kernel}).operator_norm[0]

    kernel = jax.random.normal(jax.random.key(3), (3, 3, 2, 4))
    product = 3 * jnp.linalg.norm(kernel.reshape(-1, 4), 2)
    assert norm(kernel) < 0.99 * product
    check_grads(norm, (kernel,), order=1, modes=("fwd", "rev"), rtol=1e-5)
    assert norm(kernel, size=300) == pytest.approx(float(product))  # too many points


def test_the_order_of_axes_given_by_hand_does_not_change_the_operator():
    apply, example = network(CASES[0]), jnp.zeros((1, 7, 7, 3))
    params = {"kernel": jax.random.normal(jax.random.key(4), (3, 3, 3, 4))}
    traced = describe(params, apply=apply, example=example)
    given = describe(params, apply=apply, example=example, axes={"kernel": ((3,), (2, 0, 1))})
    assert given == traced
