"""Conjuring semantic similarity: the distance between two texts through the images they conjure.

>>> import conjure_lib as cj
>>> process = cj.load()                                    # the embedded model
>>> cj.distance(process, "snow leopard", "bengal tiger")   # Estimate(value, stderr)

The names below are imported when they are first used: torch and diffusers take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from conjure_lib.machine import settle

if TYPE_CHECKING:
    from conjure_lib.loading import from_pipeline, load
    from conjure_lib.process import GenerativeProcess
    from conjure_lib.scorer import Scorer
    from conjure_lib.sde import WEIGHTINGS, Mixture, Schedule
    from conjure_lib.similarity import (
        DistanceMatrix,
        Estimate,
        Trace,
        distance,
        distance_matrix,
        distances,
        floor,
        pair_terms,
        trace,
    )

__version__ = "0.1.0"
__all__ = [
    "WEIGHTINGS",
    "DistanceMatrix",
    "Estimate",
    "GenerativeProcess",
    "Mixture",
    "Schedule",
    "Scorer",
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
_HOMES = ("names", "loading", "process", "scorer", "sde", "similarity")  # of those names

settle()  # before torch is loaded


def __getattr__(name: str) -> Any:
    """PEP 562: a name of ``__all__``, or the module of the library that has this name."""
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        for home in map(import_module, (f"{__name__}.{home}" for home in _HOMES)):
            if hasattr(home, name):
                return globals().setdefault(name, getattr(home, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
