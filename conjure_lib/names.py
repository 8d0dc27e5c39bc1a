"""What can be chosen by name; apart from the rest, so that nothing heavy is loaded to ask."""

from __future__ import annotations

from typing import Literal, get_args

EMBEDDED = "emoji-diffusion"
Weighting = Literal["sde", "score", "noise"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
Quadrature = Literal["log-snr", "linear", "sum", "chain"]
QUADRATURES: tuple[Quadrature, ...] = get_args(Quadrature)
Spacing = Literal["leading", "trailing", "linspace", "log-snr"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "ancestral": "DDPMScheduler",  # with the variance of the forward steps
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
}
FLOW_SAMPLERS = {"euler": "FlowMatchEulerDiscreteScheduler"}
