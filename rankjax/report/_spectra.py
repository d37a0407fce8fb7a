"""Singular values of many matrices of many shapes, once: NumPy, without anything to compile.

Under ``jit`` every new shape costs a compilation, and a decomposition run by XLA on CPU is no
faster. float32 and narrower weights: eigenvalues of the float64 Gram matrix, which resolve
``sigma_i`` down to 1e-8 ``sigma_1``, below what float32 entries themselves resolve. float64
weights: an SVD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from rankjax._linear_algebra import cores

_BLOCK = 2**22  # entries that are copied to float64 at a time
_FEWEST_POINTS = 8  # of a fit


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one matrix (or of its difference from a reference), in float64.

    Attributes:
        sigma: descending.
        noise: what rounding of the stored entries can add to a singular value of a difference, at
            most: ``eps / 2 (|A|_F + |M|_F)``, by Weyl's inequality; 0 without a reference.
        reference_norm: ``|M|_F``, ``None`` without a reference.
    """

    sigma: np.ndarray
    noise: float = 0.0
    reference_norm: float | None = None


def spectrum_of(
    a: np.ndarray,
    reference: np.ndarray | None = None,
    stored: tuple[np.dtype, np.dtype] | None = None,
) -> Spectrum:
    """The spectrum of ``a``, or of ``a - reference``, both ``(out, in)`` and finite.

    Args:
        a: the matrix.
        reference: what is subtracted.
        stored: the precisions of both, if not their own.

    Raises:
        numpy.linalg.LinAlgError: if LAPACK gives up.

    Cost: ``m n k`` for the Gram matrix and ``4/3 k^3`` for its eigenvalues, ``k = min(m, n)``.
    """
    if a.shape[0] < a.shape[1]:
        a, reference = a.T, None if reference is None else reference.T
    exact = a.dtype.itemsize >= 8
    size = a.shape[1]
    gram = np.zeros((size, size))
    squares = np.zeros(2)
    blocks = []
    for x, m in _blocks(a, reference):
        if m is not None:
            squares += np.vdot(x, x), np.vdot(m, m)
            x = x - m
        if exact:
            blocks.append(x)
        else:
            gram += x.T @ x
    if exact:
        sigma = np.linalg.svd(np.concatenate(blocks), compute_uv=False)
    else:
        sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
    if reference is None:
        return Spectrum(sigma)
    own, other = np.sqrt(squares)
    mine, theirs = stored or (a.dtype, reference.dtype)
    noise = 0.5 * (_eps(mine) * own + _eps(theirs) * other)
    return Spectrum(sigma, float(noise), float(other))


def _eps(dtype: np.dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def _blocks(
    a: np.ndarray, reference: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    rows = max(1, _BLOCK // a.shape[1])
    for start in range(0, a.shape[0], rows):
        part = slice(start, start + rows)
        m = None if reference is None else in_float64(reference[part])
        yield in_float64(a[part]), m


def in_float64(a: np.ndarray) -> np.ndarray:
    """A copy. Half precision by way of float32, which is four times as fast."""
    return (a.astype(np.float32) if a.dtype.itemsize < 4 else a).astype(np.float64)


def spectra_of(
    calls: Sequence[Callable[[], Spectrum]], done: Callable[[int], None]
) -> list[Spectrum | str]:
    """Spectra, one core per matrix; for one that fails, the reason. ``done(i)`` after the i-th."""

    def run(i: int) -> Spectrum | str:
        try:
            return calls[i]()
        except np.linalg.LinAlgError as error:
            return f"LAPACK: {error}"
        except MemoryError:
            return "too large for this machine's memory"
        finally:
            done(i)

    with _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(len(calls))))


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """A BLAS of one thread and as many matrices at a time as there are cores.

    Threads of OpenBLAS spin while they wait for each other, which beside any other work costs more
    than they gain; matrices need not wait for each other.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield 1
        return
    with threadpool_limits(1, "blas"):
        yield min(cores(), 16)


@dataclass(frozen=True)
class Measures:
    """Norms and ranks of one spectrum; tuples run over the exponents p."""

    spectral_norm: float
    frobenius_norm: float
    schatten_norm: tuple[float, ...]
    numerical_rank: int
    stable_rank: float
    effective_rank: float
    soft_rank: tuple[float, ...]


def measures(one: Spectrum, size: int, eps: float, p: Sequence[float]) -> Measures:
    """The norms and ranks of ``rankjax.matrix``, in NumPy: there is nothing to compile.

    Args:
        one: singular values.
        size: ``max(m, n)`` of the matrix.
        eps: machine epsilon of its precision, at most that of float32.
        p: exponents > 0.
    """
    sigma = one.sigma
    top = float(sigma[0])
    kept = sigma[sigma > max(size * eps * top, one.noise)]
    if top == 0:
        zeros = (0.0,) * len(p)
        return Measures(0.0, 0.0, zeros, 0, 0.0, 0.0, zeros)
    unit = sigma / top
    stable = float(np.sum(unit**2))
    share = unit[unit > 0] / np.sum(unit)
    # At the scale of sigma_1: powers of single values neither overflow nor vanish.
    soft = [float(np.sum((kept / top) ** x)) for x in p]
    with np.errstate(over="ignore"):
        roots = [
            top * float(np.exp(np.log(s) / x)) if s else 0.0 for s, x in zip(soft, p, strict=True)
        ]
    return Measures(
        spectral_norm=top,
        frobenius_norm=top * math.sqrt(stable),
        schatten_norm=tuple(roots),
        numerical_rank=len(kept),
        stable_rank=stable,
        effective_rank=float(np.exp(-np.sum(share * np.log(share)))),
        soft_rank=tuple(soft),
    )


def energy_rank(sigma: np.ndarray, share: float) -> int:
    """The smallest k with ``sum_{i <= k} sigma_i^2 >= share sum_i sigma_i^2``; 0 for zero.

    Example:
        >>> energy_rank(np.array([3.0, 1.0, 0.0]), 0.9)
        1
    """
    if len(sigma) == 0 or sigma[0] == 0:
        return 0
    energy = np.cumsum((sigma / sigma[0]) ** 2)
    # Rounding of the sum may not ask for one value more.
    return int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12))) + 1


def saved_parameters(out: int, in_: int, rank: int) -> int:
    """``mn - k (m + n)``, what a factorization of rank k saves; 0 where it saves nothing."""
    return max(0, out * in_ - rank * (out + in_))


def tail_range(rank: int) -> tuple[int, int]:
    """Indices (from 1) of the tail: from a tenth to a half of the numerical rank.

    Not the few largest singular values, and not the smaller half, where the spectrum of any square
    matrix of noise bends down to 0.
    """
    return max(1, math.ceil(rank / 10)), rank // 2


def tail_exponent(sigma: np.ndarray, rank: int) -> tuple[float, float]:
    """The exponent a of ``sigma_i ~ c i^-a`` in the tail, and the R^2 of its fit.

    Least squares of ``log sigma_i`` on ``log i`` over ``tail_range``.

    Args:
        sigma: singular values, descending.
        rank: the numerical rank.

    Returns:
        ``(a, R^2)``; NaN for fewer than 8 values. A straight line has R^2 = 1; where it is clearly
        lower there is no power law and the exponent means little.

    Example:
        >>> a, fit = tail_exponent(1 / np.arange(1, 101) ** 0.7, 100)
        >>> round(a, 6), round(fit, 6)
        (0.7, 1.0)
    """
    first, last = tail_range(rank)
    if last - first + 1 < _FEWEST_POINTS:
        return math.nan, math.nan
    x = np.log(np.arange(first, last + 1))
    y = np.log(sigma[first - 1 : last])
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    spread = y @ y
    # A constant spectrum lies on a straight line, too.
    left = np.sum((y - slope * x) ** 2)
    fit = 1 - left / spread if spread > 1e-24 * len(y) else 1.0
    return float(-slope) + 0.0, float(fit)
