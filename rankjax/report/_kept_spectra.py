"""Spectra on disk, so that a run that was interrupted goes on where it stopped.

One small file per matrix, under the digest of the matrix itself (and of its reference): whatever
has changed, names, layouts or files, a spectrum is read only for the matrix that it was made of.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from rankjax.report._spectra import Spectrum, spectrum_of


class KeptSpectra:
    """Reads ``folder``, and writes what is not there yet."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"keep: got {folder}, which is a file; must be a folder")
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(
        self,
        a: np.ndarray,
        reference: np.ndarray | None = None,
        stored: tuple[np.dtype, np.dtype] | None = None,
    ) -> Spectrum:
        """``spectrum_of`` the same arguments."""
        path = self.folder / f"{_digest(a, reference, stored)}.npz"
        found = _read(path, min(a.shape))
        if found is None:
            found = spectrum_of(a, reference, stored)
            _write(path, found)
        return found


def _digest(
    a: np.ndarray, reference: np.ndarray | None, stored: tuple[np.dtype, np.dtype] | None
) -> str:
    digest = hashlib.blake2b(repr(stored).encode(), digest_size=16)
    for array in (a, reference):
        if array is not None:
            digest.update(f"{array.shape} {array.dtype.name}".encode())
            for row in array:
                digest.update(row.tobytes())
    return digest.hexdigest()


def _read(path: Path, size: int) -> Spectrum | None:
    """``None`` if it is not there, or damaged: it is made again."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            sigma, noise, norm = file["sigma"], float(file["noise"]), float(file["norm"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if sigma.shape != (size,) or sigma.dtype != np.float64:
        return None
    return Spectrum(sigma, noise, None if np.isnan(norm) else norm)


def _write(path: Path, found: Spectrum) -> None:
    # Under a name of its own until it is complete: an interruption leaves no half of a file.
    part = path.with_suffix(f".{os.getpid()}.part")
    norm = np.nan if found.reference_norm is None else found.reference_norm
    with part.open("wb") as file:
        np.savez(file, sigma=found.sigma, noise=found.noise, norm=norm)
    part.replace(path)
