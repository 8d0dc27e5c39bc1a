"""Do distance matrices find groups of words? The clusterings of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.patches import Rectangle
from pandas.io.formats.style import Styler
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import conjure_lib as cj
from conjure_tools import baselines
from conjure_tools.plots import SEQUENTIAL

TEXT = "text encoder, last"
OTHERS = ("initial timestep", "output")
LINKAGES = ("average", "complete", "single", "ward")


@dataclass(frozen=True)
class Words:
    """Words, and the group of each by its number."""

    groups: Mapping[str, Sequence[str]]

    @property
    def words(self) -> list[str]:
        """All n of them, group by group."""
        return [word for members in self.groups.values() for word in members]

    @property
    def labels(self) -> np.ndarray:
        """The number of each word's group, (n,)."""
        sizes = [len(members) for members in self.groups.values()]
        return np.repeat(np.arange(len(sizes)), sizes)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All P pairs."""
        return list(combinations(self.words, 2))


# -- readings of one matrix -------------------------------------------------------------------


def clusters(matrix: np.ndarray, count: int, method: str = "average") -> np.ndarray:
    """Cluster numbers (n,) of a distance matrix (n, n), cut to ``count`` clusters."""
    tree = linkage(squareform(matrix, checks=False), method)
    return np.asarray(fcluster(tree, count, "maxclust"))


def rand_index(
    matrix: np.ndarray, labels: np.ndarray, at: np.ndarray | None = None, method: str = "average"
) -> float:
    """ARI of the clusters of some words (all by default) with their groups."""
    at = np.arange(len(matrix)) if at is None else at
    found = clusters(matrix[np.ix_(at, at)], len(set(labels[at])), method)
    return float(adjusted_rand_score(labels[at], found))


def separation(values: np.ndarray, labels: np.ndarray) -> float:
    """P(a pair within a group is nearer than a pair across), ties counting half; values (P,)."""
    i, j = np.triu_indices(len(labels), 1)
    return float(roc_auc_score(labels[i] != labels[j], values))


def neighbour(matrix: np.ndarray, labels: np.ndarray) -> float:
    """Share of words whose nearest other word is of their group."""
    nearest = (matrix + np.diag(np.full(len(matrix), np.inf))).argmin(1)
    return float((labels[nearest] == labels).mean())


def share_of_levels(matrix: np.ndarray) -> float:
    """Share of the variance of log D (n, n) that the best u_0 + u_i + u_j explains."""
    n = len(matrix)
    logs = np.log(matrix + np.eye(n))  # zero on the diagonal
    mean = logs.sum(1) / (n - 1)
    u = (n - 1) / (n - 2) * (mean - mean.mean())
    rest = logs - mean.mean() - u[:, None] - u
    left, whole = (squareform(part, checks=False).var() for part in (rest, logs))
    return float(1 - left / whole)


def cosine_distance(matrix: np.ndarray) -> np.ndarray:
    """1 - cos from double centring, (n, n), with a zero diagonal."""
    centre = np.eye(len(matrix)) - 1 / len(matrix)
    inner = -centre @ matrix @ centre / 2
    length = np.sqrt(np.diag(inner).clip(min=1e-12))
    return np.asarray((1 - inner / np.outer(length, length)) * (1 - np.eye(len(matrix))))


# -- many matrices of the same words ----------------------------------------------------------


def condensed(
    process: cj.GenerativeProcess, words: Words, terms: cj.Terms, batch_size: int
) -> dict[str, np.ndarray]:
    """Distances (P,) under each weighting, and those of the controls, of what the terms are of."""
    pairs, sampling = words.pairs, terms.sampling
    found = {f"conjured, {w}": terms.by_draw(w).mean(1) for w in cj.WEIGHTINGS}
    for pooling in ("last", "mean"):
        cosine = baselines.text_encoder_cosine(process, pairs, pooling=pooling)
        found[f"text encoder, {pooling}"] = 1 - cosine
    found["initial timestep"] = terms.squares[:, :, 0].mean(axis=(1, 2))  # both halves stand at x_T
    found["output"] = -baselines.direct_output(
        process, pairs, steps=sampling.steps, draws=len(sampling.numbers), seed=sampling.seed,
        batch_size=batch_size,
    )  # fmt: skip
    return found


@dataclass
class Clusterings:
    """Matrices over the same words, and how well their clusters are the groups.

    The half-samples and the shuffled labels are the same for all matrices.
    """

    words: Words
    matrices: dict[str, np.ndarray]  # (n, n) by name
    halves: list[np.ndarray]  # random halves of the words of every group
    shuffled: list[np.ndarray]  # group labels, (n,) each
    sampled: dict[str, np.ndarray] = field(default_factory=dict)  # ARI of the halves, by matrix
    scores: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def cosines(self) -> list[str]:
        """Names of the matrices without levels."""
        return [name for name in self.matrices if name.endswith(", cosine")]

    @property
    def conjured(self) -> list[str]:
        """Names of those of the three weightings."""
        return [f"conjured, {w}" for w in cj.WEIGHTINGS]

    def flat(self, name: str) -> np.ndarray:
        """A matrix as distances of pairs, (P,)."""
        return squareform(self.matrices[name], checks=False)

    def score(self, names: Sequence[str]) -> pd.DataFrame:
        """The readings of some matrices, and what ARI each has more than the text encoder's."""
        labels, rows = self.words.labels, []
        for name in names:
            matrix = self.matrices[name]
            found, ari = clusters(matrix, len(set(labels))), rand_index(matrix, labels)
            chance = np.array([adjusted_rand_score(other, found) for other in self.shuffled])
            self.sampled[name] = np.array([rand_index(matrix, labels, h) for h in self.halves])
            gap = self.sampled[name] - self.sampled.get(TEXT, np.nan)
            rows.append(
                {
                    "matrix": name,
                    "ARI": ari,
                    "±": 1.96 * self.sampled[name].std(ddof=1),
                    "chance (95 %)": np.quantile(chance, 0.95),
                    "p": (1 + (chance >= ari).sum()) / (1 + len(chance)),
                    "separation": separation(self.flat(name), labels),
                    "neighbour": neighbour(matrix, labels),
                    "less text encoder": ari - rand_index(self.matrices[TEXT], labels),
                    "± ": 1.96 * gap.std(ddof=1),
                }
            )
        scored = pd.DataFrame(rows).set_index("matrix")
        self.scores = pd.concat([self.scores, scored])
        return scored

    def without_levels(self) -> dict[str, float]:
        """Add the cosine of every conjured matrix; the share of levels of the matrices so far."""
        levels = {name: share_of_levels(matrix) for name, matrix in self.matrices.items()}
        for name in (*self.conjured, *OTHERS):
            self.matrices[f"{name}, cosine"] = cosine_distance(self.matrices[name])
        return levels

    def ari(self, name: str) -> str:
        """ARI with its interval."""
        return f"{self.scores.loc[name, 'ARI']:.2f} ± {self.scores.loc[name, '±']:.2f}"

    def less_text(self, name: str) -> str:
        """What ARI it has more than the text encoder, with the interval of the difference."""
        row = self.scores.loc[name]
        return f"{row['less text encoder']:+.2f} ± {row['± ']:.2f}"

    def facts(self, name: str, by_draw: Sequence[float]) -> dict[str, Any]:
        """How well the matrix ``name`` finds the groups, beside the text encoder."""
        best = self.scores.loc[self.conjured, "ARI"].idxmax()
        count = np.bincount(clusters(self.matrices[name], len(self.words.groups))).max()
        mine, text = self.scores.loc[name], self.scores.loc[TEXT]
        return {
            "n_words": len(self.words.words),
            "n_groups": len(self.words.groups),
            "ari_conjured": self.ari(name),
            "ari_text": self.ari(TEXT),
            "p_conjured": mine["p"],
            "less_text": self.less_text(name),
            "best_conjured": best,
            "best_conjured_ari": self.ari(best),
            "separation_conjured": mine["separation"],
            "separation_text": text["separation"],
            "neighbour_conjured": 100 * mine["neighbour"],
            "neighbour_text": 100 * text["neighbour"],
            "largest_cluster": count,
            "ari_initial": self.ari("initial timestep"),
            "ari_output": self.ari("output"),
            "by_draw": ", ".join(f"{value:.2f}" for value in by_draw),
        }

    def level_facts(self, name: str, levels: Mapping[str, float]) -> dict[str, Any]:
        """What levels make of ``name``, and what its cosine finds."""
        cosine, words = f"{name}, cosine", self.words.words
        farthest = np.argsort(-self.matrices[name].sum(1))[:3]
        text = self.flat(TEXT)
        return {
            "ari_cosine": self.ari(cosine),
            "less_text_cosine": self.less_text(cosine),
            "levels_conjured": 100 * levels[name],
            "levels_noise": 100 * levels["conjured, noise"],
            "levels_text": 100 * levels[TEXT],
            "farthest": ", ".join(words[i] for i in farthest),
            "separation_cosine": self.scores.loc[cosine, "separation"],
            "neighbour_cosine": 100 * self.scores.loc[cosine, "neighbour"],
            "matrix_corr": spearmanr(self.flat(name), text).statistic,
            "matrix_corr_cosine": spearmanr(self.flat(cosine), text).statistic,
        }

    def members(self, name: str) -> Styler:
        """The clusters of a matrix, the largest first."""
        words, labels, groups = self.words.words, self.words.labels, list(self.words.groups)
        found, rows = clusters(self.matrices[name], len(groups)), []
        for number in sorted(set(found), key=lambda c: -(found == c).sum()):
            inside = np.flatnonzero(found == number)
            counts = np.bincount(labels[inside], minlength=len(groups))
            held = ", ".join(words[i] for i in inside)
            rows.append([groups[counts.argmax()], len(inside), int(counts.max()), held])
        table = pd.DataFrame(rows, columns=["mostly", "words", "of that group", "members"])
        return table.style.hide().set_caption(f"The clusters of “{name}”")

    def linkages(self) -> pd.DataFrame:
        """ARI under four linkages; Ward's is given square roots."""
        return pd.DataFrame(
            {
                method: {
                    name: rand_index(
                        np.sqrt(matrix.clip(0)) if method == "ward" else matrix,
                        self.words.labels,
                        method=method,
                    )
                    for name, matrix in self.matrices.items()
                }
                for method in LINKAGES
            }
        )


def linkage_facts(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """What ``name`` and its cosine have under all linkages."""
    mine, cosine = table.loc[name], table.loc[f"{name}, cosine"]
    return {
        "linkage_low": mine.min(),
        "linkage_high": mine.max(),
        "linkage_low_cosine": cosine.min(),
        "linkage_high_cosine": cosine.max(),
        "linkage_better": int((cosine > table.loc[TEXT]).sum()),
    }


def clusterings(
    words: Words, found: Mapping[str, np.ndarray], halves: int, shuffles: int, seed: int
) -> Clusterings:
    """Matrices from distances (P,) by name, with half-samples and shuffled labels for all."""
    rng, labels = np.random.default_rng(seed), words.labels
    keep = max(2, max(len(members) for members in words.groups.values()) // 2)
    groups = range(len(words.groups))
    drawn = [
        np.concatenate([rng.permutation(np.flatnonzero(labels == g))[:keep] for g in groups])
        for _ in range(halves)
    ]
    shuffled = [rng.permutation(labels) for _ in range(shuffles)]
    matrices = {name: squareform(d, checks=False) for name, d in found.items()}
    return Clusterings(words, matrices, drawn, shuffled)


# -- figures ----------------------------------------------------------------------------------


def draw_clustermap(found: Clusterings, name: str, unit: str) -> None:
    """The matrix in the order of its tree, with the colours of the groups."""
    words, labels = found.words.words, found.words.labels
    colours = sns.color_palette("colorblind", len(found.words.groups))
    tree = linkage(found.flat(name), "average")
    shown, side = pd.DataFrame(found.matrices[name], words, words), [colours[g] for g in labels]
    size = 2.5 + 0.15 * len(words)
    with plt.rc_context({"figure.constrained_layout.use": False}):  # clustermap lays out itself
        grid = sns.clustermap(
            shown,
            row_linkage=tree,
            col_linkage=tree,
            row_colors=side,
            col_colors=side,
            cmap=SEQUENTIAL,
            figsize=(size, size),
            dendrogram_ratio=0.12,
            colors_ratio=0.02,
            xticklabels=True,
            yticklabels=True,
            robust=True,
            cbar_pos=(0.015, 0.88, 0.02, 0.1),
            cbar_kws={"label": unit},
        )
    grid.ax_heatmap.tick_params(length=0, labelsize=7)
    for label in grid.ax_heatmap.get_yticklabels() + grid.ax_heatmap.get_xticklabels():
        label.set_color(colours[labels[words.index(label.get_text())]])
    grid.ax_col_dendrogram.legend(
        [Rectangle((0, 0), 1, 1, color=c) for c in colours],
        list(found.words.groups),
        ncols=5,
        fontsize=7,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
    )
    plt.show()


def draw_blocks(found: Clusterings, names: Sequence[str]) -> None:
    """Ranks of the distances with the words in the order of the groups, a panel a matrix."""
    labels, groups = found.words.labels, list(found.words.groups)
    _, axes = plt.subplots(1, len(names), figsize=(12, 4.2), sharey=True)
    edges, n = np.flatnonzero(np.diff(labels)) + 0.5, len(labels)
    middle = [np.flatnonzero(labels == g).mean() for g in range(len(groups))]
    for axis, name in zip(axes, names, strict=True):
        flat = found.flat(name)
        ranks = squareform(rankdata(flat) / len(flat), checks=False)
        axis.imshow(ranks, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
        axis.vlines(edges, -0.5, n - 0.5, color="white", linewidth=0.6)
        axis.hlines(edges, -0.5, n - 0.5, color="white", linewidth=0.6)
        axis.set_xticks(middle, groups, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(middle, groups, fontsize=8)
        axis.tick_params(length=0)
        axis.set_title(name)
        sns.despine(ax=axis, left=True, bottom=True)
    plt.show()


def index_by_draw(words: Words, terms: cj.Terms, weighting: cj.Weighting) -> list[float]:
    """ARI of the matrix of every single draw, summed plainly."""
    matrices = (squareform(d) for d in terms.by_draw(weighting, "sum").T)
    return [rand_index(matrix, words.labels) for matrix in matrices]
