"""Where and when two prompts part, for chapter 4: maps, shares and their figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from conjure_lib import WEIGHTINGS, GenerativeProcess, Trace, Weighting
from conjure_tools import plots
from conjure_tools.plots import PALETTE, SEQUENTIAL


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
