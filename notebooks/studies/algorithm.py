"""Algorithm 1 as it reads, and what its parts are worth: the study of chapter 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from scipy.stats import bootstrap
from scipy.stats import t as student
from torch import Tensor

import conjure_lib as cj
from conjure_lib import Quadrature, Weighting
from conjure_lib.sampling import Settings
from conjure_lib.sde import FlowSchedule, Schedule, log_snr
from conjure_tools.correlation import pearson, spearman
from conjure_tools.plots import PALETTE
from studies.pages import bracketed, bracketed_of, plain_ticks
from studies.records import Pairs

PARTS = ("same x", "crossed", "drift")
Parts = dict[str, cj.Terms]
"""Squared norms of the three parts of a prediction's difference, of one pair."""
RESAMPLES = 2000  # of every bootstrap


def value(terms: cj.Terms, quadrature: Quadrature = "log-snr") -> float:
    """The distance of one pair in nats."""
    return terms.estimates("sde", quadrature)[0].value


def values(
    terms: cj.Terms, weighting: Weighting = "sde", quadrature: Quadrature = "log-snr"
) -> np.ndarray:
    """The distance of each pair, (P,)."""
    return terms.by_draw(weighting, quadrature).mean(axis=1)


def ranked_alike(first: np.ndarray, second: np.ndarray, pairs: Pairs) -> str:
    """Spearman's ρ over pairs (P,), with an interval for other pairs of texts that recur."""
    if len(first) < 3:
        return "of too few pairs for a correlation"
    found = spearman(first, second, texts=np.array(pairs), resamples=RESAMPLES)
    return bracketed_of(found, ".2f")


@torch.no_grad()
def plain_distance(
    process: cj.GenerativeProcess,
    y1: str,
    y2: str,
    steps: int,
    draws: int,
    guidance: float = 1.0,
    seed: int = 0,
) -> float:
    """J in nats by Algorithm 1 as it reads: every prediction is made where it is mentioned."""
    c1, c2, c0 = (process.encode([text]) for text in (y1, y2, ""))  # (1, tokens, width) each
    scheduler, total = process.sampler(sampler="ddim", steps=steps), 0.0
    scheduler.register_to_config(prediction_type="epsilon")  # that is what its steps are given
    weight = process.schedule.weight(torch.arange(process.schedule.T), "sde")  # (T,)

    def eps_w(x: Tensor, t: Tensor, c: Tensor) -> Tensor:  # the guided prediction
        t = t[None].to(process.device)
        if guidance == 1:
            return process.eps(x, t, c)
        empty = process.eps(x, t, c0)
        return empty + guidance * (process.eps(x, t, c) - empty)

    for draw in range(draws):
        x_hat = x_tilde = process.noise([draw], seed)  # line 1, (1, *latent_shape)
        for t in scheduler.timesteps:
            for x in (x_hat, x_tilde):  # lines 3 and 4
                delta = eps_w(x, t, c1) - eps_w(x, t, c2)
                total += float(weight[t] * delta.double().square().sum()) / 2
            x_hat = scheduler.step(eps_w(x_hat, t, c1), t, x_hat).prev_sample  # line 2
            x_tilde = scheduler.step(eps_w(x_tilde, t, c2), t, x_tilde).prev_sample
    return process.schedule.T * total / (steps * draws)


def plainly(process: cj.GenerativeProcess, pair: tuple[str, str], sampling: cj.Sampling) -> float:
    """The loop with what a sampling says."""
    steps, draws = sampling.steps, len(sampling.numbers)
    return plain_distance(process, *pair, steps, draws, sampling.guidance, sampling.seed)


def beside_library(
    process: cj.GenerativeProcess,
    pair: tuple[str, str],
    guidances: Sequence[float],
    sampling: cj.Sampling,
) -> pd.DataFrame:
    """The loop and the library at some guidances, and what either asked of the network.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    rows = []
    for guidance in guidances:
        how = replace(sampling, guidance=guidance)
        before = process.evaluations
        plain = plainly(process, pair, how)
        between = process.evaluations
        ours = cj.distance(process, *pair, sampling=how, quadrature="sum").value
        assert abs(plain - ours) <= 1e-4 * abs(plain), (plain, ours)
        calls = [between - before, process.evaluations - between]
        rows.append([guidance, plain, ours, abs(ours / plain - 1), *calls])
    names = ["guidance w", "J, loop", "J, library", "rel. difference"]
    names += ["calls, loop", "calls, library"]
    return pd.DataFrame(rows, columns=names)


# -- the same x, and the crossed reading ------------------------------------------------------


def parts(trace: cj.Trace) -> dict[str, np.ndarray]:
    """Squared norms of the three parts, each (1, S, 2): one draw, at x̂ and at x̃."""
    e = trace.eps.double()  # [i, j]: prediction of prompt j on the trajectory of prompt i
    vectors = {
        "same x": (e[0, 0] - e[0, 1], e[1, 0] - e[1, 1]),
        "crossed": (e[0, 0] - e[1, 1], e[0, 0] - e[1, 1]),
        "drift": (e[0, 1] - e[1, 1], e[0, 0] - e[1, 0]),
    }
    return {
        name: torch.stack([v.flatten(1).square().sum(1) for v in halves], 1)[None].cpu().numpy()
        for name, halves in vectors.items()
    }


def parts_of(process: cj.GenerativeProcess, pair: tuple[str, str], sampling: cj.Sampling) -> Parts:
    """The same over some draws with shared x_T."""
    traces = [cj.trace(process, *pair, sampling=sampling, draw=d) for d in sampling.numbers]
    opened, whole = [parts(trace) for trace in traces], traces[0].terms()
    return {
        name: replace(whole, squares=np.concatenate([draw[name] for draw in opened])[None])
        for name in PARTS
    }


def from_itself(
    process: cj.GenerativeProcess, text: str, couples: int, steps: int, seed: int
) -> cj.Terms:
    """The crossed form of a text and itself under independent noise, ``couples`` draws of it."""
    draws = list(range(2 * couples))
    path = process.trajectories(
        process.encode([text])[[0] * len(draws)],
        process.noise(draws, seed),
        draws,
        steps=steps,
        seed=seed,
    )
    apart = (path.eps[::2] - path.eps[1::2]).double().flatten(2).square().sum(-1)  # (couples, S)
    squares = np.repeat(apart.cpu().numpy()[None, ..., None], 2, axis=3)
    return cj.Terms(squares, path.timesteps, process.schedule)


def crossed_facts(
    opened: Parts, pairs: Pairs, same: np.ndarray, crossed: np.ndarray, itself: float
) -> dict[str, Any]:
    """What the crossed form adds, for one pair and over all pairs, (P,) in nats either way."""
    low, middle, high = np.quantile(crossed / same, [0.1, 0.5, 0.9])
    return {
        "itself": itself,
        "below_itself": int((crossed < itself).sum()),
        "larger": int((crossed > same).sum()),
        "inflation": float(middle),
        "inflation_low": float(low),
        "inflation_high": float(high),
        "drift_share": value(opened["drift"]) / value(opened["crossed"]),
        "crossed_rank": ranked_alike(same, crossed, pairs),
    }


def draw_crossed(
    opened: Parts, same: np.ndarray, crossed: np.ndarray, itself: float, pair: tuple[str, str]
) -> None:
    """The parts by timestep for one pair, and the two forms of all pairs, (P,) in nats each."""
    _, (steps_axis, pairs_axis) = plt.subplots(1, 2, figsize=(9, 4))
    for (name, terms), colour, marker in zip(opened.items(), PALETTE, "osd", strict=False):
        by_step = terms.mixed[0].mean(axis=0)
        steps_axis.plot(terms.timesteps, by_step, marker=marker, color=colour, label=name)
    steps_axis.set(xlabel="timestep t", ylabel="squared norm", title="“{}”, “{}”".format(*pair))
    steps_axis.invert_xaxis()
    steps_axis.legend()
    pairs_axis.plot(same, crossed, "o", color=PALETTE[1], alpha=0.6)
    ends = min(same.min(), crossed.min()), max(same.max(), crossed.max(), itself)
    pairs_axis.plot(ends, ends, "-", color="0.6", linewidth=1, label="equal")
    pairs_axis.axhline(itself, color="0.3", linestyle="--", label=f"crossed, “{pair[0]}” twice")
    pairs_axis.set(xlabel="same x, J (nats)", ylabel="crossed (nats)", title="pairs of words")
    pairs_axis.set(xscale="log", yscale="log")
    pairs_axis.legend()
    plt.show()


# -- weightings, and what each timestep stands for --------------------------------------------


def shares_of(terms: cj.Terms, quadrature: Quadrature) -> pd.DataFrame:
    """What each timestep gives to the sum over all pairs, (S,) a weighting; each adds up to one."""
    added = {
        w: np.sum([e.by_step for e in terms.estimates(w, quadrature)], axis=0)
        for w in cj.WEIGHTINGS
    }
    shares = pd.DataFrame(added, index=terms.timesteps.tolist())
    return shares / shares.sum()


def weighting_facts(
    terms: cj.Terms, pairs: Pairs, plain: pd.DataFrame, whole: pd.DataFrame
) -> dict[str, Any]:
    """What either rule lets the last timestep say, and how far the weightings' orders agree."""
    weights = terms.schedule.weight(terms.timesteps, "sde")
    by_weighting: dict[str, np.ndarray] = {w: values(terms, w) for w in cj.WEIGHTINGS}
    return {
        "n_pairs": len(terms),
        "last_t": int(terms.timesteps[-1]),
        "weight_jump": float(weights[-1] / weights[:-1].median()) if len(weights) > 1 else 1.0,
        **{f"last_share_{w}": float(100 * plain[w].iloc[-1]) for w in cj.WEIGHTINGS},
        **{f"whole_share_{w}": float(100 * whole[w].iloc[-1]) for w in cj.WEIGHTINGS},
        **{
            f"agree_{a}_{b}": ranked_alike(by_weighting[a], by_weighting[b], pairs)
            for a, b in (("sde", "score"), ("sde", "noise"), ("score", "noise"))
        },
    }


def trained_weight(schedule: Schedule | FlowSchedule, t: Tensor) -> float:
    """What min(SNR, 5)/SNR is at the last of the timesteps t (S,)."""
    return min(1.0, 5 * math.exp(-float(log_snr(schedule, t)[-1])))


def draw_weightings(terms: cj.Terms, plain: pd.DataFrame, whole: pd.DataFrame) -> None:
    """‖Δε‖² by timestep over the pairs, and each timestep's share under either rule."""
    _, (raw_axis, share_axis) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1, 1.5])
    by_pair, timesteps = terms.mixed.mean(axis=1), terms.timesteps  # (P, S)
    low, middle, high = np.quantile(by_pair, [0.1, 0.5, 0.9], axis=0)
    raw_axis.fill_between(timesteps, low, high, color="0.85", label="80 % of the pairs")
    raw_axis.plot(timesteps, middle, "o-", color="0.25", label="median pair")
    raw_axis.set(xlabel="timestep t", ylabel=r"$\Vert\Delta\varepsilon\Vert^2$", yscale="log")
    raw_axis.invert_xaxis()
    raw_axis.legend()
    place = np.arange(len(timesteps))
    for i, (weighting, colour) in enumerate(zip(cj.WEIGHTINGS, PALETTE, strict=False)):
        at = place + 0.27 * (i - 1)
        share_axis.bar(at, 100 * plain[weighting], 0.25, color=colour, label=weighting)
        share_axis.hlines(100 * whole[weighting], at - 0.13, at + 0.13, color="black", linewidth=2)
    share_axis.set_xticks(place, [str(int(t)) for t in timesteps])
    share_axis.set(xlabel="timestep t", ylabel="share of the distance (%)")
    share_axis.legend()
    plt.show()


# -- draws ------------------------------------------------------------------------------------


def error(by_draw: np.ndarray) -> float:
    """Standard error of the mean of (draws,)."""
    return float(by_draw.std(ddof=1) / np.sqrt(len(by_draw))) if len(by_draw) > 1 else np.nan


def scatter_facts(many: cj.Estimate, draws: int) -> dict[str, Any]:
    """How one draw and some of them scatter, from many."""
    spread = float(many.by_draw.std(ddof=1))
    return {
        "many_draws": len(many.by_draw),
        "many": many.value,
        "many_error": many.stderr,
        "one_draw": 100 * spread / many.value,
        "few_draws": 100 * spread / np.sqrt(draws) / many.value,
        "quantile": float(student.ppf(0.975, draws - 1)) if draws > 1 else float("nan"),
    }


def saving(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    """Var of a difference of independent draws over that of draws (…, draws) of shared noise."""
    alone = first.var(axis, ddof=1) + second.var(axis, ddof=1)
    return np.asarray(alone / (first - second).var(axis, ddof=1))


def common_facts(first: np.ndarray, second: np.ndarray, seed: int) -> dict[str, Any]:
    """What common random numbers save the difference of two distances, (draws,) each."""
    how: dict[str, Any] = {"paired": True, "vectorized": True, "method": "percentile"}
    how |= {"n_resamples": RESAMPLES, "rng": np.random.default_rng(seed)}
    low, high = bootstrap((first, second), saving, **how).confidence_interval
    factor = float(saving(first, second))
    alike = pearson(first, second, resamples=RESAMPLES, seed=seed)
    return {
        "crn_difference": float((first - second).mean()),
        "crn_error": error(first - second),
        "crn_correlation": bracketed_of(alike, ".2f"),
        "crn_shared": float((first - second).std(ddof=1)),
        "crn_independent": float(np.sqrt(first.var(ddof=1) + second.var(ddof=1))),
        "crn_saving": bracketed((factor, low, high), ".1f"),
    }


def draw_scatter(many: cj.Estimate, other: cj.Estimate, rivals: tuple[str, str]) -> None:
    """Running means, the spread of means of k draws, and differences under two couplings."""
    _, axes = plt.subplots(1, 3, figsize=(10, 3.6), width_ratios=[1.2, 1, 0.9])
    _draw_running(axes[0], many)
    _draw_spread(axes[1], many.by_draw)
    first, second = many.by_draw, other.by_draw
    differences = {"shared": first - second, "independent": first - np.roll(second, 1)}
    look: dict[str, Any] = {"widths": 0.5, "medianprops": {"color": "k"}}
    axes[2].boxplot(list(differences.values()), tick_labels=list(differences), **look)
    axes[2].axhline(0, color="0.7", linewidth=1)
    axes[2].set(ylabel="nats, one draw", title="“{}”\nminus “{}”".format(*rivals))
    plt.show()


def _draw_running(axis: Any, many: cj.Estimate) -> None:
    """The mean of the first k draws with its own error."""
    ks = np.arange(2, len(many.by_draw) + 1)
    axis.axhspan(many.value - many.stderr, many.value + many.stderr, color="0.85", linewidth=0)
    running = [many.by_draw[:k].mean() for k in ks]
    bars = [error(many.by_draw[:k]) for k in ks]
    axis.errorbar(ks, running, bars, color=PALETTE[0], fmt=".", elinewidth=1)
    axis.set(xlabel="draws k", ylabel="J (nats)", title="mean of the\nfirst k draws")


def _draw_spread(axis: Any, by_draw: np.ndarray) -> None:
    """How means over disjoint groups of k draws scatter, and the law of it."""
    sizes = [k for k in (1, 2, 4, 8, 16) if len(by_draw) // k >= 4]
    groups = [by_draw[: len(by_draw) // k * k].reshape(-1, k).mean(axis=1) for k in sizes]
    observed = np.array([means.std(ddof=1) for means in groups])
    relative = np.array([1 / np.sqrt(2 * (len(means) - 1)) for means in groups])
    axis.errorbar(sizes, observed, observed * relative, color=PALETTE[0], fmt="o", label="observed")
    every_size = np.geomspace(sizes[0], sizes[-1])
    law = by_draw.std(ddof=1) / np.sqrt(every_size)
    axis.plot(every_size, law, "--", color="0.4", label=r"spread of one$\,/\sqrt{k}$")
    axis.set(xlabel="draws k", ylabel="nats", title="spread of means\nof k draws", xscale="log")
    plain_ticks(axis, sizes)
    axis.set_ylim(bottom=0)
    axis.legend(loc="lower left")


# -- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """One pair under several numbers of steps, the finest of which is the reference."""

    runs: dict[int, cj.Terms]  # by steps, all from the same x_T

    @property
    def finest(self) -> int:
        """The most steps."""
        return max(self.runs)

    def estimate(self, steps: int, quadrature: Quadrature, w: Weighting = "sde") -> cj.Estimate:
        """The distance as so many steps have it, by either rule."""
        return self.runs[steps].estimates(w, quadrature)[0]

    def reference(self, weighting: Weighting = "sde") -> cj.Estimate:
        """The integral on the finest trajectories."""
        return self.estimate(self.finest, "log-snr", weighting)

    def on_finest(self, steps: int) -> float:
        """The sum over the timesteps of ``steps`` on the finest trajectories; NaN if they miss."""
        fine, coarse = self.runs[self.finest], self.runs[steps]
        there = np.flatnonzero(np.isin(fine.timesteps, coarse.timesteps)).tolist()
        return value(fine.at(there), "sum") if len(there) == steps else np.nan

    def off(self, steps: int, quadrature: Quadrature, w: Weighting = "sde") -> tuple[float, float]:
        """How far from the reference, and the standard error of that: both have the same x_T."""
        by_draw = self.estimate(steps, quadrature, w).by_draw - self.reference(w).by_draw
        return float(by_draw.mean()), error(by_draw)

    def table(self) -> pd.DataFrame:
        """One row for each number of steps: the sum, the integral, and how far they are off."""
        return pd.DataFrame([self._row(steps) for steps in sorted(self.runs)])

    def _row(self, steps: int) -> dict[str, Any]:
        plain, whole = self.estimate(steps, "sum"), self.estimate(steps, "log-snr")
        t = self.runs[steps].timesteps.tolist()
        off, its_error = self.off(steps, "sum")
        return {
            "steps": steps,
            "timesteps": f"{t[0]} … {t[-1]}" if steps > 1 else str(t[0]),
            "sum": plain.value,
            "stderr of sum": plain.stderr,
            "excess": off,
            "stderr of excess": its_error,
            "on finest": self.on_finest(steps),
            "integral": whole.value,
            "stderr of integral": whole.stderr,
            "steps error": whole.quadrature_error,
        }

    def ratios(self) -> pd.DataFrame:
        """Either rule over the reference, by steps and weighting, with standard errors."""
        rows = []
        for steps in sorted(self.runs):
            for w in cj.WEIGHTINGS:
                centre = self.reference(w).value
                for rule in ("sum", "log-snr"):
                    off, its_error = self.off(steps, rule, w)
                    rows.append([steps, w, rule, 1 + off / centre, its_error / centre])
        return pd.DataFrame(rows, columns=["steps", "weighting", "rule", "ratio", "stderr"])

    def facts(self, steps: int) -> dict[str, Any]:
        """The error of ``steps``, where it is from, and what the integral leaves of it."""
        plain, whole = self.estimate(steps, "sum"), self.estimate(steps, "log-snr")
        (excess, excess_error), (off, off_error) = (
            self.off(steps, rule) for rule in ("sum", "log-snr")
        )
        ratios = self.ratios().set_index(["steps", "weighting", "rule"])["ratio"]
        return {
            "n_steps": steps,
            "n_draws": len(plain.by_draw),
            "finest": self.finest,
            "sum": plain.value,
            "sum_error": plain.stderr,
            "whole": str(whole),
            "best": str(self.reference()),
            "excess": excess,
            "excess_error": excess_error,
            "excess_in_errors": abs(excess) / plain.stderr if plain.stderr else math.inf,
            "by_trajectories": plain.value - self.on_finest(steps),
            "by_quadrature": self.on_finest(steps) - self.reference().value,
            "off": off,
            "off_error": off_error,
            "last_share_pair": 100 * plain.by_step[-1] / plain.value,
            "whole_share_pair": 100 * whole.by_step[-1] / whole.value,
            **{f"ratio_{w}": float(ratios[steps, w, "sum"]) for w in cj.WEIGHTINGS},
            **{f"whole_ratio_{w}": float(ratios[steps, w, "log-snr"]) for w in cj.WEIGHTINGS},
        }


def steps_of(
    process: cj.GenerativeProcess,
    pair: tuple[str, str],
    counts: Sequence[int],
    *,
    draws: int,
    guidance: float,
    seed: int,
) -> Steps:
    """The pair under each number of steps."""
    terms = partial(cj.pair_terms, process, [pair], draws=draws, guidance=guidance, seed=seed)
    return Steps({steps: terms(steps=steps) for steps in sorted(set(counts))})


def readable(table: pd.DataFrame) -> Styler:
    """The table of the steps with errors beside their values."""

    def beside(*columns: str) -> list[str]:
        rows = table[list(columns)].itertuples(index=False)
        return [" ± ".join("–" if np.isnan(v) else f"{v:.1f}" for v in row) for row in rows]

    shown = pd.DataFrame(
        {
            "steps S": table["steps"],
            "timesteps visited": table["timesteps"],
            "plain sum": beside("sum", "stderr of sum"),
            "excess": beside("excess", "stderr of excess"),
            "integral ± draws ± steps": beside("integral", "stderr of integral", "steps error"),
        }
    )
    return shown.style.hide()


def draw_steps(found: Steps) -> None:
    """Three readings over the number of steps, and each rule's value over the reference."""
    table = found.table()
    _, (value_axis, ratio_axis) = plt.subplots(1, 2, figsize=(9, 4))
    lines: dict[str, tuple[str | None, str]] = {
        "sum": ("stderr of sum", "plain sum"),
        "on finest": (None, f"the same on paths of {found.finest} steps"),
        "integral": ("stderr of integral", "integral, the default"),
    }
    for (column, (bars, name)), colour, mark in zip(lines.items(), PALETTE, "osd", strict=False):
        line = table.dropna(subset=column)
        bar = line[bars] if bars else None
        value_axis.errorbar(line["steps"], line[column], bar, color=colour, marker=mark, label=name)
    value_axis.set(xlabel="steps S", ylabel="J (nats)", xscale="log", yscale="log")
    ratios = found.ratios().groupby(["weighting", "rule"], sort=False)
    looks = [(w, rule) for w in cj.WEIGHTINGS for rule in ("sum", "log-snr")]
    for weighting, rule in looks:
        line = ratios.get_group((weighting, rule))
        colour, plain = PALETTE[cj.WEIGHTINGS.index(weighting)], rule == "sum"
        look: dict[str, Any] = {"marker": "o", "color": colour, "alpha": 1 if plain else 0.6}
        look |= {"linestyle": "-" if plain else ":", "mfc": colour if plain else "white"}
        label = f"{weighting}, {'sum' if plain else 'integral'}"
        ratio_axis.errorbar(line["steps"], line["ratio"], line["stderr"], label=label, **look)
    ratio_axis.axhline(1, color="0.5", linestyle="--", linewidth=1)
    ratio_axis.set(xlabel="steps S", ylabel="value / reference", xscale="log", yscale="log")
    for axis in (value_axis, ratio_axis):
        plain_ticks(axis, table["steps"])
        axis.legend()
    plt.show()


def ranks(
    process: cj.GenerativeProcess, pairs: Pairs, terms: cj.Terms, *, guidance: float, seed: int
) -> pd.DataFrame:
    """Spearman's ρ of the pairs' first draw with other steps, the sum, and another draw.

    A column a weighting. ``terms`` are those of the pairs.
    """
    other = partial(cj.pair_terms, process, pairs, guidance=guidance, seed=seed)
    steps = len(terms.timesteps)
    base = replace(terms, squares=terms.squares[:, :1])
    others: dict[str, tuple[cj.Terms, Quadrature]] = {
        f"{count} steps": (other(steps=count, draws=1), "log-snr")
        for count in (max(1, steps // 2), 2 * steps)
    }
    others["plain sum"] = (base, "sum")
    others["another draw"] = (other(steps=steps, draws=[1]), "log-snr")
    found = {
        name: {w: ranked_alike(values(base, w), values(x, w, rule), pairs) for w in cj.WEIGHTINGS}
        for name, (x, rule) in others.items()
    }
    return pd.DataFrame(found).T


def rank_facts(found: pd.DataFrame, steps: int) -> dict[str, Any]:
    """What more steps, the sum and another draw leave of the order, by weighting."""
    rows = {"twice": f"{2 * steps} steps", "sum": "plain sum", "draw": "another draw"}
    return {f"rank_{k}_{w}": found.at[row, w] for k, row in rows.items() for w in cj.WEIGHTINGS}


# -- cost -------------------------------------------------------------------------------------


def counted(
    process: cj.GenerativeProcess, pairs: Pairs, **settings: Unpack[Settings]
) -> tuple[cj.Terms, int]:
    """Terms of some pairs, and how many noise predictions the library made for them."""
    before = process.evaluations
    terms = cj.pair_terms(process, pairs, **settings)
    return terms, process.evaluations - before


def counted_plain(
    process: cj.GenerativeProcess, pair: tuple[str, str], sampling: cj.Sampling
) -> int:
    """Noise predictions that the plain loop makes."""
    before = process.evaluations
    plainly(process, pair, sampling)
    return process.evaluations - before


def costs(
    process: cj.GenerativeProcess, words: int, pairs: Pairs, sampling: cj.Sampling
) -> pd.DataFrame:
    """Predictions counted beside the formula, for one pair and for all pairs of some words.

    Raises:
        AssertionError: the counter and the formula differ.
    """
    S, k, rows = sampling.steps, len(sampling.numbers), []
    for label, these, U in (("one pair", pairs[:1], 2), (f"{words} words", pairs, words)):
        for guidance, c in ((1.0, 1), (7.5, 2)):
            P = len(these)
            ours, plain = c * S * k * U + 2 * S * k * P, 6 * c * S * k * P
            how = replace(sampling, guidance=guidance)
            _, count = counted(process, these, sampling=how)
            assert count == ours, (count, ours)
            if P == 1:
                assert counted_plain(process, these[0], how) == plain
            said = "yes" if c == 2 else "no"
            rows.append([label, said, U, P, count, ours, plain, plain / ours])
    names = ["", "guidance", "U", "P", "counted", "formula", "plain reading", "saving"]
    return pd.DataFrame(rows, columns=names)


# -- guidance ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guided:
    """A pair under one guidance w: terms without their factor w², and the states of y1."""

    terms: cj.Terms
    states: Tensor  # (S, …) of draw 0

    @property
    def estimate(self) -> cj.Estimate:
        """The distance over w²."""
        return self.terms.estimates()[0]

    def moved(self, other: Guided) -> Tensor:
        """How far its states lie from those of another, over the norm of these, (S,)."""
        apart = (self.states - other.states).double().flatten(1).norm(dim=1)
        return (apart / other.states.double().flatten(1).norm(dim=1)).cpu()


def guided(process: cj.GenerativeProcess, pair: tuple[str, str], sampling: cj.Sampling) -> Guided:
    """The pair under the guidance w of a sampling."""
    found = cj.pair_terms(process, [pair], sampling=sampling)
    start, condition = process.noise([0], sampling.seed), process.encode([pair[0]])
    path = process.trajectories(condition, start, [0], sampling=sampling)
    squares = found.squares / sampling.guidance**2
    return Guided(replace(found, squares=squares), path.states[0])


def guidance_facts(swept: Mapping[float, Guided]) -> dict[str, float]:
    """From the first to the last guidance."""
    first, *_, last = swept
    before, after = swept[first].estimate, swept[last].estimate
    change = after.value / before.value
    return {
        "w_first": first,
        "w_last": last,
        "w_factor": last**2 / first**2,
        "w_change": change,
        "w_change_error": error(after.by_draw - change * before.by_draw) / before.value,
        "w_moved": float(100 * swept[last].moved(swept[first])[-1]),
    }


def draw_guidance(swept: Mapping[float, Guided]) -> None:
    """J over w² by guidance, and how far the trajectories have moved."""
    first, *others = swept
    _, (scaled_axis, moved_axis) = plt.subplots(1, 2, figsize=(9, 3.6))
    estimates = [g.estimate for g in swept.values()]
    height, bars = [e.value for e in estimates], [e.stderr for e in estimates]
    scaled_axis.errorbar(list(swept), height, bars, marker="o", color=PALETTE[0])
    scaled_axis.axhline(height[0], color="0.6", linestyle="--")
    scaled_axis.set(xlabel="guidance w", ylabel=r"$J_w / w^2$ (nats)")
    scaled_axis.set_ylim(bottom=0)
    for w, colour in zip(others, PALETTE, strict=False):
        moved = 100 * swept[w].moved(swept[first])
        timesteps = swept[w].terms.timesteps
        moved_axis.plot(timesteps, moved, "o-", color=colour, label=f"w = {w:g}")
    moved_axis.set(xlabel="timestep t", ylabel=f"displacement from w = {first:g} (%)")
    moved_axis.invert_xaxis()
    moved_axis.legend()
    plt.show()
