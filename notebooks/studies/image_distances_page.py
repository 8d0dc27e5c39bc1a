"""What chapter 10 shows of the record 'distances': floors, repetitions, agreement with people."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_tools import benchmarks, runs
from conjure_tools.correlation import spearman
from conjure_tools.distributions import METHODS
from conjure_tools.fingerprints import weights_hash
from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies import image_distances as study
from studies.ablations import DIFFERENCE, RHO
from studies.pages import bracketed_of, plain_ticks
from studies.records import Overlay, Record, laid_over, matching, results_of_record, work

COLOURS = dict(zip(METHODS, [*PALETTE, "0.45"], strict=True))
ALONE = ("coupled", "wasserstein", "sliced", "energy", "sde")  # do not depend on the other pairs
SETS = {name: benchmarks.NAMES[name] for name in ("rg65", "simlex999")}
LABELS = SETS | {f"simlex999-{study.NOUNS}": f"SimLex-999, {study.NOUNS} pairs of nouns"}
STARTS = ("common", "independent")
RESAMPLES = 2000  # of the intervals between two distances


@dataclass(frozen=True)
class Evidence:
    """The tables of `image_distances.make`: those of record, or those of a few pairs alone."""

    table: pd.DataFrame
    agreed: pd.DataFrame
    notes: dict[str, Any]
    labels: Mapping[str, str]  # of the sets

    @property
    def many(self) -> int:
        """The most pictures of a text."""
        return int(self.table.loc[self.table["start"] == "null", "images"].max())

    @property
    def draws(self) -> int:
        """The most draws of the paths."""
        return int(self.agreed.loc[self.agreed["method"] == "sde", "images"].max())

    @property
    def first(self) -> str:
        """The set that the text quotes."""
        return str(self.agreed["benchmark"].iloc[0])

    @property
    def of_samples(self) -> pd.DataFrame:
        """Agreement of the distances of samples, with the most pictures."""
        rows = self.agreed[self.agreed["images"] == self.many]
        return rows[rows["method"].isin(METHODS)]

    @property
    def of_paths(self) -> pd.DataFrame:
        """Agreement of the distances of paths, with the most draws."""
        rows = self.agreed[self.agreed["images"] == self.draws]
        return rows[rows["method"].isin(cj.WEIGHTINGS)]

    @property
    def of_texts(self) -> pd.DataFrame:
        """Agreement of the text encoder."""
        return self.agreed[self.agreed["method"] == "text encoder"]

    @property
    def wide(self) -> pd.DataFrame:
        """Distances of samples by set, method, images and pair; a column for each start."""
        rows = self.table[self.table["method"].isin(METHODS)]
        index = ["benchmark", "method", "images", "id"]
        return rows.pivot_table(index=index, columns="start", values="value")


def measured_here(
    process: cj.GenerativeProcess,
    pairs: int,
    *,
    images: int,
    draws: int,
    resamples: int,
    batch_size: int,
) -> tuple[Evidence, pd.DataFrame]:
    """The same of a few pairs of nouns of the first set that is at hand, and these pairs."""
    for name in SETS:
        try:
            nouns = benchmarks.load_pairs(name).query("pos == 'N'")
            break
        except FileNotFoundError:
            print(f"{name} is not at hand (set CONJURE_DATA): this page compares other pairs anew")
    few = runs.stratified(nouns, pairs).reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder:
        made = study.make(
            process, {name: few}, Path(folder), images=images, draws=draws, resamples=resamples,
            batch_size=batch_size, report=lambda _: None,
        )  # fmt: skip
    return Evidence(*made, {name: f"{len(few)} pairs of {SETS[name]}"}), few


def of_record(
    process: cj.GenerativeProcess, here: Evidence, recompute: bool
) -> tuple[Evidence, Overlay]:
    """The evidence of record, or that made anew, and what was measured here over it.

    Raises:
        FileNotFoundError: there is no record; the message names the command that makes it.
    """
    if recompute:
        made = study.make(process, study.pair_sets(), work("image_distances"))
        found = Evidence(*made, LABELS)
    else:
        found = recorded()
    return found, overlay(process, found, here)


def recorded() -> Evidence:
    """The evidence of record."""
    found, agreed = (results_of_record(f"distances{part}") for part in ("", "_agreement"))
    return Evidence(found.table, agreed.table, found.notes, LABELS)


def overlay(process: cj.GenerativeProcess, record: Evidence, here: Evidence) -> Overlay:
    """Distances of this page over those of record, in units of the median of their method.

    An unbiased distance can be close to zero, so that its own size is no measure.
    """
    if process.name != record.notes["model"]:
        return laid_over("distances")
    keys = ["id", "method", "start", "images"]
    fresh = here.table[here.table["method"].isin(ALONE)]
    return Record("distances", record.table, record.notes).overlay(
        fresh, keys, "value", per=scale_of, weights=weights_hash(process)
    )


def scale_of(rows: pd.DataFrame) -> Any:
    """The median size of the method's recorded values, for every row."""
    return rows["recorded"].abs().groupby(rows["method"]).transform("median")


# -- floors and repetitions -------------------------------------------------------------------


def floors(found: Evidence) -> pd.Series:
    """Share of the null in the distance from independent noise, by method and images."""
    by_count = found.wide.groupby(["method", "images"])
    return by_count["null"].mean() / by_count["independent"].mean()


def repeatable(part: pd.DataFrame, start: str) -> float:
    """Rank correlation over pairs of a measurement with its repetition, mean over the sets."""
    of_set = part.groupby("benchmark")
    found = [rows[start].corr(rows[f"{start} again"], "spearman") for _, rows in of_set]
    return float(np.mean(found))


def repeatability(found: Evidence) -> pd.DataFrame:
    """`repeatable` by method and images, from common and from independent noise."""
    by_count = found.wide.groupby(["method", "images"])
    rows = {start: {key: repeatable(part, start) for key, part in by_count} for start in STARTS}
    return pd.DataFrame(rows).rename_axis(["method", "images"])


def floor_table(found: Evidence, floor: pd.Series, reliability: pd.DataFrame) -> Styler:
    """Both with the most pictures."""
    summary = pd.concat([100 * floor.rename("floor, %"), 100 * reliability], axis=1)
    named = {start: f"again, {start} noise" for start in STARTS}
    rows = summary.xs(found.many, level="images").loc[list(METHODS)].rename(columns=named)
    return rows.style.format(precision=0).set_caption(
        f"{found.many} pictures a text: the null in % of the distance from independent noise, and "
        "ρ × 100 of a distance with its repetition (mean of the sets)"
    )


def again(found: Evidence, method: str, start: str) -> str:
    """ρ × 100 of a distance with its repetition on the first set, with its interval."""
    rows = found.wide.xs((found.first, method, found.many))
    return ranks_alike(rows[start], rows[f"{start} again"])


def draw_floors(found: Evidence, floor: pd.Series, reliability: pd.DataFrame) -> None:
    """Floor and reliability by the number of pictures."""
    counts = sorted(found.table.loc[found.table["start"] == "null", "images"].unique())
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.9))
    for method in METHODS:
        axes[0].plot(counts, 100 * floor[method], "o-", ms=4, color=COLOURS[method], label=method)
        for axis, start in zip(axes[1:], STARTS, strict=True):
            values = 100 * reliability.loc[method, start]
            axis.plot(counts, values.reindex(counts), "o-", ms=4, color=COLOURS[method])
    axes[0].axhline(0, color="0.6", linewidth=1, zorder=0)
    axes[0].set(title="floor", ylabel="null, % of the distance")
    for axis, start in zip(axes[1:], STARTS, strict=True):
        lowest = min(0, 100 * np.nanmin(reliability))
        axis.set(title=f"{start} noise", ylim=(lowest - 5, 105))
    axes[1].set_ylabel("ρ × 100 of repetitions")
    for axis in axes:
        axis.set(xscale="log", xlabel="pictures a text")
        plain_ticks(axis, counts)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    plt.show()


# -- agreement with people --------------------------------------------------------------------


def hundredths(row: Any, names: Sequence[str] = RHO, sign: str = "") -> str:
    """A number × 100 with its interval, where there is one: of few pairs there is none."""
    return bracketed_of(row, f"{sign}.0f", times=100, names=names)


def ranks_alike(x: pd.Series, y: pd.Series, texts: np.ndarray | None = None) -> str:
    """Spearman's ρ × 100 of two columns over the same pairs, with its interval."""
    if len(x) < 3:
        return "not defined"
    found = spearman(x.to_numpy(), y.to_numpy(), texts=texts, resamples=RESAMPLES)
    return hundredths(found, ("value", "low", "high"))


def share_said(fraction: float) -> str:
    """A share of all pairs, in words where it is all or nothing."""
    return {0.0: "none", 1.0: "all"}.get(fraction, f"{100 * fraction:.0f} %")


def people_table(found: Evidence) -> Styler:
    """ρ × 100 with people by distance, set and noise."""
    rows = [
        {
            "set": found.labels.get(r.benchmark, r.benchmark),
            "distance": r.method,
            "noise": r.start,
            "ρ": hundredths(r) + ("*" if r.difference_low > 0 or r.difference_high < 0 else ""),
        }
        for r in pd.concat([found.of_paths, found.of_samples, found.of_texts]).itertuples()
    ]
    cells = pd.DataFrame(rows).pivot(index="distance", columns=["set", "noise"], values="ρ")
    order = [name for name in (*cj.WEIGHTINGS, *METHODS, "text encoder") if name in cells.index]
    across = product(dict.fromkeys(row["set"] for row in rows), (*STARTS, "less null"))
    cells = cells.loc[order, [column for column in across if column in cells]].fillna("")
    cells = cells.map(lambda cell: cell.replace(" ", "\N{NO-BREAK SPACE}"))  # stays in one line
    small: Any = [{"selector": "", "props": "font-size: 85%"}]
    caption = (
        f"ρ × 100 with people, from {found.many} pictures a text or {found.draws} draws, with 95 % "
        "bootstrap intervals over pairs, given these draws; *: different from “sde” by more than "
        "its paired interval"
    )
    return cells.style.set_table_styles(small).set_caption(caption)


def draw_agreement(found: Evidence) -> None:
    """Agreement with people by price, a row for each set and a column for each noise."""
    names = list(dict.fromkeys(found.agreed["benchmark"]))
    size: Any = (9, 1.2 + 3 * len(names))
    shared: dict[str, Any] = {"sharex": True, "sharey": "row"}
    figure, axes = plt.subplots(len(names), 3, figsize=size, squeeze=False, **shared)
    for row, name in zip(axes, names, strict=True):
        for axis, start in zip(row, (*STARTS, "less null"), strict=True):
            draw_prices(axis, found.agreed[found.agreed["benchmark"] == name], start)
            noise = f"{start} noise" if start != "less null" else "independent noise, less null"
            axis.set_title(f"{found.labels.get(name, name)}\n{noise}", fontsize=9)
        row[0].set_ylabel("ρ × 100")
    for axis in axes[-1]:
        axis.set_xlabel("noise predictions a pair")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=9)
    plt.show()


def draw_prices(axis: Any, of_set: pd.DataFrame, start: str) -> None:
    """One panel: distances of samples in colours, those of paths in black."""

    def draw(part: pd.DataFrame, style: str, **look: Any) -> None:
        axis.plot(part["evaluations_per_pair"], 100 * part["spearman"], style, ms=4, **look)

    for method in METHODS:
        part = matching(of_set, method=method, start=start)
        draw(part, "o-", color=COLOURS[method], label=method)
    for weighting, style in zip(("sde", "noise"), ("s-", "s--"), strict=True):
        part = of_set[of_set["method"] == weighting]
        draw(part, style, color="black", label=f"path, {weighting}")
    for value in of_set.loc[of_set["method"] == "text encoder", "spearman"]:
        axis.axhline(100 * value, color="0.6", linestyle=":", label="text encoder")
    axis.set(xscale="log")


def same_noise(found: Evidence) -> pd.DataFrame:
    """Every distance of every pair of the first set from common noise, a column each."""
    one = found.table[found.table["benchmark"] == found.first]
    samples = (one["images"] == found.many) & one["method"].isin(METHODS)
    paths = (one["images"] == found.draws) & one["method"].isin(cj.WEIGHTINGS)
    kept = (one["start"] == "common") & (samples | paths | (one["method"] == "text encoder"))
    same = one[kept].pivot(index="id", columns="method", values="value")
    return same.reindex(columns=[*cj.WEIGHTINGS, *METHODS, "text encoder"]).dropna(axis=1)


def draw_same(same: pd.DataFrame) -> None:
    """Rank correlations of the distances, and J of paths against J of fitted Gaussians."""
    _, axes = plt.subplots(1, 2, figsize=(9, 4.4), width_ratios=[1.5, 1])
    look: dict[str, Any] = {"annot_kws": {"fontsize": 9}, "vmax": 100, "cbar": False}
    ranks = 100 * same.corr("spearman")
    sns.heatmap(ranks, cmap=SEQUENTIAL, annot=True, fmt=".0f", ax=axes[0], **look)
    axes[0].set(xlabel="", ylabel="")
    nats = same[["sde", "jeffreys"]]
    axes[1].loglog(nats["sde"], nats["jeffreys"], "o", ms=4, alpha=0.6, color=PALETTE[0])
    ends = [nats.min().min(), nats.max().max()]
    axes[1].plot(ends, ends, color="0.6", linewidth=1)
    axes[1].set(xlabel="J of the paths, sde (nats)", ylabel="J of fitted Gaussians (nats)")
    plt.show()


def at_price(found: Evidence, method: str) -> str:
    """Agreement of a distance from common noise, of as many pictures as the paths would pay."""
    rows = matching(found.agreed, benchmark=found.first, method=method, start="common")
    limit = first_path(found, "sde")["evaluations_per_pair"]
    rows = rows[rows["evaluations_per_pair"] <= limit]
    if not len(rows):
        return f"“{method}” cannot be had at that price here"
    row = rows.loc[rows["images"].idxmax()]
    against = hundredths(row, DIFFERENCE, "+")
    return f"“{method}” with {row['images']} pictures {hundredths(row)}, a difference of {against}"


def first_path(found: Evidence, weighting: str) -> pd.Series:
    """The row of a weighting of the paths on the first set."""
    return matching(found.of_paths, benchmark=found.first, method=weighting).iloc[0]


def people_facts(found: Evidence) -> dict[str, Any]:
    """How the distances of samples and of paths agree with people on the first set."""
    rows = found.of_samples
    own = rows[rows["benchmark"] == found.first]
    best = {s: own.loc[own.loc[own["start"] == s, "spearman"].idxmax()] for s in STARTS}
    texts = found.of_texts[found.of_texts["benchmark"] == found.first]
    path = first_path(found, "sde")
    return {
        "first_set": found.labels.get(found.first, found.first),
        "path_cost": path["evaluations_per_pair"],
        "path_rho": hundredths(path),
        "noise_rho": hundredths(first_path(found, "noise")),
        "best_name": f"“{best['common']['method']}”",
        "best_rho": hundredths(best["common"]),
        "best_independent_name": f"“{best['independent']['method']}”",
        "best_independent_rho": hundredths(best["independent"]),
        "text_rho": hundredths(texts.iloc[0]) if len(texts) else "not defined for this model",
        "n_compared": len(rows),
        "n_below": int((rows["difference_high"] < 0).sum()),
        "n_above": int((rows["difference_low"] > 0).sum()),
        **{f"price_{n}": at_price(found, n) for n in ("energy", "coupled", "wasserstein")},
    }


def facts(found: Evidence, floor: pd.Series, same: pd.DataFrame) -> dict[str, Any]:
    """Everything else that the text quotes of the evidence."""
    many = found.many
    equal = found.wide.xs(many, level="images")["common"].unstack("method")
    identical = np.isclose(equal["wasserstein"], equal["coupled"], rtol=1e-3)
    pairs = found.table.groupby("benchmark")["id"].nunique()
    with_path = same.corr("spearman").loc["sde"].drop(list(cj.WEIGHTINGS))
    near, far = with_path.idxmax(), with_path.idxmin()
    return {
        "images": many,
        "images_record": study.IMAGES,
        "n_nouns": study.NOUNS,
        "record_cost": f"{found.notes['evaluations']:,}",
        "identical": share_said(identical.mean()),
        "closest": f"“{near}”",
        "closest_rho": ranks_alike(same["sde"], same[near]),
        "furthest": f"“{far}”",
        "furthest_rho": ranks_alike(same["sde"], same[far]),
        "nats_paths": same["sde"].median(),
        "nats_pictures": same["jeffreys"].median(),
        "below": share_said((same["jeffreys"] < same["sde"]).mean()),
        "pairs_used": " and ".join(map(str, pairs)),
        **{f"floor_{name}": 100 * floor[name, many] for name in METHODS},
        **{
            f"again_{name}_{start}": again(found, name, start)
            for name in ("wasserstein", "energy")
            for start in STARTS
        },
    }
