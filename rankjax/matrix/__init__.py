"""One matrix, or a batch ``(..., m, n)``: norms, ranks, derivatives. Independent of networks.

What the functions share. ``a`` is a matrix or a batch of matrices; ``axes = (out, in)`` are the
two axes of the matrix, all others are batch. Results have the batch shape (maps of matrices: the
shape of ``a``) and the dtype of ``a``; float16 and bfloat16 are computed in float32. An empty
matrix gives 0, a NaN or infinite entry gives NaN for that matrix. ``eps_mode`` is ``"relative"``
(``eps`` times ``sigma_1``, held constant under differentiation) or ``"absolute"``; ``method`` is
one of ``"auto"``, ``"svd"``, ``"gram"``, ``"rational"``, ``"newton_schulz"`` and ``"ladder"``,
see ``rankjax.matrix.engines``. Numbers may be traced. Fewer than two axes, wrong ``axes``, a dtype
that is not real floating, an unknown option and a concrete number out of range are a
``ValueError``.
"""

from rankjax.matrix import spectrum as spectrum
from rankjax.matrix._covering import COVERINGS as COVERINGS
from rankjax.matrix._covering import LogCovering as LogCovering
from rankjax.matrix._covering import log_covering_number as log_covering_number
from rankjax.matrix._covering import log_covering_rank as log_covering_rank
from rankjax.matrix._log_det import log_det as log_det
from rankjax.matrix._norms import SpectralNormMethod as SpectralNormMethod
from rankjax.matrix._norms import frobenius_norm as frobenius_norm
from rankjax.matrix._norms import nuclear_norm as nuclear_norm
from rankjax.matrix._norms import schatten_norm as schatten_norm
from rankjax.matrix._norms import spectral_norm as spectral_norm
from rankjax.matrix._polar import polar as polar
from rankjax.matrix._product import product_schatten_power as product_schatten_power
from rankjax.matrix._projections import project_nuclear_ball as project_nuclear_ball
from rankjax.matrix._projections import project_rank as project_rank
from rankjax.matrix._projections import project_spectral_ball as project_spectral_ball
from rankjax.matrix._proximal_maps import ProxMethod as ProxMethod
from rankjax.matrix._proximal_maps import prox_power as prox_power
from rankjax.matrix._proximal_maps import prox_schatten as prox_schatten
from rankjax.matrix._ranks import effective_rank as effective_rank
from rankjax.matrix._ranks import numerical_rank as numerical_rank
from rankjax.matrix._ranks import soft_rank as soft_rank
from rankjax.matrix._ranks import stable_rank as stable_rank
from rankjax.matrix._scalar_power import EpsMode as EpsMode
from rankjax.matrix._schatten_power import schatten_power as schatten_power
from rankjax.matrix._singular_values import SingularValueMethod as SingularValueMethod
from rankjax.matrix._singular_values import singular_values as singular_values
from rankjax.matrix._spectral_functions import spectral_map as spectral_map
from rankjax.matrix._spectral_functions import spectral_sum as spectral_sum
from rankjax.matrix.engines import Method as Method
from rankjax.matrix.large import NormBound as NormBound
from rankjax.matrix.large import OperatorNorm as OperatorNorm
from rankjax.matrix.large import SpectralNormBounds as SpectralNormBounds
from rankjax.matrix.large import conv_norm_bound as conv_norm_bound
from rankjax.matrix.large import conv_operator_norm as conv_operator_norm
from rankjax.matrix.large import conv_singular_values as conv_singular_values
from rankjax.matrix.large import spectral_norm_bounds as spectral_norm_bounds
from rankjax.matrix.loops import schatten_flow as schatten_flow
from rankjax.matrix.loops import warm as warm
