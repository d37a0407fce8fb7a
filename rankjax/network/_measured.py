"""What ``measure`` returns: norms, singular values and ranks of all layers, or of one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from rankjax._linear_algebra import largest
from rankjax.matrix import spectrum
from rankjax.network._structure import Layer, Structure


@dataclass(frozen=True)
class MeasuredLayer:
    """The measurements of one matrix, or of several side by side (groups, experts).

    They are those of ``Measured``: the norms are scalars and ``sigma`` is ``(k,)``. Of several
    matrices, ``sigma``, ``row_norms_moved``, ``tap_norms_moved`` and ``one_inf`` have a leading
    axis; the other norms are those of the linear map that they make together.

    Attributes:
        name: as in ``structure.names``.
        layer: the leaf that holds the matrix.
    """

    name: str
    layer: Layer
    sigma: Array
    sigma_moved: Array
    row_norms_moved: Array
    tap_norms_moved: Array
    one_inf: Array
    spectral_norm: Array
    frobenius_norm: Array
    frobenius_norm_moved: Array
    operator_norm: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "sigma",
        "sigma_moved",
        "row_norms_moved",
        "tap_norms_moved",
        "one_inf",
        "operator_norm",
        "path_norms",
    ],
    meta_fields=["structure"],
)
@dataclass(frozen=True)
class Measured:
    """Measurements of the layers ``A_l`` and of their distance from references ``M_l`` (a pytree).

    ``measured["path"]`` are those of one matrix; a member of a stack is ``measured["path[2]"]``,
    as in ``structure.names``. Tuples hold one array per leaf of ``structure.layers``, with leading
    axes ``(stacked, parallel)``; properties and ranks are ``(layers,)``, one per name.

    Attributes:
        structure: the structure that was measured (static).
        sigma: singular values of ``A_l``, descending.
        sigma_moved: singular values of ``A_l - M_l``, descending.
        row_norms_moved: ``|A_l - M_l|_{2,1}``: sum over output units of the 2-norm of their
            weights.
        tap_norms_moved: the same sum with each row cut into the places of the window: sum over
            output channels and places of the 2-norm over the input channels (for a dense layer: one
            place).
        one_inf: ``|A_l|_{1,inf}``: largest 1-norm of the weights of one output unit.
        operator_norm: ``(layers,)``, an upper bound of the norm of the linear map that the layer
            is: ``|A_l|`` for a dense layer; for a convolution with patch operator ``P`` at most
            ``|P| |A_l|``, see ``measure``.
        path_norms: ``(2,)``, the L1 and the L2 path norm, the largest over the outputs, without
            biases; NaN for a network that is not positively homogeneous, ``None`` if not measured.

    Example:
        >>> import jax.numpy as jnp
        >>> from rankjax.network import describe, measure
        >>> params = {"Dense_0": {"kernel": jnp.diag(jnp.array([3.0, 4.0]))}}
        >>> measured = measure(describe(params), params)
        >>> [round(float(sigma), 3) for sigma in measured["Dense_0/kernel"].sigma]
        [4.0, 3.0]
    """

    structure: Structure
    sigma: tuple[Array, ...]
    sigma_moved: tuple[Array, ...]
    row_norms_moved: tuple[Array, ...]
    tap_norms_moved: tuple[Array, ...]
    one_inf: tuple[Array, ...]
    operator_norm: Array
    path_norms: Array | None = None

    def __getitem__(self, name: str) -> MeasuredLayer:
        """The measurements of one matrix, by its name in ``structure.names``."""
        names, layers = self.structure.names, self.structure.layers
        if name not in names:
            raise ValueError(f"name: got {name!r}, must be one of {list(names)}")
        index = names.index(name)
        leaf, member = [(i, j) for i, x in enumerate(layers) for j in range(x.stacked)][index]

        def single(values: tuple[Array, ...]) -> Array:
            value = values[leaf][member]
            return value[0] if value.shape[0] == 1 else value

        return MeasuredLayer(
            name=name,
            layer=layers[leaf],
            sigma=single(self.sigma),
            sigma_moved=single(self.sigma_moved),
            row_norms_moved=single(self.row_norms_moved),
            tap_norms_moved=single(self.tap_norms_moved),
            one_inf=single(self.one_inf),
            spectral_norm=largest(self.sigma[leaf][member]),
            frobenius_norm=self._frobenius((self.sigma[leaf][member][None],))[0],
            frobenius_norm_moved=self._frobenius((self.sigma_moved[leaf][member][None],))[0],
            operator_norm=self.operator_norm[index],
        )

    def per_layer(self, values: tuple[Array, ...], join: Callable[..., Array]) -> Array:
        """``(layers,)`` from one array ``(stacked, parallel)`` per leaf; ``join`` over parallel."""
        return jnp.concatenate([join(value, axis=1) for value in values])

    @property
    def spectral_norm(self) -> Array:
        """``|A_l|``, the largest singular value of the matrix (for a convolution: the kernel's)."""
        return self._largest(self.sigma)

    @property
    def frobenius_norm(self) -> Array:
        """``|A_l|_F`` of each layer; derivative 0 at 0."""
        return self._frobenius(self.sigma)

    @property
    def frobenius_norm_moved(self) -> Array:
        """``|A_l - M_l|_F`` of each layer; derivative 0 at 0."""
        return self._frobenius(self.sigma_moved)

    def numerical_rank(self, rtol: ArrayLike | None = None) -> Array:
        """Number of singular values above ``rtol`` times the largest, summed over parallel ones.

        The default tolerance is ``max(out, in) * machine epsilon``.
        """
        ranks = []
        for layer, sigma in zip(self.structure.layers, self.sigma, strict=True):
            default = spectrum.default_rtol(max(layer.matrix_shape), sigma.dtype)
            ranks.append(spectrum.numerical_rank(sigma, rtol=default if rtol is None else rtol))
        return self.per_layer(tuple(ranks), jnp.sum)

    @property
    def stable_rank(self) -> Array:
        """``|A|_F^2 / |A|^2``, summed over parallel matrices."""
        return self._ranks(spectrum.stable_rank)

    @property
    def effective_rank(self) -> Array:
        """The exponential of the entropy of ``sigma / sum(sigma)``, summed over parallel ones."""
        return self._ranks(spectrum.effective_rank)

    def soft_rank(self, p: ArrayLike, *, eps: ArrayLike = 0.0) -> Array:
        """``(|A|_{S_p} / |A|)^p``, smoothed by ``eps`` as in ``soft_rank``, summed likewise."""
        return self._ranks(partial(spectrum.soft_rank, p=p, eps=eps))

    def static(self, value: Callable[..., Any]) -> np.ndarray:
        """``(layers,)`` of a static fact of each layer, repeated for the members of a stack."""
        layers = self.structure.layers
        return np.asarray([value(layer) for layer in layers for _ in range(layer.stacked)])

    @property
    def lipschitz(self) -> np.ndarray:
        """Lipschitz constant of what follows each layer."""
        return self.static(lambda layer: layer.lipschitz)

    def _ranks(self, rank: Callable[[Array], Array]) -> Array:
        return self.per_layer(tuple(rank(sigma) for sigma in self.sigma), jnp.sum)

    def _largest(self, sigma: tuple[Array, ...]) -> Array:
        return self.per_layer(tuple(largest(s, -1) for s in sigma), largest)

    def _frobenius(self, sigma: tuple[Array, ...]) -> Array:
        # Scaled by the largest value: squares of 1e-30 would underflow.
        tops = self._largest(sigma)
        scale = jax.lax.stop_gradient(spectrum.divisor(tops))
        sums, start = [], 0
        for values in sigma:
            unit = values / scale[start : start + values.shape[0], None, None]
            start += values.shape[0]
            sums.append(jnp.sum(jnp.square(unit), -1))
        squares = self.per_layer(tuple(sums), jnp.sum)
        return scale * jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), squares)
