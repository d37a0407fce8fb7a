"""Which matrices a parameter tree holds, and what is measured of them and of the data."""

from rankjax.network._convolution import Convolution as Convolution
from rankjax.network._cushions import Cushions as Cushions
from rankjax.network._describe import describe as describe
from rankjax.network._left_out import LeftOut as LeftOut
from rankjax.network._left_out import Reason as Reason
from rankjax.network._measure import measure as measure
from rankjax.network._measured import Measured as Measured
from rankjax.network._measured import MeasuredLayer as MeasuredLayer
from rankjax.network._outputs import OutputMoments as OutputMoments
from rankjax.network._perturbed import Perturbed as Perturbed
from rankjax.network._ranks import activation_ranks as activation_ranks
from rankjax.network._ranks import weight_ranks as weight_ranks
from rankjax.network._sample import Sample as Sample
from rankjax.network._structure import Layer as Layer
from rankjax.network._structure import Structure as Structure
from rankjax.network._view import View as View
