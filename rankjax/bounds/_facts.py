"""Facts of the layers and of the data that several bounds share: counts, norms, products.

A theorem about fully connected networks is applied to the linear map that a layer is. A convolution
with kernel matrix ``K`` and ``t`` positions is the matrix of ``t`` shifted copies of the rows of
``K``: its norm is at most ``Measured.operator_norm``, and its ``(2,1)`` and Frobenius norms are at
most ``t |K|_{2,1}`` and ``sqrt(t) |K|_F`` (zero padding makes them smaller). So it is with a dense
layer applied to each of ``t`` tokens. A matrix used ``u`` times is ``u`` layers.

Products over layers are sums of logarithms: a product of 50 norms overflows float32, its logarithm
does not, and ``prod_{i != l}`` needs no division by ``|A_l|``, which may be 0.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._linear_algebra import largest
from rankjax.bounds._result import BoundResult, Inapplicable, Kind, Quantity
from rankjax.network import Measured, Sample, Structure
from rankjax.network.internal import positive_margin

ASSUMED = (
    "assumed is a chain of these layers, a dense one applied once, with 1-Lipschitz, positively "
    "homogeneous activations such as ReLU"
)
#: Explicit bounds whose proofs rescale layers or pull norms out of activations.
HOMOGENEOUS = frozenset({"frobenius", "frobenius_neyshabur", "pac_bayes_spectral"})
NOT_HOMOGENEOUS = (
    "its theorem is about positively homogeneous activations such as ReLU, and the trace does not "
    "show that all are"
)


def is_outside(structure: Structure, name: str) -> str | None:
    """Why the theorem of this explicit bound says nothing about a traced network, if so."""
    if structure.outside:
        return f"its theorem is about chains; the network {structure.outside[0]}"
    traced = structure.outside is not None
    return NOT_HOMOGENEOUS if traced and name in HOMOGENEOUS and not structure.homogeneous else None


class Facts:
    """What a bound reads of its arguments; arrays have the dtype of the measurements.

    Raises:
        ValueError: arguments that are not measurements and a sample, in this order.
    """

    def __init__(self, measured: Measured, sample: Sample, gamma: ArrayLike | None = None):
        for name, value, kind in (("measured", measured, Measured), ("sample", sample, Sample)):
            if not isinstance(value, kind):
                raise ValueError(
                    f"{name}: got {type(value).__name__}, must be a {kind.__name__}; the "
                    "measurements come first, then the sample"
                )
        self.measured, self.sample, self._gamma = measured, sample, gamma

    def number(self, value: ArrayLike) -> Array:
        """``value`` as an array."""
        return jnp.asarray(value, self.measured.operator_norm.dtype)

    @property
    def n(self) -> Array:
        """The number of examples."""
        return self.number(self.sample.n)

    @cached_property
    def gamma(self) -> Array:
        """``gamma``, or by default the largest margin that costs 1 % of the sample's accuracy."""
        given = self._gamma
        gamma = self.sample.margin_at(0.01) if given is None else positive_margin(given)
        return self.number(gamma)

    def known(self, name: str) -> Array:
        """A field of the sample.

        Raises:
            Inapplicable: where the sample does not have it.
        """
        value = getattr(self.sample, name)
        if value is None:
            raise Inapplicable(f"sample: {name} is unknown; use Sample.from_data")
        return self.number(value)

    def layer_norms(self) -> Array:
        """The largest 2-norm, over the sample, of what each layer's matrix is applied to.

        Raises:
            Inapplicable: where the sample does not have it.
        """
        norms = self.known("patch_norms")
        count = len(self.measured.structure.names)
        if norms.shape[0] != count:
            raise Inapplicable(
                f"sample: got norms of {norms.shape[0]} layers, measured has {count}; both must "
                "come from one structure"
            )
        return largest(norms, 1)

    @cached_property
    def uses(self) -> np.ndarray:
        """How often each matrix is used, ``(layers,)``, static."""
        return self.measured.static(lambda layer: layer.uses)

    @property
    def times(self) -> Array:
        """``uses`` as an array."""
        return self.number(self.uses)

    @property
    def depth(self) -> int:
        """L, the number of layers; a tied matrix counts once for each of its uses."""
        return int(self.uses.sum())

    @cached_property
    def positions(self) -> np.ndarray:
        """Positions of one use of each layer, ``(layers,)``, static.

        Raises:
            Inapplicable: for a convolution described without a forward function.
        """
        layers = self.measured.structure.layers
        unknown = [layer.path for layer in layers if layer.positions is None]
        if unknown:
            raise Inapplicable(
                f"structure: the number of positions of {unknown} is unknown; "
                "use describe(params, apply=..., example=...)"
            )
        return self.measured.static(lambda layer: -(-layer.positions // layer.uses))

    @property
    def outputs(self) -> np.ndarray:
        """Numbers of pre-activations of one use, ``(layers,)``, static."""
        rows = self.measured.static(lambda layer: layer.matrix_shape[0] * layer.parallel)
        return rows * self.positions

    @property
    def inputs(self) -> np.ndarray:
        """Numbers of inputs of one use, ``(layers,)``, static; of a convolution, the pixels'."""

        def count(layer: Any) -> int:
            columns = layer.matrix_shape[1] * layer.parallel
            if layer.convolution is None:
                return columns * -(-layer.positions // layer.uses)
            windows = layer.convolution.windows
            taps = int(np.prod([w.size for w in windows]))
            return columns // taps * int(np.prod([w.inputs for w in windows]))

        self.positions  # noqa: B018  (for its error)
        return self.measured.static(count)

    @property
    def width(self) -> int:
        """h, the largest number of units of the input or of a layer."""
        return int(max(self.outputs.max(), self.inputs.max()))

    @property
    def weights(self) -> np.ndarray:
        """Numbers of weights, ``(layers,)``, static; shared weights count once."""
        return self.measured.static(lambda layer: int(np.prod(layer.matrix_shape)) * layer.parallel)

    @property
    def log_lipschitz(self) -> Array:
        """``log rho_l``, ``(layers,)``."""
        return jnp.log(self.number(self.measured.lipschitz))

    @property
    def log_factors(self) -> Array:
        """``log(rho_l |A_l|)`` with the norm of the layer as a linear map, ``(layers,)``."""
        return self.log_lipschitz + log(self.measured.operator_norm)

    def log_rest(self, others: np.ndarray | None = None) -> Array:
        """``log(prod_i rho_i |A_i| / |A_l|)`` without a division, ``(layers,)``.

        ``others[l, i]``: which layers ``i`` count for layer ``l``, default all but itself.
        """
        factors, times = self.log_factors, self.times
        if others is None:
            others = ~np.eye(factors.shape[0], dtype=bool)
        rest = jnp.sum(jnp.where(others, (times * factors)[None, :], 0), axis=1)
        # The other uses of the same matrix; 0 * -inf must be 0.
        again = jnp.where(times > 1, (times - 1) * jnp.where(times > 1, factors, 0), 0)
        return rest + self.log_lipschitz + again

    @property
    def row_norms_moved(self) -> Array:
        """``|A_l - M_l|_{2,1}`` of the layer as a linear map, ``(layers,)``."""
        rows = self.measured.per_layer(self.measured.row_norms_moved, jnp.sum)
        return rows * self.number(self.positions)

    def frobenius(self, *, moved: bool = False) -> Array:
        """``|A_l|_F``, or ``|A_l - M_l|_F``, of the layer as a linear map, ``(layers,)``."""
        norm = self.measured.frobenius_norm_moved if moved else self.measured.frobenius_norm
        return norm * jnp.sqrt(self.number(self.positions))

    def result(
        self,
        log_value: Array,
        per_layer: Array,
        *,
        name: str,
        kind: Kind,
        source: str,
        parts: str,
        quantity: Quantity = "Rademacher",
        terms: dict[str, Array] | None = None,
    ) -> BoundResult:
        """A ``BoundResult`` from the logarithm of its value; ``quantity``: of an explicit bound."""
        dominant = kind == "dominant"
        source = f"{source}, dominant term" if dominant else source + self._caveat(name)
        return BoundResult(
            value=exp(log_value),
            per_layer=per_layer,
            terms={"log": log_value, **(terms or {})},
            name=name,
            kind=kind,
            source=source,
            layers=self.measured.structure.names,
            quantity="dominant term" if dominant else quantity,
            parts=parts,
        )

    def _caveat(self, name: str) -> str:
        """What the theorem does not know of the network, for the row of an explicit bound."""
        structure = self.measured.structure
        if structure.outside is None:
            return f"; {ASSUMED}"
        if why := is_outside(structure, name):
            return f"; not for this network: {why}"
        return "; for the network without its biases" if structure.biases else ""


def log(value: Array) -> Array:
    """``log`` with ``-inf`` and derivative 0 at 0, NaN for NaN."""
    positive = value != 0
    return jnp.where(positive, jnp.log(jnp.where(positive, value, 1)), -jnp.inf)


def exp(value: Array) -> Array:
    """``exp`` with derivative 0 at ``-inf``."""
    finite = value != -jnp.inf
    return jnp.where(finite, jnp.exp(jnp.where(finite, value, 0)), 0)


def total(logs: Array, power: float = 1.0) -> tuple[Array, Array]:
    """``log (sum_l exp(power logs_l))^(1/power)`` and the summands; logarithms may be -inf."""
    # A constant: it cancels, and the rule of ``max`` is NaN where XLA rounds ``logs`` in two ways.
    top = jax.lax.stop_gradient(largest(logs))
    top = jnp.where(top == -jnp.inf, 0, top)
    added = jnp.sum(exp(power * (logs - top)))
    return top + log(added) / power, exp(power * logs)


def check_delta(delta: float) -> None:
    """Raise ``ValueError`` unless ``delta`` is a probability strictly between 0 and 1."""
    if not 0 < delta < 1:
        raise ValueError(f"delta: got {delta}, must be in (0, 1)")
