"""How many singular values stand out of noise: the law of Marchenko and Pastur."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

#: The 99.9 % quantile of the Tracy-Widom law of real matrices. The noise level is estimated, too:
#: together noise passes in about one of a hundred matrices from 30 rows on (a test simulates it).
_TRACY_WIDOM_999 = 3.2724
_POINTS = 20_001


def noise_rank(sigma: np.ndarray, out: int, in_: int) -> int:
    r"""The number of singular values above what independent noise of the same size would have.

    The noise level is read off the median singular value (Gavish and Donoho 2014), so it assumes
    that at least half of the spectrum is noise. The threshold is one that the largest singular
    value of such noise exceeds in one of about a hundred matrices of 30 rows or more (in more of
    the smaller ones). Trained weights are no such noise: read the number as "at least this many
    directions differ from an initialization".

    Args:
        sigma: all singular values, descending.
        out: rows of the matrix.
        in_: columns of the matrix.

    Returns:
        The count; all values that are not 0 where the median is 0.

    Cost: one integral of the law per shape.

    Source: Marchenko and Pastur 1967; Johnstone, Annals of Statistics 2001; Gavish and Donoho,
    IEEE Transactions on Information Theory 2014.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(200, 300))
        >>> spikes = noise + 60 * np.eye(200, 300, k=0) * (np.arange(200) < 3)[:, None]
        >>> [noise_rank(np.linalg.svd(a, compute_uv=False), 200, 300) for a in (noise, spikes)]
        [0, 3]
    """
    m, n = min(out, in_), max(out, in_)
    if m < 2:
        return int(np.count_nonzero(sigma))
    variance = float(np.median(sigma)) ** 2 / (n * _median(m / n))
    root = math.sqrt(n - 1) + math.sqrt(m)
    width = root * (1 / math.sqrt(n - 1) + 1 / math.sqrt(m)) ** (1 / 3)
    return int(np.sum(sigma**2 > variance * (root**2 + _TRACY_WIDOM_999 * width)))


@cache
def _median(ratio: float) -> float:
    """The median of the Marchenko-Pastur law of variance 1, for ``ratio = m / n <= 1``."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # x = center - half cos(t) takes the roots out of the density at both ends.
    t = np.linspace(0, math.pi, _POINTS)[1:-1]
    x = (low + high) / 2 - (high - low) / 2 * np.cos(t)
    mass = np.cumsum(np.sin(t) ** 2 / x)
    return float(np.interp(mass[-1] / 2, mass, x))
