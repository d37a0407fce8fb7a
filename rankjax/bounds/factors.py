"""Facts of the layers that several bounds share: counts, norms as operators, products.

A theorem about fully connected networks is applied to the linear map that a layer is. A convolution
with kernel matrix ``K``, patch operator ``P`` and ``t`` positions is the matrix of ``t`` shifted
copies of the rows of ``K``: its norm is at most ``|P| |K|``, and its ``(2,1)`` and Frobenius norms
are at most ``t |K|_{2,1}`` and ``sqrt(t) |K|_F`` (zero padding makes them smaller). A dense layer
applied to each of ``t`` tokens is the same with ``|P| = 1``. A matrix used ``u`` times is ``u``
layers.

Products over layers are sums of logarithms: a product of 50 norms overflows float32, its logarithm
does not, and ``prod_{i != l}`` needs no division by ``|A_l|``, which may be 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax.bounds.result import BoundResult
from rankjax.network.measure import Measured
from rankjax.network.sample import Sample, positive_margin


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
    top = jax.lax.stop_gradient(jnp.max(logs))
    top = jnp.where(top == -jnp.inf, 0, top)
    added = jnp.sum(exp(power * (logs - top)))
    return top + log(added) / power, exp(power * logs)


def margin(sample: Sample, gamma: ArrayLike | None, like: Array) -> Array:
    """``gamma``, or by default the largest margin that costs 1 % of the sample's accuracy."""
    gamma = sample.margin_at(0.01) if gamma is None else positive_margin(gamma)
    return gamma.astype(like.dtype)


def known(sample: Sample, name: str, like: Array) -> Array:
    """A field of the sample, as an array of the measurements' dtype.

    Raises:
        ValueError: where the sample does not have it.
    """
    value = getattr(sample, name)
    if value is None:
        raise ValueError(f"sample: {name} is unknown; use Sample.from_data")
    return jnp.asarray(value, like.dtype)


def uses(measured: Measured) -> np.ndarray:
    """How often each matrix is used, ``(layers,)``, static."""
    return measured.static(lambda layer: layer.uses)


def depth(measured: Measured) -> int:
    """L, the number of layers; a tied matrix counts once for each of its uses."""
    return int(uses(measured).sum())


def positions(measured: Measured) -> np.ndarray:
    """Positions of one use of each layer, ``(layers,)``, static.

    Raises:
        ValueError: for a convolution described without a forward function.
    """
    unknown = [layer.path for layer in measured.structure.spec if layer.positions is None]
    if unknown:
        raise ValueError(
            f"structure: the number of positions of {unknown} is unknown; "
            "use describe(params, apply=..., example=...)"
        )
    return measured.static(lambda layer: -(-layer.positions // layer.uses))


def outputs(measured: Measured) -> np.ndarray:
    """Numbers of pre-activations of one use, ``(layers,)``, static."""
    rows = measured.static(lambda layer: layer.matrix_shape[0] * layer.parallel)
    return rows * positions(measured)


def inputs(measured: Measured) -> np.ndarray:
    """Numbers of inputs of one use, ``(layers,)``, static; a convolution's: pixels and channels."""

    def count(layer):
        columns = layer.matrix_shape[1] * layer.parallel
        if layer.convolution is None:
            return columns * -(-layer.positions // layer.uses)
        windows = layer.convolution.windows
        taps = int(np.prod([w.size for w in windows]))
        return columns // taps * int(np.prod([w.inputs for w in windows]))

    positions(measured)  # for its error
    return measured.static(count)


def width(measured: Measured) -> int:
    """h, the largest number of units of the input or of a layer."""
    return int(max(outputs(measured).max(), inputs(measured).max()))


def weights(measured: Measured) -> np.ndarray:
    """Numbers of weights, ``(layers,)``, static; shared weights count once."""
    return measured.static(lambda layer: int(np.prod(layer.matrix_shape)) * layer.parallel)


def log_factors(measured: Measured) -> Array:
    """``log(rho_l |A_l|)`` with the norm of the layer as a linear map, ``(layers,)``."""
    norm = measured.operator_norm
    return jnp.log(jnp.asarray(measured.lipschitz, norm.dtype)) + log(norm)


def log_rest(measured: Measured, others: np.ndarray | None = None) -> Array:
    """``log(prod_i rho_i |A_i| / |A_l|)`` without a division, ``(layers,)``.

    ``others[l, i]``: which layers ``i`` count for layer ``l``, default all but itself.
    """
    factors = log_factors(measured)
    times = jnp.asarray(uses(measured), factors.dtype)
    if others is None:
        others = ~np.eye(factors.shape[0], dtype=bool)
    rest = jnp.sum(jnp.where(others, (times * factors)[None, :], 0), axis=1)
    lipschitz = jnp.log(jnp.asarray(measured.lipschitz, factors.dtype))
    # The other uses of the same matrix; 0 * -inf must be 0.
    again = jnp.where(times > 1, (times - 1) * jnp.where(times > 1, factors, 0), 0)
    return rest + lipschitz + again


def row_norms_moved(measured: Measured) -> Array:
    """``|A_l - M_l|_{2,1}`` of the layer as a linear map, ``(layers,)``."""
    rows = measured.per_layer(measured.row_norms_moved, jnp.sum)
    return rows * jnp.asarray(positions(measured), rows.dtype)


def frobenius(measured: Measured, *, moved: bool = False) -> Array:
    """``|A_l|_F``, or ``|A_l - M_l|_F``, of the layer as a linear map, ``(layers,)``."""
    norm = measured.frobenius_norm_moved if moved else measured.frobenius_norm
    return norm * jnp.sqrt(jnp.asarray(positions(measured), norm.dtype))


def one_inf(measured: Measured) -> Array:
    """``|A_l|_{1,inf}``, ``(layers,)``: the same for a kernel and its convolution."""
    return measured.per_layer(measured.one_inf, jnp.max)


def number(value: ArrayLike, like: Array) -> Array:
    """``value`` as an array of the same dtype as ``like``."""
    return jnp.asarray(value, like.dtype)


def result(
    measured: Measured,
    log_value: Array,
    per_layer: Array,
    *,
    name: str,
    kind: str,
    source: str,
    parts: str,
    quantity: str = "dominant term",
    terms: dict[str, Array] | None = None,
) -> BoundResult:
    """A ``BoundResult`` from the logarithm of its value."""
    return BoundResult(
        value=exp(log_value),
        per_layer=per_layer,
        terms={"log": log_value, **(terms or {})},
        name=name,
        kind=kind,
        source=source,
        layers=measured.structure.names,
        quantity=quantity,
        parts=parts,
    )
