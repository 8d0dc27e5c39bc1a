"""Speed and scale, for chapter 14: what the record of `make bench` says, and the bill.

Chapter 14 measures a little of it anew; the record itself is made by bench/bench.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import conjure_lib as cj
from conjure_lib import EMBEDDED
from conjure_tools.plots import PALETTE
from studies import records
from studies.pages import plain_ticks

MISSING = "– (there is no record) –"  # of the live page, where there was no Node.js
ANCHOR_STEPS = 5  # of the anchors of this page's embeddings
ANCHORS = 15  # noise predictions in an embedding of the bill


@dataclass(frozen=True)
class Bench:
    """The record of `make bench`: rows of several parts, and how each was made."""

    table: pd.DataFrame
    made: Mapping[str, Any]

    def part(self, name: str, **where: object) -> pd.DataFrame:
        """Rows of one part of the record, with the columns that they have."""
        return records.matching(self.table, part=name, **where).dropna(axis=1, how="all")

    @property
    def growth(self) -> pd.DataFrame:
        """Time and memory by number of pairs."""
        return self.part("scaling")

    def speeds(self, model: str = "") -> pd.DataFrame:
        """Evaluations a second by model, precision and batch; of one model, or of all."""
        return self.part("device", **({"model": model} if model else {}))


def opened_bench() -> Bench:
    """The record; what is to be known of its making is printed."""
    found = records.results_of_record("bench")
    made = found.notes["provenance"]
    if rushed := [name for name, about in made.items() if about["small"]]:
        print(f"In the record these parts are of small sizes: {', '.join(rushed)}.")
    cores = os.cpu_count() or 1
    if busy := [name for name, about in made.items() if max(about["load"]) > 1.5 * cores]:
        beside = ", ".join(busy)
        print(f"Other programs ran beside {beside}: CPU seconds count there, not the clock.")
    return Bench(found.table, made)


def span(values: pd.Series) -> str:
    """The smallest and the largest of some factors."""
    return f"{values.min():.1f} to {values.max():.1f}"


# -- fewer evaluations ------------------------------------------------------------------------


def named(case: str) -> str:
    """A case of the record as a page calls it."""
    return case.replace("rg65", "RG-65").replace("stsb", "STS-B")


@dataclass(frozen=True)
class Against:
    """The library beside Algorithm 1 as it is printed, a row a case."""

    table: pd.DataFrame
    by_clock: bool  # there is a GPU in the record

    def styled(self) -> Styler:
        """For reading."""
        table, unit = self.table, "by the clock" if self.by_clock else "of CPU time, one thread"
        asked, speed = "evaluations a pair", "pairs a minute"
        columns = {
            ("scored", "pairs"): table["case"].map(named) + table["steps"].map(", {} steps".format),
            ("scored", "w"): table["guidance"],
            (asked, "printed"): table["naive, evaluations a pair"],
            (asked, "here"): table["ours"],
            (asked, "times fewer"): table["fewer"],
            (speed, "printed"): table["naive, pairs a minute"],
            (speed, "here"): table["pairs a minute"],
            (speed, "times more"): table["faster"],
            ("distances", "differ by"): table["largest difference"],
        }
        styled = pd.DataFrame(columns).style.hide().format(precision=1, thousands=",")
        styled = styled.format("{:.1e}", subset=[("distances", "differ by")])
        return styled.set_caption(
            f"Algorithm 1 as printed, and here: one draw; minutes {unit}; largest relative "
            "difference of a distance"
        )

    def facts(self) -> dict[str, str]:
        """How many times fewer evaluations, and how many times the speed."""
        table = self.table
        with_guidance = table[(table["guidance"] > 1) & ~table["case"].str.contains("Stable")]
        stsb = table[table["case"].str.startswith("stsb")].itertuples()
        said = [f"{row.fewer:.2f} with guidance {row.guidance:g}" for row in stsb]
        return {
            "fewer": span(with_guidance["fewer"]),
            "faster": span(with_guidance["faster"]),
            "agree": f"{table['largest difference'].max():.0e}",
            "stsb_fewer": "; ".join(said),
        }


def against(bench: Bench) -> Against:
    """The comparison."""
    mine, plain = (
        bench.part("naive", method=name).reset_index(drop=True) for name in ("conjure_lib", "naive")
    )
    by_clock = not mine["device"].str.contains("threads").all()
    unit = "pairs_per_second" if by_clock else "pairs_per_cpu_second"
    table = pd.DataFrame(
        {
            "case": mine["case"],
            "guidance": mine["guidance"],
            "steps": mine["steps"].astype(int),
            "naive, evaluations a pair": plain["evaluations_per_pair"],
            "ours": mine["evaluations_per_pair"],
            "fewer": plain["evaluations_per_pair"] / mine["evaluations_per_pair"],
            "naive, pairs a minute": 60 * plain[unit],
            "pairs a minute": 60 * mine[unit],
            "faster": mine[unit] / plain[unit],
            "largest difference": mine["largest_difference"],
            "printed, a step": plain["evaluations_per_pair"] / plain["steps"],
            "a step": mine["evaluations_per_pair"] / mine["steps"],
        }
    )
    return Against(table, by_clock)


def against_facts(bench: Bench, found: Against) -> dict[str, Any]:
    """The comparison, alone and on all cores, and where the time goes."""
    spent, live = bench.part("profile"), bench.part("live")
    shares = [f"{row.operations} {100 * row.share:.0f} %" for row in spent.itertuples()]
    return {
        **found.facts(),
        **cores_facts(bench.part("cores")),
        "profile_says": ", ".join(shares),
        "compile_says": compiled(bench.speeds(EMBEDDED)),
        "live_seconds": f"{live['cpu_seconds'].iloc[0]:.1f}" if len(live) else MISSING,
    }


def cores_facts(cores: pd.DataFrame) -> dict[str, Any]:
    """The library on all cores beside the loop in one process, and in as many."""
    by_method = cores.pivot_table("pairs_per_second", "guidance", "method")
    ours = by_method["conjure_lib, a process a core"]

    def gains(way: str) -> str:
        rows = (ours / by_method[way]).items()
        return "; ".join(f"{gain:.1f} with guidance {w:g}" for w, gain in rows)

    one, many = gains("naive, one process"), gains("naive, a process a core")
    return {"against_one": one, "against_many": many, "n_cores": int(cores["cores"].iloc[0])}


def compiled(speeds: pd.DataFrame) -> str:
    """What compilation brings to 64 rows, in a sentence."""
    rows = records.matching(speeds, dtype="float32", batch=64)
    if len(rows) != 2 or rows["compiled"].sum() != 1:
        return ""
    plain, fused = (rows[rows["compiled"] == c].iloc[0] for c in (False, True))
    gain = fused["evaluations_per_cpu_second"] / plain["evaluations_per_cpu_second"]
    return (
        f"Compilation makes 64 rows of this network {gain:.2f} times as fast, after a first call "
        f"of {fused['first_call_seconds']:.0f} seconds."
    )


def draw_against(found: Against) -> None:
    """Evaluations a pair and step, and times the pairs in the same time, by case."""
    table = found.table
    short = table["case"].str.replace("Stable Diffusion 1.x, random weights", "SD 1.x")
    cases = zip(short.map(named), table["guidance"], strict=True)
    names = [f"{case}, w = {w:g}" for case, w in cases]
    y = np.arange(len(names))
    _, (count_axis, speed_axis) = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    count_axis.barh(y - 0.2, table["printed, a step"], 0.4, color="0.75", label="as printed")
    count_axis.barh(y + 0.2, table["a step"], 0.4, color=PALETTE[0], label="here")
    count_axis.set(yticks=y, yticklabels=names, xlabel="evaluations a pair and step")
    count_axis.invert_yaxis()
    count_axis.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    speed_axis.barh(y, table["faster"], 0.5, color=PALETTE[0])
    speed_axis.axvline(1, color="0.6", linewidth=1)
    speed_axis.set(xlabel="times the pairs in the same time")
    plt.show()


# -- faster evaluations -----------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Evaluations a second by rows a call, on this page; by CPU time, where there is no GPU."""

    fresh: pd.Series
    on_cpu: bool

    @property
    def column(self) -> str:
        """The column of the record that measures the same."""
        return "evaluations_per_cpu_second" if self.on_cpu else "evaluations_per_second"


def rates(
    process: cj.GenerativeProcess, text: str, batches: Sequence[int], calls: int, seed: int
) -> Rates:
    """The best of a few calls for each batch, after one that is not counted."""
    on_cpu = process.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    best = []
    for rows in batches:
        condition = process.encode([text])[[0] * rows]
        x, t = process.noise(range(rows), seed), torch.full((rows,), 501, device=process.device)
        found = []
        for _ in range(calls + 1):
            began = clock()
            process.eps(x, t, condition).sum().item()
            found.append(rows / (clock() - began))
        best.append(max(found[1:]))
    return Rates(pd.Series(best, list(batches)), on_cpu)


def speed_table(speeds: pd.DataFrame, here: Rates) -> Styler:
    """Evaluations a second of record, with floors and errors."""
    names = {
        "model": "model",
        "dtype": "numbers",
        "batch": "rows a call",
        "compiled": "compiled",
        here.column: "a CPU second" if here.on_cpu else "a second",
        "share_of_ceiling": "share",
        "floor_sde": "floor",
        "error_sde": "error",
        "first_call_seconds": "first call, s",
    }
    shown = speeds[[c for c in names if c in speeds]].rename(columns=names)
    shown["compiled"] = shown["compiled"].map({True: "yes", False: ""})
    styled = shown.style.hide().format(precision=2, na_rep="")
    styled = styled.format("{:.0f}", subset="rows a call")
    small = [c for c in ("floor", "error") if c in shown]
    caption = f"Evaluations {names[here.column]}, of record"
    return styled.format("{:.0e}", subset=small, na_rep="").set_caption(caption)


def draw_rates(same: pd.DataFrame, here: Rates) -> None:
    """Rates of record of the same model, and those of this page over them."""
    _, axis = plt.subplots(figsize=(5.6, 3.4))
    for (dtype, fused), rows in same.groupby(["dtype", "compiled"]) if len(same) else ():
        style: dict[str, Any] = {"marker": "*" if fused else "o", "markersize": 11 if fused else 5}
        label = f"{dtype}, {'compiled' if fused else 'plain'} (record)"
        axis.plot(rows["batch"], rows[here.column], label=label, **style)
    axis.plot(here.fresh.index, here.fresh, "kx", label="this page, plain")
    ticks = sorted({*here.fresh.index, *(same["batch"] if len(same) else ())})
    axis.set(xscale="log", xlabel="rows a call", ylim=(0, None))
    plain_ticks(axis, ticks)
    axis.set_ylabel("evaluations a second" + (" of CPU time" if here.on_cpu else ""))
    axis.legend(fontsize=8)
    plt.show()


# -- many pairs -------------------------------------------------------------------------------


def trajectories_a_pair(table: pd.DataFrame, block: int) -> float:
    """Trajectories that blocks of so many pairs start, a pair."""
    parts = [table.iloc[i : i + block] for i in range(0, len(table), block)]
    return sum(len({*p["text1"], *p["text2"]}) for p in parts) / len(table)


def draw_growth(growth: pd.DataFrame) -> None:
    """Time and memory by number of pairs."""
    _, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for colour, (case, rows) in zip(PALETTE, growth.groupby("case"), strict=False):
        cost, beyond = 1e3 / rows["pairs_per_cpu_second"], rows["peak_mib"] - rows["base_mib"]
        time_axis.loglog(rows["pairs"], cost, "o-", color=colour, label=case)
        memory_axis.semilogx(rows["pairs"], beyond, "o-", color=colour)
    memory_axis.axhline(growth["memory_mib"].iloc[0], color="0.6", linestyle="--")
    time_axis.set(xlabel="pairs", ylabel="CPU milliseconds a pair")
    memory_axis.set(xlabel="pairs", ylabel="memory beyond the start (MiB)", ylim=(0, None))
    time_axis.legend(fontsize=8)
    plt.show()


def power(rows: pd.DataFrame) -> float:
    """The power of the number of pairs with which time grows, between the last two counts."""
    last = np.log(rows.sort_values("pairs")[["pairs", "cpu_seconds"]].iloc[-2:])
    return float(last["cpu_seconds"].diff().iloc[-1] / last["pairs"].diff().iloc[-1])


def growth_facts(bench: Bench) -> dict[str, str]:
    """What is around the network, and how time and memory grow."""
    growth = bench.growth
    stub, real = (bench.part("scaling", case=name) for name in ("stub", "embedded"))
    both = stub.merge(real, on="pairs", suffixes=("", "_real"))
    shares = both["pairs_per_cpu_second_real"] / both["pairs_per_cpu_second"]
    powers = [f"{name} {power(part):.2f}" for name, part in growth.groupby("case")]
    return {
        "most_pairs": f"{growth['pairs'].max():,.0f}",
        "most_real": f"{real['pairs'].max():,.0f}",
        "budget": f"{growth['memory_mib'].iloc[0]:.0f} MiB",
        "grows": "; ".join(powers),
        "around": f"{shares.min():.1%} to {shares.max():.1%}",
        **stub_facts(stub),
    }


def stub_facts(stub: pd.DataFrame) -> dict[str, str]:
    """What a pair takes beside a network that costs nothing."""
    by_count = stub.sort_values("pairs")
    beyond = by_count["peak_mib"] - by_count["base_mib"]
    (before, last), more = by_count["pairs"].astype(int).iloc[-2:], 2**20 * beyond.diff().iloc[-1]
    a_pair = 1e3 / stub["pairs_per_cpu_second"]
    return {
        "memory_says": f"from {before:,} pairs to {last:,}, memory grows by "
        f"{more / (last - before):,.0f} bytes a pair",
        "around_ms": f"{a_pair.min():.2f} to {a_pair.max():.2f}",
        "largest_peak": f"{beyond.iloc[-1]:.0f} MiB",
    }


# -- embeddings -------------------------------------------------------------------------------


def fresh_anchors(
    process: cj.GenerativeProcess,
    words: Sequence[str],
    terms: cj.Terms,
    *,
    draws: int,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """By weighting, how embeddings of the words rank their pairs next to the exact distances.

    ``terms`` are of all pairs of the words, in their order.
    """
    found: dict[str, float] = {}
    sampling = cj.Sampling(steps=ANCHOR_STEPS, draws=draws, seed=seed)
    for w in cj.WEIGHTINGS:
        exact = terms.by_draw(w).mean(axis=1)
        scorer = cj.Scorer(process, weighting=w, sampling=sampling)
        vectors = scorer.encode(list(words), batch_size=batch_size, show_progress_bar=False)
        found[w] = float(spearmanr(pdist(vectors, "sqeuclidean"), exact).statistic)
    return found


def draw_anchors(agreement: pd.DataFrame, fresh: Mapping[str, float], count: int) -> None:
    """Agreement with the exact distance by anchors and by width; of this page from ``count``."""
    _, (anchor_axis, width_axis) = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    for weighting, colour in zip(cj.WEIGHTINGS, PALETTE, strict=False):
        rows = agreement[agreement["weighting"] == weighting]
        _draw_weighting(anchor_axis, width_axis, rows, weighting, colour)
        anchor_axis.plot(count, fresh[weighting], "x", color=colour, ms=8)
    anchor_axis.set(xlabel="anchors", ylabel="Spearman with the exact distance")
    plain_ticks(anchor_axis, (2, 5, 10, 20, 50))
    plain_ticks(width_axis, (64, 256, 1024, 4096))
    anchor_axis.legend(fontsize=8)
    width_axis.set(xlabel="numbers an embedding, hashed")
    plt.show()


def _draw_weighting(
    anchor_axis: Axes, width_axis: Axes, rows: pd.DataFrame, weighting: str, colour: Any
) -> None:
    """The curves of one weighting in both panels."""
    plain, hashed = (rows[rows["case"] == case] for case in ("anchors", "hashed"))
    for steps, dash in zip(sorted(plain["steps"].unique()), (":", "--", "-"), strict=False):
        line, label = plain[plain["steps"] == steps], weighting if dash == "-" else None
        x, y = line["anchors"], line["spearman_exact"]
        anchor_axis.semilogx(x, y, dash, marker="o", ms=3, color=colour, label=label)
    ceiling = rows.loc[rows["case"].str.startswith("exact"), "spearman_exact"].iloc[0]
    anchor_axis.axhline(ceiling, color=colour, linewidth=0.8, alpha=0.5)
    width_axis.semilogx(hashed["width"], hashed["spearman_exact"], "o-", color=colour)
    if len(hashed):
        whole = plain[plain["anchors"] == hashed["anchors"].iloc[0]]
        width_axis.axhline(whole["spearman_exact"].iloc[0], color=colour, linestyle="--")


def anchor_facts(agreement: pd.DataFrame, fresh: Mapping[str, float], count: int) -> dict[str, Any]:
    """Embeddings of record and of this page beside the exact distance."""
    rows: list[Any] = [*records.matching(agreement, case="anchors", anchors=15).itertuples()]
    people = [f"{r.weighting}: {r.spearman_people:.2f} against {r.exact_spearman_people:.2f}"
              for r in rows]  # fmt: skip
    exact = [f"{r.weighting}: {r.spearman_exact:.2f}" for r in rows]
    return {
        "anchors_table": ", ".join(exact),
        "anchors_people": ", ".join(people),
        "fresh_table": ", ".join(f"{w}: {v:.2f}" for w, v in fresh.items()),
        "fresh_count": count,
    }


# -- the bill ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bill:
    """Evaluations by way of scoring, and hours by way and GPU, the fastest first."""

    pairs: int
    steps: int
    draws: int
    evaluations: pd.Series
    hours: pd.DataFrame

    def styled(self) -> Styler:
        """For reading."""
        table = self.hours.copy()
        table.insert(0, "evaluations", self.evaluations)
        settings = f"{self.steps} steps, {self.draws} draws, or {ANCHORS} anchors"
        return (
            table.style.format("{:,.1f}")
            .format("{:.1e}", subset="evaluations")
            .set_caption(f"Hours of one GPU for {self.pairs:,} pairs: {settings}")
        )

    def facts(self) -> dict[str, Any]:
        """Hours of the fastest GPU."""
        gpu, texts = self.hours.columns[0], texts_for(self.pairs)
        hours = self.hours[gpu]
        alone = hours["no text shared"]
        return {
            "exact_hours": f"{alone:,.0f}",
            "guided_hours": f"{hours['no text shared, guidance']:,.0f}",
            "embedding_hours": f"{60 * hours[f'embeddings of {texts:,} texts']:.0f} minutes",
            "matrix_hours": f"{hours[f'all pairs of {texts:,} texts']:,.0f}",
            "sixty_four": f"{alone / 64 / 24:.1f}",
            "n_steps": self.steps,
            "n_draws": self.draws,
            "n_bill": f"{self.pairs:,}",
            "n_texts": f"{texts:,}",
            "n_anchors": ANCHORS,
            "fastest": gpu.split(" (")[0],
        }


def texts_for(pairs: int) -> int:
    """Texts that have so many pairs among themselves."""
    return int(np.ceil((1 + np.sqrt(1 + 8 * pairs)) / 2))


def gpu_rates(speeds: pd.DataFrame) -> dict[str, float]:
    """Evaluations a second of GPUs, published and measured; the fastest first."""
    theirs = records.published("throughput")
    rate = theirs["iterations_per_second"] * theirs["rows"]
    rates = {f"{gpu} (published)": float(r) for gpu, r in zip(theirs["gpu"], rate, strict=True)}
    measured = speeds[speeds["device"].str.contains("NVIDIA")]
    for name, rows in measured.groupby("device"):
        rates[f"{name} (measured)"] = float(rows["evaluations_per_second"].max())
    return dict(sorted(rates.items(), key=lambda item: -item[1]))


def bill(pairs: int, steps: int, draws: int, rates: Mapping[str, float]) -> Bill:
    """What so many pairs take in each way, and how long on each GPU."""
    S, k, P, U = steps, draws, pairs, texts_for(pairs)
    ways = {
        "as printed, guidance": 12 * S * k * P,
        "as printed": 6 * S * k * P,
        "no text shared, guidance": 2 * S * k * 2 * P + 2 * S * k * P,
        "no text shared": S * k * 2 * P + 2 * S * k * P,
        f"all pairs of {U:,} texts": S * k * U + 2 * S * k * P,
        f"embeddings of {2 * P:,} texts": ANCHORS * 2 * P,
        f"embeddings of {U:,} texts": ANCHORS * U,
    }
    evaluations = pd.Series({way: float(n) for way, n in ways.items()})
    hours = pd.DataFrame({gpu: evaluations / rate / 3600 for gpu, rate in rates.items()})
    return Bill(P, S, k, evaluations, hours)


def student_says(pairs: int) -> str:
    """What a trained student costs and keeps, from the record of chapter 13."""
    found = records.opened("grounding")
    if found is None or "speed" not in found.notes:
        return "What one costs and keeps is not in the records at hand."
    price, table = found.notes["speed"], found.table
    rows = table[(table["study"] == "teacher") & (table["benchmark"] == "all")]
    rho = rows.groupby("kind")["value"].mean()
    return (
        f"On the machine of record a student took {1e3 * price['student_seconds']:.2f} ms a pair, "
        f"where Algorithm 1 on the embedded model took {1e3 * price['teacher_seconds']:.0f} ms: "
        f"{pairs * price['student_seconds'] / 3600:,.1f} hours for {pairs:,} pairs that share no "
        f"text. It ranks held-out pairs as Algorithm 1 does with ρ = {rho['student']:.3f}, where "
        "the cosine of the model's own text encoder, which is there without any training, does "
        f"with {rho['text encoder of the model']:.3f}: try that first. The embeddings that the "
        f"student learnt from do with {rho['conjured embeddings']:.3f}, helped by noise that they "
        f"share with it, and another draw of Algorithm 1 with {rho['another draw']:.3f}."
    )


def draw_bill(found: Bill) -> None:
    """Hours of the fastest and of the slowest GPU, by way."""
    hours = found.hours
    _, axis = plt.subplots(figsize=(8.5, 3.4))
    y = np.arange(len(hours))
    for column, colour in zip((hours.columns[0], hours.columns[-1]), PALETTE, strict=False):
        axis.plot(hours[column], y, "o", color=colour, label=column)
    axis.hlines(y, hours.iloc[:, 0], hours.iloc[:, -1], color="0.8", zorder=0)
    for limit, name in ((1, "an hour"), (24, "a day"), (24 * 365, "a year")):
        axis.axvline(limit, color="0.85", linewidth=1, zorder=0)
        axis.text(limit, -0.8, name, ha="center", fontsize=8, color="0.4")
    axis.set(xscale="log", yticks=y, yticklabels=hours.index, xlabel="hours of one GPU")
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    plt.show()
