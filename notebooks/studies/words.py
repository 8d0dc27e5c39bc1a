"""Single words against people, for chapter 6: parts of speech, relations, concreteness, a control.

Similarities come from `of_record`; ρ stands × 100 in everything that is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler
from scipy.stats import rankdata

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_lib.engine import chunks
from conjure_tools import benchmarks
from conjure_tools.correlation import (
    Correlation,
    Resampling,
    both_texts,
    partial_spearman,
    spearman,
    text_ratio,
)
from conjure_tools.plots import PALETTE, forest, picture_grid
from conjure_tools.runs import stratified
from studies.pages import bracketed, bracketed_of
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
from studies.probes import COSINES
from studies.records import texts_of

NAMES = {name: title for name, title in benchmarks.NAMES.items() if name in benchmarks.WORDS}
METHODS = {
    "noise": "conjured, noise",
    "score": "conjured, score",
    "sde": "conjured, sde",
    "initial_timestep": "first timestep",
    "direct_output": "final outputs",
    "text_encoder_last": "text encoder, end of text",
    "text_encoder_mean": "text encoder, mean",
    "minilm": "MiniLM",
}
GROUPS = {  # set and part of speech, in the order of the figures
    ("rg65", ""): "RG-65 (nouns)",
    ("simlex999", ""): "SimLex-999",
    ("simlex999", "N"): "SimLex-999, nouns",
    ("simlex999", "V"): "SimLex-999, verbs",
    ("simlex999", "A"): "SimLex-999, adjectives",
    ("simverb3500", ""): "SimVerb-3500 (verbs)",
    ("wordsim353", ""): "WordSim-353",
    ("wordsim353_similarity", ""): "WordSim-353, similarity",
    ("wordsim353_relatedness", ""): "WordSim-353, relatedness",
}
PARTS = {"nouns": "N", "verbs": "V", "adjectives": "A"}
STATISTICS = ["conjured", "text encoder", "conjured, text encoder held constant"]
EXCESS = "conjured less text encoder"
NOUNS, VERBS = "nouns of SimLex-999", "verbs of SimVerb-3500"


# -- the table --------------------------------------------------------------------------------


def group_table(found: Opened, weighting: str) -> MethodTable:
    """The table of all methods and groups."""
    return method_table(found.results, weighting, METHODS, GROUPS, "benchmark", "group")


def show_table(table: MethodTable) -> Styler:
    """ρ with intervals, and the numbers of pairs."""
    cells = with_interval(table.rows).unstack("method").loc[table.keys, table.methods]
    pairs = table.rows["pairs"].loc[table.weighting].loc[table.keys].to_numpy()
    cells = cells.set_axis([GROUPS[g] for g in table.keys])
    cells["pairs"] = [f"{n:,}" for n in pairs]
    caption = "Spearman's ρ × 100, 95 % interval in brackets"
    return styled(cells.rename(columns=METHODS), caption)


def beyond_cosines(
    found: Opened, weighting: str, **how: Unpack[Resampling]
) -> dict[str, Correlation]:
    """By group, the partial ρ of conjured similarity given both cosines of the text encoder."""
    kept = {}
    for (name, pos), label in GROUPS.items():
        part = found.joined.get(name, pd.DataFrame({"pos": []}))
        part = part[part["pos"] == pos] if pos else part
        if len(part) > len(COSINES) + 2:
            columns = part[weighting], part["people"], part[COSINES]
            kept[label] = partial_spearman(*columns, texts=both_texts(part), **how)
    return kept


def draw_groups(table: MethodTable, kept: Mapping[str, Correlation]) -> None:
    """ρ by group, and what is left of it given both cosines."""
    labels = [GROUPS[g] for g in table.keys]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 5), sharey=True, width_ratios=[1.5, 1])
    rows = {
        METHODS[m]: interval_columns(table.rows.loc[m].reindex(table.keys)) for m in table.compared
    }
    forest(left, rows, labels, zero=True)
    left.set_xlabel("Spearman's ρ × 100")
    if kept:
        partial = in_hundredths(kept).reindex(labels)
        forest(right, {METHODS[table.weighting]: partial}, labels, zero=True)
    right.set_xlabel("partial ρ given both cosines, × 100")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()


# -- the difference of two correlations -------------------------------------------------------


def statistics(x: np.ndarray) -> np.ndarray:
    """Rank statistics of R samples x (R, n, 4): conjured, people, own cosine, other cosine.

    Returns (R, 3): ρ of conjured with people, ρ of the own cosine with people, and partial ρ of
    conjured with people when both cosines are held constant.
    """
    ranks = rankdata(x, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    c = ranks.transpose(0, 2, 1) @ ranks  # (R, 4, 4), correlations
    cross = c[:, :2, 2:]
    inverse = np.linalg.pinv(c[:, 2:, 2:], hermitian=True)
    left = c[:, :2, :2] - cross @ inverse @ cross.transpose(0, 2, 1)  # cosines regressed out
    variance = left[:, 0, 0] * left[:, 1, 1]
    partial = left[:, 0, 1] / np.sqrt(np.where(variance > 1e-12, variance, np.nan))
    return np.stack([c[:, 0, 1], c[:, 2, 1], partial], axis=1)


def bootstrap(x: np.ndarray, key: int, resamples: int, seed: int) -> np.ndarray:
    """The statistics of resamples of the rows of x (n, 4): (resamples, 3).

    By hand: scipy.stats.bootstrap pairs all of its samples or none, and here the four columns go
    together while two groups are drawn apart.
    """
    rows = np.random.default_rng([seed, key]).integers(len(x), size=(resamples, len(x)))
    pieces = np.array_split(rows, 1 + rows.size // 2**17)  # for the memory
    return np.concatenate([statistics(x[piece]) for piece in pieces])


def shuffled(x: np.ndarray, y: np.ndarray, key: int, resamples: int, seed: int) -> np.ndarray:
    """Differences of the statistics of two groups (n, 4), (m, 4) under shuffled labels.

    By hand: scipy's permutation_test takes a statistic of each column, and here four make three.
    """
    pooled = np.concatenate([rankdata(g, axis=0) / (len(g) + 1) for g in (x, y)])
    order = np.tile(np.arange(len(pooled)), (resamples, 1))
    order = np.random.default_rng([seed, key]).permuted(order, axis=1)
    pieces = np.array_split(order, 1 + order.size // 2**17)
    return np.concatenate(
        [statistics(pooled[p[:, : len(x)]]) - statistics(pooled[p[:, len(x) :]]) for p in pieces]
    )


def with_excess(found: np.ndarray) -> np.ndarray:
    """Statistics (R, 3) with conjured less text encoder beside them, (R, 4)."""
    return np.column_stack([found, found[:, 0] - found[:, 1]])


def text_ratios(x: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """By how much the variance of each statistic of x (n, 4) grows where texts recur, (4,)."""
    every = np.arange(len(x))
    others = [
        np.stack([np.delete(every, i) for i in some])
        for some in chunks(range(len(x)), max(1, 2**17 // len(x)))
    ]
    left_out = with_excess(np.concatenate([statistics(x[rows]) for rows in others]))
    return np.array([text_ratio(one, texts) for one in left_out.T])


def gap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    columns: Sequence[str],
    key: int,
    *,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """First group less second, by statistic: values, difference, interval (× 100) and p.

    Pairs that share a word are not quite two pieces of evidence: the scatter of resampled and of
    shuffled pairs is widened by as much as that costs.
    """
    values, spread, off = [], [], []
    x, y = (part[list(columns)].to_numpy(float) for part in (first, second))
    for i, (group, part) in enumerate(((x, first), (y, second))):
        values.append(with_excess(statistics(group[None]))[0])
        drawn = with_excess(bootstrap(group, key + i, resamples, seed)) - values[i]
        texts = part[["text1", "text2"]].to_numpy()
        off.append(np.sqrt(text_ratios(group, texts)) * drawn)
        spread.append([np.nanvar(drawn, axis=0), np.nanvar(off[i], axis=0)])
    narrow, wide = np.sum(spread, axis=0)
    under = with_excess(shuffled(x, y, key + 2, resamples, seed)) * np.sqrt(wide / narrow)
    frame = pd.DataFrame(dict(zip(("first", "second"), values, strict=True)), [*STATISTICS, EXCESS])
    frame["difference"] = frame["first"] - frame["second"]
    ends = np.nanquantile(off[0] - off[1], [0.025, 0.975], axis=0)
    frame["low"], frame["high"] = frame["difference"].to_numpy() + ends
    extreme = np.abs(under) >= np.abs(frame["difference"].to_numpy())
    frame["p"] = (extreme.sum(axis=0) + 1) / (resamples + 1)
    frame[["first", "second", "difference", "low", "high"]] *= 100
    return frame


def by_part_of_speech(found: Opened) -> dict[str, pd.DataFrame]:
    """The pairs of each part of speech; none where one has fewer than ten."""
    if "simlex999" not in found.joined:
        return {}
    simlex = found.joined["simlex999"]
    groups = {k: simlex[simlex["pos"] == p] for k, p in PARTS.items()}
    if min(map(len, groups.values())) < 10:
        return {}
    if "simverb3500" in found.joined:
        groups[VERBS] = found.joined["simverb3500"]
    return groups


def check_statistics(groups: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> None:
    """`statistics` says of a single group what the library says."""
    for x in (part[list(columns)].to_numpy() for part in groups.values()):
        same = [spearman(x[:, 0], x[:, 1], resamples=0), spearman(x[:, 2], x[:, 1], resamples=0)]
        same.append(partial_spearman(x[:, 0], x[:, 1], x[:, 2:], resamples=0))
        np.testing.assert_allclose(statistics(x[None])[0], [c.value for c in same], atol=1e-9)


ENDS = {"low": "from", "high": "to"}  # of an interval


def gap_table(gaps: Mapping[str, pd.DataFrame]) -> Styler | None:
    """Nouns and others, their differences, intervals and p."""
    if not gaps:
        print("The test needs ratings of SimLex-999, ten pairs or more of each part of speech.")
        return None
    rows = pd.concat(gaps, names=["nouns less", ""])
    shown = rows.rename(columns={"first": "nouns", "second": "the others", **ENDS}).style
    title = "Spearman's ρ × 100 of nouns (SimLex-999) and others; difference, 95 % interval, p"
    return shown.format(precision=1).format("{:.2g}", subset="p").set_caption(title)


def judged(row: pd.Series) -> str:
    """Whether an interval of nouns less others bears the claim out."""
    if row["low"] > 0:
        return "holds"
    return "is reversed" if row["high"] < 0 else "stays open"


def in_words(row: pd.Series) -> str:
    """A difference with its interval."""
    return bracketed(row[["difference", "low", "high"]], "+.1f", ".1f")


def facts(table: MethodTable, gaps: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """How many pairs there are, and what the test says of the claim."""
    whole = [g for g in table.keys if not g[1] and not g[0].startswith("wordsim353_")]  # parts
    pairs = int(table.rows.loc[table.weighting].loc[whole, "pairs"].sum())
    said = {"n_pairs": pairs, "weighting": table.weighting}
    if gaps:
        return said | {name: Markdown(f"{text}.") for name, text in claims(gaps).items()}
    reached = (table.rho.loc[table.weighting, ("simlex999", p)] for p in "NVA")
    answer = Markdown(
        "Nouns, verbs and adjectives of SimLex-999 reach "
        f"{', '.join(f'{value:.1f}' for value in reached)} (× 100); a test of the difference needs "
        "their ratings, which are not at hand in this run."
    )
    empty = dict.fromkeys(("claim_text", "claim_partial", "excess_sentence"), Markdown(""))
    return said | {"answer": answer, "claim": answer} | empty


def claims(gaps: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """The claim under each statistic, in sentences without their full stops."""
    partial = STATISTICS[2]

    def reached(statistic: str) -> str:
        one, two = (gaps[k].loc[statistic] for k in ("verbs", "adjectives"))
        return f"{one['first']:.1f}, {one['second']:.1f} and {two['second']:.1f}"

    def verdict(statistic: str) -> str:
        one, two = (judged(gaps[k].loc[statistic]) for k in ("verbs", "adjectives"))
        return f"{one} for both" if one == two else f"{one} for verbs and {two} for adjectives"

    def listed(statistic: str, say: Callable[[str, pd.Series], str]) -> str:
        return "; ".join(say(k, frame.loc[statistic]) for k, frame in gaps.items())

    def against(k: str, r: pd.Series) -> str:
        return f"against {k} ({r['second']:.1f}) the claim {judged(r)}, {in_words(r)}"

    wider = {"holds": "is wider", "is reversed": "is narrower"}
    open_ = "may be wider or narrower"
    first = {s: gaps["verbs"].loc[s, "first"] for s in STATISTICS}
    return {
        "answer": (
            f"Nouns, verbs and adjectives of SimLex-999 reach {reached('conjured')} (× 100): the "
            f"claim {verdict('conjured')}. But the text encoder alone, without pictures, gives "
            f"{reached('text encoder')}. With its cosines held constant, {reached(partial)} are "
            f"left, and the claim {verdict(partial)}"
        ),
        "claim": f"Nouns reach {first['conjured']:.1f}: "
        + listed("conjured", lambda k, r: f"{against(k, r)}, p = {r['p']:.2g}"),
        "claim_text": "The text encoder alone, without pictures, has gaps of its own: "
        + listed("text encoder", lambda k, r: f"{in_words(r)} to the {k}"),
        "claim_partial": "With its cosines held constant, conjured similarity keeps "
        f"{first[partial]:.1f} on nouns: " + listed(partial, against),
        "excess_sentence": "Next to the gap of the text encoder, that of the pictures "
        + listed(
            EXCESS,
            lambda k, r: f"{wider.get(judged(r), open_)} for the {k}, by {in_words(r)}",
        ),
    }


def some_words(simlex: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Words drawn at random, ``count`` of each part of speech."""
    rng, chosen = np.random.default_rng(seed), []
    for pos in PARTS.values():
        words = np.unique(simlex.loc[simlex["pos"] == pos, ["text1", "text2"]])
        chosen += sorted(rng.choice(words, count, replace=False))
    return chosen


# -- similarity and relatedness ---------------------------------------------------------------


def relation(found: Opened, columns: Sequence[str], resamples: int, seed: int) -> pd.DataFrame:
    """The statistics on both parts of WordSim-353, and their difference with its interval.

    The parts share the unrelated pairs, so resamples are drawn from the union and serve both. By
    hand: scipy's bootstrap could draw no more than their row numbers, and what follows is the rest.
    """
    two = ("wordsim353_similarity", "wordsim353_relatedness")
    if not all(name in found.joined for name in two):
        return pd.DataFrame()
    key = ["text1", "text2", "people"]  # one pair stands in the set twice, with two ratings
    union = pd.concat([found.joined[n] for n in two]).drop_duplicates(key)
    place = pd.MultiIndex.from_frame(union[key])
    member = [place.isin(pd.MultiIndex.from_frame(found.joined[n][key])) for n in two]
    x = union[list(columns)].to_numpy()
    assert [int(m.sum()) for m in member] == [len(found.joined[n]) for n in two]

    def parts_of(rows: np.ndarray) -> np.ndarray:
        """Statistics of the similarity and of the relatedness part among these rows: (2, 3)."""
        return np.stack([statistics(x[None, rows[m[rows]]])[0] for m in member])

    rng, every = np.random.default_rng([seed, 99]), np.arange(len(x))
    drawn = np.stack([parts_of(rng.integers(len(x), size=len(x))) for _ in range(resamples)])
    value = 100 * parts_of(every)
    left_out = np.stack([np.subtract(*parts_of(np.delete(every, i))) for i in every])
    ratios = [text_ratio(one, union[["text1", "text2"]].to_numpy()) for one in left_out.T]
    off = 100 * (drawn[:, 0] - drawn[:, 1]) - (value[0] - value[1])
    ends = np.sqrt(ratios) * np.quantile(off, [0.025, 0.975], axis=0)
    low, high = value[0] - value[1] + ends
    rows = {"similarity": value[0], "relatedness": value[1], "difference": value[0] - value[1]}
    return pd.DataFrame(rows | {"low": low, "high": high}, index=STATISTICS)


def relation_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Which of the two parts conjured similarity agrees with better."""
    sentence = "This needs both parts of WordSim-353, which are not at hand in this run."
    if len(rows):
        kinds = {
            "holds": "agrees better with people on similarity than on relatedness",
            "is reversed": "agrees better with people on relatedness than on similarity",
            "stays open": "shows no difference that this set could tell from chance",
        }
        ours = rows.loc["conjured"]
        sentence = (
            f"Conjured similarity {kinds[judged(ours)]}: {in_words(ours)}; the text encoder's "
            f"difference is {in_words(rows.loc['text encoder'])}."
        )
    return {"relation_sentence": Markdown(sentence)}


# -- concreteness -----------------------------------------------------------------------------


def concrete_pairs(found: Opened) -> dict[str, pd.DataFrame]:
    """Pairs whose two words are rated, with their mean concreteness; sets with forty or more."""
    try:
        ratings = benchmarks.load_concreteness()
    except FileNotFoundError as error:
        print("No slices by concreteness:", error)
        return {}

    def rated(part: pd.DataFrame) -> pd.DataFrame:
        both = [part[c].str.lower().map(ratings) for c in ("text1", "text2")]
        return part.assign(concreteness=(both[0] + both[1]) / 2).dropna(subset="concreteness")

    pairs = {}
    if "simlex999" in found.joined:
        simlex = found.joined["simlex999"]
        pairs = {NOUNS: simlex[simlex["pos"] == "N"], "verbs": simlex[simlex["pos"] == "V"]}
    if "simverb3500" in found.joined:
        pairs[VERBS] = found.joined["simverb3500"]
    found_rated = {name: rated(part) for name, part in pairs.items()}
    return {name: part for name, part in found_rated.items() if len(part) >= 40}


def by_concreteness(
    part: pd.DataFrame, table: MethodTable, **how: Unpack[Resampling]
) -> dict[str, pd.DataFrame]:
    """By method, ρ in the quartiles of concreteness, with the mean of each."""
    slices = part.groupby(pd.qcut(part["concreteness"], 4, labels=False))
    mine, own = table.weighting, table.own
    found: dict[str, dict[Any, Correlation]] = {
        mine: {q: spearman(s[mine], s["people"], texts=both_texts(s), **how) for q, s in slices},
        own: {q: spearman(s[own], s["people"], texts=both_texts(s), **how) for q, s in slices},
        "partial": {
            q: partial_spearman(s[mine], s["people"], s[COSINES], texts=both_texts(s), **how)
            for q, s in slices
        },
    }
    mean = slices["concreteness"].mean()
    return {m: in_hundredths(rows).assign(concreteness=mean) for m, rows in found.items()}


def draw_concreteness(quartiles: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """ρ by concreteness, a panel for nouns and one for verbs."""
    if not quartiles:
        return
    titles = METHODS | {"partial": "conjured, cosines held constant"}
    figure, axes = plt.subplots(1, len(quartiles), figsize=(9, 3.7), sharey=True, squeeze=False)
    for axis, (name, lines) in zip(axes[0], quartiles.items(), strict=True):
        for k, (m, frame) in enumerate(lines.items()):
            value, low, high = frame[["value", "low", "high"]].to_numpy(float).T
            at, ends = frame["concreteness"] + 0.03 * (k - 1), np.abs([value - low, high - value])
            axis.errorbar(at, value, ends, fmt="o-", ms=4, color=PALETTE[k], label=titles[m])
        axis.axhline(0, color="0.4", linewidth=1)
        axis.set(title=name, xlabel="mean concreteness of the quartile (1 to 5)")
    axes[0, 0].set_ylabel("Spearman's ρ × 100")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plt.show()


def trend(
    part: pd.DataFrame, columns: Sequence[str], key: int, **how: Unpack[Resampling]
) -> pd.DataFrame:
    """The concrete half less the abstract half."""
    halves = part["concreteness"] > part["concreteness"].median()
    return gap(part[halves], part[~halves], columns, key, **how)


def matched_rows(
    first: pd.DataFrame, second: pd.DataFrame, caliper: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of either, one to one and nearest first, whose concreteness differs by so much at most.

    Greedy: the nearest couple is taken out, then the nearest of the rest. By hand: scipy's
    linear_sum_assignment makes the sum of all differences small, and knows of no largest one.
    """
    a, b = first["concreteness"].to_numpy(), second["concreteness"].to_numpy()
    apart = np.abs(a[:, None] - b[None])
    free, chosen = (np.ones(len(a), bool), np.ones(len(b), bool)), []
    for i, j in zip(*np.unravel_index(np.argsort(apart, axis=None), apart.shape), strict=True):
        if apart[i, j] > caliper:
            break
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            chosen.append((i, j))
    rows = np.array(chosen, int).reshape(-1, 2)
    return first.iloc[rows[:, 0]], second.iloc[rows[:, 1]]


def matched_gap(
    rated: Mapping[str, pd.DataFrame],
    columns: Sequence[str],
    caliper: float,
    key: int,
    **how: Unpack[Resampling],
) -> tuple[Sequence[pd.DataFrame], pd.DataFrame | None]:
    """`matched_rows` of the rated nouns and verbs, and their `gap` where there are more than ten.

    No rows where either has no ratings.
    """
    if not {NOUNS, "verbs"} <= rated.keys():
        return (), None
    couples = matched_rows(rated[NOUNS], rated["verbs"], caliper)
    return couples, gap(*couples, columns, key, **how) if len(couples[0]) > 10 else None


def trend_table(trends: Mapping[str, pd.DataFrame], like: pd.DataFrame | None, couples: int) -> Any:
    """Concrete less abstract halves, and nouns less verbs of equal concreteness."""
    rows = {f"{name}: concrete less abstract half": frame for name, frame in trends.items()}
    if like is not None:
        rows[f"SimLex-999: nouns less verbs, {couples} matched pairs of each"] = like
    if not rows:
        return None
    columns = {"first": "first group", "second": "second group", **ENDS}
    shown = pd.concat(rows, names=["", "statistic"]).rename(columns=columns).style
    title = "Spearman's ρ × 100 of two groups, their difference, 95 % interval, p"
    return shown.format(precision=1).format("{:.2g}", subset="p").set_caption(title)


def trend_facts(
    trends: Mapping[str, pd.DataFrame], like: pd.DataFrame | None, couples: Sequence[pd.DataFrame]
) -> dict[str, Any]:
    """Whether agreement rises with concreteness, and whether that explains nouns and verbs."""
    kinds = {
        "holds": "rises with concreteness",
        "is reversed": "falls with concreteness",
        "stays open": "shows no clear trend with concreteness",
    }
    outcomes = {
        "holds": "concreteness does not explain the gap away",
        "is reversed": "the gap is reversed",
        "stays open": "whether a gap is left these pairs cannot tell",
    }
    told = [
        f"Among the {name}, agreement {kinds[judged(ours)]} (concrete half less abstract half "
        f"{in_words(ours)}); that of the text encoder {kinds[judged(text)]} ({in_words(text)})."
        for name, frame in trends.items()
        for ours, text in [(frame.loc["conjured"], frame.loc["text encoder"])]
    ]
    absent = "That needs ratings of concreteness, which are not at hand in this run."
    sentence = "Too few nouns and verbs match to compare them." if couples else absent
    if like is not None:
        row = like.loc["conjured"]
        sizes = ", ".join(f"{part['concreteness'].mean():.2f}" for part in couples)
        sentence = (
            f"Matched one to one by concreteness ({len(couples[0])} nouns and as many verbs, mean "
            f"concreteness {sizes}), nouns reach {row['first']:.1f} and verbs {row['second']:.1f}, "
            f"a difference of {in_words(row)}: {outcomes[judged(row)]}."
        )
    return {
        "trend_sentence": Markdown(" ".join(told) or absent),
        "matched_sentence": Markdown(sentence),
    }


# -- a U-Net that has never seen a picture ----------------------------------------------------


def control(
    some: pd.DataFrame, table: MethodTable, **how: Unpack[Resampling]
) -> dict[str, Correlation]:
    """How the trained and the untrained U-Net agree with people, alone and given the cosines.

    ``some`` are pairs with people, the methods, and a column "untrained" of similarities.
    """
    ours, blind, people = some[table.weighting], some["untrained"], some["people"]
    both = some[[*COSINES, "untrained"]]
    texts = both_texts(some)

    def alone(values: pd.Series) -> Correlation:
        return spearman(values, people, texts=texts, **how)

    def given(others: pd.DataFrame, values: pd.Series) -> Correlation:
        return partial_spearman(values, people, others, texts=texts, **how)

    return {
        "trained U-Net": alone(ours),
        "untrained U-Net": alone(blind),
        "text encoder, better cosine": alone(some[table.own]),
        "trained, given both cosines": given(some[COSINES], ours),
        "untrained, given both cosines": given(some[COSINES], blind),
        "trained, given cosines and untrained": given(both, ours),
    }


def draw_control(found: Mapping[str, Correlation]) -> None:
    """All of them with intervals."""
    if not found:
        return
    _, axis = plt.subplots(figsize=(7.5, 2.9))
    forest(axis, {"": in_hundredths(found)}, list(found), zero=True)
    pairs = found["trained U-Net"].pairs
    axis.set_xlabel(f"Spearman's ρ × 100 with people, {pairs} pairs of SimLex-999")
    plt.show()


def control_facts(found: Mapping[str, Correlation]) -> dict[str, Any]:
    """What training on pictures has added."""
    sentence = "it needs SimLex-999, which is not at hand in this run."
    if found:
        plain, stirred = found["trained U-Net"], found["untrained U-Net"]
        given, last = (
            found[f"trained, given {what}"] for what in ("both cosines", "cosines and untrained")
        )
        outcome = (
            "which one twin suggests is due to training on pictures"
            if last.low > 0
            else "so training on pictures has moved the order away from people's"
            if last.high < 0
            else "so these pairs cannot tell whether training on pictures has added anything"
        )
        sentence = (
            f"on {plain.pairs} pairs of SimLex-999 the trained U-Net correlates with people at "
            f"{100 * plain.value:.1f} and one with random weights, behind the same text encoder, "
            f"at {100 * stirred.value:.1f}; with the cosines held constant the trained one keeps "
            f"{100 * given.value:.1f}, with the random one held constant too "
            f"{bracketed_of(last, '.1f', times=100)}, {outcome}."
        )
    return {"control_sentence": Markdown(sentence)}


# -- what the page asks of its models ---------------------------------------------------------


def of_record(
    process: cj.GenerativeProcess,
    anew: Anew | None,
    sample: int,
    batch_size: int,
    resamples: int,
    seed: int,
) -> Opened:
    """The sets of words, as `people.opened_with_people` opens them."""
    return opened_with_people(
        process, "words", NAMES, sample=sample, resamples=resamples, seed=seed,
        batch_size=batch_size, anew=anew,
    )  # fmt: skip


def draw_pictures(
    process: cj.GenerativeProcess, simlex: pd.DataFrame, count: int, sampling: cj.Sampling
) -> None:
    """What ``count`` words of each part of speech conjure."""
    chosen = some_words(simlex, count, sampling.seed)
    picture_grid(process.generate(chosen, sampling=sampling), chosen, columns=count)
    plt.show()


def scored_by(
    blind: cj.GenerativeProcess,
    found: Opened,
    count: int,
    seed: int,
    *,
    draws: int,
    weighting: Weighting,
    batch_size: int,
) -> pd.DataFrame:
    """Some pairs of SimLex-999, stratified, with a column "untrained": similarities of ``blind``.

    The rest is as in the record.
    """
    some = stratified(found.joined["simlex999"], count, seed=seed)
    sampling = cj.Sampling.of(draws=draws, **found.settings)
    estimates = cj.distances(
        blind, texts_of(some), sampling=sampling, weighting=weighting, batch_size=batch_size,
        progress=False,
    )  # fmt: skip
    return some.assign(untrained=[-e.value for e in estimates])
