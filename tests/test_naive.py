"""Algorithm 1 read line by line over diffusers, with no cleverness, against the library.

Nothing of the library is used here but its documented source of random numbers, so that both
see the same noise: every prediction is made anew, one row at a time, guidance included.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from conftest import Model
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from torch import Tensor

import conjure_lib as cj
from conjure_lib.process import generator

Y1, Y2 = "snow leopard", "a bengal tiger in the snow"
STEPS, DRAWS, SEED = 4, 2, 5
SAMPLERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
}
WEIGHTS: dict[str, Callable] = {
    "sde": lambda scheduler, t: (
        1000 * scheduler.betas[int(t)] / (1 - scheduler.alphas_cumprod[int(t)])
    ),
    "score": lambda scheduler, t: 1 / (1 - scheduler.alphas_cumprod[int(t)]),
    "noise": lambda scheduler, t: torch.ones(()),
}


class Naive:
    """The two SDEs of Algorithm 1, as a pipeline gives them."""

    def __init__(self, pipeline: StableDiffusionPipeline, sampler: str, guidance: float) -> None:
        self.pipeline, self.guidance = pipeline, guidance
        self.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
        self.scheduler.set_timesteps(STEPS)
        if sampler == "dpm++2m":  # which by itself visits other times than all others
            times = [k * (1000 // STEPS) for k in range(STEPS)][::-1]
            offset = self.scheduler.config.steps_offset
            self.scheduler.set_timesteps(timesteps=[t + offset for t in times])
        self.text = cache(self._text)

    def _text(self, prompt: str) -> Tensor:
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.pipeline.text_encoder(ids)[0]

    def eps(self, x: Tensor, t: Tensor, prompt: str) -> Tensor:
        """The guided noise prediction at x (1, …), from v where that is what the network says."""
        output, bar = self.output(x, t, prompt), self.pipeline.scheduler.alphas_cumprod[int(t)]
        if self.scheduler.config.prediction_type == "epsilon":
            return output
        return bar.sqrt() * output + (1 - bar).sqrt() * x

    def output(self, x: Tensor, t: Tensor, prompt: str) -> Tensor:
        """What the network says, guided, at x (1, …)."""
        conditional = self.pipeline.unet(x, t, encoder_hidden_states=self.text(prompt)).sample
        if self.guidance == 1:
            return conditional
        empty = self.pipeline.unet(x, t, encoder_hidden_states=self.text("")).sample
        return empty + self.guidance * (conditional - empty)

    def path(self, prompt: str, x: Tensor, draw: int) -> list[Tensor]:
        scheduler, visited = deepcopy(self.scheduler), []  # some remember earlier steps
        x = x * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            visited.append(scheduler.scale_model_input(x, t))
            noise = generator(SEED, draw, step)
            output = self.output(visited[-1], t, prompt)
            x = scheduler.step(output, t, x, generator=noise).prev_sample
        return visited

    def squares(self, x_T: Tensor, draw: int, pairing: str) -> NDArray:
        """‖Δε‖² of one draw: (steps, 2), on the path of y1 and on that of y2."""
        rows = []
        for t, x1, x2 in zip(
            self.scheduler.timesteps,
            self.path(Y1, x_T, draw),
            self.path(Y2, x_T, draw),
            strict=True,
        ):
            if pairing == "crossed":
                differences = [self.eps(x1, t, Y1) - self.eps(x2, t, Y2)] * 2
            else:
                differences = [self.eps(x, t, Y1) - self.eps(x, t, Y2) for x in (x1, x2)]
            rows.append([float(d.double().square().sum()) for d in differences])
        return np.array(rows)

    def weights(self, weighting: str) -> NDArray:
        weight = WEIGHTS[weighting]
        return np.array([float(weight(self.scheduler, t)) for t in self.scheduler.timesteps])


@pytest.mark.parametrize("pairing", ["same", "crossed"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
@torch.no_grad()
def test_naive_algorithm_gives_the_same_number(
    model: Model, sampler: str, guidance: float, pairing: str
) -> None:
    noise = torch.randn(
        (DRAWS, *model.process.latent_shape), generator=torch.Generator().manual_seed(1)
    )
    naive = Naive(model.pipeline, sampler, guidance)
    squares = np.stack([naive.squares(noise[[d]], d, pairing) for d in range(DRAWS)])
    settings = {"sampler": sampler, "guidance": guidance, "pairing": pairing}
    settings |= {"steps": STEPS, "draws": DRAWS, "noise": noise, "seed": SEED}
    terms = cj.pair_terms(model.process, [(Y1, Y2)], **settings)
    assert terms.timesteps.tolist() == naive.scheduler.timesteps.tolist()
    np.testing.assert_allclose(terms.squares[0], squares, rtol=1e-4)
    for weighting in WEIGHTS:
        estimate = cj.distance(
            model.process, Y1, Y2, weighting=weighting, quadrature="sum", **settings
        )
        by_draw = (squares.mean(axis=2) * naive.weights(weighting)).mean(axis=1)
        assert estimate.value == pytest.approx(by_draw.mean(), rel=1e-4)
        np.testing.assert_allclose(estimate.by_draw, by_draw, rtol=1e-4)
