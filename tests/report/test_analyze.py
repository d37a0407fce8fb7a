"""Every number of an analysis against NumPy, written out again; and what is left out."""

import csv
import io
import json
import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import rankjax
from rankjax.network import Reason, describe
from rankjax.report import analyze, html_report, matrices_by_name
from rankjax.report._spectra import Spectrum, energy_rank, spectra_of, tail_exponent
from rankjax.report._terminal import rich_report


def with_spectrum(m, n, sigma, dtype, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((m, m)))[0]
    v = np.linalg.qr(rng.standard_normal((n, n)))[0]
    k = len(sigma)
    return (u[:, :k] * np.asarray(sigma)) @ v[:, :k].T.astype(dtype)


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 7), (7, 1), (1, 1), (33, 33)])
def test_numbers(dtype, shape):
    a = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    row = analyze({"weight": a}, p=[0.3, 1.0, 2.0]).rows[0]
    sigma = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(row.singular_values, sigma, rtol=1e-7, atol=1e-7 * sigma[0])
    assert row.shape == shape
    assert row.dtype == np.dtype(dtype).name
    np.testing.assert_allclose(row.spectral_norm, sigma[0], rtol=1e-12)
    np.testing.assert_allclose(row.frobenius_norm, np.linalg.norm(a.astype(np.float64)), rtol=1e-12)
    for p, norm, soft in zip([0.3, 1.0, 2.0], row.schatten_norm, row.soft_rank, strict=True):
        np.testing.assert_allclose(norm, np.sum(sigma**p) ** (1 / p), rtol=1e-6)
        np.testing.assert_allclose(soft, np.sum((sigma / sigma[0]) ** p), rtol=1e-6)
    q = sigma / sigma.sum()
    np.testing.assert_allclose(row.effective_rank, np.exp(-np.sum(q * np.log(q))), rtol=1e-6)
    np.testing.assert_allclose(row.stable_rank, np.sum(sigma**2) / sigma[0] ** 2, rtol=1e-9)
    assert row.numerical_rank == min(shape)
    for share, rank, saved in zip((0.9, 0.95, 0.99), row.rank_at, row.saved_at, strict=True):
        energy = np.sum(sigma**2)
        assert np.sum(sigma[:rank] ** 2) >= share * energy * (1 - 1e-9)
        assert np.sum(sigma[: rank - 1] ** 2) < share * energy
        assert saved == max(0, shape[0] * shape[1] - rank * sum(shape))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rank_and_power_of_a_low_rank_matrix_do_not_count_rounding(dtype):
    a = with_spectrum(60, 40, [3.0, 2.0, 1.0], np.float64).astype(dtype)
    row = analyze({"kernel": a}, p=[0.1]).rows[0]
    assert row.numerical_rank == 3
    assert row.shape == (40, 60)
    expected = np.sum(np.asarray([3.0, 2.0, 1.0]) ** 0.1) ** 10
    np.testing.assert_allclose(row.schatten_norm[0], expected, rtol=1e-5)
    assert row.rank_at == (2, 3, 3)
    assert row.saved_at == (2400 - 200, 2400 - 300, 2400 - 300)
    assert math.isnan(row.tail_exponent)


def test_the_definitions_are_those_of_the_matrix_functions():
    rng = np.random.default_rng(0)
    for a in (rng.standard_normal((30, 20)), with_spectrum(30, 20, [3.0, 1.0, 1e-3], float)):
        row = analyze({"weight": a}, p=[0.2, 1.5]).rows[0]
        assert row.spectral_norm == pytest.approx(float(rankjax.spectral_norm(a)))
        assert row.frobenius_norm == pytest.approx(float(rankjax.frobenius_norm(a)))
        assert row.numerical_rank == rankjax.numerical_rank(a)
        assert row.stable_rank == pytest.approx(float(rankjax.stable_rank(a)))
        assert row.effective_rank == pytest.approx(float(rankjax.effective_rank(a)))
        for p, norm, soft in zip([0.2, 1.5], row.schatten_norm, row.soft_rank, strict=True):
            assert norm == pytest.approx(float(rankjax.schatten_norm(a, p=p)))
            assert soft == pytest.approx(float(rankjax.soft_rank(a, p=p)))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scale(scale):
    a = np.random.default_rng(0).standard_normal((9, 9))
    here = analyze({"w": (a * scale).astype(np.float32)}).rows[0]
    there = analyze({"w": a.astype(np.float32)}).rows[0]
    np.testing.assert_allclose(here.spectral_norm, scale * there.spectral_norm, rtol=1e-5)
    np.testing.assert_allclose(here.frobenius_norm, scale * there.frobenius_norm, rtol=1e-5)
    np.testing.assert_allclose(here.soft_rank, there.soft_rank, rtol=1e-5)
    np.testing.assert_allclose(here.tail_fit, there.tail_fit)


def test_zero_identity_and_a_small_p():
    found = analyze({"a": {"kernel": np.zeros((4, 3))}, "b": {"kernel": np.eye(400)}}, p=[1e-3])
    zero, one = found.rows
    assert zero.spectral_norm == zero.frobenius_norm == zero.stable_rank == 0
    assert zero.schatten_norm == zero.soft_rank == (0,)
    assert zero.numerical_rank == 0
    assert zero.rank_at == (0, 0, 0)
    assert zero.saved_at == (12, 12, 12)
    assert one.stable_rank == pytest.approx(400)
    assert one.schatten_norm == (math.inf,)  # 400^1000
    assert (one.tail_exponent, one.tail_fit) == (0, 1)
    assert json.loads(found.to_json())["matrices"][1]["schatten_norm_p0.001"] == "inf"


def test_blocks_of_a_tall_matrix(monkeypatch):
    from rankjax.report import _spectra

    monkeypatch.setattr(_spectra, "_BLOCK", 50)
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        a, m = rng.standard_normal((2, 70, 8)).astype(dtype)
        row = analyze({"w": a}, reference={"w": m}).rows[0]
        expected = np.linalg.svd(a.astype(np.float64) - m, compute_uv=False)
        np.testing.assert_allclose(row.singular_values, expected, rtol=1e-7)
        assert row.relative_change == pytest.approx(np.linalg.norm(a - m) / np.linalg.norm(m))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_difference_has_the_rank_of_the_change_not_of_the_rounding(dtype):
    rng = np.random.default_rng(0)
    before = (rng.standard_normal((64, 48)) / 8).astype(dtype)
    change = with_spectrum(64, 48, [4.0, 3.0], np.float64, seed=3)
    after = (before.astype(np.float64) + change).astype(dtype)
    names = ["l.weight", "new.weight", "other.weight"]
    params = dict.fromkeys(names, after)
    reference = {"l.weight": before, "other.weight": before.T, "gone.weight": before}
    found = analyze(params, reference=reference)
    assert [row.path for row in found.rows] == ["l.weight"]
    assert found.rows[0].numerical_rank == 2
    whys = {leaf.path: leaf.text for leaf in found.left_out}
    assert whys == {
        "new.weight": "not in the reference",
        "other.weight": "has shape (48, 64) in the reference",
    }
    same = analyze({"l.weight": after}, reference={"l.weight": after}).rows[0]
    assert (same.numerical_rank, same.spectral_norm, same.relative_change) == (0, 0, 0)
    zero = np.zeros_like(after)
    assert analyze({"w": zero}, reference={"w": zero}).rows[0].relative_change == 0
    assert analyze({"w": after}, reference={"w": zero}).rows[0].relative_change == math.inf


def test_what_is_not_finite_is_named_and_the_rest_measured():
    bad = np.ones((3, 3), np.float32)
    bad[1] = np.nan
    tree = {"a": {"kernel": bad, "bias": np.asarray([np.inf])}, "b": {"kernel": np.eye(3)}}
    found = analyze(tree)
    assert found.not_finite == (("a/bias", 1, 1), ("a/kernel", 3, 9))
    assert [row.path for row in found.rows] == ["b/kernel"]
    assert analyze({"w": np.eye(3)}, reference={"w": bad}).rows == ()
    assert analyze({"w": bad}).rows == ()


def test_tail_exponents():
    i = np.arange(1, 201.0)
    assert tail_exponent(3 * i**-1.3, 200) == pytest.approx((1.3, 1))
    assert math.isnan(tail_exponent(i[::-1], 15)[0])
    _, fit = tail_exponent(np.exp(-i / 5), 200)
    assert fit < 0.97
    # The head and the smaller half do not take part.
    bent = i**-0.5
    bent[:19] *= 10
    bent[100:] *= 1e-3
    assert tail_exponent(bent, 200)[0] == pytest.approx(0.5)


def test_energy():
    assert energy_rank(np.asarray([1.0] * 10), 0.9) == 9
    assert energy_rank(np.asarray([1.0, 0, 0]), 0.99) == 1
    assert energy_rank(np.zeros(3), 0.9) == energy_rank(np.zeros(0), 0.9) == 0


def test_a_decomposition_that_fails_is_left_out():
    def fails():
        raise np.linalg.LinAlgError("did not converge")

    one = Spectrum(np.ones(2))
    seen = []
    assert spectra_of([fails, lambda: one], seen.append) == ["LAPACK: did not converge", one]
    assert sorted(seen) == [0, 1]


def whys(structure):
    return {leaf.path: leaf.text for leaf in structure.left_out}


def test_names_of_torch_and_of_flax():
    shapes = {
        "embeddings.word_embeddings.weight": (30, 4),
        "embeddings.LayerNorm.weight": (4,),
        "encoder.10.self.query.weight": (4, 4),
        "encoder.2.self.query.weight": (4, 4),
        "conv.weight": (8, 3, 5, 5),
        "attn.in_proj_weight": (12, 4),
        "rnn.weight_ih_l0": (16, 4),
        "rnn.bias_ih_l0": (16,),
        "Conv_0/kernel": (5, 5, 3, 8),
        "patches/embedding/kernel": (4, 4, 3, 8),
        "Embed_0/embedding": (30, 4),
        "params/Dense_0/kernel/value": (6, 5),
        "opt_state/0/mu/kernel": (6, 5),
        "mystery": (3, 3),
    }
    leaves = {path: np.ones(shape, np.float32) for path, shape in shapes.items()}
    leaves["ids.weight"] = np.ones((2, 2), np.int64)  # pyright: ignore[reportArgumentType]
    found = matrices_by_name(leaves)
    assert {layer.path: layer.matrix_shape for layer in found.layers} == {
        "encoder.2.self.query.weight": (4, 4),
        "encoder.10.self.query.weight": (4, 4),
        "conv.weight": (8, 75),
        "attn.in_proj_weight": (12, 4),
        "rnn.weight_ih_l0": (16, 4),
        "Conv_0/kernel": (8, 75),
        "patches/embedding/kernel": (8, 48),
        "params/Dense_0/kernel/value": (5, 6),
    }
    order = [layer.path for layer in found.layers]
    assert order.index("encoder.2.self.query.weight") < order.index("encoder.10.self.query.weight")
    left = whys(found)
    assert "lookup table" in left["embeddings.word_embeddings.weight"]
    assert "lookup table" in left["Embed_0/embedding"]
    assert "state" in left["opt_state/0/mu/kernel"]
    assert "in analyze also a layout (flax, torch, equinox)" in left["mystery"]
    assert left["ids.weight"] == "holds int64, not floating point weights"
    tables = matrices_by_name(leaves, embeddings=True)
    shapes = {layer.path: layer.matrix_shape for layer in tables.layers}
    assert shapes["embeddings.word_embeddings.weight"] == shapes["Embed_0/embedding"] == (4, 30)


def test_a_layout_overrules_names():
    leaves = {"w1": np.ones((3, 4)), "c": np.ones((5, 6, 7, 8)), "bias": np.ones((2, 3))}
    flax = matrices_by_name(leaves, layout="flax")
    assert {x.path: x.matrix_shape for x in flax.layers} == {"w1": (4, 3), "c": (8, 210)}
    torch = matrices_by_name(leaves, layout="torch")
    assert {x.path: x.matrix_shape for x in torch.layers} == {"w1": (3, 4), "c": (5, 336)}
    kernel = matrices_by_name({"kernel": np.ones((3, 4))}, layout="equinox")
    assert kernel.layers[0].matrix_shape == (3, 4)
    # Of experts it says what is put in, not that they are one matrix.
    experts = {"experts.gate_up_proj": np.ones((8, 64, 128))}
    assert matrices_by_name(experts).layers == ()
    for name, expected in (("torch", (64, 128)), ("flax", (128, 64))):
        (layer,) = matrices_by_name(experts, layout=name).layers  # pyright: ignore[reportArgumentType]
        assert (layer.parallel, layer.matrix_shape) == (8, expected)
    with pytest.raises(ValueError, match=r"must be one of 'flax', 'torch', 'equinox'"):
        matrices_by_name(leaves, layout="keras")  # pyright: ignore[reportArgumentType]


def described(graph, params):
    return describe(params, apply=lambda p, x: nnx.merge(graph, p)(x),
                    example=jnp.ones((1, 8, 8, 4), jnp.float32))  # fmt: skip


def test_matrices_are_those_of_the_structure():
    """Views in NumPy here, in JAX there: the same matrices, entry by entry."""
    conv = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    graph, params = nnx.split(conv)
    structure = described(graph, params)
    expected = np.linalg.svd(np.asarray(structure.matrices(params)[0])[0, 0], compute_uv=False)
    for found in (analyze(params), analyze(params, structure=structure)):
        np.testing.assert_allclose(found.rows[0].singular_values, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="structure: says itself"):
        analyze(params, structure=structure, layout="flax")
    with pytest.raises(ValueError, match=r"p: got .*, must be > 0"):
        analyze(params, p=[0])


def test_grouped_and_stacked_matrices_are_rows_of_their_own():
    conv = nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
    graph, params = nnx.split(conv)
    structure = described(graph, params)
    rows = analyze(params, structure=structure).rows
    assert [row.path for row in rows] == ["kernel[0]", "kernel[1]"]
    halves = np.asarray(structure.matrices(params)[0], np.float64)[0]
    for row, half in zip(rows, halves, strict=True):
        np.testing.assert_allclose(
            row.singular_values, np.linalg.svd(half, compute_uv=False), rtol=1e-6
        )
    stacked = describe({"kernel": jnp.ones((3, 4, 5))}, axes={"kernel": view_of_a_stack()})
    found = analyze({"kernel": np.ones((3, 4, 5))}, structure=stacked)
    assert [row.path for row in found.rows] == ["kernel[0]", "kernel[1]", "kernel[2]"]
    assert found.rows[0].shape == (5, 4)


def view_of_a_stack():
    from rankjax.network import View

    return View(out=(2,), in_=(1,), stacked=(0,))


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    tree = {f"l{i}": {"kernel": rng.standard_normal((6 + i, 5)), "bias": np.ones(5)}
            for i in range(3)}  # fmt: skip
    tree["=1+1"] = {"kernel": np.eye(2)}
    tree["[red]x\x1b[31m"] = {"kernel": np.eye(2)}
    return analyze(tree, p=[0.5, 1])


def test_what_is_written_is_what_was_measured(found):
    document = json.loads(found.to_json())
    assert document["summary"]["matrices"] == 5
    assert document["summary"]["parameters"] == sum(6 * 5 + i * 5 + 5 for i in range(3)) + 8
    assert document["left_out"][0]["why"] == "a bias, not a weight matrix"
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    for row, record, line in zip(found.rows, document["matrices"], table, strict=True):
        assert record["spectral_norm"] == row.spectral_norm
        assert float(line["soft_rank_p0.5"]) == row.soft_rank[0]
        assert line["tail_exponent"] == ""
        assert record["tail_exponent"] is None
        np.testing.assert_allclose(record["singular_values"], row.singular_values, rtol=1e-6)
    assert "'=1+1/kernel" in {line["path"] for line in table}
    pandas = pytest.importorskip("pandas")
    assert len(pandas.DataFrame(found.records())) == 5


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_shows_every_number_and_no_control_character(found, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(rich_report(found))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "\x1b" not in text
    for word in ("spectral", "Schatten 1", "effective", "saved 99%", "a bias, not a weight"):
        assert word in " ".join(text.split())
    for row in found.rows:
        assert f"{row.effective_rank:.3g}" in text
    assert "…" not in text
    if width == 200:
        assert "[red]x\\x1b[31m/kernel" in text


def test_progress(found):
    calls = []
    analyze({"a": {"kernel": np.eye(2, 5)}, "b": {"kernel": np.eye(3)}},
            progress=lambda *x: calls.append(x))  # fmt: skip
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]
    assert {call[2] for call in calls} == {"a/kernel", "b/kernel"}
    # The larger one is begun first; 3 x 3 takes 27 + 54 multiplications, 2 x 5 20 + 16.
    assert [call[3] for call in calls] in ([81 / 117, 1.0], [36 / 117, 1.0])


def test_nothing_to_measure():
    empty = analyze({"bias": np.ones(3)})
    assert empty.rows == ()
    assert json.loads(empty.to_json())["matrices"] == []
    assert empty.to_csv() == "path\n"
    console = Console(width=80, file=io.StringIO())
    console.print(rich_report(empty))
    assert "No weight matrix was found" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "Nothing" not in html_report(empty)


def test_a_described_matrix_is_computed_from_its_leaves():
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 8), "a": (6, 2), "b": (2, 8)}
    params = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}

    def apply(p, x):
        return x @ (p["w"] + p["a"] @ p["b"])

    structure = describe(params, apply=apply, example=np.ones((3, 6), np.float32))
    (row,) = analyze(params, structure=structure).rows
    whole = params["w"] + params["a"] @ params["b"]
    np.testing.assert_allclose(row.singular_values, np.linalg.svd(whole)[1], rtol=1e-5)
    start = params | {"a": np.zeros_like(params["a"])}
    (row,) = analyze(params, structure=structure, reference=start).rows
    assert row.relative_change == pytest.approx(
        np.linalg.norm(params["a"] @ params["b"]) / np.linalg.norm(params["w"]), rel=1e-5
    )
    params["a"][0, 0] = np.nan
    found = analyze(params, structure=structure)
    assert found.rows == ()
    assert ("a", Reason.NOT_FINITE) in [(leaf.path, leaf.why) for leaf in found.left_out]
