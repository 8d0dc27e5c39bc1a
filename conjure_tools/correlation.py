"""Correlations with human scores, with intervals that know of other pairs, draws and texts.

A bootstrap over pairs alone says what other pairs would have given with the same draws and with
texts that never meet again. Where values come with their draws, the interval is widened by what
all pairs of a draw share, its noise; where the texts are given, by what pairs that share a text do.

A resample is kept as how often it holds each pair, (n,) counts. Mean ranks of the resample then
follow from running sums over the sorted values: exact with ties, and nothing is sorted again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, norm
from scipy.stats import t as student

from conjure_lib.inputs import as_numbers, whole

FEW = 10  # pairs below which there is no interval
CHUNK = 2**18  # pairs drawn at a time: bounds the memory, changes no number
MIXED = 20  # times that the draws of each pair are mixed, to see what pairs share of a draw


class Resampling(TypedDict, total=False):
    """How an interval is drawn: from so many ``resamples``, 10,000 by default, of a ``seed``."""

    resamples: int
    seed: int


class Interval(Resampling, total=False):
    """The same, and the ``texts`` (n, 2) of each pair, where they recur."""

    texts: np.ndarray | None


Column = Callable[[np.ndarray], np.ndarray]
"""Counts (b, n) of the pairs in b resamples to centred values or ranks (b, n)."""


@dataclass(frozen=True)
class Correlation:
    """A correlation, or a difference of two, with a 95 % percentile interval.

    The interval is from a bootstrap over ``pairs`` pairs, and draws where they were given; NaN,
    with a warning, where nothing varies. Of fewer than `FEW` pairs there is none: resamples of so
    few say nothing of other pairs.
    """

    value: float
    low: float
    high: float
    pairs: int


def spearman(predicted: np.ndarray, human: np.ndarray, **how: Unpack[Interval]) -> Correlation:
    """Spearman's ρ of ``predicted`` and ``human`` (n,), with its interval; ties get mean ranks.

    Args:
        predicted: (n,), or (draws, n), whose mean is correlated and whose noise is in the interval.
        human: (n,).
        how: of :class:`Interval`: texts, resamples, seed.

    Raises:
        ValueError: the lengths differ, fewer than three pairs, or a value that is not finite.

    >>> import numpy as np
    >>> from conjure_tools.correlation import spearman
    >>> spearman(np.arange(20.0), np.arange(20.0) ** 2, resamples=50).value
    1.0
    """
    return _bootstrap([predicted, human], _ranks, _partial, **how)


def pearson(predicted: np.ndarray, human: np.ndarray, **how: Unpack[Interval]) -> Correlation:
    """Pearson's r with its interval; arguments and errors as `spearman`."""
    return _bootstrap([predicted, human], _values, _partial, **how)


def partial_spearman(
    predicted: np.ndarray, human: np.ndarray, given: np.ndarray, **how: Unpack[Interval]
) -> Correlation:
    """Spearman's ρ of ``predicted`` and ``human`` with ``given`` (n,) or (n, m) held constant.

    That is Pearson's r of the ranks after the ranks of ``given`` are regressed out of both, anew
    in each resample. Other arguments and errors as `spearman`.
    """
    given = as_numbers("given", given)
    others = list(given.reshape(len(given), -1).T)
    return _bootstrap([predicted, human, *others], _ranks, _partial, **how)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    human: np.ndarray,
    *,
    same_draws: bool = True,
    **how: Unpack[Interval],
) -> Correlation:
    """ρ(first, human) - ρ(second, human), both from the same resamples; errors as `spearman`.

    Args:
        same_draws: of two that come with as many draws each: whether they started from the same
            noise, so that what they share of it cancels.

    >>> import numpy as np
    >>> from conjure_tools.correlation import paired_bootstrap
    >>> right = np.arange(20.0)
    >>> paired_bootstrap(right, -right, right, resamples=50).value
    2.0
    """
    vectors = [first, second, human]
    return _bootstrap(vectors, _ranks, _difference, same_draws=same_draws, **how)


def of_ranks(
    vectors: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    **how: Unpack[Interval],
) -> Correlation:
    """Any ``statistic`` of the Spearman correlations of some vectors (n,), with its interval.

    Args:
        statistic: of correlation matrices (b, k, k), of the vectors in their order: (b,).

    Other arguments and errors as `spearman`.
    """
    return _bootstrap(vectors, _ranks, statistic, **how)


def both_texts(pairs: pd.DataFrame) -> np.ndarray | None:
    """The texts (n, 2) of a table of pairs, where it has them."""
    names = ["text1", "text2"]
    return pairs[names].to_numpy() if {*names} <= {*pairs} else None


def agreement(
    table: pd.DataFrame,
    similarity: Sequence[float] | np.ndarray,
    by: str | None = None,
    **how: Unpack[Resampling],
) -> list[dict[str, Any]]:
    """Correlations of ``similarity`` with the human scores of ``table``: pooled, then by group.

    Args:
        table: has a column score, as from `load_pairs`; texts that recur in its columns text1
            and text2 widen the intervals.
        similarity: one a row (n,), larger is closer; or those of several draws (draws, n).
        by: the column of the groups; None takes pos, else subset, if there are two or more.

    Returns:
        Rows with the keys group ("" for all pairs), spearman, spearman_low, spearman_high, the
        same of pearson, and pairs. NaN for groups of fewer than three pairs.

    Raises:
        ValueError: as `spearman`; or no column score.
        KeyError: no column ``by``.

    >>> import pandas as pd
    >>> from conjure_tools.correlation import agreement
    >>> table = pd.DataFrame({"score": [1.0, 2.0, 3.0, 4.0]})
    >>> agreement(table, [10.0, 20.0, 30.0, 40.0], resamples=50)[0]["pairs"]
    4
    """
    if "score" not in table:
        raise ValueError("the pairs have no column score: there is nothing to agree with")
    values, human = as_numbers("similarity", similarity), as_numbers("score", table["score"])
    if values.shape[-1:] != human.shape:
        raise ValueError(
            f"similarity must be of one length with the {len(table)} pairs, not {values.shape}"
        )
    names = both_texts(table)
    groups = {"": np.arange(len(table))} | _groups(table, by)
    rows = []
    for group, at in groups.items():
        row: dict[str, Any] = {"group": group}
        for measure in (spearman, pearson):
            found = Correlation(np.nan, np.nan, np.nan, len(at))
            if not group or len(at) > 2:
                texts = None if names is None else names[at]
                found = measure(values[..., at], human[at], texts=texts, **how)
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
    *,
    resamples: int = 10_000,
    seed: int = 0,
    texts: np.ndarray | None = None,
    same_draws: bool = True,
) -> Correlation:
    """``statistic`` of the correlation matrix of the vectors, with its percentile interval.

    Resamples are scipy's, a few at a time. Those in which nothing varies have no correlation: they
    are left out of the interval, where scipy's own would be NaN.
    """
    x = _sound(vectors, 2 if statistic is _difference else 1)
    n = x[0].shape[-1]
    names = None if texts is None else _numbered(texts, n)
    resamples = whole("resamples", resamples, 0) if n >= FEW else 0
    rng = np.random.default_rng(whole("seed", seed, 0))

    def measures(means: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        columns = [prepare(v) for v in means]
        return lambda times: statistic(
            _correlations(np.stack([c(times) for c in columns], axis=1), times)
        )

    measure = measures([v.mean(0) for v in x])
    drawn = _resampled(measure, n, resamples, rng)
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    value = float(measure(np.ones((1, n), int))[0])
    if np.isnan(value):
        warnings.warn(
            f"of these {n} pairs there is no correlation, it is NaN: a vector does not vary, or "
            "not apart from what is held constant",
            stacklevel=3,
        )
    elif len(drawn) and (spread := float(drawn.var())):
        more = 1.0 if names is None else _of_texts(measure, names)
        more += (
            _of_draws(
                x, lambda means: float(measures(means)(np.ones((1, n), int))[0]), same_draws, rng
            )
            / spread
        )
        low, high = (value + math.sqrt(more) * (end - value) for end in (low, high))
        ends: dict[Any, float] = {_partial: 1.0, _difference: 2.0}
        most = ends.get(statistic, math.inf)
        low, high = max(low, -most), min(high, most)
    return Correlation(value, float(low), float(high), n)


def _resampled(
    measure: Callable[[np.ndarray], np.ndarray], n: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """``measure`` of resamples of n pairs, where it is a number; (resamples,) or fewer."""

    def counted(rows: np.ndarray, axis: int) -> np.ndarray:
        """Of resamples (b, n), given as positions of pairs."""
        places = rows + n * np.arange(len(rows))[:, None]
        return measure(np.bincount(places.ravel(), minlength=places.size).reshape(-1, n))

    if not resamples:
        return np.empty(0)
    options = {"vectorized": True, "method": "percentile", "batch": max(1, CHUNK // n)}
    options |= {"n_resamples": resamples, "rng": rng}
    with warnings.catch_warnings(action="ignore"):  # of those in which nothing varies
        found = bootstrap((np.arange(n),), counted, **options).bootstrap_distribution
    return found[np.isfinite(found)]


def _of_draws(
    x: Sequence[np.ndarray],
    measure: Callable[[Sequence[np.ndarray]], float],
    same_draws: bool,
    rng: np.random.Generator,
) -> float:
    """Variance that comes from what all pairs share of a draw, by leaving out each draw.

    What a draw does to each pair by itself is in the bootstrap over pairs already. It is what is
    left when the draws of every pair are mixed, and is subtracted (Cameron, Gelbach and Miller
    2011). Few draws know their own variance badly: as much as Student's t is wider, so is this.
    """
    groups: dict[Any, list[int]] = {}
    for i, v in enumerate(x):
        if len(v) > 1:
            groups.setdefault(len(v) if same_draws else i, []).append(i)
    total = 0.0
    for members in groups.values():
        mixed = []
        for _ in range(MIXED):
            order = rng.random(x[members[0]].shape).argsort(axis=0)
            mixed.append(
                [np.take_along_axis(v, order, 0) if i in members else v for i, v in enumerate(x)]
            )
        shared, *alone = [_left_out(y, members, measure) for y in [x, *mixed]]
        few = float(student.ppf(0.975, len(x[members[0]]) - 1) / norm.ppf(0.975)) ** 2
        total += few * max(0.0, shared - float(np.mean(alone)))
    return total


def _left_out(
    x: Sequence[np.ndarray],
    members: Sequence[int],
    measure: Callable[[Sequence[np.ndarray]], float],
) -> float:
    """The jackknife's variance of ``measure`` over the draws of ``members``."""
    draws = len(x[members[0]])
    without = [
        measure(
            [np.delete(v, d, 0).mean(0) if i in members else v.mean(0) for i, v in enumerate(x)]
        )
        for d in range(draws)
    ]
    return float((draws - 1) * np.var(without))


def _numbered(texts: np.ndarray, n: int) -> np.ndarray:
    """Two texts a pair as numbers (n, 2), the smaller first; equal numbers for equal texts."""
    pairs = np.asarray(texts, dtype=object)
    if pairs.shape != (n, 2):
        raise ValueError(f"texts must have shape {(n, 2)}, two a pair, not {pairs.shape}")
    return np.sort(pd.factorize(pairs.ravel())[0].reshape(n, 2), axis=1)


def _of_texts(measure: Callable[[np.ndarray], np.ndarray], texts: np.ndarray) -> float:
    """:func:`text_ratio` of the influences on ``measure``, found by leaving out each pair."""
    n = len(texts)
    step = max(1, CHUNK // n)
    left_out = [
        measure(1 - np.eye(min(step, n - first), n, first, dtype=int))
        for first in range(0, n, step)
    ]
    return text_ratio(np.concatenate(left_out), texts)


def text_ratio(left_out: np.ndarray, texts: np.ndarray) -> float:
    """Variance with pairs that share a text dependent, over that with all pairs independent.

    Both are sums over the pairs' influences: of products within a pair, and of all pairs that have
    a text in common (Aronow, Samii and Assenova 2015). At least 1, since the second can be smaller
    by chance; 1 where an influence is no number.

    Args:
        left_out: (n,), a statistic of all pairs but one.
        texts: (n, 2), the texts of each pair.

    >>> import numpy as np
    >>> from conjure_tools.correlation import text_ratio
    >>> apart = [["cat", "dog"], ["sun", "moon"]]
    >>> text_ratio(np.array([0.1, 0.3]), np.array(apart))
    1.0
    """
    if not np.isfinite(left_out).all():
        return 1.0
    texts = _numbered(texts, len(left_out))
    influence = left_out - left_out.mean()
    apart = influence @ influence
    if apart == 0:
        return 1.0
    one = texts[:, 0] == texts[:, 1]  # a text beside itself counts once
    by_text = np.bincount(texts[:, 0], influence, minlength=texts.max() + 1)
    by_text += np.bincount(texts[~one, 1], influence[~one], minlength=texts.max() + 1)
    _, both = np.unique(texts[~one], axis=0, return_inverse=True)
    twice = np.bincount(both.ravel(), influence[~one])  # pairs that share both of their texts
    return float(max(1.0, (by_text @ by_text - twice @ twice) / apart))


def _sound(vectors: Sequence[np.ndarray], drawn: int) -> list[np.ndarray]:
    """The vectors as float64 (draws, n), if they can be correlated; ValueError if not.

    The first ``drawn`` may come with their draws.
    """
    x = [as_numbers(f"vector {i}", v).astype(np.float64) for i, v in enumerate(vectors, 1)]
    flat = all(v.ndim == 1 or (i < drawn and v.ndim == 2 and len(v)) for i, v in enumerate(x))
    if not flat or len({v.shape[-1] for v in x}) > 1 or x[0].shape[-1] < 3:
        shapes = " and ".join(str(v.shape) for v in x)
        raise ValueError(f"need vectors of one length (3 or more), not {shapes}")
    return [np.atleast_2d(v) for v in x]


def _ranks(x: np.ndarray) -> Column:
    """Mean ranks of each resample, less their mean, by counting: exact, and no sorting again."""
    _, code, count = np.unique(x, return_inverse=True, return_counts=True)
    order, first = np.argsort(code, kind="stable"), np.cumsum(count) - count

    def column(times: np.ndarray) -> np.ndarray:
        tied = np.add.reduceat(times[:, order], first, axis=1)  # (b, distinct values)
        rank = np.cumsum(tied, axis=1) - (tied - 1) / 2
        return rank[:, code] - (times.sum(axis=1, keepdims=True) + 1) / 2

    return column


def _values(x: np.ndarray) -> Column:
    """The values less the mean of each resample, in units of their range."""
    x = x / (np.abs(x).max() or 1.0)  # so that nothing overflows
    x = (x - x.mean()) / (np.ptp(x) or np.inf)  # all zero if they do not vary
    return lambda times: x - (times @ x / times.sum(axis=1))[:, None]


def _correlations(x: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Correlation matrices (b, k, k) of centred (b, k, n); zero rows for what does not vary."""
    products = (x * times[:, None]) @ x.transpose(0, 2, 1)
    spread = np.sqrt(np.einsum("bkk->bk", products))
    spread[spread < 1e-10] = np.inf
    return products / spread[:, :, None] / spread[:, None]


def left_over(c: np.ndarray) -> np.ndarray:
    """What is left of the first two of k variables, the others regressed out of them.

    From correlation matrices (b, k, k) to covariance matrices (b, 2, 2).
    """
    cross = c[:, :2, 2:]
    inverse = np.linalg.pinv(c[:, 2:, 2:], rcond=1e-10, hermitian=True)
    return np.asarray(c[:, :2, :2] - cross @ inverse @ cross.transpose(0, 2, 1))


def _partial(c: np.ndarray) -> np.ndarray:
    """Correlation of the first two of k variables, the others held constant; (b, k, k) to (b,)."""
    c = left_over(c) if c.shape[1] > 2 else c
    left = c[:, 0, 0] * c[:, 1, 1]  # variance that is left: 1 if nothing is held constant
    return c[:, 0, 1] / np.sqrt(np.where(left > 1e-12, left, np.nan))


def _difference(c: np.ndarray) -> np.ndarray:
    """Correlation of the first with the third variable less that of the second with it; (b,)."""
    varies = np.einsum("bkk->bk", c).all(axis=1)
    return np.where(varies, c[:, 0, 2] - c[:, 1, 2], np.nan)
