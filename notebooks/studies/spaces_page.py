"""The spaces of chapter 9 as its page has them: rows, figures, and whether the record holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler
from scipy.spatial.distance import squareform

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_tools import benchmarks
from conjure_tools.fingerprints import weights_hash
from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies import clusters, comparison, spaces
from studies.comparison import BASE
from studies.records import Overlay, Record, opened, work

KINDS = dict(
    zip(("process", "conditioning", "states", "reading", "control"), PALETTE, strict=False)
)
LABELS = {
    "guidance -1": "guidance −1",
    "text encoder, last": "text encoder, end of text",
    "text encoder, mean": "text encoder, mean of text",
}
"""Spaces that a page calls otherwise than the record does."""
MAP = (
    *(BASE, spaces.REFERENCE, "ddpm", "guidance 7.5", "guidance -1", "reflected conditioning"),
    *("random conditioning", "relabelled", "states of the empty prompt", "states of noise"),
    *("text encoder, last", *spaces.UNTRAINED),
)
"""The spaces that the map shows among themselves."""
KEY = ("space", "weighting", "text1", "text2")  # what names a distance


# -- what is at hand --------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Spaces over the same words: those of the record, or else of a few words, made here."""

    table: pd.DataFrame
    notes: dict[str, Any]
    recorded: bool
    spent: int  # noise predictions of this page
    overlay: Overlay  # of what was scored anew

    @property
    def words(self) -> list[str]:
        """The N words."""
        return list(self.notes["words"])

    def facts(self) -> dict[str, Any]:
        """Where the spaces are from, and whether the record holds."""
        sentence = "There is no record to compare with: these spaces were made on this page."
        if count := len(self.overlay.rows):
            names = " and ".join(f"`{name}`" for name in self.overlay.rows["space"].unique())
            holds = "is stale, and not to be trusted" if self.overlay.stale else "holds"
            sentence = (
                f"Of {count} distances scored again here ({names}), the largest relative "
                f"difference from the record is {self.overlay}: the record {holds}."
            )
        took = f"{self.notes['unet_evaluations']:,} noise predictions"
        return {
            "n_words": len(self.words),
            "fresh_sentence": Markdown(sentence),
            "record_evaluations": took if self.recorded else "none, since there is none here",
        }


def found_or_made(
    process: cj.GenerativeProcess,
    model: str,
    words: Sequence[str],
    fresh: Sequence[str],
    weighting: Weighting,
    recompute: bool,
    batch_size: int,
) -> Found:
    """The record, with its spaces ``fresh`` scored anew on ``words``; or all spaces of ``words``.

    The record is that of the embedded model. With ``recompute`` that of any model is made here.
    """
    record, spent = None, 0
    if recompute:
        made = spaces.make(model, work("spaces"), batch_size=batch_size)
        record, spent = Record("spaces", *made), made[1]["unet_evaluations"]
    elif process.name == cj.EMBEDDED:
        record = opened("spaces")
    if record is None:
        print(f"What follows has the {len(words)} words of this page: too few to conclude from.")
        alone = Record("spaces", *spaces.some(model, words, batch_size=batch_size))
        nothing = alone.overlay(alone.table.iloc[:0], KEY)
        return Found(alone.table, alone.notes, False, alone.notes["unet_evaluations"], nothing)
    anew, about = spaces.some(model, words, only=fresh, batch_size=batch_size)
    anew = anew[(anew["weighting"] == weighting) & anew["space"].isin(fresh)]
    overlay = record.overlay(anew, KEY, weights=weights_hash(process))
    return Found(record.table, record.notes, True, spent + about["unet_evaluations"], overlay)


def people(found: Found, weighting: Weighting, resamples: int) -> pd.DataFrame:
    """Agreement of every space with RG-65, from the ratings or else as it is on record."""
    pairs = pd.DataFrame(columns=["text1", "text2", "score"])
    try:
        pairs = benchmarks.load_pairs("rg65")
    except FileNotFoundError:
        print("RG-65 is not at hand: agreement with people is that of the record.")
        if on_record := found.notes.get("agreement"):
            return pd.DataFrame(on_record)
    how: dict[str, Any] = {"weighting": weighting, "resamples": resamples}
    return comparison.agreement_by_space(found.table, pairs, **how)


# -- three questions to each space ------------------------------------------------------------


@dataclass(frozen=True)
class SpacesCompared:
    """What the spaces have answered.

    Attributes:
        result: rows by space. kind; value, low, high and p of its resemblance to the reference;
            agreement with people: spearman, people_low, people_high, pairs, and the difference
            from `BASE` with difference_low, difference_high; separation.
        people: rows of `comparison.agreement_by_space`, under every weighting.
        matrices: distances (N, N) by space.
        chance: separations by shuffled groups.
    """

    result: pd.DataFrame
    people: pd.DataFrame
    matrices: dict[str, np.ndarray]
    chance: np.ndarray

    @property
    def ordered(self) -> pd.DataFrame:
        """The rows by their kinds."""
        place = list(KINDS)
        return self.result.sort_values("kind", key=lambda k: k.map(place.index), kind="stable")

    @property
    def by_chance(self) -> tuple[float, float]:
        """Between which separations shuffled groups lie, nineteen times of twenty."""
        low, high = np.quantile(self.chance, [0.025, 0.975])
        return float(low), float(high)

    def twins(self, name: str) -> list[str]:
        """The space and those that differ from it in the lot of the weights alone."""
        return [n for n in self.result.index if n == name or n.startswith(f"{name}, seed ")]

    def between(self, names: Sequence[str]) -> pd.DataFrame:
        """Rank correlations of the distances of some spaces."""
        upper = np.triu_indices(len(self.matrices[BASE]), 1)
        flat = {name: self.matrices[name][upper] for name in names}
        return pd.DataFrame(flat).corr(method="spearman")


def compared_spaces(
    found: Found, weighting: Weighting, resamples: int, permutations: int
) -> SpacesCompared:
    """Each space beside the reference, people and the groups, under one weighting.

    ``resamples`` are of the words; ten times as many of the pairs.
    """
    square = comparison.matrices(found.table, found.words, weighting)
    group = np.array([spaces.GROUP[word] for word in found.words])
    agreed = people(found, weighting, 10 * resamples)
    under = agreed[agreed["weighting"].isin(["", weighting])].set_index("space")
    kinds = found.table.drop_duplicates("space").set_index("space")["kind"]
    rows = {}
    for name, matrix in square.items():
        like = comparison.resemblance(
            matrix, square[spaces.REFERENCE], resamples=resamples, permutations=permutations
        )
        apart = clusters.separation(squareform(matrix, checks=False), group)
        rows[name] = {"kind": kinds[name], **like, "separation": apart}
    asked = under.rename(columns={"low": "people_low", "high": "people_high"})
    result = pd.DataFrame.from_dict(rows, orient="index").join(asked.drop(columns="weighting"))
    rng = np.random.default_rng(0)
    base = squareform(square[BASE], checks=False)
    chance = [clusters.separation(base, rng.permutation(group)) for _ in range(permutations)]
    return SpacesCompared(result, agreed, square, np.array(chance))


# -- figures and the table --------------------------------------------------------------------


def draw_spaces(found: SpacesCompared) -> None:
    """Resemblance and agreement with people, a row a space; networks by lot share one."""
    ordered = found.ordered
    ordered.loc[spaces.REFERENCE, ["value", "low", "high"]] = np.nan  # it is itself
    homes = [n for n in ordered.index if ", seed " not in n]
    kinds = ordered.loc[homes, "kind"]
    places = np.arange(len(homes)) + 0.7 * kinds.map(list(KINDS).index).to_numpy()
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 0.27 * len(homes) + 2), sharey=True)
    for place, home in zip(places, homes, strict=True):
        rows = ordered.loc[found.twins(home)]
        y = place + np.linspace(-0.3, 0.3, len(rows)) if len(rows) > 1 else [place]
        _dots(axes[0], rows[["value", "low", "high"]], y, KINDS[kinds[home]])
        _dots(axes[1], rows[["spearman", "people_low", "people_high"]], y, KINDS[kinds[home]])
    for axis, name in zip(axes, ("value", "spearman"), strict=True):
        axis.axvline(0, color="0.6", linewidth=1, zorder=0)
        axis.axvline(ordered.loc[BASE, name], color="0.6", linewidth=1, linestyle="--", zorder=0)
        axis.tick_params(labelsize=9)
    axes[0].set_yticks(places, [LABELS.get(name, name) for name in homes], fontsize=9.5)
    axes[0].set_xlabel(rf"$\rho$ with “{spaces.REFERENCE}”", fontsize=10)
    axes[1].set_xlabel(r"$\rho$ with people, RG-65", fontsize=10)
    axes[0].invert_yaxis()
    for kind, colour in KINDS.items():
        axes[1].scatter([], [], color=colour, label=kind)
    handles = axes[1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, frameon=False, fontsize=9.5)
    plt.show()


def _dots(axis: Axes, rows: pd.DataFrame, y: Sequence[float], colour: str) -> None:
    """Values with their intervals, from columns value, low, high."""
    value, low, high = rows.to_numpy(float).T
    axis.hlines(y, low, high, colors=colour, linewidth=2 if len(rows) == 1 else 1)
    axis.scatter(value, y, color=colour, s=20 if len(rows) == 1 else 9, zorder=3)


def everything_asked(found: SpacesCompared) -> Styler:
    """All that was asked of every space, × 100 where it is a correlation."""
    ordered = found.ordered
    wide = found.people.pivot(index="space", columns="weighting", values="spearman")
    agreed = wide.reindex(index=ordered.index, columns=list(cj.WEIGHTINGS))
    if "" in wide:  # of a space without terms, nothing is weighted
        agreed = agreed.T.fillna(wide[""].reindex(ordered.index)).T
    shown = pd.DataFrame(
        {
            "kind": ordered["kind"],
            "ρ with the reference": 100 * ordered["value"],
            **{f"with people, {w}": 100 * agreed[w] for w in cj.WEIGHTINGS},
            "one group nearer, %": 100 * ordered["separation"],
        }
    ).rename(index=LABELS)
    return shown.style.format("{:.0f}", subset=list(shown.columns[1:]), na_rep="").set_caption(
        "Rank correlations × 100 with the reference and with people, under each weighting, and how "
        "often a pair of one group is nearer than a pair of two"
    )


def draw_map(found: SpacesCompared) -> None:
    """Rank correlations of some spaces with one another, ordered and divided by their kinds."""
    kinds = found.ordered["kind"]
    names = [name for name in kinds.index if name in MAP]
    shown = 100 * found.between(names).rename(index=LABELS, columns=LABELS)
    shown = shown.round() + 0.0  # no negative zero
    _, axis = plt.subplots(figsize=(7.4, 6.4))
    sns.heatmap(
        shown, ax=axis, cmap=SEQUENTIAL, vmin=0, vmax=100, square=True, annot=True, fmt=".0f",
        annot_kws={"size": 9}, cbar=False, xticklabels=True, yticklabels=True,
    )  # fmt: skip
    axis.tick_params(length=0, labelsize=9.5)
    edges = np.flatnonzero(np.diff(kinds[names].map(list(KINDS).index))) + 1
    axis.hlines(edges, 0, len(names), color="white", linewidth=2)
    axis.vlines(edges, 0, len(names), color="white", linewidth=2)
    plt.show()
