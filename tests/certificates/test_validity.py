"""The guarantee holds on a known distribution, for the network that the sample itself chose."""

import jax.numpy as jnp
import numpy as np

from rankjax.bounds import kl_inverse
from rankjax.certificates import certify
from rankjax.network import describe

# Sixteen inputs; the label of each is random with a probability of its own, so the true error of
# any network is a finite sum.
RNG = np.random.default_rng(7)
INPUTS = RNG.normal(size=(16, 2))
INPUTS /= np.linalg.norm(INPUTS, axis=1, keepdims=True)
ONE = np.clip(0.5 + 0.6 * INPUTS[:, 0], 0.05, 0.95)  # probability of label 1


def apply(params, x):
    return x @ params["kernel"]


def network(angle):
    w = np.array([np.cos(angle), np.sin(angle)])
    return {"kernel": jnp.asarray(np.stack([-w, w], axis=1))}


def true_error(params):
    logits = np.asarray(apply(params, INPUTS))
    margin = logits[:, 1] - logits[:, 0]
    return float(np.mean(np.where(margin > 0, 1 - ONE, np.where(margin < 0, ONE, 1.0))))


def draw(rng, n):
    index = rng.integers(16, size=n)
    return INPUTS[index], (rng.random(n) < ONE[index]).astype(int)


def chosen_by(x, y):
    """The direction with the fewest errors on the sample: as adaptive as it gets."""
    angles = np.linspace(0, 2 * np.pi, 181)[:-1]
    margins = x @ np.stack([np.cos(angles), np.sin(angles)]) * np.where(y == 1, 1, -1)[:, None]
    return network(angles[np.argmin((margins <= 0).mean(axis=0))])


STRUCTURE = describe(network(0.0), apply=apply, example=INPUTS)


def test_certificates_of_adaptively_chosen_networks():
    rng = np.random.default_rng(11)
    draws, delta = 150, 0.1
    failures, above = 0, []
    for _ in range(draws):
        x, y = draw(rng, 400)
        params = chosen_by(x, y)
        value = certify(STRUCTURE, params, x, y, apply=apply, delta=delta).value
        failures += value < true_error(params)
        above.append(value - true_error(params))
    # At most a delta share in expectation; in truth none, since the bound is far from tight.
    assert failures <= delta * draws
    assert 0 < np.mean(above) < 0.25  # it says something: well below the trivial 1


def test_memorising_noise_is_not_certified():
    # Labels are coin flips, each input has a coordinate of its own, and the network learns the
    # majority label of each: its true error is 1/2 whatever the sample says.
    rng = np.random.default_rng(13)
    draws, n, delta = 40, 64, 0.1
    inputs = np.eye(16)
    structure = describe({"kernel": np.zeros((16, 2))}, apply=apply, example=inputs)
    broken = 0
    for draw in range(draws):
        index, y = rng.integers(16, size=n), rng.integers(2, size=n)
        votes = np.bincount(index, weights=2 * y - 1, minlength=16) + 0.1
        params = {"kernel": jnp.asarray(np.stack([-votes, votes], axis=1))}
        wrong = np.mean(votes[index] * (2 * y - 1) <= 0)
        # What forgets the code length is broken far more often than delta allows.
        broken += float(kl_inverse(wrong, np.log(1 / delta) / n)) < 0.5
        if draw < 10:
            value = certify(structure, params, inputs[index], y, apply=apply, delta=delta).value
            assert value >= 0.5
    assert broken > 0.5 * draws


def test_one_fixed_network_meets_delta_closely():
    # The confidence itself: for a network fixed beforehand the Chernoff bound fails at most, and
    # not orders of magnitude less often than, delta.
    rng = np.random.default_rng(17)
    risk, n, delta = 0.2, 500, 0.1
    wrong = rng.binomial(n, risk, size=20000) / n
    bounds = np.asarray(kl_inverse(wrong, np.full(wrong.shape, np.log(1 / delta) / n)))
    share = np.mean(bounds < risk)
    assert delta / 20 < share <= delta
