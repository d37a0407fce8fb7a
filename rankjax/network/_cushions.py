"""How far noise is damped by a network on its data: the cushions of Arora et al. (ICML 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rankjax._arguments import at_least_float32
from rankjax._linear_algebra import largest
from rankjax.network._examples import batches
from rankjax.network._paths import Skeleton, array_paths, split_arrays
from rankjax.network._running import run
from rankjax.network._structure import Structure, check_structure
from rankjax.network._traced_layers import uses_by_name
from rankjax.network._tracing import trace_uses


class NoCushions(ValueError):
    """A network that has no cushions, whatever the data."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["layer", "interlayer", "contraction", "output"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Cushions:
    """Cushions of the layers ``x^l = A_l h^{l-1}``, the smallest over a sample (a pytree).

    Attributes:
        layer: ``(layers,)``, ``mu_l = min |A_l h| / (|A_l|_F |h|)`` over the inputs ``h`` of layer
            l.
        interlayer: ``(layers,)``, ``mu_{l->} = min_{j >= l} |J x^l| / (|J|_F |x^l|)`` with ``J``
            the Jacobian of ``x^j`` in ``x^l``; for ``j = l`` that is ``1 / sqrt(dimension of
            x^l)``.
        contraction: ``c``, the largest ``|x^l| / |h^l|``: what an activation takes away.
        output: ``max_i |f(x_i)|_2``.
    """

    layer: Array
    interlayer: Array
    contraction: Array
    output: Array

    @classmethod
    def from_data(
        cls,
        structure: Structure,
        params: Any,
        x: Any,
        *,
        apply: Callable[[Any, Any], Array],
        probes: int = 8,
        batch_size: int = 32,
        seed: int = 0,
    ) -> Cushions:
        """Measure the cushions on the examples ``x`` (some 64 of them: it costs many passes).

        ``|J|_F`` is estimated by ``probes`` random directions an example (``E |J v|^2 = |J|_F^2``),
        which errs by about ``sqrt(2 / (probes * stable rank of J))`` of its square. The layers'
        Frobenius norms are those of the linear map: ``sqrt(positions) |K|_F`` for a convolution.
        Not meant to be differentiated. Cost: ``layers * (probes + 1)`` forward-mode passes.

        Raises:
            ValueError: for parameters that do not fit the structure; if a matrix is tied, in a
                stack, or not used at all; if its products are whole numbers.
        """
        check_structure(structure, params)
        wrong = [layer.path for layer in structure.layers if layer.uses > 1 or layer.stacked > 1]
        if wrong:
            raise NoCushions(
                f"structure: cushions are measured for one matrix per leaf, used once; got {wrong}"
            )
        arrays, skeleton = split_arrays(params)
        n = jax.tree.leaves(x)[0].shape[0]
        parts = []
        for index, _ in batches(n, batch_size):
            batch = jax.tree.map(lambda a, index=index: a[index], x)
            keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(index)
            parts.append(_cushions(structure, skeleton, arrays, batch, keys, apply, probes))
        # The last batch is padded with copies of the last example, which change no extreme value.
        layer, inter, contraction, output = (jnp.concatenate(a) for a in zip(*parts, strict=True))
        return cls(-largest(-layer, 0), -largest(-inter, 0), largest(contraction), largest(output))


@partial(jax.jit, static_argnames=("structure", "apply", "skeleton", "probes"))
def _cushions(structure: Structure, skeleton: Skeleton, arrays, x, keys, apply, probes: int):
    params = skeleton.fill(arrays)
    paths = array_paths(params)
    matrices = [at_least_float32(a) for a in structure.matrices(params)]
    norms = jnp.concatenate(
        [
            jnp.sqrt(jnp.sum(jnp.square(a), (1, 2, 3)) * (layer.positions or 1))
            for a, layer in zip(matrices, structure.layers, strict=True)
        ]
    )
    wanted = {layer.path for layer in structure.layers}
    shapes = {path: jnp.shape(a) for path, a in zip(paths, arrays, strict=True)}

    def run_shifted(x, shifts, data=None):
        """The pre-activations of all layers, each shifted by one of ``shifts``, and the outputs."""
        batch = jax.tree.map(lambda a: a[None], x)
        program = trace_uses(lambda p, x: apply(skeleton.fill(p), x), arrays, batch)
        named = uses_by_name(program.trace, shapes)
        places = [use for path in named if path in wanted for use in named[path]]
        numbers = sorted(use.number for use in places)
        sides = {use.number: use.side for use in places}

        def look(number: int, values: list[Any], outs: list[Any]) -> tuple[list[Any], Any]:
            out = outs[0]
            if shifts is not None:
                out = out + shifts[numbers.index(number)].reshape(out.shape)
            size = jnp.linalg.norm(jnp.asarray(values[1 - sides[number]]).ravel())
            return [out], (out, size)

        outputs, kept = run(program, arrays, batch, at=set(numbers), look=look)
        if data is not None:
            data += [kept[number][1].ravel()[0] for number in numbers]
        return [kept[number][0].ravel() for number in numbers], jnp.asarray(outputs).ravel()

    def one(x, key):
        data: list[Array] = []
        points, outputs = run_shifted(x, None, data)
        if len(points) != norms.shape[0]:
            raise ValueError(f"apply uses {len(points)} matrices, the structure has {len(norms)}")
        whole = [str(p.dtype) for p in points if not jnp.issubdtype(p.dtype, jnp.floating)]
        if whole:
            raise NoCushions(
                f"cushions need derivatives, and products of whole numbers have none ({whole[0]})"
            )
        size = jnp.stack([jnp.linalg.norm(p) for p in points])
        inputs = jnp.stack(data)
        # What the activations take away; the last layer has none.
        contraction = largest(jnp.append(size[:-1] / inputs[1:], 1))
        zeros = [jnp.zeros_like(p) for p in points]
        cushions = []
        for i, point in enumerate(points):
            directions = jax.random.normal(jax.random.fold_in(key, i), (probes, point.size))
            directions = jnp.concatenate([point[None], directions.astype(point.dtype)])

            def push(v, i=i):
                tangent = [*zeros[:i], v, *zeros[i + 1 :]]
                moved = jax.jvp(lambda s: run_shifted(x, s)[0], (zeros,), (tangent,))[1]
                return jnp.stack([jnp.sum(jnp.square(m)) for m in moved[i:]])

            squares = jax.lax.map(push, directions)
            frobenius = jnp.mean(squares[1:], axis=0)
            ratios = jnp.sqrt(squares[0, 1:] / frobenius[1:]) / size[i]
            cushions.append(-largest(-jnp.append(ratios, 1 / jnp.sqrt(point.size))))
        layer = size / (norms.astype(size.dtype) * inputs)
        return layer, jnp.stack(cushions), contraction, jnp.linalg.norm(outputs)

    return jax.vmap(one)(x, keys)
