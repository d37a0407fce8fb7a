"""The certificate as a loss: real-valued steps, expected distances, a soft count of errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._arguments import concrete
from rankjax.bounds import kl_inverse
from rankjax.certificates._guarantee import check_confidence
from rankjax.certificates.theorem._counting import limits_of
from rankjax.certificates.theorem._distances import unit
from rankjax.certificates.theorem._network import Network
from rankjax.certificates.theorem._nodes import root
from rankjax.certificates.theorem._values import Distance, Entries
from rankjax.matrix import spectral_norm
from rankjax.network.internal import check_labels, number_of_examples, paths_and_leaves

_LARGEST_ERROR = 0.99  # beyond, kl^{-1} is nearly 1 and has no slope to follow
_SMALL = 1e-7  # relative error
_MOST_BITS = 64  # of precision


class Surrogate(NamedTuple):
    """A differentiable stand-in for a certificate.

    Attributes:
        value: ``kl^{-1}(error, (nats + ln(1/delta)) / n)``, continued linearly in the error where
            that is above 0.99, so that its gradient does not vanish there.
        error: the soft count of errors, at least the share with ``gap <= limit``.
        nats: the code length with real-valued steps.
    """

    value: Array
    error: Array
    nats: Array


def surrogate(
    network: Network,
    params: Any,
    x: Any,
    y: Array,
    /,
    *,
    precision: Mapping[str, ArrayLike],
    n: ArrayLike,
    delta: float = 0.01,
    temperature: ArrayLike = 0.01,
) -> Surrogate:
    r"""A differentiable version of the certificate of ``certify``, as a term of a training loss.

    A leaf of N weights and root mean square r gets the step ``s = r 2^{1 - b}`` with b bits, a real
    number that can be trained, too. With ``z = |w| / s``::

        nats  = sum over leaves of coin(N, sum z) + ln 2 sum min(z, 1)
        error = mean_i log2(1 + sum_{j != y} exp(-(f_y - f_j - limit_j(x_i)) / (T U(x_i))))

    ``coin`` is the adaptive code of magnitudes in unary; ``limit`` is that of ``certify`` at the
    average distances after rounding to such steps, e.g. ``s (sqrt(m) + sqrt(n)) /
    sqrt(12)`` for a matrix. U is the derivative of the mean limit in a relative error common to all
    distances, so that the loss does not change when a layer is scaled and the next one scaled back.
    The soft count is at least the hard one for every temperature T.

    Args:
        network: from ``trace_network``.
        params: the parameters.
        x: a batch.
        y: its integer labels.
        precision: bits per path of the leaves that the network uses; traced, trainable.
        n: size of the whole sample.
        delta: confidence.
        temperature: T; traced.

    Raises:
        ValueError: if params, batch and labels do not fit ``network`` or each other, if a leaf has
            no precision, and for a precision, a size or a temperature out of range; of traced
            values only shapes and types are checked.

    Differentiable in ``params``, ``precision`` and ``temperature``. Cost: one forward pass (its
    backward pass under ``grad``) and one decomposition per matrix.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import trace_network
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> x, y = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([1, 0])
        >>> found = surrogate(trace_network(params, x, apply=apply), params, x, y,
        ...                   precision={"kernel": 4.0}, n=1000)
        >>> round(float(found.nats), 2), round(float(found.value), 4)
        (14.53, 0.019)
    """
    if not isinstance(network, Network):
        raise ValueError(
            f"network: got {type(network).__name__}, must be a Network from trace_network"
        )
    check_confidence(delta, 1)
    _check_within(n, "n", 1, 1e18)
    _check_within(temperature, "temperature", 1e-12, 1e12)
    paths = [network.leaves.paths[i] for i in network.used]
    _check_precision(precision, paths)
    _check_batch(network, x, y)
    leaves = _leaves_of(network, params)
    wide = any(leaves[i].dtype == np.float64 for i in network.used)
    like = np.dtype(np.float64 if wide else np.float32)
    weights = jnp.concatenate([leaf.astype(like).ravel() for leaf in leaves])
    starts = network.leaves.starts

    nats, steps = jnp.zeros((), like), jnp.zeros(weights.shape, like)
    for number, path in zip(network.used, paths, strict=True):
        place = slice(int(starts[number]), int(starts[number + 1]))
        leaf, bits = weights[place], jnp.asarray(precision[path], like)
        tiny = jnp.asarray(float(np.finfo(like).tiny) ** 0.5, like)
        step = jnp.sqrt(jnp.mean(jnp.square(leaf)) + tiny) * 2 ** (1 - bits)
        steps = steps.at[place].set(step)
        magnitudes = jnp.abs(leaf) / step
        nats += _coin(jnp.asarray(leaf.size, like), jnp.sum(magnitudes))
        nats += math.log(2) * jnp.sum(jnp.minimum(magnitudes, 1))

    gaps, slots = network.batch(weights, x, y)
    gaps, slots = gaps.astype(like), slots.astype(like)
    head = network.head
    rows = _entries(head.rows, weights) if head else jnp.zeros((0, 0), like)
    pairs = _row_differences(rows)
    norms = [jnp.max(spectral_norm(_entries(gain.entries, weights))) for gain in network.gains]
    gains = jnp.stack(
        [norm * gain.gather for norm, gain in zip(norms, network.gains, strict=True)]
        or [jnp.zeros((), like)]
    )
    distances = jnp.stack([_expected(d, steps) for d in network.distances])
    sizes = jnp.stack([_size(d, weights) for d in network.distances])
    limits = limits_of(network, slots, y, gains, pairs, distances)
    unit_limits = limits_of(network, slots, y, gains, pairs, _SMALL * sizes) / _SMALL
    scale = jnp.mean(unit_limits, axis=1, keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)  # a layer of zeros: nothing moves in proportion
    own = jnp.isinf(gaps)  # a class is not its own rival, and infinities have no derivative
    excess = (limits - jnp.where(own, 0, gaps)) / (jnp.asarray(temperature, like) * scale)
    scaled = jnp.where(own, -jnp.inf, excess)
    wrong = jnp.logaddexp(0.0, jax.scipy.special.logsumexp(scaled, axis=1)) / math.log(2)
    error = jnp.mean(wrong)

    budget = (nats + math.log(1 / delta)) / jnp.asarray(n, like)
    inside = jnp.minimum(error, _LARGEST_ERROR)
    value = kl_inverse(inside, budget) + (error - inside)
    return Surrogate(value, error, nats)


def _check_within(value: ArrayLike, name: str, lowest: float, highest: float) -> None:
    """Refuses what is no number; if its value is known, one out of range or NaN."""
    known = concrete(value)
    wanted = f"must be a number from {lowest:g} to {highest:g}"
    if known is None:
        if jnp.shape(value):
            raise ValueError(f"{name}: got shape {jnp.shape(value)}, {wanted}")
    elif (
        known.ndim or not jnp.issubdtype(known.dtype, jnp.number) or not lowest <= known <= highest
    ):
        raise ValueError(f"{name}: got {value!r}, {wanted}")


def _check_precision(precision: Any, paths: list[str]) -> None:
    if not isinstance(precision, Mapping):
        raise ValueError(f"precision: got {precision!r}, must map paths to bits")
    missing = [path for path in paths if path not in precision]
    if missing:
        raise ValueError(f"precision: lacks {missing}; every leaf that the network uses needs one")
    for path in paths:
        _check_within(precision[path], f"precision[{path!r}]", -_MOST_BITS, _MOST_BITS)


def _check_batch(network: Network, x: Any, y: Any) -> None:
    labels = concrete(y)
    number_of_examples(x, y if labels is None else labels, 1)
    if labels is not None:
        check_labels(labels, network.classes)


def _leaves_of(network: Network, params: Any) -> list[Array]:
    found = {path: leaf for path, leaf in paths_and_leaves(params) if hasattr(leaf, "shape")}
    for path, shape in zip(network.leaves.paths, network.leaves.shapes, strict=True):
        if path not in found or jnp.shape(found[path]) != shape:
            raise ValueError(f"params: lacks {path!r} of shape {shape}")
        if jnp.issubdtype(found[path].dtype, jnp.complexfloating):
            raise ValueError(f"params[{path!r}]: got {found[path].dtype}, must be real")
    return [jnp.asarray(found[path]) for path in network.leaves.paths]


def _coin(no: Array, yes: Array) -> Array:
    lgamma = jax.scipy.special.gammaln
    half = jnp.asarray(0.5, no.dtype)
    return lgamma(no + yes + 1) + math.log(math.pi) - lgamma(no + half) - lgamma(yes + half)


def _entries(entries: Entries, weights: Array) -> Array:
    return jnp.asarray(entries.factor, weights.dtype) * weights[entries.index]


def _row_differences(rows: Array) -> Array:
    return _length(rows[:, None] - rows[None])


def _length(vectors: Array) -> Array:
    """Norms along the last axis, with derivative 0 at 0."""
    return root(jnp.sum(jnp.square(vectors), axis=-1))


def _expected(distance: Distance, steps: Array) -> Array:
    """The distance that rounding to these steps leads to on average."""
    plain = unit(distance, np.zeros(steps.shape))
    entries = distance.entries
    factor = jnp.asarray(np.abs(entries.factor), steps.dtype)
    return plain * jnp.max(factor * steps[entries.index])


def _size(distance: Distance, weights: Array) -> Array:
    """The distance from zero."""
    found = _entries(distance.entries, weights)
    match distance.kind:
        case "spectral":
            return jnp.max(spectral_norm(found))
        case "norm":
            return _length(found.ravel())
        case "row":
            return jnp.max(_length(found))
        case "rows":
            return jnp.max(_row_differences(found))
        case "range":
            return jnp.max(found) - jnp.min(found)
