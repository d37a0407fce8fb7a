"""The certificate as a loss: real-valued precisions, soft ranks, a soft count of errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from rankjax.bounds.binary_kl import kl_inverse
from rankjax.certificates.recursion import Recursion
from rankjax.matrix import schatten_power, spectral_norm
from rankjax.network.paths import paths_and_leaves, split_arrays
from rankjax.network.structure import Structure
from rankjax.network.tracing import Use, interpret

_LARGEST_ERROR = 0.99  # beyond, kl^{-1} is nearly 1 and has no slope to follow


class Surrogate(NamedTuple):
    """A differentiable stand-in for a certificate.

    Attributes:
        value: ``kl^{-1}(error, (nats + ln(1/delta)) / n)``, continued linearly in the error where
            that is above 0.99, so that a gradient leads out of there.
        error: the soft count of errors, at least the share with ``M <= 2 sqrt(2) E``.
        nats: the code length with real-valued precisions.
    """

    value: Array
    error: Array
    nats: Array


def surrogate(
    structure: Structure,
    recursion: Recursion,
    params: Any,
    x: Any,
    y: Array,
    /,
    *,
    apply: Callable[[Any, Any], Any],
    precision: Mapping[str, ArrayLike],
    n: ArrayLike,
    delta: float = 0.01,
    p: ArrayLike = 0.5,
    temperature: ArrayLike = 0.01,
) -> Surrogate:
    r"""The certificate of ``certify`` made differentiable, as a term of a training loss.

    With ``b_l`` bits for layer l (real numbers, which may be trained along), ``q = 2^{1 - b}``,
    errors ``e_l = q S_l`` and ``S_l = |A_l|``::

        nats  = sum_l min{ m n log(1 + 2/q),
                           k (m log(1 + 4/(theta q)) + n log(1 + 4/((1-theta) q))) }
        k     = (2 |A|_{S_p} / (q S))^p                                       theta = m/(m+n)
        error = mean_i log2(1 + sum_{j != y} exp(-(f_y - f_j - 2 sqrt(2) E(x_i)) / (T U(x_i))))

    ``k`` bounds the number of singular values above ``q S / 2``, by ``sigma_{k+1} <= |A|_{S_p}
    (k+1)^{-1/p}``; ``U`` is the derivative of ``E`` in the relative error common to all layers, so
    that the loss does not change when a layer is scaled and the next one scaled back. The soft
    count is at least the hard one for every temperature T.

    Biases are charged for nothing here (``certify`` charges them) but perturb with ``2^{1-b}|b|``.

    Args:
        structure: from ``describe`` with the forward function.
        recursion: from ``trace_recursion``.
        params: the parameters.
        x: a batch.
        y: its integer labels.
        apply: ``apply(params, x) -> logits``.
        precision: bits per path of the recursion's matrices and biases; traced, trainable.
        n: size of the whole sample.
        delta: confidence.
        p: Schatten exponent; traced.
        temperature: T; traced.

    Raises:
        ValueError: if a matrix or bias has no precision.

    Differentiable in ``params``, ``precision``, ``p`` and ``temperature``. Cost: one forward pass
    (its backward pass under ``grad``) and one decomposition a matrix.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from rankjax.certificates import trace_recursion
        >>> from rankjax.network import describe
        >>> params = {"kernel": jnp.array([[-1.0, 1.0], [0.0, 0.0]])}
        >>> apply = lambda params, x: x @ params["kernel"]
        >>> x, y = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([1, 0])
        >>> structure = describe(params, apply=apply, example=x)
        >>> found = surrogate(structure, trace_recursion(apply, params, x), params, x, y,
        ...                   apply=apply, precision={"kernel": 4.0}, n=1000)
        >>> round(float(found.nats), 2), round(float(found.value), 4)
        (11.33, 0.0158)
    """
    missing = [q for q in (*recursion.matrices, *recursion.biases) if q not in precision]
    if missing:
        raise ValueError(f"precision: lacks {missing}; every matrix and bias needs one")
    matrices = {
        layer.path: matrix
        for layer, matrix in zip(structure.spec, structure.layers(params), strict=True)
    }
    arrays, skeleton = split_arrays(params)
    like = jnp.result_type(*(matrices[path].dtype for path in recursion.matrices))
    number = partial(jnp.asarray, dtype=like)

    gain, nats = {}, number(0.0)
    for path in recursion.matrices:
        stack = matrices[path].astype(like)
        norm = spectral_norm(stack)
        gain[path] = jnp.max(norm)
        nats += jnp.sum(_nats(stack, norm, number(precision[path]), number(p)))
    leaves = {path: leaf for path, leaf in paths_and_leaves(params) if path in recursion.biases}
    sizes = {path: _norm(leaf.astype(like)) for path, leaf in leaves.items()}

    def one(x: Any) -> tuple[Array, Array]:
        rows: list[Array] = []

        def on_use(use: Use, data: Array) -> None:
            rows.append(_norm_of_squares(jnp.sum(use.squared_row_norms(data.astype(like)))))

        batch = jax.tree.map(lambda a: a[None], x)
        trace = interpret(lambda q, x: apply(skeleton.fill(q), x), arrays, batch, on_use)
        return trace.output[0].astype(like), jnp.stack(rows)

    logits, norms = jax.vmap(one, out_axes=(0, 1))(x)

    def moved(relative: Mapping[str, Array]) -> Array:
        error = {path: relative[path] * gain[path] for path in recursion.matrices}
        bias_error = {path: relative[path] * sizes[path] for path in recursion.biases}
        return recursion.perturbation(norms, gain=gain, error=error, bias_error=bias_error)[0]

    asked = {path: 2 ** (1 - number(precision[path])) for path in (*gain, *sizes)}
    none, all_ = (dict.fromkeys(asked, number(value)) for value in (0.0, 1.0))
    _, per_error = jax.jvp(moved, (none,), (all_,))
    mine = jnp.take_along_axis(logits, y[:, None], axis=1)
    gaps = logits - mine + math.sqrt(8) * moved(asked)[:, None]
    steepness = number(temperature) * jnp.maximum(per_error, jnp.finfo(like).tiny)
    exponents = jnp.where(jnp.arange(logits.shape[1]) == y[:, None], 0, gaps / steepness[:, None])
    error = jnp.mean(jax.nn.logsumexp(exponents, axis=1)) / math.log(2)
    budget = (nats + math.log(1 / delta)) / number(n)
    counted = jnp.minimum(error, _LARGEST_ERROR)
    return Surrogate(kl_inverse(counted, budget) + (error - counted), error, nats)


def _nats(stack: Array, norm: Array, bits: Array, p: Array) -> Array:
    m, n = stack.shape[-2:]
    theta, q = m / (m + n), 2 ** (1 - bits)
    direct = m * n * jnp.log1p(2 / q)
    safe = jnp.where(norm > 0, norm, 1)
    soft_rank = schatten_power(stack, p=p, eps=1e-3) / safe**p
    k = soft_rank * (2 / q) ** p
    factors = m * jnp.log1p(4 / (theta * q)) + n * jnp.log1p(4 / ((1 - theta) * q))
    return jnp.minimum(direct, k * factors)


def _norm_of_squares(squares: Array) -> Array:
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _norm(vector: Array) -> Array:
    return _norm_of_squares(jnp.sum(jnp.square(vector)))
