"""The rank-sparse bound by chaining: against NumPy, covers that are built, and classes."""

from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from rankjax.bounds import Inapplicable, rank_sparse
from rankjax.bounds._facts import Facts
from rankjax.bounds._rank_sparse_chained import _Cover, _of_ball, chain
from rankjax.network import Sample, describe, measure
from tests.bounds import networks
from tests.bounds.test_rank_sparse_explicit import decaying, integer

SPLITS = (0.1, 0.3, 0.5, 0.7, 0.9)
PARAMS = decaying([20, 30, 25, 10])
MEASURED = networks.measured(PARAMS)
SAMPLE = networks.sample(3, n=60000, dimension=20)
GRID = [0.5 * 2 ** (-i / 2) for i in range(41)]


def chained(measured=MEASURED, sample=SAMPLE, **options):
    options = {"gamma": 0.5, **options}
    return rank_sparse(measured, sample, kind="explicit", form="chained", **options)


# The formula, from the theory page, with loops.


def up(value):
    """The exponent of the next power of 2^(1/8)."""
    return np.ceil(8 * np.log2(value) + 1e-3)


class Layer:
    def __init__(self, blocks, norm=None, gather=1.0, rho=1.0, uses=1):
        self.m, self.n = blocks[0].shape
        self.sigma = [np.linalg.svd(b, compute_uv=False) for b in blocks]
        self.uses, self.gather, self.rho = uses, gather, rho
        self.most = len(blocks) * min(self.m, self.n)
        top = max(s[0] for s in self.sigma)
        self.s, self.a = (2 ** (up(x) / 8) for x in (norm or top, top))
        self.of_ranks = len(blocks) * np.log(min(self.m, self.n) + 1) if len(blocks) > 1 else 0

    def soft(self, p):
        total = sum(np.sum((s[s > 1e-12 * s[0]] / self.a) ** p) for s in self.sigma)
        return 2 ** (max(up(total), 0) / 8)

    def code(self, ps):
        points = np.ceil(8 * np.log2(self.most)) + 2
        return (
            integer(np.log2(self.s) * 8) + integer(np.log2(self.a) * 8) + len(ps) * np.log(points)
        )

    def covers(self, error, ps):
        """Nats of each cover, by its name."""
        u = self.a / error * np.exp(1e-4)
        if u <= 1:
            return {"point": 0.0}
        found = {
            "direct": len(self.sigma) * self.m * self.n * np.log1p(2 * u),
            "ball": ball(self.m * min(self.soft(p) for p in ps) * u**2),
        }
        for p, split in product(ps, SPLITS):
            net = (self.m + self.n) * np.log1p(4 * u / (1 - split))
            v, r = u / split, self.soft(p)
            best = np.sqrt(max(p * net / ((2 - p + 1e-3) * 2 * self.m), 1))
            best = min(best, max(v, 1))  # the threshold over the tail's share of the error
            for name, t in (("dropped", 1.0), ("tail", best)):
                k = min(np.floor(r * (v / t) ** p * (1 + 1e-4)), self.most)
                tail = ball(self.m * t ** (2 - p) * r * v**p) if name == "tail" else 0
                nats = k * net + tail + self.of_ranks
                found[name] = min(nats, found.get(name, np.inf))
        return found

    def nats(self, error, ps):
        return min(self.covers(error, ps).values())


def ball(q):
    return 2 * q + 1 + np.log(1 + 2 * q)


def whole(layers, eps, reach, ps):
    depth = sum(x.uses for x in layers)
    shares, total = [1 / depth] * len(layers), 0.0
    for i in range(3):
        nats = [
            x.nats(w * eps / reach * x.s / x.gather, ps)
            for x, w in zip(layers, shares, strict=True)
        ]
        total = sum(x.uses * c for x, c in zip(layers, nats, strict=True))
        if i < 2:
            shares = [0.1 / depth + 0.9 * (c / total if total else 1 / depth) for c in nats]
    return total


def shortest_chain(scales, totals, n):
    """The smallest sum over all chains, by recursion from the coarsest scale on."""
    links = {0: 0.0}
    for j in range(1, len(scales)):
        root = np.sqrt(2 * totals[j - 1] / n)
        first = [0.5 * root]
        links[j] = min(first + [links[i] + (scales[i] + scales[j]) * root for i in range(1, j)])
    return min(links[j] + scales[j] for j in range(1, len(scales)))


def by_hand(layers, sample, gamma, ps, delta=0.05):
    n, g = int(sample.n), np.floor(8 * np.log2(gamma) + 1e-3)
    reach = float(sample.frobenius) / np.sqrt(n)
    reach *= np.prod([(x.rho * x.s) ** x.uses for x in layers])
    totals = [whole(layers, 2 ** (g / 8) * eta / np.sqrt(2), reach, ps) for eta in GRID[1:]]
    rademacher = shortest_chain(GRID, totals, n)
    code = sum(x.code(ps) for x in layers) + integer(g)
    return 2 * rademacher + 3 * np.sqrt((code + np.log(1 / delta)) / (2 * n))


@pytest.mark.parametrize("p", [None, 0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("gamma", [0.9, 3e-3])
def test_by_hand(p, gamma):
    bound = chained(p=p, gamma=gamma, delta=0.02)
    layers = [Layer([a]) for a in networks.matrices(PARAMS)]
    ps = (0.0, 0.5, 1.0, 2.0) if p is None else (p,)
    assert float(bound.value) == pytest.approx(by_hand(layers, SAMPLE, gamma, ps, 0.02), rel=1e-9)
    whole = float(jnp.sum(bound.per_layer) + bound.terms["rest"])
    assert whole == pytest.approx(float(bound.value), rel=1e-12)
    assert float(bound.terms["rademacher"]) < 0.5 * float(bound.value)
    assert (bound.quantity, bound.kind) == ("gap", "explicit")


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_wide_layers_are_covered_as_balls(scale):
    """A flat spectrum, a small product: the tails decide, without a single singular value."""
    rng = np.random.default_rng(2)
    params = {k: {"kernel": jnp.asarray(scale * rng.normal(size=(120, 120)) / 20)} for k in "ab"}
    sample = networks.sample(2, n=10**6, dimension=120)
    layers = [Layer([a]) for a in networks.matrices(params)]
    bound = chained(networks.measured(params), sample, p=2.0)
    assert float(bound.value) == pytest.approx(by_hand(layers, sample, 0.5, (2.0,)), rel=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_is_covered_once_and_patches_overlap(groups):
    rng = np.random.default_rng(0)
    params = {
        "c": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4 // groups, 4)))},
        "d": {"kernel": jnp.ones((144, 2))},
    }

    def apply(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["c"]["kernel"], (1, 1), "SAME", feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jax.nn.relu(x).reshape(len(x), -1) @ params["d"]["kernel"]

    measured = measure(describe(params, apply=apply, example=jnp.ones((1, 6, 6, 4))), params)
    sample = networks.sample(2, n=10**6)
    kernel = np.asarray(params["c"]["kernel"]).reshape(-1, 4).T
    norm = float(measured.operator_norm[0])
    blocks = list(kernel.reshape(groups, -1, kernel.shape[1]))
    layers = [Layer(blocks, norm, gather=3.0), Layer([np.ones((2, 144))])]
    for ps in ((0.5,), (0.0, 0.5, 1.0, 2.0)):
        bound = chained(measured, sample, p=ps[0] if len(ps) == 1 else None)
        assert float(bound.value) == pytest.approx(by_hand(layers, sample, 0.5, ps), rel=1e-9)
    by_name = {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}}
    with pytest.raises(Inapplicable, match="positions"):
        chained(measure(describe(by_name), by_name))


def test_the_ranks_of_parallel_matrices_are_paid():
    rng = np.random.default_rng(0)
    blocks = [np.outer(rng.normal(size=32), rng.normal(size=64)) / 40 for _ in range(2)]
    params = {"k": jnp.asarray(np.concatenate(blocks).T[None, None])}

    def apply(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["k"], (1, 1), "SAME", feature_group_count=2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return x.reshape(len(x), -1)

    structure = describe(params, apply=apply, example=jnp.ones((1, 1, 1, 128)))
    cover = _Cover(Facts(measure(structure, params), Sample.of_size(100)), jnp.zeros(1))
    covers = Layer(blocks).covers(0.1, (0.0,))
    assert min(covers, key=covers.__getitem__) == "dropped"
    found = float(cover(jnp.log(jnp.asarray([0.1])))[0, 0])
    assert found == pytest.approx(covers["dropped"], rel=1e-9)


def test_a_tied_matrix_is_as_many_layers_but_one_code():
    kernel = 0.7 * networks.exact_rank(12, 2, 1)["l00"]["kernel"]

    def apply(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    measured = measure(
        describe({"w": kernel}, apply=apply, example=jnp.ones((1, 12))), {"w": kernel}
    )
    sample = networks.sample(1, n=10**5, dimension=12)
    layer = Layer([np.asarray(kernel).T], uses=2)
    expected = by_hand([layer], sample, 0.5, (1.0,))
    assert float(chained(measured, sample, p=1.0).value) == pytest.approx(expected, rel=1e-9)


# The lemmas.


def distances(points):
    return np.sqrt(np.mean((points[:, None] - points[None]) ** 2, -1))


def greedy(distance, radius):
    """Indices of a maximal set with distances above the radius: a net."""
    left, chosen = np.ones(len(distance), bool), []
    while left.any():
        chosen.append(int(np.argmax(left)))
        left &= distance[chosen[-1]] > radius
    return chosen


def complexity(values):
    """The exact Rademacher complexity of a finite set of vectors."""
    signs = np.array(list(product((-1, 1), repeat=values.shape[1])))
    return np.mean(np.max(values @ signs.T, 0)) / values.shape[1]


@pytest.mark.parametrize("kind", ["cube", "line", "random"])
def test_the_chain_bounds_the_complexity_of_finite_classes(kind):
    n, rng = 9, np.random.default_rng(1)
    values = {
        "cube": np.array(list(product((0.0, 1.0), repeat=n))),
        "line": np.linspace(0, 1, 200)[:, None] * rng.uniform(size=n),
        "random": rng.uniform(size=(60, n)) ** 3,
    }[kind]
    distance = distances(values)
    nats = np.log([len(greedy(distance, r)) for r in GRID[1:]])
    parts, radius = chain(jnp.asarray(GRID), jnp.asarray(nats)[:, None], jnp.asarray(float(n)))
    bound, true = float(jnp.sum(parts) + radius), complexity(values)
    assert true <= bound
    if kind == "cube":  # 1/2, against sqrt(2 log 2) / 2
        assert bound < 1.2 * true


def dudley(nats, n):
    """``4 a + 12 / sqrt(n) int_a^{1/2} sqrt(nats)``, the smallest over a."""
    radii = np.geomspace(1e-6, 0.5, 20001)
    roots = np.sqrt(nats(radii))
    steps = np.diff(radii) * (roots[1:] + roots[:-1]) / 2
    integral = np.append(np.cumsum(steps[::-1])[::-1], 0)
    return np.min(4 * radii + 12 / np.sqrt(n) * integral)


@pytest.mark.parametrize(
    "nats",
    [
        lambda r: 50 * np.log(1 + 20 / r),
        lambda r: 3 / r**2,
        lambda r: 30 / r**0.5,
    ],
)
def test_the_chain_is_below_the_integral_of_dudley_and_falls_as_scales_are_added(nats):
    n, values = 5000.0, []
    for per_octave in (0.5, 1, 2, 4, 8):
        scales = 0.5 * 2 ** (-np.arange(20 * per_octave + 1) / per_octave)
        c = jnp.asarray(nats(scales[1:]))[:, None]
        parts, radius = chain(jnp.asarray(scales), c, jnp.asarray(n))
        values.append(float(jnp.sum(parts) + radius))
    assert all(b <= a + 1e-12 for a, b in pairwise(values))
    assert values[2] < dudley(nats, n)
    assert values[2] < 1.15 * values[-1]


def test_covers_that_are_built_cover_and_are_no_larger():
    """2 x 2 matrices, split: factors of the top from two nets, tails from a third."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 7)) * np.array([[1.0], [0.4]])
    b, a, error, split = np.linalg.norm(z), 1.0, 0.6, 0.5
    for p, threshold in ((0.5, 0.25), (1.0, 0.4)):
        first = rng.uniform(0.05, a, 1500)
        u, v = (np.linalg.qr(rng.normal(size=(1500, 2, 2)))[0] for _ in range(2))
        sigma = np.stack([first, first * rng.uniform(0, 1, 1500)], 1)
        radius = 1.3
        sigma = sigma[np.sum(sigma**p, 1) ** (1 / p) <= radius]
        u, v = u[: len(sigma)], v[: len(sigma)]
        large = np.where(sigma > threshold, sigma, 0)
        k = int(np.floor((radius / threshold) ** p * (1 + 1e-12)))
        assert np.max(np.sum(large > 0, 1)) <= k
        small = np.einsum("bij,bj,bkj->bik", u, sigma - large, v)
        # The tails: a maximal separated set of them, as the sample sees them.
        seen = (small @ z).reshape(len(small), -1)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        tails = greedy(distance, split * error * b)
        q = 2 * threshold ** (2 - p) * radius**p / (split * error) ** 2
        assert np.log(len(tails)) <= float(_of_ball(jnp.log(q)))
        # The top: rank 1 at most, here; nets of both factors in their disk.
        one = np.sum(large > 0, 1) <= 1
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 61)] * 2), -1).reshape(-1, 2)
        grid = np.sqrt(a) * grid[np.linalg.norm(grid, axis=1) <= 1]
        resolution = (1 - split) * error / (2 * np.sqrt(a))
        far = np.linalg.norm(grid[:, None] - grid[None], axis=-1)
        net = grid[greedy(far, resolution - 0.024)]  # 0.024: the mesh itself
        assert 2 * np.log(len(net)) <= 4 * np.log1p(4 * a / ((1 - split) * error))
        left = u[one, :, 0] * np.sqrt(large[one, :1])
        right = v[one, :, 0] * np.sqrt(large[one, :1])
        near = [
            net[np.argmin(np.linalg.norm(x[:, None] - net[None], axis=-1), 1)]
            for x in (left, right)
        ]
        top = near[0][:, :, None] * near[1][:, None, :]
        tail = small[np.array(tails)[np.argmin(distance[one][:, tails], 1)]]
        exact = np.einsum("bij,bj,bkj->bik", u[one], sigma[one], v[one])
        gap = np.linalg.norm(((exact - top - tail) @ z).reshape(len(top), -1), axis=1)
        assert 0.2 * error * b < np.max(gap) <= error * b


def test_the_ball_is_never_smaller_than_by_volume():
    """``(t / eps)^m`` balls at least cover a ball of dimension m: one column, one example."""
    for m in (1, 2, 5, 20, 100, 1000):
        for ratio in (0.1, 1.0, 1.2, 1.5, 2.0, 5.0):
            bound = float(_of_ball(jnp.log(m * ratio**2)))
            assert bound >= max(m * np.log(ratio), 0)
            assert bound <= 2 * m * ratio**2 + 2 + np.log(m * ratio**2 + 1)


@pytest.mark.parametrize("last", [0.0, 1.0])
def test_networks_that_are_apart_fit_into_the_cover(last):
    """At most one of networks that are more than 2 eps apart is within eps of a center."""
    rng = np.random.default_rng(6)
    params = {"a": {"kernel": jnp.asarray([[2.0]])}, "b": {"kernel": jnp.asarray([[3.0, -1.0]])}}
    reference = {"a": {"kernel": jnp.zeros((1, 1))}, "b": {"kernel": last * params["b"]["kernel"]}}
    x = rng.uniform(0.5, 1, 40)
    sample = Sample(n=40, radius=1.0, frobenius=np.linalg.norm(x))
    cover = _Cover(Facts(networks.measured(params, reference), sample), jnp.full(2, 0.5))
    first, angle = rng.uniform(-2, 2, 2000), rng.uniform(0, 2 * np.pi, 2000)
    second = 10**0.5 * np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0, 1, 2000) ** 0.5
    if last:
        second = np.array([[3.0], [-1.0]]) * np.ones(2000)
    outputs = second[:, :, None] * np.maximum(first[:, None] * x, 0)
    outputs = outputs.transpose(1, 0, 2).reshape(2000, -1) / np.sqrt(40)
    distance = cdist(outputs, outputs)
    for eps in (0.02, 0.1, 0.5, 1.0):
        nats = float(jnp.sum(cover(jnp.log(jnp.asarray([eps])))))
        apart = len(greedy(distance, 2 * eps))
        assert np.log(apart) <= nats
        assert nats < 4 * np.log(apart) + 15


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3, 1, 2]])
def test_the_complexity_of_a_sampled_class_is_below_the_bound(sizes):
    n, rng = 4000, np.random.default_rng(4)
    params = networks.chain(sizes, seed=1)
    x, y = rng.normal(size=(n, sizes[0])), rng.integers(0, 2, n)
    sample = Sample(n=n, radius=9.0, frobenius=np.linalg.norm(x))
    gamma = 2.0**-2
    bound = chained(networks.measured(params), sample, gamma=gamma)
    norms = [np.linalg.norm(a, 2) for a in networks.matrices(params)]
    losses = []
    for _ in range(1500):
        h = x.T
        for i, (norm, a) in enumerate(zip(norms, networks.matrices(params), strict=True)):
            other = rng.normal(size=a.shape)
            spectrum = np.linalg.svd(a, compute_uv=False)
            u, _, vt = np.linalg.svd(other, full_matrices=False)
            h = u @ ((spectrum[:, None] * rng.choice([1, 0.9]) * vt) @ h)
            assert norm >= spectrum[0]
            h = np.maximum(h, 0) if i == 0 else h
        margin = np.where(y == 0, h[0] - h[1], h[1] - h[0])
        losses.append(np.clip(1 - margin / gamma, 0, 1))
    signs = rng.choice([-1.0, 1.0], size=(n, 300))
    found = np.mean(np.max(np.array(losses) @ signs, 0)) / n
    assert 0.01 < found <= float(bound.terms["rademacher"]) < 0.5


# Laws.


def squared(width=64, rank=2, depth=3, n=10**6, gamma=0.5, **options):
    measured = networks.measured(networks.exact_rank(width, rank, depth))
    sample = Sample.of_size(n, radius=1.0)
    bound = chained(measured, sample, gamma=gamma, **options)
    return float(bound.terms["rademacher"] - bound.terms["radius"]) ** 2


def test_scaling_of_exact_rank():
    """Nats are ``L W r log(L T)``, so the square of the complexity is that over n."""
    base = squared(p=0.0)
    assert squared(p=0.0, width=128) / base == pytest.approx(2, rel=1e-6)
    assert squared(p=0.0, rank=4) / base == pytest.approx(2, rel=1e-2)
    assert base / squared(p=0.0, n=10**8) == pytest.approx(100, rel=1e-2)
    assert 2 < squared(p=0.0, depth=6) / base < 2.5
    levels = [squared(p=0.0, gamma=2.0**-k) for k in (20, 40, 60, 80)]
    steps = np.diff(levels)
    assert steps[1] / steps[0] == pytest.approx(1, rel=0.05)
    assert steps[2] / steps[1] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "decay", "p", "eps"),
    [
        ("point", (10, 20), 0.0, 1.0, 1.2),
        ("direct", (10, 20), 0.0, 1.0, 1e-3),
        ("ball", (40, 2000), 0.0, 2.0, 0.5),
        ("dropped", (40, 40), 4.0, 0.5, 0.1),
        ("tail", (300, 600), 1.0, 1.0, 0.1),
        ("tail", (300, 600), 1.0, 1.5, 0.05),
    ],
)
def test_each_cover_is_the_smallest_somewhere(name, shape, decay, p, eps):
    rng = np.random.default_rng(0)
    rank = min(shape)
    u, v = (np.linalg.qr(rng.normal(size=(x, rank)))[0] for x in shape)
    matrix = (u * np.arange(1, rank + 1) ** -decay) @ v.T
    measured = networks.measured({"a": {"kernel": jnp.asarray(matrix.T)}})
    cover = _Cover(Facts(measured, Sample.of_size(100)), jnp.full(1, p))
    covers = Layer([matrix]).covers(eps, (p,))
    assert min(covers, key=covers.__getitem__) == name
    found = float(cover(jnp.log(jnp.asarray([eps])))[0, 0])
    assert found == pytest.approx(covers[name], rel=1e-9)


def test_scaling_of_balls():
    """At p = 2, one layer: ``2 m r T^2`` nats, without the number of columns."""
    rng = np.random.default_rng(0)
    found = {}
    for rows, columns, scale in (
        (40, 4000, 1.0),
        (40, 8000, 1.0),
        (40, 4000, 2.0),
        (20, 4000, 1.0),
    ):
        q, _ = np.linalg.qr(rng.normal(size=(columns, rows)))
        measured = networks.measured({"a": {"kernel": jnp.asarray(scale * q)}})
        cover = _Cover(Facts(measured, Sample.of_size(100)), jnp.full(1, 2.0))
        found[rows, columns, scale] = float(cover(jnp.log(jnp.asarray([0.5])))[0, 0])
    base = found[40, 4000, 1.0]
    assert found[40, 8000, 1.0] == pytest.approx(base, rel=1e-6)
    assert found[40, 4000, 2.0] / base == pytest.approx(4, rel=1e-2)
    assert base / found[20, 4000, 1.0] == pytest.approx(4, rel=1e-2)  # r is 20 as well


def test_it_is_the_smaller_form_where_inputs_are_many():
    """Balls do not know the number of columns; the nets of the one-scale form do."""
    rng, found = np.random.default_rng(0), []
    for columns in (4000, 20000):
        q, _ = np.linalg.qr(rng.normal(size=(columns, 2)))
        measured = networks.measured({"a": {"kernel": jnp.asarray(q)}})
        sample = Sample(n=60000, radius=1.0, frobenius=60000**0.5, margins=jnp.ones(60000))
        bounds = (
            chained(measured, sample, gamma=1.0),
            rank_sparse(measured, sample, kind="explicit"),
        )
        found.append([float(bound.value) for bound in bounds])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    assert found[0][1] < found[0][0] < found[1][1]


def test_without_p_all_powers_serve_and_cost_little():
    free = chained()
    for p in (0.0, 0.5, 1.0, 2.0):
        alone = chained(p=p)
        assert float(free.terms["rademacher"]) <= float(alone.terms["rademacher"]) + 1e-12
        assert float(free.value - alone.value) < 0.02


def test_a_network_at_its_reference_is_one_point():
    bound = chained(networks.measured(PARAMS, PARAMS))
    assert float(jnp.sum(bound.per_layer)) == 0
    assert float(bound.terms["radius"]) == pytest.approx(GRID[-1])


def test_float32_rounds_in_the_safe_direction():
    structure = networks.structure_of(PARAMS)
    single = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    double = jax.tree.map(lambda a: a.astype(float), single)
    for gamma in (0.3, 1e-2, 1e-4, 1e-12):
        low = chained(measure(structure, double), gamma=gamma)
        high = chained(measure(structure, single), gamma=gamma)
        assert high.value.dtype == jnp.float32
        assert float(low.value) * (1 - 1e-5) <= float(high.value)
        assert float(high.value) == pytest.approx(float(low.value), rel=1e-3)


@pytest.mark.parametrize("p", [None, 0.5, 2.0])
def test_the_derivative_lowers_the_bound(p):
    structure = networks.structure_of(PARAMS)

    @jax.jit
    @jax.value_and_grad
    def both(params):
        return jnp.sum(chained(measure(structure, params), p=p).per_layer)

    here, slope = both(PARAMS)
    assert all(np.all(np.isfinite(a)) and np.any(a != 0) for a in jax.tree.leaves(slope))
    size = np.sqrt(sum(float(jnp.sum(a**2)) for a in jax.tree.leaves(slope)))
    lower = jax.tree.map(lambda w, s: w - 0.1 / size * s, PARAMS, slope)
    assert float(both(lower)[0]) < float(here)


def test_the_derivative_sees_the_singular_values_that_are_counted():
    """Counts are whole; their derivative is that of the formula before rounding."""
    sizes = np.arange(1, 41) ** -4.0
    params = {"a": {"kernel": jnp.diag(jnp.asarray(sizes))}}
    structure = networks.structure_of(params)

    def nats(params):
        cover = _Cover(Facts(measure(structure, params), Sample.of_size(100)), jnp.full(1, 0.5))
        return cover(jnp.log(jnp.asarray([0.1])))[0, 0]

    slope = np.diag(np.asarray(jax.jit(jax.grad(nats))(params)["a"]["kernel"]))[1:5]
    assert np.all(slope > 0)
    # k is a sum of roots: each value's share in it, per unit of its logarithm, is its root.
    ratios = slope * sizes[1:5] ** 0.5
    assert ratios == pytest.approx(np.full(4, ratios[0]), rel=1e-6)


def test_a_traced_p_and_margin_compile_once_and_what_is_no_margin_is_nan():
    traces = []

    @jax.jit
    def value(p, gamma):
        traces.append(p)
        return chained(p=p, gamma=gamma).value

    assert float(value(1.0, 0.5)) == pytest.approx(float(chained(p=1.0).value))
    assert np.isnan(float(value(1.0, -0.5)))
    assert np.isnan(float(value(2.5, 0.5)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"p": 2.1}, r"p: got .* must be in \[0, 2"),
        ({"p": -0.1}, r"p: got .* must be in \[0, 2"),
        ({"gamma": 0.0}, "gamma: got 0"),
        ({"delta": 1.0}, "delta: got 1.0"),
        ({"eps": 0.1}, "kind: got 'explicit'; then last_width, eps"),
        ({"gamma": None, "sample": Sample.of_size(10)}, "margins"),
    ],
)
def test_wrong_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        chained(**options)
    with pytest.raises(ValueError, match="form: got 'chained', must be one of 'plain', 'augm"):
        rank_sparse(MEASURED, SAMPLE, form="chained")
