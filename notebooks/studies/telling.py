"""What a text tells the model, for chapter 4: things and ideas, where and when two texts differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullFormatter

import conjure_lib as cj
from conjure_lib.engine import chunks
from conjure_lib.sampling import Settings
from conjure_tools import plots
from conjure_tools.plots import PALETTE
from studies.pages import bracketed

LISTS = {
    "things": "house / castle, tree / flower, car / bus, ship / canoe, guitar / trumpet, "
    "sun / moon, key / lock, hammer / axe, clock / hourglass, book / newspaper, "
    "shirt / dress, bed / chair",
    "other things": "chimney / fireplace, trellis / fence, saddle / bridle, rake / wheelbarrow, "
    "plank / beam, quilt / pillow, gutter / drainpipe, sandpaper / chisel, windmill / watermill, "
    "scarecrow / haystack, wardrobe / cupboard, ladle / sieve",
    "ideas": "guilt / shame, truth / honesty, promise / obligation, logic / reason, "
    "freedom / independence, theory / hypothesis, infinity / eternity, destiny / fate, "
    "patience / tolerance, virtue / morality, probability / chance, irony / sarcasm",
}
"""Pairs of near words: pictured in training, not pictured there, and not to be pictured."""
SHIFTS = (1, 2)  # the first words of a list also meet the second words one and two pairs on


def with_error(values: Sequence[float] | np.ndarray, digits: int = 0) -> str:
    """The mean over draws and its standard error, with spaces at which no line is broken."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean}\u00a0±\u00a0{np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


# -- what a text tells ------------------------------------------------------------------------


@torch.no_grad()
def answers(
    process: cj.GenerativeProcess,
    texts: Sequence[str],
    draws: int,
    *,
    steps: int,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """ε(x|y) - ε(x|∅) on the trajectories of some texts, float32, (texts, draws, S, D)."""
    noise = process.noise(range(draws), seed)
    empty, parts = process.encode([""]), []
    for rows in chunks([(i, k) for i in range(len(texts)) for k in range(draws)], batch_size):
        i, k = (list(side) for side in zip(*rows, strict=True))
        path = process.trajectories(
            process.encode([texts[n] for n in i]), noise[k], k, steps=steps, seed=seed
        )
        times = path.timesteps.to(process.device)
        for s, t in enumerate(times):
            path.eps[:, s] -= process.eps(path.states[:, s], t.expand(len(i)), empty[[0] * len(i)])
        parts.append(path.eps.flatten(2).cpu().numpy())
    return np.concatenate(parts).reshape(len(texts), draws, len(times), -1)


def told(differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """q of each text in each draw, (texts, draws); ``weights`` are those of the timesteps."""
    return (differences.astype(np.float64) ** 2).sum(-1) @ weights / 2


def same(differences: np.ndarray) -> np.ndarray:
    """r of each text, (texts,)."""
    flat = differences.reshape(*differences.shape[:2], -1).astype(np.float64)
    inner = flat @ flat.transpose(0, 2, 1)  # (texts, draws, draws)
    own, k = np.trace(inner, axis1=1, axis2=2), flat.shape[1]
    return (inner.sum((1, 2)) - own) / (k * (k - 1)) / (own / k)


def from_empty(process: cj.GenerativeProcess, texts: Sequence[str]) -> np.ndarray:
    """How far the text encoder's output lies from that of the empty text, (texts,)."""
    hidden = process.encode([*texts, ""]).cpu().double().flatten(1)
    return (hidden[:-1] - hidden[-1]).norm(dim=1).numpy()


# -- things and ideas -------------------------------------------------------------------------


def above(first: np.ndarray, second: np.ndarray) -> float:
    """P(a random one of the first lies above a random one of the second), ties counting half.

    By hand: scikit-learn's roc_auc_score would check its input again for each of many resamples.
    """
    more = first[:, None] - second
    return float(((more > 0).mean() + (more >= 0).mean()) / 2)


def redrawn(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bootstrap sample over the pairs of a list, (words,)."""
    by_pair = values.reshape(-1, 2)
    return by_pair[rng.integers(len(by_pair), size=len(by_pair))].ravel()


def middle_95(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of some bootstrap values."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def told_apart(
    first: np.ndarray, second: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """`above`, and the ends of its interval over the pairs of both lists.

    By hand: scipy's bootstrap takes a statistic along the axis that is drawn, and here pairs are
    drawn and their words compared.
    """
    drawn = [above(redrawn(first, rng), redrawn(second, rng)) for _ in range(resamples)]
    return above(first, second), *middle_95(drawn)


def line(things: np.ndarray, ideas: np.ndarray) -> float:
    """The value with equal shares of things below and of ideas above."""
    values = np.sort(np.r_[things, ideas])
    candidates = (values[1:] + values[:-1]) / 2
    miss = [abs((things < c).mean() - (ideas > c).mean()) for c in candidates]
    return float(candidates[np.argmin(miss)])


def draw_told(
    found: Mapping[str, np.ndarray],
    verdicts: pd.DataFrame,
    cut: tuple[float, float],
    weighting: str,
    rng: np.random.Generator,
) -> None:
    """What the words of every list tell, what the prompts tell, and the line with its error."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), sharex=True, width_ratios=[1, 1.2])
    for row, values in enumerate(found.values()):
        y = row + rng.uniform(-0.25, 0.25, len(values))
        left.scatter(values, y, s=22, color=PALETTE[row], alpha=0.75)
    left.set_yticks(range(len(found)), list(found))
    left.invert_yaxis()
    wide = 1.96 * verdicts["error"]
    value = verdicts["told"]
    shown = verdicts.assign(value=value, low=value - wide, high=value + wide)
    plots.forest(right, {"": shown}, list(verdicts.index))
    middle, error = cut
    for axis in (left, right):
        axis.axvspan(middle - 1.96 * error, middle + 1.96 * error, color="0.88", zorder=0)
        axis.axvline(middle, color="0.5", linewidth=1)
        axis.set(xlabel=f"what the text tells (weighting “{weighting}”)", ylabel="", xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    plt.show()


# -- partners ---------------------------------------------------------------------------------


def partner_distances(
    process: cj.GenerativeProcess, found: Sequence[tuple[str, str]], **settings: Unpack[Settings]
) -> np.ndarray:
    """Distances of first words to their partners, then to second words further on, (3, pairs).

    ``settings`` are those of `conjure_lib.distances`.
    """
    n = len(found)
    wanted = [(found[i][0], found[(i + s) % n][1]) for s in (0, *SHIFTS) for i in range(n)]
    estimates = cj.distances(process, wanted, **settings)
    return np.array([e.value for e in estimates]).reshape(1 + len(SHIFTS), n)


def partner_nearer(distances: np.ndarray) -> np.ndarray:
    """For each pair, the share of its words' other distances that exceed its own, (pairs,)."""
    own, others = distances[0], distances[1:]
    theirs = [np.roll(row, shift) for row, shift in zip(others, SHIFTS, strict=True)]
    return (np.concatenate([others, theirs]) > own).mean(0)


def partners(
    between: Mapping[str, np.ndarray], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """By list, how often a partner is nearer, and how far related and unrelated words are.

    By hand: one resample serves two intervals, and in the second it may be that of another list.
    """
    things = between["things"][0]
    related, rows = np.median(things), {}
    for kind, found in between.items():
        shares, unrelated = partner_nearer(found), found[1:]
        places = rng.integers(found.shape[1], size=(resamples, 2, found.shape[1]))
        low, high = middle_95([shares[i].mean() for i, _ in places])
        if kind == "things":  # above and below the line stand the same words
            places[:, 1] = places[:, 0]
        ratios = [np.median(unrelated[:, i]) / np.median(things[j]) for i, j in places]
        rows[kind] = {
            "partner is nearer": bracketed((shares.mean(), low, high), ".2f"),
            "related": np.median(found[0]),
            "unrelated": np.median(unrelated),
            "unrelated, in units of related things": bracketed(
                (np.median(unrelated) / related, *middle_95(ratios)), ".2f"
            ),
        }
    return pd.DataFrame(rows).T
