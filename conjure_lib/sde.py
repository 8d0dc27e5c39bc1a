"""The two SDEs: schedule, drift, diffusion, noise prediction and score.

Symbols are those of the book. The forward process is the variance-preserving SDE
``dx = -½ β(t) x dt + √β(t) dw``; its marginal is ``x_t = α_t x_0 + σ_t ε`` with
``α_t² = ᾱ_t`` and ``σ_t² = 1 - ᾱ_t``. Nothing here knows about networks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conjure_lib import WEIGHTINGS, Weighting
from conjure_lib.inputs import one_of


class Compared:
    """Equality of what holds arrays: of one class and equal in all fields, NaN equal to NaN."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray | Tensor | float):
        return bool(a == b)
    a, b = (x.cpu() if isinstance(x, Tensor) else x for x in (a, b))
    return b is not None and np.array_equal(a, b, equal_nan=True)


@dataclass(frozen=True, eq=False)
class Schedule(Compared):
    """A discrete DDPM schedule, and the continuous SDE that passes through it exactly.

    DDPM step t = 0 … N-1 ends at continuous time τ = t + 1, measured in steps, so that T = N.
    Between the steps β is constant: ``β(τ) = -log(1 - β_t)`` for τ in [t, t + 1), which makes the
    marginals of the SDE equal ``alphas_cumprod`` at every step.

    Attributes:
        alphas_cumprod: ᾱ_t, float64, shape (N,), decreasing in (0, 1).

    >>> import conjure_lib as cj
    >>> import torch
    >>> schedule = cj.Schedule(torch.linspace(0.99, 0.01, 1000))
    >>> alpha, sigma = schedule.coefficients(torch.tensor([500]))
    >>> round(float(alpha**2 + sigma**2), 6)
    1.0
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.detach().to("cpu", torch.float64)
        if table.ndim != 1 or not bool(((table > 0) & (table < 1)).all()):
            raise ValueError("alphas_cumprod must be numbers between 0 and 1: no zero-terminal SNR")
        if not bool((table.diff() < 0).all()):
            raise ValueError("alphas_cumprod must decrease with the timestep")
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def of(cls, scheduler: Any) -> Schedule:
        """The schedule of a diffusers scheduler, as its checkpoint gives it."""
        if not hasattr(scheduler, "alphas_cumprod"):  # such as EDM's
            raise ValueError(f"{type(scheduler).__name__} has no variance-preserving schedule")
        return cls(scheduler.alphas_cumprod)

    @property
    def T(self) -> int:  # noqa: N802 - the book's symbol
        """The end of time, in DDPM steps."""
        return len(self.alphas_cumprod)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """ᾱ_t of DDPM timesteps t (any shape); between two steps, that of the continuous SDE."""
        if not t.is_floating_point():
            return self.alphas_cumprod[t.cpu()]
        return self.alpha(t.cpu() + 1) ** 2

    def beta_step(self, t: Tensor) -> Tensor:
        """β_t = 1 - ᾱ_t / ᾱ_(t-1) of DDPM timesteps t, with ᾱ_(-1) = 1."""
        if t.is_floating_point():
            return 1 - self.alpha_bar(t) / self.alpha(t.cpu().clamp_min(0)) ** 2
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        return 1 - self.alpha_bar(t) / before[t.cpu()]

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t of x_t = α_t x_0 + σ_t ε, float64, shape of t."""
        alpha_bar = self.alpha_bar(t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    @property
    def window(self) -> tuple[float, float]:
        """λ of the last and of the first DDPM step, which is all that a network was trained on."""
        low, high = log_snr(self, torch.tensor([self.T - 1, 0])).tolist()
        return low, high

    def time(self, log_snr: np.ndarray) -> np.ndarray:
        """The DDPM timestep, between steps a fraction, at which λ is ``log_snr``, float64."""
        falling = -self.alphas_cumprod.log().numpy()  # ∫β, which between steps is linear in time
        return np.interp(np.logaddexp(0, -log_snr), falling, np.arange(self.T))

    def weight(self, t: Tensor, weighting: Weighting) -> Tensor:
        """What multiplies ‖Δε‖² at DDPM timesteps t (float64, shape of t).

        "sde": β_t/(1-ᾱ_t), g² times the squared factor from noise to score; "score":
        1/(1-ᾱ_t), the same with g = 1; "noise": 1.
        """
        if one_of("weighting", weighting, WEIGHTINGS) == "noise":
            return torch.ones(t.shape, dtype=torch.float64)
        g_squared = self.beta_step(t) if weighting == "sde" else 1.0
        return g_squared / (1 - self.alpha_bar(t))

    # -- the continuous SDE, τ in [0, T] ---------------------------------------------------

    def beta(self, tau: Tensor) -> Tensor:
        """β(τ) = g(τ)², per step of time."""
        log = self._log_alpha_bar_at_steps()
        k = tau.double().floor().long().clamp(0, self.T - 1)
        return log[k] - log[k + 1]

    def alpha(self, tau: Tensor) -> Tensor:
        """α(τ) = exp(-½ ∫₀^τ β)."""
        log = self._log_alpha_bar_at_steps()
        k = tau.double().floor().long().clamp(0, self.T - 1)
        return torch.exp(0.5 * (log[k] - self.beta(tau) * (tau.double() - k)))

    def sigma(self, tau: Tensor) -> Tensor:
        """σ(τ) = √(1 - α(τ)²)."""
        return (1 - self.alpha(tau) ** 2).clamp_min(0).sqrt()

    def drift(self, x: Tensor, tau: Tensor) -> Tensor:
        """f(x, τ) = -½ β(τ) x; x of shape (n, …), τ scalar or (n,)."""
        return -0.5 * _like(self.beta(tau), x) * x

    def diffusion(self, tau: Tensor) -> Tensor:
        """g(τ) = √β(τ)."""
        return self.beta(tau).sqrt()

    def reverse_drift(self, x: Tensor, tau: Tensor, score: Tensor) -> Tensor:
        """f(x, τ) - g(τ)² s(x, τ): the drift of the reverse-time SDE (Anderson 1982)."""
        return self.drift(x, tau) - _like(self.beta(tau), x) * score

    def _log_alpha_bar_at_steps(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.alphas_cumprod.log()])


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow: x_t = (1 - σ) x_0 + σ ε with σ = t/T (Liu et al. 2023, Lipman et al. 2023).

    The SDE with these marginals has drift -x/(1 - σ) and g² = 2σ/(1 - σ), per unit of σ.
    """

    T: int = 1000

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t = 1 - t/T and σ_t = t/T, float64, shape of t."""
        sigma = t.cpu().double() / self.T
        return 1 - sigma, sigma

    @property
    def window(self) -> tuple[float, float]:
        """λ of the last but one and of the first T-th of the time; at T it is -∞, at 0 it is ∞."""
        low, high = log_snr(self, torch.tensor([self.T - 1, 1])).tolist()
        return low, high

    def time(self, log_snr: np.ndarray) -> np.ndarray:
        """The time at which λ is ``log_snr``, float64."""
        return self.T / (1 + np.exp(np.asarray(log_snr) / 2))

    def weight(self, t: Tensor, weighting: Weighting) -> Tensor:
        """What multiplies ‖Δε‖² at times t, as :meth:`Schedule.weight`; g² per T-th of the time.

        At t = T both the data's share of x and Δε = (1 - σ) Δv vanish, and "sde", which grows like
        1/(1 - σ), is taken as the limit of the product: 0.
        """
        alpha, sigma = self.coefficients(t)
        if one_of("weighting", weighting, WEIGHTINGS) == "sde":
            return torch.where(alpha > 0, 2 / (sigma * alpha.clamp_min(1e-12) * self.T), 0.0)
        return 1 / sigma**2 if weighting == "score" else torch.ones_like(sigma)


def log_snr(schedule: Schedule | FlowSchedule, t: Tensor) -> Tensor:
    """λ = log(α²/σ²) at timesteps t, float64, shape of t; it rises as noise is taken away."""
    alpha, sigma = schedule.coefficients(t)
    return 2 * (alpha.log() - sigma.log())


def term_weights(schedule: Schedule | FlowSchedule, t: Tensor, weighting: Weighting) -> Tensor:
    """What ‖Δε‖² at each of S visited timesteps counts in an estimate's sum, (S,), float64.

    For "sde" the sum is J in nats, an integral over time; for the others a mean over time. Each
    timestep stands for its share of the time: T/S where they are evenly spaced, and for a flow,
    where a shift crowds them, the stretch down to the next one.
    """
    share = torch.full(t.shape, schedule.T / len(t), dtype=torch.float64)
    if isinstance(schedule, FlowSchedule):
        share = -torch.cat([t.cpu().double(), torch.zeros(1, dtype=torch.float64)]).diff()
    return schedule.weight(t, weighting) * share / (1 if weighting == "sde" else schedule.T)


def chain_weights(schedule: Schedule, t: Tensor) -> Tensor:
    """What ‖Δε‖² at each of S visited timesteps counts in J of the ancestral chain, (S,), float64.

    A step from ᾱ to ᾱ' is normal with variance β = 1 - ᾱ/ᾱ' under either prompt, and its means
    lie β/√((1 - β)(1 - ᾱ)) ‖Δε‖ apart (Ho et al. 2020), so that KL of the step is a finite number,
    and that of the chain their sum. The last step leads to ᾱ' = 1.
    """
    bars = schedule.alpha_bar(t)
    after = torch.cat([bars[1:], torch.ones(1, dtype=torch.float64)])
    return (after / bars - 1) / (1 - bars)


Prediction = Literal["epsilon", "v_prediction", "flow"]
"""What a network's output is: ε; v = α ε - σ x_0 (Salimans and Ho 2022); or v = ε - x_0."""


def eps_from_output(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, kind: Prediction
) -> Tensor:
    """ε from a network's output at x (n, …); alpha and sigma scalar or (n,).

    At the same x, Δε = Δoutput, α Δv and (1 - σ) Δv for the three kinds.
    """
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return _like(alpha, x) * output + _like(sigma, x) * x
    return x + _like(alpha, x) * output  # flow: x = (1 - σ) x_0 + σ ε, v = ε - x_0, α = 1 - σ


def _like(values: Tensor, x: Tensor) -> Tensor:
    """``values`` (scalar or (n,)) shaped to multiply x (n, …), in the dtype of x."""
    return values.to(x).reshape(values.shape + (1,) * (x.ndim - values.ndim))


def eps_from_score(score: Tensor, sigma: Tensor) -> Tensor:
    """ε = -σ s; score (n, …), sigma scalar or (n,) (Song et al. 2021)."""
    return -score * _like(sigma, score)


def clean_from_eps(x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x̂_0 = (x - σ ε)/α, the denoised view; alpha, sigma scalar or (n,) (Tweedie's formula).

    Where α = 0, at the noisy end of a flow, ε says nothing of x_0, and x̂_0 is put to 0.
    """
    return (x - _like(sigma, x) * eps) / _like(alpha.clamp_min(1e-6), x)
