"""Conjuring semantic similarity: the distance between two texts through the images they conjure.

>>> import conjure_lib as cj
>>> process = cj.load()                                    # the embedded model
>>> cj.distance(process, "snow leopard", "bengal tiger")   # Estimate(value, stderr)
"""

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
