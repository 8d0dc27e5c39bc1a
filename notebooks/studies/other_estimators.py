"""Estimators that share the integrand of the divergence, on the same paths: chapter 10."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.io.formats.style import Styler
from torch import Tensor

import conjure_lib as cj
from conjure_lib.engine import chunks, norms
from conjure_lib.process import generator
from studies.image_distances_page import ranks_alike

FORWARD = 10_000  # added to the number of a draw, for the noise that is put on finished pictures
PAIR = ("paths", "MINDE", "excess loss", "empty, both", "empty, apart")
PAIR_NAMES = {"empty, both": "sum of m", "empty, apart": "difference of m"}
TEXT = ("excess loss", "squares", "on the path", "norm")


@dataclass(frozen=True)
class Asked:
    """What every text predicts at the states of every text; n is their number.

    Attributes:
        texts: (n,); the empty text is asked, too, and comes last.
        terms: of no pair, for the times, the schedule and the sampling.
        reverse: (n, n + 1, draws, S, *latent_shape), predictions; [i, j] is that of text j on the
            paths that text i takes from noise to its pictures.
        forward: the same at the pictures in which those paths end, with noise put on them anew.
        noise: (draws, S, *latent_shape), that noise, shared by all texts.
    """

    texts: list[str]
    terms: cj.Terms
    reverse: Tensor
    forward: Tensor
    noise: Tensor

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of texts."""
        return list(combinations(range(len(self.texts)), 2))

    def integrated(self, squares: np.ndarray) -> np.ndarray:
        """∫ dλ of the mean of both halves of (P, draws, S, 2), in each draw: (P, draws).

        Straight lines in between for all, since differences of losses may be negative.
        """
        terms = cj.Terms(squares, self.terms.timesteps, self.terms.schedule, self.terms.sampling)
        return terms.by_draw("sde", "linear")

    def of_pairs(self, kind: str) -> np.ndarray:
        """J of every pair in each draw (P, draws), as "paths", "MINDE" or "excess loss" has it."""

        def half(i: int, j: int) -> np.ndarray:
            if kind == "excess loss":
                loss = norms(self.noise - self.forward[i, j])
                return loss - norms(self.noise - self.forward[i, i])
            at = self.reverse if kind == "paths" else self.forward
            return norms(at[i, i] - at[i, j])

        both = [np.stack([half(i, j), half(j, i)], axis=-1) for i, j in self.pairs]
        return self.integrated(np.stack(both))

    def of_texts(self, kind: str) -> np.ndarray:
        """What pictures tell of their text, in each draw (n, draws); see `TEXT`."""
        found = []
        for i in range(len(self.texts)):
            if kind == "excess loss":
                here = norms(self.noise - self.forward[i, -1])
                here = here - norms(self.noise - self.forward[i, i])
            else:
                at = self.forward if kind == "squares" else self.reverse
                here = norms(at[i, i] - at[i, -1])
            found.append(np.stack([here, here], axis=-1))
        if kind == "norm":
            return np.sqrt(np.stack(found)[..., 0]).mean(axis=2)
        return self.integrated(np.stack(found)) / 2

    def pair_table(self) -> pd.DataFrame:
        """A row a pair: J three times, and from ‖ε(y) - ε(∅)‖ alone the sum and the difference."""
        norm = self.of_texts("norm").mean(1)
        columns = {kind: self.of_pairs(kind).mean(1) for kind in PAIR[:3]}
        columns["empty, both"] = np.array([norm[i] + norm[j] for i, j in self.pairs])
        columns["empty, apart"] = np.array([abs(norm[i] - norm[j]) for i, j in self.pairs])
        names = [f"{self.texts[i]}, {self.texts[j]}" for i, j in self.pairs]
        return pd.DataFrame(columns, index=names)

    def text_table(self) -> pd.DataFrame:
        """A row a text: the information of its pictures three ways, and the norm."""
        return pd.DataFrame({k: self.of_texts(k).mean(1) for k in TEXT}, index=self.texts)

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every pair, where it differs: our squares on the paths, and DiffEdit's: (P, cells).

        DiffEdit's is the mean of |Δε| over noise at half of the time, on pictures of either text.
        """
        half = int((self.terms.timesteps - self.terms.schedule.T / 2).abs().argmin())
        weights = torch.from_numpy(self.terms.rule("sde")[0].fixed.copy())
        order = torch.from_numpy(self.terms.rule("sde")[1].copy())
        ours, theirs = [], []
        for i, j in self.pairs:
            on = torch.stack([self.reverse[i, i] - self.reverse[i, j],
                              self.reverse[j, j] - self.reverse[j, i]]).double()  # fmt: skip
            by_step = on.square().sum(3).mean((0, 1))  # (S, …) over channels
            ours.append(torch.einsum("s,s...->...", weights, by_step[order]).flatten())
            at = torch.stack([self.forward[i, i] - self.forward[i, j],
                              self.forward[j, j] - self.forward[j, i]])[:, :, half]  # fmt: skip
            theirs.append(at.abs().mean((0, 1, 2)).flatten())
        return torch.stack(ours).numpy(), torch.stack(theirs).numpy()

    def steady_share(self) -> np.ndarray:
        """Of every pair, how much of E‖Δε‖² is ‖E Δε‖² over the noise put on one picture, (P,).

        The mean is what delta denoising follows; draws also differ in their pictures, so this is
        what pictures have in common, too. Freed of the 1/k that independent draws would have.
        """
        found = []
        for i, j in self.pairs:
            at = torch.stack([self.forward[i, i] - self.forward[i, j],
                              self.forward[j, j] - self.forward[j, i]]).double()  # fmt: skip
            k = at.shape[1]
            steady = float(at.mean(1).square().sum() / at.square().mean(1).sum())
            found.append((k * steady - 1) / (k - 1))
        return np.array(found)

    def error(self, kind: str) -> np.ndarray:
        """The relative standard error over draws of `of_pairs`, in %, (P,)."""
        draws = self.of_pairs(kind)
        return 100 * draws.std(1, ddof=1) / math.sqrt(draws.shape[1]) / draws.mean(1)

    def told(self, which: str) -> str:
        """The text of which the paths tell the "most" or the "least", with its nats and error."""
        draws = self.of_texts("on the path")
        i = int(draws.mean(1).argmax() if which == "most" else draws.mean(1).argmin())
        error = draws[i].std(ddof=1) / math.sqrt(draws.shape[1])
        return f"“{self.texts[i]}” ({draws[i].mean():.1f} ± {error:.1f} nats)"

    def facts(self) -> dict[str, Any]:
        """What the text quotes."""
        texts, (ours, theirs) = self.text_table(), self.maps()
        alike = [
            pd.Series(a).corr(pd.Series(b), "spearman") for a, b in zip(ours, theirs, strict=True)
        ]
        return {
            "info_ratio": (texts["excess loss"] / texts["squares"]).median(),
            "info_path_ratio": (texts["on the path"] / texts["squares"]).median(),
            "most_told": self.told("most"),
            "least_told": self.told("least"),
            "maps_alike": 100 * float(np.median(alike)),
            "maps_least": 100 * float(np.min(alike)),
            "steady": 100 * float(np.median(self.steady_share())),
        }


def asked(
    process: cj.GenerativeProcess,
    texts: Sequence[str],
    *,
    draws: int,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> Asked:
    """Ask every text, and the empty one, along the paths of every text and on its pictures.

    Takes n (1 + 2 (n + 1)) draws · steps noise predictions. Steps are even in log-SNR.
    """
    texts = list(dict.fromkeys(texts))
    sampling = cj.Sampling(steps=steps, draws=draws, seed=seed, spacing="log-snr",
                           sampler=next(iter(process.samplers)))  # fmt: skip
    condition, (n, k) = process.encode([*texts, ""]), (len(texts), draws)
    shape = process.latent_shape
    states, final = [], []
    x_T = process.noise(range(k), seed)
    for rows in chunks(list(np.ndindex(n, k)), batch_size):
        i, d = (list(side) for side in zip(*rows, strict=True))
        named = [texts[a] for a in i]
        path = process.trajectories(condition[i], x_T[d], d, sampling=sampling, texts=named)
        states.append(path.states.cpu())
        final.append(path.final.cpu())
    times = path.timesteps
    noise = torch.stack([torch.stack([torch.randn(shape, generator=generator(seed, FORWARD + d, s))
                                      for s in range(steps)]) for d in range(k)])  # fmt: skip
    alpha, sigma = (
        c.float().view(-1, *[1] * len(shape)) for c in process.schedule.coefficients(times)
    )
    pictures = torch.cat(final).view(n, k, 1, *shape)
    places = (torch.cat(states).view(n, k, steps, *shape), alpha * pictures + sigma * noise)
    reverse, forward = (_predicted(process, x, times, condition, n + 1, batch_size) for x in places)
    none = cj.Terms(np.zeros((0, k, steps, 2)), times, process.schedule, sampling)
    return Asked(texts, none, reverse, forward, noise)


def _predicted(
    process: cj.GenerativeProcess, x: Tensor, times: Tensor, condition: Any, m: int, batch_size: int
) -> Tensor:
    """The predictions of m conditions at all states (n, draws, S, …): (n, m, draws, S, …)."""
    n, k, steps = x.shape[:3]
    found = torch.empty(n, m, *x.shape[1:])
    for rows in chunks(list(np.ndindex(n, m, k, steps)), batch_size):
        i, j, d, s = (list(side) for side in zip(*rows, strict=True))
        at = x[i, d, s].to(process.device), times[s].to(process.device)
        found[i, j, d, s] = process.eps(*at, condition[j]).cpu()
    return found


def estimators_beside_paths(found: Asked) -> Styler:
    """The estimators of J beside the paths, over the pairs, and what m alone says."""
    pairs, rows = found.pair_table(), {}
    texts = np.array([[found.texts[i], found.texts[j]] for i, j in found.pairs])
    for kind in PAIR:
        row = {"ρ × 100 with the paths": ranks_alike(pairs["paths"], pairs[kind], texts)}
        if kind in PAIR[:3]:
            times = (pairs[kind] / pairs["paths"]).quantile([0.5, 0, 1])
            row["times the paths"] = "{:.2f} ({:.2f} to {:.2f})".format(*times)
            row["error, %"] = f"{np.median(found.error(kind)):.0f}"
        rows[PAIR_NAMES.get(kind, kind)] = row
    rows["paths"] = {"error, %": rows["paths"]["error, %"]}
    table = pd.DataFrame(rows).T[["times the paths", "ρ × 100 with the paths", "error, %"]]
    return table.fillna("").style.set_caption(
        f"Estimators over {len(pairs)} pairs: the divergence over that of the paths, median and "
        f"range; its rank correlation with it; the relative standard error of a pair over "
        f"{found.reverse.shape[2]} draws, median"
    )


def texts_shown(found: Asked) -> Styler:
    """Every text."""
    named = {
        "excess loss": "information, losses",
        "squares": "information, squares",
        "on the path": "squares on the path",
        "norm": "m",
    }
    table = found.text_table().rename(columns=named)
    caption = "What pictures tell of their text: nats three times, and m"
    return table.style.format(precision=1).set_caption(caption)
