"""Bounds and Schatten powers as loss terms, and Optax transformations.

What the penalties take: ``structure`` from ``describe`` and ``params``, by position; ``weight``,
one factor or a mapping from paths or patterns (``"block_*/query/kernel"``) to factors (1 for layers
that it does not name); ``reference``, a tree with matrices ``M_l`` to subtract (``None``: 0);
``p``, ``eps`` (relative to the largest singular value of each matrix by default), ``eps_mode`` and
``method`` as in ``matrix.schatten_power``. They return a scalar. A structure that is none, a tree
that does not fit it and an unknown path are a ``ValueError``.

What the transformations take: ``structure``, or a function of the parameters such as ``describe``
itself; a strength (``weight``, ``radius`` or ``rank``), ``p`` and ``eps``, each a number or a
schedule, the strength also a mapping from paths or patterns to such (layers that it does not name
are left alone); ``every``, the period in steps (``None``: each step). An ``every`` that is no whole
number >= 1, a negative number or an unknown path is a ``ValueError``; so are, at the update,
parameters that are ``None`` or do not fit.
"""

from rankjax.training._after_step import apply_schatten_flow as apply_schatten_flow
from rankjax.training._after_step import project_rank as project_rank
from rankjax.training._after_step import project_spectral_norm as project_spectral_norm
from rankjax.training._after_step import proximal_schatten as proximal_schatten
from rankjax.training._decay import DecayState as DecayState
from rankjax.training._decay import add_schatten_decay as add_schatten_decay
from rankjax.training._factor_files import load_factorized as load_factorized
from rankjax.training._factor_files import save_factorized as save_factorized
from rankjax.training._factorize import EffectiveParams as EffectiveParams
from rankjax.training._factorize import Factors as Factors
from rankjax.training._factorize import densify as densify
from rankjax.training._factorize import effective_params as effective_params
from rankjax.training._factorize import factorize as factorize
from rankjax.training._linear_networks import balanced_factors as balanced_factors
from rankjax.training._linear_networks import imbalance as imbalance
from rankjax.training._linear_networks import (
    schatten_from_weight_decay as schatten_from_weight_decay,
)
from rankjax.training._lora import lora_pairs as lora_pairs
from rankjax.training._lora import lora_schatten_penalty as lora_schatten_penalty
from rankjax.training._lowrank import lowrank as lowrank
from rankjax.training._merge_nnx import merge_nnx as merge_nnx
from rankjax.training._metrics import RecordState as RecordState
from rankjax.training._metrics import metrics as metrics
from rankjax.training._metrics import record_metrics as record_metrics
from rankjax.training._muon import muon_dimension_numbers as muon_dimension_numbers
from rankjax.training._orthogonalize import orthogonalize as orthogonalize
from rankjax.training._penalties import log_det_penalty as log_det_penalty
from rankjax.training._penalties import nuclear_penalty as nuclear_penalty
from rankjax.training._penalties import rank_sparse_penalty as rank_sparse_penalty
from rankjax.training._penalties import schatten_penalty as schatten_penalty
from rankjax.training._penalties import stable_rank_penalty as stable_rank_penalty
from rankjax.training._schatten_flow import SchattenFlow as SchattenFlow
