"""Laws whose every distance is known: Gaussian mixtures in the plane and on the line; chapter 10.

In the plane distances have closed forms or are integrals; on the line the reverse process can be
solved, so that the divergence of its paths is known beside that of its ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import ot
import pandas as pd
import torch
from scipy.linalg import solve_banded
from scipy.special import gammaln, hyp1f1
from torch import Tensor

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_lib.sde import eps_from_score
from conjure_tools.distributions import energy, mmd, sliced, wasserstein
from conjure_tools.plots import PALETTE
from studies.gaussians import Mixture, mixture
from studies.image_distances_page import COLOURS

PUSHES = 8  # equal parts of the clock, in one of which two processes differ
SAMPLERS = ("ddim", "ddpm", "euler-ancestral", "dpm++2m")


def mean_norm(square: np.ndarray, variance: np.ndarray, d: int) -> np.ndarray:
    """E‖Z‖ of Z ~ N(m, variance I) in d dimensions, with ‖m‖² = square."""
    factor = np.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
    return np.sqrt(2 * variance) * factor * hyp1f1(-0.5, d / 2, -square / (2 * variance))


def mean_kernel(square: np.ndarray, variance: np.ndarray, d: int, width: float) -> np.ndarray:
    """E exp(-‖Z‖²/2 width²) of the same Z."""
    wide = width**2 + variance
    return (width**2 / wide) ** (d / 2) * np.exp(-square / (2 * wide))


def contrast(p: Mixture, q: Mixture, mean: Callable[..., np.ndarray]) -> float:
    """2 E f(X - Y) - E f(X - X') - E f(Y - Y'), where ``mean`` gives E f(Z) of a Gaussian Z."""

    def between(a: Mixture, b: Mixture) -> float:
        square = (torch.cdist(a.means, b.means) ** 2).numpy()
        variance = (a.stds[:, None] ** 2 + b.stds**2).numpy()
        weights = (a.weights[:, None] * b.weights).numpy()
        return float((weights * mean(square, variance, a.means.shape[1])).sum())

    return 2 * between(p, q) - between(p, p) - between(q, q)


def density(law: Mixture, direction: Tensor, points: Tensor) -> np.ndarray:
    """The law of x · direction, a unit vector, as weights of the points of a line."""
    line = Mixture((law.means @ direction)[:, None], law.stds, law.weights)
    return line.log_prob(points[:, None]).softmax(0).numpy()


def line_w2(p: Mixture, q: Mixture, direction: Tensor) -> float:
    """W₂² of the projections of two laws."""
    points = torch.linspace(-5, 7, 4001, dtype=torch.float64)
    weights = [density(law, direction, points) for law in (p, q)]
    return float(ot.wasserstein_1d(points.numpy(), points.numpy(), *weights, p=2))


def moments(law: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d)."""
    mean = law.weights @ law.means
    second = torch.einsum("k,ki,kj->ij", law.weights, law.means, law.means)
    spread = (law.weights @ law.stds**2) * torch.eye(len(mean))
    return mean.numpy(), (second + spread - mean.outer(mean)).numpy()


def jeffreys(p: Mixture, q: Mixture) -> float:
    """KL(p‖q) + KL(q‖p) in nats by quadrature in the plane."""
    axis = torch.linspace(-5, 7, 501, dtype=torch.float64)
    log_p, log_q = (law.log_prob(torch.cartesian_prod(axis, axis)) for law in (p, q))
    return float(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() * (axis[1] - axis[0]) ** 2)


def exact(p: Mixture, q: Mixture, width: float) -> dict[str, float]:
    """Every distance of two laws in the plane that are products over the axes."""
    angles = torch.linspace(0, math.pi, 65, dtype=torch.float64)[:-1]
    around = torch.stack([angles.cos(), angles.sin()], dim=1)
    (m_1, c_1), (m_2, c_2) = moments(p), moments(q)
    return {
        "jeffreys": jeffreys(p, q),
        "wasserstein": sum(line_w2(p, q, axis) for axis in torch.eye(2, dtype=torch.float64)),
        "sliced": float(np.mean([line_w2(p, q, u) for u in around])),
        "energy": contrast(p, q, mean_norm),
        "mmd": -contrast(p, q, lambda square, v, d: mean_kernel(square, v, d, width)),
        "frechet": float(ot.gaussian.bures_wasserstein_distance(m_1, m_2, c_1, c_2) ** 2),
    }


def law(means: list[float], std: float, weights: list[float] | None = None) -> Mixture:
    """A mixture in the plane with its components on the first axis."""
    n = len(means)
    return mixture([[m, 0.0] for m in means], [std] * n, weights or [1 / n] * n)


def sampled(
    p: Mixture, q: Mixture, repeats: int, n: int, *key: int
) -> tuple[np.ndarray, np.ndarray]:
    """Independent samples of n from either law, (repeats, n, d) each."""
    keys = [generator(*key, side) for side in (0, 1)]
    drawn = [a.sample(repeats * n, k) for a, k in zip((p, q), keys, strict=True)]
    x, y = (one.reshape(repeats, n, -1).numpy() for one in drawn)
    return x, y


def misses(
    cases: Mapping[str, tuple[Mixture, Mixture]],
    known: pd.DataFrame,
    width: float,
    repeats: int,
    seed: int,
) -> pd.DataFrame:
    """Mean of estimates from 50 samples less the exact distance, in standard errors of the mean.

    A row a distance, a column a pair of laws; ``known`` has the exact ones, a row a pair.
    """
    found: dict[str, dict[str, float]] = {}
    estimates: dict[str, Callable[..., float]] = {
        "energy": energy,
        "mmd": lambda a, b: mmd(a, b, width),
        "wasserstein": wasserstein,
    }
    for key, (name, pair) in enumerate(cases.items()):
        x, y = sampled(*pair, repeats, 50, seed, key)
        for method, estimate in estimates.items():
            values = np.array([estimate(a, b) for a, b in zip(x, y, strict=True)])
            off = values.mean() - known.loc[name, method]
            found.setdefault(method, {})[name] = off / values.std(ddof=1) * math.sqrt(repeats)
    return pd.DataFrame(found).T


class Line:
    """The reverse processes of laws on a line, solved on a grid of places and times.

    Args:
        schedule: of the forward process.
        times: steps in time, dense where pictures are made.
    """

    def __init__(self, schedule: cj.Schedule, times: int) -> None:
        self.schedule = schedule
        self.xs = torch.linspace(-6, 6, 801, dtype=torch.float64)
        self.cell = float(self.xs[1] - self.xs[0])
        self.taus = schedule.T * torch.linspace(1, 0, times + 1, dtype=torch.float64) ** 2
        self.clock = (-2 * schedule.alpha(self.taus).log()).numpy()  # B(τ), falling
        self.lapse = -np.diff(self.clock)

    def score(self, law: Mixture) -> np.ndarray:
        """The exact scores of a law at every time and place, (times, 801)."""
        middle = (self.taus[1:] + self.taus[:-1]) / 2
        coefficients = (self.schedule.alpha(middle), self.schedule.sigma(middle))
        laws = [law.diffuse(alpha, sigma) for alpha, sigma in zip(*coefficients, strict=True)]
        return np.stack([one.score(self.xs[:, None])[:, 0].numpy() for one in laws])

    def evolve(self, score: np.ndarray) -> np.ndarray:
        """Densities (times + 1, 801) of the reverse process with ``score``, noise to pictures."""
        x, cell = self.xs.numpy(), self.cell
        path = [np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)]
        for s, dt in zip(score, self.lapse, strict=True):
            drift = 0.5 * x + s
            face = (drift[1:] + drift[:-1]) / 2  # where two cells meet
            right, left = (face / 2 - 0.5 / cell) * dt / cell, (face / 2 + 0.5 / cell) * dt / cell
            bands = np.ones((3, len(x)))
            bands[0, 1:], bands[2, :-1] = right, -left
            bands[1, :-1] += left
            bands[1, 1:] -= right  # columns sum to one: nothing is lost
            path.append(solve_banded((1, 1), bands, path[-1]))
        return np.stack(path)

    def end_divergence(self, p: np.ndarray, q: np.ndarray) -> float:
        """J of two densities on the line, in nats."""
        seen = (p > 1e-250) & (q > 1e-250)
        return float(((p - q)[seen] * np.log(p[seen] / q[seen])).sum() * self.cell)

    def both_divergences(self, score_1: np.ndarray, score_2: np.ndarray) -> tuple[float, float]:
        """J of the paths and J of their ends, in nats."""
        p, q = self.evolve(score_1), self.evolve(score_2)
        mixed = (p[1:] + p[:-1] + q[1:] + q[:-1]) / 4
        along = (mixed * (score_1 - score_2) ** 2).sum(1) * self.cell
        return float((self.lapse * along).sum()), self.end_divergence(p[-1], q[-1])

    def true_divergence(self, first: Mixture, second: Mixture, tau: float) -> float:
        """J of two laws after time τ of the forward process."""
        at = torch.tensor(tau)
        alpha, sigma = self.schedule.alpha(at), self.schedule.sigma(at)
        laws = (one.diffuse(alpha, sigma) for one in (first, second))
        return self.end_divergence(*(one.log_prob(self.xs[:, None]).exp().numpy() for one in laws))


# -- where paths and pictures part ------------------------------------------------------------


def under_guidance(
    line: Line, first: Mixture, second: Mixture, strengths: Sequence[float]
) -> pd.DataFrame:
    """J of the paths and of the pictures, nats, by the guidance w; no text is the equal mixture."""
    both = (first, second)
    parts = [torch.cat([getattr(a, n) for a in both]) for n in ("means", "stds", "weights")]
    nothing = line.score(Mixture(parts[0], parts[1], parts[2] / 2))
    scores = [line.score(one) for one in (first, second)]
    rows = {
        w: line.both_divergences(*(nothing + w * (score - nothing) for score in scores))
        for w in strengths
    }
    return pd.DataFrame(rows, index=["paths", "pictures"]).T


def after_a_push(line: Line, score: np.ndarray) -> pd.DataFrame:
    """J of the paths and of the pictures, nats, of two processes with one score, one pushed.

    A constant is added to the score of one during an eighth of the clock, so large that the paths
    are one nat apart. A row for each eighth; the index is its middle on the clock B.
    """
    edges = np.linspace(0, line.clock[0], PUSHES + 1)
    which = np.digitize((line.clock[1:] + line.clock[:-1]) / 2, edges) - 1  # of each time step
    rows = []
    for k in range(PUSHES):
        push = (which == k) / math.sqrt(line.lapse[which == k].sum())
        rows.append(line.both_divergences(score, score + push[:, None]))
    return pd.DataFrame(rows, columns=["paths", "pictures"], index=(edges[1:] + edges[:-1]) / 2)


def swirled(line: Line, omega: float, seed: int) -> dict[str, float]:
    """Two processes in the plane that turn N(0, I) in opposite directions at speed omega.

    Nats between their "paths", and the energy distance between 500 "pictures" of either and,
    as "null", between 500 and 500 pictures of the first.
    """
    elapsed = float(line.clock[0])
    speeds = (omega, -omega, omega)  # the third: another sample of the first
    keys = [generator(seed, 100, k) for k in range(len(speeds))]
    ends = [turned(w, elapsed, 200, key) for w, key in zip(speeds, keys, strict=True)]
    apart = {"pictures": energy(ends[0], ends[1]), "null": energy(ends[0], ends[2])}
    return {"paths": 8 * omega**2 * elapsed, **apart}


def by_sampler(
    process: cj.GenerativeProcess,
    line: Line,
    laws: Mapping[str, Mixture],
    counts: Sequence[int],
    shape: tuple[int, ...],
) -> pd.DataFrame:
    """Algorithm 1 with exact predictions of two laws on the line: every value over the exact one.

    Columns sampler and steps; J by the library's rule, and "sum", by the plain one; and
    transport, W₂² between the coordinates of one picture of either law.
    """
    exactly, straight = exact_process(process, dict(laws), shape), np.ones((1, 1))
    first, second = laws.values()
    whole_j = line.true_divergence(first, second, 0.0) * math.prod(shape)
    whole_w = line_w2(first, second, torch.ones(1, dtype=torch.float64))
    told, start = exactly.encode(list(laws)), exactly.noise([0], 0).expand(2, *shape)
    rows = []
    for name, steps in product(SAMPLERS, counts):
        how: dict[str, Any] = {"steps": steps, "sampler": name}
        terms = cj.pair_terms(exactly, [tuple(laws)], draws=1, progress=False, **how)
        j, plain = float(terms.by_draw()[0, 0]), float(terms.by_draw(quadrature="sum")[0, 0])
        final = exactly.trajectories(told, start, [0, 0], **how).final
        x, y = final.double().reshape(2, -1, 1).numpy()
        rows.append((name, steps, j / whole_j, plain / whole_j, sliced(x, y, straight) / whole_w))
    return pd.DataFrame(rows, columns=["sampler", "steps", "J", "sum", "transport"])


def exact_process(
    process: cj.GenerativeProcess, laws: dict[str, Mixture], shape: tuple[int, ...]
) -> cj.GenerativeProcess:
    """A process with the schedule of another whose prompts are laws on the line.

    Each coordinate of a latent of ``shape`` is a sample of the law, and the predictions are exact.
    """

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        rows = []
        for row, time, number in zip(x, t, condition[:, 0].long(), strict=True):
            alpha, sigma = process.schedule.coefficients(time)
            diffused = list(laws.values())[int(number)].diffuse(alpha, sigma)
            score = diffused.score(row.double().reshape(-1, 1))
            rows.append(eps_from_score(score, sigma).reshape(row.shape))
        return torch.stack(rows).float()

    def encode(texts: Sequence[str]) -> Tensor:
        """The number of each law, (n, 1); the empty text is not used."""
        return torch.tensor([[float(list(laws).index(text))] for text in texts])

    return cj.GenerativeProcess(predict, encode, process.scheduler, shape)


def parted_process(
    process: cj.GenerativeProcess, b: float, shape: tuple[int, ...]
) -> cj.GenerativeProcess:
    """A process whose prompts "left" and "right" have the scores -x - b/2 and -x + b/2.

    They are the scores of no diffused laws. In each dimension the SDEs are b² B(T) nats apart, and
    the two Gaussians in which the ordinary differential equation ends (b B(T)/2)².
    """
    sides = {"left": -1.0, "right": 1.0}

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        row = (-1,) + (1,) * (x.ndim - 1)
        sigma = process.schedule.coefficients(t)[1].to(x).view(row)
        return sigma * (x - condition.to(x).view(row) * b / 2)

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[sides.get(text, 0.0)] for text in texts])

    return cj.GenerativeProcess(predict, encode, process.scheduler, shape)


def parted(
    process: cj.GenerativeProcess, b: float, shape: tuple[int, ...], steps: int
) -> dict[str, float]:
    """J in nats a dimension of such a process: of its "paths", and of its pictures by sampler.

    The pictures of "ddim" and "ddpm" are Gaussian in each dimension, with two widths at most.
    """
    made, size = parted_process(process, b, shape), math.prod(shape)
    value = cj.distance(made, "left", "right", steps=steps, draws=1, progress=False).value
    found = {"paths": value / size}
    for sampler in ("ddim", "ddpm"):
        start = made.noise([0], 0).expand(2, *shape)
        told = made.encode(["left", "right"])
        final = made.trajectories(told, start, [0, 0], steps=steps, sampler=sampler).final
        x, y = final.double().flatten(1)
        ratio, square = float(x.var() / y.var()), float((x.mean() - y.mean()) ** 2)
        wide = (ratio + 1 / ratio) / 2 - 1
        found[sampler] = wide + square * float(1 / x.var() + 1 / y.var()) / 2
    return found


def turned(omega: float, elapsed: float, steps: int, key: torch.Generator) -> np.ndarray:
    """500 ends of a process in the plane that keeps N(0, I) and turns at speed omega, (500, 2)."""
    spent = elapsed / steps
    x = torch.randn(500, 2, generator=key, dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) * omega
    for _ in range(steps):
        kick = math.sqrt(spent) * torch.randn(x.shape, generator=key, dtype=torch.float64)
        x = x + spent * (0.5 * x - x + x @ turn) + kick
    return x.numpy()


# -- figures ----------------------------------------------------------------------------------


def draw_cases(cases: Mapping[str, tuple[Mixture, Mixture]], relative: pd.DataFrame) -> None:
    """The pairs of laws, and every distance of each in units of the first pair's."""
    figure = plt.figure(figsize=(9, 5.6))
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    top, bottom = halves
    across, up = (torch.linspace(*ends, 121).double() for ends in ((-2.2, 4.4), (-1.8, 1.8)))
    plane = torch.cartesian_prod(across, up)
    for axis, (name, pair) in zip(top.subplots(1, len(cases)), cases.items(), strict=True):
        for one, colour in zip(pair, PALETTE, strict=False):
            shade = one.log_prob(plane).exp().reshape(121, 121).T
            levels = (0.02, 0.2, 0.6) if name == "rare" else (0.2, 0.6)  # to see one in twenty
            heights = [c * float(shade.max()) for c in levels]
            axis.contour(across, up, shade, levels=heights, colors=colour, linewidths=1)
        axis.set(title=name, aspect="equal", xticks=[], yticks=[])
    axis, smallest = bottom.subplots(), 1e-3
    for i, (method, values) in enumerate(relative.items()):
        place, colour = np.arange(len(cases)) + 0.12 * (i - 2.5), COLOURS[str(method)]
        seen = (values >= smallest).to_numpy()
        axis.plot(place[seen], values[seen], "o", color=colour, label=method)
        axis.plot(place[~seen], np.full((~seen).sum(), smallest), "v", color=colour)
    axis.axhline(1, color="0.6", linewidth=1, zorder=0)
    for edge in np.arange(len(cases) - 1) + 0.5:
        axis.axvline(edge, color="0.9", linewidth=1, zorder=0)
    axis.set_xticks(range(len(cases)), list(cases))
    axis.set(yscale="log", ylabel="relative to “moved”", ylim=(smallest / 2, None))
    bottom.legend(loc="outside right center")
    plt.show()


def draw_breaks(guided: pd.DataFrame, pushed: pd.DataFrame, samplers: pd.DataFrame) -> None:
    """J of paths and of pictures under guidance and after one error; samplers with few steps."""
    _, axes = plt.subplots(1, 3, figsize=(9, 3.6))
    for kind, colour in zip(("paths", "pictures"), PALETTE, strict=False):
        axes[0].plot(guided.index, guided[kind], "o-", color=colour, label=kind)
        axes[1].plot(pushed.index, pushed[kind], "o-", color=colour)
    axes[0].set(yscale="log", xlabel="guidance w", ylabel="J (nats)", title="guidance")
    axes[0].legend(fontsize=9)
    clock = "place of the error on the clock B\n(0: picture, right: noise)"
    axes[1].set(yscale="log", xlabel=clock, ylabel="J (nats)", title="one error of one nat")
    for (name, part), colour in zip(
        samplers.groupby("sampler", sort=False), PALETTE[2:], strict=True
    ):
        width = 5 if name == "ddpm" else 1.5  # euler-ancestral lies on it
        axes[2].plot(part["steps"], part["J"], "o-", color=colour, label=name, linewidth=width)
        axes[2].plot(part["steps"], part["transport"], "s:", color=colour, mfc="white")
    axes[2].axhline(1, color="0.6", linewidth=1, zorder=0)
    labels = {"xlabel": "sampler steps", "ylabel": "relative to the exact value"}
    axes[2].set(xscale="log", yscale="log", title="exact scores, coarse steps", **labels)
    axes[2].yaxis.set_major_formatter("{x:g}")
    steps = samplers["steps"].unique()
    axes[2].set_xticks(steps, steps)
    axes[2].minorticks_off()
    axes[2].set_yticks([0.5, 1, 2, 4])
    axes[2].legend(fontsize=9)
    plt.show()


# -- facts ------------------------------------------------------------------------------------


def case_facts(known: pd.DataFrame, relative: pd.DataFrame, off: pd.DataFrame) -> dict[str, Any]:
    """What the text quotes of the pairs in the plane."""
    ceiling = exact(law([0.0], 0.5), law([100.0], 0.5), 1.0)["mmd"]  # of heaps nowhere alike
    unbiased = off.loc[["energy", "mmd"]].abs()
    methods = ("jeffreys", "wasserstein", "energy", "mmd")
    return {
        **{f"{case}_{m}": relative.loc[case, m] for case in ("far", "rare") for m in methods},
        "ceiling_mmd": ceiling / known.loc["moved", "mmd"],
        "narrow_jeffreys": relative.loc["narrow", "jeffreys"],
        "modes_frechet": abs(known.loc["modes", "frechet"]),
        "worst_unbiased": unbiased.max(axis=None),
        "worst_error": off.loc["wasserstein"].max(),
    }


def break_facts(
    guided: pd.DataFrame, pushed: pd.DataFrame, swirl: Mapping[str, float], samplers: pd.DataFrame
) -> dict[str, Any]:
    """What the text quotes of where paths and pictures part."""
    last = guided.iloc[-1]
    few = min(samplers["steps"], key=lambda n: abs(n - 10))
    part = samplers[samplers["steps"] == few]
    ranges = {c: f"{part[c].min():.2f} to {part[c].max():.2f}" for c in ("J", "sum", "transport")}
    return {
        "w_most": guided.index[-1],
        "guided_paths": last["paths"],
        "guided_pictures": last["pictures"],
        "guided_lost": 100 * (1 - last["pictures"] / last["paths"]),
        "late_left": pushed["pictures"].iloc[0],
        "early_left": pushed["pictures"].iloc[-1],
        "rotation": swirl["paths"],
        "rotation_between": swirl["pictures"],
        "rotation_null": swirl["null"],
        "few_steps": few,
        "few_j": ranges["J"],
        "few_sum": ranges["sum"],
        "few_w": ranges["transport"],
    }
