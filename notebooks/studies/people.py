"""Do distances agree with people: the records 'words', 'sts' and 'agreement', chapters 5 and 6.

Everything is resumable: the distances are runs in _build/records, and each baseline is kept there
as soon as it is finished. Texts and human scores are not written, because of their licences; rows
carry the ids of conjure_lib.benchmarks. The seven sentence sets take hours on two CPU cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

import conjure_lib as cj
from conjure_lib import baselines, benchmarks, runs
from studies.records import RESULTS, WORK, Made, Pairs, in_single, kept_table, texts_of

SETS = {"words": benchmarks.WORDS, "sts": benchmarks.STS}
DRAWS = {"rg65": 10, "simlex999": 5}  # of the small sets; three of the others
GAUSSIAN = {"rg65": 65, "simlex999": 100, "stsb": 100, "sickr": 100}  # pairs: many images a text
IMAGES = 8


def words() -> Made:
    """The table 'words'."""
    return scores("words")


def sts() -> Made:
    """The table 'sts'."""
    return scores("sts")


def scores(name: str) -> Made:
    """Distances and baselines of every pair of one group of sets; float32, as they are stored."""
    process, parts, notes = cj.load(), [], {}
    for benchmark in SETS[name]:
        draws = DRAWS.get(benchmark, 3)
        pairs = benchmarks.load_pairs(benchmark)
        run = runs.score(process, pairs, WORK / benchmark, draws=draws)
        notes[benchmark] = run.record
        columns = {"benchmark": benchmark, "id": pairs["id"]}
        for weighting in cj.WEIGHTINGS:
            found = run.distances(weighting, draws=draws)
            columns |= {weighting: found["distance"], f"{weighting}_stderr": found["stderr"]}
        parts.append(pd.DataFrame(columns).merge(others(process, benchmark, pairs), on="id"))
    return {name: in_single(pd.concat(parts, ignore_index=True))}, notes


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

        def made(method: str = method, rows: pd.DataFrame = rows, compute: Any = compute) -> Any:
            return pd.DataFrame({"id": rows["id"], method: compute(texts_of(rows))})

        found = kept_table(file, made)
        result = result.drop(columns=method, errors="ignore").merge(found, on="id", how="left")
    return result


def gaussian(process: cj.GenerativeProcess, kind: Any, pairs: Pairs) -> np.ndarray:
    """Minus a divergence between Gaussians fitted to the latents of either text's images."""
    return baselines.image_gaussian(process, pairs, divergence=kind, images=IMAGES)


def agreements() -> Made:
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
    return {"agreement": pd.DataFrame(rows)}, {"computed": "from the records beside it"}
