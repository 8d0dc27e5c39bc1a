"""What chapter 7 shows of the ablations: figures, and facts for its sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib import EMBEDDED, Weighting
from conjure_tools import benchmarks, runs
from conjure_tools.correlation import both_texts, paired_bootstrap
from conjure_tools.fingerprints import weights_hash
from conjure_tools.plots import PALETTE
from studies import ablations
from studies.ablations import BASE, CHOICES, DIFFERENCE, MEASURED, MIRRORED
from studies.pages import bracketed, bracketed_of, plain_ticks
from studies.records import Overlay, Record, laid_over, matching, opened, work

LABELS = {"simlex999-150": "SimLex-999, 150 pairs", "stsb-100": "STS-B, 100 pairs"}  # on record
"""Sets of the record, as the page names them."""
LEARNED = "learned on "
LONG = {
    "steps": "{} steps",
    "guidance": "guidance {}",
    "sampler": "sampler {}",
    "pairing": "{} pairing",
    "one_sided": "{} half alone",
}
"""Studies that change one choice, and what their values are called."""
MARKS = {
    "steps": "o",
    "draws": "s",
    "guidance": "^",
    "sampler": "v",
    "pairing": "X",
    "one_sided": "d",
    "prior": "P",
    "weighting": "s",
}
METHODS = ("independent", "common", "antithetic", "random half", "stratified")


# -- what is scored here, and the record ------------------------------------------------------


@dataclass(frozen=True)
class Live:
    """The set that a page scores itself: every run of the studies on it."""

    name: str  # as the page writes it
    benchmark: str
    pairs: pd.DataFrame
    scored: dict[tuple[str, str], runs.Run]

    @property
    def base(self) -> runs.Run:
        """The run that all others are compared with."""
        return self.scored[BASE]

    @property
    def draws(self) -> int:
        """Of the base run."""
        return int(self.base.terms.squares.shape[1])

    @property
    def human(self) -> np.ndarray:
        """People's ratings, (P,)."""
        return self.pairs["score"].to_numpy(float)

    @property
    def evaluations(self) -> int:
        """Noise predictions of all runs."""
        return sum(run.record["unet_evaluations"] for run in self.scored.values())

    def description(self) -> str:
        """What was scored, and what it took."""
        counts = f"{len(self.pairs)} pairs, {len(self.scored)} runs"
        return f"{self.name}: {counts}, {self.evaluations:,} noise predictions"


def scored_here(
    process: cj.GenerativeProcess,
    pairs: int,
    draws: int,
    few: int,
    steps: Sequence[int],
    guidances: Sequence[float],
    samplers: Sequence[str],
    batch_size: int,
) -> Live:
    """RG-65, or nouns of SimLex-999 where it is not at hand; as `score_all` has it."""
    try:
        table, name, benchmark = benchmarks.load_pairs("rg65"), "RG-65", "rg65"
    except FileNotFoundError:
        nouns = benchmarks.load_pairs("simlex999").query("pos == 'N'")
        table, name, benchmark = nouns.iloc[:80], "the first 80 nouns of SimLex-999", "simlex999"
        print("RG-65 is not at hand (set CONJURE_DATA): this page takes nouns of SimLex-999")
    table = runs.stratified(table, pairs).reset_index(drop=True)
    with TemporaryDirectory() as folder:
        found = ablations.score_all(
            process, table, Path(folder), draws=draws, few=few, steps=steps, guidances=guidances,
            samplers=samplers, batch_size=batch_size, report=lambda _: None,
        )  # fmt: skip
    return Live(name, benchmark, table, found)


@dataclass(frozen=True)
class OfRecord:
    """The same studies of larger sets, by their names on the page; and their variances."""

    results: dict[str, pd.DataFrame]
    variance: pd.DataFrame


def of_record(
    process: cj.GenerativeProcess, live: Live, weighting: Weighting, recompute: bool
) -> tuple[OfRecord, Overlay]:
    """The ablations of record, or made anew, and what the page scores over the record of words."""
    beside = overlay(process, live, weighting)
    if recompute:
        table, variance, _ = ablations.make(process, work("ablations"))
        return _named(table, variance), beside
    found, spread = opened("ablations"), opened("variance")
    if found is None or spread is None:
        return OfRecord({}, pd.DataFrame()), beside
    found.checked(weights_hash(process))
    return _named(found.table, spread.table), beside


def _named(table: pd.DataFrame, variance: pd.DataFrame) -> OfRecord:
    """Both tables by the names of LABELS; the set that a page scores itself is left out."""
    results = {
        label: table[table["benchmark"] == name]
        for name, label in LABELS.items()
        if name in set(table["benchmark"])
    }
    rows = variance[variance["benchmark"].isin(LABELS)]
    return OfRecord(results, rows.assign(benchmark=rows["benchmark"].map(LABELS)))


def overlay(process: cj.GenerativeProcess, live: Live, weighting: Weighting) -> Overlay:
    """Distances of the base run laid over those of the record of words."""
    known = opened("words") if process.name == EMBEDDED else None
    if known is None:
        return laid_over("words")
    if (draws := known.notes[live.benchmark]["draws"]) > live.draws:
        why = f"the record has {draws} draws a pair, this page {live.draws}"
        return laid_over("words", missing=why)
    table = known.table[known.table["benchmark"] == live.benchmark]
    fresh = live.base.distances(weighting, draws=draws).rename(columns={"distance": weighting})
    record, weights = Record("words", table, known.notes), weights_hash(process)
    return record.overlay(fresh, value=weighting, weights=weights)


# -- what changes the ranks -------------------------------------------------------------------


def weightings(results: Mapping[str, pd.DataFrame]) -> Styler:
    """ρ of the base run under every weighting, by set."""
    parts = {
        name: agreement_columns(table[table["study"] == "weighting"].set_index("weighting"))
        for name, table in results.items()
    }
    caption = "ρ × 100 of the base run, and its difference from “sde”, in points"
    return pd.concat(parts, names=["pairs", "weighting"]).style.set_caption(caption)


def agreement_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """ρ × 100 and its difference, in points, each with its 95 % interval, for reading."""
    said = [
        (bracketed(v[:3], ".1f"), bracketed(v[3:], "+.1f"))
        for v in 100 * rows[MEASURED].to_numpy(float)
    ]
    return pd.DataFrame(said, rows.index, ["ρ × 100 [95 %]", "difference [95 %]"])


def single_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that change one choice, with as many draws as their run has, and a label."""
    rows = table[table["study"].isin(LONG) & (table["value"] != "both")].copy()
    most = rows.groupby(["study", "value"])["draws"].transform("max")
    rows = rows[rows["draws"] == most]
    named = zip(rows["study"], rows["value"], strict=True)
    return rows.assign(label=[LONG[study].format(value) for study, value in named])


def clear_of_zero(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose interval of the difference excludes zero, the largest difference first."""
    clear = rows[(rows["difference_low"] > 0) | (rows["difference_high"] < 0)]
    return clear.sort_values("difference", key=lambda d: d.abs(), ascending=False)


def difference(row: Any) -> str:
    """The difference of ρ × 100 of a row, with its interval."""
    return bracketed_of(row, "+.1f", times=100, names=DIFFERENCE)


def changes_in_words(rows: pd.DataFrame) -> str:
    """Labels and differences of ρ × 100, in a sentence."""
    said = [f"{r.label} under “{r.weighting}” ({difference(r)})" for r in rows.itertuples()]
    return "; ".join(said) or "none"


def change_facts(results: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """How many changes are clear of zero, and the largest; the first set is that of the page."""
    changes = {name: single_changes(table) for name, table in results.items()}
    live, table = next(iter(changes.values())), next(iter(results.values()))
    clear = clear_of_zero(live)
    by_weighting = table[table["study"] == "weighting"].set_index("weighting")
    return {
        "n_changes": len(live),
        "count_clear": f"{len(clear) or 'none'} {'are' if len(clear) > 1 else 'is'} clear",
        "clear": changes_in_words(clear[:6]),
        "largest_sentence": Markdown(
            f"The largest is {changes_in_words(clear[:1])}." if len(clear) else ""
        ),
        "by_chance": 0.05 * len(live),
        "noise_over_sde": difference(by_weighting.loc["noise"]),
        "elsewhere": "; ".join(
            f"{name}: {len(clear_of_zero(rows))} of {len(rows)}" for name, rows in changes.items()
        ),
    }


def draw_changes(results: Mapping[str, pd.DataFrame]) -> None:
    """ρ less that of the base run, a row a change, a panel a set."""
    changes = {name: single_changes(table) for name, table in results.items()}
    order = list(dict.fromkeys(next(iter(changes.values()))["label"]))
    size = (3.2 + 3.2 * len(changes), 0.42 * len(order) + 1.6)
    figure, axes = plt.subplots(1, len(changes), figsize=size, sharey=True, squeeze=False)
    for axis, (name, rows) in zip(axes.flat, changes.items(), strict=True):
        for i, (weighting, colour) in enumerate(zip(cj.WEIGHTINGS, PALETTE, strict=False)):
            part = rows[(rows["weighting"] == weighting) & rows["label"].isin(order)]
            y = np.array([order.index(label) for label in part["label"]]) + 0.22 * (i - 1)
            x, low, high = (100 * part[c] for c in DIFFERENCE)
            axis.plot(x, y, "o", ms=4, color=colour, label=weighting)
            axis.hlines(y, low, high, color=colour)
        axis.axvline(0, color="0.6", linewidth=1, zorder=0)
        axis.set(title=name, xlabel=r"$\rho - \rho_{\mathrm{base}}$, × 100")
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].invert_yaxis()
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=3, title="weighting")
    plt.show()


# -- one half alone ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Halves:
    """The two one-sided divergences of every pair, (P, draws, 2)."""

    values: np.ndarray

    @cached_property
    def log_ratio(self) -> np.ndarray:
        """Logarithm of the first over the second, (P, draws)."""
        return np.asarray(np.log(self.values[..., 0] / self.values[..., 1]))

    @property
    def size(self) -> np.ndarray:
        """How unequal they are, (P,)."""
        return np.abs(self.log_ratio.mean(1))

    def table(self, pairs: pd.DataFrame, weighting: str) -> Styler:
        """The six pairs with the most unequal halves."""
        first, second = self.values.mean(1).T
        found = pairs[["text1", "text2"]].assign(
            first=first, second=second, ratio=np.exp(self.log_ratio.mean(1))
        )
        found.columns = pd.Index(["y1", "y2", "along y1", "along y2", "ratio"])
        rows = found.iloc[np.argsort(-self.size)[:6]].style.hide().format(precision=2)
        unit = ", in nats" if weighting == "sde" else ""
        return rows.set_caption(f"The pairs with the most unequal halves (“{weighting}”{unit})")

    def facts(self) -> dict[str, Any]:
        """How much alike the halves are, over the pairs."""
        error = self.log_ratio.std(1, ddof=1) / np.sqrt(self.log_ratio.shape[1])
        return {
            "halves_corr": np.corrcoef(np.log(self.values.mean(1)).T)[0, 1],
            "ratio_median": np.exp(np.median(self.size)),
            "n_unequal": int((self.size > 2 * error).sum()),
        }


def halves(run: runs.Run, weighting: Weighting) -> Halves:
    """Either half of every pair and draw."""
    return Halves(2 * run.terms.parts(weighting, run.quadrature).sum(2))


# -- the prior over t -------------------------------------------------------------------------


def prior_rows(results: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """By set, the rows of the study of priors."""
    return {name: table[table["study"] == "prior"] for name, table in results.items()}


def prior_table(rows: pd.DataFrame, name: str) -> Styler:
    """The priors that are not single timesteps."""
    prior = rows.set_index("value")
    wanted = prior.loc[~prior.index.str.startswith("t = ")]
    caption = f"{name}: ρ × 100 by the weights over t, and its difference from uniform, in points"
    return agreement_columns(wanted).rename_axis("weights over t").style.set_caption(caption)


def prior_facts(priors: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What single and learned timesteps bring; the first set is that of the page."""
    by_set = {name: rows.set_index("value") for name, rows in priors.items()}
    (_, here), *elsewhere = by_set.items()
    rho = 100 * here["spearman"]
    singles = rho[rho.index.str.startswith("t = ")]
    own, all_pairs = "learned on the other half", "learned on all pairs (not a test)"
    learned = [f"{name}: {difference(rows.loc[own])}" for name, rows in elsewhere]
    transferred = [
        f"{name}, {LEARNED}{(benchmarks.NAMES | LABELS)[key]}: {difference(rows.loc[value])}"
        for name, rows in elsewhere
        for value in rows.index
        if (key := value.removeprefix(LEARNED)) in ablations.SETS
    ]
    return {
        "best_t": singles.idxmax(),
        "best_t_rho": singles.max(),
        "worst_t": singles.idxmin(),
        "worst_t_rho": singles.min(),
        "uniform_rho": rho["uniform"],
        "learned_difference": difference(here.loc[own]),
        "single_difference": difference(here.loc["single t chosen on the other half"]),
        "optimism": rho[all_pairs] - rho[own],
        "elsewhere_learned": "; ".join(learned) or "no record",
        "transferred": "; ".join(transferred) or "no record",
    }


def draw_prior(priors: Mapping[str, pd.DataFrame], run: runs.Run, fitted: np.ndarray) -> None:
    """ρ of every single timestep, and the weights ``fitted`` on halves, (2 · halvings, S)."""
    _, (rho_axis, weight_axis) = plt.subplots(1, 2, figsize=(9, 3.6))
    for (name, rows), colour in zip(priors.items(), PALETTE, strict=False):
        part = rows[rows["value"].str.startswith("t = ")]
        t = part["value"].str.removeprefix("t = ").astype(int)
        rho_axis.plot(t, 100 * part["spearman"], "o-", color=colour, label=name)
        rho_axis.fill_between(t, 100 * part["low"], 100 * part["high"], color=colour, alpha=0.12)
        uniform = rows.loc[rows["value"] == "uniform", "spearman"].iloc[0]
        rho_axis.axhline(100 * uniform, color=colour, linestyle=":")
    rho_axis.set(xlabel="the timestep t that has all the weight", ylabel=r"$\rho$ × 100")
    rho_axis.invert_xaxis()
    rho_axis.legend()
    place = np.arange(len(run.terms.timesteps))
    low, high = np.quantile(fitted, [0.1, 0.9], axis=0)
    weight_axis.bar(place, fitted.mean(0), color="0.75", label="mean over the halves")
    weight_axis.vlines(place, low, high, color="0.3", label="80 % of the halves")
    for weighting, colour in zip(cj.WEIGHTINGS, PALETTE, strict=False):
        implied = run.terms.parts(weighting, run.quadrature).sum(3).mean((0, 1))
        weight_axis.plot(place, implied / implied.sum(), ".--", color=colour, label=weighting)
    weight_axis.set_xticks(place, [str(t) for t in run.terms.timesteps.tolist()], fontsize=8)
    weight_axis.set(xlabel="timestep t", ylabel="share of the weight", ylim=(0, None))
    weight_axis.legend(fontsize=8)
    plt.show()


# -- accuracy against cost --------------------------------------------------------------------


FRONTIER = {
    "study": "what was varied",
    "value": "to",
    "weighting": "weighting",
    "draws": "draws",
    "steps": "steps",
    "evaluations_per_pair": "noise predictions a pair",
    "spearman": "ρ × 100",
}


def frontier(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows to which no cheaper row is equal or better, from cheap to dear."""
    rows = rows.sort_values(["evaluations_per_pair", "spearman"], ascending=[True, False])
    return rows[rows["spearman"] > rows["spearman"].cummax().shift(fill_value=-np.inf)]


def candidates(table: pd.DataFrame) -> pd.DataFrame:
    """Configurations that can be had for their price: nothing that was learned."""
    return table[~table["value"].str.contains("learned|chosen")]


def frontier_table(rows: pd.DataFrame, name: str) -> Styler:
    """The configurations of the frontier."""
    best = frontier(rows)
    named = best.assign(study=best["study"].str.replace("_", " "), spearman=100 * best["spearman"])
    shown = named[list(FRONTIER)].rename(columns=FRONTIER).style.hide()
    shown = shown.format("{:,.1f}", subset=[FRONTIER["evaluations_per_pair"], FRONTIER["spearman"]])
    return shown.set_caption(f"The frontier on {name}")


def frontier_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Where the frontier ends, and what comes within two points of that."""
    best = frontier(rows)
    top = best.iloc[-1]
    near = best[best["spearman"] > top["spearman"] - 0.02].iloc[0]
    draws = f"{near['draws']} draw{'s' if near['draws'] > 1 else ''}"
    return {
        "near_sentence": Markdown(
            "Nothing cheaper comes within two points of that."
            if near.name == top.name
            else f"The cheapest within two points of that is {near['study'].replace('_', ' ')} "
            f"{near['value']} under “{near['weighting']}” with {draws}: "
            f"{100 * near['spearman']:.1f} for {near['evaluations_per_pair']:,.1f}."
        ),
        "top_rho": 100 * top["spearman"],
        "top_cost": top["evaluations_per_pair"],
        "half_width": 100 * ((rows["high"] - rows["low"]) / 2).median(),
        "n_candidates": len(rows),
    }


def draw_frontier(by_set: Mapping[str, pd.DataFrame]) -> None:
    """ρ over noise predictions a pair, with the frontier and the interval at its end."""
    size = (2 + 4 * len(by_set), 4.2)
    figure, axes = plt.subplots(1, len(by_set), figsize=size, squeeze=False, layout="constrained")
    for axis, (name, rows) in zip(axes.flat, by_set.items(), strict=True):
        for weighting, colour in zip(cj.WEIGHTINGS, PALETTE, strict=False):
            for study, part in rows[rows["weighting"] == weighting].groupby("study"):
                x, y = part["evaluations_per_pair"], 100 * part["spearman"]
                axis.plot(x, y, MARKS[str(study)], color=colour, ms=5, alpha=0.75, mec="none")
        line = frontier(rows)
        axis.step(line["evaluations_per_pair"], 100 * line["spearman"], where="post", color="0.4")
        last = line.iloc[-1]
        edge = 1.6 * rows["evaluations_per_pair"].max()
        axis.vlines(edge, 100 * last["low"], 100 * last["high"], color="0.4", linewidth=2)
        axis.set(xscale="log", xlabel="noise predictions a pair", title=name)
    axes[0, 0].set_ylabel(r"$\rho$ × 100")
    colours = zip(cj.WEIGHTINGS, PALETTE, strict=False)
    handles = [Line2D([], [], color=c, marker="o", ls="", label=w) for w, c in colours]
    handles += [
        Line2D([], [], color="0.4", marker=m, ls="", label=s.replace("_", " "))
        for s, m in MARKS.items()
        if s != "weighting"
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    plt.show()


# -- why a handful of draws suffices ----------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Of one weighting: variance between pairs, that of the noise of a draw, and people."""

    between: float  # V
    noise: float  # σ²
    rho: pd.Series  # of all draws, with its interval
    draws: int

    def of(self, k: float | np.ndarray) -> Any:
        """r_k of k draws."""
        return self.between / (self.between + self.noise / np.asarray(k, float))

    @property
    def limit(self) -> float:
        """ρ of infinitely many draws, by the law of attenuation."""
        return float(self.rho["spearman"] / np.sqrt(self.of(self.draws)))


def reliabilities_of_runs(live: Live, table: pd.DataFrame) -> dict[Weighting, Reliability]:
    """By weighting, from the base run and the ``table`` of the studies."""
    rows = table[table["study"] == "weighting"].set_index("weighting")
    found = {}
    for w in cj.WEIGHTINGS:
        values = live.base.by_draw(w)
        between, noise = ablations.between_pairs(values), ablations.interaction(values)
        found[w] = Reliability(between, noise, rows.loc[w], live.draws)
    return found


def draw_draws(live: Live, found: Mapping[Weighting, Reliability], weighting: Weighting) -> None:
    """Distances with their errors, reliability by draws, and ρ by draws with the law's curve."""
    _, axes = plt.subplots(1, 3, figsize=(11, 3.8))
    few = live.base.by_draw(weighting)[:, : min(3, live.draws)]
    rank = np.argsort(few.mean(1))
    bars = few.std(1, ddof=1)[rank] / np.sqrt(few.shape[1])
    places = range(len(rank))
    axes[0].errorbar(places, few.mean(1)[rank], bars, fmt=".", color=PALETTE[0], elinewidth=1)
    title = f"{few.shape[1]} draws, ± 1 standard error"
    axes[0].set(xticks=[], xlabel="pairs, by their distance", ylabel=f"distance ({weighting})")
    axes[0].set(ylim=(0, None), title=title)
    counts = sorted({1, 2, 3, 5, 8} & set(range(1, max(2, live.draws // 2) + 1)))
    ks = np.geomspace(1, ablations.COUNTS[-1])
    for i, ((w, r), colour) in enumerate(zip(found.items(), PALETTE, strict=False)):
        axes[1].plot(ks, r.of(ks), color=colour, label=w)
        by_choice = ablations.over_choices(live.base.by_draw(w), live.human, counts)
        mean, sd = 100 * by_choice.mean(0), 100 * by_choice.std(0)
        shift = np.array(counts) * 1.05 ** (i - 1)
        axes[2].errorbar(shift, mean, sd, fmt="o", ms=4, color=colour, capsize=2)
        axes[2].plot(ks, 100 * r.limit * np.sqrt(r.of(ks)), ":", color=colour)
        ends = 100 * r.rho["low"], 100 * r.rho["high"]
        axes[2].vlines(22 * 1.2**i, *ends, color=colour, linewidth=2)
    axes[1].set(xscale="log", xlabel="draws k", ylabel="reliability $r_k$", ylim=(0, 1.02))
    axes[1].legend(title="weighting")
    axes[2].set(xscale="log", xlabel="draws k; right: over pairs", ylabel=r"$\rho$ × 100")
    for axis in axes[1:]:
        plain_ticks(axis, ablations.COUNTS)
    plt.show()


def three_and_five(live: Live, weighting: Weighting, nested: bool) -> np.ndarray:
    """Spearman of 3 and of 5 draws in random choices of them, (CHOICES, 2); needs 5 or 8 draws.

    All choices come from the draws of one base run.
    """
    values, rng = live.base.by_draw(weighting), np.random.default_rng(0)
    needed = 5 if nested else 8
    if live.draws < needed:
        return np.full((CHOICES, 2), np.nan)
    picked = np.stack([rng.permutation(live.draws)[:needed] for _ in range(CHOICES)])
    three, five = picked[:, :3], picked[:, -5:]
    means = [values[:, chosen].mean(2).T for chosen in (three, five)]  # (CHOICES, P) each
    return np.stack([ablations.rank_correlations(-mean, live.human) for mean in means], axis=1)


def three_five(live: Live) -> pd.DataFrame:
    """ρ × 100 of five draws less that of three, over the choice of the draws, by weighting."""
    rows = []
    for w in cj.WEIGHTINGS:
        for nested in (True, False):
            rho = three_and_five(live, w, nested)
            change = 100 * (rho[:, 1] - rho[:, 0])
            label = "3 of the 5" if nested else "8 different"
            downwards = 100 * (change < 0).mean() if np.isfinite(change).all() else np.nan
            rows.append([w, label, change.mean(), change.std(ddof=1), downwards])
    columns = ["weighting", "draws", "mean change", "standard deviation", "% downwards"]
    return pd.DataFrame(rows, columns=columns)


def three_five_table(found: pd.DataFrame, name: str) -> Styler:
    """For reading."""
    few, caption = "too few draws", "ρ × 100 of five draws less that of three, over the choice"
    styled = found.style.hide().format(precision=2, na_rep=few)
    styled = styled.format("{:.0f}", subset="% downwards", na_rep=few)
    return styled.set_caption(f"{name}: {caption} of the draws")


def few_draw_facts(
    live: Live,
    found: Mapping[Weighting, Reliability],
    changes: pd.DataFrame,
    record: Mapping[str, pd.DataFrame],
    weighting: Weighting,
    resamples: int,
) -> dict[str, Any]:
    """What few draws lose, and how often five do worse than three."""
    r, values = found[weighting], live.base.by_draw(weighting)
    at = changes.set_index(["weighting", "draws"]).loc[(weighting, "3 of the 5")]
    three, five = values[:, : min(3, live.draws)], values[:, : min(5, live.draws)]
    how: Any = {"texts": both_texts(live.pairs), "resamples": resamples}
    change = paired_bootstrap(-five.mean(1), -three.mean(1), live.human, **how)
    error = three.std(1, ddof=1).mean() / np.sqrt(three.shape[1])
    one, of_three, of_five = (float(r.of(k)) for k in (1, 3, 5))
    worst = min(found, key=lambda w: float(found[w].of(3)))
    return {
        "weighting": weighting,
        "reliability_one": 100 * one,
        "reliability_three": 100 * of_three,
        "reliability_five": 100 * of_five,
        "lost_one": 100 * (1 - np.sqrt(one)),
        "lost_three": 100 * (1 - np.sqrt(of_three)),
        "error_ratio": 100 * error / np.sqrt(r.between),
        "law_change": 100 * r.limit * (np.sqrt(of_five) - np.sqrt(of_three)),
        "falls": at["% downwards"],
        "change_sd": at["standard deviation"],
        "change_mean": at["mean change"],
        "change_pairs": bracketed_of(change, "+.1f", times=100),
        "worst": worst,
        "worst_three": 100 * float(found[worst].of(3)),
        "falls_record": falls(record),
        "interval_width": 100 * (r.rho["high"] - r.rho["low"]) / 2,
    }


def falls(record: Mapping[str, pd.DataFrame]) -> str:
    """How often five draws do worse than three on the sets of the record."""
    said = []
    for name, table in record.items():
        five = matching(table, study="draws", value="5").itertuples()
        each = ", ".join(f"{100 * row.falls:.0f} % under “{row.weighting}”" for row in five)
        said.append(f"{each} ({name})")
    return "; ".join(said) or "unknown, for want of a record"


# -- what shared noise saves ------------------------------------------------------------------


def variances_beside(live: Live, record: pd.DataFrame) -> pd.DataFrame:
    """`ablations.variances` of the page and of the record, with a column for equal cost."""
    here = ablations.variances(live.scored).assign(benchmark=live.name)
    known = record.sort_values(["benchmark", "weighting"], kind="stable") if len(record) else record
    table = pd.concat([here, known], ignore_index=True)
    own = table[table["method"] == "independent"].set_index(["benchmark", "weighting"])
    keys = pd.MultiIndex.from_frame(table[["benchmark", "weighting"]])
    cost = table["evaluations_per_pair"] / own.loc[keys, "evaluations_per_pair"].to_numpy()
    return table.assign(**{"at equal cost": table["relative_to_independent"] * cost})


def variance_table(table: pd.DataFrame, name: str) -> Styler:
    """One set: relative to independent noise, a draw and a prediction."""
    values = ["relative_to_independent", "at equal cost"]
    rows = table[table["benchmark"] == name]
    wide = rows.pivot(index="method", columns="weighting", values=values)
    wide = wide.rename(
        columns={"relative_to_independent": "a draw", "at equal cost": "a prediction"}
    )
    return (
        wide.loc[list(METHODS)]
        .style.format(precision=2)
        .set_caption(
            f"{name}: variance of a comparison relative to independent noise (1), that of a "
            "draw, and that of a prediction, at equal cost"
        )
    )


def variance_facts(table: pd.DataFrame, live: Live, weighting: Weighting) -> dict[str, Any]:
    """What shared, mirrored and stratified noise leave of the variance."""
    rows = table[table["benchmark"] == live.name].set_index(["weighting", "method"])
    each, fair = rows["relative_to_independent"], rows["at equal cost"]

    def ratio(method: str) -> str:
        r = rows.loc[(weighting, method)]
        return f"{r['relative_to_independent']:.2f} ± {r['relative_stderr']:.2f}"

    def against_common(w: str) -> float:
        return float(each[w, "antithetic"] / each[w, "common"])

    return {
        "common": ratio("common"),
        "antithetic": ratio("antithetic"),
        "antithetic_common": against_common(weighting),
        "antithetic_score": against_common("score"),
        "antithetic_noise": against_common("noise"),
        "common_saving": 1 / fair[weighting, "common"],
        "stratified_over_random": each[weighting, "stratified"] / each[weighting, "random half"],
        "stratified_noise": fair["noise", "stratified"] / fair["noise", "common"],
        "stratified_sde": fair["sde", "stratified"] / fair["sde", "common"],
        "n_mirrored": live.scored[MIRRORED].terms.squares.shape[1],
    }


def draw_variances(table: pd.DataFrame) -> None:
    """Variance of a comparison by method, a draw and at equal cost, a panel a set."""
    names = list(dict.fromkeys(table["benchmark"]))
    size = (2 + 4 * len(names), 3.6)
    _, axes = plt.subplots(1, len(names), figsize=size, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        for i, (w, colour) in enumerate(zip(cj.WEIGHTINGS, PALETTE, strict=False)):
            part = table[(table["benchmark"] == name) & (table["weighting"] == w)]
            part = part.set_index("method").loc[list(METHODS)]
            x, y = np.arange(len(METHODS)) + 0.2 * (i - 1), part["relative_to_independent"]
            axis.errorbar(x, y, part["relative_stderr"], fmt="o", color=colour, label=w)
            axis.plot(x, part["at equal cost"], "D", ms=7, mfc="none", color=colour)
        axis.axhline(1, color="0.6", linewidth=1)
        axis.set_xticks(range(len(METHODS)), METHODS, rotation=20)
        axis.set(yscale="log", title=name)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(_some)
    axes[0, 0].set_ylabel("variance, independent = 1")
    axes[0, 0].plot([], [], "D", ms=7, mfc="none", color="0.3", label="at equal cost")
    axes[0, 0].legend(fontsize=8)
    plt.show()


def _some(x: float, _: Any) -> str:
    """Names of some minor ticks, or they run into each other."""
    return f"{x:g}" if f"{x:.0e}"[0] in "25" else ""


def names_of(results: Sequence[str]) -> str:
    """The sets of the record, in words."""
    return " and ".join(results) or "none, for want of a record"


def set_facts(live: Live, record: OfRecord) -> dict[str, Any]:
    """Which sets the page is about."""
    return {"live": live.name, "n_live": len(live.pairs), "sets": names_of(list(record.results))}
