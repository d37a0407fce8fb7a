"""The schedule of the integers' training, and the price of a nat in errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankjax.bounds import kl_inverse
from rankjax.certificates.file import Schedule
from rankjax.certificates.file._training import _rate_at, exchange_rate


def test_the_learning_rate_rises_holds_and_falls_to_zero():
    rates = np.array([float(_rate_at(0.2, 1000, step)) for step in range(1001)])
    assert rates[0] == 0
    assert rates[25] == pytest.approx(0.1)
    np.testing.assert_allclose(rates[50:300], 0.2)
    assert rates[650] == pytest.approx(0.1)
    assert np.all(np.diff(rates[300:]) <= 0)
    assert rates[1000] == 0


def test_a_nat_and_its_price_in_errors_leave_the_bound_as_it_is():
    n, error, nats, delta = 1000, 0.03, 80.0, 0.05

    def bound(error, nats):
        return float(kl_inverse(error, (nats + math.log(1 / delta)) / n))

    price = exchange_rate(error, nats, n, delta)
    assert bound(error + price / 8, nats) == pytest.approx(bound(error, nats + 1 / 8), rel=1e-5)
    assert price > 0


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", 0, "an integer of at least 1"),
        ("epochs", 1.5, "an integer of at least 1"),
        ("batch_size", 0, "an integer of at least 1"),
        ("seed", -1, "an integer of at least 0"),
        ("learning_rate", 0.0, "a number > 0"),
        ("learning_rate", math.nan, "a number > 0"),
        ("rate_weight", -0.1, "a number >= 0"),
        ("power", 2, "a number >= 0 and <= 1"),
        ("power", "half", "a number >= 0 and <= 1"),
    ],
)
def test_bad_schedules_are_refused(field, value, allowed):
    with pytest.raises(ValueError, match=rf"schedule\.{field}: got {value!r}, must be {allowed}"):
        Schedule(**{field: value})
