"""How a Schatten power is computed: the engines behind ``method=``, one file each.

============= ==================================== ============================ =================
method        how                                  smallest relative eps        cost (m >= n)
============= ==================================== ============================ =================
svd           one SVD                              any, 0 too (the hard form)   1
gram          ``eigh`` of ``A^T A``                sqrt(machine eps), or 0      0.6, less if tall
rational      five shifted inverses of ``A^T A``   8e-3                         7 products
              by products (on accelerators, also
              Cholesky factors of small blocks)
newton_schulz products only (Newton-Schulz)        3e-3 float32, 1e-5 float64   20 to 40 products
ladder        products only, a fit at run time     8e-3                         24 products
============= ==================================== ============================ =================

A smaller relative eps is a ``ValueError`` where it is concrete, and raised to the smallest where it
is traced; a smaller absolute eps is raised. Second derivatives of ``rational``, ``newton_schulz``
and ``ladder`` and derivatives by ``p`` are those of ``gram``. Gradient error in float32 against
float64 at eps = 1e-2: svd 1e-6, gram 1e-5 to 2e-3 (steep spectra), rational 1e-5 (low rank) to 1e-3
from p = 1/2 on, its value 3e-4 (1e-3 at larger eps, 7e-3 where all singular values are in one bad
place), newton_schulz 3e-4 from p = 1 on, 2e-3 at p = 1/2 on low rank (1e-2 at 4096 x 4096), ladder
2e-4 from p = 1/2 on (1e-3 on low rank), its value 2e-3, its derivative by eps a percent.

``auto`` (figures: ``docs/benchmarks.md``):

* ``p = 2``: a sum of squares, whatever method;
* eps = 0 (the hard form), or eps under ``24 sqrt(machine eps)`` (8e-3 in float32): ``svd``;
* float64, and p < 1/2 or p >= 2: ``gram``, for ``p < 1`` or an unknown p with one correction of the
  eigenbasis (two more products; plain ``gram`` was 2e-3 off at p = 1/2 on a steep spectrum, 1e-5
  corrected);
* otherwise, on CPU ``rational``, but under ``RATIONAL_FROM`` rows or columns ``gram``; on
  accelerators ``ladder`` (measured on a GPU; a TPU is treated alike, by reasoning).

Which of the two is seen when the program is compiled, from the platform it is compiled for.

A traced p counts as unknown. Where one of these two is at hand, p is looked at when the program
runs (outside its range ``gram`` answers, with ``method="rational"`` or ``"ladder"`` too); so is a
traced or absolute eps (``lax.cond``, for a batch as a whole, also under ``vmap``; both engines are
compiled, one runs).
"""

from rankjax.matrix.engines._auto import METHODS as METHODS
from rankjax.matrix.engines._auto import Method as Method
from rankjax.matrix.engines._auto import check_eps as check_eps
from rankjax.matrix.engines._auto import resolve as resolve
from rankjax.matrix.engines._auto import threshold as threshold
