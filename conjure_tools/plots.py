"""The figures of the book, in one style: vector lines, sharp pictures, safe colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from conjure_lib import Weighting
from conjure_lib.process import GenerativeProcess
from conjure_tools.traces import Trace

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito
SEQUENTIAL = "mako_r"  # perceptually uniform, comes with seaborn
OUTLINED = 0.85  # the share of a picture that stays outside the outlines of `pair_figure`


def use_style() -> None:
    """The book's style for every figure that follows.

    In notebooks a figure that holds pictures comes as PNG at twice the resolution, and any other
    as SVG; ``%config InlineBackend.figure_formats = ["png"]`` overrides that.

    >>> from conjure_tools.plots import use_style
    >>> use_style()
    """
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE)
    mpl.rcParams |= {
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "svg.fonttype": "none",
    }
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        _choose_formats(shell)


def _choose_formats(shell: Any) -> None:
    """Let what a figure holds decide how the notebook ``shell`` shows it."""
    import matplotlib_inline.backend_inline  # noqa: F401 - sets formats when it is first imported
    from IPython.core.pylabtools import print_figure, retina_figure
    from matplotlib_inline.config import InlineBackend

    def png(figure: Figure) -> Any:
        if not _holds_pictures(figure):
            return None
        data, size = retina_figure(figure, base64=True)
        return data, {"width": size["width"]}  # a height would squeeze it on a narrow page

    def svg(figure: Figure) -> Any:
        return None if _holds_pictures(figure) else print_figure(figure, "svg")

    # The setting itself too: %config does nothing where it finds the value that it is to set.
    InlineBackend.instance().figure_formats = {"svg"}
    shell.display_formatter.formatters["image/png"].for_type(Figure, png)
    shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def _holds_pictures(figure: Figure) -> bool:
    """Whether an axis of ``figure`` shows pixels, which an SVG would only wrap."""
    return any(axis.get_images() for axis in figure.axes)


def pair_figure(
    process: GenerativeProcess, trace: Trace, weighting: Weighting = "sde", columns: int = 10
) -> Figure:
    """The reading of one pair: both trajectories, both denoised views of each, where they differ.

    Each half follows the trajectory of one prompt from noise (left) to picture (right). Middle
    row: what the network saw. Above and below it: the denoised views under the first and under
    the second prompt, with the regions outlined where their noise predictions differ most (the
    top 15 % of the picture). Under each half: what each step adds to the distance.

    Args:
        trace: one draw, from :func:`conjure_lib.trace`.
        columns: how many steps are shown, evenly spread, where the trace has more.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.plots import pair_figure
    >>> figure = pair_figure(process, cj.trace(process, "cat", "dog", steps=2))
    >>> len(figure.axes) > 2
    True
    """
    shown = np.unique(np.linspace(0, len(trace.timesteps) - 1, columns).round().astype(int))
    (estimate,) = trace.terms().estimates(weighting)
    halves = _contributions(trace, weighting)  # (2, S)
    figure = plt.figure(figsize=(1.05 * len(shown) + 1.4, 9.2), layout="none")
    outer = figure.add_gridspec(2, 1, hspace=0.16, left=0.13, right=0.995, top=0.93, bottom=0.055)
    for half, colour in zip((0, 1), PALETTE, strict=False):
        grid = outer[half].subgridspec(
            4, len(shown), height_ratios=[1, 1, 1, 0.7], hspace=0.06, wspace=0.04
        )
        rows = denoised_rows(process, trace, half, shown)
        heat = _difference_map(trace, half, shown, rows[0].shape[1:3])
        order = [rows[1], rows[0], rows[2]]
        speakers = [trace.prompts[0], trace.prompts[half], trace.prompts[1]]
        roles = ["seen by", "path of", "seen by"]
        labels = [f"{r}\n“{short(p)}”" for r, p in zip(roles, speakers, strict=True)]
        for row, (pictures, label) in enumerate(zip(order, labels, strict=True)):
            for column, picture in enumerate(pictures):
                axis = figure.add_subplot(grid[row, column])
                axis.imshow(picture, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                sns.despine(ax=axis, left=True, bottom=True)
                if row != 1:
                    level = float(np.quantile(heat[column], OUTLINED))
                    axis.contour(heat[column], levels=[level], colors=[colour], linewidths=1.1)
                if column == 0:
                    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        bars = figure.add_subplot(grid[3, :])
        _contribution_bars(bars, halves[half], halves.max(), trace.timesteps, colour, weighting)
    unit = " nats" if weighting == "sde" else ""
    figure.suptitle(
        f"“{short(trace.prompts[0], 48)}” and “{short(trace.prompts[1], 48)}”: "
        f"{estimate.value:.3g}{unit} in this draw (weighting “{weighting}”)",
        fontsize=11,
    )
    return figure


def _contributions(trace: Trace, weighting: Weighting) -> np.ndarray:
    """What each step of each half adds to the distance of this draw, (2, S)."""
    return trace.terms().parts(weighting)[0, 0].T


def denoised_rows(
    process: GenerativeProcess, trace: Trace, half: int, shown: np.ndarray
) -> list[np.ndarray]:
    """Pictures (columns, height, width, 3): the state, and the denoised views under y1 and y2."""
    if process.decode is None:
        raise ValueError(f"{process.name} has no decoder: there is no picture to show")
    x, t = trace.states[half, shown], trace.timesteps[shown]
    views = [process.clean(x, t, trace.eps[half, j, shown]) for j in (0, 1)]
    return [process.decode(latents) for latents in (x, *views)]


def _difference_map(
    trace: Trace, half: int, shown: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """‖Δε‖² at each place, brought to picture size: (columns, height, width)."""
    square = torch.from_numpy(difference_maps(trace)[half, shown])[:, None]
    return F.interpolate(square, size=size, mode="bicubic")[:, 0].numpy()


def difference_maps(trace: Trace) -> np.ndarray:
    """‖Δε‖² times w² at each place of each state, (2, S, H, W): :meth:`Trace.terms` by place."""
    square = (trace.eps[:, 0] - trace.eps[:, 1]).cpu().double().square().sum(2)
    return trace.sampling.guidance**2 * square.numpy()


def forest(
    axis: Any,
    series: Mapping[str, pd.DataFrame],
    labels: Sequence[str],
    *,
    zero: bool = False,
) -> None:
    """Values with intervals: a row for each label from above, a colour for each of up to six names.

    Args:
        series: frames with the columns value, low and high and a row for each label, in the order
            of ``labels``; a row of NaN is left empty.
        zero: mark zero with a line.
    """
    for k, (name, frame) in enumerate(series.items()):
        y = np.arange(len(labels)) + 0.75 * ((k + 0.5) / len(series) - 0.5)
        value, low, high = frame[["value", "low", "high"]].to_numpy(float).T
        error = np.abs([value - low, high - value])
        axis.errorbar(value, y, xerr=error, fmt="o", ms=4, lw=1.2, color=PALETTE[k], label=name)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)
    if zero:
        axis.axvline(0, color="0.4", linewidth=1)


def _contribution_bars(
    axis: Any, values: np.ndarray, top: float, timesteps: Tensor, colour: str, weighting: str
) -> None:
    axis.bar(range(len(values)), values, color=colour, width=0.72)
    axis.set(xlim=(-0.5, len(values) - 0.5), ylim=(0, 1.08 * top if top else 1))
    axis.set_xticks(range(len(values)), [str(int(t)) for t in timesteps], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel("adds\n(nats)" if weighting == "sde" else "adds", fontsize=8, rotation=0,
                    ha="right", va="center")  # fmt: skip
    axis.set_xlabel("timestep t", fontsize=8, labelpad=1)


def clustered(values: np.ndarray, names: Sequence[str], label: str = "distance (nats)") -> Figure:
    """Distances (n, n) of n things with their dendrogram (average linkage).

    >>> import numpy as np
    >>> from conjure_tools.plots import clustered
    >>> values = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
    >>> len(clustered(values, ["cat", "dog", "car"]).axes) > 2
    True
    """
    tree = linkage(squareform(values, checks=False), method="average")
    size = 2.2 + 0.42 * len(names)
    with mpl.rc_context({"figure.constrained_layout.use": False}):  # clustermap lays out itself
        grid = sns.clustermap(
            values,
            row_linkage=tree,
            col_linkage=tree,
            cmap=SEQUENTIAL,
            figsize=(size, size * 0.92),
            xticklabels=names,
            yticklabels=names,
            dendrogram_ratio=0.16,
            cbar_pos=(0.02, 0.85, 0.03, 0.12),
            cbar_kws={"label": label},
        )
    grid.ax_heatmap.tick_params(length=0)
    return grid.figure


def picture_grid(
    pictures: np.ndarray, titles: Sequence[str], columns: int = 8, size: float = 1.25
) -> Figure:
    """Pictures (n, height, width, 3) with their titles, row by row; long titles are wrapped.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.plots import picture_grid
    >>> words = ["cat", "dog"]
    >>> figure = picture_grid(process.generate(words, steps=2), words)
    >>> len(figure.axes) >= 2
    True
    """
    rows = -(-len(pictures) // columns)
    wrapped = [textwrap.fill(title, max(8, int(16 * size))) for title in titles]
    lines = 1 + max((title.count("\n") for title in wrapped), default=0)
    height = (1.09 * size + 0.13 * lines + 0.03) * rows
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, pictures, wrapped, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=7.5)
    return figure


def short(text: str, most: int = 22) -> str:
    """``text`` cut for a label."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
