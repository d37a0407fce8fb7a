"""Small networks for the tests of the bounds, and independent NumPy readings of them."""

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.network import Cushions, Sample, describe, measure


def chain(sizes, seed=0, dtype=jnp.float64):
    """``{"a": {"kernel"}, ...}``: a chain of dense layers of these sizes."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return {
        chr(97 + i): {"kernel": jax.random.normal(key, (m, n), dtype) / m**0.5}
        for i, (key, m, n) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
    }


def apply(params, x):
    """A ReLU network without biases, by sorted names."""
    x = x.reshape(x.shape[0], -1)
    names = sorted(params)
    for name in names[:-1]:
        x = jax.nn.relu(x @ params[name]["kernel"])
    return x @ params[names[-1]]["kernel"]


def matrices(params):
    """The layers as (out, in), in float64 NumPy."""
    return [np.asarray(params[name]["kernel"], float).T for name in sorted(params)]


def structure_of(params):
    return describe(params, apply=apply, example=np.zeros((1, matrices(params)[0].shape[1])))


def measured(params, reference=None):
    return measure(structure_of(params), params, reference=reference)


def sample(layers, n=500, dimension=3):
    """A sample with made-up but complete facts."""
    rng = np.random.default_rng(1)
    one = jnp.full(layers, 0.3)
    cushions = Cushions(one, one / 2, jnp.asarray(1.5), jnp.asarray(2.0))
    return Sample(
        n=n,
        radius=2.0,
        frobenius=1.7 * n**0.5,
        margins=jnp.asarray(rng.uniform(0.5, 2, n)),
        patch_norms=jnp.asarray(rng.uniform(0.5, 1, (layers, n))),
        inf_radius=1.2,
        column_norm=1.1 * n**0.5,
        dimension=dimension,
        cushions=cushions,
    )


def exact_rank(width, rank, depth, seed=0):
    """A chain of square layers of exact rank with all its singular values 1."""
    rng = np.random.default_rng(seed)
    params = {}
    for i in range(depth):
        u, _ = np.linalg.qr(rng.normal(size=(width, rank)))
        v, _ = np.linalg.qr(rng.normal(size=(width, rank)))
        params[f"l{i:02d}"] = {"kernel": jnp.asarray(u @ v.T)}
    return params
