"""Speed and scale, measured: a table on the screen and data/results/bench.json.

    python bench/bench.py                 # everything, some twenty minutes on two quiet cores
    python bench/bench.py --small naive   # parts, at sizes that show that all of it works

A part that is finished is kept in _build/bench and not measured again, unless with --again. The
record is written when all parts are there in full; till then the table is in _build/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import anchors
import pandas as pd
import scaling
import speed
import torch

import conjure_lib as cj
from conjure_tools import runs
from conjure_tools.loading import shipped

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "_build" / "bench"
RECORD = shipped("results") / "bench.json"
PARTS = {
    "naive": speed.against_naive,
    "cores": speed.all_cores,
    "device": speed.device,
    "profile": speed.profile,
    "live": speed.live_page,
    "scaling": scaling.scaling,
    "anchors": anchors.anchors,
    "full": speed.against_naive_in_full,
}
SHOWN = {  # columns of the printed tables
    "naive": "case guidance steps method pairs evaluations_per_pair pairs_per_second "
    "pairs_per_cpu_second largest_difference",
    "cores": "case guidance steps method pairs cores pairs_per_second largest_difference",
    "device": "model dtype batch compiled evaluations_per_second evaluations_per_cpu_second "
    "share_of_ceiling floor_sde error_sde",
    "profile": "model batch operations share",
    "live": "case steps draws cpu_seconds",
    "scaling": "case pairs cpu_seconds pairs_per_cpu_second base_mib peak_mib",
    "anchors": "case weighting steps draws anchors width spearman_exact spearman_people",
}


def main() -> None:
    """Measure what is missing, print it and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="minutes, in sizes that prove nothing")
    parser.add_argument("--again", action="store_true", help="measure what is there already too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        sys.exit(f"there is no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    WORK.mkdir(parents=True, exist_ok=True)
    for name in options.parts:
        file = WORK / f"{name}{'-small' if options.small else ''}.json"
        if options.again or not file.is_file():
            print(f"measuring {name} …", flush=True)
            file.write_text(json.dumps(measured(name, options.small), indent=1) + "\n")
    record = assemble()
    whole = all(about["small"] is False for about in record["provenance"].values())
    whole = whole and record["provenance"].keys() == PARTS.keys()
    file = RECORD if whole else WORK / "bench.json"
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {file.relative_to(ROOT)}")
    show(pd.DataFrame(record["rows"]))


def measured(name: str, small: bool) -> dict[str, Any]:
    """The rows of one part, and when and on what they were measured."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    rows = PARTS[name](small)
    seconds = round(time.perf_counter() - began)
    about = {"small": small, "seconds": seconds, "load": [load, os.getloadavg()[0]]}
    return {"rows": rows, "provenance": {**about, **runs.provenance(cj.load())}}


def assemble() -> dict[str, Any]:
    """All finished parts, in full where they are, else small."""
    rows, provenance = [], {}
    for name in PARTS:
        files = [WORK / f"{name}.json", WORK / f"{name}-small.json"]
        found = next((f for f in files if f.is_file()), None)
        if found:
            part = json.loads(found.read_text(encoding="utf-8"))
            rows += part["rows"]
            provenance[name] = part["provenance"]
    return {"provenance": provenance, "rows": rows}


def show(table: pd.DataFrame) -> None:
    """One printed table a part."""
    for part, columns in SHOWN.items():
        rows = table[table["part"] == part]
        if len(rows):
            there = [c for c in columns.split() if c in rows]
            print(f"\n{part}\n{rows[there].to_string(index=False, float_format='{:.4g}'.format)}")


if __name__ == "__main__":
    main()
