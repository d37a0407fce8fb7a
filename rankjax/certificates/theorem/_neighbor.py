"""The coded neighbor of a network, and the checks that tie it to the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates._guarantee import DATA_ASSUMPTIONS
from rankjax.certificates._held import counted
from rankjax.certificates._inputs import check_values
from rankjax.certificates.theorem._distances import (
    coded_distance,
    covers,
    exponent_of,
    measure,
    unit,
)
from rankjax.certificates.theorem._lattice import LeafCode, grid_step
from rankjax.certificates.theorem._network import Network
from rankjax.network import Layer, Reason, Structure, View
from rankjax.network.internal import check_structure


@dataclass(frozen=True)
class Problem:
    """A network, its weights and their reference, ready to be coded.

    Attributes:
        network: as the theorem sees it.
        layers: how each leaf is seen as matrices, by path.
        weights: all weights as one vector.
        reference: the same of the reference.
    """

    network: Network
    layers: dict[str, Layer]
    weights: np.ndarray
    reference: np.ndarray

    @classmethod
    def read(
        cls,
        structure: Structure,
        params: Any,
        x: Any,
        *,
        apply: Callable[[Any, Any], Any],
        reference: Any = None,
        activations: Mapping[str, float] | None = None,
    ) -> Problem:
        """Read the network and tie everything together.

        Raises:
            ValueError: if ``structure`` is not of this network, if ``reference`` does not fit, and
                whatever ``Network`` refuses.
        """
        check_values(params, "params")
        check_structure(structure, params)  # before apply meets what it was not made for
        network = Network(apply, params, x, activations)
        layers = _layers_of(network, structure)
        weights = network.leaves.vector(params)
        base = np.zeros_like(weights)
        if reference is not None:
            check_values(reference, "reference")
            base = weights_of(network, reference, "reference")
        return cls(network, layers, weights, base)

    def part(self, vector: np.ndarray, number: int) -> np.ndarray:
        """One leaf of a vector of weights."""
        return self.network.leaves.leaf(vector, number)

    def decode(self, leaves: Sequence[LeafCode]) -> tuple[np.ndarray, np.ndarray]:
        """The coded weights, and the step of every weight; leaves not used are as in reference."""
        vector, steps = self.reference.copy(), np.zeros_like(self.reference)
        starts = self.network.leaves.starts
        for number, leaf in zip(self.network.used, leaves, strict=True):
            moved = leaf.moved()
            if leaf.mode == "factors":
                moved = self._scatter(self.layers[leaf.path], moved)
            place = slice(starts[number], starts[number + 1])
            vector[place] += moved.ravel()
            steps[place] = 0.0 if leaf.mode == "reference" else grid_step(leaf.step)
        return vector, steps

    @staticmethod
    def _scatter(layer: Layer, matrices: np.ndarray) -> np.ndarray:
        shape = (layer.stacked, layer.parallel, *layer.matrix_shape)
        with jax.enable_x64(True):
            return np.asarray(layer.leaf(jnp.asarray(matrices.reshape(shape))))

    def matrices(self, number: int, vector: np.ndarray) -> np.ndarray | None:
        """A leaf as ``(count, out, in)``, or ``None`` where it is no matrix."""
        layer = self.layers.get(self.network.leaves.paths[number])
        if layer is None or min(layer.matrix_shape) < 2:
            return None
        with jax.enable_x64(True):
            found = np.asarray(layer.matrix(jnp.asarray(self.part(vector, number))))
        return found.reshape(-1, *layer.matrix_shape)

    def units(self, steps: np.ndarray) -> list[float]:
        """What each coded distance is measured in."""
        return [unit(distance, steps) for distance in self.network.distances]

    def exponents(self, coded: np.ndarray, steps: np.ndarray) -> list[int | None]:
        """The smallest coded distances from the network to this neighbor."""
        moved = self.weights - coded
        return [
            exponent_of(measure(distance, moved), size)
            for distance, size in zip(self.network.distances, self.units(steps), strict=True)
        ]

    def check_exponents(
        self, exponents: Sequence[int | None], coded: np.ndarray, steps: np.ndarray
    ) -> np.ndarray:
        """The coded distances as numbers.

        Raises:
            ValueError: if one of them is smaller than the distance it stands for.
        """
        if len(exponents) != len(self.network.distances):
            raise ValueError(
                f"distances: got {len(exponents)}, the network has {len(self.network.distances)}"
            )
        moved = self.weights - coded
        values = []
        for i, (exponent, distance, size) in enumerate(
            zip(exponents, self.network.distances, self.units(steps), strict=True)
        ):
            measured = measure(distance, moved)
            if not covers(exponent, measured, size):
                raise ValueError(
                    f"distances[{i}]: got {exponent}, i.e. {coded_distance(exponent, size):.6g}; "
                    f"the {distance.kind} distance is {measured:.6g}"
                )
            values.append(coded_distance(exponent, size))
        return np.array(values)

    def assumptions(self, *, with_reference: bool) -> tuple[str, ...]:
        """What the guarantee rests on, in words."""
        found: list[str] = list(DATA_ASSUMPTIONS)
        if with_reference:
            found.append("the reference weights were fixed before the data were seen")
        return (*found, *network_assumptions(self.network))


def network_assumptions(network: Network) -> tuple[str, ...]:
    """What is taken for granted of the forward function itself."""
    found = list(network.held.assumptions())
    if network.leaves.flags:
        found.append(
            f"params hold {counted(network.leaves.flags, 'Python boolean')}: fixed before the data "
            "were seen"
        )
    for name, constant in sorted(network.told.items()):
        found.append(
            f"{name} is {constant:g}-Lipschitz, and float64 computes it to the last digits (told, "
            "not proved)"
        )
    return tuple(found)


def weights_of(network: Network, params: Any, name: str) -> np.ndarray:
    """The weights of another tree of this network, ``name`` in messages."""
    try:
        return network.leaves.vector(params)
    except ValueError as error:
        raise ValueError(str(error).replace("params", name, 1)) from None


def _layers_of(network: Network, structure: Structure) -> dict[str, Layer]:
    """The layers by path.

    Raises:
        ValueError: if the structure is not one of this network.
    """
    layers = {layer.path: layer for layer in structure.layers}
    # What it leaves out (depthwise kernels, for one) is coded entry by entry, like a bias.
    left_out = {leaf.path for leaf in structure.left_out if leaf.why is not Reason.MASKED}
    for layer in structure.layers:
        if type(layer) is not Layer or type(layer.view) is not View:
            raise ValueError(f"structure: got a {type(layer).__name__}, must be from describe")
    leaves = network.leaves
    for distance in network.distances:
        if distance.kind not in {"spectral", "rows"}:
            continue
        index = distance.entries.index
        where = np.unique(np.searchsorted(leaves.starts, index, side="right") - 1)
        for number in where:
            path = leaves.paths[number]
            if path in left_out:
                continue
            if path not in layers:
                raise ValueError(
                    f"structure: leaves out {path!r}, which apply multiplies with the data; make "
                    "it with describe(params, apply=..., example=...)"
                )
            _check_view(network, layers[path], index.reshape(-1, *index.shape[-2:]), int(number))
    return layers


def _check_view(network: Network, layer: Layer, index: np.ndarray, number: int) -> None:
    """The rows and columns that apply uses are those of the structure, or their transpose."""
    start, end = network.leaves.starts[number], network.leaves.starts[number + 1]
    if index.size == 0 or index.min() < start or index.max() >= end:
        return  # several leaves side by side: no single view of one of them
    numbers = np.arange(end - start, dtype=np.int32).reshape(layer.shape)
    matrices = np.asarray(layer.matrix(jnp.asarray(numbers))).reshape(-1, *layer.matrix_shape)
    where = np.empty((end - start, 2), np.int64)  # row and column of each weight
    rows = np.arange(matrices.shape[0] * matrices.shape[1]).reshape(matrices.shape[:2])
    where[matrices.ravel(), 0] = np.broadcast_to(rows[:, :, None], matrices.shape).ravel()
    columns = np.arange(matrices.shape[0] * matrices.shape[2]).reshape(len(matrices), 1, -1)
    where[matrices.ravel(), 1] = np.broadcast_to(columns, matrices.shape).ravel()
    used = where[index - start]  # (batch, out, in, 2)
    one_row = [bool(np.all(used[..., side] == used[..., :1, side])) for side in (0, 1)]
    if not any(one_row):
        raise ValueError(
            f"structure: {layer.path!r} has other rows and columns than the matrix that apply "
            "uses; make it with describe(params, apply=..., example=...)"
        )
