"""Scalars of a parameter tree to add to a loss.

All take the static ``structure`` first and the parameters second, so that
``functools.partial(schatten_penalty, structure, p=0.5)`` is a function of the parameters. Numbers
(``p``, ``eps``, ``weight``, ``gamma``) may be traced, so a schedule changes them without a new
compilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from rankjax._arguments import at_least_float32
from rankjax._explicit_axes import automatic
from rankjax.bounds import Form, rank_sparse
from rankjax.matrix import EpsMode as EpsMode
from rankjax.matrix import Method as Method
from rankjax.matrix import SingularValueMethod, log_det, schatten_power, stable_rank
from rankjax.network import Sample, Structure, measure
from rankjax.network.internal import by_shape, check_structure
from rankjax.training._in_turn import tall
from rankjax.training._schedule import matched

Weights = ArrayLike | Mapping[str, ArrayLike]
#: Smoothing relative to each matrix' largest singular value, where a penalty is not told another.
DEFAULT_EPS = 1e-2


@automatic
def schatten_penalty(
    structure: Structure,
    params: Any,
    /,
    *,
    p: ArrayLike,
    weight: Weights = 1.0,
    eps: ArrayLike = DEFAULT_EPS,
    eps_mode: EpsMode = "relative",
    reference: Any = None,
    method: Method = "auto",
) -> Float[Array, ""]:
    """``sum_l weight_l |A_l - M_l|_{S_p}^p``, smoothed (see ``schatten_power``).

    Args:
        p: Schatten exponent, > 0 (the smoothed power of ``p = 0`` is 0).

    Twice differentiable in the weights.

    Cost: one decomposition per matrix, equal shapes in one call.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([4.0, 1.0]))}
        >>> round(float(schatten_penalty(describe(params), params, p=0.5, eps=0.0)), 3)
        3.0
    """
    weights = _weights(check_structure(structure), weight)

    def power(a: Array, index: Array, p: ArrayLike, eps: ArrayLike, weights: Array) -> Array:
        of_each = schatten_power(a, p=p, eps=eps, eps_mode=eps_mode, method=method)
        return of_each * weights.astype(a.dtype)[index]

    moved = _moved(structure, params, reference)
    return total(by_shape(power, moved, structure.mesh, p, eps, weights))


def nuclear_penalty(
    structure: Structure,
    params: Any,
    /,
    *,
    weight: Weights = 1.0,
    eps: ArrayLike = DEFAULT_EPS,
    eps_mode: EpsMode = "relative",
    reference: Any = None,
    method: Method = "auto",
) -> Float[Array, ""]:
    """``sum_l weight_l |A_l - M_l|_*``: ``schatten_penalty`` with ``p = 1``.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([4.0, 1.0]))}
        >>> round(float(nuclear_penalty(describe(params), params, eps=0.0)), 3)
        5.0
    """
    return schatten_penalty(
        structure, params, p=1.0, weight=weight, eps=eps, eps_mode=eps_mode, reference=reference,
        method=method,
    )  # fmt: skip


@automatic
def log_det_penalty(
    structure: Structure,
    params: Any,
    /,
    *,
    weight: Weights = 1.0,
    eps: ArrayLike = DEFAULT_EPS,
    eps_mode: EpsMode = "relative",
    reference: Any = None,
) -> Float[Array, ""]:
    """``sum_l weight_l sum_i [log(sigma_i^2 + e^2) - log e^2]`` with ``sigma(A_l - M_l)``.

    The limit of ``2 / p`` times ``schatten_penalty`` for ``p -> 0``, close to the rank: a singular
    value far above ``e`` is pushed down by a force that does not grow with it.

    Args:
        eps: smoothing > 0.

    Twice differentiable in the weights.

    Raises:
        ValueError: an eps that is not positive.

    Cost: one SVD per matrix.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([3.0, 1.0]))}
        >>> value = log_det_penalty(describe(params), params, eps=1.0, eps_mode="absolute")
        >>> round(float(value), 4)  # log 10 + log 2
        2.9957
    """
    weights = _weights(check_structure(structure), weight)

    def one(a: Array, index: Array, eps: ArrayLike, weights: Array) -> Array:
        return log_det(a, eps=eps, eps_mode=eps_mode) * weights.astype(a.dtype)[index]

    moved = _moved(structure, params, reference)
    return total(by_shape(one, moved, structure.mesh, eps, weights))


@automatic
def stable_rank_penalty(
    structure: Structure,
    params: Any,
    /,
    *,
    weight: Weights = 1.0,
    reference: Any = None,
) -> Float[Array, ""]:
    """``sum_l weight_l |A_l - M_l|_F^2 / |A_l - M_l|^2``: invariant under scaling.

    Once differentiable where the largest singular values are simple.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.diag(jnp.array([2.0, 1.0]))}
        >>> round(float(stable_rank_penalty(describe(params), params)), 3)
        1.25
    """
    weights = _weights(check_structure(structure), weight)

    def rank(a: Array, index: Array, weights: Array) -> Array:
        return stable_rank(a) * weights.astype(a.dtype)[index]

    moved = _moved(structure, params, reference)
    return total(by_shape(rank, moved, structure.mesh, weights))


def rank_sparse_penalty(
    structure: Structure,
    params: Any,
    sample: Sample,
    /,
    *,
    p: ArrayLike = 0.5,
    gamma: ArrayLike = 1.0,
    weight: ArrayLike = 1.0,
    eps: ArrayLike = DEFAULT_EPS,
    form: Form = "plain",
    reference: Any = None,
    method: SingularValueMethod = "gram",
) -> Float[Array, ""]:
    """``weight * log(bound)`` with the rank-sparse bound (its dominant term) of the parameters.

    The logarithm makes the gradient independent of the bound's scale: of the size of the sample,
    and for a single p also of the margin and the radius.

    Args:
        sample: ``Sample.of_size(n, radius=...)``, or one with layer norms for the augmented form.
        p: Schatten exponent, > 0, one or one per layer (the smoothed power of ``p = 0`` is 0).
        gamma: the margin.
        form: ``"plain"``, ``"augmented"`` or ``"tail"``.
        method: how singular values are computed; ``"gram"`` is enough for ``eps`` above
            ``sqrt(machine eps)``.

    Returns:
        A scalar, once differentiable; ``-inf`` if every layer equals its reference.

    Raises:
        ValueError: as ``measure`` and ``rank_sparse``.

    Shared arguments: see ``rankjax.training``.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import Sample, describe
        >>> params = {"kernel": jnp.eye(8)}
        >>> known = Sample.of_size(64, radius=1.0)
        >>> value = rank_sparse_penalty(describe(params), params, known, p=2.0, eps=0.0)
        >>> round(float(value), 4)  # log sqrt(sqrt(8 * 16 * 8) / 64)
        -0.3466
    """
    check_structure(structure)
    measured = measure(structure, params, reference=reference, method=method)
    bound = rank_sparse(measured, sample, p=p, gamma=gamma, eps=eps, form=form)
    return jnp.asarray(weight, bound.value.dtype) * jnp.log(bound.value)


def _moved(structure: Structure, params: Any, reference: Any) -> tuple[Array, ...]:
    """``A_l - M_l``, half precision as float32, wide ones transposed.

    Their singular values are the same, and a matrix shares its program with the transposed one.
    """
    matrices = tuple(at_least_float32(a) for a in structure.matrices(params))
    if reference is not None:
        pairs = zip(matrices, structure.matrices(reference), strict=True)
        matrices = tuple(a - m.astype(a.dtype) for a, m in pairs)
    return tuple(tall(a) for a in matrices)


def _weights(structure: Structure, weight: Weights) -> Array:
    """One factor per leaf of ``structure.layers``."""
    paths = [layer.path for layer in structure.layers]
    if isinstance(weight, Mapping):
        named = matched(paths, weight, "weight")
        return jnp.stack([jnp.asarray(named.get(path, 1.0), float) for path in paths])
    return jnp.broadcast_to(jnp.asarray(weight, float), (len(paths),))


def total(values: tuple[Array, ...]) -> Array:
    """The sum of all entries, in the widest of the dtypes."""
    sums = [jnp.sum(value) for value in values]
    dtype = jnp.result_type(*sums)
    return sum((s.astype(dtype) for s in sums[1:]), sums[0].astype(dtype))
