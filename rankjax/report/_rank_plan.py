"""How far a network can be cut: one rank per leaf, at a share of the energy or under a budget."""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from rankjax.network.internal import ranks_within
from rankjax.report._analysis import Analysis
from rankjax.report._marchenko_pastur import noise_rank
from rankjax.report._row import Row
from rankjax.report._spectra import energy_rank

DEFAULT_ENERGY = 0.99


@dataclass(frozen=True)
class Cut:
    """What is recommended for one leaf.

    Attributes:
        path: of the leaf; of an update, the name of its pair.
        shape: ``(out, in)`` of its matrices.
        matrices: how many of them it holds; all get the same rank.
        rank: the recommended rank; the full one where a factorization would save nothing.
        noise_rank: the largest ``noise_rank`` of its matrices; of an update, its numerical rank.
        energy: the smallest share of a matrix's squared Frobenius norm that is kept.
        parameters: entries now.
        kept: entries of the factors, or of the leaf where it stays as it is.
        bytes_saved: in the type in which it is stored.
    """

    path: str
    shape: tuple[int, int]
    matrices: int
    rank: int
    noise_rank: int
    energy: float
    parameters: int
    kept: int
    bytes_saved: int


@dataclass(frozen=True)
class RankPlan:
    """The recommended ranks of a network.

    Attributes:
        cuts: one per leaf, in the order of the analysis.
    """

    cuts: tuple[Cut, ...]

    @property
    def ranks(self) -> dict[str, int]:
        """The ranks of the leaves that become smaller, for ``rankjax.training.factorize``."""
        return {cut.path: cut.rank for cut in self.cuts if cut.kept < cut.parameters}

    @property
    def parameters(self) -> tuple[int, int]:
        """Entries of all leaves, now and with the recommended ranks."""
        return sum(cut.parameters for cut in self.cuts), sum(cut.kept for cut in self.cuts)

    @property
    def bytes_saved(self) -> int:
        """Bytes saved in all leaves."""
        return sum(cut.bytes_saved for cut in self.cuts)

    def to_json(self) -> str:
        """``{path: rank}``, the form of PEFT's ``rank_pattern``."""
        return json.dumps(self.ranks, indent=1)


def plan_ranks(
    analysis: Analysis, *, energy: float | None = None, budget: float | None = None
) -> RankPlan:
    r"""Recommend a rank for every leaf that was measured.

    Args:
        analysis: from ``analyze``.
        energy: share of the squared Frobenius norm that every matrix keeps, in (0, 1];
            default 0.99.
        budget: in place of ``energy``: the share of the parameters of all measured matrices that
            may remain, in (0, 1]. Ranks are shared out where a parameter keeps most: one singular
            value more in a leaf of ``k`` matrices costs ``k (m + n)`` parameters and keeps
            ``sum sigma_i^2 / |A|_F^2`` over its matrices; those with the largest quotient are kept.

    Returns:
        A ``RankPlan``. Spectra say nothing of the accuracy of the network: measure it.

    Raises:
        ValueError: both arguments, one that is out of its range, or a budget below what rank 1
            everywhere needs.

    Not jitted, not differentiable. Cost: one sort of all singular values.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.report import analyze
        >>> found = analyze({"kernel": jnp.outer(jnp.arange(1.0, 31), jnp.arange(1.0, 21))})
        >>> plan = plan_ranks(found)
        >>> plan.ranks, plan.parameters
        ({'kernel': 1}, (600, 50))
    """
    check_shares(energy, budget)
    leaves: dict[str, list[Row]] = {}
    for row in analysis.rows:
        leaves.setdefault(row.leaf_path, []).append(row)
    groups = list(leaves.values())
    if budget is None:
        share = DEFAULT_ENERGY if energy is None else energy
        ranks = [
            max(1, *(energy_rank(row.singular_values, share) for row in rows)) for rows in groups
        ]
    else:
        ranks = _within(budget, groups)
    return RankPlan(tuple(map(_cut, groups, ranks)))


def check_shares(energy: float | None, budget: float | None) -> None:
    """Raise ``ValueError`` for both of them, or one outside of (0, 1]."""
    if energy is not None and budget is not None:
        raise ValueError("budget: give either energy or budget, not both")
    for name, share in (("energy", energy), ("budget", budget)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"{name}: got {share!r}, must be in (0, 1]")


def _cost(rows: list[Row], rank: int) -> int:
    """Parameters of a leaf cut to a rank; it stays as it is where factors would not be smaller."""
    return min(len(rows) * rank * sum(rows[0].shape), sum(row.parameters for row in rows))


def _within(budget: float, groups: list[list[Row]]) -> list[int]:
    def cost(ranks: list[int]) -> int:
        return sum(map(_cost, groups, ranks))

    total = sum(row.parameters for rows in groups for row in rows)
    return ranks_within(budget, [_worth(rows) for rows in groups], cost, total)


def _worth(rows: list[Row]) -> np.ndarray:
    """Energy per parameter of each further rank of a leaf, descending."""
    shares = [_energies(row) for row in rows]
    return np.mean(shares, axis=0) / sum(rows[0].shape)


def _energies(row: Row) -> np.ndarray:
    """Shares of the squared Frobenius norm; what is rounding only has none."""
    sigma = row.singular_values
    if row.numerical_rank == 0:
        return np.zeros(len(sigma))
    squares = np.where(np.arange(len(sigma)) < row.numerical_rank, sigma / sigma[0], 0.0) ** 2
    return squares / np.sum(squares)


def _cut(rows: list[Row], rank: int) -> Cut:
    first = rows[0]
    parameters, kept = sum(row.parameters for row in rows), _cost(rows, rank)
    if kept == parameters:
        rank = first.full_rank
    lost = max(float(np.sum(_energies(row)[rank:])) for row in rows)
    noise = [
        min(noise_rank(row.singular_values, *row.shape), row.numerical_rank)
        if row.given_rank is None
        else row.numerical_rank
        for row in rows
    ]
    return Cut(
        path=first.leaf_path,
        shape=first.shape,
        matrices=len(rows),
        rank=rank,
        noise_rank=max(noise),
        energy=1 - lost,
        parameters=parameters,
        kept=kept,
        bytes_saved=(parameters - kept) * jnp.dtype(first.dtype).itemsize,
    )
