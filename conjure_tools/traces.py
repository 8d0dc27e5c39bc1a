"""One draw of Algorithm 1 laid open: what the pictures of a distance are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import Tensor

from conjure_lib.engine import norms
from conjure_lib.inputs import as_text
from conjure_lib.integrity import check_sound
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process
from conjure_lib.sampling import Sampling, Single, check_work
from conjure_lib.sde import Compared, FlowSchedule, Schedule
from conjure_lib.terms import Terms
from conjure_tools.unread import warn_alike


@dataclass(frozen=True, eq=False)
class Trace(Compared):
    """One draw of Algorithm 1 laid open, for looking at.

    Attributes:
        prompts: (y1, y2).
        timesteps: (S,).
        states: (2, S, *latent_shape); [i] is the trajectory of prompt i.
        eps: (2, 2, S, *latent_shape); [i, j] is the prediction of prompt j on trajectory i.
        schedule: what the timesteps mean.
        sampling: what was drawn.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> trace = cj.trace(process, "cat", "dog", steps=2)
    >>> (trace.terms().estimates()[0].value > 0, len(trace.timesteps))
    (True, 2)
    """

    prompts: tuple[str, str]
    timesteps: Tensor
    states: Tensor
    eps: Tensor
    schedule: Schedule | FlowSchedule
    sampling: Sampling

    def terms(self) -> Terms:
        """One draw of one pair, as :func:`pair_terms` gives it."""
        square = self.sampling.guidance**2 * norms(self.eps[:, 0] - self.eps[:, 1])  # (2, S)
        return Terms(square.T[None, None], self.timesteps, self.schedule, self.sampling)


def trace(
    process: GenerativeProcess,
    y1: str,
    y2: str,
    *,
    sampling: Sampling | None = None,
    draw: int = 0,
    **single: Unpack[Single],
) -> Trace:
    """Both trajectories of one draw, with both prompts' predictions along each.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> trace = cj.trace(process, "cat", "dog", steps=2)
    >>> tuple(trace.eps.shape[:3])  # whose trajectory, whose prediction, step
    (2, 2, 2)
    """
    sampling = replace(as_process(process).settled(sampling, **single), draws=[draw])
    check_work(sampling)
    steps = sampling.steps
    process.sampler(sampling)
    check_memory(f"steps={steps}", 32.0 * steps * math.prod(process.latent_shape))
    prompts = (as_text("y1", y1), as_text("y2", y2))
    warn_alike(process.readers, prompts)
    condition = process.encode(prompts)
    x_T = process.noise([draw], sampling.seed).expand(2, *process.latent_shape)
    path = process.trajectories(condition, x_T, [draw] * 2, sampling=sampling, texts=prompts)
    t = path.timesteps.to(process.device)
    other = torch.stack(
        [process.eps(path.states[i], t, condition[[1 - i] * steps]) for i in range(2)]
    )
    check_sound(other.isfinite().flatten(2).all(2), t.tolist(), prompts[::-1])
    eps = torch.stack([torch.stack([path.eps[0], other[0]]), torch.stack([other[1], path.eps[1]])])
    return Trace(prompts, path.timesteps, path.states, eps, process.schedule, sampling)
