"""Human-judgement data sets, and rank correlation with its interval."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

FILES = {
    "rg65": ("words/rg65.csv", "a03c2533d9d689214963ca112fbf286487b72d274d12b6aada90831da5c7c492"),
    "simlex999": (
        "words/simlex999.csv",
        "ad9e264dc5df20037c9c01a8a5630b7ff03c8592d3a49e89d74e7e85ab4f29d6",
    ),
}
"""Where each set lies in the folder ``CONJURE_DATA``, and the SHA-256 of its file."""


def load_pairs(name: str) -> pd.DataFrame:
    """A benchmark as columns text1, text2, score (human, native scale) and, for words, pos.

    Raises:
        ValueError: an unknown set, or a file that is not the published one.
        FileNotFoundError: the set cannot be had; the message says what to set.
    """
    if name not in FILES:
        raise ValueError(f"benchmark must be one of {', '.join(FILES)}, not {name!r}")
    path, expected = FILES[name]
    folder = os.environ.get("CONJURE_DATA")
    if not folder or not (file := Path(folder) / path).is_file():
        raise FileNotFoundError(
            f"{name} is not at hand: set CONJURE_DATA to a folder that holds {path} "
            f"(CSV with the columns word1, word2, pos, score); it is {folder!r} now"
        )
    if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{file} is not the published file of {name}: its SHA-256 differs")
    table = pd.read_csv(file, keep_default_na=False)
    return table.rename(columns={"word1": "text1", "word2": "text2"})


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ with a 95 % percentile interval from a bootstrap over pairs."""

    rho: float
    low: float
    high: float
    pairs: int


def spearman(
    predicted: np.ndarray, human: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Correlation:
    """Spearman's ρ of two vectors (n,), with its bootstrap interval; ties get mean ranks.

    Raises:
        ValueError: the lengths differ, fewer than three pairs, or a value that is not finite.
    """
    x, y = np.asarray(predicted, float), np.asarray(human, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(f"need two vectors of one length (3 or more), not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a prediction or a human score is not finite")
    rows = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    low, high = np.nanquantile(_pearson(_ranks(x[rows]), _ranks(y[rows])), [0.025, 0.975])
    rho = _pearson(_ranks(x[None]), _ranks(y[None]))[0]
    return Correlation(float(rho), float(low), float(high), len(x))


def agreement(
    table: pd.DataFrame, similarity: Sequence[float], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Spearman's ρ of ``similarity`` with the human scores, on all pairs and by part of speech.

    Rows have the keys group ("" for all pairs), rho, low, high, pairs.
    """
    values, human = np.asarray(similarity, float), table["score"].to_numpy(float)
    groups = {"": np.ones(len(table), bool)}
    if "pos" in table and table["pos"].nunique() > 1:
        groups |= {part: (table["pos"] == part).to_numpy() for part in sorted(set(table["pos"]))}
    return [
        {"group": group, **asdict(spearman(values[rows], human[rows], seed=seed))}
        for group, rows in groups.items()
    ]


def _ranks(values: np.ndarray) -> np.ndarray:
    return rankdata(values, axis=1)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row-wise Pearson correlation of (m, n) and (m, n); NaN where a row is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
