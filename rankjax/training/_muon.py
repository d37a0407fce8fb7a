"""Which axes Muon orthogonalizes, read from the structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from optax import contrib

from rankjax.network.internal import path_string
from rankjax.training._transformation import StructureOrFunction, check_source, structure_of


def muon_dimension_numbers(structure: StructureOrFunction, /) -> Callable[[Any], Any]:
    """The dimension numbers of the structure's layers for ``optax.contrib.muon``.

    Each layer gets its own input (reduction) and output axes, so that Muon orthogonalizes attention
    projections and convolutions as matrices, and stacked layers and experts one by one. Every other
    leaf (biases, embeddings, leaves left out by ``mask``) goes to Adam. So do grouped convolutions,
    which Muon would treat as one matrix.

    Returns:
        A function of the parameters, for ``muon_weight_dimension_numbers``.

    Raises:
        ImportError: an Optax without dimension numbers for Muon, such as 0.2.5.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
        >>> numbers = muon_dimension_numbers(describe(params))
        >>> numbers(params)["kernel"]
        MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))
        >>> optimizer = optax.contrib.muon(1e-3, muon_weight_dimension_numbers=numbers)
    """
    check_source(structure)
    if not hasattr(contrib, "MuonDimensionNumbers"):
        raise ImportError("muon_dimension_numbers needs a later optax, with MuonDimensionNumbers")

    def numbers(params: Any) -> Any:
        views = {
            layer.path: layer.view
            for layer in structure_of(structure, params).layers
            if layer.groups == 1
        }

        def of(path: Any, leaf: Any) -> Any:
            del leaf
            view = views.get(path_string(path))
            return view and contrib.MuonDimensionNumbers(view.in_, view.out)

        return jax.tree_util.tree_map_with_path(of, params)

    return numbers
