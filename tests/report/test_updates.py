"""LoRA: the update that two factors make, against the product formed in NumPy."""

import json

import numpy as np
import pytest
import safetensors.numpy

from rankjax import report
from rankjax.report import (
    CheckpointError,
    analyze,
    load,
    matrices_by_name,
    sequential,
    write_smaller_adapter,
)
from tests.report.test_cli_analyze import run

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def product(b, a, scale=1.0):
    return scale * b.astype(float) @ a.astype(float)


def folder(tmp_path, leaves, **config):
    safetensors.numpy.save_file(leaves, tmp_path / "adapter_model.safetensors")
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def peft(name="q_proj", rank=4, used=None, out=12, in_=9):
    place = f"base_model.model.layers.0.{name}"
    b = draw(out, used or rank) @ draw(used or rank, rank) if used != 0 else np.zeros((out, rank))
    return {f"{place}.lora_A.weight": draw(rank, in_),
            f"{place}.lora_B.weight": b.astype(np.float32)}  # fmt: skip


def same(row, formed):
    sigma = np.linalg.svd(formed, compute_uv=False)
    k = len(row.singular_values)
    np.testing.assert_allclose(row.singular_values, sigma[:k], rtol=1e-9, atol=1e-9 * sigma[0])
    assert np.all(sigma[k:] < 1e-6 * sigma[0])
    assert row.shape == formed.shape


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 16}, 4.0),
        ({"lora_alpha": 16, "use_rslora": True}, 8.0),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"k_proj": 2, "oj": 3}}, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {"^layers.0.q_proj$": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {r"layers\.[0-9]+\.(q|k)_proj": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {r"ayers\.[0-9]+\.(q|k)_proj": 2}}, 4.0),
        ({}, None),
    ],
)
def test_peft(tmp_path, config, scale):
    leaves = peft()
    found = analyze(folder(tmp_path, leaves, **config))
    (row,) = found.rows
    a, b = leaves.values()
    same(row, product(b, a, scale or 1))
    assert (row.scale, row.given_rank, row.numerical_rank) == (scale, 4, 4)
    assert row.path == "base_model/model/layers/0/q_proj"
    assert found.left_out == ()


DIFFUSERS = {"lora_adapter_metadata": json.dumps({
    "unet.lora_alpha": 8, "unet.alpha_pattern": {"k": 2}, "text.lora_alpha": 2,
    "text.use_rslora": True,
})}  # fmt: skip
KOHYA = {"ss_network_alpha": "8.0", "ss_network_dim": "4"}
CONVOLUTIONS = {"ss_network_args": json.dumps({"conv_dim": "2", "conv_alpha": "1"})}


@pytest.mark.parametrize(
    ("metadata", "place", "scale"),
    [
        (KOHYA, "lora_unet_q", 2.0),
        ({"ss_network_alpha": "8", "ss_network_args": "null"}, "lora_unet_q", 2.0),
        (KOHYA | {"ss_network_dim": "16"}, "lora_unet_q", None),  # resized: of another rank
        (KOHYA | CONVOLUTIONS, "lora_unet_q", 2.0),
        ({"ss_network_alpha": "None"}, "lora_unet_q", None),
        ({"lora_alpha": "8"}, "lora_unet_q", 2.0),
        (DIFFUSERS, "unet.q", 2.0),
        (DIFFUSERS, "unet.k", 0.5),
        (DIFFUSERS, "text.q", 1.0),
        (DIFFUSERS, "other.q", None),
        ({"format": "pt"}, "lora_unet_q", None),
    ],
)
def test_metadata_tell_the_scale(tmp_path, metadata, place, scale):
    a, b = draw(4, 9), draw(12, 4)
    leaves = {f"{place}.lora_down.weight": a, f"{place}.lora_up.weight": b}
    file = tmp_path / "k.safetensors"
    safetensors.numpy.save_file(leaves, file, metadata=metadata)
    (row,) = analyze(file).rows
    assert row.scale == scale
    same(row, product(b, a, scale or 1))
    write_smaller_adapter(file, tmp_path / "small", energy=1.0)
    (after,) = analyze(tmp_path / "small").rows
    assert after.scale == scale
    np.testing.assert_allclose(after.singular_values, row.singular_values, rtol=1e-5)
    assert not (tmp_path / "small" / "adapter_config.json").exists()


@pytest.mark.parametrize(("other", "scale"), [("8.0", 2.0), (None, 2.0), ("4.0", None)])
def test_metadata_of_files_behind_an_index_tell_the_scale(tmp_path, other, scale):
    a, b = draw(4, 9), draw(12, 4)
    more = None if other is None else {"ss_network_alpha": other}
    for name, leaf, metadata in [("lora_down", a, KOHYA), ("lora_up", b, more)]:
        file = tmp_path / f"{name}.safetensors"
        safetensors.numpy.save_file({f"q.{name}.weight": leaf}, file, metadata=metadata)
    names = {f"q.{name}.weight": f"{name}.safetensors" for name in ("lora_down", "lora_up")}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    (row,) = analyze(index).rows
    assert row.scale == scale


@pytest.mark.parametrize(("rank", "scale"), [(2, 0.5), (4, None)])
def test_metadata_tell_the_scale_of_convolutions(tmp_path, rank, scale):
    leaves = {"c.lora_down.weight": draw(rank, 3, 5, 5), "c.lora_up.weight": draw(6, rank, 1, 1)}
    file = tmp_path / "k.safetensors"
    safetensors.numpy.save_file(leaves, file, metadata=KOHYA | CONVOLUTIONS)
    assert [row.scale for row in analyze(file).rows] == [scale]


@pytest.mark.parametrize("key", ["lora_adapter_metadata", "ss_network_args"])
@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_metadata_that_are_no_json_object(tmp_path, key, text):
    safetensors.numpy.save_file(peft(), tmp_path / "k.safetensors", metadata={key: text})
    with pytest.raises(CheckpointError, match="say of the adapter is no JSON object"):
        analyze(tmp_path / "k.safetensors")


def test_the_config_of_peft_and_an_alpha_beside_the_factors_come_first(tmp_path):
    leaves = peft()
    safetensors.numpy.save_file(
        leaves, tmp_path / "adapter_model.safetensors", metadata={"lora_alpha": "99"}
    )
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert analyze(tmp_path).rows[0].scale == 4
    leaves = {"c.lora_down.weight": draw(4, 9), "c.lora_up.weight": draw(6, 4),
              "c.alpha": np.full((), 2, np.float32)}  # fmt: skip
    safetensors.numpy.save_file(leaves, tmp_path / "k.safetensors", metadata=KOHYA)
    assert analyze(load(tmp_path / "k.safetensors")).rows[0].scale == 0.5


def test_ranks_dead_layers_and_savings(tmp_path):
    leaves = peft("q", used=2) | peft("k", used=0) | peft("v")
    found = analyze(folder(tmp_path, leaves, lora_alpha=4))
    rows = {row.path[-1]: row for row in found.rows}
    assert [rows[x].numerical_rank for x in "kqv"] == [0, 2, 4]
    assert rows["k"].saved_at == (4 * 21,) * 3
    assert rows["q"].rank_at[-1] <= 2
    assert rows["q"].saved_at[-1] == (4 - rows["q"].rank_at[-1]) * 21
    assert rows["q"].parameters == 4 * 21
    total = found.summary()
    assert (total["updates"], total["dead_updates"]) == (3, 1)
    assert total["parameters_in_matrices"] == total["parameters"]
    record = found.records()[0]
    assert (record["given_rank"], record["scale"]) == (4, 1)


def test_convolutions(tmp_path):
    a, b = draw(2, 3, 5, 5), draw(6, 2, 1, 1)
    leaves = {"lora_unet_c.lora_down.weight": a, "lora_unet_c.lora_up.weight": b,
              "lora_unet_c.alpha": np.float32(1.0)}  # fmt: skip
    (row,) = analyze(leaves).rows
    same(row, product(b.reshape(6, 2), a.reshape(2, 75), 0.5))
    assert row.path == "lora_unet_c"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x/kernel_lora_b", "x/kernel_lora_a"),
        ("x/lora_kernel_b", "x/lora_kernel_a"),
        ("lora_b", "lora_a"),
        ("x/w_lora_b", "x/w_lora_a"),
        ("x/lora_b/kernel", "x/lora_a/kernel"),
        ("x/lora_B/kernel", "x/lora_A/kernel"),
        ("x/lora_up/w", "x/lora_down/w"),
        ("x/lora_B", "x/lora_A"),
        ("x/lora/b", "x/lora/a"),
    ],
)
@pytest.mark.parametrize("out", [12, 9])  # square: sizes alone do not tell
def test_names_of_jax(left, right, out):
    a, b = draw(9, 4), draw(4, out)
    found = analyze({right: a, left: b, "x": {"bias": draw(3)}})
    same(found.rows[0], product(a, b).T)
    assert found.rows[0].scale is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x.lora_b.weight", "x.lora_a.weight"),  # torchtune
        ("x.lora_b", "x.lora_a"),
        ("x.lora_B", "x.lora_A"),
        ("x.lora_up.weight", "x.lora_down.weight"),
        ("x.lora_B.default.weight", "x.lora_A.default.weight"),
        ("lora_unet_b.lora_up.weight", "lora_unet_b.lora_down.weight"),
        ("x_lora.up.weight", "x_lora.down.weight"),
        ("x.loraB.weight", "x.loraA.weight"),
    ],
)
@pytest.mark.parametrize("out", [12, 9])
def test_names_of_torch(left, right, out):
    a, b = draw(4, 9), draw(out, 4)
    (row,) = analyze({right: a, left: b}).rows
    same(row, product(b, a))


@pytest.mark.parametrize(
    ("a", "b"), [((4, 9), (12, 5)), ((3, 4, 9), (3, 12, 4)), ((4, 9, 3, 3), (12, 4, 3, 3))]
)
def test_factors_that_do_not_fit_are_left_out(a, b):
    found = analyze({"x.lora_A.weight": draw(*a), "x.lora_B.weight": draw(*b)})
    assert found.rows == ()
    assert all("does not fit the other factor" in leaf.text for leaf in found.left_out)
    assert len(found.left_out) == 2


@pytest.mark.parametrize("names", [("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
                                   ("lokr_w1", "lokr_w2_a", "lokr_w2_b"), ("oft_blocks",),
                                   ("vera_A", "vera_B"), ("lora_A0", "lora_B0", "lora_B1"),
                                   ("poly_lora_A", "poly_lora_B"), ("ia3_l",),
                                   ("hra_u",)])  # fmt: skip
@pytest.mark.parametrize("layout", [None, "torch"])
def test_updates_that_are_no_products(names, layout):
    leaves = {f"m.q.{name}": draw(6, 6) for name in names}
    found = analyze(leaves, layout=layout)
    assert found.rows == ()
    assert {leaf.text for leaf in found.left_out} == {
        "a part of an update that is no plain product"
    }


@pytest.mark.parametrize(
    ("flag", "value", "why"),
    [("use_dora", True, "use_dora, and the file holds no lora_magnitude_vector"),
     ("use_qalora", True, "use_qalora:"), ("peft_type", "ADALORA", "peft_type ADALORA:"),
     ("fine_tune_type", "dora", "fine_tune_type dora:")],
)  # fmt: skip
def test_a_config_that_says_more_than_a_product(tmp_path, flag, value, why):
    found = analyze(folder(tmp_path, peft(), lora_alpha=16, **{flag: value}))
    assert found.rows == ()
    assert len(found.left_out) == 2
    assert all(leaf.text.startswith(f"its config says {why}") for leaf in found.left_out)
    plain = False if value is True else "LORA"
    assert len(analyze(folder(tmp_path, peft(), lora_alpha=16, **{flag: plain})).rows) == 1


def test_two_adapters_in_one_file():
    a, b, c, d = draw(4, 9), draw(12, 4), draw(2, 9), draw(12, 2)
    leaves = {"q.lora_A.a.weight": a, "q.lora_B.a.weight": b,
              "q.lora_A.b.weight": c, "q.lora_B.b.weight": d}  # fmt: skip
    rows = {row.path: row for row in analyze(leaves).rows}
    same(rows["q/a"], product(b, a))
    same(rows["q/b"], product(d, c))


@pytest.mark.parametrize("names", [("kernel_lora_a", "kernel_lora_b"),
                                   ("lora_kernel_a", "lora_kernel_b")])  # fmt: skip
def test_a_weight_and_its_update_in_one_tree(names):
    w, a, b = draw(9, 12), draw(9, 2), draw(2, 12)
    rows = {row.path: row for row in analyze({"d": {"kernel": w, names[0]: a, names[1]: b}}).rows}
    assert set(rows) == {"d/kernel", "d/kernel (update)"}
    same(rows["d/kernel"], w.astype(float).T)
    same(rows["d/kernel (update)"], product(a, b).T)


def test_parameters_of_several_matrices(tmp_path):
    place = "base_model.model.mlp.experts"
    leaves = {f"{place}.lora_A.weight": draw(16, 8), f"{place}.lora_B.weight": draw(12, 16)}
    config = {"lora_alpha": 16, "target_parameters": ["mlp.experts.gate_up_proj"]}
    found = analyze(folder(tmp_path, leaves, r=4, **config))
    assert found.rows == ()
    assert "(target_parameters)" in found.left_out[0].text
    assert len(analyze(folder(tmp_path, leaves, r=16, **config)).rows) == 1
    with pytest.raises(ValueError, match=r"target_parameters is .experts\.w., must be a list"):
        analyze(folder(tmp_path, leaves, target_parameters="experts.w"))


def test_adapters_of_mlx_keep_the_scale_itself(tmp_path):
    a, b = draw(9, 2), draw(2, 12)
    leaves = {"model.layers.0.q_proj.lora_a": a, "model.layers.0.q_proj.lora_b": b}
    safetensors.numpy.save_file(leaves, tmp_path / "adapters.safetensors")
    config = tmp_path / "adapter_config.json"
    config.write_text('{"lora_parameters": {"rank": 2, "scale": 20.0}}')
    (row,) = analyze(tmp_path).rows
    same(row, product(a, b, 20).T)
    assert row.scale == 20
    config.write_text('{"lora_parameters": {"scale": "x"}}')
    with pytest.raises(ValueError, match="scale is 'x', must be a number"):
        analyze(tmp_path)


def test_heads_and_stacks():
    a, b = draw(9, 2), draw(2, 4, 3)
    (row,) = analyze({"q/kernel_lora_a": a, "q/kernel_lora_b": b}).rows
    same(row, product(a, b.reshape(2, 12)).T)
    a, b = draw(3, 9, 2), draw(3, 2, 5)
    rows = analyze({"layers/lora_a": a, "layers/lora_b": b}).rows
    assert [row.path for row in rows] == [f"layers[{i}]" for i in range(3)]
    for i, row in enumerate(rows):
        same(row, product(a[i], b[i]).T)


@pytest.mark.parametrize(
    ("name", "shape"), [("dora_scale", (12, 1)), ("lora_mid.weight", (4, 4)),
                        ("lora_E", (4, 1)),
                        ("lora_magnitude_vector", (12,)), ("magnitude", (12,))],
)  # fmt: skip
def test_what_is_no_plain_product_is_refused(name, shape):
    leaves = {"m.lora_down.weight": draw(4, 9), "m.lora_up.weight": draw(12, 4),
              f"m.{name}": draw(*shape)}  # fmt: skip
    found = analyze(leaves)
    assert found.rows == ()
    whys = {leaf.path: leaf.text for leaf in found.left_out}
    assert f"{name.removesuffix('.weight')} changes the product" in whys["m.lora_up.weight"]


def test_a_factor_that_is_not_finite_or_alone(tmp_path):
    leaves = peft()
    first = next(iter(leaves))
    leaves[first][0, 0] = np.nan
    found = analyze(leaves)
    assert found.rows == ()
    assert [path for path, _, _ in found.not_finite] == [first]
    del leaves[first]
    found = analyze(leaves)
    assert found.rows == ()
    assert "one factor of an update (LoRA) without the other" in found.left_out[0].text


def test_the_difference_of_two_adapters():
    one, two = peft(), peft()
    (row,) = analyze(one, reference=two).rows
    (a, b), (c, d) = one.values(), two.values()
    change, before = product(b, a) - product(d, c), product(d, c)
    same(row, change)
    assert row.relative_change == pytest.approx(np.linalg.norm(change) / np.linalg.norm(before))
    assert analyze(one, reference=one).rows[0].numerical_rank == 0
    doubled = {path: (2 * x if "_B" in path else x) for path, x in one.items()}
    assert analyze(doubled, reference=one).rows[0].numerical_rank == 4


def test_a_broken_config(tmp_path):
    place = folder(tmp_path, peft(), lora_alpha="16")
    with pytest.raises(ValueError, match="lora_alpha is '16', must be a number"):
        analyze(place)
    place = folder(tmp_path, peft(), lora_alpha=10**400)
    with pytest.raises(ValueError, match=r"lora_alpha is 1000*, must be a number"):
        analyze(place)


@pytest.mark.parametrize(("key", "message"), [("(a+)+b", "too complicated"), ("[", "names '\\['")])
def test_expressions_of_a_hostile_config(tmp_path, key, message):
    place = folder(tmp_path, peft(), lora_alpha=16, alpha_pattern={key: 1})
    with pytest.raises(ValueError, match=message):
        analyze(place)


def test_an_alpha_that_is_no_number():
    leaves = {"c.lora_down.weight": draw(4, 9), "c.lora_up.weight": draw(6, 4),
              "c.alpha": np.float32(np.nan)}  # fmt: skip
    found = analyze(leaves)
    assert found.rows == ()
    assert "its alpha is nan" in [leaf.text for leaf in found.left_out]


@pytest.mark.parametrize("rslora", [False, True])
def test_a_smaller_adapter(tmp_path, rslora):
    leaves = peft("q", used=2) | peft("k", used=0) | peft("v") | {"head.bias": draw(3)}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": rslora}
    big = tmp_path / "big"
    big.mkdir()
    folder(big, leaves, **config)
    found = write_smaller_adapter(big, tmp_path / "small", energy=0.999999)
    assert found.rank_pattern == {"layers.0.q": 2, "layers.0.k": 1, "layers.0.v": 4}
    assert found.parameters == (12 * 21, 7 * 21)
    small = load(tmp_path / "small")
    assert small.adapter["rank_pattern"] == found.rank_pattern
    assert small.adapter["peft_type"] == "LORA"
    np.testing.assert_array_equal(small.tree["head.bias"], leaves["head.bias"])
    for before, after in zip(analyze(big).rows, analyze(small).rows, strict=True):
        assert after.scale == pytest.approx(before.scale)
        k = len(after.singular_values)
        np.testing.assert_allclose(
            after.singular_values, before.singular_values[:k], rtol=1e-5, atol=1e-5
        )
        place = f"base_model.model.{before.path.split('model/')[-1].replace('/', '.')}"
        old, new = (
            t[f"{place}.lora_B.weight"] @ t[f"{place}.lora_A.weight"] for t in (leaves, small.tree)
        )
        np.testing.assert_allclose(new, old, atol=1e-4)
    with pytest.raises(CheckpointError, match="holds an adapter already"):
        write_smaller_adapter(big, tmp_path / "small")


def test_a_smaller_adapter_of_kohya_and_convolutions(tmp_path):
    a, b = draw(4, 3, 5, 5), np.zeros((6, 4, 1, 1), np.float32)
    b[:, :2] = draw(6, 2, 1, 1)
    leaves = {"c.lora_down.weight": a, "c.lora_up.weight": b, "c.alpha": np.full((), 2, np.float32)}
    safetensors.numpy.save_file(leaves, tmp_path / "k.safetensors")
    write_smaller_adapter(tmp_path / "k.safetensors", tmp_path / "small", energy=1.0)
    small = load(tmp_path / "small").tree
    assert small["c.lora_down.weight"].shape == (2, 3, 5, 5)
    assert small["c.lora_up.weight"].shape == (6, 2, 1, 1)
    assert small["c.alpha"] == 1  # alpha / r stays
    assert not (tmp_path / "small" / "adapter_config.json").exists()


def test_patterns_of_what_is_not_cut_are_kept(tmp_path):
    dora = "base_model.model.layers.1.q"
    leaves = peft("q", used=1) | {
        f"{dora}.lora_A.weight": draw(2, 9), f"{dora}.lora_B.weight": draw(12, 2),
        f"{dora}.lora_magnitude_vector": draw(12),
    }  # fmt: skip
    old = {"rank_pattern": {"1.q": 2, "layers.0.q": 4}, "alpha_pattern": {"1.q": 8}}
    big = tmp_path / "big"
    big.mkdir()
    write_smaller_adapter(folder(big, leaves, r=4, lora_alpha=16, **old), tmp_path / "small")
    small = load(tmp_path / "small").adapter
    assert small["rank_pattern"] == {"layers.0.q": 1, "1.q": 2}
    assert small["alpha_pattern"] == {"layers.0.q": 4.0, "1.q": 8}


def test_what_is_not_written(tmp_path):
    factors = {"lora_A/kernel": draw(9, 2), "lora_B/kernel": draw(2, 9)}
    np.savez(tmp_path / "u.npz", **factors)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CheckpointError, match="only adapters with the names of PEFT or kohya"):
        write_smaller_adapter(tmp_path / "u.npz", tmp_path / "small")
    np.savez(tmp_path / "w.npz", lora_a=draw(9, 2), lora_b=draw(2, 4))
    with pytest.raises(CheckpointError, match="only adapters with the names of PEFT or kohya"):
        write_smaller_adapter(tmp_path / "w.npz", tmp_path / "small")
    np.savez(tmp_path / "v.npz", kernel=draw(3, 4))
    with pytest.raises(ValueError, match="holds no pair of LoRA factors"):
        write_smaller_adapter(tmp_path / "v.npz", tmp_path / "small")
    broken = {"q.lora_A.weight": draw(2, 9), "q.lora_B.weight": np.full((9, 2), np.inf)}
    np.savez(tmp_path / "n.npz", **broken)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"lora_B\.weight holds entries that are not finite"):
        write_smaller_adapter(tmp_path / "n.npz", tmp_path / "small")
    for energy in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="energy: got"):
            write_smaller_adapter(tmp_path / "v.npz", tmp_path / "small", energy=energy)
    assert not (tmp_path / "small").exists()


def test_on_the_command_line(tmp_path, monkeypatch):
    big = tmp_path / "big"
    big.mkdir()
    folder(big, peft("q", used=1), lora_alpha=16)
    result = run("analyze", big, "--write", tmp_path / "small", "--energy", 0.9)
    # A long path wraps the line.
    assert "1 are updates of low rank (LoRA)" in " ".join(result.output.split())
    assert "of rank" in result.output
    assert "21 of 84 parameters" in " ".join(result.stderr.split())
    assert load(tmp_path / "small").adapter["rank_pattern"] == {"layers.0.q": 1}
    monkeypatch.setattr(report, "analyze", lambda *a, **k: pytest.fail("the work has started"))
    again = run("analyze", big, "--write", tmp_path / "small")
    assert "holds an adapter already" in again.stderr


@pytest.mark.parametrize("parts", [{"lora_a": (9, 2), "lora_b": (2, 5)}, {"ia3_l": (5,)}])
def test_a_chain_of_dense_layers_has_no_adapters(parts):
    tree = {"d": {"kernel": draw(9, 5), **{name: draw(*shape) for name, shape in parts.items()}}}
    flat = {f"d/{name}": leaf for name, leaf in tree["d"].items()}
    with pytest.raises(ValueError, match="is of an adapter, no layer: merge it"):
        sequential("dense", matrices_by_name(flat), tree)
