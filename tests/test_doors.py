"""Every function of a structure and parameters refuses them in the wrong order, and others'."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankjax
from rankjax import bounds, certificates, network, report, training

PARAMS = {"a": {"kernel": jnp.eye(3, 4)}, "b": {"kernel": jnp.eye(4, 2)}}
OTHER = {"a": {"kernel": jnp.eye(4, 4)}, "b": {"kernel": jnp.eye(4, 2)}}
X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.zeros(20, int)


def apply(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


STRUCTURE = rankjax.describe(PARAMS, apply=apply, example=X[:1])
SAMPLE = rankjax.Sample.of_size(20)
NEIGHBOR = certificates.compress(STRUCTURE, PARAMS)
DOORS = {
    "measure": lambda s, p: network.measure(s, p),
    "compare": lambda s, p: bounds.compare(s, p, X, Y, apply=apply),
    "compare of a sample": lambda s, p: bounds.compare(s, p, sample=SAMPLE, gamma=1.0),
    "Sample": lambda s, p: network.Sample.from_data(s, p, X, Y, apply=apply),
    "Cushions": lambda s, p: network.Cushions.from_data(s, p, X, apply=apply),
    "activation_ranks": lambda s, p: network.activation_ranks(s, p, X, apply=apply),
    "schatten_penalty": lambda s, p: training.schatten_penalty(s, p, p=0.5),
    "nuclear_penalty": training.nuclear_penalty,
    "stable_rank_penalty": training.stable_rank_penalty,
    "log_det_penalty": lambda s, p: training.log_det_penalty(s, p, eps=0.1),
    "rank_sparse_penalty": lambda s, p: training.rank_sparse_penalty(s, p, SAMPLE, p=0.5),
    "metrics": training.metrics,
    "effective_params": training.effective_params,
    "factorize": lambda s, p: training.factorize(s, p, ranks=1),
    "certify": lambda s, p: certificates.certify(s, p, X, Y, apply=apply),
    "certify_near": lambda s, p: certificates.certify_near(
        s, p, X, Y, apply=apply, neighbor=NEIGHBOR
    ),
    "compress": certificates.compress,
    "analyze": lambda s, p: report.analyze(p, structure=s),
    "sequential": lambda s, p: report.sequential("dense relu dense", s, p),
}


@pytest.mark.parametrize("name", DOORS)
def test_swapped_arguments_and_other_parameters_are_refused(name):
    with pytest.raises(ValueError, match=r"^structure: got dict, must be a Structure"):
        DOORS[name](PARAMS, STRUCTURE)
    with pytest.raises(ValueError, match=r"'a/kernel'.* has shape \(4, 4\)"):
        DOORS[name](STRUCTURE, OTHER)


BOUNDS = [
    getattr(bounds, name)
    for name in dir(bounds)
    if (function := getattr(bounds, name)).__class__ is type(apply)
    and list(inspect.signature(function).parameters)[:2] == ["measured", "sample"]
]


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.__name__)
def test_a_bound_refuses_a_sample_for_measurements(bound):
    measured = network.measure(STRUCTURE, PARAMS)
    more: dict[str, Any] = {"gamma": 1.0} if "gamma" in inspect.signature(bound).parameters else {}
    if bound is bounds.pac_bayes_gaussian:
        more["perturbed"] = network.Perturbed.from_data(
            PARAMS, X, Y, apply=apply, scales=[0.1], draws=1
        )
    with pytest.raises(ValueError, match="measured: got Sample, must be a Measured"):
        bound(SAMPLE, measured, **more)
    with pytest.raises(ValueError, match="sample: got Structure, must be a Sample"):
        bound(measured, STRUCTURE, **more)


def test_there_are_bounds_to_look_at():
    assert len(BOUNDS) == 16
