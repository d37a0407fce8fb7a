"""The certificate of compressed networks on a distribution whose true error is known exactly."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.bounds import kl_inverse
from rankjax.certificates.file import Schedule, compress
from rankjax.certificates.file._errors import ErrorCounter
from rankjax.network import describe
from rankjax.network.internal import split_arrays

DELTA = 0.1
INPUTS = np.array(list(itertools.product((-1.0, 1.0), repeat=6)), np.float32)


def apply(params, x):
    return jnp.tanh(x @ params["first"]["kernel"]) @ params["last"]["kernel"]


def random_params(rng):
    return {
        "first": {"kernel": jnp.asarray(rng.integers(-1, 2, (6, 4)), jnp.float32)},
        "last": {"kernel": jnp.asarray(rng.integers(-1, 2, (4, 2)), jnp.float32)},
    }


def draw(rng, noise, n):
    """A distribution on 64 inputs (probabilities, chance that the label is 1), and a sample."""
    probability = rng.dirichlet(np.full(len(INPUTS), 0.5))
    one = np.where(INPUTS[:, 0] * INPUTS[:, 1] > 0, 1 - noise, noise)
    index = rng.choice(len(INPUTS), size=n, p=probability)
    y = (rng.random(n) < one[index]).astype(int)
    return probability, one, INPUTS[index], y


def true_error(network, probability, one):
    logits = np.array(apply(network.params, INPUTS))
    wrong = np.where(logits[:, 1] > logits[:, 0], 1 - one, one)
    # a tie is an error whatever the label
    wrong = np.where(logits[:, 1] == logits[:, 0], 1.0, wrong)
    return float(np.sum(probability * wrong))


def test_the_best_of_many_networks_is_covered_and_would_not_be_without_its_code_length():
    rng = np.random.default_rng(0)
    structure = describe(random_params(rng))
    networks = [compress(structure, random_params(rng), exponent=0) for _ in range(60)]
    excess, without = [], []
    for _ in range(20):
        # Labels are coin tosses: whatever looks good on the sample looks good by chance.
        probability, one, x, y = draw(rng, noise=0.5, n=50)
        arrays, skeleton = split_arrays(networks[0].params)
        count = ErrorCounter(apply, arrays, skeleton, x, y, batch_size=50)
        errors = [count(split_arrays(network.params)[0]) for network in networks]
        best = networks[int(np.argmin(errors))]
        risk = true_error(best, probability, one)
        excess.append(best.certificate(apply, x, y, delta=DELTA).value - risk)
        naive = float(kl_inverse(min(errors) / len(y), math.log(1 / DELTA) / len(y)))
        without.append(naive - risk)
    assert np.mean(np.array(excess) < 0) <= DELTA
    assert np.mean(np.array(without) < 0) > 2 * DELTA


def test_networks_trained_for_their_certificate_are_covered():
    excess = []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        probability, one, x, y = draw(rng, noise=0.1, n=500)
        params = jax.tree.map(lambda a, rng=rng: a * rng.uniform(0.5, 1), random_params(rng))
        with jax.numpy_dtype_promotion("standard"):  # Adam itself mixes integers and floats
            network = compress(
                describe(params), params, exponent=0, apply=apply, x=x, y=y, delta=DELTA,
                schedule=Schedule(epochs=8, batch_size=50),
            )  # fmt: skip
        certificate = network.certificate(apply, x, y, delta=DELTA)
        excess.append(certificate.value - true_error(network, probability, one))
    assert min(excess) >= 0
