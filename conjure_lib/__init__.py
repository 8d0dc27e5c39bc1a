"""Conjuring semantic similarity: the distance between two texts through the images they conjure.

>>> import conjure_lib as cj
>>> process = cj.load()  # the embedded model
>>> cj.distance(process, "snow leopard", "bengal tiger")
Estimate(value=...)

The names below are imported when they are first used: torch and diffusers take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from conjure_lib.machine import settle

if TYPE_CHECKING:
    from conjure_lib.pipelines import from_pipeline
    from conjure_lib.process import GenerativeProcess
    from conjure_lib.sampling import Sampling
    from conjure_lib.sde import Schedule
    from conjure_lib.similarity import distance, distances, floor, pair_terms
    from conjure_lib.terms import Estimate, Terms
    from conjure_tools.loading import load
    from conjure_tools.matrices import DistanceMatrix, distance_matrix
    from conjure_tools.scorer import Scorer
    from conjure_tools.traces import Trace, trace

__version__ = "0.1.0"
__all__ = [
    "WEIGHTINGS",
    "DistanceMatrix",
    "Estimate",
    "GenerativeProcess",
    "Sampling",
    "Schedule",
    "Scorer",
    "Terms",
    "Trace",
    "distance",
    "distance_matrix",
    "distances",
    "floor",
    "from_pipeline",
    "load",
    "pair_terms",
    "trace",
]

# What can be chosen by name stands here, where it is asked for without loading anything.
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

_OWN = ("pipelines", "process", "sampling", "sde", "similarity", "terms")
_TOOLS = ("loading", "matrices", "traces", "scorer")  # the only ones that are handed on here

settle()  # before torch is loaded


def _handed_on(name: str) -> Any:
    """PEP 562: a name of ``__all__``, or the module of the library that has this name."""
    if name in _OWN:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        homes = (*(f"{__name__}.{home}" for home in _OWN), *(f"conjure_tools.{h}" for h in _TOOLS))
        for home in map(import_module, homes):
            if hasattr(home, name):
                return globals().setdefault(name, getattr(home, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if not TYPE_CHECKING:  # to mypy a misspelt name would be anything
    __getattr__ = _handed_on


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
