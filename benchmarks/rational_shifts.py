"""The shifts of the rational engine, and how exact its fit is without rounding.

    python benchmarks/rational_shifts.py

Searches (Nelder-Mead) for shifts whose largest gradient error, over the spectrum and over p in
(0, 2], is smallest, and prints them beside those that ``rankjax.matrix.engines`` holds, in units
of the least ``e^2`` of the fit. Then, for the shifts in use: the largest and the root mean square
error of the gradient at one singular value, and the largest of the value, relative, by p.
Nothing is timed; some ten seconds.
"""

from __future__ import annotations

import jax
import numpy as np
from scipy.optimize import minimize

from rankjax import matrix as rm
from rankjax.matrix.engines import _rational as rational

P = np.concatenate([[0.02, 0.1, 0.2, 0.35], np.linspace(0.5, 1.98, 12)])


def worst(shifts):
    return max(np.max(np.abs(rational.fit(p, shifts)[1])) for p in P)


def search():
    """The first stays 0 (free, it goes to a tenth of ``LOW`` or less)."""

    def shifts(logarithms):
        return rational.LOW * np.concatenate([[0], np.exp(logarithms)])

    def objective(logarithms):
        return np.log(worst(shifts(logarithms)))

    count = len(rational.SHIFTS) - 1
    starts = [np.log(np.geomspace(1.7, end, count)) for end in (1000, 3000, 8000)]
    options = {"maxiter": 1500, "xatol": 1e-4, "fatol": 1e-4}
    found = [minimize(objective, x, method="Nelder-Mead", options=options) for x in starts]
    return shifts(min(found, key=lambda result: result.fun).x)


def value_error(p, eps):
    """The largest relative error of the value of a matrix that has only one singular value.

    A large one beside it makes the unit; what it adds is taken away on both sides.
    """
    alone = rm.schatten_power(np.diag([1.0, 0.0]), p=p, eps=eps, method="svd")
    errors = []
    for s in np.geomspace(eps / 10, 1, 60):
        a = np.diag([1.0] + 200 * [s])
        found, exact = (
            rm.schatten_power(a, p=p, eps=eps, method=method) for method in ("rational", "svd")
        )
        errors.append(abs(found - exact) / (exact - alone))
    return max(errors)


def main():
    jax.config.update("jax_enable_x64", True)
    for name, shifts in (("found", search()), ("in use", rational.SHIFTS)):
        numbers = ", ".join(f"{x:.4g}" for x in shifts / rational.LOW)
        print(f"{name}: {numbers}; largest error {worst(shifts):.2e}")
    print("\n| p | gradient, largest | gradient, rms | value, eps 0.01 | value, eps 0.2 |")
    print("|---|---|---|---|---|")
    for p in (0.1, 0.5, 0.75, 1.0, 1.25, 1.5, 1.9):
        error = rational.fit(p, rational.SHIFTS)[1]
        value = " | ".join(f"{value_error(p, eps):.1e}" for eps in (0.01, 0.2))
        print(f"| {p} | {np.max(np.abs(error)):.1e} | {np.sqrt(np.mean(error**2)):.1e} | {value} |")


if __name__ == "__main__":
    main()
