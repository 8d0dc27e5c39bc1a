"""The probes of data/probes: which candidate is nearer to the anchor, by any method, and how often.

Chapter 11 and the record 'probes' (studies.arms) share this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np
import pandas as pd
from scipy.stats import norm

import conjure_lib as cj
from conjure_tools import baselines, runs
from conjure_tools.loading import shipped
from studies import records

PROBES = shipped("probes") / "probes.csv"
POOLINGS: dict[str, Any] = {"text_encoder_last": "last", "text_encoder_mean": "mean"}
COSINES = [*POOLINGS]
Z = float(norm.ppf(0.975))  # of a 95 % interval
Pairs = Sequence[tuple[str, str]]


def load_probes() -> pd.DataFrame:
    """Columns id, phenomenon, anchor, closer, farther, note."""
    return pd.read_csv(PROBES, dtype=str, keep_default_na=False)


def probe_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs id, text1, text2: each anchor with its nearer candidate, then each with its farther."""
    sides = [
        pd.DataFrame(
            {"id": table["id"] + f"-{side}", "text1": table["anchor"], "text2": table[side]}
        )
        for side in ("closer", "farther")
    ]
    return pd.concat(sides, ignore_index=True)


def probe_texts(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The texts of :func:`probe_pairs`, (2P,)."""
    return records.texts_of(probe_pairs(table))


def word_overlap(pairs: Pairs) -> np.ndarray:
    """Shared words over all words of each pair (Jaccard), (P,)."""
    return np.array([jaccard(set(a.lower().split()), set(b.lower().split())) for a, b in pairs])


def letter_overlap(pairs: Pairs) -> np.ndarray:
    """The same of the runs of three letters, spaces at either end among them, (P,)."""
    return np.array([jaccard(trigrams(a), trigrams(b)) for a, b in pairs])


def trigrams(text: str) -> set[str]:
    """Every run of three letters."""
    padded = f" {text.lower()} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def jaccard(first: set[str], second: set[str]) -> float:
    """Size of the intersection over that of the union."""
    return len(first & second) / len(first | second)


def by_similarity(table: pd.DataFrame, similarity: np.ndarray) -> pd.DataFrame:
    """Rows id, closer, farther, margin of a similarity (2P,) of :func:`probe_pairs`.

    The margin is positive where the anchor is nearer to the candidate that it should be nearer to.
    """
    closer, farther = similarity.reshape(2, -1)
    margin = np.round(closer - farther, 12)  # a tie is one, whatever the order of a sum
    return pd.DataFrame(
        {"id": table["id"], "closer": closer, "farther": farther, "margin": margin}
    ).assign(stderr=np.nan)


def by_distance(table: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """The same of distances (2P, draws); stderr is of the margin, whose draws share their noise."""
    closer, farther = values.reshape(2, len(table), -1)
    margin, draws = farther - closer, values.shape[1]
    error = margin.std(axis=1, ddof=1) / np.sqrt(draws) if draws > 1 else np.nan
    return pd.DataFrame(
        {
            "id": table["id"], "closer": closer.mean(1), "farther": farther.mean(1),
            "margin": margin.mean(1), "stderr": error,
        }
    )  # fmt: skip


def score_probes(
    process: cj.GenerativeProcess,
    table: pd.DataFrame,
    folder: Path,
    **options: Unpack[runs.Options],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows method, id, closer, farther, margin, stderr under the three weightings; the record."""
    run = runs.score(process, probe_pairs(table), folder, **options)
    parts = [by_distance(table, run.by_draw(w)).assign(method=w) for w in cj.WEIGHTINGS]
    return pd.concat(parts, ignore_index=True), run.record


def read_probes(process: cj.GenerativeProcess, table: pd.DataFrame) -> pd.DataFrame:
    """The same rows by the cosine of the process's text encoder alone."""
    pairs, parts = probe_texts(table), []
    for method, pooling in POOLINGS.items():
        cosine = baselines.text_encoder_cosine(process, pairs, pooling=pooling)
        parts.append(by_similarity(table, cosine).assign(method=method))
    return pd.concat(parts, ignore_index=True)


def by_spelling(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with a column model, by what the texts share in words and in letters."""
    pairs = probe_texts(table)
    found = {"word_overlap": word_overlap(pairs), "letter_overlap": letter_overlap(pairs)}
    parts = [by_similarity(table, v).assign(model="", method=m) for m, v in found.items()]
    return pd.concat(parts, ignore_index=True)


def wilson(right: float, items: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion; a tie may count a half.

    By hand: scipy's binomtest takes whole numbers alone, and halves are counted here.
    """
    share, n = right / items, items
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


def accuracies(scored: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Rows model, method, phenomenon ("" for all), right, items, unsure, accuracy, low, high.

    Right is a positive margin, and a tie half of one; unsure are those within two standard errors.
    """
    scored = scored.merge(table[["id", "phenomenon"]], on="id")
    scored["right"] = (np.sign(scored["margin"]) + 1) / 2
    scored["unsure"] = scored["margin"].abs() < 2 * scored["stderr"]
    whole = pd.concat([scored.assign(phenomenon=""), scored])
    found = whole.groupby(["model", "method", "phenomenon"], sort=False).agg(
        right=("right", "sum"), items=("right", "size"), unsure=("unsure", "sum")
    )
    found["accuracy"] = found["right"] / found["items"]
    ends = [wilson(right, n) for right, n in zip(found["right"], found["items"], strict=True)]
    found[["low", "high"]] = ends
    return found.reset_index()


def scored_in(
    folder: str, process: cj.GenerativeProcess, table: pd.DataFrame, **options: Unpack[runs.Options]
) -> pd.DataFrame:
    """The rows of :func:`score_probes`; a run in ``folder`` is resumable, and "" keeps none."""
    options["report"] = lambda _: None
    name = f"probes-{process.name.replace('/', '--')}"
    with TemporaryDirectory() as temporary:
        place = Path(folder) / name if folder else Path(temporary)
        return score_probes(process, table, place, **options)[0]
