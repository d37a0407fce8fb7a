"""A second verifier that follows the theory page: NumPy and the standard library alone.

It knows chains of dense layers, convolutions, biases, ReLU and average pooling. Nothing here is
imported from the library, so that a mistake has to be made twice to go unnoticed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

U, TAU, R = 2.0**-50, 1e-300, 1 + 1e-12
PRECISION = 90


class Rejected(ValueError):
    """A claim of the certificate does not hold."""


def require(condition: bool, what: str) -> None:
    """Reject unless the condition holds."""
    if not condition:
        raise Rejected(what)


# --- the network ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """``h @ kernel + bias``; the kernel is (inputs, outputs)."""

    kernel: str
    bias: str | None = None


@dataclass(frozen=True)
class Conv:
    """Images (height, width, channels); the kernel is (height, width, inputs, outputs)."""

    kernel: str
    bias: str | None = None
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Relu:
    """Entrywise ``max(h, 0)``."""


@dataclass(frozen=True)
class AveragePool:
    """Means over square windows side by side."""

    size: int


@dataclass(frozen=True)
class Flatten:
    """All entries in a row."""


Layer = Dense | Conv | Relu | AveragePool | Flatten


# --- code lengths -----------------------------------------------------------------------------


def ln(ratio: Fraction | int) -> Decimal:
    """The natural logarithm to nearly all digits of the context."""
    ratio = Fraction(ratio)
    return Decimal(ratio.numerator).ln() - Decimal(ratio.denominator).ln()


def positive_integer(b: int) -> Decimal:
    """``b >= 1``."""
    return ln(b * (b + 1))


def integer(j: int) -> Decimal:
    """Any integer."""
    return ln(Fraction(3 * (abs(j) + 1) * (abs(j) + 2), 2))


def coin(no: int, yes: int) -> Decimal:
    """So many answers in a row: the adaptive coin itself if they are few, else its closed form."""
    if no + yes <= 200:
        weight, total, seen = 1, 1, [0, 0]
        for answer in [0] * no + [1] * yes:
            weight *= 2 * seen[answer] + 1
            total *= 2 * (sum(seen) + 1)
            seen[answer] += 1
        return ln(Fraction(total, weight))
    halves = [ln_factorial(k) - ln_factorial(2 * k) for k in (no, yes)]
    return (no + yes) * ln(4) + ln_factorial(no + yes) + sum(halves)


@cache
def bernoulli(count: int) -> list[Fraction]:
    """``B_0, B_1, ...``"""
    found: list[Fraction] = []
    for m in range(count):
        rest = sum((math.comb(m + 1, k) * b for k, b in enumerate(found)), Fraction(0))
        found.append((m == 0) - rest / (m + 1))
    return found


def ln_factorial(n: int) -> Decimal:
    """Multiplied out, or by Stirling's series, whose error is less than the first term left out."""
    if n < 2000:
        return ln(math.factorial(n))
    x, total = Fraction(n), Fraction(0)
    for k in range(1, 17):
        total += bernoulli(34)[2 * k] / (2 * k * (2 * k - 1) * x ** (2 * k - 1))
    pi = 4 * (4 * _arctan(5) - _arctan(239))
    series = Decimal(total.numerator) / Decimal(total.denominator)
    return (2 * pi * n).ln() / 2 + n * Decimal(n).ln() - n + series


def _arctan(inverse: int) -> Decimal:
    """``arctan(1/inverse)``: Machin needs it for 5 and 239."""
    terms = (
        Decimal((-1) ** k) / ((2 * k + 1) * Decimal(inverse) ** (2 * k + 1)) for k in range(75)
    )
    return sum(terms, Decimal(0))


def block(symbols: Sequence[int], levels: int) -> Decimal:
    """Integers in unary: one question after the other, then the signs."""
    answers: dict[int, list[int]] = {}
    for symbol in symbols:
        for m in range(min(abs(symbol) + 1, levels)):
            answers.setdefault(m, [0, 0])[abs(symbol) > m] += 1
        if abs(symbol) >= levels:  # questions that share a coin: so many times yes, once no
            shared = answers.setdefault(levels, [0, 0])
            shared[0], shared[1] = shared[0] + 1, shared[1] + abs(symbol) - levels
    signs = sum(symbol != 0 for symbol in symbols)
    return sum((coin(no, yes) for no, yes in answers.values()), signs * ln(2))


def code_length(found: Mapping, blocks: Sequence[Sequence[Sequence[int]]]) -> Decimal:
    """D: leaves, distances, tried."""
    total, before = ln(found["tried"]), 0
    for leaf, parts in zip(found["leaves"], blocks, strict=True):
        total += ln(3)
        if leaf["mode"] == "reference":
            continue
        total += integer(leaf["step"] - before) + positive_integer(leaf["levels"])
        before = leaf["step"]
        if leaf["mode"] == "factors":
            total += ln(min(leaf["matrices"][1:]))
        total += sum(block(part, leaf["levels"]) for part in parts)
    before = 0
    for exponent in found["distances"]:
        total += ln(2)
        if exponent is not None:
            total += integer(exponent - before)
            before = exponent
    return total


def kl_inverse(errors: int, n: int, budget: Decimal) -> Decimal:
    """The largest p with ``kl(errors/n || p) <= budget``, to all but the last digits."""

    def kl(p: Decimal) -> Decimal:
        first = q * (q / p).ln() if q else Decimal(0)
        return first + ((1 - q) * ((1 - q) / (1 - p)).ln() if q < 1 else Decimal(0))

    q = Decimal(errors) / n
    low, high = q, Decimal(1)
    if q == 1:
        return high
    for _ in range(280):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(middle) <= budget else (low, middle)
    return high


def next_float(value: Decimal) -> float:
    """The smallest float that is not below."""
    found = float(value)
    while Decimal(found) < value:
        found = math.nextafter(found, math.inf)
    return found


# --- the form of a certificate ----------------------------------------------------------------

FIELDS = {
    "value", "errors", "n", "delta", "tried", "assumptions", "leaves", "distances", "guard", "nats",
}  # fmt: skip
LEAF_FIELDS = {"path", "shape", "mode", "step", "levels", "rank", "matrices", "symbols"}


def whole(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> None:
    """Reject unless this is an integer in a range."""
    require(type(value) is int and low <= value <= high, f"{name}: {value!r}")


def read(text: str, paths: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """Parse a certificate; each field is of its type and range, each leaf one of the network's."""
    found = json.loads(text)
    require(isinstance(found, dict) and set(found) == FIELDS, "fields")
    whole(found["n"], "n", 1)
    whole(found["errors"], "errors", 0, found["n"])
    whole(found["tried"], "tried", 1)
    require(type(found["delta"]) is float and 0 < found["delta"] <= 0.5, "delta")
    require(type(found["value"]) is float and 0 < found["value"] <= 1, "value")
    require([leaf["path"] for leaf in found["leaves"]] == list(paths), "leaves")
    for leaf in found["leaves"]:
        require(set(leaf) == LEAF_FIELDS, "leaf fields")
        require(tuple(leaf["shape"]) == shapes[leaf["path"]], "shape")
        require(leaf["mode"] in ("reference", "direct", "factors"), "mode")
        whole(leaf["step"], "step", -800, 800)
        whole(leaf["levels"], "levels", 1, 8)
        whole(leaf["rank"], "rank", 0)
        for symbol in leaf["symbols"]:
            whole(symbol, "symbol", -(2**26), 2**26)
        if leaf["mode"] == "reference":
            unused = (leaf["step"], leaf["levels"], leaf["symbols"]) == (0, 1, [])
            require(unused, "reference")
        if leaf["mode"] != "factors":
            require((leaf["rank"], leaf["matrices"]) == (0, []), "rank")
    require(isinstance(found["distances"], list), "distances")
    for exponent in found["distances"]:
        if exponent is not None:
            whole(exponent, "distance", -8000, 8000)
    return found


# --- the coded neighbor -----------------------------------------------------------------------


def as_matrix(leaf: np.ndarray) -> np.ndarray:
    """A kernel as (outputs, window positions and inputs)."""
    return np.moveaxis(leaf, -1, 0).reshape(leaf.shape[-1], -1)


def step_of(exponent: int) -> Fraction:
    """``(1 + r/4) 2^k`` for the exponent ``4 k + r``."""
    octave, r = divmod(exponent, 4)
    return (1 + Fraction(r, 4)) * Fraction(2) ** octave


def decode(leaf: Mapping, reference: np.ndarray) -> tuple[np.ndarray, list[list[int]], float]:
    """The coded leaf, its blocks of symbols, and its step (0: the reference)."""
    symbols = leaf["symbols"]
    if leaf["mode"] == "reference":
        return reference, [], 0.0
    step = float(step_of(leaf["step"]))
    if leaf["mode"] == "direct":
        require(len(symbols) == reference.size, "symbols")
        return reference + step * np.array(symbols, float).reshape(reference.shape), [symbols], step
    m, n = as_matrix(reference).shape
    require(reference.ndim > 1 and leaf["matrices"] == [1, m, n], "matrices")
    k = leaf["rank"]
    require(1 <= k <= min(m, n) and len(symbols) == k * (m + n), "rank")
    left, right = symbols[: m * k], symbols[m * k :]
    product = np.array(left).reshape(m, k) @ np.array(right).reshape(k, n)
    moved = np.moveaxis(product.reshape(m, *reference.shape[:-1]), 0, -1)
    return reference + step * moved, [left, right], step


def spectral(matrix: np.ndarray) -> float:
    """The spectral norm, rounded up by the backward error of LAPACK."""
    if not matrix.any():
        return 0.0
    room = U * sum(matrix.shape) * np.linalg.norm(matrix)
    return float(np.linalg.norm(matrix, 2) + room)


def torus_norm(kernel: np.ndarray, image: tuple[int, ...]) -> float:
    """The largest transfer matrix of a convolution on a torus where nothing wraps around."""
    sizes = [n + taps - 1 for n, taps in zip(image, kernel.shape, strict=False)]
    transfer = np.fft.fft2(kernel, s=sizes, axes=(0, 1))
    largest = max(np.linalg.norm(m, 2) for row in transfer for m in row)
    points = math.prod(sizes)
    room = U * (math.log2(points) + 8) * math.sqrt(points) * np.linalg.norm(kernel)
    return float(largest + room)


# --- the sample -------------------------------------------------------------------------------


def norm(values: np.ndarray) -> np.ndarray:
    """2-norm of all entries of each example."""
    return np.sqrt(np.sum(np.square(values.reshape(len(values), -1)), axis=1))


@dataclass
class Sample:
    """The coded neighbor on the sample: values, bounds E and rounding errors r per example."""

    h: np.ndarray
    E: np.ndarray
    r: np.ndarray
    distances: list[float]
    taken: int = 0
    limits: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def next(self) -> float:
        """The next coded distance."""
        self.taken += 1
        return self.distances[self.taken - 1]

    def entrywise(self) -> None:
        """The rounding error of a sum, product or quotient."""
        self.r = self.r + U * norm(self.h) + TAU * math.sqrt(self.h[0].size)

    def add(self, bias: np.ndarray) -> None:
        """A bias, stretched over all positions."""
        repeats = self.h[0].size / bias.size
        self.h = self.h + bias
        self.E = self.E + math.sqrt(repeats) * self.next()
        self.entrywise()

    def multiply(self, W: np.ndarray, s: np.ndarray, g: float, G: float) -> None:
        """The node ``matrix``; the product itself has been computed."""
        d, size = self.next(), s * R + g * self.r + TAU
        self.E = (G + g * d) * self.E + d * size
        frobenius = np.linalg.norm(W)
        self.r = g * frobenius * self.r + U * (W.shape[1] + 8) * frobenius * s + TAU

    def dense(self, kernel: np.ndarray) -> None:
        """``h @ kernel``."""
        s, W = norm(self.h), kernel.T
        self.h = self.h @ kernel
        self.multiply(W, s, 1.0, spectral(W) * R)

    def convolve(self, kernel: np.ndarray, layer: Conv) -> None:
        """A convolution: patches, then the kernel as a matrix."""
        image, taps = self.h.shape[1:3], kernel.shape[:2]
        padded = np.pad(self.h, ((0, 0), *layer.padding, (0, 0)))
        patches = sliding_window_view(padded, taps, axis=(1, 2))
        patches = patches[:, :: layer.stride, :: layer.stride].transpose(0, 1, 2, 4, 5, 3)
        flat = patches.reshape(*patches.shape[:3], -1)
        W = as_matrix(kernel)
        g = 1.0
        for n, count, size, pad in zip(image, patches.shape[1:3], taps, layer.padding, strict=True):
            places = [o * layer.stride + t - pad[0] for o in range(count) for t in range(size)]
            g *= max(places.count(i) for i in range(n))
        g = math.sqrt(g)
        self.h = flat @ W.T
        G = min(g * spectral(W) * R, torus_norm(kernel, image) * R)
        self.multiply(W, norm(flat), g, G)

    def pool(self, size: int) -> None:
        """A sum over windows, then a division."""
        n, height, width, channels = self.h.shape
        s, m = norm(self.h), size * size
        shape = (n, height // size, size, width // size, size, channels)
        kept = self.h[:, : height // size * size, : width // size * size]
        factor = math.sqrt(m)
        self.h = kept.reshape(shape).sum((2, 4)) / m
        self.E = factor * self.E / m
        self.r = (factor * self.r + U * (m + 8) * factor * s + TAU) / m
        self.entrywise()

    def last(self, kernel: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        """The last layer: differences of classes."""
        rows, s = kernel.T, norm(self.h)
        size, d = s * R + self.r + TAU, self.next()
        pairs = np.array([[np.linalg.norm(a - b) for a in rows] for b in rows]) * R
        self.limits = (pairs[y] + d) * self.E[:, None] + (d * size)[:, None]
        self.h = self.h @ kernel
        frobenius = np.linalg.norm(rows)
        self.r = frobenius * self.r + U * (rows.shape[1] + 8) * frobenius * s + TAU
        if bias is not None:
            self.limits = self.limits + self.next()
            self.h = self.h + bias
            self.entrywise()

    def gaps(self, y: np.ndarray) -> np.ndarray:
        """Lower bounds of the differences of logits, infinite for the label itself."""
        own = self.h[np.arange(len(y)), y][:, None]
        found = own - self.h - 1.5 * self.r[:, None]
        found -= 1e-15 * (np.abs(own) + np.abs(self.h) + 1.5 * self.r[:, None])
        found[np.arange(len(y)), y] = np.inf
        return found


@dataclass(frozen=True)
class Checked:
    """What was found: the exact bound, the count, and what it was counted from."""

    bound: Decimal
    errors: int
    gaps: np.ndarray
    limits: np.ndarray


def check(
    text: str,
    layers: Sequence[Layer],
    weights: Mapping[str, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    reference: Mapping[str, np.ndarray] | None = None,
) -> Checked:
    """The exact bound and the count of errors, if every claim of the certificate holds.

    Raises:
        Rejected: naming the claim that does not.
    """
    paths = sorted(weights, key=lambda path: path.split("/"))
    mine = {path: np.asarray(weights[path]).astype(float) for path in paths}
    found = read(text, paths, {path: leaf.shape for path, leaf in mine.items()})
    coded, blocks, steps = {}, [], {}
    for leaf in found["leaves"]:
        path = leaf["path"]
        base = np.zeros(mine[path].shape)
        if reference is not None:
            base = np.asarray(reference[path]).astype(float)
        coded[path], parts, steps[path] = decode(leaf, base)
        blocks.append(parts)

    # Distances, in the order in which the network needs them.
    measured: list[tuple[float, float]] = []

    def take(kind: str, path: str) -> None:
        moved, sigma = mine[path] - coded[path], steps[path] or 1.0
        if kind == "spectral":
            found = as_matrix(moved)
            unit = (math.sqrt(found.shape[0]) + math.sqrt(found.shape[1])) / math.sqrt(12)
            size = spectral(found)
        elif kind == "norm":
            size, unit = float(np.linalg.norm(moved)), math.sqrt(moved.size / 12)
        elif kind == "rows":
            rows = moved.T
            size = max(float(np.linalg.norm(a - b)) for a in rows for b in rows)
            unit = math.sqrt(rows.shape[1] / 6)
        else:
            size, unit = float(moved.max() - moved.min()), 1.0
        measured.append((size * R + TAU if moved.any() else 0.0, sigma * unit))

    for layer in layers[:-1]:
        if isinstance(layer, Dense | Conv):
            take("spectral", layer.kernel)
            if layer.bias is not None:
                take("norm", layer.bias)
    last = layers[-1]
    assert isinstance(last, Dense)
    take("rows", last.kernel)
    if last.bias is not None:
        take("range", last.bias)
    require(len(found["distances"]) == len(measured), "number of distances")
    distances = []
    for exponent, (size, unit) in zip(found["distances"], measured, strict=True):
        distances.append(0.0 if exponent is None else unit * 2.0 ** (exponent / 8))
        covered = size == 0 if exponent is None else distances[-1] >= size * R
        require(covered, f"distance {exponent}: {distances[-1]} for {size}")

    # The neighbor on the sample.
    require(len(x) == len(y) == found["n"], "n")
    zero = np.zeros(len(y))
    sample = Sample(np.asarray(x).astype(float), zero, zero, distances)
    for layer in layers[:-1]:
        match layer:
            case Dense():
                sample.dense(coded[layer.kernel])
            case Conv():
                sample.convolve(coded[layer.kernel], layer)
            case Relu():
                sample.h = np.maximum(sample.h, 0)
            case AveragePool():
                sample.pool(layer.size)
            case Flatten():
                sample.h = sample.h.reshape(len(y), -1)
        if isinstance(layer, Dense | Conv) and layer.bias is not None:
            sample.add(coded[layer.bias])
    sample.last(coded[last.kernel], None if last.bias is None else coded[last.bias], np.asarray(y))
    gaps, limits = sample.gaps(np.asarray(y)), R * sample.limits
    counted = int(np.sum(~(gaps > limits).all(axis=1)))
    require(counted <= found["errors"], f"errors: {found['errors']}, counted {counted}")

    with localcontext() as context:
        context.prec = PRECISION
        budget = code_length(found, blocks) + ln(1 / Fraction(found["delta"]))
        exact = kl_inverse(found["errors"], found["n"], budget / found["n"])
        require(found["value"] == next_float(exact), f"value: {found['value']}, is {exact}")
    return Checked(exact, counted, gaps, limits)
