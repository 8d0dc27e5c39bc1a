"""Conjuring semantic similarity: the distance between two texts through the images they conjure.

>>> import conjure_lib as cj
>>> process = cj.load()  # the embedded model
>>> cj.distance(process, "snow leopard", "bengal tiger")
Estimate(value=...)

The names below are imported when they are first used: torch and diffusers take seconds.
"""

from __future__ import annotations

import os
import signal
import sys


def _stop(*_: object) -> None:
    """Ctrl-C while there is nothing to keep: one line, and no traceback of half an import."""
    os.write(2, b"conjure_lib: stopped\n")
    os._exit(130)


def heed_interrupts() -> None:
    """From now on there is work to keep: Ctrl-C is Python's own exception again."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_program = os.path.basename("".join(sys.argv[:1]))  # "-m" while a package is only being imported
if (
    _program in ("conjure", "conjure.exe") or (_program == "-m" and "conjure_lib" in sys.orig_argv)
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody decided otherwise
    signal.signal(signal.SIGINT, _stop)

from importlib import import_module  # noqa: E402
from typing import TYPE_CHECKING, Any, Literal, get_args  # noqa: E402

from conjure_lib.machine import settle  # noqa: E402

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

_HOMES = ("pipelines", "process", "sampling", "sde", "similarity", "terms")  # of what __all__ names

settle()  # before torch is loaded


def __getattr__(name: str) -> Any:
    """PEP 562: a name of ``__all__``, or the module of the library that has this name."""
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        tools = (f"conjure_tools.{home}" for home in ("loading", "matrices", "traces", "scorer"))
        homes = (*(f"{__name__}.{home}" for home in _HOMES), *tools)
        for home in map(import_module, homes):
            if hasattr(home, name):
                return globals().setdefault(name, getattr(home, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
