"""Generalization bounds: each a pure formula of ``Measured`` and ``Sample``."""

from rankjax.bounds._binary_kl import binary_kl as binary_kl
from rankjax.bounds._binary_kl import kl_inverse as kl_inverse
from rankjax.bounds._compare import all_bounds as all_bounds
from rankjax.bounds._compare import compare as compare
from rankjax.bounds._compression import compression as compression
from rankjax.bounds._conv_norm import conv_norm as conv_norm
from rankjax.bounds._frobenius import frobenius as frobenius
from rankjax.bounds._frobenius import one_inf as one_inf
from rankjax.bounds._graf import graf_norm as graf_norm
from rankjax.bounds._graf import graf_parameters as graf_parameters
from rankjax.bounds._pac_bayes_gaussian import pac_bayes_gaussian as pac_bayes_gaussian
from rankjax.bounds._pac_bayes_spectral import pac_bayes_spectral as pac_bayes_spectral
from rankjax.bounds._parameter_count import low_rank as low_rank
from rankjax.bounds._parameter_count import parameter_count as parameter_count
from rankjax.bounds._parameter_count import vc as vc
from rankjax.bounds._path_norm import path_norm as path_norm
from rankjax.bounds._rank_sparse import optimal_p as optimal_p
from rankjax.bounds._rank_sparse import rank_sparse as rank_sparse
from rankjax.bounds._result import BoundResult as BoundResult
from rankjax.bounds._result import Inapplicable as Inapplicable
from rankjax.bounds._sample_complexity import sample_complexity as sample_complexity
from rankjax.bounds._spectral import spectral as spectral
from rankjax.bounds._table import Table as Table
