"""Distances between the images of two texts, against people: the record 'distances'.

Chapter 10 runs the same functions on a few pairs and explains them. What is generated is kept,
resumable. Takes about 150,000 noise
predictions: ten minutes on a free CPU core that makes 250 a second. Needs POT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import conjure_lib as cj
from conjure_lib.engine import chunks
from conjure_tools import baselines, benchmarks, runs
from conjure_tools.distributions import METHODS, sample_distances
from conjure_tools.fingerprints import weights_hash
from studies.ablations import agreement_and_gap
from studies.records import Made, in_place, in_single, short_hash, texts_of, work

IMAGES = 32  # of each text, in either of two sets with noise of their own
COUNTS = (4, 8, 16, 32)  # images that the distances are computed with
DRAWS = 5  # of the conjured distance
STEPS = 10
SEED = 0
OTHER = 1000  # the first draw of the second set of noise
NOUNS = 80  # pairs of SimLex-999
STARTS = {  # whose images: (set of the first text, set of the second)
    "common": (0, 0),
    "common again": (1, 1),
    "independent": (0, 1),
    "independent again": (1, 0),
}


def record() -> Made:
    """The tables 'distances' and 'distances_agreement'."""
    table, agreed, notes = make(cj.load(), pair_sets(), work("image_distances"))
    return {"distances": in_single(table), "distances_agreement": in_single(agreed)}, notes


def pair_sets() -> dict[str, pd.DataFrame]:
    """RG-65, and nouns of SimLex-999: every eighth or so, across the range of human scores."""
    nouns = benchmarks.load_pairs("simlex999").query("pos == 'N'").copy()
    nouns["quarter"] = pd.qcut(nouns["score"], 4, labels=False)
    sample = runs.stratified(nouns, NOUNS, by=["quarter"]).drop(columns="quarter")
    sets = {"rg65": benchmarks.load_pairs("rg65"), f"simlex999-{NOUNS}": sample}
    return {name: pairs.reset_index(drop=True) for name, pairs in sets.items()}


def make(
    process: cj.GenerativeProcess,
    sets: Mapping[str, pd.DataFrame],
    folder: Path,
    *,
    images: int = IMAGES,
    draws: int = DRAWS,
    resamples: int = 10_000,
    batch_size: int = 64,
    report: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The tables 'distances' and 'distances_agreement' of sets of pairs, and where they are from.

    The first has columns benchmark, id, method, start, images and value, a distance: those of
    `METHODS` under each of `STARTS`; "null", the mean of either text's distance from itself, and
    "less null", "independent" less that; those of the paths ("sde", "score", "noise"; images are
    draws); and "text encoder".
    """
    tables, agreed, spent = [], [], 0
    setting: dict[str, Any] = {"draws": draws, "steps": STEPS, "batch_size": batch_size}
    for name, pairs in sets.items():
        texts = sorted({*pairs["text1"], *pairs["text2"]})
        paths = folder / f"{name}-paths"
        run = runs.score(process, pairs, paths, **setting, report=report)
        samples = latents(process, texts, images, folder / name, batch_size)
        found = pd.concat([of_samples(samples, texts, pairs), of_paths(process, run, draws)])
        tables.append(found.assign(benchmark=name))
        agreed.append(agreement_by_distance(found, pairs, resamples).assign(benchmark=name))
        spent += samples[..., 0].size * STEPS + run.record["unet_evaluations"]
    settings = {"images": images, "draws": draws, **process.settled(steps=STEPS, seed=SEED).told()}
    made = {"model": process.name, "weights": weights_hash(process), "evaluations": spent}
    notes = {"settings": settings, **made, **runs.provenance(process)}
    return *(pd.concat(parts, ignore_index=True) for parts in (tables, agreed)), notes


# -- the distances ----------------------------------------------------------------------------


def latents(
    process: cj.GenerativeProcess,
    texts: Sequence[str],
    images: int,
    folder: Path,
    batch_size: int = 64,
) -> np.ndarray:
    """Final latents (U, 2, images, d), float32: two sets of x_T, each the same for all texts."""
    key = [process.name, weights_hash(process), STEPS, SEED, *texts]
    kept = folder / short_hash(key)
    kept.mkdir(parents=True, exist_ok=True)
    numbers = [half * OTHER + i for half in (0, 1) for i in range(images)]
    bar = tqdm(numbers, desc=folder.name, unit="draw", delay=2)
    files = ((draw, kept / f"draw-{draw:04d}.npy") for draw in bar)
    rows = [_outputs(process, texts, draw, file, batch_size) for draw, file in files]
    return np.stack(rows, axis=1).reshape(len(texts), 2, images, -1)


def _outputs(
    process: cj.GenerativeProcess, texts: Sequence[str], draw: int, file: Path, batch_size: int
) -> np.ndarray:
    """The final latents of all texts from one x_T, (U, d): from ``file``, or made and put there."""
    if not file.is_file():
        parts = [
            baselines.final_latents(process, part, draw, steps=STEPS, seed=SEED)
            for part in chunks(texts, batch_size)
        ]
        made = np.concatenate([one.flatten(1).numpy() for one in parts])

        def write(part: Path) -> None:
            with part.open("wb") as handle:  # of a name, numpy would change the ending
                np.save(handle, made)

        in_place(file, write)
    return np.load(file)


def of_samples(samples: np.ndarray, texts: Sequence[str], pairs: pd.DataFrame) -> pd.DataFrame:
    """Every distance of each pair, with the first 4, 8, … images of each text; `make` has columns.

    ``samples`` are (U, 2, images, d), of the texts in their order.
    """
    place = {text: i for i, text in enumerate(texts)}
    i, j = ([place[text] for text in pairs[side]] for side in ("text1", "text2"))
    rows = []
    for n in [n for n in COUNTS if n <= samples.shape[2]]:
        few = samples[:, :, :n]
        null = pd.DataFrame(sample_distances(few[:, 0], few[:, 1]))
        found = {"null": (null.iloc[i].to_numpy() + null.iloc[j].to_numpy()) / 2}
        for start, (a, b) in STARTS.items():
            distances = sample_distances(few[i, a], few[j, b])
            found[start] = np.stack([distances[name] for name in METHODS], axis=1)
        found["less null"] = found["independent"] - found["null"]
        for start, values in found.items():
            wide = pd.DataFrame(values, columns=list(METHODS)).assign(id=pairs["id"].to_numpy())
            rows.append(_long(wide).assign(start=start, images=n))
    return pd.concat(rows, ignore_index=True)


def of_paths(process: cj.GenerativeProcess, run: runs.Run, draws: int) -> pd.DataFrame:
    """The conjured distance of each pair with 1, 2, … draws, and its text encoder's distance."""
    rows = []
    for k in range(1, draws + 1):
        wide = pd.DataFrame({w: run.by_draw(w)[:, :k].mean(1) for w in cj.WEIGHTINGS})
        rows.append(_long(wide.assign(id=run.pairs["id"])).assign(start="common", images=k))
    if baselines.has_lengths(process):
        cosine = baselines.text_encoder_cosine(process, texts_of(run.pairs))
        wide = pd.DataFrame({"id": run.pairs["id"], "text encoder": 1 - cosine})
        rows.append(_long(wide).assign(start="common", images=0))
    return pd.concat(rows, ignore_index=True)


def _long(wide: pd.DataFrame) -> pd.DataFrame:
    return wide.melt("id", var_name="method", value_name="value")


# -- agreement with people --------------------------------------------------------------------


def agreement_by_distance(table: pd.DataFrame, pairs: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Spearman of minus each distance with people, and how much more that is than of "sde".

    Columns method, start, images, evaluations_per_pair, spearman, low, high, and the difference
    from "sde" with the most draws of ``table``, with its low and high; bootstraps over pairs.
    """
    shown = ~table["start"].str.contains("again") & (table["start"] != "null")
    of = table[shown].groupby(["method", "start", "images"])
    most = table.loc[table["method"] == "sde", "images"].max()
    columns = {key: rows.set_index("id").loc[pairs["id"], "value"].to_numpy() for key, rows in of}
    path = columns["sde", "common", most]
    rows = []
    for (method, start, images), column in columns.items():
        spent = image_cost(pairs, method, images * (1 + (start == "less null")))
        rows.append(
            {
                "method": method, "start": start, "images": images,
                "evaluations_per_pair": spent,
                **agreement_and_gap(pairs, column, path, resamples), "pairs": len(pairs),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def image_cost(pairs: pd.DataFrame, method: str, images: int) -> float:
    """Noise predictions a pair: a trajectory an image and text; paths ask twice more a step."""
    texts = len({*pairs["text1"], *pairs["text2"]}) / len(pairs)
    return STEPS * images * (texts + 2 * (method in cj.WEIGHTINGS))
