"""How far a network moves in truth, next to how far its recursion says."""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rankjax.certificates.theorem import _counting, _nodes
from rankjax.certificates.theorem._counting import Counter, limits_of
from rankjax.certificates.theorem._distances import measure
from rankjax.certificates.theorem._network import Network


@contextmanager
def in_numpy():
    """The formulas on a few numbers, without a call of XLA for each sum."""
    with (
        mock.patch.object(_nodes, "jnp", np),
        mock.patch.object(_counting, "jnp", np),
        np.errstate(all="ignore"),
    ):
        yield


@dataclass
class Watched:
    """A network with coded weights, looked at on one example.

    Attributes:
        function: of ``(params, x)``, whose logits ``forward`` gives.
        params: a tree that it takes.
    """

    network: Network
    coded: np.ndarray
    x: Any
    function: Any = None
    params: Any = None

    def __post_init__(self):
        self.one = jax.tree.map(jnp.asarray, self.x)

        @jax.jit
        def run(weights, one):
            recorder, logits, _, _ = self.network._read(weights, one)
            slots = [recorder.slots[i] for i in self.network._slots]
            true = None
            if self.function is not None:
                batch = jax.tree.map(lambda a: a[None], one)
                true = self.function(fill(self.params, self.network, weights), batch)[0]
            return slots, logits, true

        @jax.jit
        def off(weights, one):
            recorder, _, tag, _ = self.network._read(weights, one)
            return recorder.moved(tag).rounding

        self.run = lambda weights: run(np.asarray(weights), self.one)
        self.off = lambda weights: float(off(np.asarray(weights), self.one))
        slots, logits, _ = self.run(self.coded)
        self.slots, self.logits = np.array([float(s) for s in slots]), np.asarray(logits)
        self.counter = Counter(self.network)
        self.norms = self.counter.norms(self.coded)

    def distances(self, change):
        """As measured: what a certificate would code, to the last digit."""
        return np.array([measure(d, change) for d in self.network.distances])

    def bound(self, distances):
        """Of the logits, where the recursion ends with them."""
        with in_numpy():
            arrays: Any = self.slots[:, None], np.asarray(distances), self.norms[0]  # not of JAX
            bounds = self.network.recursion.perturbations(*arrays)
        return float(np.max(bounds[self.network.output]))

    def limits(self, distances, y):
        """``(classes,)``: how far ``f_y - f_j`` may move."""
        with in_numpy():
            found = limits_of(
                self.network, self.slots[:, None], np.array([y]), *self.norms, np.asarray(distances)
            )
        return np.broadcast_to(found[0], self.logits.shape)

    def forward(self, weights):
        """The logits of other weights, by the function itself."""
        return np.asarray(self.run(weights)[2])

    def jacobian(self, step=1e-5):
        """``(logits, weights)``, from central differences."""
        ends = [
            [self.forward(self.coded + s * step * e) for s in (1, -1)]
            for e in np.eye(len(self.coded))
        ]
        return np.stack([(a - b) / (2 * step) for a, b in ends], axis=1)


def fill(params, network, weights):
    """The tree of parameters with these weights."""
    leaves = [network.leaves.leaf(weights, i) for i in range(len(network.leaves.paths))]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def fitted(network, change, allowed):
    """Each leaf of a change as large as all distances allow."""
    starts, fit = network.leaves.starts, np.zeros_like(change)
    for i in range(len(starts) - 1):
        alone = np.zeros_like(change)
        alone[starts[i] : starts[i + 1]] = change[starts[i] : starts[i + 1]]
        sizes = [measure(d, alone) for d in network.distances]
        ratios = [a / s for a, s in zip(allowed, sizes, strict=True) if s > 0]
        fit += alone * min(ratios, default=0.0)
    # Distances that several leaves share.
    sizes = [measure(d, fit) for d in network.distances]
    return fit * min((a / s for a, s in zip(allowed, sizes, strict=True) if s > 0), default=0.0)


def directions(network, gradient):
    """Changes that a linear function grows along, for distances of every kind."""
    polar, rows = gradient.copy(), gradient.copy()
    for distance in network.distances:
        index = distance.entries.index
        if distance.kind == "spectral" and len(np.unique(index)) == index.size:
            for numbers in index:
                u, s, vt = np.linalg.svd(gradient[numbers], full_matrices=False)
                polar[numbers] = (u * (s > 1e-9 * s.max(initial=0.0))) @ vt
        if distance.kind == "row":
            sizes = np.linalg.norm(gradient[index], axis=1, keepdims=True)
            rows[index] = gradient[index] / np.where(sizes > 0, sizes, 1)
    return gradient, polar, rows


def steepest(watched, jacobian, size, rng, starts=2):
    """The largest ``|J change|`` found among changes of coded distances ``size``."""
    allowed = np.full(len(watched.network.distances), size)
    best, best_change = -1.0, None
    for _ in range(starts):
        change = fitted(watched.network, rng.normal(size=len(watched.coded)), allowed)
        for _ in range(25):
            moved = jacobian @ change
            if np.linalg.norm(moved) > best:
                best, best_change = float(np.linalg.norm(moved)), change
            candidates = [
                fitted(watched.network, d, allowed)
                for d in directions(watched.network, jacobian.T @ moved)
            ]
            change = max(candidates, key=lambda c: float(np.linalg.norm(jacobian @ c)))
    return best, best_change
