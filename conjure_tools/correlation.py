"""Correlations with human scores, with bootstrap intervals over pairs.

A resample is kept as how often it holds each pair, (n,) counts. Mean ranks of the resample then
follow from running sums over the sorted values: exact with ties, and nothing is sorted again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from conjure_lib.inputs import as_numbers, whole

FEW = 10  # pairs below which there is no interval
CHUNK = 2**18  # pairs drawn at a time: bounds the memory, changes no number
Column = Callable[[np.ndarray], np.ndarray]
"""Counts (b, n) of the pairs in b resamples to centred values or ranks (b, n)."""


@dataclass(frozen=True)
class Correlation:
    """A correlation, or a difference of two, with a 95 % percentile interval.

    The interval is from a bootstrap over ``pairs`` pairs; NaN, with a warning, where nothing
    varies. Of fewer than
    `FEW` pairs there is none: resamples of so few say nothing of other pairs.
    """

    value: float
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
    return _bootstrap([predicted, human], _ranks, _partial, resamples, seed)


def pearson(
    predicted: np.ndarray, human: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> Correlation:
    """Pearson's r of two vectors (n,), with its bootstrap interval; errors as `spearman`."""
    return _bootstrap([predicted, human], _values, _partial, resamples, seed)


def partial_spearman(
    predicted: np.ndarray,
    human: np.ndarray,
    given: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Correlation:
    """Spearman's ρ of (n,) and (n,) with ``given`` (n,) or (n, m) held constant.

    That is Pearson's r of the ranks after the ranks of ``given`` are regressed out of both, anew
    in each resample. Errors as `spearman`.
    """
    given = as_numbers("given", given)
    others = list(given.reshape(len(given), -1).T)
    return _bootstrap([predicted, human, *others], _ranks, _partial, resamples, seed)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    human: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Correlation:
    """ρ(first, human) - ρ(second, human), both from the same resamples; errors as `spearman`."""
    return _bootstrap([first, second, human], _ranks, _difference, resamples, seed)


def agreement(
    table: pd.DataFrame,
    similarity: Sequence[float],
    by: str | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Correlations of ``similarity`` with the human scores of ``table``: pooled, then by group.

    Args:
        table: has a column score, as from `load_pairs`.
        similarity: one a row, larger is closer.
        by: the column of the groups; None takes pos, else subset, if there are two or more.

    Returns:
        Rows with the keys group ("" for all pairs), spearman, spearman_low, spearman_high, the
        same of pearson, and pairs. NaN for groups of fewer than three pairs.

    Raises:
        ValueError: as `spearman`; or no column score.
        KeyError: no column ``by``.
    """
    if "score" not in table:
        raise ValueError("the pairs have no column score: there is nothing to agree with")
    values, human = as_numbers("similarity", similarity), as_numbers("score", table["score"])
    if len(values) != len(table):
        raise ValueError(
            f"similarity must be of one length with the {len(table)} pairs, not {len(values)}"
        )
    groups = {"": np.arange(len(table))} | _groups(table, by)
    rows = []
    for group, at in groups.items():
        row: dict[str, Any] = {"group": group}
        for measure in (spearman, pearson):
            found = Correlation(np.nan, np.nan, np.nan, len(at))
            if not group or len(at) > 2:
                of_group = (values, human) if not group else (values[at], human[at])
                found = measure(*of_group, resamples=resamples, seed=seed)
            name = measure.__name__
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row | {"pairs": len(at)})
    return rows


def _groups(table: pd.DataFrame, by: str | None) -> dict[str, np.ndarray]:
    """Label to the positions of its rows, in the order of the labels; empty labels are left out."""
    if by is None:
        several = [c for c in ("pos", "subset") if c in table and table[c].nunique() > 1]
        if not several:
            return {}
        by = several[0]
    return {str(k): v for k, v in sorted(table.groupby(by).indices.items()) if str(k)}


def _bootstrap(
    vectors: Sequence[np.ndarray],
    prepare: Callable[[np.ndarray], Column],
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    seed: int,
) -> Correlation:
    """``statistic`` of the correlation matrix of the vectors, with its percentile interval.

    Resamples are scipy's, a few at a time. Those in which nothing varies have no correlation: they
    are left out of the interval, where scipy's own would be NaN.
    """
    x = _sound(vectors)
    columns, n = [prepare(v) for v in x], len(x[0])
    resamples = whole("resamples", resamples, 0) if n >= FEW else 0
    whole("seed", seed, 0)

    def measure(times: np.ndarray) -> np.ndarray:
        return statistic(_correlations(np.stack([c(times) for c in columns], axis=1), times))

    def resampled(rows: np.ndarray, axis: int) -> np.ndarray:
        """Of resamples (b, n), given as positions of pairs."""
        places = rows + n * np.arange(len(rows))[:, None]
        return measure(np.bincount(places.ravel(), minlength=places.size).reshape(-1, n))

    drawn = np.empty(0)
    if resamples:
        options = {"vectorized": True, "method": "percentile", "batch": max(1, CHUNK // n)}
        options |= {"n_resamples": resamples, "rng": np.random.default_rng(seed)}
        with warnings.catch_warnings(action="ignore"):  # of such resamples
            found = bootstrap((np.arange(n),), resampled, **options)
        drawn = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    value = float(measure(np.ones((1, n), int))[0])
    if np.isnan(value):
        warnings.warn(
            f"of these {n} pairs there is no correlation, it is NaN: a vector does not vary, or "
            "not apart from what is held constant",
            stacklevel=3,
        )
    return Correlation(value, float(low), float(high), n)


def _sound(vectors: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The vectors as float64 (n,), if they can be correlated; ValueError if not."""
    x = [as_numbers(f"vector {i}", v).astype(np.float64) for i, v in enumerate(vectors, 1)]
    if x[0].ndim != 1 or len(x[0]) < 3 or any(v.shape != x[0].shape for v in x):
        shapes = " and ".join(str(v.shape) for v in x)
        raise ValueError(f"need vectors of one length (3 or more), not {shapes}")
    return x


def _ranks(x: np.ndarray) -> Column:
    """Mean ranks of each resample, less their mean, by counting: exact, and no sorting again."""
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    order, first = np.argsort(code, kind="stable"), np.cumsum(count) - count

    def column(times: np.ndarray) -> np.ndarray:
        tied = np.add.reduceat(times[:, order], first, axis=1)  # (b, distinct values)
        rank = np.cumsum(tied, axis=1) - (tied - 1) / 2
        return rank[:, code] - (len(x) + 1) / 2

    return column


def _values(x: np.ndarray) -> Column:
    """The values less the mean of each resample, in units of their range."""
    x = x / (np.abs(x).max() or 1.0)  # so that nothing overflows
    x = (x - x.mean()) / (np.ptp(x) or np.inf)  # all zero if they do not vary
    return lambda times: x - (times @ x / len(x))[:, None]


def _correlations(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlation matrices (b, k, k) of centred (b, k, n); zero rows for what does not vary."""
    products = (x * times[:, None]) @ x.transpose(0, 2, 1)
    spread = np.sqrt(np.einsum("bkk->bk", products))
    spread[spread < 1e-10] = np.inf
    return products / spread[:, :, None] / spread[:, None]


def _partial(c: np.ndarray) -> np.ndarray:
    """Correlation of the first two of k variables, the others held constant; (b, k, k) to (b,)."""
    if c.shape[1] > 2:
        cross = c[:, :2, 2:]
        inverse = np.linalg.pinv(c[:, 2:, 2:], rcond=1e-10, hermitian=True)
        c = c[:, :2, :2] - cross @ inverse @ cross.transpose(0, 2, 1)
    left = c[:, 0, 0] * c[:, 1, 1]  # variance that is left: 1 if nothing is held constant
    return c[:, 0, 1] / np.sqrt(np.where(left > 1e-12, left, np.nan))


def _difference(c: np.ndarray) -> np.ndarray:
    """Correlation of the first with the third variable less that of the second with it; (b,)."""
    varies = np.einsum("bkk->bk", c).all(axis=1)
    return np.where(varies, c[:, 0, 2] - c[:, 1, 2], np.nan)
