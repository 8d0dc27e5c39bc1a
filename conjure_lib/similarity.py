"""Algorithm 1: the distance between two prompts, and of many pairs.

    d(y1, y2) = E_{t, x ~ ½ p_t(·|y1) + ½ p_t(·|y2)} [ g(t)² ‖s(x,t|y1) - s(x,t|y2)‖² ]

(Liu and Soatto 2026). Each draw starts all prompts from one x_T. The trajectory of a prompt and
its own noise predictions are computed once and serve every pair that the prompt is in; a pair
then needs each prompt's prediction on the other's trajectory, two a step. Guidance multiplies the
difference by w exactly, so the unconditional prediction never enters it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from conjure_lib import Quadrature, Weighting
from conjure_lib.engine import MEMORY, norms, pair_squares
from conjure_lib.inputs import as_numbers, as_pairs, as_text
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process
from conjure_lib.reading import quoted, read, warn_same
from conjure_lib.sampling import (
    Pairing,
    Sampling,
    Settings,
    Single,
    check_settings,
    check_work,
    spacing_for_tolerance,
)
from conjure_lib.spending import spend
from conjure_lib.terms import Estimate, Terms

FAR = 50**2  # a term that is larger than roundoff by more is not looked at again
NEAR = 10  # a distance below so many times the floor of rounding is not told from it
HELD = 400  # numbers that a network holds at a time for each one of a latent; U-Nets more


class RoundingWarning(UserWarning):
    """A distance is as small as what rounding alone makes."""


def pair_terms(
    process: GenerativeProcess,
    pairs: Any,
    *,
    sampling: Sampling | None = None,
    pairing: Pairing = "same",
    noise: Tensor | None = None,
    batch_size: int = 64,
    memory: int = MEMORY,
    progress: bool | None = None,
    **single: Unpack[Single],
) -> Terms:
    """The raw material of every estimate: ‖Δε‖² before any weighting.

    Args:
        process: a loaded model.
        pairs: P pairs of prompts, as a list or in a table, see :func:`conjure_lib.inputs.as_pairs`;
            repeated prompts and pairs cost nothing.
        sampling: what is drawn, :class:`Sampling`, or some of its fields singly.
        pairing: "same": both predictions at the same x, as Girsanov's theorem asks; "crossed":
            ε(x̂_t|y1) - ε(x̃_t|y2), one printed form of the algorithm, kept for comparison.
        noise: x_T of every draw, (draws, *latent_shape); drawn from ``seed`` where not given.
        batch_size: rows a network call; changes the speed and not the numbers.
        memory: bytes that trajectories and text conditions may take. A pair set with more prompts
            than fit is worked off in groups, and a prompt of two groups is started twice.
        progress: a progress bar; by default where the work takes more than two seconds.

    Returns:
        The :class:`Terms` of the P pairs; guidance w counts in them as w².

    Raises:
        TypeError, ValueError: a setting or a prompt is not usable; the message says which.
        ValueError: a number on the way is NaN, infinite or too large; the message says at which
            prompt and timestep that began.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> terms = cj.pair_terms(process, [("cat", "dog"), ("cat", "car")], steps=2, draws=3)
    >>> terms.squares.shape
    (2, 3, 2, 2)
    """
    sampling = as_process(process).settled(sampling, **single)
    check_work(sampling, pairing, batch_size, memory, progress)
    process.sampler(sampling)  # raises where there is none, before any work
    numbers, pairs = sampling.numbers, as_pairs(pairs)
    prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in pair))
    _check_size(process, len(pairs), len(prompts), sampling, batch_size)
    noise = _start(process, numbers, sampling.seed, noise)
    index = {prompt: i for i, prompt in enumerate(prompts)}
    wanted = [(index[a], index[b]) for a, b in pairs]
    readings = read(process.readers, prompts)
    warn_same((readings[i], readings[j]) for i, j in wanted)
    told = [reading.tokens for reading in readings]
    unique = sorted({(min(p), max(p)) for p in wanted if told[p[0]] != told[p[1]]})
    found, timesteps = pair_squares(
        process,
        prompts,
        unique,
        noise,
        sampling=sampling,
        crossed=pairing == "crossed",
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    position = {pair: i for i, pair in enumerate(unique)}
    terms = np.zeros((len(wanted), *found.shape[1:]))
    for row, (i, j) in enumerate(wanted):
        if told[i] != told[j]:  # of equal tokens both predictions are one: exactly zero
            both = found[position[min(i, j), max(i, j)]]
            terms[row] = both if i < j else both[..., ::-1]
    return Terms(terms, timesteps, process.schedule, sampling)


def _check_size(
    process: GenerativeProcess, pairs: int, prompts: int, sampling: Sampling, batch_size: int
) -> None:
    """Raise MemoryError where the terms of so many pairs, and what makes them, have no room."""
    draws, steps = len(sampling.numbers), sampling.steps
    ways = 2 + (sampling.guidance != 1)  # numbers that are kept of each number of a latent
    rows = min(batch_size, draws * prompts)  # of trajectories at a time
    size = math.prod(process.latent_shape) * 4.0 * (draws + rows * steps * ways)
    count = 2 * pairs * draws * steps
    size += 16.0 * count + call_bytes(process, min(batch_size, max(rows, count)))
    what = f"{pairs} pairs with {draws} draws in {steps} steps (batch_size={batch_size})"
    check_memory(what, size)


def _start(
    process: GenerativeProcess, draws: Sequence[int], seed: int, noise: Tensor | None
) -> Tensor:
    """x_T of each draw (draws, *latent_shape): drawn, or the given one, checked."""
    if noise is None:
        return process.noise(draws, seed)
    shape = (len(draws), *process.latent_shape)
    given = torch.as_tensor(np.require(as_numbers("noise", noise), None, ["C", "W"]))
    if tuple(given.shape) != shape:
        raise ValueError(f"noise must have shape {shape}, not {tuple(given.shape)}")
    return given.to(process.device, torch.float32)


def distances(
    process: GenerativeProcess,
    pairs: Any,
    *,
    weighting: Weighting = "sde",
    quadrature: Quadrature = "log-snr",
    tolerance: float | None = None,
    budget: int | None = None,
    **settings: Unpack[Settings],
) -> list[Estimate]:
    """The distance of each pair; ``settings`` are those of :func:`pair_terms`.

    ``weighting`` and ``quadrature`` are those of :meth:`Terms.weights`. A pair whose distance
    rounding alone could have made is named in a :class:`RoundingWarning`. With a ``tolerance`` each
    pair goes on, from the steps and draws that are given, until its relative error is that or its
    ``budget`` of noise predictions (20,000) is spent, and its ``spent`` says which
    (:func:`conjure_lib.spending.spend`); the steps are then even in log-SNR unless a spacing is
    given, since others never reach the end of the window.

    Raises:
        TypeError, ValueError: as :func:`pair_terms`; so few steps that none of them sees noise; a
            tolerance or a budget that is not usable.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> dog, car = cj.distances(process, [("cat", "dog"), ("cat", "car")], steps=2, draws=1)
    >>> dog < car
    True
    """
    as_process(process)
    if tolerance is not None and not {"sampling", "spacing"} & settings.keys():
        sampler = settings.get("sampler") or next(iter(process.samplers))
        settings["spacing"] = spacing_for_tolerance(sampler, quadrature)
    sampling = check_settings(weighting=weighting, quadrature=quadrature, **settings)
    check_reach(process, sampling)
    pairs, make = as_pairs(pairs), partial(pair_terms, process)
    ways: Any = {"weighting": weighting, "quadrature": quadrature}
    if tolerance is None and budget is None:
        parts: Any = [(make(pairs, **settings), None)]
    else:
        parts = spend(make, pairs, sampling, settings, tolerance=tolerance, budget=budget, **ways)
    told = iter(read(process.readers, [text for pair in pairs for text in pair]))
    found: list[Estimate] = []
    for terms, spent in parts:
        some = [
            replace(estimate, readings=(next(told), next(told)), spent=spent)
            for estimate in terms.estimates(**ways)
        ]
        if terms.mixed.mean(axis=1).min() < FAR * roundoff(process, terms.sampling):
            their = pairs[len(found) : len(found) + len(some)]
            some = beside_floor(process, their, some, terms, **ways)
        found += some
    return found


def distance(
    process: GenerativeProcess,
    y1: str,
    y2: str,
    *,
    weighting: Weighting = "sde",
    quadrature: Quadrature = "log-snr",
    tolerance: float | None = None,
    budget: int | None = None,
    **settings: Unpack[Settings],
) -> Estimate:
    """d(y1, y2) by Algorithm 1: an :class:`Estimate`, in nats for the default weighting.

    The default weighting "sde" is the one that the theory names: the Jeffreys divergence between
    the two path measures, of the processes stopped at the end of a window of log-SNR. "score" and
    "noise" leave out g² and also the factor from noise to score. ``settings`` are those of
    :func:`pair_terms`: ``sampling`` or its fields (steps, draws, guidance, sampler, seed, spacing,
    log_snr), pairing, noise, batch_size, memory, progress; with ``tolerance=0.05`` steps and draws
    are as many as a relative error of that takes, within ``budget``, see :func:`distances`.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> d = cj.distance(process, "snow leopard", "bengal tiger", steps=2, draws=2)
    >>> float(d) == d.value > 0
    True
    """
    pairs = [(as_text("y1", y1), as_text("y2", y2))]
    ways: Any = {"weighting": weighting, "quadrature": quadrature}
    check_settings(**ways, **settings)  # a setting may be called as an argument below is
    return distances(process, pairs, tolerance=tolerance, budget=budget, **ways, **settings)[0]


def call_bytes(process: GenerativeProcess, rows: int) -> float:
    """Bytes that a network call of so many rows takes, roughly; 0 without a known network."""
    return 4.0 * HELD * rows * math.prod(process.latent_shape) * (process.network is not None)


def check_reach(process: GenerativeProcess, sampling: Sampling) -> None:
    """Raise ValueError where a single step takes x_T, which is noise, for a picture."""
    first = float(process.sampler(sampling).timesteps.max())
    if sampling.steps == 1 and first < 0.9 * process.schedule.T:
        raise ValueError(
            f"steps=1 visits timestep {first:g} of {process.schedule.T} alone, and starts from "
            "nothing but noise: take 2 steps or more"
        )


def roundoff(process: GenerativeProcess, sampling: Sampling) -> float:
    """About what w² ‖Δε‖² is where two equal predictions are rounded otherwise.

    Each number of ε is about 1, and is known to the precision of what the network computes in.
    """
    dtype = getattr(torch, process.dtype, torch.float32)
    relative = torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps
    return (sampling.guidance * relative) ** 2 * math.prod(process.latent_shape)


# -- what rounding alone makes -------------------------------------------------------------------


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
