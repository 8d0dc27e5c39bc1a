"""Spaces over the same words: their matrices, how alike they are, how far people agree with them.

Chapter 09 and its record use these; a table of spaces has the columns that `spaces` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from conjure_tools.neighbors import nngs
from studies.ablations import MEASURED, agreement_and_gap

BASE = "ddim"  # the space that agreement with people is compared with


def matrices(
    table: pd.DataFrame, words: Sequence[str], weighting: str = "noise"
) -> dict[str, np.ndarray]:
    """Distance matrices (n, n) by space, of one weighting and of spaces that have none."""
    pairs = list(combinations(words, 2))
    rows = table[table["weighting"].isin(["", weighting])]
    found = {}
    for name, part in rows.groupby("space", sort=False):
        values = part.set_index(["text1", "text2"])["distance"].astype(float)
        found[str(name)] = squareform(values.loc[pairs].to_numpy())
    return found


def resemblance(
    first: np.ndarray,
    second: np.ndarray,
    *,
    resamples: int = 500,
    permutations: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Spearman's ρ between the distances of two matrices (n, n), with low, high and p.

    The interval is a bootstrap over words, in which pairs of a word with itself are left out; p
    is Mantel's: how often the second matrix agrees as well after its words have been permuted. All
    are NaN where one of the matrices does not vary. By hand: neither scipy nor scikit-learn has
    Mantel's test, whose permutations move rows and columns together.
    """
    rng, n = np.random.default_rng(seed), len(first)
    upper = np.triu_indices(n, 1)
    value = rho(first[upper], second[upper])
    if np.isnan(value):
        return dict.fromkeys(("value", "low", "high", "p"), value)
    one, two = (squareform(rankdata(m[upper]) - (len(upper[0]) + 1) / 2) for m in (first, second))
    scale = np.sqrt((one**2).sum() * (two**2).sum())
    orders = [rng.permutation(n) for _ in range(permutations)]
    moved = np.array([(one * two[np.ix_(p, p)]).sum() / scale for p in orders])
    drawn = among_resampled(first, second, rng.integers(n, size=(resamples, n)))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    p = (1 + (moved >= value - 1e-12).sum()) / (1 + permutations)
    return {"value": value, "low": float(low), "high": float(high), "p": float(p)}


def among_resampled(first: np.ndarray, second: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """ρ of two matrices (n, n) among the words of each of ``chosen`` (resamples, n): (resamples,).

    A word may be chosen more than once; its pairs with itself are left out. By hand: it is words
    that are drawn, the same for several matrices, and pairs that are correlated.
    """
    upper, drawn = np.triu_indices(chosen.shape[1], 1), []
    for at in chosen:
        i, j = at[upper[0]], at[upper[1]]
        i, j = i[i != j], j[i != j]
        drawn.append(rho(first[i, j], second[i, j]))
    return np.array(drawn)


def more_alike(
    one: np.ndarray, other: np.ndarray, to: np.ndarray, *, resamples: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """By how much the first matrix is more like ``to`` than the other is: value, low, high.

    The difference of two ρ, and its interval, both ρ in the same resamples of the words.
    """
    upper, n = np.triu_indices(len(to), 1), len(to)
    chosen = np.random.default_rng(seed).integers(n, size=(resamples, n))
    drawn = among_resampled(one, to, chosen) - among_resampled(other, to, chosen)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    value = rho(one[upper], to[upper]) - rho(other[upper], to[upper])
    return value, float(low), float(high)


def beyond_chance(space: np.ndarray, other: np.ndarray, k: int, ties: int) -> np.ndarray:
    """NNGS of two matrices (n, n) corrected for chance, and its interval over the n, (3,).

    The mean over as many orders of what is tied as ``ties`` says.
    """
    how: dict[str, Any] = {"metric": "precomputed", "permutations": 0}
    drawn = [nngs(space, other, k, seed=seed, **how) for seed in range(ties)]
    plain = np.mean([[one.value, one.low, one.high] for one in drawn], axis=0)
    return np.asarray((plain - drawn[0].chance) / (1 - drawn[0].chance))


def rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ of (m,) and (m,); NaN where there are few or one does not vary.

    By hand: scipy's spearmanr warns where one does not vary, as happens among resampled words, and
    computes a p-value each time.
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def agreement_by_space(
    table: pd.DataFrame, pairs: pd.DataFrame, *, weighting: str = "noise", resamples: int = 10_000
) -> pd.DataFrame:
    """How far each space agrees with people on those of the ``pairs`` whose words it has.

    One row per space and weighting: spearman of minus the distance, low, high; the difference from
    BASE under the same weighting (``weighting`` where there is none), difference_low,
    difference_high; pairs. Bootstrap over pairs, which knows of those that share a word; NaN where
    fewer than three are there, and no interval of few.
    """
    groups = dict(list(table.groupby(["space", "weighting"], sort=False)))
    rows = []
    for (space, own), part in groups.items():
        rated = rated_pairs(part, pairs)
        row: dict[str, Any] = {"space": space, "weighting": own, "pairs": len(rated)}
        row |= dict.fromkeys(MEASURED, np.nan)
        if len(rated) > 2:
            base = rated_pairs(groups[BASE, own or weighting], pairs)
            distance, reference = (of["distance"].to_numpy(float) for of in (rated, base))
            row |= agreement_and_gap(rated, distance, reference, resamples)
        rows.append(row)
    return pd.DataFrame(rows)


def rated_pairs(part: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Those of the rated ``pairs`` that one space's rows hold, with a column distance."""
    keys = map(frozenset, zip(part["text1"], part["text2"], strict=True))
    known: Mapping[frozenset[str], float] = dict(zip(keys, part["distance"], strict=True))
    asked = map(frozenset, zip(pairs["text1"], pairs["text2"], strict=True))
    distances = [known.get(key, np.nan) for key in asked]
    return pairs.assign(distance=distances).dropna(subset="distance")
