"""Text encoder and pictures: what either knows of people's ratings, and both together.

The record 'findings' holds all that the page of findings needs ratings for, as numbers of whole
sets: neither texts nor ratings are in it, so that the page can be made without the data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_tools import benchmarks, runs
from conjure_tools.correlation import (
    Correlation,
    both_texts,
    left_over,
    of_ranks,
    paired_bootstrap,
    partial_spearman,
    spearman,
)
from studies import comparison, people, records
from studies.probes import COSINES
from studies.records import Made, texts_of, weights_in

WEIGHTING: Weighting = "noise"  # what chapters 5, 6, 9, 11 and 12 show by default
READINGS = {"first timestep": "initial_timestep", "final outputs": "direct_output"}
MEANS = {
    "sts": [name for name in benchmarks.STS if name != "stsb"],
    "words": ["rg65", "simlex999", "simverb3500", "wordsim353"],
}
"""Sets that share few pairs, which means are taken over: most of STS-B stands in STS12 to STS16,
and the parts of WordSim-353 in the whole."""
KEYS = ["table", "benchmark", "group", "statistic"]
RESAMPLES = 4000
Numbers = np.ndarray
"""A value and the ends of its interval, (3,), or rows of such, (m, 3)."""


# -- statistics -------------------------------------------------------------------------------


def share(c: np.ndarray) -> np.ndarray:
    """Of what the first of k variables explains of the second, the part that the others do too.

    What one explains is a share of variance, the square of a correlation. Its own, beyond the
    others, is the square of the semipartial correlation: by how much R² grows with it. From
    correlation matrices (b, k, k); (b,).
    """
    left = left_over(c)
    whole, rest = c[:, 0, 1] ** 2, left[:, 0, 0]
    own = left[:, 0, 1] ** 2 / np.where(rest > 1e-12, rest, np.nan)
    return np.asarray(1 - own / np.where(whole > 1e-12, whole, np.nan))


def over_the_better(c: np.ndarray) -> np.ndarray:
    """How much better the first of four variables agrees with the last than the best of two does.

    These are the second and the third. From correlation matrices (b, 4, 4); (b,).
    """
    return np.asarray(c[:, 0, 3] - np.maximum(c[:, 1, 3], c[:, 2, 3]))


def combined(rows: Numbers, weights: Sequence[float] | np.ndarray) -> Numbers:
    """A weighted sum of independent estimates (m, 3), with its interval, (3,).

    Either end of it lies as far off as the ends of theirs do, added in squares (Zou and Donner
    2008): a weight below zero exchanges the two ends of a row.
    """
    rows, w = np.asarray(rows, float), np.asarray(weights, float)
    value, ends = w @ rows[:, 0], rows[:, 1:] - rows[:, :1]  # (m, 2): below, above
    reach = np.sqrt((np.sort(w[:, None] * ends, axis=1) ** 2).sum(axis=0))
    return np.array([value, value - reach[0], value + reach[1]])


def mean_of(rows: Numbers) -> Numbers:
    """The plain mean of independent estimates (m, 3)."""
    return combined(rows, np.full(len(rows), 1 / len(rows)))


# -- text encoder and conjured distance together ----------------------------------------------


def percentiles(part: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns as ranks within a set: above 0, up to 1, and equal for what is tied."""
    return part[list(columns)].rank(pct=True)


def averaged(part: pd.DataFrame, own: str) -> np.ndarray:
    """Mean percentile of conjured similarity and of the cosine ``own``, (P,): nothing is fitted."""
    mean = percentiles(part, [WEIGHTING, own]).mean(axis=1)
    return mean.round(12).to_numpy()  # rounding of the sum must not undo ties


def learned(joined: Mapping[str, pd.DataFrame], name: str, own: str) -> np.ndarray:
    """Weights (2,) of these two percentiles: least squares to people's, on all sets but ``name``.

    Pairs with the same two texts as one of ``name`` are left out: none that is tested was fitted.
    """
    tested, parts = set(_keys(joined[name])), []
    for other, part in joined.items():
        if other != name:
            ranked = percentiles(part, [WEIGHTING, own, "people"])
            fresh = [key not in tested for key in _keys(part)]
            parts.append((ranked - ranked.mean()).to_numpy()[fresh])
    x = np.concatenate(parts)
    return np.linalg.lstsq(x[:, :2], x[:, 2])[0]


def _keys(part: pd.DataFrame) -> list[frozenset[str]]:
    """The two texts of each pair, in either order and in small letters."""
    return [frozenset((a.lower(), b.lower())) for a, b in texts_of(part)]


# -- the record -------------------------------------------------------------------------------


def record() -> Made:
    """The table 'findings', from the records beside it and people's ratings."""
    weights = common_weights()
    rows, own = measured_table(RESAMPLES)
    made: dict[str, Any] = {"computed": "from these records and people's ratings"}
    made |= {"from": source_hashes(), "weights": weights, "weighting": WEIGHTING}
    made |= {"resamples": RESAMPLES, "text_encoder": own}
    return {"findings": rows}, made | {"provenance": runs.provenance(cj.load())}


def source_hashes() -> dict[str, str]:
    """What the table is computed from."""
    return records.hashes_of(made_alike())


def made_alike() -> list[str]:
    """Of the sets, those that are recorded; and the spaces, where they are of the same model."""
    found = {}
    for name in (*people.SETS, "spaces"):
        if (records.RESULTS / f"{name}.parquet").is_file():
            found[name] = weights_of(name)
    sets = [weights for name, weights in found.items() if name in people.SETS]
    common = set.intersection(*sets) if sets else set()
    return [name for name, weights in found.items() if name in people.SETS or weights & common]


def weights_of(name: str) -> set[str]:
    """Every hash of weights that a record names."""
    return weights_in(records.results_of_record(name))


def common_weights() -> str:
    """The hash of the one model that the sets were scored with.

    Raises:
        ValueError: the records were made with different models.
    """
    common = set.intersection(*map(weights_of, people.SETS))
    if len(common) != 1:
        names = ", ".join(people.SETS)
        raise ValueError(f"the records {names} were made with different models: make them anew")
    return common.pop()


def measured_table(resamples: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rows `KEYS`, value, low, high, pairs; and the pooling of the text encoder, by table.

    Raises:
        FileNotFoundError: a record is not there, or a set cannot be had.
    """
    own: dict[str, Any] = {}
    found: dict[Any, Any] = {}
    if "spaces" in made_alike():
        found["spaces", "rg65", "", "partial, twin too"] = beyond_twin(resamples)
    for table in people.SETS:
        joined = rated(table)
        own[table] = better_cosine(joined, MEANS[table])
        for name in joined:
            of_one = statistics_of_set(joined, name, own[table], resamples)
            found |= {(table, name, *key): value for key, value in of_one.items()}
    rows = [dict(zip(KEYS, key, strict=True)) | vars(value) for key, value in found.items()]
    return pd.DataFrame(rows), own


def rated(table: str) -> dict[str, pd.DataFrame]:
    """The sets of a record: texts, people's ratings, and the methods, all as similarities."""
    made = records.results_of_record(table).table
    made[list(cj.WEIGHTINGS)] *= -1
    sets = {name: benchmarks.load_pairs(name) for name in people.SETS[table]}
    return people.with_ratings(made, sets)


def better_cosine(joined: Mapping[str, pd.DataFrame], among: Sequence[str]) -> str:
    """The pooling of the text encoder that agrees better with people, on average over sets."""
    parts = [joined[name] for name in among]
    rho = {c: [p[c].corr(p["people"], method="spearman") for p in parts] for c in COSINES}
    return max(rho, key=lambda c: float(np.mean(rho[c])))


def statistics_of_set(
    joined: Mapping[str, pd.DataFrame], name: str, own: str, resamples: int
) -> dict[tuple[str, str], Correlation]:
    """Every statistic of one set, by group ("" for all pairs, else a part of speech) and name."""
    whole = joined[name]
    ranked = percentiles(whole, [WEIGHTING, own]).to_numpy()
    both = {
        "averaged": averaged(whole, own),
        "learned": ranked @ learned(joined, name, own),
    }
    found = of_parts(whole, own, resamples)
    how: Any = {"texts": both_texts(whole), "resamples": resamples}
    rating, ours, cosine = (whole[c].to_numpy() for c in ("people", WEIGHTING, own))
    cosines = [whole[c].to_numpy() for c in COSINES]
    found["", "share"] = of_ranks([ours, rating, *cosines], share, **how)
    found["", "less text encoder"] = paired_bootstrap(ours, cosine, rating, **how)
    for kind, reading in READINGS.items():
        theirs = whole[reading].to_numpy()
        found["", f"less {kind}"] = paired_bootstrap(ours, theirs, rating, **how)
    for kind, values in both.items():
        found["", kind] = spearman(values, rating, **how)
        four = [values, ours, cosine, rating]
        found["", f"{kind}, over the better"] = of_ranks(four, over_the_better, **how)
    return found


def of_parts(whole: pd.DataFrame, own: str, resamples: int) -> dict[tuple[str, str], Correlation]:
    """Agreement of the distance, of the cosine ``own``, and of the first given both cosines."""
    groups: dict[str, Any] = {"": whole.index}
    if "pos" in whole and whole["pos"].nunique() > 1:
        groups |= dict(whole.groupby("pos").groups)
    found = {}
    for group, at in groups.items():
        part = whole.loc[at]
        rating, ours, cosine = (part[c].to_numpy() for c in ("people", WEIGHTING, own))
        how: Any = {"texts": both_texts(part), "resamples": resamples}
        found[group, "conjured"] = spearman(ours, rating, **how)
        found[group, "text encoder"] = spearman(cosine, rating, **how)
        found[group, "partial"] = partial_spearman(ours, rating, part[COSINES].to_numpy(), **how)
    return found


def beyond_twin(resamples: int) -> Correlation:
    """Partial ρ on RG-65 given both cosines and each U-Net without training of record 'spaces'."""
    table = records.results_of_record("spaces").table
    pairs, words = benchmarks.load_pairs("rg65"), {*table["text1"], *table["text2"]}
    pairs = pairs[pairs["text1"].isin(words) & pairs["text2"].isin(words)]
    kept = table[table["weighting"].isin(["", WEIGHTING])]
    judged = {
        str(name): comparison.rated_pairs(part, pairs) for name, part in kept.groupby("space")
    }
    twins = [name for name in judged if name.startswith("untrained U-Net")]
    held = [
        judged[name]["distance"] for name in ("text encoder, last", "text encoder, mean", *twins)
    ]
    own, given = judged[comparison.BASE], np.stack(held, axis=1)
    how: Any = {"texts": both_texts(own), "resamples": resamples}
    return partial_spearman(-own["distance"], own["score"], given, **how)
