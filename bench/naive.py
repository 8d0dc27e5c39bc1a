"""Algorithm 1 as it is printed, over diffusers: what the library is measured against.

One pair, one draw and one step at a time; each of the twelve predictions that a guided step asks
for is made where the text asks for it, and guidance is batched as diffusers' own pipelines do it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def distances(
    unet: torch.nn.Module,
    scheduler: Any,
    embed: Callable[[Sequence[str]], Tensor],
    pairs: Sequence[tuple[str, str]],
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
) -> np.ndarray:
    """The plain sum of each pair in each draw, (pairs, draws), in nats; x_T is ``noise``."""
    scheduler.set_timesteps(steps)
    empty = embed([""])
    found = np.zeros((len(pairs), len(noise)))
    for p, (y1, y2) in enumerate(pairs):
        first, second = embed([y1]), embed([y2])
        for d, x_T in enumerate(noise):
            found[p, d] = _draw(unet, scheduler, first, second, empty, x_T[None], guidance)
    return found


def _draw(
    unet: torch.nn.Module,
    scheduler: Any,
    y1: Tensor,
    y2: Tensor,
    empty: Tensor,
    x_T: Tensor,
    guidance: float,
) -> float:
    """One pair in one draw: both trajectories, and both scores at both of their places."""
    N, total = len(scheduler.alphas_cumprod), 0.0
    one, two = deepcopy(scheduler), deepcopy(scheduler)
    x1 = x2 = x_T
    for t in scheduler.timesteps:
        bar = float(scheduler.alphas_cumprod[t])
        weight = N * float(scheduler.betas[t]) / (1 - bar)
        if scheduler.config.prediction_type == "v_prediction":
            weight *= bar  # ε = √ᾱ v + √(1-ᾱ) x, and x is the same in both
        for x in (x1, x2):
            difference = _output(unet, x, t, y1, empty, guidance)
            difference = difference - _output(unet, x, t, y2, empty, guidance)
            total += weight * float(difference.double().square().sum()) / 2
        x1 = one.step(_output(unet, x1, t, y1, empty, guidance), t, x1).prev_sample
        x2 = two.step(_output(unet, x2, t, y2, empty, guidance), t, x2).prev_sample
    return total / len(scheduler.timesteps)


def _output(
    unet: torch.nn.Module, x: Tensor, t: Tensor, y: Tensor, empty: Tensor, guidance: float
) -> Tensor:
    """What the network says, guided, at x (1, …): ε or v."""
    if guidance == 1:
        return unet(x, t, encoder_hidden_states=y).sample
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([empty, y])).sample
    return both[:1] + guidance * (both[1:] - both[:1])
