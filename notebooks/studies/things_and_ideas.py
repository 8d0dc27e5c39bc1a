"""What a text tells the model, for chapter 4: things and ideas, where and when two texts differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_lib.engine import chunks
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
    sampling: cj.Sampling,
    batch_size: int,
) -> np.ndarray:
    """ε(x|y) - ε(x|∅) on the trajectories of some texts, float32, (texts, draws, S, D)."""
    draws, empty, parts = sampling.numbers, process.encode([""]), []
    noise = process.noise(draws, sampling.seed)
    for rows in chunks([*product(range(len(texts)), range(len(draws)))], batch_size):
        i, k = (list(side) for side in zip(*rows, strict=True))
        condition, keys = process.encode([texts[n] for n in i]), [draws[n] for n in k]
        path = process.trajectories(condition, noise[k], keys, sampling=sampling)
        times = path.timesteps.to(process.device)
        for s, t in enumerate(times):
            path.eps[:, s] -= process.eps(path.states[:, s], t.expand(len(i)), empty[[0] * len(i)])
        parts.append(path.eps.flatten(2).cpu().numpy())
    return np.concatenate(parts).reshape(len(texts), len(draws), len(times), -1)


def told(differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """q of each text in each draw, (texts, draws); ``weights`` are those of the timesteps."""
    return (differences.astype(np.float64) ** 2).sum(-1) @ weights / 2


def shared_part(differences: np.ndarray) -> np.ndarray:
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
    process: cj.GenerativeProcess,
    found: Sequence[tuple[str, str]],
    sampling: cj.Sampling,
    weighting: Weighting,
    batch_size: int,
) -> np.ndarray:
    """Distances of first words to their partners, then to second words further on, (3, pairs)."""
    n = len(found)
    wanted = [(found[i][0], found[(i + s) % n][1]) for s in (0, *SHIFTS) for i in range(n)]
    estimates = cj.distances(
        process, wanted, sampling=sampling, weighting=weighting, batch_size=batch_size
    )
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


# -- three lists, twelve prompts, and the sentences -------------------------------------------


def pairs_of_lists(count: int) -> dict[str, list[tuple[str, str]]]:
    """The first ``count`` pairs of every list."""
    return {
        kind: [(a, b) for a, b in (pair.split(" / ") for pair in text.split(", ")[:count])]
        for kind, text in LISTS.items()
    }


def readings(
    process: cj.GenerativeProcess,
    lists: Mapping[str, Sequence[tuple[str, str]]],
    scales: Mapping[cj.Weighting, np.ndarray],
    sampling: cj.Sampling,
    batch_size: int,
) -> dict[str, dict[str, np.ndarray]]:
    """What the words of every list tell under each weighting, how alike, and what is read of them.

    ``scales`` are the weights of the timesteps, (S,).
    """
    found = {}
    for kind, pairs in lists.items():
        texts = [word for pair in pairs for word in pair]
        differences = answers(process, texts, sampling, batch_size)
        found[kind] = {f"told, “{w}”": told(differences, s).mean(1) for w, s in scales.items()}
        found[kind] |= {"same each time": shared_part(differences)}
        found[kind] |= {"text encoder": from_empty(process, texts)}
    return found


def separations(
    found: Mapping[str, Mapping[str, np.ndarray]], resamples: int, rng: np.random.Generator
) -> pd.DataFrame:
    """By reading, how often a word of one list lies above one of another, with its interval."""
    couples = (("things", "ideas"), ("other things", "ideas"), ("things", "other things"))
    rows = {}
    for reading in found["things"]:
        rows[reading] = {
            f"{a} > {b}": bracketed(
                told_apart(found[a][reading], found[b][reading], resamples, rng), ".2f"
            )
            for a, b in couples
        }
    return pd.DataFrame(rows).T


def separation_facts(found: pd.DataFrame, pull: str) -> dict[str, str]:
    """What separates the lists; ``pull`` is the reading that the figures take."""
    first, others, taught = found.columns
    return {
        "auc_pull": found.loc[pull, first],
        "auc_others": found.loc[pull, others],
        "auc_taught": found.loc[pull, taught],
        "auc_sde": found.loc["told, “sde”", first],
        "auc_same": found.loc["same each time", first],
        "auc_same_others": found.loc["same each time", others],
        "auc_text": found.loc["text encoder", first],
        "auc_text_others": found.loc["text encoder", others],
        "auc_text_taught": found.loc["text encoder", taught],
    }


@dataclass(frozen=True)
class Cut:
    """The line between things and ideas, by what they tell."""

    things: np.ndarray  # what each of them tells
    value: float
    error: float  # standard error over pairs of words
    wrong: float  # the share of words on their wrong side, %
    there: bool  # whether things tell more than ideas at all


def drawn_line(
    things: np.ndarray, ideas: np.ndarray, resamples: int, rng: np.random.Generator
) -> Cut:
    """`line` with its error; that there is none to draw is printed."""
    cut = line(things, ideas)
    drawn = [line(redrawn(things, rng), redrawn(ideas, rng)) for _ in range(resamples)]
    wrong = 100 * ((things < cut).mean() + (ideas > cut).mean()) / 2
    there = told_apart(things, ideas, resamples, rng)[1] > 0.5
    if not there:
        print("With this model things do not tell more than ideas: there is no line to draw.")
    return Cut(things, cut, float(np.std(drawn)), wrong, there)


def verdicts(
    prompts: Sequence[str], differences: np.ndarray, scale: np.ndarray, cut: Cut
) -> pd.DataFrame:
    """What each prompt tells, from its :func:`answers`, and on which side of the line it lies."""
    by_draw = told(differences, scale)
    error = by_draw.std(1, ddof=1) / by_draw.shape[1] ** 0.5
    table = pd.DataFrame({"told": by_draw.mean(1), "error": error}, index=list(prompts))
    gap = (table["told"] - cut.value) / np.hypot(table["error"], cut.error)
    sides = np.select([gap < -1.96, gap > 1.96], ["below", "above"], "too near to tell")
    table["verdict"] = sides if cut.there else "no line to draw"
    table["same each time"] = shared_part(differences)
    table["things that tell less (%)"] = [100 * (cut.things < t).mean() for t in table["told"]]
    return table


def verdict_table(table: pd.DataFrame, unit: str, draws: int) -> Styler:
    """The verdicts, for reading."""
    shown = table.style.format(precision=2).format("{:.0f}", subset="things that tell less (%)")
    caption = f"What each prompt tells ({unit}), with its standard error over {draws} draws"
    return shown.set_caption(caption)


def verdict_facts(table: pd.DataFrame, cut: Cut) -> dict[str, Any]:
    """The prompts on either side of the line."""
    names = {side: [f"“{p}”" for p in rows.index] for side, rows in table.groupby("verdict")}
    lists = {side: ", ".join(found) for side, found in names.items()}
    below, tell = lists.get("below", "none"), "tell" if len(names.get("below", ())) > 1 else "tells"
    return {
        "below_list": below,
        "above_list": lists.get("above", "none"),
        "unsure_list": lists.get("too near to tell", "none"),
        "too_little": f"{below} {tell} it too little",
        "wrong": cut.wrong,
        "least_same": " and ".join(f"“{p}”" for p in table["same each time"].nsmallest(2).index),
    }


def partner_facts(table: pd.DataFrame) -> dict[str, str]:
    """How often partners are nearer, and how far unrelated words are."""
    nearer, unrelated = table["partner is nearer"], table["unrelated, in units of related things"]
    return {
        "partner_things": nearer["things"],
        "partner_others": nearer["other things"],
        "partner_ideas": nearer["ideas"],
        "unrelated_ideas": unrelated["ideas"],
        "unrelated_things": unrelated["things"],
    }
