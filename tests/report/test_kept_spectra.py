"""``analyze(keep=)``: what is known is read again, for the very matrix that it was made of."""

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from rankjax.report import _kept_spectra, analyze
from rankjax.report.cli import app


def weights(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "first": {"kernel": rng.standard_normal((12, 8)).astype(dtype)},
        "last": {"kernel": rng.standard_normal((8, 5)).astype(dtype)},
    }


def spectra(found):
    return {row.path: (row.singular_values.tolist(), row.relative_change) for row in found.rows}


@pytest.fixture
def decomposed(monkeypatch):
    """The shapes that were decomposed, as they are."""
    shapes, spectrum_of = [], _kept_spectra.spectrum_of

    def counted(a, *rest):
        shapes.append(a.shape)
        return spectrum_of(a, *rest)

    monkeypatch.setattr(_kept_spectra, "spectrum_of", counted)
    return shapes


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_second_run_decomposes_nothing_and_says_the_same(tmp_path, decomposed, dtype):
    params, folder = weights(dtype=dtype), tmp_path / "new" / "kept"
    first = analyze(params, keep=folder)
    assert sorted(decomposed) == [(5, 8), (8, 12)]
    again = analyze(params, keep=folder)
    assert len(decomposed) == 2
    assert spectra(again) == spectra(first) == spectra(analyze(params))


def test_an_interrupted_run_goes_on(tmp_path, decomposed):
    def interrupt(*told):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(weights(), keep=tmp_path, progress=interrupt)
    done = len(list(tmp_path.glob("*.npz")))
    assert done >= 1
    decomposed.clear()
    analyze(weights(), keep=tmp_path)
    assert len(decomposed) == 2 - done


def test_a_matrix_with_one_other_entry_or_reference_is_another_one(tmp_path, decomposed):
    params = weights()
    analyze(params, keep=tmp_path)
    params["last"]["kernel"][0, 0] += 1
    changed = analyze(params, keep=tmp_path)
    assert decomposed[2:] == [(5, 8)]
    assert spectra(changed) == spectra(analyze(params))
    against = analyze(params, reference=weights(1), keep=tmp_path)
    assert len(decomposed) == 5
    again = analyze(params, reference=weights(1), keep=tmp_path)
    assert len(decomposed) == 5
    assert spectra(again) == spectra(against) == spectra(analyze(params, reference=weights(1)))
    other = analyze(params, reference=weights(2), keep=tmp_path)
    assert len(decomposed) == 7
    assert spectra(other) == spectra(analyze(params, reference=weights(2)))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not an archive", None])
def test_a_damaged_file_is_made_again(tmp_path, decomposed, damage):
    analyze(weights(), keep=tmp_path)
    for path in tmp_path.iterdir():
        if damage is None:
            np.savez(path, sigma=np.ones(3), noise=0.0, norm=np.nan)  # of another size
        else:
            path.write_bytes(damage)
    again = analyze(weights(), keep=tmp_path)
    assert len(decomposed) == 4
    assert spectra(again) == spectra(analyze(weights()))
    analyze(weights(), keep=tmp_path)
    assert len(decomposed) == 4


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ValueError, match=r"keep: got .*file, which is a file; must be a folder"):
        analyze(weights(), keep=path)


def test_on_the_command_line(tmp_path, decomposed):
    np.savez(tmp_path / "weights.npz", kernel=weights()["first"]["kernel"])
    call = ["analyze", str(tmp_path / "weights.npz"), "--keep", str(tmp_path / "kept")]
    outputs = [CliRunner().invoke(app, call) for _ in range(2)]
    assert [o.exit_code for o in outputs] == [0, 0]
    assert outputs[0].output == outputs[1].output
    assert len(decomposed) == 1
