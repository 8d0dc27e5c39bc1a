"""Seven sentence sets against people, for chapter 5: tables, slices, pictures, and the sentences.

Similarities come from `of_record`; ρ stands × 100 in everything that is shown.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_tools import benchmarks
from conjure_tools.baselines import lengths
from conjure_tools.correlation import Correlation, Resampling, both_texts, spearman
from conjure_tools.plots import PALETTE, forest
from studies.pages import bracketed
from studies.people import (
    Anew,
    MethodTable,
    Opened,
    in_hundredths,
    interval_columns,
    method_table,
    opened_with_people,
    styled,
    with_interval,
)
from studies.records import matching, published

NAMES = {name: benchmarks.NAMES[name] for name in benchmarks.STS}
METHODS = {
    "noise": "conjured, weighting noise",
    "score": "conjured, weighting score",
    "sde": "conjured, weighting sde",
    "initial_timestep": "first timestep alone",
    "direct_output": "final outputs compared",
    "text_encoder_last": "own text encoder, end of text",
    "text_encoder_mean": "own text encoder, mean",
    "minilm": "all-MiniLM-L6-v2",
}
CHEAPER = ["initial_timestep", "direct_output"]
PAPERS = {
    "conjuring": "<b>published</b> by Liu and Soatto, 2026",
    "simcse": "<b>published</b> by Gao et al., 2021",
    "sbert": "<b>published</b> by Reimers and Gurevych, 2019",
    "minilm": "<b>published</b> by MTEB",
}
GENRES = {
    "captions": ["MSRvid", "images", "SICK"],
    "headlines and news": ["MSRpar", "headlines", "deft-news", "tweet-news"],
    "translations": ["SMTeuroparl", "surprise.SMTnews", "postediting"],
    "glosses": ["OnWN", "surprise.OnWN", "FNWN"],
    "forums": ["deft-forum", "answers-forums", "belief", "answer-answer", "question-question"],
    "students": ["answers-students", "plagiarism"],
}
QUOTABLE = ["images", "headlines", "postediting"]
"""Subsets whose licences let a book quote them."""


# -- the table --------------------------------------------------------------------------------


def set_table(found: Opened, weighting: str) -> MethodTable:
    """The table of all methods and sets."""
    whole = matching(found.results, group="")
    return method_table(whole, weighting, METHODS, NAMES, "benchmark")


def table_beside_published(table: MethodTable) -> Styler:
    """What was measured, and below it what was published."""
    cells = with_interval(table.rows).unstack().loc[table.methods, table.keys]
    measured = cells.assign(mean=table.mean.map("{:.1f}".format))
    blocks = {"<b>measured here</b>": measured}
    every = published()
    for paper, label in PAPERS.items():
        theirs = every[(every["paper"] == paper) & (every["status"] != "measured")]
        wrong = (theirs["status"] == "as printed") & theirs["note"].notna()
        digits = "{:.1f}" if paper == "conjuring" else "{:.2f}"  # as the paper gives them
        cell = theirs["spearman"].map(digits.format).where(~wrong, lambda text: text + " †")
        quoted = theirs.assign(cell=cell).pivot(index="row", columns="benchmark", values="cell")
        blocks[label] = quoted.loc[theirs["row"].unique()].rename(columns={"avg7": "mean"})
    order = [*table.keys, "mean"]
    whole = pd.concat({label: block.reindex(columns=order) for label, block in blocks.items()})
    caption = "Spearman's ρ × 100, 95 % interval in brackets. † Of another column: see below."
    return styled(whole.rename(index=METHODS, columns=NAMES), caption)


def facts(table: MethodTable) -> dict[str, Any]:
    """What the table says, in numbers."""
    mean, rho, weighting = table.mean, table.rho, table.weighting
    pooling = {"text_encoder_last": "end of text", "text_encoder_mean": "mean over the tokens"}
    minilm = "A sentence encoder made for such tasks, all-MiniLM-L6-v2, reaches {:.1f}."
    return {
        "n_pairs": int(table.rows.xs(weighting)["pairs"].sum()),
        "n_sets": len(table.keys),
        "weighting": weighting,
        "mean_own": mean[table.own],
        "pooling": pooling[table.own],
        "best": mean[list(cj.WEIGHTINGS)].idxmax(),
        "mean_first": mean["initial_timestep"],
        "mean_final": mean["direct_output"],
        "beats": int((rho.loc[weighting] > rho.loc[CHEAPER].max()).sum()),
        "beside": Markdown(minilm.format(mean["minilm"]) if "minilm" in mean else ""),
        **{f"mean_{w}": mean[w] for w in cj.WEIGHTINGS},
    }


def draw_sets(table: MethodTable) -> None:
    """ρ of every set with intervals, and the published figures of the method."""
    shown = [m for m in (*table.compared, *CHEAPER) if m in table.methods]
    figure, axis = plt.subplots(figsize=(8.5, 5.2))
    rows = {METHODS[m]: interval_columns(table.rows.loc[m].reindex(table.keys)) for m in shown}
    forest(axis, rows, [NAMES[s] for s in table.keys])
    every = published()
    quoted = every[every["row"] == "Conjuring similarity (SD v1.4)"].set_index("benchmark")
    there = [s for s in table.keys if s in quoted.index]
    axis.plot(
        quoted.loc[there, "spearman"],
        [table.keys.index(s) for s in there],
        "D",
        color="black",
        fillstyle="none",
        label="published: Stable Diffusion v1.4",
    )
    axis.set_xlabel("Spearman's ρ × 100")
    figure.legend(loc="outside lower center", ncols=3)
    plt.show()


# -- against the text encoder -----------------------------------------------------------------


Correlations = Mapping[str, Correlation]
"""By name of the set."""


def draw_gains(differences: Correlations, partial: Correlations) -> None:
    """ρ(conjured) less ρ(text encoder), and the partial ρ given both of its cosines."""
    if not differences:
        return
    gain, kept = in_hundredths(differences), in_hundredths(partial)
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    forest(left, {"difference": gain}, list(gain.index), zero=True)
    forest(right, {"partial": kept}, list(kept.index), zero=True)
    left.set_xlabel("ρ(conjured) less ρ(text encoder), × 100")
    right.set_xlabel("partial ρ given both cosines, × 100")
    plt.show()


def gain_facts(
    table: MethodTable, differences: Correlations, partial: Correlations
) -> dict[str, Any]:
    """Who agrees better with people, and what the pictures keep beyond the cosines."""
    weighting, own, sets = table.weighting, table.own, len(table.keys)
    ahead = int((table.rho.loc[weighting] > table.rho.loc[own]).sum())
    verdict = (
        f"Under “{weighting}” the pictures agree with people better than this encoder on {ahead} "
        f"of {sets} sets and worse on {sets - ahead}; the mean difference is "
        f"{table.mean[weighting] - table.mean[own]:+.1f}"
    )
    sentence = ""
    if differences:
        gain, kept = in_hundredths(differences), in_hundredths(partial)
        clear = int(((gain["low"] > 0) | (gain["high"] < 0)).sum())
        verdict += (
            f", and {clear} of the {len(gain)} differences have an interval without zero in it"
        )
        sentence = (
            f"With the encoder's cosines held constant, conjured similarity correlates with people "
            f"at {kept['value'].min():.1f} to {kept['value'].max():.1f}, with an interval above "
            f"zero on {int((kept['low'] > 0).sum())} of {len(kept)} sets."
        )
    return {"verdict": Markdown(f"{verdict}."), "kept": Markdown(sentence)}


# -- Gaussians fitted to pictures -------------------------------------------------------------

FITTED = {"frechet": "Fréchet distance", "jeffreys": "Jeffreys divergence"}


def fitted_gaussians(found: Opened, table: MethodTable, **how: Unpack[Resampling]) -> pd.DataFrame:
    """Correlations by set and method on the pairs that Gaussians were fitted for; may be empty."""
    fitted = [m for m in FITTED if m in found.table and found.table[m].notna().any()]
    rows = {}
    for name, part in found.joined.items() if fitted else ():
        known = part[part[fitted].notna().all(axis=1)]
        if len(known):  # made on some sets only
            methods = [table.weighting, *fitted, table.own]
            people, texts = known["people"], both_texts(known)
            rows[name] = {m: spearman(known[m], people, texts=texts, **how) for m in methods}
    if not rows:
        print("Gaussians: the record or the ratings are not at hand.")
    return pd.DataFrame(rows).T


def gaussian_table(found: pd.DataFrame) -> Styler | None:
    """The same as a table, with means over the sets."""
    if not len(found):
        return None
    value = 100 * found.map(_value)
    # samples of different sets share few pairs, so that variances add
    error = 100 * found.map(lambda c: (c.high - c.low) / 3.92)
    spread = 1.96 * np.sqrt((error**2).sum()) / len(found)
    small = value.rename(index=NAMES).T.map("{:.1f}".format)
    small["mean"] = value.mean().map("{:.1f}".format) + spread.map(" ± {:.1f}".format)
    pairs = found.iloc[:, 0].map(lambda c: str(c.pairs))
    small.loc["pairs"] = [*pairs, ""]
    title = "Spearman's ρ × 100 on the sample; the mean with half its 95 % interval"
    return small.rename(index=FITTED | METHODS).style.set_caption(title)


def gaussian_facts(found: pd.DataFrame, weighting: str) -> dict[str, Any]:
    """The better of the fitted divergences beside conjured similarity."""
    if not len(found):
        return {"gaussian_sentence": Markdown("They could not be compared in this run.")}
    mean = (100 * found.map(_value)).mean()
    best = str(mean[[m for m in FITTED if m in mean]].idxmax())
    return {
        "gaussian_sentence": Markdown(
            f"The better of the two, the {FITTED[best]}, averages {mean[best]:.1f} where conjured "
            f"similarity averages {mean[weighting]:.1f} on the same pairs."
        )
    }


def _value(found: Correlation) -> float:
    return found.value


# -- a figure in the wrong column -------------------------------------------------------------


def quoted_figures() -> dict[str, pd.Series]:
    """By set, what is printed for SimCSE-BERT, what is official, and the method's own figures."""
    rows = {
        "printed": ("conjuring", "SimCSE-BERT"),
        "official": ("simcse", "SimCSE-BERT (unsupervised)"),
        "method": ("conjuring", "Conjuring similarity (SD v1.4)"),
    }
    every = published().set_index(["paper", "row"]).sort_index()
    return {k: every.loc[key].set_index("benchmark")["spearman"] for k, key in rows.items()}


def correction_table(quoted: Mapping[str, pd.Series], fits: Mapping[str, list[str]]) -> Styler:
    """The printed figures beside the official ones."""
    printed, official, method = (quoted[k] for k in ("printed", "official", "method"))
    columns = NAMES | {"avg7": "mean of seven"}
    rows = pd.DataFrame(
        {
            "printed for SimCSE-BERT": printed,
            "official, same column": official[printed.index],
            "official figures that round to the printed one": pd.Series(
                {k: ", ".join(columns[b] for b in found) for k, found in fits.items()}
            ),
            "printed for the method": method[printed.index],
        }
    ).rename(index=columns)
    shown = rows.style.format(precision=2, subset="official, same column")
    return shown.format(precision=1, subset=["printed for SimCSE-BERT", "printed for the method"])


def correction_facts(quoted: Mapping[str, pd.Series]) -> dict[str, float]:
    """The figures of the argument."""
    printed, official, method = (quoted[k] for k in ("printed", "official", "method"))
    seven = official.drop("avg7")
    return {
        "printed_stsb": printed["stsb"],
        "official_sts12": official["sts12"],
        "official_stsb": official["stsb"],
        "method_stsb": method["stsb"],
        "lead_printed": method["stsb"] - printed["stsb"],
        "lead_official": method["stsb"] - official["stsb"],
        "printed_mean": printed["avg7"],
        "mean_official": seven.mean(),
        "mean_swapped": seven.replace(seven["stsb"], printed["stsb"]).mean(),
        "method_mean": method["avg7"],
    }


# -- by kind of text --------------------------------------------------------------------------


def subsets(found: Opened, table: MethodTable) -> pd.DataFrame:
    """Agreement of the compared methods on every subset, with its genre; STS-B is left out."""
    kind = {subset: genre for genre, names in GENRES.items() for subset in names}
    results = found.results
    sliced = results[(results["group"] != "") & (results["benchmark"] != "stsb")]
    sick = results[(results["benchmark"] == "sickr") & (results["group"] == "")]
    sliced = pd.concat([sliced, sick.assign(group="SICK")])
    sliced = sliced.assign(genre=lambda t: t["group"].map(kind))
    assert sliced["genre"].notna().all(), sliced.loc[sliced["genre"].isna(), "group"].unique()
    shown = sliced["method"].isin(table.compared) & sliced["spearman"].notna()
    sliced = sliced[shown].copy()
    sliced[["spearman", "spearman_low", "spearman_high"]] *= 100
    return sliced


def over_subsets(part: pd.DataFrame) -> pd.Series:
    """Mean over subsets, weighted by pairs; they share few pairs, so that variances add."""
    weight = part["pairs"] / part["pairs"].sum()
    error = (part["spearman_high"] - part["spearman_low"]) / 3.92
    value, spread = (weight * part["spearman"]).sum(), 1.96 * np.sqrt((weight**2 * error**2).sum())
    numbers = [value, value - spread, value + spread, part["pairs"].sum()]
    return pd.Series(numbers, ["value", "low", "high", "pairs"])


def by_genre(sliced: pd.DataFrame, weighting: str) -> pd.DataFrame:
    """`over_subsets` by genre (rows, best first) and method (second level of the columns)."""
    chosen = ["spearman", "spearman_low", "spearman_high", "pairs"]
    genres = sliced.groupby(["method", "genre"])[chosen].apply(over_subsets)
    order = genres.loc[weighting, "value"].sort_values(ascending=False).index
    return genres.unstack("method").loc[order]


def draw_genres(sliced: pd.DataFrame, genres: pd.DataFrame, table: MethodTable) -> None:
    """Every subset, in bands of its genre."""
    single = sliced.assign(row=sliced["benchmark"].map(NAMES) + " " + sliced["group"])
    single = single.replace({"row": {"SICK-R SICK": "SICK-R"}})
    place = {genre: i for i, genre in enumerate(genres.index)}
    mine = single[single["method"] == table.weighting].sort_values(
        ["genre", "spearman"], key=lambda c: c.map(place) if c.name == "genre" else -c
    )
    wide, rows = single.set_index(["method", "row"]), mine["row"].tolist()
    figure, axis = plt.subplots(figsize=(8.5, 8.6))
    compared = {METHODS[m]: interval_columns(wide.loc[m].reindex(rows)) for m in table.compared}
    forest(axis, compared, rows)
    top = 0
    for genre in genres.index:
        count = int((mine["genre"] == genre).sum())
        if top:
            axis.axhline(top - 0.5, color="0.5", linewidth=0.8)
        middle, right = top + (count - 1) / 2, axis.get_yaxis_transform()
        axis.text(1.01, middle, genre, transform=right, va="center")
        top += count
    axis.set_xlabel("Spearman's ρ × 100")
    figure.legend(loc="outside lower center", ncols=3)
    plt.show()


def genre_table(genres: pd.DataFrame, table: MethodTable) -> pd.DataFrame:
    """The means by genre in words, and conjured less text encoder."""
    small = pd.DataFrame(
        {
            METHODS[m]: genres.apply(
                lambda r, m=m: bracketed((r["value", m], r["low", m], r["high", m]), ".1f", ".0f"),
                axis=1,
            )
            for m in table.compared
        }
    )
    mine, own = genres["value", table.weighting], genres["value", table.own]
    return small.assign(
        **{"conjured less text encoder": mine - own},
        pairs=genres["pairs", table.weighting].map("{:,.0f}".format),
    ).rename_axis("kind of text")


def genre_facts(genres: pd.DataFrame, table: MethodTable) -> dict[str, Any]:
    """Where agreement is best and worst, alone and next to the text encoder."""
    rho = genres["value", table.weighting]
    less = rho - genres["value", table.own]
    best, nearest = rho.index[0], less.idxmax()
    sentence = "Captions do not come first in agreement: that they can be pictured does not decide."
    if best == "captions":
        sentence = (
            "Captions come first in both, as the pictures would have it."
            if nearest == "captions"
            else "Captions come first in agreement, but not in the comparison with the text "
            "encoder: they are easy for both."
        )
    return {
        "best_genre": best,
        "best_genre_rho": rho.iloc[0],
        "worst_genre": rho.index[-1],
        "worst_genre_rho": rho.iloc[-1],
        "nearest_genre": nearest,
        "nearest_genre_gap": less.max(),
        "farthest_genre": less.idxmin(),
        "farthest_genre_gap": less.min(),
        "caption_sentence": Markdown(sentence),
    }


# -- by length --------------------------------------------------------------------------------


def with_percentiles(found: Opened, columns: Sequence[str]) -> pd.DataFrame:
    """All pairs with the columns and people's ratings as percentiles within their set, 0 to 100."""
    parts = [
        part.assign(**{c: 100 * part[c].rank(pct=True) for c in ["people", *columns]})
        for part in found.joined.values()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def with_lengths(process: cj.GenerativeProcess, ranked: pd.DataFrame, room: int) -> pd.DataFrame:
    """The pairs but those of STS-B, with a slice of their mean length in words, and what is cut."""
    if not len(ranked):
        return ranked
    alone = ranked[ranked["benchmark"] != "stsb"].copy()
    words = [alone[c].str.split().str.len() for c in ("text1", "text2")]
    tokens = [lengths(process, alone[c].tolist()).numpy() for c in ("text1", "text2")]
    alone["cut"] = np.maximum(*tokens) >= room
    alone["slice"] = pd.qcut((words[0] + words[1]) / 2, 5, duplicates="drop")
    return alone


def by_length(
    alone: pd.DataFrame, methods: Sequence[str], **how: Unpack[Resampling]
) -> dict[str, pd.DataFrame]:
    """By method, ρ of the percentiles in every slice of length, by the slice's longest."""
    if not len(alone):
        return {}
    slices = alone.groupby("slice", observed=True)
    return {
        m: in_hundredths(
            {
                f"≤ {s.right:g}": spearman(part[m], part["people"], texts=both_texts(part), **how)
                for s, part in slices
            }
        )
        for m in methods
    }


def draw_lengths(lengths: Mapping[str, pd.DataFrame], alone: pd.DataFrame) -> None:
    """ρ by length, and the share of pairs with a text that is cut."""
    if not lengths:
        return
    figure, axis = plt.subplots(figsize=(7, 3.8))
    for k, (m, rows) in enumerate(lengths.items()):
        value, low, high = rows[["value", "low", "high"]].to_numpy(float).T
        at, ends = np.arange(len(rows)) + 0.12 * (k - 1), [value - low, high - value]
        axis.errorbar(at, value, ends, fmt="o-", ms=4, color=PALETTE[k], label=METHODS[m])
    names = list(rows.index)
    share = cut_share(alone)
    axis.plot(range(len(names)), share, "--", color="0.6", label="pairs with a cut text (%)")
    axis.set_xticks(range(len(names)), names)
    axis.set(xlabel="mean number of words of the two sentences", ylabel="ρ × 100, and %")
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    figure.legend(loc="outside lower center", ncols=2)
    plt.show()


def cut_share(alone: pd.DataFrame) -> pd.Series:
    """Percentage of pairs with a text that is cut, by slice of length."""
    return 100 * alone.groupby("slice", observed=True)["cut"].mean()


def length_facts(
    lengths: Mapping[str, pd.DataFrame], alone: pd.DataFrame, table: MethodTable
) -> dict[str, Any]:
    """From the shortest to the longest sentences."""
    sentence = "The slices by length need the sentences, which are not at hand in this run."
    if lengths:
        ours, own = (lengths[m]["value"] for m in (table.weighting, table.own))
        gap = ours - own
        sentence = (
            f"From the shortest to the longest sentences, conjured similarity goes from "
            f"{ours.iloc[0]:.1f} to {ours.iloc[-1]:.1f}, and its distance from the text encoder "
            f"from {gap.iloc[0]:+.1f} to {gap.iloc[-1]:+.1f}; {cut_share(alone).iloc[-1]:.0f} % of "
            "the longest pairs have a text that is cut."
        )
    return {"length_sentence": Markdown(sentence)}


# -- where they disagree most -----------------------------------------------------------------


def disagreements(ranked: pd.DataFrame, weighting: str, count: int) -> pd.DataFrame:
    """Pairs that are near in pictures and far for people, then the reverse; ``count`` of either."""
    if not len(ranked):
        return ranked
    ranked = ranked.assign(apart=ranked[weighting] - ranked["people"])
    may = ranked[ranked["subset"].str.split("/").str[-1].isin(QUOTABLE)]
    may = may[may["text1"] != may["text2"]]
    halves = []
    for ascending in (False, True):
        half = may.sort_values("apart", ascending=ascending, kind="stable")
        halves.append(half.drop_duplicates("text1").drop_duplicates("text2").head(count))
    return pd.concat(halves, ignore_index=True)


def draw_gallery(gallery: pd.DataFrame, pictures: Sequence[np.ndarray], table: MethodTable) -> None:
    """Both pictures of every pair, its sentences, and where three judges put it within its set."""
    if not len(gallery):
        return
    size = (9, 1.16 * len(gallery))
    _, axes = plt.subplots(len(gallery), 3, figsize=size, width_ratios=[1, 1, 6.2], squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, (_, pair) in enumerate(gallery.iterrows()):
        for side in (0, 1):
            axes[i, side].imshow(pictures[2 * i + side], interpolation="nearest")
        texts = "\n".join(textwrap.fill(f"“{pair[c]}”", 88) for c in ("text1", "text2"))
        judges = (
            f"{texts}\npercentile of nearness: people {pair['people']:.0f}, pictures "
            f"{pair[table.weighting]:.0f}, text encoder {pair[table.own]:.0f}"
        )
        axes[i, 2].text(0.02, 0.5, judges, va="center", fontsize=8)
    titles = {
        0: "near in pictures, far for people",
        len(gallery) // 2: "far in pictures, near for people",
    }
    for i, title in titles.items():
        axes[i, 2].set_title(title, loc="left", fontsize=9, weight="bold")
    plt.show()


def blamed(alone: pd.DataFrame, table: MethodTable) -> tuple[pd.DataFrame, int]:
    """Mean percentiles of the hundredth of pairs most apart, either way; and how many they are."""
    if not len(alone):
        return alone, 0
    alone = alone.assign(apart=alone[table.weighting] - alone["people"]).sort_values("apart")
    count = max(3, len(alone) // 100)
    kinds = {"near in pictures": alone.tail(count), "far in pictures": alone.head(count)}
    judges = ["people", *table.compared]
    return pd.DataFrame({k: part[judges].mean() for k, part in kinds.items()}).T, count


def blame_facts(blame: pd.DataFrame, table: MethodTable) -> dict[str, Any]:
    """With whom the text encoder sides."""
    sentences = []
    for label in blame.index if len(blame) else ():
        judges = (table.weighting, "people", table.own)
        pictures, people, text = (blame.loc[label, c] for c in judges)
        sides = "pictures" if abs(text - pictures) < abs(text - people) else "people"
        sentences.append(
            f"Of pairs {label}, the text encoder sides with the {sides} (mean percentile "
            f"{text:.0f}; pictures {pictures:.0f}, people {people:.0f})."
        )
    absent = "This needs the sentences, which are not at hand in this run."
    return {
        "quotable": ", ".join(QUOTABLE),
        "blame_sentence": Markdown(" ".join(sentences) or absent),
    }


# -- the record -------------------------------------------------------------------------------


def of_record(
    process: cj.GenerativeProcess,
    anew: Anew | None,
    sample: int,
    batch_size: int,
    resamples: int,
    seed: int,
) -> Opened:
    """The sets of sentences, as `people.opened_with_people` opens them.

    From here on no warning says that a text is cut: `length_facts` counts them.
    """
    warnings.filterwarnings("ignore", message="the text encoder reads")
    return opened_with_people(
        process, "sts", NAMES, sample=sample, resamples=resamples, seed=seed,
        batch_size=batch_size, anew=anew,
    )  # fmt: skip
