"""Recommended ranks: at an energy, under a budget, and what noise alone would have."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import describe
from rankjax.report import analyze, plan_ranks
from rankjax.report._marchenko_pastur import noise_rank
from rankjax.training import effective_params, factorize

RNG = np.random.default_rng(0)


def matrix(out, in_, sigma, dtype=np.float64):
    left, right = (np.linalg.qr(RNG.normal(size=(n, len(sigma))))[0] for n in (in_, out))
    return jnp.asarray(left * sigma @ right.T, dtype)


def network():
    return {
        "a": {"kernel": matrix(12, 20, [5.0, 2.0, 1.0, 0.5, 0.1])},
        "b": {"kernel": matrix(10, 12, [3.0, 2.9, 2.8, 0.1])},
        "c": {"kernel": matrix(8, 10, [7.0, 0.3, 0.2, 0.1])},
    }


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_every_matrix_keeps_the_energy_and_no_rank_less_would(energy):
    params = network()
    plan = plan_ranks(analyze(params), energy=energy)
    for cut in plan.cuts:
        sigma = np.linalg.svd(params[cut.path[0]]["kernel"], compute_uv=False)
        shares = np.cumsum(sigma**2) / np.sum(sigma**2)
        assert cut.energy == pytest.approx(min(1.0, shares[cut.rank - 1]))
        if cut.path in plan.ranks:
            assert shares[cut.rank - 1] >= energy * (1 - 1e-12)
            assert cut.rank == 1 or shares[cut.rank - 2] < energy


def test_what_is_counted_is_what_factorize_makes():
    params = network()
    structure = describe(params)
    plan = plan_ranks(analyze(params, structure=structure), energy=0.9)
    assert plan.ranks
    small = factorize(structure, params, ranks=plan.ranks)
    sizes = [a.size for a in jax.tree.leaves(small)]
    assert sum(sizes) == plan.parameters[1]
    assert effective_params(structure, params, ranks=plan.ranks).ranks == plan.ranks
    assert plan.bytes_saved == 8 * (plan.parameters[0] - plan.parameters[1])
    assert json.loads(plan.to_json()) == plan.ranks


@pytest.mark.parametrize("budget", [0.25, 0.4, 0.6, 1.0])
def test_a_budget_keeps_the_most_energy_among_all_ranks(budget):
    found = analyze(network())
    plan = plan_ranks(found, budget=budget)
    before, after = plan.parameters
    assert before == 240 + 120 + 80
    assert after <= budget * before
    spectra = [row.singular_values for row in found.rows]
    shares = [np.cumsum(s**2) / np.sum(s**2) for s in spectra]

    def cost(ranks):
        return sum(
            min(r * sum(row.shape), row.parameters)
            for r, row in zip(ranks, found.rows, strict=True)
        )

    def energy(ranks):
        return sum(share[r - 1] for share, r in zip(shares, ranks, strict=True))

    chosen = [cut.rank for cut in plan.cuts]
    others = itertools.product(range(1, 6), repeat=3)
    best = max(energy(ranks) for ranks in others if cost(ranks) <= after)
    assert energy(chosen) == pytest.approx(best)


def test_the_matrices_of_a_stack_get_one_rank():
    stack = jnp.stack([matrix(9, 10, [1.0, 1e-3]), matrix(9, 10, [1.0, 1.0, 1.0])])
    structure = describe({"layers": {"kernel": stack}}, apply=scanned, example=jnp.ones((2, 10)))
    (cut,) = plan_ranks(analyze({"layers": {"kernel": stack}}, structure=structure)).cuts
    assert (cut.path, cut.matrices, cut.rank) == ("layers/kernel", 2, 3)
    assert cut.kept == 2 * 3 * (9 + 10)


def scanned(params, x):
    first, second = params["layers"]["kernel"]
    return jnp.concatenate([x @ first, x @ second], axis=1)


def test_no_budget_goes_to_singular_values_that_are_rounding():
    names = {"a": [3.0, 2.0], "b": np.ones(40)}
    params = {name: {"kernel": matrix(40, 60, sigma)} for name, sigma in names.items()}
    cuts = {cut.path: cut for cut in plan_ranks(analyze(params), budget=0.6).cuts}
    assert (cuts["a/kernel"].rank, cuts["a/kernel"].noise_rank) == (2, 2)


def test_half_precision_counts_two_bytes():
    params = {"kernel": matrix(20, 30, [1.0], jnp.bfloat16)}
    plan = plan_ranks(analyze(params), energy=0.99)
    assert plan.bytes_saved == 2 * (600 - 50)


def test_a_matrix_of_zeros_keeps_rank_one():
    params = {"kernel": jnp.zeros((20, 30))}
    for options in ({"energy": 0.9}, {"budget": 0.5}):
        assert plan_ranks(analyze(params), **options).ranks == {"kernel": 1}


@pytest.mark.parametrize("shape", [(60, 60), (40, 200), (200, 40)])
def test_noise_has_noise_rank_zero_and_spikes_are_counted(shape):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        noise = rng.normal(size=shape)
        found += noise_rank(np.linalg.svd(noise, compute_uv=False), *shape) > 0
    assert found <= 5  # of 100, each with a probability of about 1 %
    left, right = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in shape)
    edge = np.sqrt(shape[0]) + np.sqrt(shape[1])
    spiked = rng.normal(size=shape) + 2 * edge * left @ right.T
    assert noise_rank(np.linalg.svd(spiked, compute_uv=False), *shape) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, r"energy: got 0.0, must be in \(0, 1\]"),
        ({"energy": float("nan")}, "energy: got nan"),
        ({"budget": 1.5}, "budget: got 1.5"),
        ({"budget": 0.01}, "budget: got 0.01, rank 1 everywhere needs 0.164"),
        ({"budget": 0.5, "energy": 0.5}, "budget: give either"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        plan_ranks(analyze(network()), **options)
