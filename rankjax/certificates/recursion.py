"""How far a network's outputs can move when its weights do: the recursion, read off its jaxpr.

``trace_recursion`` follows the forward function equation by equation and writes down, for every
value that depends on weights, how a bound on its perturbation comes from those before it. Whatever
it does not know, it refuses: a guarantee must not guess. ``Recursion.perturbation`` then evaluates
the bound for all examples at once, as a pure function of the sizes of the perturbations.

Preprocessing of the data before the first weight is exact and may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rankjax._jax_internals import JaxprEqn
from rankjax.network.axes import View
from rankjax.network.convolution import Window
from rankjax.network.paths import array_paths, split_arrays
from rankjax.network.sample import logits_of_one
from rankjax.network.tracing import CALLS, Changed, Data, Tag, Trace, Use, Walker, Weight, walk

# Maps whose distances do not grow; some also move entries about.
_CONTRACTIONS = {
    "reshape", "transpose", "squeeze", "expand_dims", "copy", "copy_p", "stop_gradient", "slice",
    "dynamic_slice", "rev", "neg", "pad", "abs", "tanh", "sin", "cos", "atan", "asinh", "clamp",
    "reduce_max", "reduce_min", "sharding_constraint", "device_put", "optimization_barrier",
    "split",
}  # fmt: skip
_LIPSCHITZ = {"logistic": 0.25, "erf": 2 / math.sqrt(math.pi)}


@dataclass(frozen=True)
class Node:
    """One step of the recursion (static).

    Attributes:
        kind: ``"exact"``: no perturbation. ``"matrix"``: a weight matrix; ``factor`` is the norm of
            its gathering operator. ``"bias"``: ``factor`` is the root of how often it is added.
            ``"scale"``: distances grow at most by ``factor``. ``"sum"``: of values.
            ``"join"``: values side by side, or entrywise maxima.
        args: the nodes it reads.
        factor: see ``kind``.
        path: the leaf, for a matrix or a bias.
        use: number of the matrix's use in the order of the forward pass.
    """

    kind: str
    args: tuple[int, ...] = ()
    factor: float = 1.0
    path: str = ""
    use: int = -1


@dataclass(frozen=True)
class Recursion:
    """The recursion of a network (static, hashable); the last node is the logits.

    Attributes:
        nodes: in the order of computation.
        matrices: paths of the leaves used as matrices, in the order of first use.
        biases: paths of the leaves that are added.
        views: per matrix, ``(output axes, input axes)`` of the leaf as it is used, sorted.
        moves_zero: whether a constant is added somewhere, so that norms are not bounded by products
            (distances are).
        assumed: Lipschitz constants the caller vouched for.
    """

    nodes: tuple[Node, ...]
    matrices: tuple[str, ...]
    biases: tuple[str, ...]
    views: tuple[tuple[tuple[int, ...], ...], ...]
    moves_zero: bool = False
    assumed: tuple[tuple[str, float], ...] = ()

    @property
    def told(self) -> tuple[str, ...]:
        """The assumptions about activations, in words."""
        return tuple(f"{f} is {c:g}-Lipschitz (told, not proved)" for f, c in self.assumed)

    def perturbation(
        self,
        norms: Array,
        *,
        gain: Mapping[str, Any],
        error: Mapping[str, Any],
        bias_error: Mapping[str, Any],
        of_coded: bool = False,
    ) -> tuple[Array, Array]:
        r"""Bounds ``E(x_i)`` on ``|f(x_i) - f~(x_i)|_2``, shape ``(n,)``, and at each matrix.

        Through a matrix, with ``g`` its gathering norm and ``r`` the norm of everything it is
        applied to, from ``A h - A~ h~ = A (h - h~) + (A - A~) h~`` or the same with A and A~, h and
        h~ in each other's place::

            E -> g G E + e r,             r of one network, G of the other (``of_coded``)
            E -> g G E + e (r + g E),     both of the same network

        Args:
            norms: ``(uses, n)``, ``|P h|_F`` of what each use of a matrix is applied to.
            gain: G per matrix path, at least the spectral norm.
            error: e per matrix path, at least ``|A - A~|``.
            bias_error: ``|b - b~|`` per bias path.
            of_coded: the norms are those of the coded network, the gains those of the original (or
                the other way round).

        Returns:
            ``E`` of the logits, and ``(uses, n)``: ``g E``, how far what a use of a matrix is
            applied to has moved.

        Pure, differentiable; cost O(nodes n).
        """
        zero = jnp.zeros(norms.shape[1:], norms.dtype)

        def through(node: Node, moved: Array) -> Array:
            size = norms[node.use] if of_coded else norms[node.use] + moved
            return gain[node.path] * moved + error[node.path] * size

        return self._follow(zero, through, bias_error)

    def norms(self, radius: float, *, gain: Mapping[str, Any], bias: Mapping[str, Any]) -> Array:
        """The largest ``|P h|`` each use can see when what the first weights see has norm <= B.

        For the radius form: ``N -> |A| g N``, biases add ``sqrt(times) |b|``. Shape ``(uses, 1)``.

        Raises:
            ValueError: if the network adds constants, so that products do not bound its norms.
        """
        if self.moves_zero:
            raise ValueError("recursion: 'radius' needs activations that are 0 at 0; use 'data'")
        start = jnp.asarray(radius, float)
        _, sizes = self._follow(start, lambda node, size: gain[node.path] * size, bias)
        return sizes[:, None]

    def _follow(
        self, start: Array, through: Callable[[Node, Array], Array], bias: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        """Lengths along the network: of the logits, and ``g`` times those each matrix gets.

        Args:
            start: that of whatever no weight has touched.
            through: ``(matrix node, g times the length before)`` -> the length after.
            bias: the length that each bias adds, once.
        """
        values: list[Array] = []
        at_use: dict[int, Array] = {}
        for node in self.nodes:
            args = [values[i] for i in node.args]
            if node.kind == "exact":
                value = start
            elif node.kind == "matrix":
                at_use[node.use] = node.factor * args[0]
                value = through(node, at_use[node.use])
            elif node.kind == "bias":
                value = args[0] + node.factor * bias[node.path]
            elif node.kind == "scale":
                value = node.factor * args[0]
            elif node.kind == "sum":
                value = sum(args[1:], args[0])
            else:  # join
                value = root(sum((a * a for a in args[1:]), args[0] * args[0]))
            values.append(value)
        return values[-1], jnp.stack([at_use[use] for use in sorted(at_use)])


def root(squares: Array) -> Array:
    """The square root, with derivative 0 at 0."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def trace_recursion(
    apply: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    activations: Mapping[str, float] | None = None,
) -> Recursion:
    """Read the recursion off the forward function.

    Args:
        apply: ``apply(params, x) -> logits (batch, classes)``, in inference mode.
        params: the parameters (only constants of the network are looked at, not these values).
        x: a batch; its first example is used.
        activations: Lipschitz constants of jitted functions by name, e.g. ``{"silu": 1.1}``, for
            activations that are not proved here (wrap in ``jax.jit`` what JAX does not: gelu). They
            enter the assumptions of the certificate.

    Known: matrix products and convolutions with a weight, biases, ReLU and other maxima and minima,
    tanh, logistic, erf, abs, sin, cos, clipping, max and average pooling, sums and differences of
    branches, concatenation, sums over axes, products with constants, and all ways of moving entries
    about.

    Raises:
        ValueError: for anything else that weights flow through, naming it.
    """
    arrays, skeleton = split_arrays(params)
    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), x)
    walker = _Recursive(
        Trace(), lambda use, data: None, None, array_paths(params), dict(activations or {})
    )
    tags = walk(walker, lambda p, x: apply(skeleton.fill(p), x), arrays, first, Data(0))
    if len(tags) != 1 or not isinstance(tags[0], Data):
        raise ValueError("apply: must return the logits, one array that depends on x")
    logits_of_one(walker.trace.output)  # refuses anything else
    nodes = (*walker.nodes, Node("scale", (tags[0].node,)))
    matrices = dict.fromkeys(node.path for node in nodes if node.kind == "matrix")
    biases = dict.fromkeys(node.path for node in nodes if node.kind == "bias")
    both = sorted(set(matrices) & set(biases))
    if both:
        raise ValueError(f"params: {both} are used as matrices and added; certify cannot code both")
    return Recursion(
        nodes,
        tuple(matrices),
        tuple(biases),
        tuple(_one_view(path, walker.views[path]) for path in matrices),
        walker.moves_zero,
        tuple(sorted(walker.assumed.items())),
    )


def _one_view(path: str, views: set[tuple[tuple[int, ...], ...]]) -> tuple[tuple[int, ...], ...]:
    if len(views) > 1:
        raise ValueError(f"params: {path!r} is used as different matrices, with axes {views}")
    return next(iter(views))


def axes_of(view: View) -> tuple[tuple[int, ...], ...]:
    """The axes that make the rows and those that make the columns, in an order of no meaning."""
    return tuple(sorted([tuple(sorted(view.out)), tuple(sorted(view.in_))]))


class _Recursive(Walker):
    """Walks the jaxpr; ``Data.node`` is the number of a node, 0 for what no weight has touched."""

    def __init__(self, trace, on_use, on_output, paths, activations):
        super().__init__(trace, on_use, on_output)
        self.paths: Sequence[str] = paths
        self.activations: Mapping[str, float] = activations
        self.assumed: dict[str, float] = {}
        self.nodes: list[Node] = [Node("exact")]
        self.views: dict[str, set[tuple[tuple[int, ...], ...]]] = {}
        self.moves_zero = False

    def equation(
        self, eqn: JaxprEqn, values: list[Any], tags: list[Tag]
    ) -> tuple[list[Any], list[Tag]]:
        """As in ``Walker``, but activations the caller knows are not looked into."""
        name = str(eqn.params.get("name"))
        touched = any(isinstance(tag, Data) and tag.node for tag in tags)
        call = eqn.primitive.name in CALLS and "jaxpr" in eqn.params
        if call and name in self.activations and touched:
            others = [tag for tag in tags if isinstance(tag, Weight | Changed)]
            entered = [tag for tag in tags if isinstance(tag, Data)]
            if others or len(entered) != 1 or len(eqn.outvars) != 1:
                raise ValueError(f"activations: {name!r} is not a function of one array")
            silent = Walker(Trace(), lambda use, data: None, None)
            outs, _ = silent.run(eqn.params["jaxpr"], values, list(tags))
            self.assumed[name] = float(self.activations[name])
            self.moves_zero = True  # perhaps: nothing is known of its value at 0
            return outs, [self._scale(entered[0], self.assumed[name])]
        outs, found = super().equation(eqn, values, tags)
        out_tags: list[Tag] = list(found)
        if eqn.primitive.name == "broadcast_in_dim" and isinstance(tags[0], Weight):
            out_tags = [
                _Repeated(tag.leaves, tag.primitive, _entries(tags[0]))
                if isinstance(tag, Changed)
                else tag
                for tag in out_tags
            ]
        return outs, out_tags

    def follow(
        self, eqn: JaxprEqn, values: list[Any], tags: Sequence[Tag], use: Use | None
    ) -> Data:
        """The node of the result."""
        name = eqn.primitive.name
        data = [tag for tag in tags if isinstance(tag, Data)]
        if use is not None:
            factor = use.convolution.gather_norm if use.convolution else 1.0
            number, path = len(self.trace.uses) - 1, self.paths[use.leaf]
            # A matrix and its transpose have the same norm.
            self.views.setdefault(path, set()).add(axes_of(use.view))
            return self._add(Node("matrix", (data[0].node,), factor, path, number))
        weights = [tag for tag in tags if isinstance(tag, Weight | Changed)]
        if weights:
            return self._bias(eqn, tags, weights, data)
        if all(tag.node == 0 for tag in data):
            return Data(0)
        others = [value for value, tag in zip(values, tags, strict=True) if tag is None]
        shape_in = next(
            np.shape(v) for v, t in zip(values, tags, strict=True) if isinstance(t, Data) and t.node
        )
        shape_out = tuple(eqn.outvars[0].aval.shape)  # pyright: ignore[reportAttributeAccessIssue]
        self.moves_zero |= _moves_zero(name, others)
        moved = tags[1 if name == "clamp" else 0]
        if name in _CONTRACTIONS and len(data) == 1 and moved is data[0]:
            return data[0]
        if name == "convert_element_type":
            if not jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact):
                raise self._unknown(f"{name!r} to {eqn.params['new_dtype']}")
            return data[0]
        if name in _LIPSCHITZ:
            return self._scale(data[0], _LIPSCHITZ[name])
        if name in {"add", "sub", "add_any"}:
            return self._sum(data)
        if name in {"max", "min", "concatenate"}:
            return self._join(data)
        if name == "select_n" and not (isinstance(tags[0], Data) and tags[0].node):
            return self._join(data)
        if name == "mul" and len(data) == 1:
            return self._scale(data[0], float(np.max(np.abs(others[0]), initial=0)))
        if name == "div" and isinstance(tags[0], Data) and len(data) == 1:
            return self._scale(data[0], 1 / float(np.min(np.abs(others[0]))))
        if name == "broadcast_in_dim":
            return self._scale(data[0], math.sqrt(math.prod(shape_out) / math.prod(shape_in)))
        if name == "reduce_sum":
            return self._scale(data[0], math.sqrt(math.prod(shape_in) / math.prod(shape_out)))
        if name in {"reduce_window_sum", "reduce_window_max", "reduce_window_min"}:
            return self._scale(data[0], _pooling(eqn, shape_in, shape_out))
        raise self._unknown(repr(name))

    def _bias(self, eqn, tags, weights, data) -> Data:
        name = eqn.primitive.name
        if name in {"add", "add_any", "sub"} and len(weights) == 1 and len(data) == 1:
            added = _added(weights[0])
            if added is not None:
                leaf, size = added
                times = math.prod(eqn.outvars[0].aval.shape) / size
                path = self.paths[leaf]
                return self._add(Node("bias", (data[0].node,), math.sqrt(times), path))
        leaves = {i for t in weights for i in ([t.leaf] if isinstance(t, Weight) else t.leaves)}
        names = sorted(self.paths[i] for i in leaves)
        how = [t.primitive + ", then " for t in weights if isinstance(t, Changed)]
        raise ValueError(
            f"params: {names} meet the data through {''.join(how)}{name}; certify knows weights as "
            "factors of matrix products and convolutions, and as biases (fold normalisation layers)"
        )

    def _unknown(self, what: str) -> ValueError:
        return ValueError(
            f"apply: certify has no bound for how {what} moves what depends on weights; for an "
            "activation, make it a jitted function of its own and give its Lipschitz constant in "
            "activations={name: constant}"
        )

    def _add(self, node: Node) -> Data:
        self.nodes.append(node)
        return Data(len(self.nodes) - 1)

    def _scale(self, tag: Data, factor: float) -> Data:
        if tag.node == 0 or factor == 1:
            return tag
        return self._add(Node("scale", (tag.node,), factor))

    def _sum(self, tags: Sequence[Data]) -> Data:
        if len(tags) == 1:
            return tags[0]
        return self._add(Node("sum", tuple(tag.node for tag in tags)))

    def _join(self, tags: Sequence[Data]) -> Data:
        if len(tags) == 1:
            return tags[0]
        return self._add(Node("join", tuple(tag.node for tag in tags)))


def _moves_zero(name: str, constants: Sequence[Any]) -> bool:
    """Whether the result can be non-zero where everything that depends on the data is 0."""
    if name in {"logistic", "cos"}:
        return True
    if name == "max":
        return any(np.any(np.asarray(c) > 0) for c in constants)
    if name == "min":
        return any(np.any(np.asarray(c) < 0) for c in constants)
    if name == "clamp":
        return bool(np.any(np.asarray(constants[0]) > 0) or np.any(np.asarray(constants[-1]) < 0))
    if name in {"add", "sub", "add_any", "concatenate", "select_n", "pad"}:
        return any(np.any(np.asarray(c) != 0) for c in constants)
    return False


@dataclass
class _Repeated(Changed):
    """A leaf, or one slice of a stacked leaf, of ``size`` entries, repeated by broadcasting."""

    size: int


def _added(tag: Weight | Changed) -> tuple[int, int] | None:
    """The leaf and the number of its entries that are added, if nothing else was done to it."""
    if isinstance(tag, Weight):
        return tag.leaf, _entries(tag)
    if isinstance(tag, _Repeated):
        (leaf,) = tag.leaves
        return leaf, tag.size
    return None


def _entries(tag: Weight) -> int:
    return math.prod(tag.shape[axis] for group in tag.axes for axis in group)


def _pooling(eqn: JaxprEqn, shape_in: Sequence[int], shape_out: Sequence[int]) -> float:
    """Growth of distances under pooling: see the theory of max and average windows."""
    sizes, strides = eqn.params["window_dimensions"], eqn.params["window_strides"]
    axes = zip(
        shape_in, shape_out, sizes, strides, eqn.params["padding"],
        eqn.params["window_dilation"], eqn.params["base_dilation"], strict=True,
    )  # fmt: skip
    windows = [
        Window(i, o, size, stride, tuple(pad), dilation, base)
        for i, o, size, stride, pad, dilation, base in axes
    ]
    columns = math.prod(window.multiplicity() for window in windows)
    if eqn.primitive.name != "reduce_window_sum":
        return math.sqrt(columns)
    return math.sqrt(columns * math.prod(sizes))  # rows of the pooling matrix times its columns
