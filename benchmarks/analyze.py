"""``rankjax analyze`` on all-MiniLM-L6-v2 against ``analyze()`` of WeightWatcher 0.7.7.

python benchmarks/analyze.py [--repeats 3] [--peer-python PATH]

The peer runs in an environment of its own, which is made in a temporary folder (torch is large),
or in the one of ``--peer-python``. Both get the same matrices, without and with the tables of
embeddings; the peer as bias-free ``torch.nn.Linear``. Timed are: the whole process of the command
line, imports included; ``analyze()`` of each library, with the reading of the file here and without
it there. Every process starts with as many BLAS threads as it likes, so measure on an idle machine.
Largest singular values and stable ranks of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import headline, write_results

from examples.models import minilm

PEER = "weightwatcher==0.7.7"
# What weightwatcher needs without saying so, and what torch needs on a CPU.
PACKAGES = (PEER, "torch", "setuptools")

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")
}

OURS = """
import json, sys, time
start = time.perf_counter()
from rankjax.report import analyze
imported = time.perf_counter()
found = analyze(sys.argv[1], embeddings=sys.argv[2] == "1")
done = time.perf_counter()
rows = {row.path: [row.spectral_norm, row.stable_rank] for row in found.rows}
print(json.dumps({"import": imported - start, "analyze": done - imported, "rows": rows}))
"""

THEIRS = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
start = time.perf_counter()
import torch, safetensors.torch, weightwatcher
imported = time.perf_counter()
logging.getLogger("weightwatcher").setLevel(logging.ERROR)
weights = safetensors.torch.load_file(sys.argv[1])
network = torch.nn.Module()
names = json.loads(sys.argv[2])
for i, name in enumerate(names):
    out, in_ = weights[name].shape
    layer = torch.nn.Linear(in_, out, bias=False)
    layer.weight.data = weights[name]
    network.add_module(f"m{i}", layer)
watcher = weightwatcher.WeightWatcher(model=network)
begin = time.perf_counter()
table = watcher.analyze()
done = time.perf_counter()
rows = {names[int(row.longname[1:])]: [float(row.sv_max), float(row.stable_rank)]
        for row in table.itertuples()}
print(json.dumps({"import": imported - start, "analyze": done - begin, "rows": rows,
                  "versions": [weightwatcher.__version__, torch.__version__]}))
"""


def peer_python(folder: Path) -> str:
    """An environment with the peer; pip's own settings decide where packages come from."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def timed(command: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command[:3]} failed:\n{done.stderr}")
    return seconds, done.stdout


def medians(python: str, program: str, arguments: list[str], repeats: int) -> dict[str, Any]:
    results = []
    for _ in range(repeats):
        seconds, text = timed([python, "-c", program, *arguments])
        results.append(json.loads(text.strip().splitlines()[-1]) | {"process": seconds})
    found = {key: results[0][key] for key in ("rows", "versions") if key in results[0]}
    for key in ("import", "analyze", "process"):
        values = [result[key] for result in results]
        found[key] = statistics.median(values)
        found[f"{key} spread"] = max(values) - min(values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", help="a Python that has the peer; default: make one")
    options = parser.parse_args()
    path = str(minilm())
    with tempfile.TemporaryDirectory() as scratch:
        python = options.peer_python or peer_python(Path(scratch) / "peer")
        print(f"{headline()}, medians of {options.repeats} processes (spread)\n")
        print(
            "| matrices | command, whole process (s) | analyze() here (s) | analyze() of the "
            "peer (s) | its whole process (s) | ratio of analyze() | of the command |"
        )
        print("|--:|--:|--:|--:|--:|--:|--:|")
        rows = []
        for flag in ("0", "1"):
            ours = medians(sys.executable, OURS, [path, flag], options.repeats)
            command = [sys.executable, "-c", "from rankjax.report.cli import app; app()", "analyze",
                       path, *(["--embeddings"] if flag == "1" else [])]  # fmt: skip
            runs = [timed(command)[0] for _ in range(options.repeats)]
            whole = statistics.median(runs)
            theirs = medians(python, THEIRS, [path, json.dumps(list(ours["rows"]))],
                             options.repeats)  # fmt: skip
            print(
                f"| {len(ours['rows'])} | {whole:.2f} ({max(runs) - min(runs):.2f}) "
                f"| {ours['analyze']:.2f} ({ours['analyze spread']:.2f}) "
                f"| {theirs['analyze']:.2f} ({theirs['analyze spread']:.2f}) "
                f"| {theirs['process']:.2f} | {theirs['analyze'] / ours['analyze']:.1f} "
                f"| {theirs['analyze'] / whole:.1f} |",
                flush=True,
            )
            check(ours["rows"], theirs["rows"])
            seconds = [
                {key: found[key] for key in ("analyze", "analyze spread", "process")}
                for found in (ours, theirs)
            ]
            rows.append({"matrices": len(ours["rows"]), "command": runs, "ours": seconds[0],
                         "peer": seconds[1] | {"versions": theirs["versions"]}})  # fmt: skip
    write_results(rows)
    print(f"\nPeer: weightwatcher {theirs['versions'][0]}, torch {theirs['versions'][1]}. The last "
          "column sets its analyze() alone against the whole process here.")  # fmt: skip


def check(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> None:
    """The same weights were analysed: largest singular values and stable ranks agree."""
    skipped = sorted(set(ours) - set(theirs))
    if skipped:
        print(f"(the peer left out {skipped})")
    for name, values in theirs.items():
        for mine, other in zip(ours[name], values, strict=True):
            if not abs(mine - other) <= 1e-3 * abs(other):
                raise SystemExit(f"{name}: {mine} here, {other} there")


if __name__ == "__main__":
    main()
