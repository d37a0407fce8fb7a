"""A forward function, unmodified, on weights that stay two thin factors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rankjax.network.internal import Skeleton, path_string, split_arrays
from rankjax.training._factorize import Factors, check_factors
from rankjax.training._pair import RANK, Pair
from rankjax.training._pair_walk import Walker


def lowrank(apply: Callable[..., Any]) -> Callable[..., Any]:
    """``apply`` for a tree from ``factorize``: each factorized weight is two products, not one.

    The function returned takes what ``apply`` takes, with ``Factors`` in place of weight leaves. It
    traces ``apply`` as for the dense weights and runs the program with the factors instead, so a
    product ``A x`` becomes ``left (right x)``, and A itself is never made::

        lowrank(apply)(factorized, x) = apply(densify(structure, factorized), x)

    up to rounding, with ``r (out + in)`` instead of ``out in`` multiplications per vector. It
    works for products over any axes (dense layers, attention, experts, ``ragged_dot``), forward
    and transposed (tied tables), convolutions (any stride, padding, dilation and groups), lookups,
    stacked layers in ``scan``, and inside ``jit``, ``checkpoint``, ``cond`` and ``while_loop``;
    weights may be cast, transposed, reshaped, sliced, concatenated and scaled on the way. Where a
    weight meets anything else, such as a sum with another array or a function with a derivative
    rule of its own, it is multiplied out there, and a warning names the leaf and the operation.

    Args:
        apply: the forward function; it may take more arguments, keyword arguments, and options that
            are no arrays. It must be traceable, as for ``jax.jit``.

    Returns:
        The function, compiled once for each combination of shapes and options, as by ``jax.jit``
        (keep it; each call of ``lowrank`` compiles anew). Python numbers are options, too: pass
        those that change as arrays. It can be jitted, differentiated (to train the factors),
        vmapped, scanned, rematerialized and sharded like any other.

    Raises:
        ValueError: ``apply`` is no function; when called, factors that do not fit each other, or
            an option that is not hashable.

    Half precision: the result of the first product is rounded to the weights' type. Under
    ``jit`` the name of no inner function is kept where factors enter it.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax import describe
        >>> params = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
        >>> from rankjax.training import factorize
        >>> small = factorize(describe(params), params, ranks=1)
        >>> apply = lambda params, x: jnp.tanh(x @ params["kernel"] / 60)
        >>> run = lowrank(apply)
        >>> run(small, jnp.ones((5, 30))).shape
        (5, 20)
        >>> round(float(run(small, jnp.ones((5, 30)))[0, 0]), 4)
        0.4621
    """
    if not callable(apply):
        raise ValueError(f"apply: got {type(apply).__name__}, must be a function of the parameters")
    found: dict[tuple[str, str], None] = {}
    told: set[tuple[str, str]] = set()

    @functools.partial(jax.jit, static_argnums=0)
    def run(skeleton: Skeleton, arrays: list[Any]) -> Any:
        args, kwargs = skeleton.fill(arrays)
        return _walk(apply, args, kwargs, lambda path, what: found.setdefault((path, what)))

    @functools.wraps(apply, assigned=("__doc__", "__name__", "__module__"), updated=())
    def factored(*args: Any, **kwargs: Any) -> Any:
        arrays, skeleton = split_arrays((args, kwargs))
        try:
            hash(skeleton)
        except TypeError as error:
            raise ValueError(f"lowrank: options must be hashable, got an {error}") from error
        result = run(skeleton, arrays)
        for path, what in [key for key in found if key not in told]:
            told.add((path, what))
            warnings.warn(
                f"lowrank: {path!r} is multiplied out where it meets {what!r}, which has no rule "
                "for factors",
                stacklevel=2,
            )
        return result

    return factored


def _walk(
    apply: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    report: Callable[[str, str], None],
) -> Any:
    flat, form = jax.tree_util.tree_flatten_with_path(
        (args, kwargs), is_leaf=lambda node: isinstance(node, Factors)
    )
    # The path of a leaf within its argument.
    paths = [path_string(path[2:]) for path, _ in flat]
    values = [
        _pair(leaf, path) if isinstance(leaf, Factors) else leaf
        for path, (_, leaf) in zip(paths, flat, strict=True)
    ]
    traced = [i for i, value in enumerate(values) if hasattr(value, "shape")]

    def flat_apply(*arrays: Any) -> Any:
        leaves = list(values)
        for i, array in zip(traced, arrays, strict=True):
            leaves[i] = array
        args, kwargs = jax.tree.unflatten(form, leaves)
        return apply(*args, **kwargs)

    shapes = [
        jax.ShapeDtypeStruct(v.shape, v.left.dtype) if isinstance(v, Pair) else v
        for v in (values[i] for i in traced)
    ]
    program, outputs = jax.make_jaxpr(flat_apply, return_shape=True)(*shapes)
    walker = Walker(report)
    results = walker.closed(program, [values[i] for i in traced])
    return jax.tree.unflatten(
        jax.tree.structure(outputs), [walker.whole(value, "the output") for value in results]
    )


def _pair(factors: Factors, path: str) -> Pair:
    """The factors with the axes of the leaf as labels."""
    check_factors(factors, path)
    view, shape, groups = factors.view, factors.shape, factors.groups
    dtype = jnp.promote_types(factors.left.dtype, factors.right.dtype)
    left, right = factors.left.astype(dtype), factors.right.astype(dtype)
    axes, sizes = range(len(shape)), list(shape)
    dims: list[tuple[int, ...]] = [(axis,) for axis in axes]
    first_in, first_out = min(view.in_), min(view.out)
    left_labels = [RANK if a == first_in else a for a in axes if a not in view.in_ or a == first_in]
    right_labels = [
        RANK if a == first_out else a for a in axes if a not in view.out or a == first_out
    ]
    if groups > 1:
        # The output axis is (groups, outputs of a group) in ``left``, (groups, rank) in ``right``.
        group = len(sizes)
        sizes[first_out] //= groups
        sizes.append(groups)
        dims[first_out] = (group, first_out)
        left, left_labels = _grouped(left, left_labels, first_out, group, groups)
        right, right_labels = _grouped(right, right_labels, RANK, group, groups)
    return Pair(
        left, right, tuple(left_labels), tuple(right_labels), tuple(dims), tuple(sizes), path
    )


def _grouped(factor: Any, labels: list[int], label: int, group: int, groups: int):
    axis = labels.index(label)
    shape = list(factor.shape)
    shape[axis : axis + 1] = [groups, shape[axis] // groups]
    return factor.reshape(shape), [*labels[:axis], group, *labels[axis:]]
