"""Real certificates under a verifier that shares nothing with the library but the theory page."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from rankjax.certificates.theorem import verify
from rankjax.certificates.theorem._counting import Counter, limits_of
from rankjax.certificates.theorem._neighbor import Problem
from tests.certificates.theorem import second_verifier as second
from tests.certificates.theorem import trained

DENSE = [
    second.Dense("inner/kernel", "inner/bias"),
    second.Relu(),
    second.Dense("outer/kernel", "outer/bias"),
]
CONVOLUTIONAL = [
    second.Conv("conv1/kernel", "conv1/bias"),
    second.Relu(),
    second.AveragePool(2),
    second.Conv("conv2/kernel"),
    second.Relu(),
    second.AveragePool(2),
    second.Flatten(),
    second.Dense("dense/kernel"),
]
CASES = {
    "dense": (trained.dense, DENSE),
    "convolutional": (trained.convolutional, CONVOLUTIONAL),
    "near_reference": (trained.near_reference, DENSE),
}


def check(network, layers, certificate):
    reference = None if network.reference is None else trained.by_path(network.reference)
    return second.check(
        certificate.to_json(), layers, network.weights, network.x, network.y, reference
    )


@pytest.mark.parametrize("name", CASES)
def test_both_verifiers_agree(name):
    make, layers = CASES[name]
    network = make()
    certificate = network.certificate
    assert certificate.value < 1  # it says something
    found = check(network, layers, certificate)
    mine = verify(certificate, *network.arguments, apply=network.apply, reference=network.reference)
    assert found.errors == certificate.errors
    assert 0 <= Fraction(mine) / Fraction(found.bound) - 1 <= Fraction(1, 10**36)
    assert certificate.value == second.next_float(found.bound)


@pytest.mark.parametrize("name", CASES)
def test_both_find_the_same_margins_and_limits(name):
    make, layers = CASES[name]
    network = make()
    found = check(network, layers, network.certificate)
    structure, params, x, y = network.arguments
    problem = Problem.read(structure, params, x, apply=network.apply, reference=network.reference)
    read = problem.network
    coded, steps = problem.decode(network.certificate.leaves)
    distances = problem.check_exponents(network.certificate.distances, coded, steps)
    counter = Counter(read)
    seen = read.observe(coded, x, y)
    limits = np.array(limits_of(read, seen.slots, y, *counter.norms(coded), distances))
    others = np.isfinite(seen.gaps)
    # Two summation orders differ by less than what rounding subtracts.
    np.testing.assert_allclose(seen.gaps[others], found.gaps[others], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(limits[others], found.limits[others], rtol=1e-9)


def test_every_mode_is_covered():
    modes = {leaf.mode for make, _ in CASES.values() for leaf in make().certificate.leaves}
    assert modes == {"reference", "direct", "factors"}


def with_leaf(certificate, **changes):
    """The first leaf that has symbols, changed."""
    which = next(i for i, leaf in enumerate(certificate.leaves) if leaf.symbols)
    leaf = certificate.leaves[which]
    leaf = dataclasses.replace(leaf, **{key: of(leaf) for key, of in changes.items()})
    leaves = (*certificate.leaves[:which], leaf, *certificate.leaves[which + 1 :])
    return dataclasses.replace(certificate, leaves=leaves)


def wrong_symbol(certificate):
    return with_leaf(certificate, symbols=lambda leaf: (leaf.symbols[0] + 9, *leaf.symbols[1:]))


def finer_step(certificate):
    return with_leaf(certificate, step=lambda leaf: leaf.step - 1)


def smaller_distance(certificate):
    which = next(i for i, a in enumerate(certificate.distances) if a is not None)
    changed = list(certificate.distances)
    changed[which] -= 1
    return dataclasses.replace(certificate, distances=tuple(changed))


def no_distance(certificate):
    which = next(i for i, a in enumerate(certificate.distances) if a is not None)
    changed = list(certificate.distances)
    changed[which] = None
    return dataclasses.replace(certificate, distances=tuple(changed))


def one_error_less(certificate):
    return dataclasses.replace(certificate, errors=certificate.errors - 1)


def more_tried(certificate):
    return dataclasses.replace(certificate, tried=certificate.tried + 1)


FALSE_CLAIMS = [wrong_symbol, finer_step, smaller_distance, no_distance, one_error_less]


@pytest.mark.parametrize("change", FALSE_CLAIMS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", CASES)
def test_both_reject_false_claims_whose_value_is_right(name, change):
    make, layers = CASES[name]
    network = make()
    tampered = change(network.certificate).settled()
    tampered.verify()  # the value does follow from the integers
    with pytest.raises(second.Rejected, match=r"distance|errors"):
        check(network, layers, tampered)
    with pytest.raises(ValueError, match=r"^(distances|errors)"):
        verify(tampered, *network.arguments, apply=network.apply, reference=network.reference)


@pytest.mark.parametrize("name", CASES)
def test_both_reject_wrong_values(name):
    make, layers = CASES[name]
    network = make()
    certificate = network.certificate
    wrong = [
        dataclasses.replace(certificate, value=math.nextafter(certificate.value, side))
        for side in (0, 1)
    ]
    wrong += [more_tried(certificate), dataclasses.replace(certificate, n=certificate.n + 1)]
    for tampered in wrong:
        with pytest.raises(second.Rejected, match=r"^(value|n$)"):
            check(network, layers, tampered)
        with pytest.raises(ValueError, match=r"^value"):
            tampered.verify()
