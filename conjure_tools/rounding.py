"""What rounding alone makes of a distance: measured, and shown beside distances that small."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np
import torch

from conjure_lib import Quadrature, Weighting
from conjure_lib.engine import norms
from conjure_lib.inputs import as_text
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process
from conjure_lib.reading import quoted
from conjure_lib.sampling import Sampling, Single, check_work
from conjure_lib.similarity import FAR, call_bytes, roundoff
from conjure_lib.terms import Estimate, Terms

NEAR = 10  # a distance below so many times the floor of rounding is not told from it


class RoundingWarning(UserWarning):
    """A distance is as small as what rounding alone makes."""


@torch.no_grad()
def floor(
    process: GenerativeProcess,
    prompt: str,
    *,
    sampling: Sampling | None = None,
    batch_size: int = 8,
    **single: Unpack[Single],
) -> Terms:
    """The distance of a prompt from itself that rounding alone makes, as :func:`pair_terms`.

    Every prediction of one trajectory is made twice, in a batch of ``batch_size`` equal rows and
    alone: other sums are rounded otherwise; guidance multiplies by w². One pair and one draw. A
    distance near this floor is rounding. A floor of zero says that this machine rounds both
    batches alike, and not that it does not round.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> rounding = cj.floor(process, "cat", steps=2).estimates()[0]
    >>> rounding < cj.distance(process, "cat", "dog", steps=2, draws=1)
    True
    """
    sampling = replace(as_process(process).settled(sampling, **single), draws=1)
    check_work(sampling, batch_size=batch_size)
    steps = sampling.steps
    process.sampler(sampling)
    kept = 8.0 * batch_size * steps * math.prod(process.latent_shape)
    check_memory(f"batch_size={batch_size}", kept + call_bytes(process, batch_size))
    condition, before = process.encode([as_text("prompt", prompt)]), process.evaluations
    path = process.trajectories(
        condition[[0] * batch_size],
        process.noise([0], sampling.seed).expand(batch_size, *process.latent_shape),
        [0] * batch_size,
        sampling=replace(sampling, guidance=1),
        texts=[prompt] * batch_size,
    )
    x, t = path.states[:1], path.timesteps.to(process.device)
    alone = [process.eps(x[:, s], t[s : s + 1], condition) for s in range(steps)]
    square = sampling.guidance**2 * norms(path.eps[:1] - torch.stack(alone, dim=1))  # (1, S)
    process.evaluations = before  # a measurement of the machine, not of a pair
    return Terms(
        np.stack([square, square], axis=2)[None], path.timesteps, process.schedule, sampling
    )


def beside_floor(
    process: GenerativeProcess,
    pairs: Sequence[tuple[str, str]],
    found: list[Estimate],
    terms: Terms,
    weighting: Weighting,
    quadrature: Quadrature,
) -> list[Estimate]:
    """The estimates; those that are not far above the floor of rounding with that floor, warned of.

    Measuring it costs as much as a pair, so it is done only where a term is near to what rounding
    makes of numbers of this precision.
    """
    least, made = terms.mixed.mean(axis=1).min(axis=1), roundoff(process, terms.sampling)
    small = np.flatnonzero(least < FAR * made)
    rows = [i for i in small.tolist() if len(set(pairs[i])) > 1 and not found[i].same_tokens]
    if not rows:
        return found
    rounding = floor(process, pairs[rows[0]][0], sampling=terms.sampling)
    # where both batches happen to be rounded alike, predictions have no more digits for it
    least_squares = np.maximum(rounding.squares, made)
    (lowest,) = replace(rounding, squares=least_squares).estimates(weighting, quadrature)
    near = [i for i in rows if found[i].value < NEAR * lowest.value]
    for i in rows:
        found[i] = replace(found[i], floor=lowest.value)
    if near:
        first, second = map(quoted, pairs[near[0]])
        more = f" and of {len(near) - 1} more" if near[1:] else ""
        warnings.warn(
            f"the distance of {first} and {second}{more} is {found[near[0]].value:.2g}, "
            f"and rounding alone makes {lowest.value:.2g}: it is not told from 0",
            RoundingWarning,
            stacklevel=4,
        )
    return found
