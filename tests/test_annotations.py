"""The check of annotations itself."""

import jax.numpy as jnp
import jaxtyping
import pytest
from jax import Array
from jaxtyping import Float

import rankjax
from rankjax import matrix, training
from rankjax.matrix._schatten_power import schatten_power
from tests.annotations import held_to_its_annotations


def test_wrong_shapes_are_found_and_refusals_pass():
    def transposed(a: Float[Array, "m n"]) -> Float[Array, "m n"]:
        if a.ndim != 2:
            raise ValueError("a must be a matrix")
        return a.T

    checked = held_to_its_annotations(transposed)
    assert checked(jnp.ones((2, 2))).shape == (2, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="return"):
        checked(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="a must be a matrix"):
        checked(jnp.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(jnp.ones((2, 2), int))


def test_the_public_functions_are_checked():
    for function in (rankjax.schatten_power, matrix.project_rank, training.schatten_penalty):
        assert hasattr(function, "__wrapped__")
    assert rankjax.schatten_norm is matrix.schatten_norm
    assert matrix.schatten_power is not schatten_power
