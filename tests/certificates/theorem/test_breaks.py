"""Networks that cannot have learned anything must not get a guarantee.

One of 256 one-hot inputs, labels are fair coins: the true error of every network is 1/2. The
network is the table of the majority labels of the sample, written in ways that have fooled a
recursion that believed more than it could prove.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.core import ShapedArray
from jax.experimental import pallas
from jax.extend.core import Primitive
from jax.interpreters import batching

from rankjax import describe
from rankjax.certificates import Network, certify, verify
from rankjax.certificates.file import count_errors

N = 200
RNG = np.random.default_rng(0)
INDEX, Y = RNG.integers(256, size=N), RNG.integers(2, size=N)
X = np.eye(256)[INDEX]
MAJORITY = np.sign(np.bincount(INDEX, weights=2 * Y - 1, minlength=256) + 0.1)
TABLE = np.stack([-MAJORITY, MAJORITY], axis=1)
ONES = {"t": jnp.ones((256, 2))}
HUGE = 1.5 * 2**52


def scanned(p, x):
    return lax.scan(lambda c, _: (c * 1e-3, c), x @ p["t"], None, length=3)[1].sum(0)


def constant_last_step(p, x):
    def step(c, i):
        return c * 1e-3, lax.cond(i == 2, jnp.zeros_like, lambda c: c, c)

    return lax.scan(step, x @ p["t"], jnp.arange(3))[1].sum(0)


def weights_through_a_loop(p, x):
    def step(c, i):
        return c, lax.cond(i == 2, jnp.zeros_like, lambda t: t, p["t"])

    return x @ lax.scan(step, 0.0, jnp.arange(3))[1].sum(0)


def weights_from_inside_a_loop(p, x):
    return x @ lax.scan(lambda c, row: (c, row), 0.0, p["t"])[1]


def stretched(p, x):
    h = x @ p["t"]
    for _ in range(2):
        h = (h[:, :, None] + jnp.zeros((1, 1, 4096))).sum(-1)
    return h


def skipped(p, x):
    return (1000 * x + 0.0 * (x @ p["a"])) @ p["t"]


def two_geometries(p, x):
    kernel = p["t"].T[None]  # (1, 2, 256)
    grouped = lax.conv_general_dilated(
        jnp.tile(x[:, None, :2], (1, 1, 1)), kernel[:, :1, :2], (1,), "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2,
    )  # fmt: skip
    return x @ p["t"] + 0.0 * grouped[:, 0]


TABLES = {
    "a product": lambda p, x: x @ p["t"],
    "outputs of a loop": scanned,
    "the last step of a loop is constant": constant_last_step,
    "weights through a loop": weights_through_a_loop,
    "weights collected by a loop": weights_from_inside_a_loop,
    "silent broadcasting": stretched,
    "two geometries of one kernel": two_geometries,
    "sum over a stretched axis": lambda p, x: jnp.sum(
        jnp.expand_dims(x @ p["t"], -1) * jnp.ones((1, 1, 64)), axis=-1
    ),
    "a window": lambda p, x: (
        lax.reduce_window(x @ p["t"], 0.0, lax.add, (1, 2), (1, 1), "SAME") + x @ p["t"]
    ),
}
NEAR_ONE = {
    "bfloat16 weights": lambda p, x: (x.astype(jnp.bfloat16) @ p["t"].astype(jnp.bfloat16)).astype(
        float
    ),
    "float8 logits": lambda p, x: (x @ p["t"]).astype(jnp.float8_e4m3fn).astype(float),
    "reduce_precision": lambda p, x: x @ lax.reduce_precision(p["t"], 8, 1),
    "a huge constant": lambda p, x: jax.nn.relu(x @ p["t"] + HUGE) - HUGE,
    "a huge constant, joined": lambda p, x: (
        jnp.concatenate([x @ p["t"] + HUGE, x @ p["t"] + HUGE], 1)[:, 1:3][:, ::-1] - HUGE
    ),
}


def honest(apply, params, **options):
    try:
        structure = describe(params, apply=apply, example=X)
    except ValueError:  # the table is no matrix there
        structure = describe(params, axes={"t": ((1,), (0,))})
    certificate = certify(structure, params, X, Y, apply=apply, **options)
    assert certificate.value >= 0.5
    options.pop("guard", None)
    assert verify(certificate, structure, params, X, Y, apply=apply, **options) >= 0.5


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_not_certified(name):
    honest(TABLES[name], {"t": jnp.asarray(TABLE)}, guard=name == "outputs of a loop")


@pytest.mark.parametrize("name", NEAR_ONE)
def test_what_casts_and_rounding_would_hide_is_coded(name):
    params = {"t": jnp.asarray(1 + 1e-6 * TABLE)}
    honest(NEAR_ONE[name], params, reference=ONES, guard=name == "a huge constant")


def test_an_exact_skip_is_not_bounded_by_a_radius():
    params = {"a": jnp.full((256, 256), 1e-3), "t": jnp.asarray(TABLE)}
    honest(skipped, params, guard=False)


REFUSED = {
    "'convert_element_type' to int32": lambda p, x: x @ p["t"].astype(jnp.int32).astype(float),
    "'convert_element_type' to bool": lambda p, x: x @ p["t"].astype(bool).astype(float),
    "'sign'": lambda p, x: jnp.sign(x @ p["t"]),
    "'round'": lambda p, x: jnp.round(x @ p["t"]),
    "'floor'": lambda p, x: jnp.floor(x @ p["t"]),
    "'argmax'": lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["t"], axis=-1), 2),
    "'gt'": lambda p, x: (x @ p["t"] > 0).astype(float),
    "'sort'": lambda p, x: jnp.sort(x @ p["t"], axis=-1),
    "'cumsum'": lambda p, x: jnp.cumsum(x @ p["t"], axis=-1),
    "'while'": lambda p, x: lax.while_loop(lambda c: jnp.sum(c) < 1, lambda c: c + 1.0, x @ p["t"]),
    "'cond'": lambda p, x: lax.cond(x[0, 0] > 0, lambda: x @ p["t"], lambda: -x @ p["t"]),
    "'bitcast_convert_type'": lambda p, x: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x @ p["t"], jnp.uint64), jnp.float64
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_rule_is_refused_by_name(what):
    with pytest.raises(ValueError, match=rf"apply: certify has no rule for {what}.*activations="):
        Network(REFUSED[what], {"t": jnp.asarray(TABLE)}, X)


def test_unknown_values_that_do_not_reach_the_logits_do_not_matter():
    def apply(p, x):
        h = x @ p["t"]
        jnp.sum(jnp.sign(h))
        return h

    assert Network(apply, {"t": jnp.asarray(TABLE)}, X).head is not None


def test_an_array_that_apply_holds_is_read_anew_at_every_call():
    class Box:
        sign = jnp.asarray(1.0) * jnp.ones((1, 2))

    box, params = Box(), {"t": jnp.asarray(TABLE)}

    def apply(p, x):
        return (x @ p["t"]) * box.sign

    structure = describe(params, apply=apply, example=X)
    first = certify(structure, params, X, Y, apply=apply, guard=False)
    box.sign = -box.sign
    second = certify(structure, params, X, Y, apply=apply, guard=False)
    assert first.errors < N / 2 < second.errors
    with pytest.raises(ValueError, match="errors: got"):
        verify(first, structure, params, X, Y, apply=apply)


def test_what_apply_holds_is_counted_among_the_assumptions():
    table, learned = jnp.asarray(TABLE), [0.123, 4.56]

    @jax.jit
    def inner(x):
        return x @ table * learned[0] + learned[1]

    def apply(p, x):
        return inner(x) + x @ p["t"]

    params = {"t": jnp.asarray(TABLE), "flag": True}
    structure = describe({"t": params["t"]}, apply=apply, example=X)
    found = certify(structure, params, X, Y, apply=apply, guard=False).assumptions
    assert any("apply holds 1 array of 512 numbers" in text for text in found)
    assert any("2 further numbers written into apply" in text for text in found)
    assert any("1 Python boolean" in text for text in found)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"t": jnp.asarray(TABLE), "s": 3.0}, r"params\['s'\]: got the Python number 3.0"),
        ({"t": jnp.asarray(TABLE), "s": 3}, r"params\['s'\]: got the Python number 3"),
        ({"t": jnp.asarray(TABLE + 0j)}, r"params\['t'\]: got complex128, must be real"),
        (
            {"a": {"t": jnp.asarray(TABLE)}, "a/t": jnp.asarray(TABLE)},
            "params: two leaves have the path 'a/t'",
        ),
        ({"t": jnp.asarray(TABLE), "s": "+-+-"}, r"params\['s'\]: got the Python str '\+-\+-'"),
        ({"t": jnp.tanh}, "params: got a tree without arrays"),
    ],
)
def test_what_params_must_not_hold(params, message):
    with pytest.raises(ValueError, match=message):
        Network(lambda p, x: x @ jnp.asarray(TABLE), params, X)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({"silu": -1}, r"activations\['silu'\]: got -1, must be a positive, finite number"),
        ({"silu": 0.0}, "positive, finite"),
        ({"silu": np.nan}, "positive, finite"),
        ({"silu": np.inf}, "positive, finite"),
        ({"silu": "1"}, "positive, finite"),
        ({"silu": True}, "positive, finite"),
        ({"sillu": 1.0}, r"activations: \['sillu'\] are never met"),
    ],
)
def test_told_constants(activations, message):
    def apply(p, x):
        return jax.nn.silu(x @ p["t"])

    with pytest.raises(ValueError, match=message):
        Network(apply, {"t": jnp.asarray(TABLE)}, X, activations)


def test_outputs_must_be_the_logits_alone():
    params = {"t": jnp.asarray(TABLE)}
    with pytest.raises(ValueError, match="apply: must return the logits alone"):
        Network(lambda p, x: (x @ p["t"], x), params, X)
    with pytest.raises(ValueError, match="apply: got outputs of shape"):
        Network(lambda p, x: (x @ p["t"])[:, :1], params, X)
    with pytest.raises(ValueError, match="apply: the logits do not depend on params"):
        Network(lambda p, x: x[:, :2], params, X)


# --- what an audit found: one of two inputs, and the exact network is wrong on both ---------------

TWO = np.random.default_rng(1).integers(2, size=2000)
TWO_X, GOOD = np.eye(2)[TWO], jnp.array([[1.0, -1.0], [-1.0, 1.0]])
BAD = -GOOD
STOP = lax.optimization_barrier


def wrong_everywhere(apply, params, **options):
    structure = describe(params, axes=dict.fromkeys(params, ((1,), (0,))))
    found = certify(structure, params, TWO_X, TWO, apply=apply, guard=False, **options)
    assert found.value > 0.99


def test_classes_that_a_reshape_transposes_are_not_taken_for_themselves():
    def apply(p, x):
        h = (jnp.tanh(x @ p["a"]) @ p["kernel"]).reshape(len(x), 2, 2)
        return lax.reshape(h, (len(x), 4), dimensions=(0, 2, 1))

    params = {"a": jnp.eye(2), "kernel": jnp.arange(8.0).reshape(2, 4)}
    assert Network(apply, params, TWO_X).head is None


def test_squares_that_underflow_are_not_zero():
    tiny = {"kernel": BAD * 1e-99}
    wrong_everywhere(lambda p, x: x @ p["kernel"], tiny, reference={"kernel": GOOD * 1e-99})
    with pytest.raises(ValueError, match="params: got a number of size"):
        wrong_everywhere(lambda p, x: x @ p["kernel"], jax.tree.map(lambda a: a * 1e-71, tiny))
    small = {"kernel": BAD}, {"reference": {"kernel": GOOD}}
    wrong_everywhere(lambda p, x: ((x * 1e-149) @ p["kernel"]) * 1e149, small[0], **small[1])
    with pytest.raises(ValueError, match="too close to 0 or too large"):
        wrong_everywhere(lambda p, x: ((x * 1e-99 * 1e-71) @ p["kernel"]) * 1e99, *small[:1])


def test_constants_that_underflow_are_not_zero():
    def apply(p, x):
        down = STOP(STOP(p["a"] * 1e-200) * 1e-200)
        return x @ (STOP(down * 1e200) * 1e200) * 10.0 + x @ p["b"]

    with pytest.raises(ValueError, match="has no rule for a product with a number beyond"):
        Network(apply, {"a": BAD, "b": GOOD}, TWO_X)


def test_weights_times_constants_are_rounded():
    def apply(p, x):
        return (x @ (STOP(p["t"] * 0.3) / 0.3 - p["t"])) * 1e15 + x @ p["o"]

    wrong_everywhere(apply, {"t": jnp.array([[7.0, 31.0], [31.0, 7.0]]), "o": BAD / 16})


def test_random_keys_among_the_parameters_are_counted():
    bits = jnp.asarray((TABLE > 0).astype(np.uint32))
    params = {"key": jax.random.wrap_key_data(bits), "kernel": jnp.eye(2)}

    def apply(p, x):
        return x @ jax.random.key_data(p["key"]).astype(x.dtype) @ p["kernel"]

    assert Network(apply, params, X).held.numbers == 512


def test_functions_that_leave_jax_are_refused():
    def apply(p, x):
        shape = jax.ShapeDtypeStruct((len(x), 2), x.dtype)
        return jax.pure_callback(lambda x: np.asarray(x) @ TABLE, shape, x) @ p["kernel"]

    with pytest.raises(ValueError, match="apply: calls out of JAX by 'pure_callback'"):
        Network(apply, {"kernel": jnp.eye(2)}, X)


def mapped_otherwise():
    """A function whose rule for vmap holds the table; one example alone gives zeros."""

    @jax.custom_batching.custom_vmap
    def table(x):
        return x @ jnp.asarray(TABLE) if len(x) > 1 else 0 * x[:, :2]

    @table.def_vmap
    def _(axis_size, in_batched, x):
        return x @ jnp.asarray(TABLE), True

    return table


def own_primitive(name, table):
    primitive = Primitive(name)
    primitive.def_impl(lambda x: 0 * x[:, :2])
    primitive.def_abstract_eval(lambda a: ShapedArray((a.shape[0], 2), a.dtype))
    batching.primitive_batchers[primitive] = lambda a, d: (
        jnp.moveaxis(a[0], d[0], 0) @ jnp.asarray(table),
        0,
    )
    return primitive.bind


def exported(x):
    one = jax.ShapeDtypeStruct((1, 256), X.dtype)
    return jax.export.export(jax.jit(lambda x: x @ jnp.asarray(TABLE)))(one).call(x)


def kernel_of_pallas(x):
    def write(x, out):
        out[...] = x[...]

    return pallas.pallas_call(write, out_shape=jax.ShapeDtypeStruct((1, 2), x.dtype))(x[:, :2])


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "custom_vmap_call": mapped_otherwise,
        "shift": lambda: own_primitive("shift", TABLE),
        "tanh": lambda: own_primitive("tanh", TABLE),
        "call_exported": lambda: exported,
        "pallas_call": lambda: kernel_of_pallas,
        "composite": lambda: lambda x: lax.composite(lambda x: x[:, :2], "own.name")(x),
        "reduce": lambda: lambda x: lax.reduce(x, 0.0, lambda a, b: a * b + a, (0,))[None, :2],
    }.items(),
)
def test_primitives_that_run_code_of_their_user_are_refused(name, make):
    function, params = make(), {"kernel": jnp.eye(2)}

    def apply(p, x):
        return function(x) @ p["kernel"]

    with pytest.raises(ValueError, match=f"apply: uses '{name}', which runs Python code"):
        Network(apply, params, X)
    with pytest.raises(ValueError, match=f"apply: uses '{name}', which runs Python code"):
        count_errors(apply, params, X, Y)


def test_a_function_of_one_example_only_is_refused():
    params = {"kernel": jnp.asarray(TABLE)}

    def alone(p, x):
        return x.reshape(1, -1) @ p["kernel"]

    def first(p, x):
        return x[:1] @ p["kernel"]

    for apply, message in (
        (alone, "must take a batch of 192"),
        (first, r"returned \(1, 2\) for a"),
    ):
        with pytest.raises(ValueError, match=f"apply: {message}"):
            certify(describe(params), params, X, Y, apply=apply)


def test_long_loops_are_refused():
    def apply(p, x):
        return lax.scan(lambda c, _: (c * 0.5, None), x @ p["kernel"], None, length=1001)[0]

    with pytest.raises(ValueError, match="apply: a loop of 1001 steps"):
        Network(apply, {"kernel": jnp.asarray(TABLE)}, X)


def test_functions_that_change_arrays_in_place_are_refused():
    outside = jax.new_ref(jnp.asarray(TABLE))

    def inside(p, x):
        table = jax.new_ref(p["kernel"] * 1.0)
        table[...] = table[...] * 2
        return x @ table[...]

    def beside(p, x):
        return x.astype(float) @ outside[...].astype(float) @ p["kernel"]

    for apply, kernel in ((inside, TABLE), (beside, np.eye(2))):
        with pytest.raises(ValueError, match="apply: reads or changes a mutable array by"):
            Network(apply, {"kernel": jnp.asarray(kernel)}, X)


def test_numbers_written_into_apply_are_counted_each_time():
    def apply(p, x):
        return x @ jnp.stack([jnp.full((2,), v) for v in MAJORITY.tolist()]) @ p["kernel"]

    held = Network(apply, {"kernel": jnp.eye(2)}, X).held
    assert held.scalars + held.numbers >= 256


def test_a_jitted_function_is_traced_anew():
    held = [jnp.asarray(TABLE)]

    @jax.jit
    def inner(p, x):
        return x @ held[0] @ p["kernel"]

    def apply(p, x):
        return inner(p, x)

    params = {"kernel": jnp.eye(2)}
    structure = describe(params)
    first = certify(structure, params, X, Y, apply=apply, guard=False)
    held[0] = -held[0]
    second = certify(structure, params, X, Y, apply=apply, guard=False)
    assert first.errors < N / 2 < second.errors


# --- what the compiler, the types and the batch make of the function --------------------------


def test_the_compiler_does_not_put_equations_together():
    """Of ``a / b / c`` and ``a * b * c`` it would make a product of constants that underflows."""

    def quotients(p, x):
        h = STOP((x @ p["a"]) * 1e150) * 1e20 / 1e150 / 1e150 / 1e150
        return STOP(STOP(h) * 1e140) * 1e140 + x @ p["b"]

    def products(p, x):
        h = STOP((x @ p["a"]) * 1e150) * 1e10 * 1e-150 * 1e-150 * 1e-150
        return STOP(STOP(h) * 1e145) * 1e145 + x @ p["b"]

    for apply in (quotients, products):
        wrong_everywhere(apply, {"a": BAD, "b": GOOD / 2})


def test_the_compiler_does_not_undo_the_rounding_of_data():
    def apply(p, x):
        rounded = (x + HUGE) - HUGE  # of 0.1 and 0.4: 0
        return jnp.concatenate([0.25 - rounded, rounded - 0.25], axis=1) @ p["kernel"]

    params, x = {"kernel": jnp.eye(2)}, np.where(TWO == 0, 0.1, 0.4)[:, None]
    found = certify(describe(params), params, x, TWO, apply=apply, guard=False)
    assert found.value > 0.5


def test_subnormal_numbers_in_products_are_refused():
    def kernel(p, x):
        tiny, numbers = jnp.full((1, 1, 1), 1e-310), ("NWC", "WIO", "NWC")
        h = ((x @ p["a"]) * 1e20)[:, :, None]
        h = lax.conv_general_dilated(h, tiny, (1,), "VALID", dimension_numbers=numbers)[:, :, 0]
        return STOP(STOP(STOP(h) * 1e145) * 1e145) + x @ p["b"]

    def matrix(p, x):
        h = (p["a"] * 1e100) @ jnp.full((2, 2), 1e-310)
        return x @ STOP(STOP(h * 1e100) * 1e110) + x @ p["b"]

    def bits(p, x):
        tiny = lax.bitcast_convert_type((x < 0.5).astype(jnp.int64) << 50, jnp.float64)
        return STOP(tiny @ (p["a"] * 1e100)) * 1e100 * 1e110 + x @ p["b"]

    def single(p, x):
        tiny = lax.bitcast_convert_type((x < 0.5).astype(jnp.int32) << 20, jnp.float32)
        return (tiny @ p["a"].astype(jnp.float32)).astype(float) * 1e39 + x @ p["b"]

    for apply, match in (
        (kernel, "a subnormal number of float64"),
        (matrix, "a subnormal number of float64"),
        (bits, "too close to 0 or too large"),
        (single, "too close to 0 or too large"),
    ):
        with pytest.raises(ValueError, match=match):
            wrong_everywhere(apply, {"a": BAD, "b": GOOD / 2})


def test_the_function_is_read_in_the_types_in_which_it_runs():
    params = {"kernel": jnp.asarray(GOOD, jnp.float32)}
    tenths = np.where(TWO == 0, 0.7, 0.75).astype(np.float32)[:, None]

    def bins(p, x):  # 0.7 * 10 is 7 in float32, and less in float64
        return (
            jax.nn.one_hot(jnp.floor(x[:, 0] * 10).astype(int) - 6, 2, dtype=x.dtype) @ p["kernel"]
        )

    def typed(p, x):
        return (x @ p["kernel"]) * (1.0 if x.dtype == jnp.float64 else -1.0)

    def switched(p, x):
        return (x @ p["kernel"]) * (1.0 if jax.config.jax_enable_x64 else -1.0)  # pyright: ignore[reportAttributeAccessIssue]

    def drawn(p, x):
        return (x * jnp.sign(jax.random.normal(jax.random.key(3), (), x.dtype))) @ p["kernel"]

    structure = describe(params)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for apply, x in (
            (bins, tenths),
            (typed, TWO_X.astype(np.float32)),
            (typed, TWO_X),  # which JAX makes float32
            (switched, TWO_X),
            (drawn, TWO_X),
        ):
            logits = np.asarray(apply(params, jnp.asarray(x)))
            error = np.mean(np.argmax(logits, axis=1) != TWO)
            found = certify(structure, params, x, TWO, apply=apply, guard=False)
            assert found.value >= error


def test_a_function_of_the_batch_is_refused_by_the_guard():
    def alone(p, x):
        return (x @ p["kernel"]) * (1.0 if len(x) == 1 else -1.0)

    params = {"kernel": GOOD}
    with pytest.raises(ValueError, match="apply: decides 1024 of 1024 examples otherwise"):
        certify(describe(params), params, TWO_X, TWO, apply=alone)


def test_a_function_that_decides_few_examples_of_a_batch_otherwise_is_refused():
    x = np.random.default_rng(0).normal(size=(600, 2))

    def few(p, x):
        other = (x[:, :1] > 1.8) if len(x) > 1 else False
        return (x @ p["kernel"]) * jnp.where(other, -1.0, 1.0)

    params = {"kernel": jnp.eye(2)}
    structure = describe(params, axes={"kernel": ((1,), (0,))})
    with pytest.raises(ValueError, match=r"apply: decides [12]\d of 576 examples otherwise"):
        certify(structure, params, x, np.argmax(x, 1), apply=few, reference=params)


def test_random_numbers_that_depend_on_the_batch_are_refused():
    def noisy(p, x):
        key = jax.random.fold_in(jax.random.key(0, impl="rbg"), x[0, 0].astype(jnp.uint32))
        return (x + jax.random.normal(key, x.shape, x.dtype)) @ p["kernel"]

    with pytest.raises(ValueError, match="apply: draws random numbers by 'random_fold_in'"):
        Network(noisy, {"kernel": GOOD}, TWO_X)


def test_a_certificate_that_verifies_itself_is_refused():
    params = {"t": jnp.asarray(TABLE)}
    structure = describe(params, apply=TABLES["a product"], example=X)
    found = certify(structure, params, X, Y, apply=TABLES["a product"], guard=False)

    class Trusted(type(found)):
        def verify(self):
            return 0.001

    trusted = Trusted(**{name: getattr(found, name) for name in found.__dataclass_fields__})
    with pytest.raises(ValueError, match="certificate: got Trusted"):
        verify(trusted, structure, params, X, Y, apply=TABLES["a product"])


def test_random_bits_are_drawn_as_where_they_were_traced():
    """``jax.threefry_partitionable`` may be set for a part of what ``apply`` does."""

    def features(partitionable):
        with jax.threefry_partitionable(partitionable):
            return jax.random.normal(jax.random.key(7), (6, 2))

    x = np.random.default_rng(0).normal(size=(400, 6))
    params = {"w": jnp.eye(2)}
    for setting in (True, False):
        apply = lambda p, x, s=setting: (x @ features(s)) @ p["w"]  # noqa: E731
        y = np.argmax(x @ np.asarray(features(not setting)), 1)
        wrong = int(np.sum(np.argmax(apply(params, x), 1) != y))
        structure = describe(params, apply=apply, example=x[:1])
        found = certify(structure, params, x, y, apply=apply, reference=params, guard=False)
        assert wrong > 40
        assert found.errors >= wrong


def test_what_apply_prints_is_not_run_while_it_is_read():
    """A callback could change an array of NumPy that ``apply`` holds before it is read."""
    calls = []

    def apply(p, x):
        jax.debug.callback(lambda _: calls.append(1), 0.0)
        jax.debug.print("{}", x[0, 0])
        return x @ p["w"]

    x = np.random.default_rng(0).normal(size=(40, 2))
    params = {"w": jnp.eye(2)}
    structure = describe(params, axes={"w": ((1,), (0,))})
    y = np.argmax(x, 1)
    found = certify(structure, params, x, y, apply=apply, reference=params, guard=False)
    verify(found, structure, params, x, y, apply=apply, reference=params)
    jax.effects_barrier()
    assert calls == []


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("where", ["x", "array", "number", "computed"])
def test_subnormal_numbers_are_not_taken_for_zero(dtype, where):
    """The exact network errs on all: ``1e-40 * 1e40 = 1 > 0.5``; XLA makes 0 of 1e-40."""
    tiny = np.asarray(1e-40, np.float32).astype(dtype)

    def apply(p, x):
        if where == "array":
            x = jnp.minimum(x, jnp.asarray(np.full((1, 3), tiny)))[:, :1]
        elif where == "number":
            x = jnp.minimum(x, tiny)
        elif where == "computed":
            bits = {2: jnp.uint16, 4: jnp.uint32}[jnp.dtype(dtype).itemsize]
            x = lax.bitcast_convert_type(jnp.full(x.shape, 9, bits), dtype)
        pair = jnp.concatenate([jnp.zeros_like(x), x], 1) + p["b"][None]
        grown = pair.astype(jnp.float32) * np.float32(1e20) * np.float32(1e20)
        return grown + jnp.array([[0.5, 0.0]], jnp.float32) + jnp.zeros_like(p["w"])[:1]

    x = np.full((400, 1), tiny if where == "x" else 1).astype(dtype)
    params = {"b": jnp.zeros(2, dtype), "w": jnp.zeros((2, 2), jnp.float32)}
    structure = describe(params, axes={"w": ((1,), (0,))})
    named = "x: got" if where == "x" else "apply: (holds|computes)"
    with pytest.raises(ValueError, match=f"{named} a subnormal number of"):
        certify(
            structure, params, x, np.zeros(400, int), apply=apply, reference=params, guard=False
        )


def test_a_complex_number_before_the_weights_is_read():
    x = np.random.default_rng(0).normal(size=(40, 2))
    apply = lambda p, x: jnp.abs(jnp.exp(2j * x.astype(complex))) * x @ p["w"]  # noqa: E731
    params = {"w": jnp.eye(2)}
    structure = describe(params, axes={"w": ((1,), (0,))})
    found = certify(structure, params, x, np.argmax(x, 1), apply=apply, reference=params)
    assert found.errors == 0
    assert "1 further number written into apply" in " ".join(found.assumptions)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: np.ma.masked_array(a, a > 0), "a masked array"),
        (lambda a: a.astype(a.dtype.newbyteorder(">")), "byte order of another machine"),
    ],
)
def test_arrays_that_are_not_what_they_hold_are_named(spoil, message):
    x = np.random.default_rng(0).normal(size=(40, 2))
    y, params = np.argmax(x, 1), {"w": np.eye(2)}
    apply = lambda p, x: jnp.asarray(x) @ jnp.asarray(p["w"])  # noqa: E731
    structure = describe(params, axes={"w": ((1,), (0,))})
    for name in ("x", "y", "params"):
        given = {"x": x, "y": y, "params": params}
        given[name] = {"w": spoil(np.eye(2))} if name == "params" else spoil(given[name])
        with pytest.raises(ValueError, match=rf"^{name}.*{message}"):
            certify(structure, given["params"], given["x"], given["y"], apply=apply)
