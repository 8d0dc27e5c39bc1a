"""Spaces over the same words: their matrices, how alike they are, how far people agree with them.

Chapter 09 and its record use these; a table of spaces has the columns that `spaces` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies.ablations import compared

BASE = "ddim"  # the space that agreement with people is compared with
MEASURED = ("spearman", "low", "high", "difference", "difference_low", "difference_high")


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
    are NaN where one of the matrices does not vary.
    """
    rng, n = np.random.default_rng(seed), len(first)
    upper = np.triu_indices(n, 1)
    value = _rho(first[upper], second[upper])
    if np.isnan(value):
        return dict.fromkeys(("value", "low", "high", "p"), value)
    one, two = (squareform(rankdata(m[upper]) - (len(upper[0]) + 1) / 2) for m in (first, second))
    scale = np.sqrt((one**2).sum() * (two**2).sum())
    orders = [rng.permutation(n) for _ in range(permutations)]
    moved = np.array([(one * two[np.ix_(p, p)]).sum() / scale for p in orders])
    drawn = []
    for at in rng.integers(n, size=(resamples, n)):
        i, j = at[upper[0]], at[upper[1]]
        i, j = i[i != j], j[i != j]
        drawn.append(_rho(first[i, j], second[i, j]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    p = (1 + (moved >= value - 1e-12).sum()) / (1 + permutations)
    return {"value": value, "low": float(low), "high": float(high), "p": float(p)}


def _rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ of (m,) and (m,); NaN where there are few or one does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def agreement(
    table: pd.DataFrame, pairs: pd.DataFrame, *, weighting: str = "noise", resamples: int = 10_000
) -> pd.DataFrame:
    """How far each space agrees with people on those of the ``pairs`` whose words it has.

    One row per space and weighting: spearman of minus the distance, low, high; the difference from
    BASE under the same weighting (``weighting`` where there is none), difference_low,
    difference_high; pairs. Bootstrap over pairs; NaN where fewer than three are there.
    """
    groups = dict(list(table.groupby(["space", "weighting"], sort=False)))
    rows = []
    for (space, own), part in groups.items():
        distance, human = judged(part, pairs)
        row: dict[str, Any] = {"space": space, "weighting": own, "pairs": len(human)}
        row |= dict.fromkeys(MEASURED, np.nan)
        if len(human) > 2:
            base, _ = judged(groups[BASE, own or weighting], pairs)
            row |= compared(pd.DataFrame({"score": human}), distance, base, resamples)
        rows.append(row)
    return pd.DataFrame(rows)


def judged(part: pd.DataFrame, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Distances and human scores, (m,) each, of the ``pairs`` that one space's rows hold."""
    keys = map(frozenset, zip(part["text1"], part["text2"], strict=True))
    known: Mapping[frozenset[str], float] = dict(zip(keys, part["distance"], strict=True))
    rows = zip(pairs["text1"], pairs["text2"], pairs["score"], strict=True)
    there = [(known[key], s) for a, b, s in rows if (key := frozenset((a, b))) in known]
    return np.array([d for d, _ in there], float), np.array([s for _, s in there], float)


def separation(matrix: np.ndarray, groups: Sequence[str]) -> float:
    """P(a pair of one group is nearer than a pair of two groups), ties counting half."""
    above = np.triu_indices(len(matrix), 1)
    together = np.equal.outer(*[np.asarray(groups)] * 2)[above]
    return float(roc_auc_score(~together, matrix[above]))


# -- what the chapter says of them ------------------------------------------------------------

LOTS = ("random conditioning", "random conditioning, again", "relabelled")
KINDS = dict(
    zip(("process", "conditioning", "states", "reading", "control"), PALETTE, strict=False)
)
SAID = {  # under which names, of which spaces
    "people": {
        "base": BASE,
        "random": LOTS[0],
        "again": LOTS[1],
        "relabelled": LOTS[2],
        "reflected": "reflected conditioning",
        "flee": "guidance -1",
        "noise": "states of noise",
        "empty": "states of the empty prompt",
        "stranger": "states of a random word",
        "untrained": "untrained U-Net",
        "deaf": "untrained text encoder",
        "text": "text encoder, last",
    },
    "like": {
        "base": BASE,
        "ddpm": "ddpm",
        "dpm": "dpm++2m",
        "flee": "guidance -1",
        "reflected": "reflected conditioning",
        "random": LOTS[0],
        "noise": "states of noise",
        "empty": "states of the empty prompt",
        "untrained": "untrained U-Net",
        "text": "text encoder, last",
    },
    "than": {
        "noise": "states of noise",
        "empty": "states of the empty prompt",
        "stranger": "states of a random word",
        "untrained": "untrained U-Net",
        "deaf": "untrained text encoder",
    },
    "separation": {
        "base": BASE,
        "noise": "states of noise",
        "untrained": "untrained U-Net",
        "text": "text encoder, last",
    },
    "zero": {"random": LOTS[0], "again": LOTS[1], "relabelled": LOTS[2]},
}


@dataclass(frozen=True)
class Compared:
    """Rows by space: kind, resemblance to ``reference``, agreement with people, separation."""

    result: pd.DataFrame
    reference: str
    chance: np.ndarray  # separations by shuffled groups

    def numbers(self, name: str, *columns: str) -> list[float]:
        """Some columns of a space; NaN where it was not measured."""
        return [float(self.result[c].get(name, np.nan)) for c in columns]

    def people(self, name: str) -> str:
        """Agreement with people × 100, with its interval."""
        found = self.numbers(name, "spearman", "people_low", "people_high")
        if np.isnan(found[0]):
            return "not measured"
        return "{:.0f} [{:.0f}, {:.0f}]".format(*(100 * value for value in found))

    def than(self, name: str) -> str:
        """How a space's agreement with people compares with that of `BASE`, in words."""
        found = self.numbers(name, "difference", "difference_low", "difference_high")
        value, low, high = (100 * number for number in found)
        if np.isnan(value):
            return f"was not compared with {BASE}"
        verdict = f"cannot be told from {BASE}"
        if not low <= 0 <= high:
            verdict = f"agrees {'better' if low > 0 else 'less'} than {BASE}"
        return f"{verdict} ({value:+.0f} [{low:+.0f}, {high:+.0f}])"

    def like(self, name: str) -> str:
        """Resemblance to the reference, with its interval."""
        return "{:.2f} [{:.2f}, {:.2f}]".format(*self.numbers(name, "value", "low", "high"))

    def separation(self, name: str) -> float:
        """How often a pair of one group is nearer than a pair of two."""
        return self.numbers(name, "separation")[0]

    def zero(self, name: str) -> str:
        """Whether zero lies within the interval of agreement with people."""
        low, high = self.numbers(name, "people_low", "people_high")
        return "within" if low <= 0 <= high else "outside"

    def unlike(self, name: str) -> str:
        """Whether a space is less like the reference than `BASE` is, in words."""
        low, high = self.numbers(name, "low", "high")
        return "Not measurably" if low <= self.numbers(BASE, "value")[0] <= high else "Measurably"

    @property
    def followers(self) -> list[str]:
        """The processes that are neither `BASE` nor the reference."""
        names = self.result.index[self.result["kind"] == "process"]
        return [str(name) for name in names if name not in (BASE, self.reference)]

    def facts(self) -> dict[str, Any]:
        """Every number that the chapter quotes."""
        followers = self.followers
        low_high = np.quantile(self.chance, [0.025, 0.975])
        least_like = str(self.result.loc[followers, "value"].idxmin())
        clear = [n for n in followers if self.than(n).startswith("agrees")]
        said = {
            f"{what}_{key}": getattr(self, what)(name)
            for what, names in SAID.items()
            for key, name in names.items()
        }
        return said | {
            "n_spaces": len(self.result),
            "sampler_verdict": self.unlike("ddpm"),
            "people_other": self.people(self.reference),
            "p_random": ", ".join(f"{self.result.loc[n, 'p']:.3f}" for n in LOTS),
            "least_like": f"“{least_like}” with {self.like(least_like)}",
            "clear": "; ".join(f"“{n}” {self.than(n)}" for n in clear) or "none",
            "n_followers": len(followers),
            "separation_chance": "{:.2f} to {:.2f}".format(*low_high),
        }

    @property
    def ordered(self) -> pd.DataFrame:
        """The rows by their kinds."""
        place = list(KINDS)
        return self.result.sort_values("kind", key=lambda k: k.map(place.index), kind="stable")


def draw_spaces(found: Compared) -> None:
    """Resemblance, agreement with people and separation of every space."""
    ordered = found.ordered
    place = ordered["kind"].map(list(KINDS).index).to_numpy()
    y, colours = np.arange(len(ordered)) + 0.7 * place, ordered["kind"].map(KINDS)
    size = (11, 0.29 * len(ordered) + 2)
    figure, axes = plt.subplots(1, 3, figsize=size, sharey=True)
    columns = [("value", "low", "high"), ("spearman", "people_low", "people_high")]
    ordered.loc[found.reference, ["value", "low", "high"]] = np.nan  # it is itself
    for axis, names_of in zip(axes, [*columns, ("separation",) * 3], strict=True):
        middle, low, high = (ordered[c].astype(float).to_numpy() for c in names_of)
        axis.hlines(y, low, high, colors=colours, linewidth=2)
        axis.scatter(middle, y, c=colours, s=22, zorder=3)
    for axis, name in zip(axes[:2], ("value", "spearman"), strict=True):
        axis.axvline(0, color="0.6", linewidth=1, zorder=0)
        axis.axvline(ordered.loc[BASE, name], color="0.6", linewidth=1, linestyle="--", zorder=0)
    axes[2].axvspan(*np.quantile(found.chance, [0.025, 0.975]), color="0.9", zorder=0)
    axes[0].set(yticks=y, xlabel=rf"$\rho$ with “{found.reference}”")
    axes[0].set_yticklabels(ordered.index, fontsize=8.5)
    axes[1].set(xlabel=r"$\rho$ with people, RG-65")
    axes[2].set(xlabel="P(same group is nearer)")
    axes[0].invert_yaxis()
    for kind, colour in KINDS.items():
        axes[2].scatter([], [], color=colour, label=kind)
    handles = axes[2].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, frameon=False)
    plt.show()


def draw_between(between: pd.DataFrame, kinds: pd.Series) -> None:
    """Rank correlations of all spaces with one another; ``kinds`` of the spaces in their order."""
    _, axis = plt.subplots(figsize=(8.6, 7.6))
    sns.heatmap(
        between, ax=axis, cmap=SEQUENTIAL, vmin=0, vmax=1, square=True, xticklabels=True,
        yticklabels=True, cbar_kws={"label": r"$\rho$ between distances", "shrink": 0.6},
    )  # fmt: skip
    axis.tick_params(length=0, labelsize=8)
    for label in axis.get_xticklabels() + axis.get_yticklabels():
        label.set_color(KINDS[kinds[label.get_text()]])
    edges = np.flatnonzero(np.diff(kinds.map(list(KINDS).index))) + 1
    axis.hlines(edges, 0, len(between), color="white", linewidth=1.5)
    axis.vlines(edges, 0, len(between), color="white", linewidth=1.5)
    plt.show()


def between_facts(between: pd.DataFrame, found: Compared) -> dict[str, Any]:
    """How alike the processes are to one another, to the text encoder, and to the lots."""

    def ends(values: np.ndarray) -> str:
        return f"{values.min():.2f} to {values.max():.2f}"

    follow, text = [BASE, found.reference, *found.followers], "text encoder, last"
    return {
        "inside": ends(squareform(between.loc[follow, follow].to_numpy(), checks=False)),
        "to_text": ends(between.loc[follow, text].to_numpy()),
        "untrained_to_text": between.loc["untrained U-Net", text],
        "to_lots": ends(between.loc[list(LOTS), follow].to_numpy()),
    }
