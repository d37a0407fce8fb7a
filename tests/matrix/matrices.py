"""Matrices with a prescribed spectrum and the degenerate set that every test walks through."""

import jax.numpy as jnp
import numpy as np


def with_spectrum(seed, m, n, sigma):
    """``U diag(sigma) V^T`` with random orthonormal factors, float64."""
    rng = np.random.default_rng(seed)
    k = min(m, n)
    u = np.linalg.qr(rng.normal(size=(m, k)))[0]
    v = np.linalg.qr(rng.normal(size=(n, k)))[0]
    return jnp.asarray(u * np.asarray(sigma, float) @ v.T)


def relative_error(found, expected):
    """Frobenius norm of the difference over that of ``expected``, in float64."""
    return np.linalg.norm(np.asarray(found, float) - expected) / np.linalg.norm(expected)


SQUARE = {
    "zero": jnp.zeros((3, 3)),
    "identity": jnp.eye(3),
    "rank one": with_spectrum(0, 3, 3, [2, 0, 0]),
    "repeated": with_spectrum(1, 3, 3, [2, 2, 1]),
    "nearly repeated": with_spectrum(2, 3, 3, [2, 2 - 1e-9, 1]),
    "generic": with_spectrum(5, 3, 3, [3, 1.5, 0.2]),
}
# One batch: the whole square set, with a zero member, goes through one compiled function.
BATCH = jnp.stack(list(SQUARE.values()))
TALL = with_spectrum(3, 5, 3, [2, 2, 0])
WIDE = with_spectrum(4, 3, 5, [2, 1, 1])
ONE = jnp.array([[0.7]])
DEGENERATE = {"batch": BATCH, "tall": TALL[None], "wide": WIDE[None], "1x1": ONE[None]}


def numpy_power(a, p, e=0.0, rtol=1e-13):
    """The definition, matrix by matrix, in float64."""
    sigma = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    if e == 0:
        keep = sigma > rtol * sigma[..., :1]
        return np.sum(np.where(keep, np.where(keep, sigma, 1) ** p, 0), axis=-1)
    return np.sum((sigma**2 + e**2) ** (p / 2) - e**p, axis=-1)


def finite_difference(f, x, step=1e-3):
    """Fourth order central differences of a vector function, one column an entry of x."""
    flat = np.asarray(x, float).ravel()
    columns = []
    for i in range(flat.size):
        e = np.zeros_like(flat)
        e[i] = step
        f1, f_1, f2, f_2 = (
            np.asarray(f(jnp.asarray((flat + t * e).reshape(x.shape)))) for t in (1, -1, 2, -2)
        )
        columns.append((8 * (f1 - f_1) - (f2 - f_2)) / (12 * step))
    return np.stack(columns, axis=-1)
