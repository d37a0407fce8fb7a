"""Rounding errs on the safe side: everything computed in float64 against exact fractions."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rankjax.bounds import kl_inverse
from rankjax.certificates._guarantee import rounded_up, upper_bound
from rankjax.certificates._lengths import Length, coin, log_factorial
from rankjax.certificates.theorem._counting import Counter, limits_of
from rankjax.certificates.theorem._distances import measure, operator_norm, row_differences
from rankjax.certificates.theorem._network import Network
from rankjax.certificates.theorem._rules import spectral_norm
from rankjax.certificates.theorem._values import FUNCTION, Distance, Entries

BIG = 1.5 * 2.0**52  # adding it and taking it away again rounds to whole numbers
exact = np.vectorize(Fraction, otypes=[object])


def observed(apply, params, x, y, activations=None):
    network = Network(apply, params, x, activations)
    return network, network.observe(network.leaves.vector(params), x, y)


def bounded(apply, params, x, y, ideal, activations=None):
    """Observed gaps are never above the exact ones, which ``ideal`` computes in fractions."""
    _, seen = observed(apply, params, x, y, activations)
    for i, label in enumerate(y):
        logits = ideal({k: exact(np.asarray(v)) for k, v in params.items()}, exact(x[i]))
        for j, logit in enumerate(logits):
            if j != label:
                assert Fraction(float(seen.gaps[i, j])) <= logits[label] - logit
    return seen


RNG = np.random.default_rng(5)
X = RNG.normal(size=(6, 3))
Y = np.array([0, 1, 0, 1, 1, 0])
W = RNG.normal(size=(3, 2))


def relu(h):
    return np.maximum(h, 0 * h)


def planted_constant(xp, c):
    return lambda p, x: (x @ p["w"] + c(BIG)) - c(BIG)


def constant_before_relu(xp, c):
    relu_ = jax.nn.relu if xp is jnp else relu
    return lambda p, x: (relu_(x @ p["w"] + c(BIG)) - c(BIG)) @ p["v"]


def weights_cancel(xp, c):
    return lambda p, x: (x @ p["w"] + p["big"]) - p["big"]


def long_sum(xp, c):
    # Eight terms of either sign: what is left of their sum is far below each of them.
    def apply(p, x):
        sums = [xp.sum(xp.tanh(x[..., :1]) * p["wide"][k], axis=-1) for k in (0, 1)]
        return xp.concatenate([s[..., None] for s in sums], axis=-1)

    return apply if xp is jnp else lambda p, x: p["wide"].sum(axis=1) * Fraction(math.tanh(x[0]))


def inner_product_cancels(xp, c):
    def apply(p, x):
        return xp.concatenate([x, 0 * x[..., :1] + c(BIG), 0 * x[..., :1] + c(BIG)], -1) @ p["tall"]

    return apply


def divided(xp, c):
    return lambda p, x: ((x @ p["w"]) / c(3.0) + c(BIG / 3.0)) - c(BIG / 3.0)


def scaled_weights_cancel(xp, c):
    return lambda p, x: x @ p["w"] + (c(0.1) * p["huge"] - c(0.3) * p["huger"])


def looped(xp, c):
    def apply(p, x):
        h = x @ p["w"]
        for big in (BIG, -BIG, BIG / 2, -BIG / 2):
            h = h + c(big)
        return h

    return apply


PARAMS = {
    "w": W,
    "v": np.array([[1.0, -1.0], [0.5, 0.25]]),
    "big": np.array([BIG, BIG / 2]),
    "huge": np.array([3 * 2.0**54 / 1.1, 3 * 2.0**54 / 1.3]),
    "huger": np.array([2.0**54 / 1.1, 2.0**54 / 1.3]),
    "wide": np.where(np.arange(8) % 2, -1, 1) * 1e16 + RNG.normal(size=(2, 8)) * 8,
    "tall": np.concatenate([W, [[1.0, -1.0], [-1.0, 1.0]]]),
}
PLANTED = {
    planted_constant: "w", constant_before_relu: "w v", weights_cancel: "w big", long_sum: "wide",
    inner_product_cancels: "tall", divided: "w", scaled_weights_cancel: "w huge huger",
    looped: "w",
}  # fmt: skip


@pytest.mark.parametrize("make", PLANTED)
def test_gaps_are_never_above_the_exact_ones(make):
    apply, ideal = make(jnp, float), make(np, Fraction)
    params = {name: PARAMS[name] for name in PLANTED[make].split()}
    seen = bounded(apply, params, X, Y, ideal)
    # And the test has teeth: without room for rounding, some gap would be above the exact one.
    logits = np.asarray(apply({k: jnp.asarray(v) for k, v in params.items()}, jnp.asarray(X)))
    raw = logits[np.arange(6), Y] - logits[np.arange(6), 1 - Y]
    truth = []
    for i, label in enumerate(Y):
        ideals = ideal({k: exact(v) for k, v in params.items()}, exact(X[i]))
        truth.append(ideals[label] - ideals[1 - label])
    assert any(Fraction(float(a)) > b for a, b in zip(raw, truth, strict=True))
    assert np.isfinite(seen.gaps[np.arange(6), 1 - Y]).all()


def test_plain_logits_whose_difference_is_rounded():
    # No layer rounds here; the subtraction of two logits itself does.
    params = {"w": np.array([[1.0, -(2.0**-53) * 1.5]])}
    x = np.ones((1, 1))
    bounded(lambda p, x: jnp.broadcast_to(p["w"], (1, 2)), params, x, [0], lambda p, x: p["w"][0])


def test_a_told_activation_that_rounds():
    @jax.jit
    def through(h):  # the identity, were it not for rounding
        return jnp.maximum(h + BIG, 0.0) - BIG  # without the maximum, XLA adds nothing

    bounded(
        lambda p, x: through(x @ p["w"]), {"w": W}, X, Y, lambda p, x: x @ p["w"], {"through": 1.0}
    )


@pytest.mark.parametrize("name", ["gelu", "squareplus"])
def test_activations_that_cancel_at_negative_inputs(name):
    # f(-t) at large t is a difference of two numbers of size t.
    function = getattr(jax.nn, name)
    for t in (9.0, 10.0) if name == "gelu" else (1e8 / 3, 1e8 / 7, 1e7, 3e6):
        params = {"w": np.array([[-t, -2 * t]])}
        _, seen = observed(lambda p, x: function(p["w"]), params, np.ones((1, 1)), np.array([0]))
        with localcontext() as context:
            context.prec = 60
            values = []
            for s in (Decimal(t), Decimal(2 * t)):
                u = (2 / Decimal(math.pi)).sqrt() * (s + Decimal("0.044715") * s**3)
                values.append(
                    -s / (1 + (2 * u).exp()) if name == "gelu" else 2 / ((s * s + 4).sqrt() + s)
                )
            assert Decimal(float(seen.gaps[0, 1])) <= values[0] - values[1]


SLOT_X = np.array([[0.3, -0.7, 0.11]])


def slots_of(apply, params):
    network, seen = observed(apply, params, SLOT_X, np.array([0]))
    return network, [Fraction(float(s)) for s in seen.slots[:, 0]]


def test_norms_of_data_are_never_below():
    def apply(p, x):
        return jnp.tanh((x @ p["w"] + BIG) - BIG) @ p["v"] * 2.0

    _, slots = slots_of(apply, {"w": W, "v": PARAMS["v"]})
    x, h = exact(SLOT_X[0]), exact(SLOT_X[0]) @ exact(W)
    tanh = exact(np.tanh(np.asarray(h, float)))
    for slot, value in zip(slots, (x, tanh), strict=True):
        assert slot**2 >= sum(v * v for v in value)
    assert slots[0] ** 2 <= sum(v * v for v in x) * (1 + Fraction(1, 10**9))


def test_sizes_of_products_and_quotients():
    def h_of(p, x):
        return jnp.maximum(x @ p["w"] + 1e6, 0.0) - 1e6  # rounds to multiples of 1e-10

    params = {"w": W, "g": W[::-1].copy()}
    xs = np.random.default_rng(0).normal(size=(12, 3))
    network, seen = observed(lambda p, x: h_of(p, x) * (x @ p["g"]), params, xs, np.zeros(12, int))
    product = next(n for n in network.recursion.nodes if n.op == "product")
    for i, x in enumerate(exact(xs)):
        a_inf, a_two, b_inf, b_two = (Fraction(float(seen.slots[k, i])) for k in product.slots)
        h, g = x @ exact(W), x @ exact(W[::-1])
        for value, largest, two in ((h, a_inf, a_two), (g, b_inf, b_two)):
            assert largest >= max(abs(v) for v in value)
            assert two**2 >= sum(v * v for v in value)

    network, seen = observed(lambda p, x: (x @ p["g"]) / h_of(p, x), params, xs, np.zeros(12, int))
    quotient = next(n for n in network.recursion.nodes if n.op == "quotient")
    for i, x in enumerate(exact(xs)):
        a, b = x @ exact(W[::-1]), x @ exact(W)
        largest, smallest = (Fraction(float(seen.slots[k, i])) for k in quotient.slots)
        assert largest >= max(abs(v / w) for v, w in zip(a, b, strict=True))
        assert smallest <= min(abs(w) for w in b)

    network, slots = slots_of(lambda p, x: jnp.exp(h_of(p, x)), params)
    local = next(n for n in network.recursion.nodes if n.op == "local")
    h = exact(SLOT_X[0]) @ exact(W)
    assert slots[local.slots[0]] <= min(h)
    assert slots[local.slots[1]] >= max(h)


def test_sizes_of_two_moving_matrices():
    def apply(p, x):
        h = ((x @ p["w"] + BIG) - BIG)[0]
        return (h[None, :] @ (h[:, None] * p["v"][0][None, :])).reshape(1, 2)

    network, slots = slots_of(apply, {"w": W, "v": PARAMS["v"]})
    node = next(n for n in network.recursion.nodes if n.op == "bilinear")
    h, v = exact(SLOT_X[0]) @ exact(W), exact(PARAMS["v"][0])
    left, right = (slots[i] for i in node.slots)
    assert left**2 >= sum(a * a for a in h)
    assert right**2 >= sum((a * b) ** 2 for a in h for b in v)


def test_patch_norms_are_never_below():
    kernel = RNG.normal(size=(3, 1, 2))
    x = RNG.normal(size=(1, 7, 1))

    def apply(p, x):
        h = lax.conv_general_dilated(
            x, p["k"], (2,), ((1, 1),), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return jnp.sum(h, axis=1)

    network, seen = observed(apply, {"k": kernel}, x, np.array([0]))
    node = next(n for n in network.recursion.nodes if n.op == "matrix")
    pixels = [Fraction(0), *exact(x[0, :, 0]), Fraction(0)]
    patches = sum(pixels[2 * o + t] ** 2 for o in range(4) for t in range(3))
    assert Fraction(float(seen.slots[node.slots[0], 0])) ** 2 >= patches


# --- distances and norms of weights -----------------------------------------------------------


def whole(kind, *shape):
    return Distance(kind, Entries.plain(np.arange(math.prod(shape)).reshape(shape)))


def test_distances_are_never_below():
    for _ in range(40):
        moved = RNG.normal(size=12) * 10.0 ** RNG.integers(-8, 8)
        rows = exact(moved.reshape(3, 4))
        assert Fraction(measure(whole("norm", 12), moved)) ** 2 >= sum(v * v for v in exact(moved))
        largest = max(sum(v * v for v in row) for row in rows)
        assert Fraction(measure(whole("row", 3, 4), moved)) ** 2 >= largest
        largest = max(
            sum((a - b) ** 2 for a, b in zip(r, s, strict=True)) for r in rows for s in rows
        )
        assert Fraction(measure(whole("rows", 3, 4), moved)) ** 2 >= largest
        found = Fraction(measure(whole("range", 12), moved))
        assert found >= max(exact(moved)) - min(exact(moved))


def test_differences_that_vanish_in_rounding():
    # What is measured is a float64 difference: 1e9 - 0.1 and 1e9 - (0.1 + 5e-9) round to the same.
    weights, coded = np.array([1e9, 1e9]), np.array([0.1, 0.1 + 5e-9])
    moved = weights - coded
    assert moved[0] == moved[1]
    truth = abs((exact(weights) - exact(coded))[0] - (exact(weights) - exact(coded))[1])
    assert Fraction(measure(whole("range", 2), moved)) >= truth
    assert Fraction(measure(whole("rows", 2, 1), moved)) >= truth
    # The same of the coded rows themselves, whose constants round.
    rows = 0.1 * np.array([[3.0], [np.nextafter(3.0, 4)]])
    assert Fraction(row_differences(rows)[0, 1]) >= 0.1 * Fraction(np.nextafter(3.0, 4) - 3.0)


def test_spectral_norms_cover_the_error_of_lapack():
    # Rank one with whole numbers: |u v^T|^2 is a whole number; LAPACK is below it now and then.
    below = 0
    for _ in range(60):
        u, v = RNG.integers(-9, 10, size=6), RNG.integers(-9, 10, size=5)
        square = int(u @ u) * int(v @ v)
        matrix = np.outer(u, v).astype(float)
        assert Fraction(spectral_norm(matrix)) ** 2 >= square
        below += Fraction(float(np.linalg.norm(matrix, 2))) ** 2 < square
    assert below > 0


def test_operator_norms_of_convolutions_cover_the_fourier_transform():
    from tests.certificates.theorem.test_rules import convolution_gain

    # A kernel of ones on a long axis: the norm at frequency 0 is the sum, exactly.
    for taps in (2, 3, 5):
        gain, _ = convolution_gain(inputs=40, size=taps, outputs=40 - taps + 1)
        norm = operator_norm(gain, np.full(taps, 0.1))
        assert Fraction(norm) >= taps * Fraction(0.1)


FUNCTIONS = {
    "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "atan": np.arctan, "asinh": np.arcsinh,
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
    "sqrt": np.sqrt,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_as_exact_as_assumed(name):
    reference = FUNCTIONS[name]
    near = np.concatenate([np.geomspace(1e-9, 1, 4001), -np.geomspace(1e-9, 0.999, 4001)])
    points = np.concatenate([near, np.linspace(-600, 600, 8001), np.pi / 2 * np.arange(1, 50)])
    if name in {"log", "sqrt"}:
        points = np.concatenate([np.abs(points) + 1e-300, 1 + near[near > -0.9]])
    if name == "log1p":
        points = points[points > -1]
    function = getattr(lax, name)
    for compiled in (function, jax.jit(function)):
        found, wanted = np.asarray(compiled(jnp.asarray(points))), reference(points)
        fine = np.isfinite(wanted) & (np.abs(wanted) > 1e-290)
        off = np.abs(found - wanted)[fine] / np.abs(wanted)[fine]
        assert off.max() <= FUNCTION / 2


def test_powers_are_as_exact_as_assumed():
    y, bases = 4001, np.append(1 + RNG.uniform(0.001, 0.01, size=40), 0.0)
    _, seen = observed(
        lambda p, x: lax.integer_pow(p["w"], y), {"w": bases[None]}, np.ones((40, 1)), np.arange(40)
    )
    powers = [Fraction(float(base)) ** y for base in bases[:40]]
    assert all(Fraction(float(g)) <= p for g, p in zip(seen.gaps[:, 40], powers, strict=True))


# --- logarithms and inverses ------------------------------------------------------------------


def divergence(q, p):
    first = q * (q / p).ln() if q else Decimal(0)
    return first + ((1 - q) * ((1 - q) / (1 - p)).ln() if q < 1 else Decimal(0))


@pytest.mark.parametrize("errors", [0, 1, 37, 999, 1000])
def test_upper_bound_against_150_digits(errors):
    length = Length(((7, 10, 3),), ((1, 1000), (-1, 500)))
    for scale, delta in ((1, 0.01), (1000, 0.5)):
        n = 1000 * scale
        found = upper_bound(length, errors, n, delta)
        with localcontext() as context:
            context.prec = 150
            budget = 7 * (Decimal(10) / 3).ln() + Decimal(math.factorial(1000)).ln()
            budget = (budget - Decimal(math.factorial(500)).ln() - Decimal(delta).ln()) / n
            if found < 1:
                assert divergence(Decimal(errors) / n, found) >= budget
                below = found * (1 - Decimal(10) ** -30)
                assert divergence(Decimal(errors) / n, below) <= budget


def test_upper_bound_is_the_upper_end_of_its_bracket():
    # 160 halvings do not reach ln(2)/10^50: the lower end of the last bracket is 0.
    found = upper_bound(Length(), 0, 10**50, 0.5)
    with localcontext() as context:
        context.prec = 80
        assert found >= 1 - (-Decimal(2).ln() / 10**50).exp()


def test_kl_inverse_is_the_upper_end_of_its_bracket():
    assert float(kl_inverse(0.0, 1e-30)) >= 1e-30
    q, budget = np.meshgrid([0.0, 1e-4, 0.03, 0.4, 0.9], [1e-7, 1e-3, 0.1, 0.7])
    found = np.asarray(kl_inverse(q, budget))
    with localcontext() as context:
        context.prec = 60
        for a, b, p in zip(q.ravel(), budget.ravel(), found.ravel(), strict=True):
            # Up to the rounding of the divergence itself.
            above = Decimal(p) * (1 + Decimal("4e-15"))
            assert above >= 1 or divergence(Decimal(a), above) >= Decimal(b)


def test_lengths_are_rounded_up():
    with localcontext() as context:
        context.prec = 120
        for n in (3, 399, 400, 401, 5000):
            truth = sum(Decimal(k).ln() for k in range(2, n + 1))
            assert Length((), ((1, n),)).upper() >= truth
            assert abs(log_factorial(n) - truth) <= truth * Decimal(10) ** -46
        length = coin(300, 500) + Length(((3, 7, 5),))
        pairs = [(1, 300), (1, 500), (1, 800), (-1, 600), (-1, 1000)]
        truth = 800 * Decimal(4).ln() + 3 * (Decimal(7) / 5).ln()
        for times, n in pairs:
            truth += times * sum(Decimal(k).ln() for k in range(2, n + 1))
        assert truth <= length.upper() <= truth + Decimal(10) ** -40
        assert length.nats() == pytest.approx(float(truth), rel=1e-12)


def test_floats_are_rounded_up():
    third = Decimal(1) / 3
    assert Decimal(rounded_up(third)) >= third
    assert Decimal(math.nextafter(rounded_up(third), 0)) < third
    two = 2 * third
    assert Decimal(rounded_up(two)) >= two
    assert Decimal(rounded_up(Decimal("0.5"))) == Decimal("0.5")


def test_counting_leaves_room():
    # A gap that equals the limit up to rounding is an error.
    params = {"w": np.array([[1.0, -1.0]])}
    network, seen = observed(
        lambda p, x: jnp.tanh(x @ p["w"]), params, np.ones((1, 1)), np.array([0])
    )
    counter = Counter(network)
    gains, pairs = counter.norms(network.leaves.vector(params))
    moved = np.array([0.25])
    limit = float(
        np.asarray(
            limits_of(network, jnp.asarray(seen.slots), jnp.asarray([0]), gains, pairs, moved)
        )[0, 0]
    )
    assert Fraction(limit) ** 2 >= 2 * Fraction(float(seen.slots[0, 0]) * 0.25) ** 2
    assert network.gains == ()  # the norm of a first layer is not read
