"""Matrices told by their names: one recognizer for trees at hand and for checkpoints."""

import jax.numpy as jnp
import pytest

from rankjax.network import LeftOut, Reason, View, describe
from rankjax.network.internal import view_by_name
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
        ("conv1/kernel", (3, 4, 8), View(out=(2,), in_=(0, 1))),
        ("attention/out/kernel", (2, 4, 8), View(out=(2,), in_=(0, 1))),
        ("attention/query/kernel", (8, 2, 4), View(out=(1, 2), in_=(0,))),
        ("blocks/kernel", (3, 4, 4), Reason.AMBIGUOUS),
        ("depthwise_conv/kernel", (3, 3, 1, 8), Reason.DEPTHWISE),
        ("batch_stats/BatchNorm_0/kernel", (4, 4), Reason.STATE),
        ("blocks/bias", (3, 4), Reason.BIAS),
        ("norm/scale", (4,), Reason.SCALE),
        ("temperature", (), Reason.VECTOR),
        ("attn.in_proj_weight", (12, 4), Reason.UNKNOWN_NAME),
    ],
)
def test_names_and_numbers_of_axes_decide(path, shape, expected):
    found = view_by_name(path, shape)
    assert (found.why if isinstance(found, LeftOut) else found) == expected


def test_only_in_a_checkpoint_a_longer_name_is_a_weight_of_torch():
    params = {"in_weight": jnp.ones((4, 3)), "kernel": jnp.ones((4, 3))}
    assert describe(params).names == ("kernel",)
    saved = matrices_by_name(params)
    assert [(layer.path, layer.view) for layer in saved.layers] == [
        ("in_weight", OUT_IN),
        ("kernel", IN_OUT),
    ]


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
        "x": (Reason.UNKNOWN_NAME, "not recognized by its name 'x'"),
    }
