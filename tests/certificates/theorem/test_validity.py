"""The guarantee holds with its probability, where the truth is known."""

import numpy as np

from rankjax.bounds import kl_inverse
from rankjax.certificates._guarantee import upper_bound
from rankjax.certificates._lengths import one_of
from rankjax.certificates.theorem import certify, verify
from rankjax.network import describe


def apply(params, x):
    return x @ params["kernel"]


def test_the_best_of_many_tables_breaks_the_bound_as_seldom_as_promised():
    # 64 tables fixed beforehand, labels that are fair coins: each table's true error is 1/2. The
    # best on the sample is chosen, which costs log 64: the bound must hold for it with 1 - delta.
    rng = np.random.default_rng(1)
    n, delta, draws = 200, 0.2, 20000
    best = rng.binomial(n, 0.5, size=(draws, 64)).min(axis=1)
    length = one_of(64)
    counts = np.arange(n + 1)
    bounds = np.array([float(upper_bound(length, int(k), n, delta)) for k in counts[60:101]])
    broken = np.mean(bounds[np.clip(best - 60, 0, 40)] < 0.5)
    assert delta / 10 < broken <= delta
    # Without the price of the choice, the bound is broken nearly always: the test has power.
    free = np.asarray(kl_inverse(best / n, np.full(draws, np.log(1 / delta) / n)))
    assert np.mean(free < 0.5) > 3 * delta


def one_hot_task(rng, inputs=256, n=200):
    """Inputs that say nothing, labels that are fair coins, and the table of majority labels."""
    index, y = rng.integers(inputs, size=n), rng.integers(2, size=n)
    votes = np.bincount(index, weights=2 * y - 1, minlength=inputs)
    signs = np.where(votes >= 0, 1.0, -1.0)
    return np.eye(inputs)[index], y, np.stack([-signs, signs], axis=1)


def test_what_is_learned_by_heart_is_not_certified():
    rng = np.random.default_rng(7)
    for scale in (1.0, 1e-3):
        x, y, table = one_hot_task(rng)
        params = {"kernel": scale * table}
        structure = describe(params)
        certificate = certify(structure, params, x, y, apply=apply, delta=0.01)
        assert certificate.value >= 0.5
        assert float(verify(certificate, structure, params, x, y, apply=apply)) >= 0.5
    # One reference with all but the last digits: what is learned is in the difference.
    base = {"kernel": np.ones((256, 2))}
    learned = {"kernel": base["kernel"] + 1e-6 * table}
    certificate = certify(structure, learned, x, y, apply=apply, reference=base)
    assert certificate.value >= 0.5
