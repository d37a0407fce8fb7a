"""Which matrices ``analyze`` measures, and in which order."""

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from rankjax.network import Reason
from rankjax.report import _analyze as module
from rankjax.report import analyze
from rankjax.report.cli import app

TREE = {
    "layers": {
        "0": {"attn": {"kernel": jnp.diag(jnp.array([3.0, 3.0]))}},
        "1": {"attn": {"kernel": jnp.ones((2, 3))}, "mlp": {"kernel": jnp.ones((4, 5))}},
    },
    "head": {"kernel": jnp.diag(jnp.array([9.0, 1.0, 1.0])), "bias": jnp.ones(3)},
}
A0, A1, M1 = "layers/0/attn/kernel", "layers/1/attn/kernel", "layers/1/mlp/kernel"


def paths(**options):
    return [row.path for row in analyze(TREE, **options).rows]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": "*attn*"}, [A0, A1]),
        ({"only": ["*attn*", "head/kernel"]}, ["head/kernel", A0, A1]),
        ({"only": "*attn*", "skip": ["layers/1/*"]}, [A0]),
        ({"skip": "layers/?/[am]*"}, ["head/kernel"]),
        ({"max_size": 6}, [A0, A1]),
    ],
)
def test_patterns_and_sizes_choose(options, expected):
    assert paths(**options) == expected


def test_what_is_left_out_is_not_decomposed_and_says_why(monkeypatch):
    decomposed = []
    real = module.spectrum_of
    monkeypatch.setattr(
        module, "spectrum_of", lambda a, *rest: decomposed.append(a.shape) or real(a, *rest)
    )
    found = analyze(TREE, only="layers*", skip="*/0/*", max_size=6)
    assert decomposed == [(3, 2)]
    whys = {leaf.path: (leaf.why, leaf.text) for leaf in found.left_out}
    assert whys["head/kernel"] == (Reason.NOT_CHOSEN, "not chosen by only")
    assert whys[A0] == (Reason.NOT_CHOSEN, "chosen by skip, '*/0/*'")
    assert whys[M1] == (Reason.TOO_LARGE, "more than 6 entries (max_size)")


def test_an_update_has_one_path_and_the_size_of_its_factors():
    tree = {f"{name}.lora_{side}.weight": np.ones(shape, np.float32) for name in ("q", "v")
            for side, shape in (("A", (2, 6)), ("B", (5, 2)))}  # fmt: skip
    update = analyze(tree).rows[0]
    assert [row.path for row in analyze(tree, only=update.path).rows] == [update.path]
    assert len(analyze(tree, max_size=22).rows) == 2
    assert analyze(tree, max_size=21).rows == ()


def test_a_path_with_brackets_matches_itself():
    assert len(analyze({"a[0].kernel": jnp.ones((2, 2))}, only="a[0].kernel").rows) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "attn"}, r"only: 'attn' matches no weight matrix; .* '\*attn\*' matches"),
        ({"only": ["*attn*", "*ATTN*"]}, r"only: '\*ATTN\*' matches no weight matrix; paths are"),
        ({"skip": "*bias"}, "skip: .* matches no weight matrix; head/bias is left out: a bias"),
        ({"max_size": 0}, "max_size: got 0, must be at least 1"),
    ],
)
def test_patterns_that_match_nothing_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        analyze(TREE, **options)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("path", ["head/kernel", A0, A1, M1]),
        ("size", [M1, "head/kernel", A1, A0]),
        ("spectral", ["head/kernel", M1, A0, A1]),
        ("stable", [A0, "head/kernel", A1, M1]),
        ("saved", [M1, "head/kernel", A1, A0]),
    ],
)
def test_rows_are_sorted_with_the_largest_first(by, expected):
    assert [row.path for row in analyze(TREE).sorted(by).rows] == expected


def test_undefined_values_come_last_and_an_unknown_column_is_an_error():
    found = analyze({"a/kernel": jnp.ones((2, 2)), "b/kernel": jnp.diag(0.9 ** jnp.arange(40.0))})
    assert np.isnan(found.rows[0].tail_exponent)
    assert [row.path for row in found.sorted("tail").rows] == ["b/kernel", "a/kernel"]
    with pytest.raises(ValueError, match="by: got 'width', must be one of 'path', 'size'"):
        found.sorted("width")  # pyright: ignore[reportArgumentType]


def test_the_command_line_has_the_same_options(tmp_path):
    np.savez(tmp_path / "w.npz", **{"a/kernel": np.eye(2), "b/kernel": np.eye(3),  # pyright: ignore[reportArgumentType]
                                    "c/kernel": np.eye(9), "d/kernel": np.eye(3)})  # fmt: skip
    result = CliRunner().invoke(app, [
        "analyze", str(tmp_path / "w.npz"), "--only", "[abc]*", "--only", "d*", "--skip", "d*",
        "--max-size", "20", "--sort", "size", "--csv", "-",
    ])  # fmt: skip
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == [
        "path", "b/kernel", "a/kernel",
    ]  # fmt: skip
    bad = CliRunner().invoke(app, ["analyze", str(tmp_path / "w.npz"), "--only", "x*"])
    assert bad.exit_code == 1
    assert bad.stderr.startswith("rankjax: only: 'x*' matches no weight matrix; paths are such as")
