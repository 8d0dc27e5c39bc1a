"""What chapter 9 computes on its page: samplers under several names, a guidance that fades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

import conjure_lib as cj
from conjure_lib import Weighting
from studies.spaces import STEPS, elsewhere

SAME = 1e-3  # relative difference up to which two names are one process: rounding makes less


# -- names of one process ---------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What samplers of several names make of the same pairs, from the same noise."""

    distances: Mapping[str, np.ndarray]  # (P,) by name, without a weight
    visited: Mapping[str, tuple[float, ...]]  # timesteps, noisiest first

    def apart(self, name: str, other: str) -> float:
        """The largest relative difference of a distance."""
        return float(np.abs(self.distances[name] / self.distances[other] - 1).max())

    @property
    def groups(self) -> list[list[str]]:
        """Names of one process together, in their order."""
        found: list[list[str]] = []
        for name in self.distances:
            home = [group for group in found if self.apart(name, group[0]) <= SAME]
            if home:
                home[0].append(name)
            else:
                found.append([name])
        return found

    def within(self, group: Sequence[str]) -> float:
        """How far the names of a group are apart."""
        return max((self.apart(name, group[0]) for name in group[1:]), default=0.0)

    def table(self) -> Styler:
        """One row a process."""
        first = next(iter(self.distances))
        rows = {
            ", ".join(group): {
                "names": len(group),
                "apart from each other": self.within(group),
                f"apart from {first}": self.apart(group[0], first),
            }
            for group in self.groups
        }
        shown = pd.DataFrame.from_dict(rows, orient="index")
        caption = "Processes and their names; the largest relative difference of a distance"
        return shown.style.format("{:.0e}", subset=list(shown.columns[1:])).set_caption(caption)

    def facts(self) -> dict[str, Any]:
        """How many processes there are, and where they look."""
        times = set(self.visited.values())
        timesteps = ", ".join(f"{t:g}" for t in next(iter(self.visited.values())))
        where = f"All of them visit the timesteps {timesteps}."
        if len(times) > 1:
            where = "Not all of them visit the same timesteps."
        several = [group for group in self.groups if len(group) > 1]
        said = [f"`{'`, `'.join(group[1:])}` and `{group[0]}`" for group in several]
        sentence = f"{len(self.distances)} names are {len(self.groups)} processes"
        if said:
            most = max(self.within(group) for group in several)
            sentence += f": {'; '.join(said)} agree to {most:.0e} of a distance"
        return {"names_sentence": Markdown(f"{sentence}. {where}")}


def by_name(
    process: cj.GenerativeProcess, words: Sequence[str], batch_size: int, steps: int = STEPS
) -> Names:
    """All pairs of ``words`` under every sampler of a process, in one draw.

    A sampler that the process refuses, as some checkpoints' own, is left out, which is printed.
    """
    distances, visited = {}, {}
    for name in process.samplers:
        how: dict[str, Any] = {"sampler": name, "steps": steps, "draws": 1}
        try:
            process.sampler(sampler=name, steps=steps)
        except ValueError as refused:
            print(f"`{name}` is left out: {refused}")
            continue
        terms = cj.pair_terms(process, list(combinations(words, 2)), batch_size=batch_size, **how)
        distances[name] = terms.squares.sum((1, 2, 3))
        visited[name] = tuple(terms.timesteps.tolist())
    return Names(distances, visited)


# -- a guidance that fades --------------------------------------------------------------------


@dataclass(frozen=True)
class Fading:
    """Distances (P,) by guidance, and what they tend to over w² as it goes to zero."""

    limit: np.ndarray
    distances: Mapping[float, np.ndarray]

    def gap(self, w: float) -> np.ndarray:
        """Relative deviation from the limit, (P,)."""
        return np.abs(self.distances[w] / w**2 / self.limit - 1)

    @property
    def least(self) -> float:
        """The smallest guidance."""
        return min(self.distances, key=abs)


def fading(
    process: cj.GenerativeProcess,
    words: Sequence[str],
    guidances: Sequence[float],
    weighting: Weighting,
    batch_size: int,
) -> Fading:
    """All pairs of ``words`` under each guidance, and at the states of the empty prompt."""
    asked = elsewhere(process, words, draws=2)["states of the empty prompt"]
    how: dict[str, Any] = {"steps": STEPS, "draws": 2, "batch_size": batch_size}
    found = {}
    for w in guidances:
        terms = cj.pair_terms(process, list(combinations(words, 2)), guidance=w, **how)
        found[w] = terms.by_draw(weighting, asked.quadrature).mean(axis=1)
    return Fading(asked.by_draw(weighting).mean(axis=1), found)


def draw_fading(found: Fading) -> None:
    """Distances, and how far over w² they are from their limit, against the guidance."""
    _, axes = plt.subplots(1, 2, figsize=(7.4, 3.2))
    scales = np.array(list(found.distances))
    gaps = np.array([found.gap(w) for w in scales])
    axes[0].plot(scales, list(found.distances.values()), "o-", ms=4, linewidth=1)
    axes[0].set(ylabel="distance $d_w$")
    axes[1].plot(scales, gaps, "o-", ms=4, linewidth=1)
    dashed = np.median(found.gap(found.least)) * scales / found.least
    axes[1].plot(scales, dashed, "--", color="0.4", label="in proportion to $w$")
    axes[1].set(ylabel="$d_w/w^2$, deviation from the limit")
    axes[1].legend(fontsize=10)
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="guidance scale $w$")
        axis.xaxis.set_minor_formatter("")
    plt.show()
