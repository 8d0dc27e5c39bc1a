"""Algorithm 1 as it reads, and what its parts are worth: the study of chapter 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import NullFormatter
from scipy.stats import spearmanr
from scipy.stats import t as student
from torch import Tensor

import conjure_lib as cj
from conjure_lib import Weighting
from conjure_lib.sde import FlowSchedule, Schedule
from conjure_tools.plots import PALETTE
from studies.records import Pairs

PARTS = ("same x", "crossed", "drift")
Parts = dict[str, np.ndarray]
"""Squared norms (draws, S, 2) of the three parts of a prediction's difference."""


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
    weight = process.schedule.weight(torch.arange(process.schedule.T), "sde")  # (T,)

    def eps_w(x: Tensor, c: Tensor) -> Tensor:  # guided prediction at t
        t_row = t[None].to(process.device)
        if guidance == 1:
            return process.eps(x, t_row, c)
        empty = process.eps(x, t_row, c0)
        return empty + guidance * (process.eps(x, t_row, c) - empty)

    for draw in range(draws):
        x_hat = x_tilde = process.noise([draw], seed)  # line 1, (1, *latent_shape)
        for t in scheduler.timesteps:
            for x in (x_hat, x_tilde):  # lines 3 and 4
                delta = eps_w(x, c1) - eps_w(x, c2)
                total += float(weight[t] * delta.double().square().sum()) / 2
            x_hat = scheduler.step(eps_w(x_hat, c1), t, x_hat).prev_sample  # line 2
            x_tilde = scheduler.step(eps_w(x_tilde, c2), t, x_tilde).prev_sample
    return process.schedule.T * total / (steps * draws)


def beside_library(
    process: cj.GenerativeProcess, pair: tuple[str, str], guidances: Sequence[float], **how: Any
) -> pd.DataFrame:
    """The loop and the library at some guidances, and what either asked of the network.

    ``how`` are steps, draws and seed.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    rows = []
    for guidance in guidances:
        before = process.evaluations
        plain = plain_distance(process, *pair, guidance=guidance, **how)
        between = process.evaluations
        ours = cj.distance(process, *pair, guidance=guidance, quadrature="sum", **how).value
        assert abs(plain - ours) <= 1e-4 * abs(plain), (plain, ours)
        calls = [between - before, process.evaluations - between]
        rows.append([guidance, plain, ours, abs(ours / plain - 1), *calls])
    names = ["guidance w", "J, loop", "J, library", "rel. difference", "calls, loop", "calls"]
    return pd.DataFrame(rows, columns=names)


# -- the same x, and the crossed reading ------------------------------------------------------


def parts(trace: cj.Trace) -> Parts:
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


def parts_of(
    process: cj.GenerativeProcess, pair: tuple[str, str], steps: int, draws: int, seed: int
) -> Parts:
    """The same over some draws with shared x_T, each (draws, S, 2)."""
    traces = [cj.trace(process, *pair, steps=steps, seed=seed, draw=d) for d in range(draws)]
    opened = [parts(trace) for trace in traces]
    return {name: np.concatenate([draw[name] for draw in opened]) for name in PARTS}


def from_itself(
    process: cj.GenerativeProcess, text: str, couples: int, steps: int, seed: int
) -> np.ndarray:
    """Terms (couples, S, 2) of the crossed form of a text and itself, under independent noise."""
    draws = list(range(2 * couples))
    condition = process.encode([text])
    path = process.trajectories(
        condition.expand(len(draws), *condition.shape[1:]),
        process.noise(draws, seed),
        draws,
        steps=steps,
        seed=seed,
    )
    apart = (path.eps[::2] - path.eps[1::2]).double().flatten(2).square().sum(-1)  # (couples, S)
    return np.repeat(apart.cpu().numpy()[..., None], 2, axis=2)


def crossed_facts(tables: Mapping[Weighting, pd.DataFrame], itself: float) -> dict[str, Any]:
    """How far the crossed form exceeds the other over pairs; tables have a column a part."""
    table = tables["sde"]
    inflation = {w: t["crossed"] / t["same x"] for w, t in tables.items()}
    return {
        "itself": itself,
        "below_itself": int((table["crossed"] < itself).sum()),
        "neighbours": len(table),
        "larger": int((inflation["sde"] > 1).sum()),
        "inflation_low": float(inflation["sde"].min()),
        "inflation_high": float(inflation["sde"].max()),
        "larger_noise": int((inflation["noise"] > 1).sum()),
        "inflation_noise_low": float(inflation["noise"].min()),
        "inflation_noise_high": float(inflation["noise"].max()),
        "drift_share": float((table["drift"] / table["crossed"]).median()),
        "crossed_rank": float(spearmanr(table["same x"], table["crossed"]).statistic),
    }


def draw_crossed(
    opened: Parts, timesteps: Tensor, table: pd.DataFrame, itself: float, pair: tuple[str, str]
) -> None:
    """The parts by timestep for one pair, and in nats for the pairs of ``table``, by its index."""
    table = table.sort_values("same x")
    figure, (steps_axis, pairs_axis) = plt.subplots(1, 2, figsize=(9, 4.4), width_ratios=[1, 1.15])
    for name, colour, marker in zip(PARTS, PALETTE, "osd", strict=False):
        by_step = opened[name].mean(axis=(0, 2))
        steps_axis.plot(timesteps, by_step, marker=marker, color=colour, label=name)
        pairs_axis.plot(table[name], range(len(table)), marker, color=colour, label=name)
    steps_axis.set(xlabel="timestep t", ylabel="squared norm", title="“{}”, “{}”".format(*pair))
    steps_axis.invert_xaxis()
    pairs_axis.axvline(itself, color="0.5", linestyle="--", label=f"crossed, “{pair[0]}” twice")
    pairs_axis.set_yticks(range(len(table)), list(table.index))
    pairs_axis.set(xlabel="nats (sde weighting)", xscale="log", title="pairs of words")
    pairs_axis.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(*pairs_axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plt.show()


# -- weightings, and what each timestep stands for --------------------------------------------


@dataclass(frozen=True)
class Visited:
    """Timesteps that a sampler visits, in its order, and how their terms become a distance."""

    schedule: Schedule | FlowSchedule  # of the checkpoint
    timesteps: Tensor  # (S,)

    def estimate(self, terms: np.ndarray, weighting: Weighting = "sde") -> cj.Estimate:
        """From terms (draws, S, 2), every timestep standing for T/S of them."""
        return cj.Terms(terms[None], self.timesteps, self.schedule).estimates(weighting, "sum")[0]

    def value(self, terms: np.ndarray, weighting: Weighting = "sde") -> float:
        """The estimate alone; nats for "sde"."""
        return self.estimate(terms, weighting).value

    @cached_property
    def every_step(self) -> Tensor:
        """All T timesteps."""
        return torch.arange(self.schedule.T)

    def weights(self, weighting: Weighting) -> np.ndarray:
        """The weight of each of them, (T,)."""
        return np.asarray(self.schedule.weight(self.every_step, weighting))

    def interpolated(self, terms: np.ndarray) -> np.ndarray:
        """‖Δε‖² at all T timesteps, (draws, T), from terms (draws, S, 2) at the visited ones."""
        rising, curves = self.timesteps.numpy()[::-1], terms.mean(axis=2)[:, ::-1]
        return np.array([np.interp(self.every_step, rising, curve) for curve in curves])

    def integrated(self, terms: np.ndarray, weighting: Weighting = "sde") -> np.ndarray:
        """The distance of each draw, (draws,), with every DDPM step under its own weight."""
        total = self.interpolated(terms) @ self.weights(weighting)
        return np.asarray(total if weighting == "sde" else total / self.schedule.T)

    @cached_property
    def cells(self) -> np.ndarray:
        """For every DDPM step the visited timestep that stands for it, as its place in S: (T,)."""
        place = np.searchsorted(self.timesteps.numpy()[::-1], self.every_step, side="right") - 1
        return np.asarray(len(self.timesteps) - 1 - place.clip(0))

    def shares(self, curve: np.ndarray, weighting: Weighting) -> np.ndarray:
        """What the DDPM steps of each cell give to an integral, (S,), for ‖Δε‖² of all (T,)."""
        found = np.bincount(self.cells, self.weights(weighting) * curve)
        return np.asarray(found / found.sum())


def shares_of(
    visited: Visited, estimates: Mapping[Weighting, Sequence[cj.Estimate]]
) -> pd.DataFrame:
    """What each timestep gives to the sum over all pairs, a column a weighting."""
    table = {w: np.sum([e.by_step for e in found], axis=0) for w, found in estimates.items()}
    shares = pd.DataFrame(table, index=visited.timesteps.tolist())
    return shares / shares.sum()


def weighting_facts(
    visited: Visited, shares: pd.DataFrame, fair: pd.DataFrame, agreement: pd.DataFrame
) -> dict[str, Any]:
    """Which timestep has most say under each weighting, and what is due to the last."""
    weights, steps = visited.weights("sde"), len(visited.timesteps)
    at_visited = weights[visited.timesteps]
    last_cell = weights[visited.cells == steps - 1]  # of the steps that the last stands for
    counted = float(visited.schedule.T / steps * at_visited[-1])
    top = {f"top_{w}": int(shares[w].idxmax()) for w in cj.WEIGHTINGS}
    return {
        **top,
        **{f"top_share_{w}": float(100 * shares[w].max()) for w in cj.WEIGHTINGS},
        "last_t": int(visited.timesteps[-1]),
        "last_share": float(100 * shares["sde"].iloc[-1]),
        "fair_share": float(100 * fair["sde"].iloc[-1]),
        "weight_jump": float(at_visited[-1] / np.median(at_visited[:-1])) if steps > 1 else 1.0,
        "cell_counted": counted,
        "cell_weight": float(last_cell.sum()),
        "cell_excess": counted / float(last_cell.sum()),
        "agree_low": float(agreement.to_numpy()[np.triu_indices(3, 1)].min()),
        "agree_sde_noise": float(agreement.at["sde", "noise"]),
    }


def draw_weightings(
    terms: np.ndarray, visited: Visited, shares: pd.DataFrame, fair: pd.DataFrame
) -> None:
    """‖Δε‖² by timestep over the pairs, terms (P, draws, S, 2), and each timestep's share."""
    _, (raw_axis, share_axis) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1, 1.5])
    by_pair, timesteps = terms.mean(axis=(1, 3)), visited.timesteps  # (P, S)
    low, middle, high = np.quantile(by_pair, [0.1, 0.5, 0.9], axis=0)
    raw_axis.fill_between(timesteps, low, high, color="0.85", label="80 % of the pairs")
    raw_axis.plot(timesteps, middle, "o-", color="0.25", label="median pair")
    raw_axis.set(xlabel="timestep t", ylabel=r"$\Vert\Delta\varepsilon\Vert^2$", yscale="log")
    raw_axis.invert_xaxis()
    raw_axis.legend()
    place = np.arange(len(timesteps))
    for i, (weighting, colour) in enumerate(zip(cj.WEIGHTINGS, PALETTE, strict=False)):
        where = place + 0.27 * (i - 1)
        share_axis.bar(where, shares[weighting], 0.25, color=colour, label=weighting)
        share_axis.hlines(fair[weighting], where - 0.13, where + 0.13, color="black", linewidth=1.5)
    share_axis.set_xticks(place, [str(int(t)) for t in timesteps], fontsize=8)
    share_axis.set(xlabel="timestep t", ylabel="share of the distance")
    share_axis.legend()
    plt.show()


# -- draws ------------------------------------------------------------------------------------


def error(by_draw: np.ndarray) -> float:
    """Standard error of the mean of (draws,)."""
    return float(by_draw.std(ddof=1) / np.sqrt(len(by_draw))) if len(by_draw) > 1 else np.nan


def draw_facts(many: cj.Estimate, draws: int) -> dict[str, Any]:
    """How one draw and some of them scatter, from many."""
    spread = float(many.by_draw.std(ddof=1))
    return {
        "many_draws": len(many.by_draw),
        "reference": many.value,
        "reference_error": many.stderr,
        "one_draw": 100 * spread / many.value,
        "few_draws": 100 * spread / np.sqrt(draws) / many.value,
        "quantile": float(student.ppf(0.975, draws - 1)) if draws > 1 else float("nan"),
    }


def common_facts(first: np.ndarray, differences: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What common random numbers save a difference; all (draws,), of ``first`` less a second."""
    deviation = {name: float(d.std(ddof=1)) for name, d in differences.items()}
    second = first - differences["shared"]
    return {
        "crn_shared": deviation["shared"],
        "crn_independent": deviation["independent"],
        "crn_correlation": float(np.corrcoef(first, second)[0, 1]),
        "crn_saving": (deviation["independent"] / deviation["shared"]) ** 2,
    }


def draw_draws(
    many: cj.Estimate, differences: Mapping[str, np.ndarray], rivals: tuple[str, str]
) -> None:
    """Running means, the spread of means of k draws, and differences under two couplings."""
    by_draw = many.by_draw
    ks = np.arange(2, len(by_draw) + 1)
    sizes = [k for k in (1, 2, 4, 8, 16) if len(by_draw) // k >= 4]  # disjoint groups of k draws
    groups = [by_draw[: len(by_draw) // k * k].reshape(-1, k).mean(axis=1) for k in sizes]
    observed = np.array([means.std(ddof=1) for means in groups])
    relative = np.array([1 / np.sqrt(2 * (len(means) - 1)) for means in groups])
    _, axes = plt.subplots(1, 3, figsize=(10, 3.4), width_ratios=[1.2, 1, 0.9])
    axes[0].axhspan(many.value - many.stderr, many.value + many.stderr, color="0.85", linewidth=0)
    running = [by_draw[:k].mean() for k in ks]
    bars = [error(by_draw[:k]) for k in ks]
    axes[0].errorbar(ks, running, bars, color=PALETTE[0], fmt=".", elinewidth=1)
    axes[0].set(xlabel="draws k", ylabel="J (nats)", title="mean of the first k draws")
    axes[1].errorbar(
        sizes, observed, observed * relative, color=PALETTE[0], fmt="o", label="observed"
    )
    every_size = np.geomspace(sizes[0], sizes[-1])
    law = by_draw.std(ddof=1) / np.sqrt(every_size)
    axes[1].plot(every_size, law, "--", color="0.4", label=r"$\sigma_1 k^{-1/2}$")
    title = "spread of means of k draws"
    axes[1].set(xlabel="draws k", ylabel="nats", title=title, xscale="log")
    axes[1].set_xticks(sizes, [str(k) for k in sizes])
    axes[1].minorticks_off()
    axes[1].set_ylim(bottom=0)
    axes[1].legend(loc="lower left")
    median = {"color": "k"}
    names = list(differences)
    axes[2].boxplot(list(differences.values()), tick_labels=names, widths=0.5, medianprops=median)
    axes[2].axhline(0, color="0.7", linewidth=1)
    axes[2].set(ylabel="nats, one draw", title="“{}” minus “{}”".format(*rivals))
    plt.show()


# -- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Terms (draws, S, 2) of one pair, and the timesteps that they belong to."""

    terms: np.ndarray
    visited: Visited


@dataclass(frozen=True)
class Steps:
    """One pair under several numbers of steps, the finest of which is the reference."""

    runs: dict[int, Run]  # by steps, all from the same x_T

    @property
    def finest(self) -> int:
        """The most steps."""
        return max(self.runs)

    def reference(self, weighting: Weighting = "sde") -> np.ndarray:
        """The distance of each draw, (draws,), finest trajectories and finest quadrature."""
        run = self.runs[self.finest]
        return run.visited.integrated(run.terms, weighting)

    def on_finest(self, steps: int) -> float:
        """The sum over the timesteps of ``steps`` on the finest trajectories; NaN if they miss."""
        fine, visited = self.runs[self.finest], self.runs[steps].visited
        there = np.isin(fine.visited.timesteps, visited.timesteps)
        return visited.value(fine.terms[:, there]) if there.sum() == steps else np.nan

    def table(self) -> pd.DataFrame:
        """One row for each number of steps: sums, interpolated values, and the excess."""
        return pd.DataFrame([self._row(steps) for steps in self.runs])

    def _row(self, steps: int) -> dict[str, Any]:
        run, best = self.runs[steps], self.reference()
        J, t = run.visited.estimate(run.terms), run.visited.timesteps
        smooth = run.visited.integrated(run.terms)
        return {
            "steps": steps,
            "timesteps": f"{int(t[0])} … {int(t[-1])}",
            "J": J.value,
            "stderr": J.stderr,
            "% from last t": 100 * J.by_step[-1] / J.value,
            "J, fine trajectories": self.on_finest(steps),
            "J, interpolated": smooth.mean(),
            "stderr, interpolated": error(smooth),
            "excess": J.value - best.mean(),
            "stderr of excess": error(J.by_draw - best),
        }

    def ratios(self) -> pd.DataFrame:
        """Sums over the reference, by steps and weighting, with their standard errors."""
        rows = []
        for steps, run in self.runs.items():
            for w in cj.WEIGHTINGS:
                e, best = run.visited.estimate(run.terms, w), self.reference(w)
                off, centre = error(e.by_draw - best), best.mean()
                rows.append([steps, w, e.value / centre, off / centre])
        return pd.DataFrame(rows, columns=["steps", "weighting", "ratio", "stderr"])

    def facts(self, steps: int, spread: float) -> dict[str, Any]:
        """The error of ``steps``, next to the ``spread`` of single draws, and where it is from."""
        table, best = self.table(), self.reference()
        here = table.set_index("steps").loc[steps]
        ratios = self.ratios().set_index(["steps", "weighting"])["ratio"]
        fine, cells = self.runs[self.finest], self.runs[steps].visited.cells
        due = fine.visited.interpolated(fine.terms).mean(0) * fine.visited.weights("sde")
        return {
            "n_steps": steps,
            "n_draws": len(best),
            "finest": self.finest,
            "finest_sum": float(table["J"].iloc[-1]),
            "J_here": float(here["J"]),
            "J_here_error": float(here["stderr"]),
            "J_best": float(best.mean()),
            "J_best_error": error(best),
            "J_interpolated": float(here["J, interpolated"]),
            "excess": float(here["excess"]),
            "excess_error": float(here["stderr of excess"]),
            "excess_in_errors": float(abs(here["excess"]) / here["stderr"]),
            "excess_in_draws": float(abs(here["excess"])) / spread,
            "by_trajectories": float(here["J"] - here["J, fine trajectories"]),
            "by_quadrature": float(here["J, fine trajectories"] - best.mean()),
            "last_share_pair": float(here["% from last t"]),
            "fair_share_pair": float(100 * due[cells == steps - 1].sum() / due.sum()),
            **{f"ratio_{w}": float(ratios[steps, w]) for w in cj.WEIGHTINGS},
        }


def steps_of(
    process: cj.GenerativeProcess, pair: tuple[str, str], counts: Sequence[int], **how: Any
) -> Steps:
    """The pair under each number of steps; ``how`` are draws, guidance and seed."""
    runs = {}
    for steps in sorted(set(counts)):
        found = cj.pair_terms(process, [pair], steps=steps, **how)
        runs[steps] = Run(found.squares[0], Visited(found.schedule, found.timesteps))
    return Steps(runs)


def readable(table: pd.DataFrame) -> Any:
    """The table of the steps with errors beside their values."""

    def with_error(column: str, of: str) -> list[str]:
        return [f"{v:.1f} ± {e:.1f}" for v, e in zip(table[column], table[of], strict=True)]

    columns = ["steps", "timesteps", "J", "% from last t", "J, fine trajectories"]
    shown = table[columns].assign(
        **{
            "J": with_error("J", "stderr"),
            "J, interpolated": with_error("J, interpolated", "stderr, interpolated"),
            "excess": with_error("excess", "stderr of excess"),
        }
    )
    styled = shown.style.hide().format(precision=1, na_rep="–")
    return styled.format("{:.0f}", subset="% from last t")


def draw_steps(found: Steps) -> None:
    """Three readings over the number of steps, and each weighting's sum over its reference."""
    table = found.table()
    _, (value_axis, ratio_axis) = plt.subplots(1, 2, figsize=(9, 3.8))
    lines: dict[str, tuple[str | None, str]] = {
        "J": ("stderr", "sum over S timesteps"),
        "J, fine trajectories": (None, f"the same, paths of {found.finest} steps"),
        "J, interpolated": ("stderr, interpolated", "interpolated over all t"),
    }
    for (column, (bars, name)), colour, mark in zip(lines.items(), PALETTE, "osd", strict=False):
        line = table.dropna(subset=column)
        bar = line[bars] if bars else None
        value_axis.errorbar(line["steps"], line[column], bar, color=colour, marker=mark, label=name)
    value_axis.set(xlabel="steps S", ylabel="J (nats)", xscale="log", yscale="log")
    ratios = found.ratios().groupby("weighting", sort=False)
    for (weighting, line), colour in zip(ratios, PALETTE, strict=False):
        x, y, bar = (line[c] for c in ("steps", "ratio", "stderr"))
        ratio_axis.errorbar(x, y, bar, color=colour, marker="o", label=weighting)
    ratio_axis.axhline(1, color="0.5", linestyle="--", linewidth=1)
    label = "sum / interpolated finest run"
    ratio_axis.set(xlabel="steps S", ylabel=label, xscale="log", yscale="log")
    for axis in (value_axis, ratio_axis):
        axis.set_xticks(table["steps"], [str(s) for s in table["steps"]])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    plt.show()


def by_weighting(terms: np.ndarray, visited: Visited) -> pd.DataFrame:
    """The values of terms (P, draws, S, 2) under each weighting."""
    return pd.DataFrame({w: [visited.value(t, w) for t in terms] for w in cj.WEIGHTINGS})


def ranks(
    process: cj.GenerativeProcess,
    pairs: Pairs,
    terms: np.ndarray,
    visited: Visited,
    **how: Any,
) -> pd.DataFrame:
    """Spearman's ρ of one draw with other steps, the interpolated values, and another draw.

    Args:
        terms: (P, draws, S, 2) of the pairs at the visited timesteps.
        how: guidance and seed.
    """
    steps = len(visited.timesteps)
    base, others = by_weighting(terms[:, :1], visited), {}
    for count in (max(1, steps // 2), 2 * steps):
        found = cj.pair_terms(process, pairs, steps=count, draws=1, **how)
        at = Visited(visited.schedule, found.timesteps)
        others[f"{count} steps"] = by_weighting(found.squares, at)
    others["interpolated"] = pd.DataFrame(
        {w: [visited.integrated(t[:1], w).mean() for t in terms] for w in cj.WEIGHTINGS}
    )
    if terms.shape[1] > 1:
        others["another draw"] = by_weighting(terms[:, 1:2], visited)
    return pd.DataFrame({k: base.corrwith(o, method="spearman") for k, o in others.items()}).T


def rank_facts(found: pd.DataFrame, steps: int) -> dict[str, Any]:
    """What more steps and interpolation leave of the order, and the weakest link."""
    return {
        "rank_fine": float(found.at[f"{2 * steps} steps", "sde"]),
        "rank_interpolated": float(found.at["interpolated", "sde"]),
        "rank_lowest": str(found["sde"].idxmin()),
        "rank_lowest_value": float(found["sde"].min()),
    }


# -- cost -------------------------------------------------------------------------------------


def counted(process: cj.GenerativeProcess, pairs: Pairs, **how: Any) -> int:
    """Noise predictions that the library makes."""
    before = process.evaluations
    cj.pair_terms(process, pairs, **how)
    return process.evaluations - before


def counted_plain(process: cj.GenerativeProcess, pair: tuple[str, str], **how: Any) -> int:
    """Noise predictions that the plain loop makes."""
    before = process.evaluations
    plain_distance(process, *pair, **how)
    return process.evaluations - before


def costs(process: cj.GenerativeProcess, words: int, pairs: Pairs, **how: Any) -> pd.DataFrame:
    """Predictions counted beside the formula, for one pair and for all pairs of some words.

    ``how`` are steps, draws and seed.

    Raises:
        AssertionError: the counter and the formula differ.
    """
    S, k, rows = how["steps"], how["draws"], []
    for label, these, U in (("one pair", pairs[:1], 2), (f"{words} words", pairs, words)):
        for guidance, c in ((1.0, 1), (7.5, 2)):
            P = len(these)
            ours, plain = c * S * k * U + 2 * S * k * P, 6 * c * S * k * P
            count = counted(process, these, guidance=guidance, **how)
            assert count == ours, (count, ours)
            if P == 1:
                assert counted_plain(process, these[0], guidance=guidance, **how) == plain
            said = "yes" if c == 2 else "no"
            rows.append([label, said, U, P, count, ours, plain, plain / ours])
    names = ["", "guidance", "U", "P", "counted", "formula", "plain reading", "saving"]
    return pd.DataFrame(rows, columns=names)


# -- guidance ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guided:
    """A pair under one guidance w: terms without their factor w², and the states of y1."""

    estimate: cj.Estimate
    terms: np.ndarray  # (draws, S, 2)
    states: Tensor  # (S, …) of draw 0

    def moved(self, other: Guided) -> Tensor:
        """How far its states lie from those of another, over the norm of these, (S,)."""
        apart = (self.states - other.states).double().flatten(1).norm(dim=1)
        return (apart / other.states.double().flatten(1).norm(dim=1)).cpu()


def guided(
    process: cj.GenerativeProcess, pair: tuple[str, str], w: float, draws: int, **how: Any
) -> Guided:
    """The pair under guidance w; ``how`` are steps and seed."""
    found = cj.pair_terms(process, [pair], draws=draws, guidance=w, **how)
    start, condition = process.noise([0], how["seed"]), process.encode([pair[0]])
    path = process.trajectories(condition, start, [0], guidance=w, **how)
    terms = found.squares[0] / w**2
    visited = Visited(process.schedule, found.timesteps)
    return Guided(visited.estimate(terms), terms, path.states[0])


def guidance_facts(swept: Mapping[float, Guided]) -> dict[str, float]:
    """From the first to the last guidance."""
    first, *_, last = swept
    return {
        "w_first": first,
        "w_last": last,
        "w_factor": last**2 / first**2,
        "w_change": swept[last].estimate.value / swept[first].estimate.value,
        "w_moved": float(100 * swept[last].moved(swept[first])[-1]),
    }


def draw_guidance(swept: Mapping[float, Guided], timesteps: Tensor) -> None:
    """J over w² by guidance, and how far the trajectories have moved."""
    first, *others = swept
    _, (scaled_axis, moved_axis) = plt.subplots(1, 2, figsize=(9, 3.4))
    values = [g.estimate.value for g in swept.values()]
    bars = [g.estimate.stderr for g in swept.values()]
    scaled_axis.errorbar(list(swept), values, bars, marker="o", color=PALETTE[0])
    scaled_axis.axhline(values[0], color="0.6", linestyle="--")
    scaled_axis.set(xlabel="guidance w", ylabel=r"$J_w / w^2$ (nats)")
    scaled_axis.set_ylim(bottom=0)
    for w, colour in zip(others, PALETTE, strict=False):
        moved = 100 * swept[w].moved(swept[first])
        moved_axis.plot(timesteps, moved, "o-", color=colour, label=f"w = {w:g}")
    moved_axis.set(xlabel="timestep t", ylabel=f"displacement from w = {first:g} (%)")
    moved_axis.invert_xaxis()
    moved_axis.legend()
    plt.show()
