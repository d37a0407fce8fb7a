"""``analyze`` of a LoRA adapter of 224 pairs, rank 16, with the shapes of a 7B model.

python benchmarks/adapter.py [--repeats 5] [--peer-python PATH]

The adapter (bfloat16, 32 layers, 7 matrices each) is drawn at random into a temporary folder.
Every figure comes from a process of its own: ``import``, ``analyze`` after it (``CPU``: the
processor time of all threads, which a busy machine changes less), and the whole process. With
``--peer-python``, a Python that has torch and safetensors, torch does the same: ``read`` the file,
``qr`` of the factors in float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from results import headline, write_results

RANK, LAYERS, WIDTH, HIDDEN = 16, 32, 4096, 11008
SHAPES = {
    **{f"self_attn.{x}_proj": (WIDTH, WIDTH) for x in "qkvo"},
    "mlp.gate_proj": (HIDDEN, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}

OURS = """
import json, sys, time
start = time.perf_counter()
from rankjax.report import analyze
imported, spent = time.perf_counter(), time.process_time()
found = analyze(sys.argv[1])
done, cpu = time.perf_counter(), time.process_time() - spent
norms = [float(row.spectral_norm) for row in found.rows]
print(json.dumps({"import": imported - start, "analyze": done - imported, "analyze, CPU": cpu,
                  "norms": norms}))
"""

THEIRS = """
import json, sys, time
start = time.perf_counter()
import torch, safetensors.torch
imported = time.perf_counter()
leaves = safetensors.torch.load_file(sys.argv[1] + "/adapter_model.safetensors")
read = time.perf_counter()
lefts = [key for key in sorted(leaves) if "lora_B" in key]
pairs = [(leaves[key], leaves[key.replace("lora_B", "lora_A")]) for key in lefts]
norms = []
for b, a in pairs:
    r1, r2 = (torch.linalg.qr(x.double(), mode="r").R for x in (b, a.T))
    norms.append(2 * float(torch.linalg.svdvals(r1 @ r2.T)[0]))
factors = time.perf_counter()
print(json.dumps({"import": imported - start, "read": read - imported, "qr": factors - read,
                  "norms": norms}))
"""


def write(folder: Path) -> None:
    """An adapter as PEFT writes it."""
    rng = np.random.default_rng(0)
    leaves = {}
    for layer in range(LAYERS):
        for name, (out, in_) in SHAPES.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            for side, shape in (("A", (RANK, in_)), ("B", (out, RANK))):
                drawn = rng.standard_normal(shape) / 100
                leaves[f"{place}.lora_{side}.weight"] = drawn.astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(leaves, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 2 * RANK}))


def run(command: list[str]) -> dict[str, Any]:
    """What a process prints, with the time that it took as a whole."""
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout) | {"whole process": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", type=Path)
    options = parser.parse_args()
    print(headline())
    commands = {"rankjax": [sys.executable, "-c", OURS]}
    if options.peer_python:
        commands["torch"] = [str(options.peer_python), "-c", THEIRS]
    rows, norms = [], {}
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        for who, command in commands.items():
            found = [run([*command, name]) for _ in range(options.repeats)]
            norms[who] = sorted(found[0]["norms"])
            times = {key: statistics.median(one[key] for one in found) for key in found[0]
                     if key != "norms"}  # fmt: skip
            spread = {f"{key}, slowest": max(one[key] for one in found) for key in times}
            rows.append({"library": who, "pairs": len(norms[who]), **times, **spread})
            print({key: round(x, 3) if isinstance(x, float) else x for key, x in rows[-1].items()})
    for other in norms.values():
        np.testing.assert_allclose(norms["rankjax"], other, rtol=1e-6)
    write_results(rows)


if __name__ == "__main__":
    main()
