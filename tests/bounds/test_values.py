"""Values worked out independently, with NumPy, on a two-layer network."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import zeta

from rankjax import bounds
from rankjax.network import Perturbed, Sample
from tests.bounds import networks

PARAMS = networks.chain([3, 4, 2])
REFERENCE = networks.chain([3, 4, 2], seed=7)
A, C = networks.matrices(PARAMS)
MOVED = [a - m for a, m in zip((A, C), networks.matrices(REFERENCE), strict=True)]
MEASURED = networks.measured(PARAMS, REFERENCE)
SAMPLE = networks.sample(2)
N, GAMMA, B, F, L = 500, 0.4, 2.0, 1.7 * 500**0.5, 2
NORMS = [np.linalg.norm(a, 2) for a in (A, C)]
S = NORMS[0] * NORMS[1]
ROWS = [np.linalg.norm(m, axis=1).sum() for m in MOVED]


def value(name, **options):
    bound = getattr(bounds, name)(MEASURED, SAMPLE, **options)
    assert math.isclose(float(bound.terms["log"]), math.log(bound.value), abs_tol=1e-12)
    assert bound.per_layer.shape == (2,)
    return float(bound.value)


def spectral_sum():
    return sum((r / s) ** (2 / 3) for r, s in zip(ROWS, NORMS, strict=True)) ** 1.5


def test_spectral():
    term = F / (GAMMA * N) * S * spectral_sum()
    assert value("spectral", gamma=GAMMA) == pytest.approx(term, rel=1e-12)
    explicit = 8 / N**1.5 + 72 * math.log(24) * math.log(N) * term
    explicit += 3 * math.sqrt(math.log(1 / 0.1) / (2 * N))
    assert value("spectral", gamma=GAMMA, kind="explicit", delta=0.1) == pytest.approx(explicit)


def test_frobenius():
    product = np.linalg.norm(A) * np.linalg.norm(C)
    assert value("frobenius", gamma=GAMMA) == pytest.approx(
        B * product * math.sqrt(L) / (GAMMA * math.sqrt(N)), rel=1e-12
    )
    golowich = product * (math.sqrt(2 * math.log(2) * L) + 1) * F / N
    assert value("frobenius", kind="explicit") == pytest.approx(golowich, rel=1e-12)
    neyshabur = value("frobenius", kind="explicit", version="neyshabur")
    assert neyshabur == pytest.approx(2 * product * F / N, rel=1e-12)


def test_one_inf():
    product = np.abs(A).sum(1).max() * np.abs(C).sum(1).max()
    dominant = 1.2 * product * math.sqrt(L + math.log(3)) / (GAMMA * math.sqrt(N))
    assert value("one_inf", gamma=GAMMA) == pytest.approx(dominant, rel=1e-12)
    explicit = 2 * product * math.sqrt(L + 1 + math.log(3)) * 1.1 * math.sqrt(N) / N
    assert value("one_inf", kind="explicit") == pytest.approx(explicit, rel=1e-12)


def test_path_norm():
    # Path by path, as the definition has it.
    sums = {1: np.zeros(2), 2: np.zeros(2)}
    for i in range(3):
        for j in range(4):
            for k in range(2):
                for order in sums:
                    sums[order][k] += abs(C[k, j] * A[j, i]) ** order
    one, two = sums[1].max(), math.sqrt(sums[2].max())
    dominant = 1.2 * one * math.sqrt(L + math.log(3)) / (GAMMA * math.sqrt(N))
    assert value("path_norm", gamma=GAMMA) == pytest.approx(dominant, rel=1e-12)
    explicit = 2 * one * math.sqrt(L + 1 + math.log(3)) * 1.1 * math.sqrt(N) / N
    assert value("path_norm", kind="explicit") == pytest.approx(explicit, rel=1e-12)
    dominant = B * two * 2 * 4**0.5 / (GAMMA * math.sqrt(N))
    assert value("path_norm", order=2, gamma=GAMMA) == pytest.approx(dominant, rel=1e-12)
    explicit = math.sqrt(2) * B * two * 2 * 4**0.5 / math.sqrt(N)
    assert value("path_norm", order=2, kind="explicit") == pytest.approx(explicit, rel=1e-12)


def test_pac_bayes_spectral():
    h = 4
    ratios = sum((np.linalg.norm(m) / s) ** 2 for m, s in zip(MOVED, NORMS, strict=True))
    dominant = math.sqrt(B**2 * L**2 * h * S**2 * ratios / (GAMMA**2 * N))
    assert value("pac_bayes_spectral", gamma=GAMMA) == pytest.approx(dominant, rel=1e-12)
    # The proof, step by step: sigma, then KL of the normalised weights, then the union.
    beta = S ** (1 / L)
    sigma = GAMMA / (42 * L * B * beta ** (L - 1) * math.sqrt(h * math.log(4 * h * L)))
    normalised = [beta / s * a for s, a in zip(NORMS, (A, C), strict=True)]
    kl = sum(np.linalg.norm(a) ** 2 for a in normalised) / (2 * sigma**2)
    union = math.log(6 * N * L * N ** (1 / (2 * L)) / 0.05)
    explicit = 4 * math.sqrt((kl + union) / (N - 1))
    got = value("pac_bayes_spectral", gamma=GAMMA, kind="explicit")
    assert got == pytest.approx(explicit, rel=1e-12)


def test_counts():
    assert value("parameter_count") == pytest.approx(math.sqrt(20 * 2 / N), rel=1e-12)
    assert value("vc") == pytest.approx(math.sqrt(20 * 2 * math.log(20) / N), rel=1e-12)
    low = S * L * 2 * 2 * B / (GAMMA * math.sqrt(N))  # rank 2, sqrt(h) = 2
    assert value("low_rank", gamma=GAMMA) == pytest.approx(low, rel=1e-12)
    assert value("low_rank", gamma=GAMMA, c=2.0) == pytest.approx(4 * low, rel=1e-12)


def test_graf():
    c = [4 / GAMMA * F / math.sqrt(N) * S * r / s for r, s in zip(ROWS, NORMS, strict=True)]
    harmonic = sum(1 / m for m in range(1, N))
    whole = sum(math.ceil(x ** (2 / 3)) for x in c)
    norm = 4 / N + 12 * harmonic / math.sqrt(N) * math.sqrt(math.log(24)) * whole**1.5
    assert value("graf_norm", gamma=GAMMA) == pytest.approx(norm, rel=1e-10)

    def psi(x):
        return zeta(1.5, 1) ** (1 / 3) * zeta(1.5, 1 + 1 / x**2) ** (2 / 3)

    squares = [math.ceil(L**2 * x**2) for x in c]
    inside = sum(2 * p * (math.log(1 + q) + psi(q)) for p, q in zip((12, 8), squares, strict=True))
    params = 12 / math.sqrt(N) * math.sqrt(inside)
    got = value("parameter_count", gamma=GAMMA, kind="explicit")
    assert got == pytest.approx(params, rel=1e-10)


@pytest.mark.parametrize("x", [0.3, 1.0, 2.5, 40.0])
def test_psi_bounds_the_integral_it_stands_for(x):
    """``int_0^1 ln(1 + ceil(x^2/e^2)) de <= ln(1 + ceil(x^2)) + psi(ceil(x^2))``, psi < 2.7."""
    k = np.arange(max(math.ceil(x * x), 1), 2_000_000)
    left = math.log1p(k[0]) + x * np.sum(np.log1p(1 / (k + 1)) / np.sqrt(k))
    argument = math.ceil(x * x)
    psi = zeta(1.5, 1) ** (1 / 3) * zeta(1.5, 1 + 1 / argument**2) ** (2 / 3)
    assert left <= math.log1p(argument) + psi
    assert psi < 2.7


def test_conv_norm_on_dense_layers():
    b = [np.asarray(SAMPLE.patch_norms[i]).max() for i in range(2)]
    rows = np.linalg.norm(MOVED[0], axis=1).sum()
    r = [b[0] * rows * max(1 / b[1], NORMS[1] / GAMMA), b[1] * np.linalg.norm(MOVED[1]) / GAMMA]
    big = sum(x ** (2 / 3) for x in r) ** 1.5
    cover = 32 * max(r[0] * 4, r[1] * 2) * N**2 + 7 * 4 * N
    expected = 4 / N + 768 * big * math.sqrt(math.log2(cover)) * math.log(N) / math.sqrt(N)
    assert value("conv_norm", gamma=GAMMA) == pytest.approx(expected, rel=1e-12)


def test_compression():
    inside = 1.5**2 * L**2 * 2.0**2 * 2 / (0.3**2 * 0.15**2) / (GAMMA**2 * N)
    assert value("compression", gamma=GAMMA) == pytest.approx(math.sqrt(inside), rel=1e-12)


def kl(q, p):
    first = q * math.log(q / p) if q else 0.0
    return first + (1 - q) * math.log((1 - q) / (1 - p))


def test_pac_bayes_gaussian():
    errors = np.array([[0.1, 0.2, 0.0, 0.1], [0.5, 0.6, 0.5, 0.4]])
    noise = Perturbed(np.array([0.1, 0.2]), errors, np.float64(3.0), 20)  # pyright: ignore[reportArgumentType]
    bound = bounds.pac_bayes_gaussian(MEASURED, SAMPLE, perturbed=noise, delta=0.1)
    expected = []
    for s, mean in zip((0.1, 0.2), errors.mean(1), strict=True):
        j = round(8 * math.log2(s**2 + 3 / 20))
        prior = 2 ** (j / 8)
        # KL between Gaussians, coordinate by coordinate.
        k = 20 * (math.log(math.sqrt(prior) / s) + s**2 / (2 * prior) - 0.5) + 3 / (2 * prior)
        code = math.log(1.5 * (abs(j) + 1) * (abs(j) + 2))
        noisy = brentq(lambda p, q=mean: kl(q, p) - math.log(2 * 2 / 0.05) / 4, mean, 1 - 1e-15)
        budget = (k + code + math.log(2 * math.sqrt(N) / 0.05)) / N
        expected.append(brentq(lambda p, q=noisy, c=budget: kl(q, p) - c, noisy, 1 - 1e-15))
    assert np.asarray(bound.terms["values"]) == pytest.approx(expected, rel=1e-9)
    assert float(bound.value) == pytest.approx(min(expected), rel=1e-9)


def test_sample_complexity():
    def bound(n):
        sample = Sample.of_size(n, radius=B)
        return bounds.spectral(MEASURED, sample, gamma=GAMMA, kind="explicit")

    n = bounds.sample_complexity(bound, 500.0)
    assert float(bound(n).value) <= 500 < float(bound(n * (1 - 1e-6)).value)
    assert bounds.sample_complexity(lambda n: 1.0, 0.5) == math.inf
    with pytest.raises(ValueError, match="epsilon: got 0"):
        bounds.sample_complexity(bound, 0)
    with pytest.raises(ValueError, match="function of n"):
        bounds.sample_complexity(bound(1000), 0.1)  # pyright: ignore[reportArgumentType]
