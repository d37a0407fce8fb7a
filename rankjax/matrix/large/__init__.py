"""Matrices too large to decompose, and convolutions as operators on images: by products alone."""

from rankjax.matrix.large._convolution import NormBound as NormBound
from rankjax.matrix.large._convolution import OperatorNorm as OperatorNorm
from rankjax.matrix.large._convolution import conv_norm_bound as conv_norm_bound
from rankjax.matrix.large._convolution import conv_operator_norm as conv_operator_norm
from rankjax.matrix.large._convolution import conv_singular_values as conv_singular_values
from rankjax.matrix.large._lanczos import SpectralNormBounds as SpectralNormBounds
from rankjax.matrix.large._lanczos import spectral_norm_bounds as spectral_norm_bounds
