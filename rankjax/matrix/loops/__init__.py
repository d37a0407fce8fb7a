"""What a training loop does with a matrix from step to step."""

from rankjax.matrix.loops import warm as warm
from rankjax.matrix.loops._flow import schatten_flow as schatten_flow
