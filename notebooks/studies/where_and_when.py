"""Where and when two prompts part, for chapter 4: maps, shares and their figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib import WEIGHTINGS, GenerativeProcess, Trace, Weighting
from conjure_lib.sde import term_weights
from conjure_tools import plots
from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies.things_and_ideas import with_error


def view_maps(process: GenerativeProcess, trace: Trace) -> np.ndarray:
    """Squared difference of the two decoded views of each state, (2, S, height, width).

    The views of :func:`plots.pair_figure`, under the one prompt and under the other; mean over
    colours, so that 1 is black against white.
    """
    every = np.arange(len(trace.timesteps))
    rows = [plots.denoised_rows(process, trace, half, every) for half in (0, 1)]
    return np.stack([((first - second) ** 2).mean(-1) for _, first, second in rows])


def where_figure(
    process: GenerativeProcess,
    traces: Sequence[Trace],
    weighting: Weighting = "noise",
) -> Figure:
    """Where two prompts part: a row for each trace, the maps of each row scaled to its own maximum.

    Beside the picture at the end of either trajectory stands the map of that half of the distance
    in the latents, summed over steps. At the right, in pixels: how far the two decoded views of
    the same state differ (:func:`view_maps`), the mean of all states of both trajectories.
    """
    figure, axes = plt.subplots(len(traces), 5, figsize=(6.9, 1.24 * len(traces)), squeeze=False)
    for row, trace in zip(axes, traces, strict=True):
        (weights,) = trace.terms().weights(weighting, "sum")
        latents = np.tensordot(plots.difference_maps(trace), weights, axes=(1, 0))  # (2, H, W)
        last = np.array([len(trace.timesteps) - 1])
        for half in (0, 1):
            picture = plots.denoised_rows(process, trace, half, last)[1 + half][0]
            row[2 * half].imshow(picture, interpolation="nearest")
            row[2 * half + 1].imshow(latents[half], cmap=SEQUENTIAL, vmin=0, vmax=latents.max())
        row[4].imshow(view_maps(process, trace).mean((0, 1)), cmap=SEQUENTIAL, vmin=0)
        label = "\n".join(f"“{plots.short(prompt)}”" for prompt in trace.prompts)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    titles = ("first", "where, in latents", "second", "where, in latents", "where, in pixels")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def when_figure(
    traces: Mapping[str, Sequence[Trace]],
    dashed: Collection[str] = (),
) -> Figure:
    """When two prompts part: a line for each name, with a band of one standard error over traces.

    First panel: how far apart the two trajectories are at each timestep (:func:`apartness`).
    Then, under each weighting, what share of the distance has been added up on the way from noise
    (left) down to each timestep. At most six names; those in ``dashed`` are drawn dashed.
    """
    figure, axes = plt.subplots(1, 1 + len(WEIGHTINGS), figsize=(12, 3.3), sharey=True)
    for (name, draws), colour in zip(traces.items(), PALETTE, strict=False):
        style = {"color": colour, "linestyle": "--" if name in dashed else "-", "label": name}
        t = draws[0].timesteps.cpu().numpy()
        _band(axes[0], t, np.stack([apartness(trace) for trace in draws]), style)
        for axis, weighting in zip(axes[1:], WEIGHTINGS, strict=True):
            _band(axis, t, np.stack([added(x, weighting) for x in draws]), style)
    axes[0].set(title="the trajectories apart", ylabel="share", ylim=(0, 1.02))
    for axis, weighting in zip(axes[1:], WEIGHTINGS, strict=True):
        axis.set_title(f"of the distance, “{weighting}”")
        axis.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    for axis in axes:
        axis.set_xlabel("timestep t")
        axis.invert_xaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def apartness(trace: Trace) -> np.ndarray:
    """‖x̂ - x̃‖² / (‖x̂‖² + ‖x̃‖²) at each step, (S,): 0 at x_T, 1 where they are orthogonal."""
    x = trace.states.cpu().double().flatten(2)  # (2, S, D)
    apart, whole = (x[0] - x[1]).square().sum(1), x.square().sum((0, 2))
    return (apart / whole).numpy()


def added(trace: Trace, weighting: Weighting) -> np.ndarray:
    """The share of the distance that the steps up to each one make, (S,), noisiest first."""
    by_step = trace.terms().estimates(weighting, "sum")[0].by_step
    return by_step.cumsum() / by_step.sum()


def _band(axis: Any, t: np.ndarray, lines: np.ndarray, style: dict[str, Any]) -> None:
    """The mean of lines (draws, S) with a band of its standard error."""
    mean = lines.mean(0)
    axis.plot(t, mean, linewidth=1.4, **style)
    if len(lines) > 1:
        error = lines.std(0, ddof=1) / len(lines) ** 0.5
        axis.fill_between(
            t, mean - error, mean + error, color=style["color"], alpha=0.18, linewidth=0
        )


# -- several draws of several pairs -----------------------------------------------------------


def traced(
    process: GenerativeProcess, names: Sequence[str], sampling: cj.Sampling
) -> dict[str, list[Trace]]:
    """The traces of pairs named "y1 / y2", one a draw."""
    found = {}
    for name in names:
        first, second = name.split(" / ")
        found[name] = [
            cj.trace(process, first, second, sampling=sampling, draw=k) for k in sampling.numbers
        ]
    return found


def half_area(maps: np.ndarray) -> float:
    """The smallest share of the places (H, W) that holds half of a map's sum."""
    running = np.sort(maps.ravel())[::-1].cumsum()
    return float((np.searchsorted(running, running[-1] / 2) + 1) / running.size)


def half_time(trace: Trace, weighting: Weighting) -> float:
    """The timestep by which half of the distance is added, between steps by a straight line."""
    share, t = added(trace, weighting), trace.timesteps.cpu()
    return float(np.interp(0.5, np.r_[0, share], np.r_[trace.schedule.T, t]))


@dataclass(frozen=True)
class Parting:
    """Where and when some pairs part, in the draws of :func:`traced`."""

    process: GenerativeProcess
    traces: Mapping[str, Sequence[Trace]]
    weighting: Weighting

    @property
    def scales(self) -> dict[Weighting, np.ndarray]:
        """What the timesteps count in a plain sum, (S,), under each weighting."""
        some = next(iter(self.traces.values()))[0]
        return {w: term_weights(some.schedule, some.timesteps, w).numpy() for w in WEIGHTINGS}

    @cached_property
    def areas(self) -> dict[str, dict[str, np.ndarray]]:
        """By name, what share (%) of the places holds half of the difference: (draws,) of each."""
        weights, found = self.scales[self.weighting], {}
        for name, draws in self.traces.items():
            maps = {
                "latents": [np.tensordot(plots.difference_maps(x), weights, (1, 0)) for x in draws],
                "pixels": [view_maps(self.process, x).mean(1) for x in draws],
            }
            found[name] = {
                side: np.array([100 * np.mean([half_area(half) for half in both]) for both in of])
                for side, of in maps.items()
            }
        return found

    @cached_property
    def times(self) -> dict[str, dict[Weighting, np.ndarray]]:
        """By name, the timesteps by which half of the distance is added, (draws,) of each."""
        return {
            name: {w: np.array([half_time(x, w) for x in draws]) for w in WEIGHTINGS}
            for name, draws in self.traces.items()
        }

    def total(self, name: str) -> cj.Estimate:
        """The distance of a pair as a plain sum, over its draws."""
        draws = self.traces[name]
        squares = np.concatenate([trace.terms().squares for trace in draws], 1)
        terms = cj.Terms(squares, draws[0].timesteps, draws[0].schedule)
        return terms.estimates(self.weighting, "sum")[0]

    def ratio_of_halves(self, name: str) -> np.ndarray:
        """How many times the first half of the distance the second half is, in each draw."""
        halves = np.concatenate([trace.terms().squares[0] for trace in self.traces[name]])
        first, second = np.tensordot(halves, self.scales[self.weighting], axes=(1, 0)).T
        return np.asarray(second / first)

    def area_table(self) -> Styler:
        """The areas, mean and standard error over draws."""
        rows = {
            name: {side: with_error(values) for side, values in found.items()}
            for name, found in self.areas.items()
        }
        return pd.DataFrame(rows).T.style.set_caption(
            "Share of the places that hold half of the difference (%), "
            f"mean of {self._draws} draws ± standard error"
        )

    def when_table(self) -> Styler:
        """The times, how far apart the trajectories end, and the distances."""
        unit = "nats" if self.weighting == "sde" else "no unit"
        rows = {}
        for name, draws in self.traces.items():
            found = self.times[name]
            row = {f"half-time, “{w}” (steps)": with_error(found[w]) for w in WEIGHTINGS}
            ends = [100 * apartness(trace)[-1] for trace in draws]
            total = str(self.total(name)).replace(" ± ", "\u00a0±\u00a0")
            row["apart at the end (%)"] = with_error(ends)
            row[f"distance, “{self.weighting}” ({unit})"] = total
            rows[name] = row
        return pd.DataFrame(rows).T.style.set_caption(
            "The timestep by which half of the distance is added, how far apart the trajectories "
            f"end, and the distance; mean of {self._draws} draws ± standard error"
        )

    @property
    def _draws(self) -> int:
        return len(next(iter(self.traces.values())))

    def facts(self, halves_of: str, abstract: Sequence[str]) -> dict[str, Any]:
        """What the tables say, of ``abstract`` pairs apart; and one pair's ratio of halves."""
        latents = {name: found["latents"].mean() for name, found in self.areas.items()}
        pixels = [found["pixels"].mean() for found in self.areas.values()]
        noise = {name: found["noise"] for name, found in self.times.items()}
        ends = {w: np.ptp([found[w].mean() for found in self.times.values()]) for w in WEIGHTINGS}
        first, *_, last = sorted(noise, key=lambda name: -noise[name].mean())
        every = [trace for draws in self.traces.values() for trace in draws]
        shares = {w: np.mean([1 - added(trace, w)[-2] for trace in every]) for w in WEIGHTINGS}
        return {
            "hearts_ratio": with_error(self.ratio_of_halves(halves_of), 1),
            "area_low": min(latents.values()),
            "area_high": max(latents.values()),
            "area_abstract": " and ".join(f"{latents[name]:.0f} %" for name in abstract),
            "pixels_low": min(pixels),
            "pixels_high": max(pixels),
            "earliest": f"“{first}”, by timestep {with_error(noise[first])}",
            "latest": f"“{last}”, by timestep {with_error(noise[last])}",
            "last_t": int(every[0].timesteps[-1]),
            **{f"last_{w}": 100 * share for w, share in shares.items()},
            "spread_sde": ends["sde"],
            "spread_noise": ends["noise"],
        }
