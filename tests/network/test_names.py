"""Matrices told by their names: one recognizer for trees at hand and for checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankjax.network import Layer, LeftOut, Reason, View, describe
from rankjax.network.internal import layers_by_name
from rankjax.report import matrices_by_name

OUT_IN, IN_OUT = View(out=(0,), in_=(1,)), View(out=(1,), in_=(0,))


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("Dense_0/kernel", (4, 3), IN_OUT),
        ("params/Dense_0/kernel/value", (4, 3), IN_OUT),
        ("encoder.0.linear.weight", (4, 3), OUT_IN),
        ("patch_embed/kernel", (4, 3), IN_OUT),  # a dense layer: tables of Flax are "embedding"
        ("patches/embedding/kernel", (4, 4, 3, 8), View(out=(3,), in_=(0, 1, 2))),
        ("embedding/kernel", (4, 3, 8), View(out=(2,), in_=(0, 1))),
        ("word_embeddings.weight", (30, 4), Reason.TABLE),
        ("Embed_0/embedding", (30, 4), Reason.TABLE),
        ("cls_token", (1, 1, 4), Reason.TABLE),
        ("vocab.weight", (30, 4), Reason.TABLE),
        ("src.lut.weight", (30, 4), Reason.TABLE),
        ("rel_pos.weight", (30, 4), Reason.TABLE),
        ("position_encoding.weight", (30, 4), Reason.TABLE),
        ("item_vocab.weight", (30, 4), Reason.TABLE),
        ("lookup/w", (30, 4), Reason.TABLE),
        ("vocab/kernel", (4, 30), IN_OUT),
        ("linear_pos.weight", (4, 4), OUT_IN),
        ("vocab_proj.weight", (30, 4), OUT_IN),
        ("proj_to_vocab.weight", (30, 4), OUT_IN),
        ("to_prompts.weight", (30, 4), OUT_IN),
        ("mlp/gate_up/kernel", (4, 4, 16, 6), Reason.AMBIGUOUS),
        ("mlp/up/kernel", (3, 3, 16, 6), Reason.AMBIGUOUS),
        ("x/kernel", (4, 4, 16, 6), Reason.AMBIGUOUS),
        ("x/kernel", (3, 3, 16, 6), View(out=(3,), in_=(0, 1, 2))),
        ("mlp.fc1.weight", (6, 16, 1, 1), View(out=(0,), in_=(1, 2, 3))),
        ("conv1/kernel", (3, 4, 8), View(out=(2,), in_=(0, 1))),
        ("attention/out/kernel", (2, 4, 8), View(out=(2,), in_=(0, 1))),
        ("attention/query/kernel", (8, 2, 4), View(out=(1, 2), in_=(0,))),
        ("blocks/kernel", (3, 4, 4), Reason.AMBIGUOUS),
        ("depthwise_conv/kernel", (3, 3, 1, 8), Reason.DEPTHWISE),
        ("batch_stats/BatchNorm_0/kernel", (4, 4), Reason.STATE),
        ("blocks/bias", (3, 4), Reason.BIAS),
        ("norm/scale", (4,), Reason.SCALE),
        ("temperature", (), Reason.VECTOR),
        ("attn.in_proj_weight", (12, 4), OUT_IN),
        ("model.layers.0.down.weight", (4, 3), OUT_IN),
        ("Dense_0/kernel", (4, 0), Reason.EMPTY),
    ],
)
def test_names_and_numbers_of_axes_decide(path, shape, expected):
    found = layers_by_name({path: jax.ShapeDtypeStruct(shape, jnp.float32)})[path]
    assert (found.why if isinstance(found, LeftOut) else found.view) == expected


@pytest.mark.parametrize(
    ("shapes", "path", "expected"),
    [
        # A bias tells which axis is put out, also where the name does not say that it is a weight.
        ({"w1": (4, 3), "b1": (3,)}, "w1", IN_OUT),
        ({"w1": (4, 3), "b1": (4,)}, "w1", OUT_IN),
        ({"w1": (4, 4), "b1": (4,)}, "w1", IN_OUT),
        ({"in_weight": (4, 3), "in_bias": (4,)}, "in_weight", OUT_IN),
        ({"in_weight": (4, 4), "in_bias": (4,)}, "in_weight", OUT_IN),
        ({"w1": (4, 3), "b1": (5,)}, "w1", Reason.UNKNOWN_NAME),
        ({"x": (4, 3), "bias": (3,)}, "x", Reason.UNKNOWN_NAME),
        # Conv1D of GPT-2 keeps weights (in, out): a layer of that name with another shape tells.
        ({"a.c_proj.weight": (4, 4), "a.c_proj.bias": (4,), "m.c_proj.weight": (8, 4),
          "m.c_proj.bias": (4,)}, "a.c_proj.weight", IN_OUT),
        ({"a.c_proj.weight": (4, 4), "a.c_proj.bias": (4,), "m.c_proj.weight": (4, 8),
          "m.c_proj.bias": (4,)}, "a.c_proj.weight", OUT_IN),
        # Embedder is a word for tables and for dense layers, and only these have biases.
        ({"a_embedder.weight": (9, 4)}, "a_embedder.weight", Reason.TABLE),
        ({"a_embedder.weight": (9, 4), "a_embedder.bias": (9,)}, "a_embedder.weight", OUT_IN),
        # 12 heads of 64 or a stack of 12: a bias (12, 64) says both, and the name one of them.
        ({"q/kernel": (9, 12, 4), "q/bias": (12, 4)}, "q/kernel", View((1, 2), (0,))),
        ({"x/kernel": (9, 12, 4), "x/bias": (12, 4)}, "x/kernel", View((1, 2), (0,))),
        ({"x/kernel": (12, 9, 4), "x/bias": (12, 4)}, "x/kernel", Reason.AMBIGUOUS),
        ({"x/kernel": (12, 12, 4), "x/bias": (12, 4)}, "x/kernel", Reason.AMBIGUOUS),
        ({"layers/x/kernel": (3, 9, 4), "layers/x/bias": (3, 4)}, "layers/x/kernel",
         View((2,), (1,), (0,))),
        ({"layers/0/x/kernel": (3, 9, 4), "layers/0/x/bias": (3, 4)}, "layers/0/x/kernel",
         Reason.AMBIGUOUS),
        # Experts: the other half, or the bias, tells the order; nothing else does.
        ({"experts.gate_up_proj": (4, 8, 16)}, "experts.gate_up_proj", Reason.AMBIGUOUS),
        ({"experts.gate_up_proj": (4, 8, 16), "experts.gate_up_proj_bias": (4, 16)},
         "experts.gate_up_proj", View((2,), (1,), (), (0,))),
        ({"experts.w1": (4, 8, 16), "experts.w2": (4, 8, 8)}, "experts.w1",
         View((2,), (1,), (), (0,))),
        ({"experts.w1": (4, 8, 8), "experts.w2": (4, 8, 8)}, "experts.w1", Reason.AMBIGUOUS),
        # A stack whose axis may be the first or the second.
        ({"layers/x/kernel": (3, 3, 4), "layers/y/kernel": (3, 3, 5), "layers/n/scale": (3, 3)},
         "layers/x/kernel", Reason.AMBIGUOUS),
        ({"layers/x/kernel": (3, 3, 4), "layers/y/kernel": (3, 4, 3), "layers/n/scale": (3, 3)},
         "layers/x/kernel", View((2,), (1,), (0,))),
        ({"layers/x/kernel": (3, 6, 6), "layers/x/bias": (3, 6), "layers/n/scale": (3, 6)},
         "layers/x/kernel", View((2,), (1,), (0,))),
        ({"layers/x/kernel": (6, 3, 6), "layers/x/bias": (6, 3), "layers/n/scale": (6, 3)},
         "layers/x/kernel", View((2,), (0,), (1,))),
        ({"layers/x/weight": (3, 6, 6), "layers/x/bias": (3, 6), "layers/n/weight": (3, 6)},
         "layers/x/weight", View((1,), (2,), (0,))),
        # One vector without the axis, and it does not count layers.
        ({"layers/x/kernel": (3, 9, 4), "layers/x/bias": (3, 4), "layers/n/scale": (3,),
          "layers/n/bias": (3,)}, "layers/x/kernel", View((2,), (1,), (0,))),
        ({"a/x/kernel": (3, 9, 4), "a/n/scale": (3, 4), "a/n/bias": (3,)}, "a/x/kernel",
         Reason.AMBIGUOUS),
        # One channel is that of the data only if the data have no other way in.
        ({"conv.weight": (32, 1, 3, 3)}, "conv.weight", Reason.AMBIGUOUS),
        ({"conv1.weight": (32, 1, 3, 3), "conv2.weight": (8, 32, 3, 3)}, "conv1.weight",
         View((0,), (1, 2, 3))),
        ({"stem.weight": (32, 3, 3, 3), "conv1.weight": (32, 1, 3, 3),
          "conv2.weight": (8, 32, 1, 1)}, "conv1.weight", Reason.AMBIGUOUS),
        ({"conv0.weight": (32, 32, 3, 3), "conv1.weight": (32, 1, 3, 3),
          "conv2.weight": (8, 32, 1, 1)}, "conv1.weight", Reason.AMBIGUOUS),
        ({"conv1.weight": (8, 3, 3, 3), "conv2.weight": (9, 8, 3, 3)}, "conv2.weight",
         View((0,), (1, 2, 3))),
        ({"conv1.weight": (9, 3, 3, 3), "conv2.weight": (8, 4, 3, 3)}, "conv2.weight",
         View((0,), (1, 2, 3))),
        # A bias that does not fit says that it is something else, or a stack of it.
        ({"Conv_0/kernel": (2, 3, 3, 4, 8), "Conv_0/bias": (2, 8)}, "Conv_0/kernel",
         Reason.AMBIGUOUS),
        ({"conv/weight": (2, 8, 4, 3, 3), "conv/bias": (2, 8, 1, 1)}, "conv/weight",
         Reason.AMBIGUOUS),
        ({"query/kernel": (3, 16, 8), "query/bias": (3, 8)}, "query/kernel", Reason.AMBIGUOUS),
        ({"query/kernel": (3, 16, 16)}, "query/kernel", Reason.AMBIGUOUS),
        ({"qkv/kernel": (8, 3, 4, 2), "qkv/bias": (3, 4, 2)}, "qkv/kernel",
         View((1, 2, 3), (0,))),
        ({"layers/query/kernel": (4, 4, 3), "layers/query/bias": (4, 3)}, "layers/query/kernel",
         View((1, 2), (0,))),
        ({"experts/wi/kernel": (4, 8, 6), "experts/wi/bias": (4, 6), "experts/wo/kernel": (4, 6, 8),
          "experts/wo/bias": (4, 8)}, "experts/wi/kernel", View((2,), (1,), (), (0,))),
        ({"norm_proj.weight": (8, 9)}, "norm_proj.weight", OUT_IN),
        # MADE and pruned networks multiply by a mask beside the weight.
        ({"x.weight": (8, 9), "x.mask": (8, 9)}, "x.weight", Reason.AMBIGUOUS),
        ({"x/kernel": (8, 9), "x/kernel_mask": (8, 9)}, "x/kernel", Reason.AMBIGUOUS),
        ({"x/kernel/value": (8, 9), "x/kernel_mask/value": (8, 9)}, "x/kernel/value",
         Reason.AMBIGUOUS),
        ({"x.weight": (8, 9), "x.mask": (9, 9)}, "x.weight", OUT_IN),
        ({"x.weight_orig": (8, 9), "x.weight_mask": (8, 9)}, "x.weight_orig",
         Reason.REPARAMETRIZED),
        ({"mask.weight": (8, 9)}, "mask.weight", OUT_IN),
        ({"vocab.weight": (9, 4), "vocab.bias": (9,)}, "vocab.weight", OUT_IN),
        # nn.Bilinear keeps (out, in, in), nn.Conv1d (out, in, window).
        ({"x.weight": (5, 8, 6), "x.bias": (5,)}, "x.weight", Reason.AMBIGUOUS),
        ({"x.weight": (5, 8, 31), "x.bias": (5,)}, "x.weight", Reason.AMBIGUOUS),
        ({"x.weight": (5, 8, 3), "x.bias": (5,)}, "x.weight", View((0,), (1, 2))),
        ({"x.0.weight": (5, 8, 6), "x.0.bias": (5,)}, "x.0.weight", View((0,), (1, 2))),
        ({"conv.weight": (5, 8, 6), "conv.bias": (5,)}, "conv.weight", View((0,), (1, 2))),
        ({"bilinear.0.weight": (5, 8, 3), "bilinear.0.bias": (5,)}, "bilinear.0.weight",
         Reason.AMBIGUOUS),
        ({"lora_a": (2, 2, 2), "lora_b": (2, 2, 2)}, "lora_a", Reason.AMBIGUOUS),
        ({"deconv.weight": (8, 4, 3, 3), "deconv.bias": (4,)}, "deconv.weight",
         View((1,), (0, 2, 3))),
        ({"deconv.weight": (8, 8, 3, 3), "deconv.bias": (8,)}, "deconv.weight", Reason.AMBIGUOUS),
        ({"deconv.weight": (8, 4, 3, 3)}, "deconv.weight", Reason.AMBIGUOUS),
        # Without a bias and a name, the sizes of a chain: what the first has second comes first.
        ({"g.0.weight": (9, 8, 4, 4), "g.3.weight": (8, 3, 4, 4)}, "g.0.weight",
         Reason.AMBIGUOUS),
        ({"g.0.weight": (9, 8, 4, 4), "g.3.weight": (8, 3, 4, 4)}, "g.3.weight",
         Reason.AMBIGUOUS),
        ({"g.0.weight": (8, 9, 4, 4), "g.3.weight": (3, 8, 4, 4)}, "g.3.weight",
         View((0,), (1, 2, 3))),
        ({"g.0.weight": (9, 8, 4, 4), "g.3.weight": (8, 9, 4, 4)}, "g.3.weight",
         View((0,), (1, 2, 3))),
        ({"conv0.weight": (7, 8, 4, 4), "conv1.weight": (8, 3, 4, 4)}, "conv1.weight",
         View((0,), (1, 2, 3))),
        ({"deconv.weight": (8, 4, 3), "deconv.bias": (4,)}, "deconv.weight", View((1,), (0, 2))),
        ({"deconv.weight": (8, 8, 3), "deconv.bias": (8,)}, "deconv.weight", Reason.AMBIGUOUS),
        ({"conv1d_transpose/kernel": (3, 8, 8)}, "conv1d_transpose/kernel", Reason.AMBIGUOUS),
        ({"conv1d_transpose/kernel": (3, 4, 8), "conv1d_transpose/bias": (4,)},
         "conv1d_transpose/kernel", View((1,), (0, 2))),
        ({"conv2d_transpose/kernel": (3, 3, 8, 8)}, "conv2d_transpose/kernel", Reason.AMBIGUOUS),
        ({"ConvTranspose_0/kernel": (3, 3, 4, 8)}, "ConvTranspose_0/kernel",
         View((3,), (0, 1, 2))),
        # Moments of an optimizer are named like weights.
        ({"net/d/kernel": (4, 3), "s/mu/d/kernel": (4, 3)}, "s/mu/d/kernel", Reason.STATE),
        ({"net/d/kernel": (4, 3), "s/mu/d/kernel": (5, 3)}, "s/mu/d/kernel", IN_OUT),
        ({"s/mu/d/kernel": (4, 3), "s/nu/d/kernel": (4, 3)}, "s/nu/d/kernel", Reason.STATE),
        ({"e/mu/d/kernel": (4, 3), "e/logvar/d/kernel": (4, 3)}, "e/mu/d/kernel", IN_OUT),
        ({"exp_avg.weight": (4, 3), "exp_avg_sq.weight": (4, 3)}, "exp_avg.weight", Reason.STATE),
        ({"params/d/kernel": (4, 3), "momentum/d/kernel": (4, 3)}, "momentum/d/kernel",
         Reason.STATE),
        ({"fp32_master.d.weight": (4, 3), "momentum_buffer.d.weight": (4, 3)},
         "momentum_buffer.d.weight", Reason.STATE),
        ({"model.d.weight": (4, 3), "grad_accum.d.weight": (4, 3)}, "grad_accum.d.weight",
         Reason.STATE),
        ({"model.d.weight": (4, 3), "v.d.weight": (4, 3)}, "v.d.weight", Reason.STATE),
        ({"a.d.weight": (4, 3), "b.v.d.weight": (4, 3)}, "b.v.d.weight", OUT_IN),
        ({"mask.weight": (4, 3), "d.weight": (4, 3)}, "d.weight", OUT_IN),
        ({"q.d.weight": (4, 3), "v.d.weight": (4, 3)}, "v.d.weight", OUT_IN),
        ({"params/d/kernel": (4, 3), "masks/d/kernel": (4, 3)}, "masks/d/kernel", Reason.STATE),
        ({"params/d/kernel": (4, 3), "masks/d/kernel": (4, 3)}, "params/d/kernel",
         Reason.AMBIGUOUS),
        ({"params/e/kernel": (4, 3), "masks/d/kernel": (4, 3)}, "params/e/kernel", IN_OUT),
        ({"e/mu/kernel": (4, 3), "d/x/kernel": (4, 3)}, "e/mu/kernel", IN_OUT),
        ({"n/layer/weight": (4, 3), "n/g": (4, 1)}, "n/layer/weight", Reason.REPARAMETRIZED),
        ({"n/layer/weight": (4, 3)}, "n/layer/weight", OUT_IN),
        ({"x/kernel": (5, 5, 8, 1)}, "x/kernel", Reason.AMBIGUOUS),
        ({"x/kernel": (5, 4, 8, 2)}, "x/kernel", Reason.AMBIGUOUS),
        ({"x/kernel": (5, 4, 8, 2), "x/bias": (2,)}, "x/kernel", View((3,), (0, 1, 2))),
    ],
)  # fmt: skip
def test_leaves_tell_of_each_other(shapes, path, expected):
    leaves = {p: jax.ShapeDtypeStruct(shape, jnp.float32) for p, shape in shapes.items()}
    found = layers_by_name(leaves)[path]
    assert (found.why if isinstance(found, LeftOut) else found.view) == expected


@pytest.mark.parametrize("name", ["mask", "weight_mask", "zeros", "x.zero_point", "wscales"])
def test_a_layout_makes_no_matrix_of_a_mask_or_of_zero_points(name):
    assert matrices_by_name({name: jnp.ones((9, 4))}, layout="torch").layers == ()


@pytest.mark.parametrize(
    "name", ["vocab", "pos", "positions", "lookup", "token_table", "wte", "pe"]
)
def test_a_layout_makes_no_matrix_of_a_table(name):
    found = matrices_by_name({name: jnp.ones((9, 4))}, layout="torch")
    assert [leaf.why for leaf in found.left_out] == [Reason.TABLE]


def test_a_layout_makes_no_matrix_of_the_biases_of_heads():
    shapes = {"W_Q": (4, 8, 2), "b_Q": (4, 2), "x/w": (8, 9), "x/b": (9, 8), "W_pos": (9, 8)}
    leaves = {path: jnp.ones(shape) for path, shape in shapes.items()}
    structure = matrices_by_name(leaves, layout="torch")
    assert structure.names == ("x/b", "x/w")
    whys = {leaf.path: leaf.why for leaf in structure.left_out}
    assert (whys["b_Q"], whys["W_pos"]) == (Reason.BIAS, Reason.TABLE)


def test_both_entrances_have_one_rule():
    params = {"loss_weight": jnp.ones((4, 3)), "kernel": jnp.ones((4, 3))}
    assert describe(params).layers == matrices_by_name(params).layers
    assert describe(params).names == ("kernel",)


def test_codes_with_scales_beside_them_are_no_weights():
    codes = jnp.ones((4, 6), jnp.float8_e4m3fn)
    tree = {"a": {"weight": codes, "weight_scale_inv": jnp.ones((1, 1))},
            "b": {"weight": codes, "input_scale": jnp.ones(())}}  # fmt: skip
    structure = describe(tree)
    assert [layer.path for layer in structure.layers] == ["b/weight"]
    (why,) = [leaf for leaf in structure.left_out if leaf.path == "a/weight"]
    assert (why.why, why.text[:31]) == (Reason.PART, "codes with scales beside them: ")
    chosen = describe(tree, axes={"a/weight": ((0,), (1,))})
    assert [layer.path for layer in chosen.layers] == ["a/weight", "b/weight"]


PACKED = {
    "bitsandbytes, 4 bits": {"l.weight": np.uint8, "l.weight.absmax": np.float32,
                             "l.weight.quant_map": np.float32},
    "bitsandbytes, 8 bits": {"l.weight": np.int8, "l.SCB": np.float32},
    "GPTQ": {"l.qweight": np.int32, "l.qzeros": np.int32, "l.scales": np.float16,
             "l.g_idx": np.int32},
    "AWQ": {"l.qweight": np.int32, "l.qzeros": np.int32, "l.scales": np.float16},
    "HQQ": {"l.W_q": np.uint8, "l.zero": np.float32, "l.scale": np.float32},
    "NVFP4": {"l.weight": np.uint8, "l.weight_scale": jnp.float8_e4m3fn,
              "l.weight_scale_2": np.float32},
    "compressed-tensors": {"l.weight_packed": np.int32, "l.weight_scale": np.float32,
                           "l.weight_shape": np.int64},
    "MXFP4": {"gate_up_proj_blocks": np.uint8, "gate_up_proj_scales": np.uint8},
    "MLX": {"l.weight": np.uint32, "l.scales": np.float16, "l.biases": np.float16},
    "Qwix": {"l.kernel.qvalue": np.int8, "l.kernel.scale": np.float32},
    "AQLM": {"l.codes": np.int8, "l.codebooks": np.float16, "l.scales": np.float16},
}  # fmt: skip


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("layout", [None, "torch"])
@pytest.mark.parametrize("scheme", PACKED)
def test_packed_weights_are_named_and_none_of_their_parts_is_a_matrix(scheme, layout, separator):
    leaves = {
        path.replace(".", separator): jax.ShapeDtypeStruct((64, 4), dtype)
        for path, dtype in PACKED[scheme].items()
    }
    found = layers_by_name(leaves, layout=layout)
    whys = [one.text for one in found.values() if isinstance(one, LeftOut)]
    assert len(whys) == len(leaves)
    assert sum(f"packed by {scheme} (with " in why for why in whys) == 1


def test_whole_numbers_of_no_known_scheme_are_named_with_their_scale():
    leaves = {"l.weight": jnp.ones((4, 6), jnp.int8), "l.weight_scale": jnp.ones((4, 1))}
    found = layers_by_name(leaves, layout="torch")["l.weight"]
    assert isinstance(found, LeftOut)
    assert found.text == "holds int8, codes that weight_scale multiplies"


def test_numbers_of_hqq_that_are_viewed_as_float_are_no_weights():
    leaves = {"W_q": (4, 6), "zero": (4, 6), "scale": (4, 6), "bias": (4,), "x/W_q": (4, 6),
              "x_blocks": (4, 6), "x_scales": (4, 6)}  # fmt: skip
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in leaves.items()}
    found = layers_by_name(leaves, layout="torch")
    assert [path for path, one in found.items() if not isinstance(one, LeftOut)] == [
        "x/W_q", "x_blocks",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "shape", "told"),
    [
        ("l/weight_scale", (), False),
        ("l/weight_scale", (8, 1), False),
        ("l/weight_scale_inv", (1, 1), False),
        ("l/scale_weight", (6,), False),
        ("l/weight_scale", (8, 6), False),
        ("l/weight_scale", (5,), True),  # of something else
        ("l/weight_scale", (2, 2), True),
        ("l/scale", (8,), False),
        ("l/g", (8, 1), False),
        ("l/gamma", (6,), False),
        ("l/alpha", (), False),
        ("l/u", (8,), False),
        ("l/weight_g", (8,), False),
        ("l/g", (5,), True),
        ("l/other/g", (8,), True),
        ("l/logit_scale", (), True),
        ("l/input_scale", (), True),
        ("weight_scale", (), True),
    ],
)
def test_a_scale_beside_a_floating_weight_is_not_told_to_multiply_it(scale, shape, told):
    leaves = {"l/weight": jnp.ones((8, 6)), scale: jnp.ones(shape), "m/weight": jnp.ones((5, 8))}
    structure = describe(leaves)
    assert structure.names == (("l/weight", "m/weight") if told else ("m/weight",))
    if not told:
        (why,) = [leaf.text for leaf in structure.left_out if leaf.path == "l/weight"]
        assert why.startswith(f"whether {scale[2:]} beside it changes it is not told: pass apply")


def test_a_gain_beside_several_weights_is_that_of_a_norm():
    block = {"block/wq": jnp.ones((8, 8)), "block/wo": jnp.ones((8, 8)), "block/g": jnp.ones(8)}
    found = layers_by_name(block, layout="torch")
    assert [path for path, one in found.items() if isinstance(one, Layer)] == [
        "block/wo", "block/wq",
    ]  # fmt: skip


def test_a_scale_beside_floating_experts_is_not_told_to_multiply_them():
    leaves = {"experts/kernel": jnp.ones((3, 8, 6)), "experts/kernel_scale": jnp.ones((3, 8))}
    found = layers_by_name(leaves)["experts/kernel"]
    assert isinstance(found, LeftOut)
    assert found.why is Reason.AMBIGUOUS


def test_positions_are_unknown_of_convolutions_alone():
    params = {
        "embedding": {"kernel": jnp.ones((4, 3, 8))},
        "out": {"kernel": jnp.ones((2, 4, 8))},
        "conv": {"weight": jnp.ones((8, 3, 5))},
        "query": {"kernel": jnp.ones((8, 2, 4))},
    }
    positions = {layer.path: layer.positions for layer in describe(params).layers}
    assert positions == {
        "conv/weight": None, "embedding/kernel": None, "out/kernel": 1, "query/kernel": 1,
    }  # fmt: skip


def test_digits_of_other_scripts_are_letters():
    assert describe({"w²": {"kernel": jnp.ones((2, 3))}}).names == ("w²/kernel",)


def test_a_reason_is_an_enumeration_for_programs_and_a_text_for_readers():
    left = describe({"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3), "x": jnp.ones((2, 2))})
    reasons = {leaf.path: (leaf.why, leaf.text) for leaf in left.left_out}
    assert reasons == {
        "bias": (Reason.BIAS, "a bias, not a weight matrix"),
        "x": (
            Reason.UNKNOWN_NAME,
            "not recognized by its name 'x': axes= includes it, in analyze also a layout "
            "(flax, torch, equinox)",
        ),
    }
