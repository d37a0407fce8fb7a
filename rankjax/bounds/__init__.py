"""Generalization bounds: each a pure formula of ``Measured`` and ``Sample``."""

from rankjax.bounds.binary_kl import binary_kl as binary_kl
from rankjax.bounds.binary_kl import kl_inverse as kl_inverse
from rankjax.bounds.compression import compression as compression
from rankjax.bounds.convolutional import conv_norm as conv_norm
from rankjax.bounds.frobenius import frobenius as frobenius
from rankjax.bounds.frobenius import one_inf as one_inf
from rankjax.bounds.graf import graf_norm as graf_norm
from rankjax.bounds.graf import graf_parameters as graf_parameters
from rankjax.bounds.pac_bayes import pac_bayes_spectral as pac_bayes_spectral
from rankjax.bounds.pac_bayes_gaussian import pac_bayes_gaussian as pac_bayes_gaussian
from rankjax.bounds.parameter_count import low_rank as low_rank
from rankjax.bounds.parameter_count import parameter_count as parameter_count
from rankjax.bounds.parameter_count import vc as vc
from rankjax.bounds.path_norm import path_norm as path_norm
from rankjax.bounds.rank_sparse import optimal_p as optimal_p
from rankjax.bounds.rank_sparse import rank_sparse as rank_sparse
from rankjax.bounds.result import BoundResult as BoundResult
from rankjax.bounds.sample_complexity import sample_complexity as sample_complexity
from rankjax.bounds.spectral import spectral as spectral
from rankjax.bounds.table import Table as Table
from rankjax.bounds.table import all_bounds as all_bounds
from rankjax.bounds.table import compare as compare
