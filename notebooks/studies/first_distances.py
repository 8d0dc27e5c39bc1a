"""What the first distances say, for chapter 1: of one pair, of a ranking, and of words in kinds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

import conjure_lib as cj


def facts(estimate: cj.Estimate) -> dict[str, float]:
    """A distance with its errors, and its half as a power of ten: the odds of one path."""
    return {
        "pair": estimate.value,
        "pair_error": estimate.stderr,
        "odds": estimate.value / 2 / math.log(10),
        "steps_error": estimate.quadrature_error,
    }


def nearest_facts(texts: Sequence[str], estimates: Sequence[cj.Estimate]) -> dict[str, Any]:
    """Which of ``texts`` came out nearest, next and farthest, and whether the draws settle it.

    The same noise is in all estimates, so that the interval, 95 %, is one of differences.
    """
    order = sorted(range(len(texts)), key=lambda k: estimates[k].value)
    best, second, far = (order[i] for i in (0, 1, -1))
    gap = estimates[second].by_draw - estimates[best].by_draw
    half_width = t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
    return {
        "nearest": texts[best],
        "second_nearest": texts[second],
        "gap": gap.mean(),
        "gap_low": gap.mean() - half_width,
        "gap_high": gap.mean() + half_width,
        "settled": "settles" if gap.mean() > half_width else "does not settle",
        "far": texts[far],
        "far_value": estimates[far].value,
    }


def kind_facts(matrix: cj.DistanceMatrix, kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """For how many words the nearest is of their own kind; what lots would give; the errors."""
    kind = np.repeat(list(kinds), [len(members) for members in kinds.values()])
    n, upper = len(kind), np.triu_indices(len(kind), 1)
    to_others = matrix.value + np.diag([np.inf] * n)
    same = (kind[:, None] == kind).sum() - n  # ordered pairs of one kind
    return {
        "words": n,
        "pairs": len(upper[0]),
        "own_kind": int((kind[to_others.argmin(1)] == kind).sum()),
        "by_chance": same / (n - 1),
        "matrix_error": np.median(matrix.stderr[upper] / matrix.value[upper]),
    }
