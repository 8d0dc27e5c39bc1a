"""How many samples a distance needs, on two Gaussians of which it is known: chapter 10."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from torch import Tensor

from conjure_lib.process import generator
from conjure_tools.distributions import METHODS, sample_distances
from studies.gaussians import Mixture, gaussian_kl
from studies.image_distances_page import COLOURS
from studies.pages import plain_ticks

DIMENSIONS = (2, 256)
APART, WIDE = 3.0, 1.2  # ‖m‖ and the width of the second law
KINDS = ("independent", "null", "common")
LOOKS: dict[str, dict[str, Any]] = {
    "independent": {"color": "0.1", "fmt": "o-"},
    "null": {"color": "0.55", "fmt": "o--", "mfc": "white"},
    "common": {"color": "0.1", "fmt": "s-.", "mfc": "white"},
}
"""Of the kinds, without the colours that are the methods'."""


def gaussians(dimension: int) -> tuple[Mixture, Mixture]:
    """N(0, I) and N(m, 1.2² I), with ‖m‖ = 3."""
    mean = torch.zeros(dimension, dtype=torch.float64)
    mean[0] = APART
    return Mixture.gaussian(torch.zeros(dimension), 1.0), Mixture.gaussian(mean, WIDE)


def transport(dimension: int) -> float:
    """W₂² of the two."""
    return APART**2 + dimension * (WIDE - 1) ** 2


def drawn(dimension: int, n: int, repeats: int, seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Samples (repeats, n, dimension) of a first and a second law, for each of `KINDS`.

    "independent" are one of either law, "null" two of the first, and "common" one of either from
    the same noise.
    """
    size, rng = (repeats, n, dimension), generator(seed, 200, dimension, n)
    z = torch.randn(3, *size, generator=rng, dtype=torch.float64)
    _, q = gaussians(dimension)
    second = {"independent": q.means[0] + WIDE * z[2], "null": z[1]}
    second["common"] = q.means[0] + WIDE * z[0]
    return ((kind, z[0], second[kind]) for kind in KINDS)


def by_size(sizes: Sequence[int], repeats: int, seed: int = 0) -> pd.DataFrame:
    """Mean and standard deviation over repetitions of every distance of samples.

    Columns mean and sd; the index has D, kind, method and n.
    """
    rows = []
    for dimension, n in product(DIMENSIONS, sizes):
        for kind, x, y in drawn(dimension, n, repeats, seed):
            for method, values in sample_distances(x, y, seed=seed).items():
                rows.append((dimension, kind, method, n, values.mean(), values.std(ddof=1)))
    index = ["D", "kind", "method", "n"]
    return pd.DataFrame(rows, columns=[*index, "mean", "sd"]).set_index(index).sort_index()


def above_null(found: pd.DataFrame, dimension: int, method: str) -> pd.Series:
    """Standard deviations of the null between the null and independent samples, by n."""
    signal, floor = (found.loc[(dimension, kind, method)] for kind in ("independent", "null"))
    above: pd.Series = (signal["mean"] - floor["mean"]) / floor["sd"]
    return above


def draw_transport(found: pd.DataFrame) -> None:
    """Transport by the number of samples, in few and in many dimensions; what is seen of it."""
    sizes = sorted(set(found.index.get_level_values("n")))
    figure, axes = plt.subplots(1, 3, figsize=(9, 4.2))
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="samples n")
        plain_ticks(axis, sizes)
    for axis, dimension in zip(axes, DIMENSIONS, strict=False):
        _draw_transport(axis, found, dimension)
    most = DIMENSIONS[-1]
    for method in METHODS[1:]:
        above = above_null(found, most, method)
        axes[2].plot(above.index, above, "o-", ms=4, color=COLOURS[method], label=method)
    axes[2].axhline(2, color="0.6", linewidth=1, zorder=0)
    axes[2].set(title=f"above the null, D = {most}", ylabel="standard deviations of the null")
    named = [one for axis in axes[::2] for one in axis.get_legend_handles_labels()[0]]
    figure.legend(handles=named, loc="outside lower center", ncols=5, fontsize=9)
    plt.show()


def _draw_transport(axis: Axes, found: pd.DataFrame, dimension: int) -> None:
    for kind in KINDS:
        part = found.loc[(dimension, kind, "wasserstein")]
        axis.errorbar(part.index, part["mean"], part["sd"], ms=4, label=kind, **LOOKS[kind])
    axis.axhline(transport(dimension), color="black", linestyle=":", linewidth=1, label="exact")
    axis.set(title=f"wasserstein, D = {dimension}", ylabel="$W_2^2$")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")


def facts(found: pd.DataFrame) -> dict[str, Any]:
    """What the text quotes, in many dimensions and with the most samples."""
    most, dimension = max(found.index.get_level_values("n")), DIMENSIONS[-1]
    p, q = gaussians(dimension)

    def mean(kind: str, method: str) -> float:
        return float(found.loc[(dimension, kind, method, most), "mean"])

    apart, same = mean("independent", "wasserstein"), mean("null", "wasserstein")
    return {
        "n_dimensions": dimension,
        "n_most": most,
        "w_independent": apart,
        "w_null": same,
        "w_exact": transport(dimension),
        "w_gap": apart - same,
        "w_common": mean("common", "wasserstein"),
        "j_fitted": mean("independent", "jeffreys"),
        "j_exact": float(gaussian_kl(p, q) + gaussian_kl(q, p)),
    }
