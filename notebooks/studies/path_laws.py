"""Mixtures under the forward and the reverse process, and what Girsanov says: chapter 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

import conjure_lib as cj
from conjure_lib import WEIGHTINGS
from conjure_lib.process import generator
from conjure_lib.sde import Schedule, eps_from_score
from conjure_tools.plots import PALETTE, SEQUENTIAL
from studies.gaussians import Mixture, gaussian_kl

BOTH = (("KL($p_1$‖$p_2$)", PALETTE[0]), ("KL($p_2$‖$p_1$)", PALETTE[1]))
"""Names and colours of the two directions."""


@dataclass(frozen=True)
class Diffusion:
    """A schedule, and laws that diffuse under it; every random number comes from ``seed``."""

    schedule: Schedule
    seed: int

    def at(self, law: Mixture, tau: Tensor | float) -> Mixture:
        """The law p_τ that the forward SDE has made of ``law`` at time τ."""
        tau = torch.as_tensor(tau, dtype=torch.float64)
        return law.diffuse(self.schedule.alpha(tau), self.schedule.sigma(tau))

    def simulate_forward(self, x: Tensor, key: int) -> Tensor:
        """Euler–Maruyama of the forward SDE from x (n, D): paths (T + 1, n, D), τ = 0 … T."""
        schedule, rng, path = self.schedule, generator(self.seed, key), [x]
        for tau in torch.arange(schedule.T) + 0.5:
            z = torch.randn(x.shape, dtype=x.dtype, generator=rng)
            x = x + schedule.drift(x, tau) + schedule.diffusion(tau) * z
            path.append(x)
        return torch.stack(path)

    def simulate_reverse(
        self, law: Mixture, other: Mixture, paths: int, key: int
    ) -> tuple[Tensor, Tensor]:
        """Euler–Maruyama of the reverse-time SDE of ``law`` with its exact score, from N(0, I).

        Returns the paths (T + 1, paths, D), τ = T … 0, and for each log dP_law/dP_other (paths,),
        the logarithm of the Radon–Nikodym derivative that Girsanov's theorem gives.
        """
        schedule, rng = self.schedule, generator(self.seed, key)
        x = torch.randn(paths, law.means.shape[1], dtype=torch.float64, generator=rng)
        path, log_ratio = [x], torch.zeros(paths, dtype=torch.float64)
        for tau in torch.arange(schedule.T).flip(0) + 0.5:
            score, g = self.at(law, tau).score(x), schedule.diffusion(tau)
            z = torch.randn(x.shape, dtype=x.dtype, generator=rng)
            u = g * (score - self.at(other, tau).score(x))  # difference of drifts, over the noise
            log_ratio += (u * z).sum(1) + 0.5 * u.square().sum(1)
            x = x - schedule.reverse_drift(x, tau, score) + g * z
            path.append(x)
        return torch.stack(path), log_ratio

    def rate(self, p: Mixture, q: Mixture, tau: float | Tensor) -> float:
        """-d/dτ KL(p_τ‖q_τ) of two single Gaussians: the closed form, differentiated."""
        time = torch.tensor(float(tau), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(gaussian_kl(self.at(p, time), self.at(q, time)), time)
        return -float(slope)

    def mean_square_eps(self, p: Mixture, q: Mixture, t: Tensor) -> Tensor:
        """E_mix ‖Δε‖² of two single Gaussians at DDPM steps t (n,), from the closed form."""
        rates = [self.rate(p, q, k + 1) + self.rate(q, p, k + 1) for k in t.tolist()]
        scale = self.schedule.sigma(t + 1.0) ** 2 / self.schedule.beta(t + 1.0)
        return torch.tensor(rates).double() * scale

    def grid(self, times: int) -> Tensor:
        """Midpoints of that many equal stretches of time."""
        return (torch.arange(times, dtype=torch.float64) + 0.5) * self.schedule.T / times

    def path_terms(self, p: Mixture, q: Mixture, draws: int, times: int, key: int) -> Tensor:
        """½ g² ‖∇log p_τ - ∇log q_τ‖² Δτ at x ~ p_τ on the grid: (draws, times), in nats."""
        terms = []
        for k, tau in enumerate(self.grid(times)):
            p_tau, q_tau = self.at(p, tau), self.at(q, tau)
            x = p_tau.sample(draws, generator(self.seed, key, k))
            square = (p_tau.score(x) - q_tau.score(x)).square().sum(1)
            terms.append(0.5 * self.schedule.beta(tau) * square * self.schedule.T / times)
        return torch.stack(terms, dim=1)


def grid_kl(p: Mixture, q: Mixture, half_width: float = 6.0, points: int = 200) -> Tensor:
    """KL(p‖q) in nats by the trapezium rule on a cubic grid; for one or two dimensions."""
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    dims = p.means.shape[1]
    x = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)  # (points^D, D)
    log_p, log_q = p.log_prob(x), q.log_prob(x)
    return (log_p.exp() * (log_p - log_q)).sum() * (axis[1] - axis[0]) ** dims


def largest_gap(values: Tensor, law: Mixture) -> float:
    """Kolmogorov's distance of samples (n,) on the line from a law.

    By hand: it is taken halfway up each step of the empirical law, where scipy's kstest takes the
    ends of the step, 1/2n farther off, and adds a p-value.
    """
    z = (values.sort().values[:, None] - law.means[:, 0]) / law.stds
    exact = (law.weights * torch.special.ndtr(z)).sum(1)
    empirical = (torch.arange(len(values)) + 0.5) / len(values)
    return float((empirical - exact).abs().max())


def check(name: str, values: Tensor, exact: Tensor | float, within: float | None = None) -> None:
    """Print mean and standard error of the draws ``values`` (n,) beside the exact number.

    Raises AssertionError beyond four standard errors, or beyond the relative error ``within``.
    """
    mean, stderr = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    exact = float(exact)
    print(
        f"{name:<26} {mean:9.4f} ± {stderr:.4f}   exact {exact:9.4f}"
        f"   {(mean - exact) / stderr:+5.1f} s.e.   {mean / exact - 1:+.2%}"
    )
    assert abs(mean - exact) < 4 * stderr, f"{name}: more than four standard errors off"
    assert within is None or abs(mean / exact - 1) < within, f"{name}: off by over {within:.0%}"


def chain_divergence(schedule: Schedule, square: Tensor) -> float:
    """J of the T-step ancestral chains with step variance β_t, from E_mix ‖Δε‖² of all t (T,).

    A step's two Gaussians have the variance β_t, and means that are
    β_t Δε / (√(1-ᾱ_t) √(1-β_t)) apart: an exact sum, in nats.
    """
    t = torch.arange(schedule.T)
    beta, left = schedule.beta_step(t), 1 - schedule.alpha_bar(t)
    return float((beta * square / ((1 - beta) * left)).sum())


def exact_process_of_laws(
    model: cj.GenerativeProcess, schedule: Schedule, laws: Mapping[str, Mixture]
) -> cj.GenerativeProcess:
    """A process with the ``schedule`` of ``model``, exact for latents of some Gaussian laws."""

    def encode(prompts: Sequence[str]) -> Tensor:
        """(n, size + 1): mean and width of the law that each prompt names."""
        return torch.stack([torch.cat([laws[y].means[0], laws[y].stds]) for y in prompts]).float()

    def predict(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The exact ε(x, t|y); x (n, *latent_shape), t (n,), condition as above."""
        mean, width = condition[:, :-1], condition[:, -1:]
        alpha_bar = schedule.alpha_bar(t).float()[:, None]  # (n, 1)
        variance = alpha_bar * width**2 + 1 - alpha_bar
        score = -(x.flatten(1) - alpha_bar.sqrt() * mean) / variance
        return eps_from_score(score, (1 - alpha_bar[:, 0]).sqrt()).view_as(x)

    return cj.GenerativeProcess(predict, encode, model.scheduler, model.latent_shape)


# -- figures ----------------------------------------------------------------------------------


def draw_paths(of: Diffusion, law: Mixture, forward: Tensor, reverse: Tensor) -> None:
    """Paths there and back over the densities p_τ, with the law and what is recovered of it."""
    T, xs = of.schedule.T, torch.linspace(-3, 3, 241).double()
    density, recovered = law.log_prob(xs[:, None]).exp(), reverse[-1, :, 0]
    taus = torch.linspace(0, T, 201)
    shades = torch.stack([of.at(law, tau).log_prob(xs[:, None]).exp() for tau in taus], dim=1)
    _, axes = plt.subplots(1, 4, figsize=(10, 3.4), sharey=True, width_ratios=[1, 4, 4, 1])
    for axis, paths, title in (
        (axes[1], forward[::4, :, 0], "forward: data to noise"),
        (axes[2], reverse[::4, :6, 0].flip(0), "reverse: noise to data"),
    ):
        axis.pcolormesh(taus, xs, shades, cmap=SEQUENTIAL, vmin=0, vmax=0.9, rasterized=True)
        axis.plot(torch.linspace(0, T, len(paths)), paths, color=PALETTE[1], lw=0.7)
        axis.set(title=title, xlabel="time τ (DDPM steps)", xlim=(0, T), ylim=(-3, 3))
    axes[2].invert_xaxis()
    axes[0].fill_betweenx(xs, density, color=PALETTE[0], alpha=0.4)
    axes[0].set(title="$p_0$", ylabel="x", xticks=[])
    axes[0].invert_xaxis()
    heights, edges = np.histogram(recovered, bins=40, density=True)
    shape = {"orientation": "horizontal", "fill": True, "alpha": 0.5}
    axes[3].stairs(heights, edges, color=PALETTE[1], **shape)
    axes[3].plot(density, xs, color=PALETTE[0], lw=1)
    axes[3].set(title="recovered", xticks=[])
    plt.show()


def draw_ratios(under_1: Tensor, under_2: Tensor, exact_12: Tensor, exact_21: Tensor) -> None:
    """log dP1/dP2 of paths under either law, with the exact means; J lies between these."""
    _, axis = plt.subplots(figsize=(7, 3.2))
    ends_of = float(under_2.quantile(0.005)), float(under_1.max())
    bins = np.linspace(*ends_of, 61).tolist()
    for values, exact, color, label in (
        (under_1, exact_12, PALETTE[0], "paths of $P_1$"),
        (under_2, -exact_21, PALETTE[1], "paths of $P_2$"),
    ):
        axis.hist(values, bins=bins, density=True, color=color, alpha=0.45, lw=0, label=label)
        axis.axvline(float(values.mean()), color=color, lw=2)
        axis.axvline(float(exact), color="black", lw=1, ls=":")
    height = axis.get_ylim()[1]
    ends = (float(-exact_21), height), (float(exact_12), height)
    arrow = {"arrowstyle": "<->", "color": "black", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", *ends, arrowprops=arrow)
    middle = float(exact_12 - exact_21) / 2
    axis.text(middle, height * 1.02, "J", ha="center", va="bottom")
    label = r"$\log\, dP_1/dP_2$ of a path (nats)"
    axis.set(xlabel=label, ylabel="density", ylim=(0, height * 1.12))
    axis.legend(loc="upper left")
    plt.show()


def draw_weights(schedule: Schedule, square: Tensor) -> None:
    """Every weight by timestep, and the share of the distance up to it; square (T,) is E‖Δε‖²."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
    t = torch.arange(schedule.T)
    for weighting, color in zip(WEIGHTINGS, PALETTE, strict=False):
        weight = schedule.weight(t, weighting)
        share = (weight * square).cumsum(0) / (weight * square).sum()
        left.loglog(t + 1, weight, color=color, label=f'"{weighting}"')
        right.semilogx(t + 1, share, color=color, label=f'"{weighting}"')
    left.set(xlabel="t + 1", ylabel=r"weight of $\|\Delta\varepsilon\|^2$")
    right.set(xlabel="t + 1", ylabel="share of the distance up to t", ylim=(0, 1))
    left.legend()
    plt.show()


def show_convergence(axis: Axes, values: Tensor, exact: Tensor) -> None:
    """Mean of the first n draws with three standard errors, against n and the exact value."""
    counts = [2**k for k in range(3, int(math.log2(len(values))) + 1)]
    means = [float(values[:n].mean()) for n in counts]
    bars = [3 * float(values[:n].std()) / math.sqrt(n) for n in counts]
    axis.errorbar(counts, means, bars, fmt="o", ms=4, capsize=3, color=PALETTE[0])
    axis.axhline(float(exact), color="black", lw=1, ls=":", label="closed form")
    axis.set(xscale="log", xlabel="draws", ylabel="J (nats)")


def draw_gaussians(
    of: Diffusion, laws: tuple[Mixture, Mixture], terms: tuple[Tensor, Tensor], exact: Tensor
) -> None:
    """Convergence of J, and the rate of KL in time; terms (draws, times) of either direction."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
    show_convergence(left, terms[0].sum(1) + terms[1].sum(1), exact)
    left.legend()
    times = terms[0].shape[1]
    grid = of.grid(times)
    pairs = zip(terms, (laws, laws[::-1]), BOTH, strict=True)
    for found, (p, q), (label, color) in pairs:
        values = found[:, ::8] * times / of.schedule.T
        bars = 3 * values.std(0) / math.sqrt(len(values))
        right.errorbar(grid[::8], values.mean(0), bars, fmt="o", ms=3, color=color, label=label)
        right.plot(grid, [of.rate(p, q, tau) for tau in grid], color=color, lw=1)
    right.set(xlabel="time τ (DDPM steps)", ylabel="nats per step", ylim=(0, None))
    right.legend()
    plt.show()


def draw_mixtures(
    of: Diffusion,
    laws: tuple[Mixture, Mixture],
    terms: tuple[Tensor, Tensor],
    taus: Tensor,
    curves: tuple[Tensor, Tensor],
    exact: Tensor,
) -> None:
    """Both laws at four times, KL as it is spent (terms) beside its exact ``curves`` at ``taus``,
    and the convergence of J."""
    figure, T = plt.figure(figsize=(10, 5.6)), of.schedule.T
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.2], hspace=0.06)  # type: ignore[misc]
    for axis, tau in zip(top.subplots(1, 4), (0, 0.15 * T, 0.35 * T, T), strict=True):
        show_plane(axis, [of.at(law, tau) for law in laws])
        axis.set(title=f"τ = {tau:.0f}", aspect="equal", xticks=[], yticks=[])
    left, right = bottom.subplots(1, 2)
    times = terms[0].shape[1]
    counts = (times * torch.linspace(0.15, 1, 14) ** 2).long()
    for found, curve, (label, color) in zip(terms, curves, BOTH, strict=True):
        spent = found.cumsum(1)[:, counts - 1]  # the integral over the first ``counts`` intervals
        bars = 3 * spent.std(0) / math.sqrt(len(spent))
        left.plot(taus, curve, color=color, lw=1)
        rest = curve[0] - spent.mean(0)
        left.errorbar(counts * T / times, rest, bars, fmt="o", ms=3, color=color, label=label)
    left.set(xlabel="time τ (DDPM steps)", ylabel="nats", ylim=(0, None))
    left.legend()
    show_convergence(right, terms[0].sum(1) + terms[1].sum(1), exact)
    plt.show()


def show_plane(axis: Axes, laws: Sequence[Mixture]) -> None:
    """Contours of densities in the plane, three levels each."""
    line = torch.linspace(-2.6, 2.6, 120).double()
    points = torch.cartesian_prod(line, line)
    for law, color in zip(laws, PALETTE, strict=False):
        density = law.log_prob(points).exp().reshape(120, 120).T
        levels = float(density.max()) * np.array([0.2, 0.5, 0.8])
        axis.contour(line, line, density, levels=levels, colors=[color], linewidths=1)


def draw_algorithm(
    results: Mapping[tuple[str, int], cj.Estimate], sums: Sequence[float], exact: float
) -> None:
    """The estimates of each sampler over its steps, beside the sum with exact expectations."""
    figure, axis = plt.subplots(figsize=(7, 3.8))
    steps = sorted({n for _, n in results})
    for name, color, shift in (("ddpm", PALETTE[0], 0.97), ("ddim", PALETTE[1], 1.03)):
        found = [results[name, n] for n in steps]
        values, bars = [e.value for e in found], [3 * e.stderr for e in found]
        at = [n * shift for n in steps]
        axis.errorbar(at, values, bars, fmt="o", ms=4, capsize=3, color=color, label=name)
    axis.plot(steps, sums, color="grey", lw=1, ls="--", label="sum, exact expectations")
    axis.axhline(exact, color="black", lw=1, ls=":", label="closed form")
    ticks = {"xticks": steps, "xticklabels": steps}
    axis.set(xscale="log", xlabel="sampler steps", ylabel="J (nats)", **ticks)
    axis.minorticks_off()
    figure.legend(loc="outside lower center", ncols=4)
    plt.show()


# -- facts for the sentences ------------------------------------------------------------------


def walk_facts(one_step: float, ratio: Tensor) -> dict[str, float]:
    """What a walk is worth, from the log P1/P2 (paths, steps) of the steps of its paths."""
    whole = ratio.shape[1] * one_step
    return {
        "one_step": one_step,
        "walk": whole,
        "favour": math.exp(whole),
        "walk_wrong": 100 * float((ratio.sum(1) < 0).double().mean()),
    }


def schedule_facts(model: cj.GenerativeProcess) -> dict[str, float]:
    """What the first and the last steps of a schedule leave of a picture, and add to the chain."""
    schedule = model.schedule
    assert isinstance(schedule, Schedule)
    steps = torch.arange(schedule.T)
    bars, first = schedule.alpha_bar(steps), model.sampler(sampler="ddim", steps=10).timesteps[0]
    return {
        "steps_total": schedule.T,
        "left_over": float(bars[-1]),
        "alpha_end": math.sqrt(float(bars[-1])),
        "chain_factor": 100 * (float(1 / (1 - schedule.beta_step(steps).max())) - 1),
        "first_visited": int(first),
        "posterior": float((1 - bars[0]) / (1 - bars[1])),
        "alpha_first": float(schedule.alpha_bar(first).sqrt()),
    }


def few_step_facts(
    results: Mapping[tuple[str, int], cj.Estimate], sums: Sequence[float], exact: float
) -> dict[str, float]:
    """What the fewest steps cost, %: the sum with exact expectations, and what samplers add."""
    few = min(n for _, n in results)
    found = {"few_steps": few, "few_sum": 100 * (sums[0] / exact - 1)}
    for name in ("ddpm", "ddim"):
        off, error = results[name, few].value / exact - 1, results[name, few].stderr / exact
        found |= {f"few_{name}": 100 * off, f"few_{name}_error": 100 * error}
        found[f"few_{name}_own"] = 100 * (off + 1 - sums[0] / exact)
    return found
