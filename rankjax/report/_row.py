"""The numbers of one weight matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One matrix.

    Tuples run over ``Analysis.p``; those of ``*_at`` over 90, 95 and 99 % energy.

    Attributes:
        path: of its leaf, numbered where the leaf holds several matrices.
        leaf: shape of the leaf.
        shape: ``(out, in)``, as seen.
        dtype: as stored.
        spectral_norm: the largest singular value.
        frobenius_norm: root of the sum of squares.
        schatten_norm: ``(sum sigma_i^p)^(1/p)`` (a quasi-norm for p < 1).
        numerical_rank: singular values that are more than rounding.
        stable_rank: ``|A|_F^2 / |A|^2``.
        effective_rank: ``exp`` of the entropy of ``sigma / sum(sigma)``.
        soft_rank: ``sum (sigma_i / sigma_1)^p``.
        tail_exponent: exponent a of ``sigma_i ~ c i^-a``; NaN for too few values.
        tail_fit: R^2 of that fit.
        rank_at: the smallest rank that keeps the share of the energy.
        saved_at: parameters saved by a factorization of that rank.
        relative_change: ``|A - M|_F / |M|_F``, ``None`` without a reference.
        singular_values: descending, float64.
        given_rank: of an update of two factors (LoRA), the rank that they allow; else ``None``.
            ``numerical_rank`` is what it uses.
        scale: of an update, what its product is multiplied by; ``None`` if unknown (taken for 1).
        leaf_path: path of its leaf; of an update, the name of its pair.
    """

    path: str
    leaf: tuple[int, ...]
    shape: tuple[int, int]
    dtype: str
    spectral_norm: float
    frobenius_norm: float
    schatten_norm: tuple[float, ...]
    numerical_rank: int
    stable_rank: float
    effective_rank: float
    soft_rank: tuple[float, ...]
    tail_exponent: float
    tail_fit: float
    rank_at: tuple[int, ...]
    saved_at: tuple[int, ...]
    relative_change: float | None
    singular_values: np.ndarray
    given_rank: int | None = None
    scale: float | None = None
    leaf_path: str = ""

    @property
    def parameters(self) -> int:
        """Entries of the matrix, or of the two factors of an update."""
        m, n = self.shape
        return m * n if self.given_rank is None else self.given_rank * (m + n)

    @property
    def full_rank(self) -> int:
        """The largest rank that the shape allows, or the two factors of an update."""
        return min(self.shape) if self.given_rank is None else self.given_rank
