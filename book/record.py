"""Make the results of record: data/results/NAME.parquet with the provenance in NAME.json.

    python book/record.py words sts agreement

Everything is resumable: the distances are runs in _build/records, and each baseline is kept there
as soon as it is finished. Texts and human scores are not written, because of their licences; rows
carry the ids of conjure_lib.benchmarks. The seven sentence sets take hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import conjure_lib as cj
from conjure_lib import baselines, benchmarks, runs

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "_build" / "records"
RESULTS = ROOT / "data" / "results"
SETS = {"words": benchmarks.WORDS, "sts": benchmarks.STS}
DRAWS = {"rg65": 10, "simlex999": 5}  # of the small sets; three of the others
GAUSSIAN = {"rg65": 65, "simlex999": 100, "stsb": 100, "sickr": 100}  # pairs: many images a text
IMAGES = 8
Pairs = list[tuple[str, str]]


def main() -> None:
    """Make the named records, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*SETS, "agreement"])
    names = parser.parse_args().names
    if unknown := set(names) - {*SETS, "agreement"}:
        sys.exit(f"there is no record {', '.join(sorted(unknown))}: {', '.join(SETS)}, agreement")
    process = cj.load()
    for name in names:
        table = agreement() if name == "agreement" else scores(process, name)
        RESULTS.mkdir(parents=True, exist_ok=True)
        table.to_parquet(RESULTS / f"{name}.parquet", index=False)
        print(f"{len(table)} rows in {RESULTS / name}.parquet")


def scores(process: cj.GenerativeProcess, name: str) -> pd.DataFrame:
    """Distances and baselines of every pair of one group of sets; float32, as they are stored."""
    parts = []
    records = {}
    for benchmark in SETS[name]:
        draws = DRAWS.get(benchmark, 3)
        pairs = benchmarks.load_pairs(benchmark)
        run = runs.score(process, pairs, WORK / benchmark, draws=draws)
        records[benchmark] = run.record
        columns = {"benchmark": benchmark, "id": pairs["id"]}
        for weighting in cj.WEIGHTINGS:
            found = run.distances(weighting, draws=draws)
            columns |= {weighting: found["distance"], f"{weighting}_stderr": found["stderr"]}
        parts.append(pd.DataFrame(columns).merge(others(process, benchmark, pairs), on="id"))
    table = pd.concat(parts, ignore_index=True)
    floats = table.select_dtypes("float").columns
    write_provenance(name, records)
    return table.astype(dict.fromkeys(floats, "float32"))


def others(process: cj.GenerativeProcess, benchmark: str, pairs: pd.DataFrame) -> pd.DataFrame:
    """The baselines of one set, as similarities; NaN where one was not computed."""
    methods: dict[str, tuple[pd.DataFrame, Callable[[Pairs], np.ndarray]]] = {
        "initial_timestep": (pairs, lambda p: baselines.initial_timestep(process, p, draws=3)),
        "direct_output": (pairs, lambda p: baselines.direct_output(process, p, draws=1)),
        "text_encoder_last": (pairs, lambda p: baselines.text_encoder_cosine(process, p)),
        "text_encoder_mean": (
            pairs,
            lambda p: baselines.text_encoder_cosine(process, p, pooling="mean"),
        ),
    }
    if benchmark in GAUSSIAN:
        few = runs.stratified(pairs, GAUSSIAN[benchmark])
        for kind in ("frechet", "jeffreys"):
            methods[kind] = (few, partial(gaussian, process, kind))
    if folder := os.environ.get("CONJURE_MINILM"):
        methods["minilm"] = (pairs, lambda p: baselines.sentence_cosine(folder, p))
    else:
        print("CONJURE_MINILM names no folder of all-MiniLM-L6-v2: the column minilm stays empty")
    empty = ("minilm", "frechet", "jeffreys")
    result = pd.DataFrame({"id": pairs["id"], **dict.fromkeys(empty, np.nan)})
    for method, (rows, compute) in methods.items():
        file = WORK / f"{benchmark}-{method}-{process.weights_hash()[:12]}.parquet"
        if not file.is_file():
            values = compute(list(zip(rows["text1"], rows["text2"], strict=True)))
            pd.DataFrame({"id": rows["id"], method: values}).to_parquet(file, index=False)
        result = result.drop(columns=method, errors="ignore").merge(
            pd.read_parquet(file), on="id", how="left"
        )
    return result


def gaussian(process: cj.GenerativeProcess, kind: Any, pairs: Pairs) -> np.ndarray:
    """Minus a divergence between Gaussians fitted to the latents of either text's images."""
    return baselines.image_gaussian(process, pairs, divergence=kind, images=IMAGES)


def agreement() -> pd.DataFrame:
    """Spearman and Pearson of every column of the records with the human scores."""
    rows = []
    for name, sets in SETS.items():
        if not (RESULTS / f"{name}.parquet").is_file():
            continue
        table, _ = runs.results_of_record(name)
        for benchmark in sets:
            pairs = benchmarks.load_pairs(benchmark)
            part = table.set_index("id").loc[pairs["id"]].reset_index()
            for method in part.columns.difference(["benchmark", "id"], sort=False):
                if method.endswith("_stderr"):
                    continue
                known = part[method].notna().to_numpy()
                sign = -1 if method in cj.WEIGHTINGS else 1
                values = sign * part.loc[known, method].to_numpy()
                for row in benchmarks.agreement(pairs[known], values) if known.any() else ():
                    rows.append({"table": name, "benchmark": benchmark, "method": method, **row})
    write_provenance("agreement", {"computed": "from the records beside it"})
    return pd.DataFrame(rows)


def write_provenance(name: str, record: Mapping[str, object]) -> None:
    """``record`` as data/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, default=str)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
