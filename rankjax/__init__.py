"""Schatten quasi-norms and rank-sparse generalization bounds for JAX parameter trees."""

import importlib
import typing

import rankjax._caches  # noqa: F401 - early, see there
from rankjax import bounds as bounds
from rankjax import matrix as matrix
from rankjax import network as network
from rankjax.bounds import compare as compare
from rankjax.bounds import optimal_p as optimal_p
from rankjax.bounds import rank_sparse as rank_sparse
from rankjax.matrix import effective_rank as effective_rank
from rankjax.matrix import frobenius_norm as frobenius_norm
from rankjax.matrix import nuclear_norm as nuclear_norm
from rankjax.matrix import numerical_rank as numerical_rank
from rankjax.matrix import schatten_norm as schatten_norm
from rankjax.matrix import schatten_power as schatten_power
from rankjax.matrix import singular_values as singular_values
from rankjax.matrix import soft_rank as soft_rank
from rankjax.matrix import spectral_norm as spectral_norm
from rankjax.matrix import stable_rank as stable_rank
from rankjax.network import Sample as Sample
from rankjax.network import Structure as Structure
from rankjax.network import describe as describe
from rankjax.network import measure as measure

if typing.TYPE_CHECKING:
    from rankjax import certificates as certificates
    from rankjax import training as training
    from rankjax.certificates import certify as certify

__version__ = "0.2.0"


def __getattr__(name: str) -> typing.Any:
    """What takes half of the time of an import, at its first use."""
    if name in ("certificates", "training"):
        return importlib.import_module(f"rankjax.{name}")
    if name == "certify":
        return importlib.import_module("rankjax.certificates").certify
    raise AttributeError(f"module 'rankjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "certificates", "certify", "training"]
