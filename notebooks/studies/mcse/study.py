"""Does grounding in images help a sentence encoder, real or conjured ones? The record 'grounding'.

Many small trainings by conjure_tools.grounding, on what `data` gives; each is kept as
soon as it is finished, and resumed from its checkpoint where it was cut off.
Chapter 13 runs the same functions on less, and explains them. CONJURE_DATA must name the human
judgements: the development set of STS-B chooses checkpoints, the test sets test.

The setting of the paper, on a GPU, by the same code (for COCO: captions_train2014.json):

    python -m studies.mcse.study --encoder bert-base-uncased --texts wiki1m_for_simcse.txt \\
        --captions results_20130124.token --photos flickr30k-images --names train.txt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

import conjure_lib as cj
from conjure_lib import EMBEDDED
from conjure_tools import benchmarks, runs
from conjure_tools.fingerprints import weights_hash
from studies.ablations import rank_correlations
from studies.mcse.data import RESNET, SHUFFLED, Data, emoji_data, photo_data
from studies.mcse.student import distillation
from studies.mcse.trainings import DEV, SIMCSE, UNTRAINED, Plan, all_runs, full
from studies.records import Made, work


def record() -> Made:
    """The table 'grounding'."""
    plan, process = Plan(), cj.load()
    table, notes = make(plan, process, work("mcse.study") / plan.key(weights_hash(process)))
    return {"grounding": table}, notes


def main() -> None:
    """Make the table of the full setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--encoder", default=EMBEDDED, help="such as bert-base-uncased")
    captions = "Flickr30k's .token, or COCO's .json"
    parser.add_argument("--captions", type=Path, required=True, help=captions)
    parser.add_argument("--photos", type=Path, help="the folder of the photographs")
    parser.add_argument("--names", type=Path, help="which photographs, one a line; default all")
    parser.add_argument("--features", default=RESNET, help="the model of the image vectors")
    parser.add_argument("--texts", type=Path, help="one a line; without, λ 0.05 on the pairs only")
    parser.add_argument("--seeds", type=int, default=Plan.seeds)
    given = parser.parse_args()
    where = given.texts, given.captions, given.photos, given.names
    _, _, table, folder = of_photographs(given.encoder, given.seeds, *where, given.features)
    table.to_parquet(folder / "table.parquet", index=False)
    print(table[table["study"] == "mean"].to_string(), f"\nin {folder / 'table.parquet'}")


def of_photographs(
    encoder: str,
    seeds: int,
    texts: Path | None,
    captions: Path,
    photos: Path,
    names: Path | None,
    model: str = RESNET,
) -> tuple[Plan, Data, pd.DataFrame, Path]:
    """The study of the full setting, resumable: plan, corpora, table, and where they are kept."""
    plan = full(encoder, seeds, texts=texts is not None)
    key = plan.key(f"{texts} {captions} {names} {model}")
    folder = work("mcse.study") / f"{Path(encoder).name}-{key}"
    data = photo_data(texts, captions, photos, names, folder, model)
    return plan, data, table_of(plan, all_runs(plan, data, folder)), folder


def make(
    plan: Plan, process: cj.GenerativeProcess, folder: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The record and where it is from."""
    data = emoji_data(plan, process, folder)
    found = all_runs(plan, data, folder)
    held, students, notes = distillation(plan, data, found, process, folder)
    every = len(data.texts) + len(data.captions) + len(data.held_out)
    conjured = plan.anchors * every + plan.steps * len(data.captions)
    notes |= {
        "plan": asdict(plan),
        "weights": weights_hash(process),
        "texts": [len(data.texts), len(data.captions), len(data.held_out)],
        "cpu_seconds_of_training": sum(run["cpu_seconds"] for run in [*found, *students]),
        "evaluations": conjured + notes["teacher"]["unet_evaluations"],
        "provenance": runs.provenance(process),
    }
    return pd.concat([table_of(plan, found), held], ignore_index=True), notes


# -- the table --------------------------------------------------------------------------------


def table_of(plan: Plan, found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Long rows: study, kind, weight, seed, against, benchmark, value, low, high, pairs.

    Study "run": Spearman's ρ of one training; "mean": over the seeds, with a t interval; the
    geometry of the sentences under its own names; "difference": mean over the seeds of ρ less that
    of ``against`` with the same seed, low and high a t interval over seeds, pairs_low and
    pairs_high a bootstrap over the pairs of the set.
    """
    rows: list[dict[str, Any]] = []
    for run in found:
        keys = {k: run[k] for k in ("kind", "weight", "seed")}
        best = max(run.get("measured", {}).values(), default=np.nan)
        rows.append({"study": "run", **keys, "benchmark": DEV, "value": best})
        for name, measured in run["geometry"].items():
            rows += [
                {"study": k, **keys, "benchmark": name, "value": v} for k, v in measured.items()
            ]
    for name in plan.sets:
        human = benchmarks.load_pairs(name)["score"].to_numpy(float)
        drawn = resampled([run["similarities"][name] for run in found], human, plan.resamples)
        rows += of_set(plan, found, name, drawn, len(human))
    return pd.DataFrame(rows)


def resampled(similarities: Any, human: np.ndarray, resamples: int) -> np.ndarray:
    """ρ of each run (m, P) on all pairs, then on resamples of them: (1 + resamples, m).

    By hand: any two runs are compared afterwards, in the same resamples.
    """
    values, rng = np.array(similarities), np.random.default_rng(0)
    found = [rank_correlations(values, human)]
    for _ in range(resamples):
        at = rng.integers(len(human), size=len(human))
        found.append(rank_correlations(values[:, at], human[at]))
    return np.array(found)


def of_set(
    plan: Plan, found: Sequence[dict[str, Any]], name: str, drawn: np.ndarray, pairs: int
) -> list[dict[str, Any]]:
    """Rows of one test set from the correlations of all runs."""
    column = {(r["kind"], r["weight"], r["seed"]): i for i, r in enumerate(found)}
    rows = [
        {"study": "run", "kind": k, "weight": w, "seed": s, "benchmark": name,
         "value": drawn[0, i], "pairs": pairs}
        for (k, w, s), i in column.items()
    ]  # fmt: skip
    every = {key[:2]: [column[(*key[:2], s)] for s in range(plan.seeds)] for key in column}
    for (kind, weight), at in every.items():
        base = {"kind": kind, "weight": weight, "benchmark": name, "pairs": pairs}
        rows.append({"study": "mean", **base, **over_seeds(drawn[0, at])})
        for against in (SIMCSE, SHUFFLED):
            other = every.get((against, 0.0 if against == SIMCSE else weight))
            if other is None or other == at or kind == UNTRAINED:
                continue
            gap = drawn[:, at] - drawn[:, other]  # (1 + resamples, seeds)
            low, high = np.quantile(gap[1:].mean(1), [0.025, 0.975])
            rows.append({
                "study": "difference", "against": against, **base, **over_seeds(gap[0]),
                "pairs_low": low, "pairs_high": high,
            })  # fmt: skip
    return rows


def over_seeds(values: np.ndarray) -> dict[str, float]:
    """Mean of (seeds,) with a 95 % t interval; NaN from a single seed."""
    mean, n = float(values.mean()), len(values)
    wide = np.nan
    if n > 1:
        wide = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return {"value": mean, "low": mean - wide, "high": mean + wide}


if __name__ == "__main__":
    main()
