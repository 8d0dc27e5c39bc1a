"""At which scale conjured meaning agrees with people's: the last study of chapter 12."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_tools.fingerprints import weights_hash
from conjure_tools.neighbors import nngs, nngs_profile
from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies import neighbor_graphs
from studies.comparison import BASE, beyond_chance, matrices
from studies.pages import bracketed, plain_ticks
from studies.records import Overlay, Record, laid_over, results_of_record
from studies.spaces_page import LABELS

TEXT = "text encoder, last"
STYLES = {
    "all-MiniLM": (PALETTE[4], "-"),
    TEXT: (PALETTE[2], "-"),
    BASE: (PALETTE[0], "-"),
    "guidance 7.5": (PALETTE[5], "-"),
    "ddpm": (PALETTE[3], "-"),
    "untrained U-Net": (PALETTE[1], "-"),
    "random conditioning": ("0.35", ":"),
}
"""Of the spaces that the figure shows."""


@dataclass(frozen=True)
class Spaces:
    """Spaces over the same words, which people have sorted into groups."""

    groups: dict[str, str]  # of each word
    matrices: dict[str, np.ndarray]  # (n, n) by space
    kinds: pd.Series
    ratings: pd.Series  # Spearman's ρ with RG-65 by space, where it is known
    record: Record

    @property
    def words(self) -> list[str]:
        """The n words."""
        return list(self.groups)

    @property
    def labels(self) -> np.ndarray:
        """The group of each word, (n,)."""
        return np.array(list(self.groups.values()))

    @cached_property
    def people(self) -> np.ndarray:
        """Distances (n, n) of two levels: within a group, and across."""
        return (self.labels[:, None] != self.labels[None, :]).astype(float)


def spaces(weighting: str) -> Spaces:
    """Those of the record of chapter 9.

    Raises:
        FileNotFoundError: it is not there; the message names the command that makes it.
    """
    record = results_of_record("spaces")
    words = record.notes["words"]
    groups = {word: record.notes["groups"][word] for word in words}
    # of networks that differ in the lot of their weights alone, the first
    table = record.table[~record.table["space"].str.contains(", seed ", regex=False)]
    found = matrices(table, words, weighting)
    ratings = pd.DataFrame(record.notes.get("agreement", []))
    ratings = ratings.reindex(columns=["space", "weighting", "spearman"])
    ratings = ratings[ratings["weighting"].isin(["", weighting])].set_index("space")["spearman"]
    kinds = table.drop_duplicates("space").set_index("space")["kind"]
    print(f"{len(found)} spaces over {len(groups)} words in {len(set(groups.values()))} groups")
    return Spaces(groups, found, kinds, ratings, record)


def profile_with_people(space: np.ndarray, people: np.ndarray, ties: int) -> pd.DataFrame:
    """Profile of a space with people's groups, averaged over orders of the ties."""
    how: dict[str, Any] = {"metric": "precomputed", "permutations": 0}
    drawn = [nngs_profile(space, people, seed=seed, **how) for seed in range(ties)]
    return pd.concat(drawn).groupby("k", as_index=False).mean()


@dataclass(frozen=True)
class Joined:
    """Every space beside people's groups, and beside each other at one scale."""

    spaces: Spaces
    k: int  # of the map, and of the p-values
    ties: int
    profiles: dict[str, pd.DataFrame]  # with people's groups
    ceiling: pd.DataFrame  # of the groups with themselves
    band: pd.DataFrame  # of `BASE`, with chance and random pairings
    p: pd.Series

    def corrected(self, name: str, k: int) -> str:
        """NNGS with people's groups beyond chance, as a number in the text."""
        if name not in self.profiles:
            return "not measured"
        return f"{self.profiles[name].set_index('k').loc[k, 'corrected']:.2f}"

    def with_interval(self, name: str, k: int) -> str:
        """The same with its bootstrap interval over the words."""
        if name not in self.profiles:
            return "not measured"
        pair = self.spaces.matrices[name], self.spaces.people
        return bracketed(beyond_chance(*pair, k, self.ties), ".2f")

    @cached_property
    def table(self) -> pd.DataFrame:
        """NNGS with people's groups beyond chance at some scales, the best first."""
        n = len(self.spaces.words)
        ks = sorted({min(k, n - 2) for k in (2, self.k, 10, 20)})
        rows = []
        for name, profile in self.profiles.items():
            at = profile.set_index("k")["corrected"]
            row = {"space": name, "kind": self.spaces.kinds.get(name, "control")}
            row |= {f"k = {k}": at[k] for k in ks} | {"p": self.p[name]}
            rows.append(row | {"ρ with RG-65": self.spaces.ratings.get(name, np.nan)})
        return pd.DataFrame(rows).sort_values(f"k = {ks[1]}", ascending=False)

    def styled(self, weighting: str) -> Styler:
        """For reading."""
        named = self.table.replace({"space": LABELS})
        shown = named.style.hide().format(precision=2, na_rep="").format("{:.3f}", subset="p")
        return shown.set_caption(
            f"NNGS with people's groups, corrected for chance; p at k = {self.k}; "
            f"weighting {weighting}"
        )

    @cached_property
    def similarity(self) -> pd.DataFrame:
        """NNGS beyond chance of every two spaces, in the order of the table."""
        order, of = list(self.table["space"]), self.spaces.matrices
        found = pd.DataFrame(np.full((len(order),) * 2, np.nan), order, order)
        how: dict[str, Any] = {"metric": "precomputed", "permutations": 0, "resamples": 0}
        for i, one in enumerate(order):
            for other in order[:i]:
                value = nngs(of[one], of[other], self.k, **how).corrected
                found.loc[one, other] = found.loc[other, one] = value
        return found

    def alike(self, one: str, other: str) -> str:
        """NNGS beyond chance of two spaces, as a number in the text."""
        known = one in self.similarity.index and other in self.similarity.index
        return f"{self.similarity.loc[one, other]:.2f}" if known else "not measured"


def joined(found: Spaces, k: int, ties: int, permutations: int) -> Joined:
    """Every space beside people's groups."""
    k = min(k, len(found.words) - 2)
    how: dict[str, Any] = {"metric": "precomputed", "permutations": permutations}
    p = {
        name: nngs(space, found.people, k, resamples=0, **how).p
        for name, space in found.matrices.items()
    }
    return Joined(
        spaces=found,
        k=k,
        ties=ties,
        profiles={n: profile_with_people(m, found.people, ties) for n, m in found.matrices.items()},
        ceiling=profile_with_people(found.people, found.people, ties),
        band=nngs_profile(found.matrices[BASE], found.people, **how),
        p=pd.Series(p),
    )


def draw_profiles(found: Joined) -> None:
    """Profiles with people's groups, and the map of the spaces among themselves."""
    _, (left, right) = plt.subplots(1, 2, figsize=(12.5, 6.2), width_ratios=[1, 1.15])
    band, ceiling = found.band, found.ceiling
    left.fill_between(band.k, band.null_low, band.null_high, color="0.9", label="random pairings")
    left.plot(band.k, band.chance, color="0.3", linewidth=1, label="chance")
    left.plot(ceiling.k, ceiling.value, "--", color="0.6", linewidth=1, label="ceiling (ties)")
    for name, (colour, line) in STYLES.items():
        if name in found.profiles:
            part = found.profiles[name]
            left.plot(part.k, part.value, line, color=colour, label=LABELS.get(name, name))
    left.axvline(found.k, color="0.8", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="neighbours k", ylabel="NNGS with people's groups")
    left.set_ylim(0.7 * band.chance.min(), 1.1)
    plain_ticks(left, (1, 2, 5, 10, 20, 50), (0.02, 0.05, 0.1, 0.2, 0.5, 1))
    left.legend(fontsize=8, loc="lower right")
    bar = {"label": f"NNGS at k = {found.k}, corrected", "shrink": 0.7}
    look: dict[str, Any] = {"cmap": SEQUENTIAL, "vmin": 0, "square": True, "cbar_kws": bar}
    named = found.similarity.rename(index=LABELS)
    sns.heatmap(named, ax=right, xticklabels=False, **look)
    right.tick_params(length=0, labelsize=8)
    plt.show()


def conjured_again(process: cj.GenerativeProcess, found: Spaces, words: int) -> Overlay:
    """All pairs of a few words conjured anew, laid over the record."""
    key = ["space", "weighting", "text1", "text2"]
    if not words:
        return laid_over("spaces")
    picked = found.words[:: max(1, len(found.words) // words)][:words]
    again = neighbor_graphs.conjured_space(process, picked, BASE, 0)
    overlay = found.record.overlay(again, key, weights=weights_hash(process))
    count = len(overlay.rows)
    print(f"{count} distances conjured anew differ from the record's by up to {overlay}.")
    return overlay


def facts(found: Joined) -> dict[str, Any]:
    """Where conjured meaning agrees most with the groups, beside text encoder and controls."""
    spaces, band = found.spaces, found.band
    n, labels = len(spaces.words), spaces.labels
    base = found.profiles[BASE].set_index("k")
    peak = int(base.loc[: n - 2, "corrected"].idxmax())
    above = band[base["value"].to_numpy() > band["null_high"].to_numpy()]["k"]
    sizes: Mapping[str, int] = pd.Series(labels).value_counts()
    return {
        "n_join": n,
        "n_spaces": len(spaces.matrices),
        "n_groups": len(set(labels)),
        "best_k": peak,
        "map_corrected": found.with_interval(BASE, found.k),
        "map_text": found.with_interval(TEXT, found.k),
        "map_ceiling": f"{found.ceiling.set_index('k').loc[found.k, 'corrected']:.2f}",
        "best_corrected": found.with_interval(BASE, peak),
        "text_corrected": found.with_interval(TEXT, peak),
        "minilm_corrected": found.corrected("all-MiniLM", peak),
        "ceiling_corrected": f"{found.ceiling.set_index('k').loc[peak, 'corrected']:.2f}",
        "untrained_corrected": found.corrected("untrained U-Net", peak),
        "random_corrected": found.corrected("random conditioning", peak),
        "group_size": float(np.mean([sizes[g] - 1 for g in labels])),
        "above_from": int(above.min()) if len(above) else "none",
        "above_to": int(above.max()) if len(above) else "none",
        "k_map": found.k,
        "base_again": found.alike(BASE, f"{BASE}, other noise"),
        "base_text": found.alike(BASE, TEXT),
        "base_minilm": found.alike(BASE, "all-MiniLM"),
        "base_untrained": found.alike(BASE, "untrained U-Net"),
        "text_minilm": found.alike(TEXT, "all-MiniLM"),
        "ties": found.ties,
        "p_base": float(found.p[BASE]),
    }
