"""Random networks of everything that the rules accept.

A network is a list of steps on a value ``h`` of shape ``(tokens, channels)``; each step brings the
weights it needs. Sizes are few, so that the pieces are compiled once for thousands of networks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TOKENS, CHANNELS = (1, 3), (2,)


@dataclass
class Draft:
    """A network while it is drawn.

    Attributes:
        pick: chooses one of a list.
        rng: of the numbers themselves.
        exact: whether casts to narrower floats are the identity, as the theorem says; read when
            the network runs.
    """

    pick: Callable[[Any], Any]
    rng: np.random.Generator
    params: dict[str, np.ndarray] = field(default_factory=dict)
    steps: list[Callable] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    shape: tuple[int, int] = (3, 2)
    exact: bool = False

    def weight(self, *shape, near=0.0, scale=1.0):
        """A new leaf; sometimes one used before (tied)."""
        same = [n for n, v in self.params.items() if v.shape == shape]
        if same and len(shape) == 2 and self.pick([False, False, False, True]):
            return self.pick(same)
        name = f"{len(self.params):02d}"
        spread = scale / np.sqrt(max(shape[-2] if len(shape) > 1 else 1, 1))
        self.params[name] = np.asarray(near + spread * self.rng.normal(size=shape))
        return name

    def positive(self, *shape):
        """A new leaf of numbers about 1."""
        name = f"{len(self.params):02d}"
        self.params[name] = self.rng.uniform(0.5, 1.5, size=shape)
        return name

    def add(self, name, step, shape):
        self.steps.append(step)
        self.names.append(name)
        self.shape = tuple(shape)

    def cast(self, value, dtype):
        return value if self.exact else value.astype(dtype).astype(jnp.float64)


# --- weights in other dress -------------------------------------------------------------------


def matrix(d: Draft, rows: int, columns: int):
    """A matrix made of weights, as networks make them."""
    how = d.pick(
        ["plain", "plain", "transposed", "low rank", "normalized", "cast", "scaled", "joined"]
    )
    w = d.weight(rows, columns)
    if how == "transposed" and rows == columns:
        return lambda p: p[w].T
    if how == "low rank":
        a, b = d.weight(rows, 1), d.weight(1, columns)
        return lambda p: p[w] + p[a] @ p[b]
    if how == "normalized":
        g = d.positive(columns)
        base = d.weight(rows, columns, near=1.0, scale=0.3)
        return lambda p: p[base] / jnp.sqrt(jnp.sum(p[base] ** 2, axis=0, keepdims=True)) * p[g]
    if how == "cast":
        dtype = d.pick([jnp.bfloat16, jnp.float16, jnp.float32])
        return lambda p: d.cast(p[w], dtype)
    if how == "scaled":
        c = d.pick([0.5, -3.0])
        return lambda p: p[w] * c / 1.5
    if how == "joined" and columns > 1:
        a, b = d.weight(rows, 1), d.weight(rows, columns - 1)
        return lambda p: jnp.concatenate([p[a], p[b]], axis=1)
    return lambda p: p[w]


# --- steps ------------------------------------------------------------------------------------


def dense(d):
    t, c = d.shape
    out = d.pick(CHANNELS)
    w = matrix(d, c, out)
    shape = d.pick([None, (out,), (1, out), (t, 1), (1, 1), ()])
    b = None if shape is None else d.weight(*shape)
    d.add("dense", lambda p, h, x: h @ w(p) + (0.0 if b is None else p[b]), (t, out))


def mixing(d):
    t, c = d.shape
    out = d.pick(TOKENS)
    w = matrix(d, out, t)
    d.add("mixing", lambda p, h, x: w(p) @ h, (out, c))


def batched(d):
    t, c = d.shape
    w = d.weight(t, c, c)
    d.add("batched", lambda p, h, x: jnp.einsum("tc,tcd->td", h, p[w]), (t, c))


def constant_product(d):
    t, c = d.shape
    m = d.rng.normal(size=(c, c))
    d.add("constant product", lambda p, h, x: h @ m, (t, c))


def convolution(d):
    t, c = d.shape
    groups = d.pick([1, 1, c])
    size, stride, dilation, spread = (
        d.pick([1, 2, 3]),
        d.pick([1, 2]),
        d.pick([1, 2]),
        d.pick([1, 2]),
    )
    out = c if groups == c else d.pick(CHANNELS)
    low, high = d.pick([0, 1, 2]), d.pick([0, 1, 2])
    wide = (t - 1) * spread + 1 + low + high - (size - 1) * dilation
    if wide < 1:
        high, wide = high + 1 - wide, 1
    tokens = -(-wide // stride)
    k = d.weight(size, c // groups, out)
    b = d.weight(out)

    def step(p, h, x):
        found = lax.conv_general_dilated(
            h[None], p[k], (stride,), ((low, high),), (spread,), (dilation,),
            ("NWC", "WIO", "NWC"), groups,
        )[0] + p[b]  # fmt: skip
        return found[:kept]

    kept = 3 if tokens >= 3 else 1
    d.add("convolution", step, (kept, out))


ACTIVATIONS = (
    jax.nn.relu, jax.nn.relu6, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.mish, jax.nn.elu,
    jax.nn.selu, jax.nn.celu, jax.nn.leaky_relu, jax.nn.hard_tanh, jax.nn.hard_sigmoid,
    jax.nn.hard_silu, jax.nn.soft_sign, jax.nn.log_sigmoid, jax.nn.squareplus, jax.nn.sigmoid,
    jnp.tanh, jnp.sin, jnp.cos, jnp.arctan, jnp.arcsinh, jnp.abs, lax.erf, lax.erfc, jnp.square,
    lambda h: jax.nn.gelu(h, approximate=False), lambda h: jax.nn.leaky_relu(h, 2.5),
    lambda h: jax.nn.elu(h, 0.3), lambda h: jax.nn.softmax(h, axis=-1),
    lambda h: jax.nn.softmax(h, axis=0), lambda h: jnp.clip(h, -0.4, 0.6), lambda h: -h,
)  # fmt: skip
CHAINS = (
    lambda h: jnp.exp(jnp.tanh(h)), lambda h: jnp.log(1.5 + jnp.tanh(h)),
    lambda h: jnp.sqrt(h**2 + 0.5), lambda h: lax.rsqrt(1 + jnp.square(h)),
    lambda h: 1 / (2 + jnp.tanh(h)), lambda h: h / (2.5 + jnp.sin(h)), lambda h: h**3 / 4,
    lambda h: jnp.log1p(jnp.square(h)), lambda h: jnp.expm1(jnp.tanh(h)),
    lambda h: jnp.exp2(jnp.tanh(h)), lambda h: (2 + jnp.tanh(h)) ** -2,
    lambda h: jax.nn.log_softmax(jnp.tanh(h), axis=-1), lambda h: h * h, lambda h: h * jnp.tanh(h),
)  # fmt: skip


def activation(d):
    f = d.pick(ACTIVATIONS)
    d.add("activation", lambda p, h, x: f(h), d.shape)


def chain(d):
    f = d.pick(CHAINS)
    d.add("chain", lambda p, h, x: f(h), d.shape)


def layer_norm(d):
    t, c = d.shape
    s, b, centered = d.positive(c), d.weight(c), d.pick([True, False])

    def step(p, h, x):
        h = h - jnp.mean(h, axis=-1, keepdims=True) if centered else h
        n = lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + 0.1)
        return h * n * p[s] + p[b]

    d.add("layer norm", step, (t, c))


def batch_norm(d):
    t, c = d.shape
    m, v, s, b = d.weight(c), d.positive(c), d.positive(c), d.weight(c)
    held = d.pick([True, False])
    mean, var = d.rng.normal(size=c), d.rng.uniform(0.5, 2, size=c)

    def step(p, h, x):
        if held:
            return (h - mean) / np.sqrt(var + 1e-5) * p[s] + p[b]
        return (h - p[m]) * lax.rsqrt(p[v] + 1e-5) * p[s] + p[b]

    d.add("batch norm", step, (t, c))


def pooling(d):
    t, c = d.shape
    size, stride = d.pick([1, 2, 3]), d.pick([1, 2])
    kind = d.pick(["max", "mean", "min", "sum"])
    start, f = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min)}.get(kind, (0.0, lax.add))

    def step(p, h, x):
        found = lax.reduce_window(h, start, f, (size, 1), (stride, 1), "SAME")
        return (found / size if kind == "mean" else found)[:kept]

    kept = 3 if t == 3 and stride == 1 else 1
    d.add(f"{kind} pooling", step, (kept, c))


def loop(d):
    t, c = d.shape
    w, b = d.weight(2, c, c), d.weight(2, c)
    kind = d.pick(["carry", "collected", "both", "reversed"])

    def step(p, h, x):
        def body(h, weights):
            new = h + jnp.tanh(h @ weights[0] + weights[1])
            return new, new * 0.5

        last, all_of_them = lax.scan(body, h, (p[w], p[b]), reverse=kind == "reversed")
        if kind in {"carry", "reversed"}:
            return last
        return all_of_them.sum(axis=0) + (last if kind == "both" else 0.0)

    d.add("loop", step, (t, c))


def shrinking_loop(d):
    def step(p, h, x):
        return lax.scan(lambda c, _: (c * 1e-3, c), h, None, length=3)[1].sum(axis=0)

    d.add("shrinking loop", step, d.shape)


def collected_weights(d):
    t, c = d.shape
    w = d.weight(2, c, c)

    def step(p, h, x):
        _, all_of_them = lax.scan(lambda n, w: (n + 1, w * 0.5), 0, p[w])
        return h @ all_of_them[0] + h @ all_of_them[1].T

    d.add("collected weights", step, (t, c))


def recurrent(d):
    t, c = d.shape
    w, u = d.weight(c, c), d.weight(c, c)
    last = d.pick([True, False])

    def step(p, h, x):
        def body(state, token):
            state = jnp.tanh(token @ p[w] + state @ p[u])
            return state, state

        state, states = lax.scan(body, jnp.zeros(c), h)
        return state[None] if last else states

    d.add("recurrent", step, (1, c) if last else (t, c))


def residual(d):
    t, c = d.shape
    w = matrix(d, c, c)
    kind = d.pick(["add", "sub", "add twice"])

    def step(p, h, x):
        branch = jnp.tanh(h @ w(p))
        return {"add": h + branch, "sub": h - branch, "add twice": (h + branch) + h}[kind]

    d.add("residual", step, (t, c))


def joined(d):
    t, c = d.shape
    w = d.weight(t, c)
    kind = d.pick(["tokens", "stack", "update", "pad", "tile"])

    def step(p, h, x):
        if kind == "tokens":
            return jnp.concatenate([p[w][:1], jnp.sin(h), x[:1, :1] + jnp.zeros((1, c))])[:3]
        if kind == "stack":
            return jnp.stack([h, jnp.tanh(h), p[w]]).sum(axis=0)
        if kind == "update":
            return lax.dynamic_update_slice(h, p[w][:1], (t - 1, 0))
        if kind == "pad":
            return lax.pad(h, 0.5, ((1, 1, 1), (0, 0, 0)))[:t]
        return jnp.tile(h, (2, 1))[1 : t + 1]

    d.add(f"joined ({kind})", step, (min(t + 2, 3), c) if kind == "tokens" else (t, c))


def selected(d):
    t, c = d.shape
    w = d.weight(1, 1)
    mask = d.rng.normal(size=(t, c)) > 0
    by_data = d.pick([True, False])

    def step(p, h, x):
        chosen = (x[:1, :1] > 0) ^ mask if by_data else mask
        return jnp.where(chosen, h, p[w] + jnp.tanh(h))

    d.add("selected", step, (t, c))


def casts(d):
    dtype = d.pick([jnp.bfloat16, jnp.float16, jnp.float32])
    d.add("cast", lambda p, h, x: d.cast(h, dtype), d.shape)


def scaled(d):
    t, c = d.shape
    kind = d.pick(["number", "constant", "data", "weights", "one weight", "quotient"])
    m, w, one = d.rng.normal(size=(t, c)), d.positive(c), d.positive(1, 1)

    def step(p, h, x):
        return {
            "number": lambda: 3.0 * h / 2.0, "constant": lambda: h * m,
            "data": lambda: h * (1 + x[0, 0] ** 2) / (2 + x[:1, :1]), "weights": lambda: h * p[w],
            "one weight": lambda: h * p[one], "quotient": lambda: h / p[w],
        }[kind]()  # fmt: skip

    d.add(f"scaled ({kind})", step, (t, c))


def gate(d):
    t, c = d.shape
    w = d.weight(c, 2 * c)
    kind = d.pick(["gate", "column", "row"])

    def step(p, h, x):
        a, b = jnp.split(h @ p[w], 2, axis=1)
        b = {"gate": b, "column": b[:, :1], "row": b[:1]}[kind]
        return a * jax.nn.sigmoid(b)

    d.add("gate", step, (t, c))


def attention(d):
    t, c = d.shape
    w, masked = d.weight(c, 3 * c), d.pick([True, False])

    def step(p, h, x):
        q, k, v = jnp.split(h @ p[w], 3, axis=1)
        scores = q @ k.T / np.sqrt(c)
        if masked:
            scores = jnp.where(np.tri(t, dtype=bool), scores, -1e30)
        return jax.nn.softmax(scores, axis=-1) @ v

    d.add("attention", step, (t, c))


def outer(d):
    t, c = d.shape
    d.add("outer", lambda p, h, x: (h @ h.T) @ jnp.tanh(h), (t, c))


def embedding(d):
    c = d.shape[1]
    e = d.weight(4, c)

    def step(p, h, x):
        ids = jnp.clip((x[:, 0] * 2).astype(int), 0, 3)
        return jnp.concatenate([h, p[e][ids]])[-3:]

    d.add("embedding", step, (3, c))


def taken(d):
    t, c = d.shape
    places = d.rng.integers(0, t, size=3)
    kind = d.pick(["constant", "data", "flip", "shifted"])

    def step(p, h, x):
        at = (x[0, 0] > 0).astype(int)
        if kind == "constant":
            return h[places]
        if kind == "data":
            return h[jnp.minimum(jnp.stack([at, at, 0 * at]), t - 1)]
        return (
            h[::-1] if kind == "flip" else lax.dynamic_slice(jnp.tile(h, (2, 1)), (at, 0), (t, c))
        )

    d.add(f"taken ({kind})", step, (3, c) if kind in {"constant", "data"} else (t, c))


def reduced(d):
    t, c = d.shape
    kind = d.pick(["mean", "sum", "max", "centered", "spread"])

    def step(p, h, x):
        mean = jnp.mean(h, axis=0, keepdims=True)
        if kind == "spread":
            return jnp.broadcast_to(jnp.max(h, axis=1, keepdims=True), h.shape) + mean
        return {"mean": mean, "sum": h.sum(0)[None], "max": h.max(0)[None], "centered": h - mean}[
            kind
        ]

    d.add(f"reduced ({kind})", step, (1, c) if kind in {"mean", "sum", "max"} else (t, c))


STEPS = (
    dense, dense, dense, mixing, batched, constant_product, convolution, convolution, activation,
    activation, activation, chain, chain, layer_norm, batch_norm, pooling, loop, shrinking_loop,
    collected_weights, recurrent, residual, joined, selected, casts, scaled, scaled, gate,
    attention, outer, embedding, taken, reduced,
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A finished network.

    Attributes:
        apply: as a user would write it.
        exact: the same without roundings to narrower types: what the theorem speaks of.
    """

    names: tuple[str, ...]
    params: dict[str, np.ndarray]
    apply: Callable
    exact: Callable


def draw(pick: Callable[[Any], Any], seed: int) -> Drawn:
    """One network; ``pick`` chooses from a list."""
    d = Draft(pick, np.random.default_rng(seed))
    first = d.pick([dense, convolution, mixing])
    first(d)
    for _ in range(d.pick([1, 2, 3, 4])):
        d.pick(STEPS)(d)
    t, c = d.shape
    classes = d.pick([2, 3])
    head = d.pick(["dense", "dense", "biases", "scaled", "sum", "weights first"])
    w, b, s = d.weight(t * c, classes), d.weight(classes), d.weight(1, 1)

    def run(p, x, exact):
        d.exact = exact
        h = x[0]
        for step in d.steps:
            h = step(p, h, x[0])
        h = h.reshape(1, -1)
        if head == "weights first":
            return (p[w].T @ h[0])[None] - p[b]
        logits = h @ p[w]
        if head == "biases":
            return logits + p[b] - 2 * p[b][::-1] + x[0, :1, :1]
        if head == "scaled":
            return (logits + p[b]) * 0.5
        if head == "sum":
            return jnp.concatenate([logits[:, :1], logits[:, 1:] + p[s]], axis=1)
        return logits

    return Drawn(
        (*d.names, head), d.params, lambda p, x: run(p, x, False), lambda p, x: run(p, x, True)
    )
