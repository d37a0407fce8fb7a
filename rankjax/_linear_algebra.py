"""LAPACK behind two guards: it cannot deadlock, and it cannot fail silently.

**Deadlock.** On the CPU backend several independent *batched* decompositions inside one compiled
function may wait for each other for ever (measured with jaxlib 0.10.2 on two cores: twelve
``eigh`` or ``cholesky`` of ``(8, 64, 64)`` hang every time). Regularising the stacked weights of a
network is exactly that pattern. Here a batch is always walked through by a loop, one matrix a
call, on CPU, and a ``vmap`` from outside only ever adds to that batch (``custom_vmap``): no batched
LAPACK call is ever emitted there. Accelerators get the batched call for small matrices.

**Failure.** A matrix with an infinite or NaN entry, or one on which LAPACK gives up, has NaN
everywhere in its result; the other matrices of the batch are not touched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

HIGHEST = jax.lax.Precision.HIGHEST
#: From this size on, accelerators too decompose a batch one matrix after another: on an H100 two
#: ``eigh`` of 1024 x 1024 took 97 ms as a batch and 23 ms in turn (eight of 256 x 256: 3 and 16).
ONE_BY_ONE = 1024


def matmul(x: Array, y: Array) -> Array:
    """A product in full precision: TF32 would lose what the smoothing is there to keep."""
    return jnp.matmul(x, y, precision=HIGHEST)


def largest(
    x: Array, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False
) -> Array:
    """The largest entry, 0 if there is none, and NaN if one is NaN.

    On CPUs, XLA drops NaN from ``max`` along a short last axis of a large array (jax 0.10.2).
    """
    if 0 in x.shape:
        return jnp.max(x, axis=axis, keepdims=keepdims, initial=0)
    top = jnp.max(x, axis=axis, keepdims=keepdims)
    lost = jnp.any(jnp.isnan(x), axis=axis, keepdims=keepdims)
    return jnp.where(lost, jnp.asarray(jnp.nan, x.dtype), top)


def transpose(x: Array) -> Array:
    """Swaps the last two axes."""
    return jnp.swapaxes(x, -1, -2)


def identity(x: Array) -> Array:
    """The identity of the size of the square ``x``, with as many axes (those of a batch are 1)."""
    n = x.shape[-1]
    return jnp.eye(n, dtype=x.dtype).reshape((1,) * (x.ndim - 2) + (n, n))


def cores() -> int:
    """How many processor cores this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return len(known(0)) if known else os.cpu_count() or 1


class SVD(NamedTuple):
    """``a = u @ diag(s) @ vt`` with ``k = min(m, n)`` columns."""

    u: Array
    s: Array
    vt: Array


def _guarded(single: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Makes ``single`` (any batch shape) NaN for a matrix that is not finite."""

    def guarded(a: Array) -> Any:
        finite = jnp.all(jnp.isfinite(a), axis=(-2, -1))
        result = single(jnp.where(finite[..., None, None], a, 0))

        def mask(x: Array) -> Array:
            return jnp.where(
                finite.reshape(finite.shape + (1,) * (x.ndim - finite.ndim)), x, jnp.nan
            )

        return jax.tree.map(mask, result)

    return guarded


def _side_by_side(single: Callable[[Array], Any], flat: Array) -> Any:
    """``single`` of each matrix of ``(n, m, k)``: a few unbatched calls at a time, in a loop.

    The calls inside one pass of the loop are independent, so the runtime gives each a core; unlike
    a batched call, none of them waits for another.
    """
    count = flat.shape[0]
    width = min(count, cores(), 8)
    passes = -(-count // width)
    padding = jnp.broadcast_to(flat[-1:], (passes * width - count, *flat.shape[1:]))
    chunks = jnp.concatenate([flat, padding]).reshape(passes, width, *flat.shape[1:])

    def one_pass(chunk: Array) -> Any:
        results = [single(chunk[i]) for i in range(width)]
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    result = jax.lax.map(one_pass, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], result)


def _never_batched(single: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """``single`` over any batch shape, without a batched call on CPU and under any ``vmap``."""

    def run(a: Array) -> Any:
        batch = a.shape[:-2]
        if math.prod(batch) == 1:
            flat = single(a.reshape(a.shape[-2:]))
            return jax.tree.map(lambda x: x.reshape(batch + x.shape), flat)
        flat = a.reshape((-1, *a.shape[-2:]))
        large = min(a.shape[-2:]) >= ONE_BY_ONE
        elsewhere = partial(jax.lax.map, single) if large else jax.vmap(single)
        result = jax.lax.platform_dependent(
            flat, cpu=partial(_side_by_side, single), default=elsewhere
        )
        return jax.tree.map(lambda x: x.reshape(batch + x.shape[1:]), result)

    safe = custom_vmap(run)

    @safe.def_vmap
    def _rule(axis_size: int, in_batched: list[bool], a: Array) -> tuple[Any, Any]:
        del axis_size
        result = safe(a)
        return result, jax.tree.map(lambda _: in_batched[0], result)

    return _guarded(safe)


@custom_vmap
def anywhere(where: Array) -> Array:
    """``any``, also over the axes of a ``vmap``: a ``lax.cond`` on it stays one, not a choice."""
    return jnp.any(where)


@anywhere.def_vmap
def _anywhere(axis_size: int, in_batched: list[bool], where: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return anywhere(where), False


_svd = _never_batched(lambda a: SVD(*jnp.linalg.svd(a, full_matrices=False)))
_values = _never_batched(lambda a: jnp.linalg.svd(a, compute_uv=False))
_eigvalsh = _never_batched(lambda a: jnp.linalg.eigvalsh(a, symmetrize_input=False))
_eigh = _never_batched(lambda a: tuple(jnp.linalg.eigh(a, symmetrize_input=False)))


def _empty(a: Array) -> bool:
    return 0 in a.shape


@jax.custom_jvp
def svd(a: Array) -> SVD:
    """Reduced singular value decomposition of ``(..., m, n)``.

    Its own derivative (needed only from the third derivative of a spectral function on, or the
    second of single singular values) is the textbook one: infinite or NaN at repeated or zero
    singular values, where singular vectors have no derivative.
    """
    *batch, m, n = a.shape
    if _empty(a):
        k = min(m, n)
        return SVD(
            jnp.zeros((*batch, m, k), a.dtype),
            jnp.zeros((*batch, k), a.dtype),
            jnp.zeros((*batch, k, n), a.dtype),
        )
    return _svd(a)


@svd.defjvp
def _svd_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[SVD, SVD]:
    (a,), (da,) = primals, tangents
    out = svd(a)
    u, s, vt = out
    ut, v = transpose(u), transpose(vt)
    dp = matmul(matmul(ut, da), v)
    si, sj = s[..., :, None], s[..., None, :]
    diagonal = jnp.eye(s.shape[-1], dtype=bool)
    gap = jnp.where(diagonal, 1, (sj - si) * (sj + si))
    f = jnp.where(diagonal, 0, 1 / gap)
    dpt = transpose(dp)
    du = matmul(u, f * (dp * sj + si * dpt))
    dv = matmul(v, f * (si * dp + dpt * sj))
    m, n = a.shape[-2:]
    if m > n:
        dav = matmul(da, v)
        du = du + (dav - matmul(u, matmul(ut, dav))) / sj
    if n > m:
        dau = matmul(transpose(da), u)
        dv = dv + (dau - matmul(v, matmul(vt, dau))) / sj
    return out, SVD(du, jnp.diagonal(dp, axis1=-2, axis2=-1), transpose(dv))


def svdvals(a: Array) -> Array:
    """Singular values alone, ``(..., k)`` descending; not differentiable (callers bring a rule)."""
    if _empty(a):
        return jnp.zeros((*a.shape[:-2], min(a.shape[-2:])), a.dtype)
    return _values(a)


def eigh(a: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues and the eigenvectors of symmetric ``(..., n, n)``; no derivative."""
    if _empty(a):
        return jnp.zeros(a.shape[:-1], a.dtype), jnp.zeros_like(a)
    return _eigh(a)


def eigvalsh(a: Array) -> Array:
    """Ascending eigenvalues alone of symmetric ``(..., n, n)``; no derivative."""
    if _empty(a):
        return jnp.zeros(a.shape[:-1], a.dtype)
    return _eigvalsh(a)


def _inverse_root(a: Array) -> Array:
    root = jax.lax.linalg.cholesky(a, symmetrize_input=False)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    return jax.lax.linalg.triangular_solve(root, eye, left_side=True, lower=True)


_root = _never_batched(_inverse_root)


def inverse_root(a: Array) -> Array:
    """Lower triangular ``K`` with ``K^T K = a^-1`` of positive definite ``a``; no derivative.

    By Cholesky. NaN where ``a`` is not positive definite to working precision.
    """
    return jnp.zeros_like(a) if _empty(a) else _root(a)


_q = _never_batched(lambda a: jnp.linalg.qr(a)[0])
_r = _never_batched(lambda a: jnp.linalg.qr(a, mode="r"))


def triangle(a: Array) -> Array:
    """``R (..., n, n)`` of ``a = Q R`` for a tall ``a``, which has its singular values; no rule."""
    return _r(a)


def orthonormal(a: Array) -> Array:
    """An orthonormal basis ``(..., m, n)`` of the range of a tall ``a``; no derivative."""
    return _q(a)
