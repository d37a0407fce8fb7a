"""What the other packages use of this one beside its public face; no promise is made of it."""

from rankjax.network._activations import ACTIVATIONS as ACTIVATIONS
from rankjax.network._activations import Activation as Activation
from rankjax.network._activations import Match as Match
from rankjax.network._activations import find_activations as find_activations
from rankjax.network._by_shape import LARGE as LARGE
from rankjax.network._by_shape import by_shape as by_shape
from rankjax.network._convolution import Window as Window
from rankjax.network._examples import batches as batches
from rankjax.network._examples import check_labels as check_labels
from rankjax.network._examples import logits_of_one as logits_of_one
from rankjax.network._examples import margin_of as margin_of
from rankjax.network._examples import number_of_examples as number_of_examples
from rankjax.network._factors import pairs as pairs
from rankjax.network._named import Layout as Layout
from rankjax.network._named import Named as Named
from rankjax.network._names import layers_by_name as layers_by_name
from rankjax.network._paths import Skeleton as Skeleton
from rankjax.network._paths import array_paths as array_paths
from rankjax.network._paths import natural_order as natural_order
from rankjax.network._paths import path_string as path_string
from rankjax.network._paths import paths_and_leaves as paths_and_leaves
from rankjax.network._paths import split_arrays as split_arrays
from rankjax.network._sample import positive_margin as positive_margin
from rankjax.network._spread import spread as spread
from rankjax.network._structure import check_structure as check_structure
from rankjax.network._tracing import scan_counts as scan_counts
