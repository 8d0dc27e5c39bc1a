"""Time and memory against the number of pairs, each count in a process of its own.

A network's time is proportional to its evaluations by nature. What could grow otherwise is the
work around it, so that most counts are measured with a stub in its place.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import models
import pandas as pd

import conjure_lib as cj
from conjure_tools import runs

Row = dict[str, Any]
MEMORY = 64 << 20  # bytes of trajectories and conditions: the budget that is to be kept
SETTINGS: dict[str, Any] = {"steps": 1, "spacing": "trailing", "batch_size": 256}
COUNTS = {
    "stub": (100, 1_000, 10_000, 100_000),
    "stub, run folder": (100, 1_000, 10_000, 100_000),
    "embedded": (100, 1_000, 5_000),
}
SMALL = {"stub": 1_000, "stub, run folder": 100, "embedded": 100}  # the largest counts


def scaling(small: bool) -> list[Row]:
    """One row for each engine and count."""
    rows = []
    for kind, counts in COUNTS.items():
        for count in counts:
            if small and count > SMALL[kind]:
                continue
            command = [sys.executable, "-W", "ignore", __file__, kind, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def measure(kind: str, count: int) -> Row:
    """Score ``count`` pairs of texts that no other pair has, and look at the clock and the peak."""
    process = cj.load(device="cpu") if kind == "embedded" else models.stub()
    pairs = [(f"left {i}", f"right {i}") for i in range(count)]
    _score(process, kind, [(f"warm {i}", f"too {i}") for i in range(SETTINGS["batch_size"])])
    before, base = process.evaluations, _peak_mib()
    _, spent = models.timed(lambda: _score(process, kind, pairs))
    return {
        "part": "scaling",
        "case": kind,
        "model": process.name,
        "pairs": count,
        "memory_mib": MEMORY / 2**20,
        "base_mib": base,
        "peak_mib": _peak_mib(),
        **SETTINGS,
        **spent,
        "evaluations": process.evaluations - before,
        "pairs_per_cpu_second": count / spent["cpu_seconds"],
    }


def _score(process: cj.GenerativeProcess, kind: str, pairs: list[tuple[str, str]]) -> None:
    if kind != "stub, run folder":
        cj.pair_terms(process, pairs, draws=1, memory=MEMORY, progress=False, **SETTINGS)
        return
    table = pd.DataFrame(pairs, columns=["text1", "text2"])
    table["id"] = table.index.astype(str)
    with tempfile.TemporaryDirectory() as folder:
        runs.score(
            process, table, Path(folder), draws=1, block=1000, report=lambda _: None, **SETTINGS
        )


def _peak_mib() -> float:
    """The largest resident memory so far, which only Linux tells.

    Not ru_maxrss: that begins with the memory of the process that has started this one.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(s.split()[1]) / 1024 for s in lines if s.startswith("VmHWM")), math.nan)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
