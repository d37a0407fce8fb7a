import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rankjax.network import View, describe
from rankjax.network.internal import paths_and_leaves
from tests.network.models import equinox_network, linen_network, nnx_network

IMAGES = jax.ShapeDtypeStruct((5, 8, 8, 1), jnp.float32)
VECTORS = jax.ShapeDtypeStruct((5, 5), jnp.float32)


def test_nnx_layers_come_in_order_of_use_with_their_geometry():
    apply, params = nnx_network()
    structure = describe(params, apply=apply, example=IMAGES)
    assert structure.names == (
        "conv/kernel",
        "layers/0/kernel",
        "attention/query/kernel",
        "attention/key/kernel",
        "attention/value/kernel",
        "attention/out/kernel",
        "head/kernel",
    )
    shapes = [layer.matrix_shape for layer in structure.layers]
    assert shapes == [(4, 9), (8, 4), (8, 8), (8, 8), (8, 8), (8, 8), (3, 8)]
    assert [layer.positions for layer in structure.layers] == [16, 4, 4, 4, 4, 4, 1]
    reasons = {leaf.path: leaf.text for leaf in structure.left_out}
    assert reasons["conv/bias"] == "added to the data: a bias"
    assert reasons["norm/scale"] == "multiplies the data entry by entry: a scale"


def test_names_alone_find_the_same_matrices():
    _, params = nnx_network()
    by_name = describe(params)
    views = {layer.path: layer.view for layer in by_name.layers}
    assert views["attention/query/kernel"] == View(out=(1, 2), in_=(0,))
    assert views["attention/out/kernel"] == View(out=(2,), in_=(0, 1))
    assert {layer.positions for layer in by_name.layers} == {1}
    # One channel: of the image, or a filter per channel.
    (left,) = [leaf for leaf in by_name.left_out if leaf.path == "conv/kernel"]
    assert "one input channel" in left.text


def test_a_pure_dictionary_of_an_nnx_state_fits_the_structure_of_the_state():
    _, params = nnx_network()
    structure = describe(params)
    from_state = structure.matrices(params)
    from_dict = structure.matrices(nnx.to_pure_dict(params))
    for a, b in zip(from_state, from_dict, strict=True):
        np.testing.assert_array_equal(a, b)


def test_linen_scan_is_a_stack_of_layers():
    apply, params = linen_network()
    structure = describe(params, apply=apply, example=VECTORS)
    assert structure.names == (
        "params/Dense_0/kernel",
        "params/blocks/Dense_0/kernel[0]",
        "params/blocks/Dense_0/kernel[1]",
        "params/blocks/Dense_0/kernel[2]",
        "params/Dense_1/kernel",
    )
    stack = structure.matrices(params)[1]
    assert stack.shape == (3, 1, 6, 6)
    kernel = params["params"]["blocks"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(stack[1, 0], kernel[1].T)  # pyright: ignore[reportAttributeAccessIssue]
    assert [layer.uses for layer in structure.layers] == [1, 1, 1]


def test_a_stacked_kernel_without_apply_is_told_by_its_bias_or_not_guessed():
    _, params = linen_network()
    names = tuple(f"params/blocks/Dense_0/kernel[{i}]" for i in range(3))
    ends = ("params/Dense_0/kernel", "params/Dense_1/kernel")
    assert set(describe(params).names) == {*names, *ends}
    without = jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if "blocks" in str(path) and "bias" in str(path) else leaf, params
    )
    structure = describe(without)
    assert structure.names == ends
    why = {leaf.path: leaf.text for leaf in structure.left_out}
    assert "pass apply= and example=, or axes=" in why["params/blocks/Dense_0/kernel"]
    view = View(out=(2,), in_=(1,), stacked=(0,))
    given = describe(without, axes={"params/blocks/Dense_0/kernel": view})
    assert set(given.names) == {*names, *ends}


def test_equinox_weights_are_out_in():
    apply, model = equinox_network()
    for structure in (describe(model), describe(model, apply=apply, example=VECTORS)):
        assert structure.names == ("layers/0/weight", "layers/1/weight", "layers/2/weight")
        first = structure.matrices(model)[0]
        np.testing.assert_array_equal(first[0, 0], model.layers[0].weight)
    arrays = eqx.filter(model, eqx.is_array)
    assert len(structure.matrices(arrays)) == 3


def test_products_with_transposed_tied_and_batched_weights():
    params = {
        "w": jnp.arange(12.0).reshape(3, 4),
        "experts": jnp.ones((2, 3, 4)),
        "table": jnp.ones((9, 4)),
        "gain": jnp.ones((4, 4)),
    }

    def apply(p, tokens):
        h = p["table"][tokens]  # a lookup here, a product at the end: tied
        h = jnp.tanh(h @ p["w"].T) @ p["w"]  # tied twice
        h = jnp.einsum("btd,ekd->bek", h, p["experts"]).reshape(tokens.shape[0], -1)
        h = h[:, :4] @ jnp.exp(p["gain"])
        return h @ p["table"].T

    structure = describe(params, apply=apply, example=jax.ShapeDtypeStruct((1, 6), jnp.int32))
    spec = {layer.path: layer for layer in structure.layers}
    assert list(spec) == ["w", "experts", "gain", "table"]
    assert spec["w"].matrix_shape == (3, 4)
    assert (spec["w"].uses, spec["w"].positions) == (2, 12)
    assert spec["experts"].matrix_shape == (6, 4)
    assert spec["table"].matrix_shape == (9, 4)
    gain = structure.matrices({**params, "gain": jnp.diag(jnp.arange(4.0))})[2][0, 0]
    np.testing.assert_allclose(gain, np.exp(np.diag(np.arange(4.0))))
    assert structure.outside == ("looks up 'table'",)


def test_groups_are_matrices_side_by_side_and_depthwise_is_left_out():
    def apply(p, x):
        for name, groups in (("grouped", 2), ("depthwise", 8)):
            x = jax.lax.conv_general_dilated(
                x, p[name], (1, 1), "SAME", feature_group_count=groups,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
        return x.mean((1, 2))

    params = {"grouped": jnp.ones((3, 3, 2, 8)), "depthwise": jnp.ones((3, 3, 1, 8))}
    params["grouped"] = jax.random.normal(jax.random.key(0), (3, 3, 2, 8))
    structure = describe(params, apply=apply, example=jnp.zeros((1, 6, 6, 4)))
    (layer,) = structure.layers
    assert (layer.parallel, layer.matrix_shape, layer.positions) == (2, (4, 18), 36)
    blocks = structure.matrices(params)[0]
    expected = params["grouped"][..., 4:].transpose(3, 0, 1, 2).reshape(4, 18)
    np.testing.assert_array_equal(blocks[0, 1], expected)
    assert structure.left_out[0].path == "depthwise"


@pytest.mark.parametrize("network", [nnx_network, linen_network, equinox_network])
def test_replace_undoes_layers_and_leaves_the_rest_alone(network):
    apply, params = network()
    example = IMAGES if network is nnx_network else VECTORS
    structure = describe(params, apply=apply, example=example)
    doubled = structure.replace(params, [2 * m for m in structure.matrices(params)])
    for before, after in zip(structure.matrices(params), structure.matrices(doubled), strict=True):
        np.testing.assert_array_equal(2 * before, after)
    included = {layer.path for layer in structure.layers}

    for (path, a), (_, b) in zip(paths_and_leaves(params), paths_and_leaves(doubled), strict=True):
        if path not in included and hasattr(a, "shape"):
            np.testing.assert_array_equal(a, b)


def test_describe_leaks_no_tracer():
    params = {"a": {"kernel": jnp.ones((4, 3))}}
    with jax.checking_leaks():
        structure = describe(
            params, apply=lambda p, x: x @ p["a"]["kernel"], example=jnp.ones((2, 4))
        )
    assert structure.names == ("a/kernel",)


def test_structure_is_static_and_its_layers_are_traceable():
    apply, params = linen_network()
    a = describe(params, apply=apply, example=VECTORS)
    b = describe(params, apply=apply, example=VECTORS)
    assert a == b
    assert hash(a) == hash(b)
    count = []

    @jax.jit
    def total(p):
        count.append(1)
        return sum(jnp.sum(m**2) for m in a.matrices(p))

    gradient = jax.grad(total)(params)
    total(jax.tree.map(lambda w: w + 1, params))
    total(params)
    assert len(count) == 1  # grad and both calls share one trace
    kernel = params["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(gradient["params"]["Dense_0"]["kernel"], 2 * kernel, rtol=1e-6)  # pyright: ignore[reportOperatorIssue]


def test_masks():
    _, params = linen_network()
    everything = describe(params)
    by_predicate = describe(params, mask=lambda path, leaf: leaf.shape[-1] == 4)
    assert by_predicate.names == ("params/Dense_1/kernel",)
    tree = jax.tree.map(lambda leaf: leaf.shape[-1] == 4, params)
    assert describe(params, mask=tree).names == by_predicate.names
    prefix = {"params": {"Dense_0": True, "Dense_1": False, "blocks": False}}
    assert describe(params, mask=prefix).names == ("params/Dense_0/kernel",)
    assert "by the mask" in {leaf.text for leaf in by_predicate.left_out}
    assert describe(params, mask=lambda path, leaf: True) == everything


def test_a_callable_tree_of_bools_is_a_mask_and_not_a_predicate():
    _, model = equinox_network()
    arrays = eqx.filter(model, eqx.is_array)
    mask = jax.tree.map(lambda leaf: leaf.shape == (7, 7), arrays)
    assert callable(mask)
    assert describe(arrays, mask=mask).names == ("layers/1/weight",)


def test_lipschitz_constants():
    _, model = equinox_network()
    structure = describe(model, lipschitz={"layers/0/weight": 1.5})
    assert [layer.lipschitz for layer in structure.layers] == [1.5, 1.0, 1.0]
    assert {layer.lipschitz for layer in describe(model, lipschitz=2).layers} == {2.0}


def test_printing_says_what_is_left_out_and_why():
    text = str(describe({"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}))
    assert "a/kernel" in text
    assert "3 x 2" in text
    assert "a/bias" in text.split("left out")[1]


KERNEL = {"kernel": jnp.ones((2, 3))}


@pytest.mark.parametrize(
    ("params", "arguments", "message"),
    [
        (
            {"bias": jnp.ones(3)},
            {},
            r"params holds no weight matrix; its leaves are\n  bias \(3,\)",
        ),
        ({}, {}, "params holds no weight matrix"),
        (KERNEL, {"mask": lambda path, leaf: False}, "mask matches no weight matrix"),
        (KERNEL, {"mask": {"other": True}}, "mask is neither a predicate nor a prefix tree"),
        (KERNEL, {"mask": {"kernel": 1}}, "mask at 'kernel': got 1, must be True or False"),
        (KERNEL, {"axes": {"other": ((0,), (1,))}}, r"axes names unknown paths \['other'\]"),
        (KERNEL, {"axes": {"kernel": ((0,), (0,))}}, "axes for 'kernel'.*exactly once"),
        (KERNEL, {"axes": {"kernel": ((0, 1), ())}}, "at least one output and one input axis"),
        (KERNEL, {"axes": {"kernel": ((0,),)}}, "axes for 'kernel': got .* must be a pair"),
        (KERNEL, {"axes": {"kernel": 5}}, "axes for 'kernel': got 5, must be a pair"),
        (KERNEL, {"lipschitz": "1"}, "lipschitz for 'kernel': got '1', must be a positive"),
        (KERNEL, {"lipschitz": (1.0, 2.0)}, "lipschitz for 'kernel': got .* must be a positive"),
        (KERNEL, {"lipschitz": 0.0}, "lipschitz for 'kernel': got 0.0, must be a positive"),
        (KERNEL, {"lipschitz": {"x": 1.0}}, "lipschitz names unknown paths"),
        (KERNEL, {"apply": lambda p, x: x}, "apply and example belong together; got only apply"),
    ],
)
def test_bad_input_is_named(params, arguments, message):
    with pytest.raises(ValueError, match=message):
        describe(params, **arguments)


def test_trees_that_do_not_fit_are_named():
    structure = describe(KERNEL)
    with pytest.raises(ValueError, match=r"params has no leaf 'kernel'; it holds \['other'\]"):
        structure.matrices({"other": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"shape \(3, 2\); this structure expects \(2, 3\)"):
        structure.matrices({"kernel": jnp.ones((3, 2))})


def test_factors_of_an_update_are_one_layer_also_by_name():
    keys = jax.random.split(jax.random.key(0), 3)
    w, a, b = (jax.random.normal(k, s) for k, s in zip(keys, [(9, 6), (9, 2), (2, 6)], strict=True))
    params = {"d": {"kernel": w, "kernel_lora_a": a, "kernel_lora_b": b}}
    structure = describe(params)
    assert structure.names == ("d/kernel", "d/kernel (update)")
    np.testing.assert_allclose(structure.matrices(params)[1][0, 0], (a @ b).T, rtol=1e-12)
    assert structure.outside == ("updates its weights by an adapter, with 'd/kernel (update)'",)
    assert describe(params, mask=lambda p, _: p == "d/kernel").outside == structure.outside
    assert "by the product of two factors (LoRA)" in str(structure)
    with pytest.raises(ValueError, match="measured and penalized, not replaced"):
        structure.replace(params, structure.matrices(params))
    assert describe({"d": {"kernel": w}}).outside is None


def test_stacked_factors_are_a_stack_of_updates():
    a, b = jnp.ones((3, 9, 2)) * jnp.arange(3.0)[:, None, None], jnp.ones((3, 2, 6))
    params = {"layers": {"lora_a": a, "lora_b": b}}
    structure = describe(params)
    assert structure.names == ("layers[0]", "layers[1]", "layers[2]")
    expected = jnp.swapaxes(a @ b, 1, 2)[:, None]
    np.testing.assert_array_equal(structure.matrices(params)[0], expected)


def test_how_often_an_update_of_a_convolution_is_applied_is_not_known_by_name():
    shapes = {"c.lora_A.weight": (2, 3, 5, 5), "c.lora_B.weight": (6, 2, 1, 1),
              "d.lora_A.weight": (2, 3), "d.lora_B.weight": (6, 2)}  # fmt: skip
    params = {path: jnp.ones(shape) for path, shape in shapes.items()}
    structure = describe(params)
    assert [(x.matrix_shape, x.positions) for x in structure.layers] == [
        ((6, 75), None),
        ((6, 3), 1),
    ]
    np.testing.assert_array_equal(structure.matrices(params)[0], jnp.full((1, 1, 6, 75), 2.0))
