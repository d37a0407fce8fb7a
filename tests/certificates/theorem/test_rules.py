"""Every rule of the table: never too small, and attained where it is tight."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rankjax.certificates.theorem._distances import matrix_of, operator_norm
from rankjax.certificates.theorem._network import Network
from rankjax.certificates.theorem._nodes import SLOPES, Node, Op, evaluate
from rankjax.certificates.theorem._rules import RULES
from rankjax.certificates.theorem._values import Entries, Gain
from rankjax.network import Convolution
from rankjax.network.internal import ACTIVATIONS, Window
from tests.certificates.theorem.moves import Watched, steepest

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.normal(size=shape)


@dataclass(frozen=True)
class Case:
    """One use of a primitive.

    ``f(h, x)`` is applied to the weights themselves, and to moving values ``h = weights * 1``.
    ``tight`` says where the bound is attained: in both ways, "weights", "moved", or nowhere.
    """

    f: Any
    weights: dict
    tight: Any = True
    ways: tuple[str, ...] = ("weights", "moved")
    truth: Any = None  # the exact function, where f itself rounds to a narrower type


X = {
    "one": np.array(1.0), "v": np.array([0.3, -2.0, 0.7]), "m": np.outer([1.0, -2.0], [3.0, 0.5]),
    "ids": np.array([1, 1, 1, 1]), "places": np.array([0, 2]), "at": np.array(1),
    "picture": np.arange(8.0).reshape(4, 2) - 3,
}  # fmt: skip
ABC = np.array([[0.5, -1.5, 2.0], [0.1, 0.4, -0.9]])
WNC = ("NWC", "WIO", "NWC")


def convolve(h, kernel, padding=(0, 0), stride=1, groups=1, dilation=1, spread=1):
    return lax.conv_general_dilated(
        h[None], kernel, (stride,), (padding,), (spread,), (dilation,), WNC, groups
    )


def two(**shapes):
    return {k: normal(*s) for k, s in shapes.items()}


def at(value, *, others=()):
    """A point whose largest slope is at one entry."""
    return {"a": np.array([value, *others, value])}


def add_any(h, x):
    _, back = jax.vjp(lambda v: (v, v), h["a"])
    return back((h["a"], h["b"]))[0]


CASES: dict[str, list[Case]] = {
    "reshape": [Case(lambda h, x: h["a"].reshape(3, 2), {"a": ABC})],
    "transpose": [Case(lambda h, x: h["a"].T, {"a": ABC})],
    "squeeze": [Case(lambda h, x: h["a"][:, 0], {"a": ABC.reshape(6, 1)})],
    "rev": [Case(lambda h, x: h["a"][::-1], {"a": ABC})],
    "slice": [Case(lambda h, x: h["a"][:, ::2], {"a": ABC})],
    "dynamic_slice": [
        Case(lambda h, x: lax.dynamic_slice(h["a"], (0, 1), (2, 2)), {"a": ABC}),
        Case(lambda h, x: lax.dynamic_slice(h["a"], (0, x["at"]), (2, 2)), {"a": ABC}),
    ],
    "split": [
        Case(lambda h, x: jnp.split(h["a"], [1], axis=1)[1], {"a": ABC}),
        Case(lambda h, x: jnp.split(h["a"], [1], axis=1)[0] * 3, {"a": ABC}),
    ],
    "copy": [Case(lambda h, x: jnp.copy(h["a"]), {"a": ABC})],
    "stop_gradient": [Case(lambda h, x: lax.stop_gradient(h["a"]), {"a": ABC})],
    "sharding_constraint": [
        Case(
            lambda h, x: lax.with_sharding_constraint(
                h["a"], jax.sharding.SingleDeviceSharding(jax.devices()[0])
            ),
            {"a": ABC},
        )
    ],
    "device_put": [Case(lambda h, x: jax.device_put(h["a"]), {"a": ABC})],
    "optimization_barrier": [
        Case(lambda h, x: lax.optimization_barrier((h["b"], 100 * h["a"]))[1], two(a=(3,), b=(3,)))
    ],
    "broadcast_in_dim": [
        Case(lambda h, x: jnp.broadcast_to(h["a"], (4, 2, 3)), {"a": ABC}),
        Case(lambda h, x: jnp.broadcast_to(h["a"], (2, 5)), {"a": normal(2, 1)}),
        Case(lambda h, x: h["a"][None], {"a": ABC}),
    ],
    "tile": [Case(lambda h, x: jnp.tile(h["a"], (3, 2)), {"a": ABC})],
    "pad": [
        Case(lambda h, x: lax.pad(h["a"], 0.5, ((1, 0, 2), (-1, 3, 0))), {"a": ABC}),
    ],
    "dynamic_update_slice": [
        Case(lambda h, x: lax.dynamic_update_slice(h["a"], h["b"], (1,)), two(a=(4,), b=(2,))),
        Case(
            lambda h, x: lax.dynamic_update_slice(h["a"], h["b"], (x["at"],)), two(a=(4,), b=(2,))
        ),
        Case(lambda h, x: lax.dynamic_update_slice(x["v"], h["b"], (1,)), two(b=(2,))),
    ],
    "concatenate": [
        Case(lambda h, x: jnp.concatenate([h["a"], h["b"]]), two(a=(2,), b=(3,))),
        Case(
            lambda h, x: jnp.concatenate([x["v"], h["a"], h["b"], h["c"]]),
            two(a=(2,), b=(3,), c=(1,)),
        ),
    ],
    "stack": [
        Case(lambda h, x: jnp.stack([h["a"], h["b"]]), two(a=(2,), b=(2,))),
        Case(lambda h, x: jnp.stack([x["v"], h["a"], h["b"]], axis=1), two(a=(3,), b=(3,))),
    ],
    "gather": [
        Case(lambda h, x: h["a"][np.array([0, 0, 0, 1])], {"a": normal(2)}),
        Case(lambda h, x: h["a"][:, np.array([2, 2])], {"a": ABC}),
        Case(lambda h, x: h["a"][x["ids"]], {"a": normal(5, 3)}),
        Case(lambda h, x: h["a"][x["places"]], {"a": normal(5, 3)}, "weights"),
        Case(lambda h, x: h["a"].at[:, x["ids"]].get(mode="clip"), {"a": ABC}),
        Case(
            lambda h, x: h["a"].at[np.array([1, 1, 9])].get(mode="fill", fill_value=1.0),
            {"a": normal(3)},
        ),
    ],
    "neg": [Case(lambda h, x: -h["a"], {"a": ABC})],
    "abs": [Case(lambda h, x: jnp.abs(h["a"]), {"a": ABC})],
    "tanh": [Case(lambda h, x: jnp.tanh(h["a"]), at(0.0))],
    "sin": [Case(lambda h, x: jnp.sin(h["a"]), at(0.0))],
    "cos": [Case(lambda h, x: jnp.cos(h["a"]), at(np.pi / 2))],
    "atan": [Case(lambda h, x: jnp.arctan(h["a"]), at(0.0))],
    "asinh": [Case(lambda h, x: jnp.arcsinh(h["a"]), at(0.0))],
    "logistic": [Case(lambda h, x: lax.logistic(h["a"]), at(0.0))],
    "erf": [Case(lambda h, x: lax.erf(h["a"]), at(0.0))],
    "erfc": [Case(lambda h, x: lax.erfc(h["a"]), at(0.0))],
    "exp": [Case(lambda h, x: jnp.exp(h["a"]), at(1.5, others=(-1.0,)))],
    "exp2": [Case(lambda h, x: jnp.exp2(h["a"]), at(1.5, others=(-1.0,)))],
    "expm1": [Case(lambda h, x: jnp.expm1(h["a"]), at(-0.5, others=(-1.0,)))],
    "log": [Case(lambda h, x: jnp.log(h["a"]), at(0.7, others=(3.0,)))],
    "log1p": [Case(lambda h, x: jnp.log1p(h["a"]), at(-0.6, others=(3.0,)))],
    "sqrt": [Case(lambda h, x: jnp.sqrt(h["a"]), at(0.7, others=(3.0,)))],
    "rsqrt": [Case(lambda h, x: lax.rsqrt(h["a"]), at(0.7, others=(3.0,)))],
    "square": [
        Case(lambda h, x: jnp.square(h["a"]), at(-1.7, others=(1.0,))),
        Case(lambda h, x: jnp.square(h["a"]), at(1.7, others=(-1.0,))),
    ],
    "integer_pow": [
        Case(lambda h, x: lax.integer_pow(h["a"], 3), at(-1.7, others=(1.0,))),
        Case(lambda h, x: lax.integer_pow(h["a"], 4), at(1.7, others=(-1.0,))),
        Case(lambda h, x: lax.integer_pow(h["a"], -2), at(0.7, others=(1.0,))),
        Case(lambda h, x: lax.integer_pow(h["a"], -3), at(-0.7, others=(-1.0,))),
    ],
    "add": [
        Case(lambda h, x: h["a"] + h["b"], two(a=(3,), b=(3,))),
        Case(lambda h, x: h["a"] + h["b"], two(a=(1, 1), b=(4, 1))),
        Case(lambda h, x: h["a"] + np.zeros((4, 3)), two(a=(1, 3))),
        Case(lambda h, x: lax.add(h["a"][:, :1], jnp.zeros((2, 5))), {"a": ABC}),
        Case(lambda h, x: h["a"] + x["v"], two(a=(4, 1)), "moved weights"),
        Case(lambda h, x: h["a"] + h["a"], two(a=(3,))),
    ],
    "sub": [
        Case(lambda h, x: h["a"] - h["b"], two(a=(3,), b=(3,))),
        Case(lambda h, x: x["v"] - h["a"], two(a=(2, 1))),
    ],
    "add_any": [Case(add_any, two(a=(3,), b=(3,)))],
    "mul": [
        Case(lambda h, x: h["a"] * np.array([0.5, -4.0, 2.0]), two(a=(3,))),
        Case(lambda h, x: h["a"] * np.array([[0.5], [-4.0]]), two(a=(1, 1)), False),
        Case(lambda h, x: h["a"] * np.full((3, 2), -4.0), two(a=(1, 1))),
        Case(lambda h, x: x["v"] * h["a"], two(a=(3,))),
        Case(lambda h, x: h["a"] * h["b"], two(a=(1,), b=(1,))),
        Case(lambda h, x: h["a"] * h["b"], {"a": np.full(3, 2.0), "b": np.full(3, -0.5)}),
        Case(lambda h, x: h["a"] * h["b"], {"a": np.eye(4)[0], "b": 3 * np.eye(4)[0]}),
        Case(
            lambda h, x: h["a"] * h["b"],
            {"a": np.array([[2.0]]), "b": np.full((4, 1), -0.5)},
            False,
        ),
        Case(lambda h, x: h["a"] * h["b"], {"a": np.full((1, 3), 2.0), "b": np.full((2, 1), -0.5)}),
        Case(lambda h, x: h["a"] * h["b"], two(a=(2, 3), b=(2, 1)), False),
        Case(lambda h, x: h["a"] * h["a"], two(a=(1,))),
    ],
    "div": [
        Case(lambda h, x: h["a"] / np.array([0.5, -4.0, 2.0]), two(a=(3,))),
        Case(lambda h, x: h["a"] / 0.01, two(a=(3,))),
        Case(lambda h, x: h["a"] / x["v"], two(a=(3,))),
        Case(lambda h, x: h["a"] / h["b"], {"a": np.array([3.0]), "b": np.array([-0.5])}),
        Case(lambda h, x: x["one"] / h["b"], {"b": np.array([0.5, 0.5])}),
        Case(lambda h, x: h["a"] / h["b"], {"a": normal(2, 3), "b": normal(2, 1) + 5}, False),
    ],
    "max": [
        Case(
            lambda h, x: jnp.maximum(h["a"], h["b"]), {"a": np.array([1.0, -1.0]), "b": np.zeros(2)}
        ),
        Case(lambda h, x: jnp.maximum(h["a"], x["v"]), {"a": np.full((2, 1), 9.0)}),
        Case(lambda h, x: lax.max(h["a"], jnp.zeros((3, 2))), {"a": np.full((1, 1), 9.0)}),
    ],
    "min": [
        Case(
            lambda h, x: jnp.minimum(h["a"], h["b"]), {"a": np.array([1.0, -1.0]), "b": np.zeros(2)}
        ),
    ],
    "clamp": [
        Case(
            lambda h, x: lax.clamp(h["a"][0], h["b"], h["c"][0]),
            {"a": np.array([-1.0]), "b": np.array([0.0, -3.0, 3.0]), "c": np.array([1.0])},
            False,
        ),
        Case(
            lambda h, x: lax.clamp(h["a"], h["b"], h["c"]),
            {"a": np.full(3, -1.0), "b": np.array([0.0, -3.0, 3.0]), "c": np.full(3, 1.0)},
        ),
        Case(lambda h, x: lax.clamp(h["a"][0], x["v"], 99.0), {"a": np.array([9.0])}),
    ],
    "select_n": [
        Case(
            lambda h, x: jnp.where(np.array([True, False, True]), h["a"], h["b"]),
            two(a=(3,), b=(3,)),
        ),
        Case(lambda h, x: jnp.where(x["v"] > 0, h["a"], h["b"]), two(a=(3,), b=(3,))),
        Case(lambda h, x: jnp.where(x["v"] > 0, h["a"], -1e30), two(a=(3,))),
    ],
    "reduce_sum": [
        Case(lambda h, x: jnp.sum(h["a"], axis=1), {"a": ABC}),
        Case(lambda h, x: jnp.sum(h["a"] + jnp.zeros((1, 1, 50)), axis=2), {"a": ABC[..., None]}),
    ],
    "reduce_max": [Case(lambda h, x: jnp.max(h["a"], axis=1), {"a": ABC})],
    "reduce_min": [Case(lambda h, x: jnp.min(h["a"], axis=0), {"a": ABC})],
    "reduce_window_sum": [
        Case(
            lambda h, x: lax.reduce_window(h["a"], 0.0, lax.add, (2,), (2,), "VALID"), two(a=(4,))
        ),
        Case(
            lambda h, x: lax.reduce_window(h["a"], 0.0, lax.add, (3,), (1,), [(2, 2)]),
            two(a=(1,)),
            False,
        ),
        Case(
            # All windows see one place and each place is in all: both counts are attained.
            lambda h, x: lax.reduce_window(h["a"], 0.0, lax.add, (2,), (1,), [(0, 0)], (1,), (1,)),
            two(a=(60,)),
            False,
        ),
        Case(
            lambda h, x: lax.reduce_window(h["a"], 0.0, lax.add, (2, 2), (2, 1), "SAME"),
            two(a=(4, 5)),
            False,
        ),
    ],
    "reduce_window_max": [
        Case(
            lambda h, x: lax.reduce_window(h["a"], -jnp.inf, lax.max, (3,), (1,), "VALID"),
            {"a": np.array([0.0, 1.0, 9.0, 1.0, 0.0])},
        ),
        Case(
            lambda h, x: lax.reduce_window(h["a"], -jnp.inf, lax.max, (2, 3), (1, 2), "SAME"),
            {"a": np.eye(4)[[0, 2, 1]]},
            False,
        ),
    ],
    "reduce_window_min": [
        Case(
            lambda h, x: lax.reduce_window(h["a"], jnp.inf, lax.min, (2,), (1,), "VALID"),
            {"a": np.array([0.0, -9.0, 1.0])},
        ),
    ],
    "dot_general": [
        Case(lambda h, x: (x["v"] @ h["a"]) * 1.0, two(a=(3, 2))),
        Case(lambda h, x: jnp.abs(h["a"] @ x["m"]), two(a=(3, 2))),
        Case(lambda h, x: jnp.einsum("bij,bj->bi", h["a"], x["m"]), two(a=(2, 3, 2)), False),
        Case(lambda h, x: h["a"] @ np.array([[3.0, 1.0], [0.0, -2.0]]), two(a=(3, 2)), "moved"),
        Case(
            lambda h, x: h["a"] @ h["b"], {"a": np.ones((1, 1)), "b": np.array([[1.0, 0.0]])}, False
        ),
        Case(lambda h, x: h["a"] @ h["b"], {"a": np.full((1, 1), 3.0), "b": np.full((1, 1), -2.0)}),
        Case(lambda h, x: h["a"] @ h["b"], two(a=(2, 3), b=(3, 2)), False),
        Case(lambda h, x: (x["v"] @ h["a"]) @ h["b"] * 1.0, two(a=(3, 1), b=(1, 2))),
        Case(lambda h, x: (x["v"] @ h["a"]) @ h["b"] * 1.0, two(a=(3, 4), b=(4, 2)), False),
    ],
    "conv_general_dilated": [
        Case(lambda h, x: convolve(x["picture"], h["k"]) * 1.0, two(k=(2, 2, 3)), False),
        Case(
            lambda h, x: convolve(x["picture"][:1], h["k"], (2, 2)) * 1.0, two(k=(3, 2, 3)), False
        ),
        Case(lambda h, x: convolve(x["picture"][:2], h["k"]) * 1.0, two(k=(2, 2, 1))),
        Case(
            lambda h, x: convolve(h["a"], np.eye(3)[:, None], (2, 2)),
            two(a=(1, 1)),
            ways=("moved",),
        ),
        Case(
            lambda h, x: convolve(h["a"], np.eye(3)[:, None], (2, 2), stride=2),
            two(a=(2, 1)),
            ways=("moved",),
        ),
        Case(
            lambda h, x: convolve(h["a"] * x["one"], h["k"], (1, 1)) * 1.0,
            two(a=(4, 2), k=(2, 2, 3)),
            False,
        ),
        Case(
            lambda h, x: (
                convolve(h["a"] * x["one"], h["k"], (2, 0), groups=2, dilation=2, spread=2) * 1.0
            ),
            two(a=(4, 2), k=(2, 1, 4)),
            False,
        ),
        Case(
            lambda h, x: convolve(convolve(x["picture"], h["j"])[0], h["k"], (1, 1)) * 1.0,
            two(j=(2, 2, 2), k=(3, 2, 2)),
            False,
            ways=("weights",),
        ),
        Case(lambda h, x: convolve(h["a"], x["m"][None]), two(a=(3, 2)), ways=("moved",)),
    ],
    "convert_element_type": [
        Case(
            lambda h, x: h["a"].astype(jnp.bfloat16).astype(float),
            {"a": ABC},
            truth=lambda h, x: h["a"],
        )
    ],
    "reduce_precision": [
        Case(lambda h, x: lax.reduce_precision(h["a"], 8, 3), {"a": ABC}, truth=lambda h, x: h["a"])
    ],
}
OLD_NAMES = {"copy_p"}  # of "copy", in older releases of JAX
NEW = {name for name in ("stack", "tile") if not hasattr(lax, f"{name}_p")}  # to older releases


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES) - OLD_NAMES


def network_of(case, moving):
    def applied(f):
        def apply(params, x):
            x = jax.tree.map(lambda a: a[0], x)
            h = {k: v * x["one"] for k, v in params.items()} if moving else params
            out = jnp.ravel(f(h, x))
            # Two classes at least, and no differences between them.
            return jnp.concatenate([out, jnp.ones(1)])[None]

        return apply

    apply = applied(case.f)
    network = Network(apply, case.weights, jax.tree.map(lambda a: a[None], X))
    return apply, network, applied(case.truth or case.f)


@pytest.mark.parametrize("name", sorted(set(CASES) - NEW))
def test_a_rule_is_sound_and_tight(name):
    rng = np.random.default_rng(0)
    for number, case in enumerate(CASES[name]):
        for way in case.ways:
            apply, network, truth = network_of(case, way == "moved")
            assert name in primitives(apply, case.weights), (name, number)
            coded = network.leaves.vector(case.weights)
            watched = Watched(network, coded, X, truth, case.weights)
            # Small moves: the Jacobian against the bound.
            small = 1e-7
            jacobian = watched.jacobian()
            largest, _ = steepest(watched, jacobian, small, rng)
            share = largest / watched.bound(np.full(len(network.distances), small))
            assert share <= 1 + 1e-7, (name, number, way)
            if case.tight is True or (case.tight and way in case.tight):
                assert share >= 1 - 1e-6, (name, number, way, share)
            # Large ones: the function itself.
            base = watched.forward(coded)
            for size in (0.05, 0.4):
                bound = watched.bound(np.full(len(network.distances), size))
                change = steepest(watched, jacobian, size, rng, starts=1)[1]
                for sign in (1, -1):
                    moved = watched.forward(coded + sign * change) - base  # pyright: ignore[reportOperatorIssue]
                    assert not np.linalg.norm(moved) > bound * (1 + 1e-12), (
                        name,
                        number,
                        way,
                        size,
                    )


def primitives(apply, params):
    batch = jax.tree.map(lambda a: jnp.asarray(a)[None], X)
    found: set[str] = set()

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            found.add(eqn.primitive.name)
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    look(inner)

    look(jax.make_jaxpr(apply)(params, batch).jaxpr)
    return found


# --- formulas of nodes ------------------------------------------------------------------------


def test_slopes_are_the_largest_on_the_interval():
    functions = {
        "exp": jnp.exp, "exp2": jnp.exp2, "expm1": jnp.expm1, "log": jnp.log, "log1p": jnp.log1p,
        "sqrt": jnp.sqrt, "rsqrt": lax.rsqrt, "square": jnp.square,
    }  # fmt: skip
    functions = {k: (f, ()) for k, f in functions.items()}
    functions |= {f"integer_pow {y}": (lambda t, y=y: t**y, (float(y),)) for y in (-3, -2, 1, 2, 3)}
    assert {name.split()[0] for name in functions} == set(SLOPES)
    for name, (function, constants) in functions.items():
        for low, high in ((0.2, 1.5), (-0.7, -0.2), (-0.9, 0.4), (-2.0, 0.5)):
            slope = float(SLOPES[name.split()[0]](jnp.asarray(low), jnp.asarray(high), *constants))
            grid = jnp.linspace(low, high, 2001)
            slopes = np.abs(np.asarray(jax.vmap(jax.grad(function))(grid)))
            values = np.asarray(function(grid))
            pole = low < 0 < high and name.split()[-1] in {"-3", "-2"}
            if pole or not (np.isfinite(slopes).all() and np.isfinite(values).all()):
                assert slope == np.inf
            else:
                assert slopes.max() * (1 - 1e-12) <= slope <= slopes.max() * (1 + 1e-9)


def test_a_quotient_without_room_is_infinite():
    node = Node("quotient", (0, 1), (1.0, 1.0), (0, 1))
    sizes = (jnp.asarray(2.0), jnp.asarray(0.5))
    assert float(evaluate(node, [jnp.asarray(0.1), jnp.asarray(0.5)], sizes)) == np.inf
    assert float(evaluate(node, [jnp.asarray(0.1), jnp.asarray(0.2)], sizes)) == pytest.approx(
        (0.1 + 0.2 * 2.0) / 0.3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_becomes_a_bound(bad):
    nodes = [
        Node("scale", (0,), (2.0,)), Node("measured", (0,), (2.0,), (0,)),
        Node("sum", (0, 1), (1.0, 2.0)), Node("join", (0, 1), (1.0, 2.0)),
        Node("join", (0, 1), (0.0, 0.0)),  # 0 times infinity
        Node("matrix", (0,), (1.0,), (0,)), Node("bilinear", (0, 1), (1.0,), (0, 1)),
        Node("product", (0, 1), (1.0, 1.0), (0, 1, 2, 3)),
        Node("quotient", (0, 1), (1.0, 1.0), (0, 1)),
        *(Node("local", (0,), (2.0,) * (f == "integer_pow"), (0, 1), function=f) for f in SLOPES),
    ]  # fmt: skip
    assert {node.op for node in nodes} == set(get_args(Op)) - {"exact", "leaf"}
    sizes = [jnp.asarray(0.5)] * 4
    for node in nodes:
        for place in range(len(node.args)):
            args = [jnp.asarray(bad if i == place else 0.1) for i in range(len(node.args))]
            # A matrix and a distance of 0 in front of it do not make it finite either.
            found = evaluate(node, args, sizes[: len(node.slots)], distance=0.0, gain=0.0)
            assert not np.isfinite(float(found)), (node, place)


def test_no_bound_underflows():
    def found(node, args, sizes=(), **more):
        return Fraction(float(evaluate(node, [jnp.asarray(a) for a in args], sizes, **more)))

    small = Fraction(1, 10**170)
    pair = Node("join", (0, 1), (1.0, 1.0))
    assert found(pair, [1e-170, 1e-170]) ** 2 >= 2 * small**2 * (1 - Fraction(1, 10**12))
    large = jnp.asarray(1e206)
    for function in ("rsqrt", "log"):
        local = Node("local", (0,), (), (0, 1), function=function)
        low = large if function == "rsqrt" else jnp.asarray(5e307)
        slope = Fraction(1, 2 * 10**309) if function == "rsqrt" else Fraction(1, 5 * 10**307)
        assert found(local, [1e200], (low, low)) >= slope * 10**200
    power = Node("local", (0,), (-2.0,), (0, 1), function="integer_pow")
    assert found(power, [1e100], (jnp.asarray(1e110),) * 2) >= Fraction(2, 10**330) * 10**100
    quotient = Node("quotient", (0, 1), (1.0, 1.0), (0, 1))
    sizes = jnp.asarray(1e-200), jnp.asarray(1e-150)
    assert found(quotient, [0.0, 1e-200], sizes) >= Fraction(1, 10**250)
    three = Node("measured", (0,), (1e-200,), (0,))
    assert found(three, [1e300], (jnp.asarray(1e-200),)) >= Fraction(1, 10**100) * (
        1 - Fraction(1, 10**12)
    )
    two = Node("bilinear", (0, 1), (1e-200,), (0, 1))
    sizes = jnp.asarray(0.0), jnp.asarray(1e300)
    assert found(two, [1e-200, 0.0], sizes) >= Fraction(1, 10**100) * (1 - Fraction(1, 10**12))


@pytest.mark.parametrize("function", ["log", "log1p", "rsqrt"])
def test_the_ends_of_an_interval_are_rounded_outward(function):
    size, moved = Fraction(1, 2**40), Fraction(1, 2**95)  # less than half a unit of the end's
    low = jnp.asarray(float(size) - (function == "log1p"))
    node = Node("local", (0,), (), (0, 1), function=function)
    if function == "log1p":
        moved = Fraction(1, 2**55)
    bound = float(evaluate(node, [jnp.asarray(float(moved))], (low, low)))
    end = size - moved
    if function == "rsqrt":  # 1 / (2 end^(3/2))
        assert (2 * Fraction(bound) / moved) ** 2 * end**3 >= 1
    else:
        assert Fraction(bound) * end >= moved


def test_numbers_that_products_could_lose_are_refused():
    def of(apply, weight=1.0):
        return Network(apply, {"t": np.array([[weight, -1.0]])}, np.ones((1, 1, 1)))

    for weight in (1e-200, 5e-324, -1e101):
        network = of(lambda p, x: x[0] @ p["t"])
        with pytest.raises(ValueError, match="params: got a number of size"):
            network.leaves.vector({"t": np.array([[weight, -1.0]])})
        with pytest.raises(ValueError, match="x: got a number of size"):
            network.observe(np.array([1.0, -1.0]), np.full((1, 1, 1), weight), np.array([0]))
    for apply in (
        lambda p, x: (x[0] @ p["t"]) * 1e308 * 2.3e-308,
        lambda p, x: (x[0] @ p["t"]) / 1.7e308,
        lambda p, x: (x[0] @ p["t"]) @ jnp.array([[1.0, 1e-200], [0.0, 1.0]]),
    ):
        with pytest.raises(ValueError, match="beyond 1e-150 to 1e150"):
            of(apply)
    for activation in (jax.nn.leaky_relu, jax.nn.elu):
        with pytest.raises(ValueError, match="apply"):
            of(lambda p, x, f=activation: f(x[0] @ p["t"], jnp.nan))


def test_a_divisor_that_may_vanish_leaves_no_example_certain():
    params = {name: np.array([[1.0, -2.0], [0.5, 1.5]]) for name in "abc"}

    def apply(p, x):
        unit = p["b"] / jnp.sqrt(jnp.sum(p["b"] ** 2, 0, keepdims=True))
        logits = x[0] @ p["a"] @ unit @ p["c"]
        return jnp.concatenate([logits[:, :1], logits[:, 1:] * 2], axis=1)

    network = Network(apply, params, np.ones((1, 1, 2)))
    watched = Watched(network, network.leaves.vector(params), np.ones((1, 2)))
    moved = {name: name == "b" for name in params}  # by 0 in front of and behind it
    change = np.concatenate([np.full(4, 9.0 * moved[name]) for name in params])
    limits = watched.limits(watched.distances(change), 0)
    assert np.all(limits == np.inf)


def test_what_is_subtracted_has_room():
    # 1 - E with E near 1 enlarges the rounding error of E a million times: it counts as larger.
    moved = jnp.asarray(1 - 1e-6)
    quotient = Node("quotient", (0, 1), (1.0, 1.0), (0, 1))
    found = float(evaluate(quotient, [moved, moved], [jnp.asarray(0.0), jnp.asarray(1.0)]))
    assert found >= (1 - 1e-6) / 1e-6 * (1 + 5e-7)
    log = Node("local", (0,), (), (0, 1), function="log")
    found = float(evaluate(log, [moved], [jnp.asarray(1.0), jnp.asarray(2.0)]))
    assert found >= (1 - 1e-6) / 1e-6 * (1 + 5e-7)


# --- norms of operators -----------------------------------------------------------------------


def convolution_gain(
    inputs,
    size,
    outputs,
    padding=(0, 0),
    stride=1,
    dilation=1,
    spread=1,
    inner=1,
    outer=1,
    groups=1,
):
    window = Window(inputs, outputs, size, stride, padding, dilation, spread)
    numbers = lax.conv_dimension_numbers(
        (1, inputs, inner * groups), (size, inner, outer * groups), WNC
    )
    geometry = Convolution((window,), groups, numbers)
    index = np.arange(groups * outer * size * inner).reshape(groups, outer, size * inner)
    return Gain(Entries.plain(index), geometry.gather_norm, geometry, (size,)), geometry


@pytest.mark.parametrize("seed", range(30))
def test_operator_norms_of_convolutions(seed):
    rng = np.random.default_rng(seed)
    inputs, size, stride = (int(rng.integers(1, high)) for high in (6, 4, 3))
    dilation, spread, inner, outer, groups = (int(v) for v in rng.integers(1, 3, size=5))
    padding = (int(rng.integers(0, 4)), int(rng.integers(0, 4)))
    wide = (inputs - 1) * spread + 1 + sum(padding) - (size - 1) * dilation
    if wide < 1:
        padding = (padding[0] + 1 - wide, padding[1])
        wide = 1
    outputs = -(-wide // stride)
    gain, _ = convolution_gain(
        inputs, size, outputs, padding, stride, dilation, spread, inner, outer, groups
    )
    weights = rng.normal(size=gain.entries.index.size)
    kernel = np.moveaxis(
        matrix_of(gain.entries, weights).reshape(groups * outer, size, inner), 0, -1
    )

    def apply(h):
        return jnp.ravel(
            convolve(h, jnp.asarray(kernel), padding, stride, groups, dilation, spread)
        )

    matrix = np.asarray(jax.jacfwd(apply)(jnp.zeros((inputs, inner * groups))))
    matrix = matrix.reshape(len(matrix), -1)
    truth = np.linalg.norm(matrix, 2) if matrix.size else 0.0
    assert operator_norm(gain, weights) >= truth * (1 - 1e-12)


def test_the_torus_is_the_better_of_two_norms():
    # A long convolution without stride: the transfer function, not sqrt(taps) |k|.
    gain, _ = convolution_gain(200, 3, 202, (2, 2))
    kernel = np.array([1.0, -1.0, 1.0])
    assert operator_norm(gain, kernel) == pytest.approx(3.0, rel=1e-2)
    kernel = np.array([1.0, 0.0, 0.0])
    assert operator_norm(gain, kernel) == pytest.approx(1.0, rel=1e-9)


# --- activations ------------------------------------------------------------------------------

NUMBERS = {"leaky_relu": (0.01, 0.3, -2.5), "elu": (1.0, 3.0, -0.5)}


def function_of(name, number=None):
    function = ACTIVATIONS[name].function
    return function if number is None else lambda x: function(x, number)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"softmax"}))
def test_constants_of_activations(name):
    grid = jnp.concatenate([jnp.linspace(-60, 60, 240001), jnp.linspace(-1e-6, 1e-6, 101)])
    for number in NUMBERS.get(name, (None,)):
        slopes = np.abs(np.asarray(jax.vmap(jax.grad(function_of(name, number)))(grid)))
        constant = ACTIVATIONS[name].constant(number or 0.0)
        assert constant >= slopes.max()
        assert constant <= slopes.max() * (1 + 1.5e-3)


def test_constant_of_softmax():
    largest = 0.0
    for _ in range(300):
        scores = RNG.normal(size=4) * RNG.choice([0.1, 1, 5, 20])
        if RNG.random() < 0.3:
            scores = np.array([7.0, 7.0, -20, -20]) + 0.1 * RNG.normal(size=4)
        p = np.exp(scores - scores.max())
        p /= p.sum()
        largest = max(largest, np.linalg.norm(np.diag(p) - np.outer(p, p), 2))
    assert 0.499 < largest <= ACTIVATIONS["softmax"].constant(0.0)


def factor_of(function, shape=(3,)):
    """What the recursion says of one activation, as a factor."""

    def apply(p, x):
        return (function(p["a"] * x["one"][0] + 0.0) * 1.0).reshape(1, -1)

    network = Network(apply, {"a": np.ones(shape)}, jax.tree.map(lambda a: a[None], X))
    watched = Watched(network, np.linspace(-1, 1, int(np.prod(shape))), X)
    return watched.bound([1e-9]) / 1e-9


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_recognized(name):
    for number in NUMBERS.get(name, (None,)):
        found = factor_of(function_of(name, number))
        assert found == pytest.approx(ACTIVATIONS[name].constant(number or 0.0), rel=1e-9)


def test_a_name_proves_nothing():
    @jax.jit
    def silu(x):
        return x * jax.nn.sigmoid(5 * x)

    @jax.jit
    def softmax(x):
        return 40 * jax.nn.softmax(x)

    @jax.jit
    def gelu(x):
        return 0.5 * x * (1 + jnp.tanh(9.0 * (x + 0.044715 * x**3)))

    # The equations of hard_sigmoid, with another number in the last.
    assert factor_of(lambda x: jax.nn.relu6(x + 3.0) / 0.1) == pytest.approx(10.0, rel=1e-9)
    assert factor_of(silu) > 1.09995
    assert factor_of(softmax) == pytest.approx(20.0, rel=1e-9)
    assert factor_of(gelu) > 1.2
    assert factor_of(lambda x: jax.nn.celu(x, 0.1)) >= 1


def test_a_number_that_is_trained_is_no_constant():
    def apply(p, x):
        return jax.nn.leaky_relu(p["a"] * x["one"][0], p["slope"][0]).reshape(1, -1) * 1.0

    params = {"a": np.array([-2.0, 1.0]), "slope": np.array([0.1])}
    with pytest.raises(ValueError, match="'ge'"):
        Network(apply, params, jax.tree.map(lambda a: a[None], X))


@pytest.mark.parametrize("activation", [jax.nn.softmax, jax.nn.silu, jax.nn.gelu])
def test_an_activation_is_the_same_under_vmap(activation):
    params, x = {"t": np.ones((3, 2))}, np.ones((1, 3))
    batched = Network(lambda p, x: activation(x @ p["t"]), params, x)
    mapped = Network(lambda p, x: jax.vmap(lambda v: activation(v @ p["t"]))(x), params, x)
    assert mapped.recursion.nodes == batched.recursion.nodes
    assert len(mapped.recursion.nodes) == 3
