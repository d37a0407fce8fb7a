import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.bar_chart import bar_chart
from rankjax.bounds import Inapplicable, Table, all_bounds, compare, one_inf, rank_sparse
from rankjax.network import Perturbed, Sample, describe, measure
from rankjax.report import markdown_table
from tests.bounds import networks

PARAMS = networks.chain([3, 5, 4, 2])
STRUCTURE = networks.structure_of(PARAMS)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.asarray(jnp.argmax(networks.apply(PARAMS, X), -1))


@pytest.fixture(scope="module")
def table():
    return compare(STRUCTURE, PARAMS, X, Y, apply=networks.apply)


def test_every_bound_is_there_from_data(table):
    assert len(table.results) == 25
    assert table.left_out == ()
    assert table.n == 60
    sample = Sample.from_data(STRUCTURE, PARAMS, X, Y, apply=networks.apply)
    assert table.gamma == pytest.approx(float(sample.margin_at(0.01)))
    alone = rank_sparse(measure(STRUCTURE, PARAMS), sample)
    assert float(table["rank_sparse"].value) == pytest.approx(float(alone.value))
    assert table["spectral", "explicit"].kind == "explicit"
    with pytest.raises(KeyError, match="no bound 'vcc'"):
        table["vcc"]


def test_one_measurement_serves_all(monkeypatch):
    from rankjax.bounds import _compare as module

    calls = []
    monkeypatch.setattr(module, "measure", lambda *a, **k: calls.append(1) or measure(*a, **k))
    compare(STRUCTURE, PARAMS, sample=Sample.of_size(100), gamma=0.1)
    assert calls == [1]


def test_what_is_missing_is_left_out_with_a_reason():
    table = compare(STRUCTURE, PARAMS, sample=Sample.of_size(100), gamma=0.1)
    reasons = dict(table.left_out)
    assert set(reasons) >= {"rank_sparse_augmented", "one_inf", "compression", "conv_norm"}
    assert "cushions" in reasons["compression"]
    assert "Left out: compression" in markdown_table(table)
    assert "Left out: compression" in str(table)


def test_a_wrong_dtype_or_option_is_not_left_out_silently():
    sample = Sample.of_size(100)
    with pytest.raises(ValueError, match="gamma: got -1"):
        compare(STRUCTURE, PARAMS, sample=sample, gamma=-1.0)
    with pytest.raises(ValueError, match="delta"):
        compare(STRUCTURE, PARAMS, sample=sample, gamma=1.0, delta=2.0)
    with pytest.raises(ValueError, match=r"either data .* or a sample"):
        compare(STRUCTURE, PARAMS)
    with pytest.raises(ValueError, match=r"either data .* or a sample"):
        compare(STRUCTURE, PARAMS, sample=sample, x=X)
    with pytest.raises(ValueError, match="y and apply"):
        compare(STRUCTURE, PARAMS, x=X)
    with pytest.raises(ValueError, match="reference"):
        compare(
            STRUCTURE,
            PARAMS,
            sample=sample,
            gamma=1.0,
            reference={"a": {"kernel": jnp.ones((3, 5))}},
        )


def test_only_what_is_missing_is_left_out():
    measured = measure(STRUCTURE, PARAMS)
    with pytest.raises(ValueError, match="delta: got 2"):
        all_bounds(measured, Sample.of_size(100), gamma=0.1, delta=2.0)
    with pytest.raises(Inapplicable, match="sample: dimension is unknown"):
        one_inf(measured, Sample.of_size(100, inf_radius=1.0), gamma=0.1)


def test_sorting(table):
    logs = [row["log10"] for row in table.sorted().rows()]
    assert logs == sorted(logs)
    assert [row["log10"] for row in table.sorted(descending=True).rows()] == sorted(logs)[::-1]
    names = [row["bound"] for row in table.sorted("bound").rows()]
    assert names == sorted(names)
    kinds = [row["kind"] for row in table.only("dominant").rows()]
    assert set(kinds) == {"dominant"}
    with pytest.raises(ValueError, match="by: got 'size'"):
        table.sorted("size")
    with pytest.raises(ValueError, match="kind: got 'loose'"):
        table.only("loose")


def test_a_value_just_below_1_has_no_minus_before_its_zero(table):
    one = replace(table.results[0], value=jnp.array(0.9999), terms={})
    near = Table((one,), 0.5, 100)
    assert near.rows()[0]["log10"] < 0
    for text in (str(near), markdown_table(near)):
        assert " 0.00 " in text
        assert "-0.00" not in text


def test_markdown_has_explicit_and_dominant_rows_apart(table):
    text = markdown_table(table, breakdown=True)
    explicit, dominant = text.split("**Dominant terms, for comparison only**")
    assert explicit.startswith("**Explicit bounds**\n\n| bound | kind | quantity | value | log10 |")
    kinds = [r.kind for r in table.results]
    dominant = dominant.split("\nn = ")[0]
    assert explicit.count("| explicit |") == kinds.count("explicit") > 0
    assert dominant.count("| dominant |") == kinds.count("dominant") > 0
    assert ("| dominant |" in explicit, "| explicit |" in dominant) == (False, False)
    assert "not a guarantee" in text
    assert "a/kernel" in text
    assert "not a guarantee" in str(table)


def test_one_remark_names_all_that_a_reason_leaves_out():
    table = compare(STRUCTURE, PARAMS, sample=Sample.of_size(100), gamma=0.1)
    whys = [why for _, why in table.left_out]
    assert len(whys) > len(set(whys))
    remarks = [text for text in table.remarks() if text.startswith("Left out")]
    assert len(remarks) == len(set(whys))


def test_a_dead_layer_is_named_where_it_makes_a_value_nan():
    assert "Not defined" not in str(compare(STRUCTURE, PARAMS, X, Y, apply=networks.apply))
    dead = {**PARAMS, "b": {**PARAMS["b"], "kernel": 0 * PARAMS["b"]["kernel"]}}
    table = compare(STRUCTURE, dead, X, Y, apply=networks.apply, gamma=1.0)
    nan = [f"{r.name}, {r.kind}" for r in table.results if np.isnan(r.value)]
    assert nan
    assert dict(table.facts)["Not defined (nan)"] == (
        f"the weights of b/kernel are 0 everywhere ({'; '.join(nan)})"
    )
    with pytest.raises(ValueError, match="must be > 0; the weights of b/kernel are 0 everywhere"):
        compare(STRUCTURE, dead, X, Y, apply=networks.apply)


def test_a_network_without_path_norms_says_so():
    def apply(params, x):
        return jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"]

    structure = describe(PARAMS, apply=apply, example=X[:1])
    table = compare(structure, PARAMS, X, Y, apply=apply, gamma=1.0)
    assert dict(table.facts)["Not defined (nan)"].startswith(
        "the trace does not show a positively homogeneous network (path_norm_1, dominant; "
    )


def test_json_round_trip(table):
    document = json.loads(table.to_json())
    assert document["n"] == 60
    rows = {(b["bound"], b["kind"]): b for b in document["bounds"]}
    assert rows["spectral", "dominant"]["value"] == float(table["spectral"].value)
    assert len(rows["spectral", "dominant"]["per_layer"]) == 3
    huge = compare(
        STRUCTURE, jax.tree.map(lambda a: 1e200 * a, PARAMS), sample=Sample.of_size(9), gamma=1
    )
    assert "inf" in json.dumps(json.loads(huge.to_json()))  # strict JSON all the same
    assert math.isfinite(float(huge["frobenius"].terms["log"]))


def test_pandas(table):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table.rows())
    assert list(frame.columns) == ["bound", "kind", "quantity", "value", "log10", "source"]
    assert len(pandas.DataFrame(table.breakdown())) == 3 * 25


def test_chart(table, tmp_path):
    bar_chart({"width 5": table, "width 6": table}, tmp_path / "bars.png", title="bounds")
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"


def test_noise_and_further_results_join_the_table():
    noise = Perturbed.from_data(PARAMS, X, Y, apply=networks.apply, scales=[0.01, 0.1], draws=3)
    extra = rank_sparse(measure(STRUCTURE, PARAMS), Sample.of_size(60), p=1.0, gamma=1.0)
    table = compare(
        STRUCTURE, PARAMS, sample=Sample.of_size(60), gamma=0.1, perturbed=noise, more=[extra]
    )
    assert isinstance(table, Table)
    assert 0 < float(table["pac_bayes_gaussian"].value) <= 1
    assert table.results[-1] is extra
