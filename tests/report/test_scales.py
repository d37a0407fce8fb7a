"""8 bit codes with scales beside them: the numbers are those of codes times scales, or refused."""

import ml_dtypes
import numpy as np
import pytest

from rankjax.report import analyze
from rankjax.report._columns import by_reason

F8, E8M0 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e8m0fnu
CODES = np.random.default_rng(0).standard_normal((200, 256)).astype(F8)


def norm(tree, **options):
    (row,) = analyze(tree, **options).rows
    return row.spectral_norm


def expanded(scale, block):
    whole = np.repeat(np.repeat(scale, block[0], 0), block[1], 1)[:200, :256]
    return float(np.linalg.norm(CODES.astype(float) * whole.astype(float), 2))


SCALES = np.random.default_rng(1).uniform(0.5, 2, (200, 256)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "scale", "block"),
    [
        ("l.weight_scale_inv", SCALES[:2, :2], (128, 128)),
        ("l.weight_scale_inv", SCALES[:4, :4], (50, 64)),
        ("l.weight_scale", SCALES[:1, :1].reshape(()), (200, 256)),
        ("l.weight_scale", SCALES[:1, 0], (200, 256)),
        ("l.weight_scale", SCALES[:, :1], (1, 256)),
        ("l.weight_scale", SCALES[:1], (200, 1)),
        ("l.scale_weight", SCALES[:1, :1], (200, 256)),
        ("l.weight_scale", np.asarray(2.0 ** np.round(SCALES[:, :8])).astype(E8M0), (1, 32)),
    ],
)
def test_codes_are_multiplied(name, scale, block):
    tree = {"l.weight": CODES, name: scale}
    assert norm(tree) == pytest.approx(expanded(np.atleast_2d(scale), block), rel=1e-6)
    assert analyze(tree).rows[0].dtype == "float8_e4m3fn"


def test_one_number_a_row():
    tree = {"l.weight": CODES, "l.weight_scale": SCALES[:, 0]}
    assert norm(tree) == pytest.approx(expanded(SCALES[:, :1], (1, 256)), rel=1e-6)


def test_codes_alone_are_the_weights():
    assert norm({"l.weight": CODES}) == pytest.approx(np.linalg.norm(CODES.astype(float), 2))


def test_experts_have_blocks_of_their_own():
    codes = np.stack([CODES, CODES])
    scale = np.stack([SCALES[:2, :2], SCALES[2:4, :2]])
    tree = {"experts.linear.weight": codes, "experts.linear.weight_scale_inv": scale}
    found = [row.spectral_norm for row in analyze(tree).rows]
    expected = [expanded(s, (128, 128)) for s in scale]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (2, 200), (2, 1, 1)])
def test_experts_have_a_number_each_or_one_a_row(shape):
    codes, scale = np.stack([CODES, CODES]), 1 + np.arange(np.prod(shape)).reshape(shape) / 7
    tree = {"experts.linear.weight": codes, "experts.linear.weight_scale": scale}
    whole = scale.reshape((*shape, 1, 1)[:3])
    found = [row.spectral_norm for row in analyze(tree).rows]
    np.testing.assert_allclose(
        found, np.linalg.norm(codes.astype(float) * whole, 2, (1, 2)), rtol=1e-6
    )


def test_experts_whose_numbers_may_be_of_rows_are_refused():
    codes = np.stack([CODES] * 8)
    for shape in [(8, 1), (200, 1), (200, 256)]:
        scale = np.ones(shape, np.float32)
        tree = {"experts.linear.weight": codes, "experts.linear.weight_scale": scale}
        assert analyze(tree).rows == ()


def test_one_number_per_output_of_a_square_matrix():
    codes, scale = CODES[:, :200], SCALES[:, 0]
    torch, flax = codes.astype(float) * scale[:, None], codes.astype(float) * scale
    tree = {"l.weight": codes, "l.weight_scale": scale}
    assert norm(tree) == pytest.approx(np.linalg.norm(torch, 2), rel=1e-6)
    tree = {"l": {"kernel": {"value": codes}, "kernel_scale": {"value": scale}}}
    assert norm(tree) == pytest.approx(np.linalg.norm(flax, 2), rel=1e-6)


def test_scales_of_others_do_not_count():
    held = {"m.up.weight": CODES, "m.up.input_scale": np.float32(2),
            "m.experts.up": CODES, "m.experts.down": CODES,
            "m.experts.up_scale": np.float32(2), "m.experts.down_scale": np.float32(3)}  # fmt: skip
    found = {row.path: row.spectral_norm for row in analyze(held, layout="torch").rows}
    one = np.linalg.norm(CODES.astype(float), 2)
    assert list(found) == ["m.experts.down", "m.experts.up", "m.up.weight"]
    np.testing.assert_allclose(list(found.values()), [3 * one, 2 * one, one], rtol=1e-6)


def test_a_difference_has_the_noise_of_the_codes():
    tree = {"l.weight": CODES, "l.weight_scale": np.float32(0.5)}
    full = {"l.weight": CODES.astype(np.float32) * 0.5}
    assert norm(tree, reference=full) == 0
    rounded = (full["l.weight"] * 1.03).astype(np.float32)
    row = analyze(tree, reference={"l.weight": rounded}).rows[0]
    assert row.numerical_rank == 0  # 3 % is less than the rounding of float8
    assert row.spectral_norm > 0


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"l.weight_scale_inv": np.ones((3, 2), np.float32)}, "does not tell its blocks"),
        ({"l.weight_scale": np.ones((2, 2), np.uint8)}, "with weight_scale, which holds uint8"),
        ({"l.weight_scale": np.ones(7, np.float32)}, "does not tell its blocks"),
        ({"l.weight_scale": np.ones(4, np.float32)}, "does not tell its blocks"),
        ({"l.weight_scale": np.full(1, np.nan, np.float32)}, "not finite"),
        ({"l.weight_scale": np.full(1, 1e40)}, "not finite, or too large"),
        ({"l.weights_scaling_factor": np.ones(1, np.float32)}, "which is not known"),
        ({"l.scales": np.ones((200, 1), np.float32)}, "with scales, which is not known"),
        ({"l.weight.scale": np.ones(1, np.float32)}, "with scale, which is not known"),
        ({"l.weight_absmax": np.ones(200, np.float32)}, "which is not known"),
        (
            {"l.weight_scale": np.ones(1, np.float32), "l.weight_scale_2": np.ones(1, np.float32)},
            "weight_scale and weight_scale_2: what to do with both is not known",
        ),
        (
            {"l.weight_scale_2": np.ones(1, np.float32)},
            "stored with weight_scale_2, which is not known",
        ),
    ],
)
def test_scales_that_are_not_known_refuse_the_weight(beside, message):
    found = analyze({"l.weight": CODES, **beside})
    assert found.rows == ()
    (why,) = [leaf.text for leaf in found.left_out if leaf.path == "l.weight"]
    assert message in why


def test_weights_refused_for_one_reason_are_listed_together():
    tree = {}
    for i in range(9):
        tree |= {f"{i}.weight": CODES, f"{i}.weight_absmax": np.ones(200, np.float32)}
    found = analyze(tree | {"x.kernel": np.ones((2, 2))})
    line = "9: float8_e4m3fn stored with weight_absmax, which is not known: 0.weight, 1.weight"
    assert line in " ".join(by_reason(found.left_out))


def test_other_codes_are_named_and_their_scales_are_no_matrix():
    tree = {"l.weight": np.ones((4, 8), np.uint8), "l.weight_scale": np.ones((4, 2), F8)}
    found = analyze(tree)
    assert found.rows == ()
    whys = {leaf.path: leaf.text for leaf in found.left_out}
    assert "uint8" in whys["l.weight"]
    assert "a scale" in whys["l.weight_scale"]
