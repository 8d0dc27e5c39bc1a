"""Gaussians and their mixtures, whose scores have closed forms: chapters 2 and 10."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """A mixture of K isotropic Gaussians in D dimensions; K = 1 is a single Gaussian.

    Its image under the forward SDE is again a mixture, so every score and density that the
    theory speaks of has a closed form.

    Attributes:
        means: (K, D), float64.
        stds: (K,), float64.
        weights: (K,), float64, summing to one.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    @classmethod
    def gaussian(cls, mean: Any, std: float) -> Mixture:
        """N(mean, std² I)."""
        means = torch.as_tensor(mean, dtype=torch.float64)[None]
        return cls(means, torch.tensor([std], dtype=torch.float64), torch.ones(1).double())

    def diffuse(self, alpha: Tensor | float, sigma: Tensor | float) -> Mixture:
        """The law of αx + σε for x of this law: p_t for α, σ at one time."""
        stds = (alpha**2 * self.stds**2 + sigma**2) ** 0.5
        return Mixture(alpha * self.means, stds, self.weights)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), shape (n,), for x (n, D)."""
        return torch.logsumexp(self._log_joint(x), dim=1)

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x), shape (n, D), for x (n, D)."""
        posterior = self._log_joint(x).softmax(dim=1)  # (n, K)
        pulls = -(x[:, None] - self.means) / self.stds[:, None] ** 2  # (n, K, D)
        return (posterior[..., None] * pulls).sum(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n samples, shape (n, D), float64."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, self.means.shape[1], dtype=torch.float64, generator=generator)
        return self.means[k] + self.stds[k, None] * eps

    def _log_joint(self, x: Tensor) -> Tensor:
        d = x.shape[1]
        square = (x[:, None] - self.means).square().sum(-1) / self.stds**2  # (n, K)
        normaliser = d * (self.stds.log() + 0.5 * math.log(2 * math.pi))
        return self.weights.log() - normaliser - 0.5 * square


def mixture(means: list[list[float]], stds: list[float], weights: list[float]) -> Mixture:
    """K isotropic Gaussians in D dimensions: means (K, D), stds (K,), weights (K,)."""
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in (means, stds, weights)))


def gaussian_kl(p: Mixture, q: Mixture) -> Tensor:
    """KL(p‖q) in nats of two single isotropic Gaussians, closed form (scalar, float64)."""
    if len(p.stds) != 1 or len(q.stds) != 1:
        raise ValueError("the closed form holds for single Gaussians, not for mixtures")
    d = p.means.shape[1]
    ratio = (p.stds[0] / q.stds[0]) ** 2
    shift = (p.means[0] - q.means[0]).square().sum() / q.stds[0] ** 2
    return 0.5 * (d * (ratio - 1 - ratio.log()) + shift)
