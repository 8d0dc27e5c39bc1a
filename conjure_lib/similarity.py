"""Algorithm 1: the distance between two prompts, many pairs, matrices.

    d(y1, y2) = E_{t, x ~ ½ p_t(·|y1) + ½ p_t(·|y2)} [ g(t)² ‖s(x,t|y1) - s(x,t|y2)‖² ]

(Liu and Soatto 2026). Each draw starts all prompts from one x_T. The trajectory of a prompt and
its own noise predictions are computed once and serve every pair that the prompt is in; a pair
then needs each prompt's prediction on the other's trajectory, two a step. Guidance multiplies the
difference by w exactly, so the unconditional prediction never enters it.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from conjure_lib.engine import MEMORY, norms, pair_squares
from conjure_lib.engine import chunks as chunks  # handed on
from conjure_lib.inputs import (
    as_numbers,
    as_pairs,
    as_prompts,
    as_text,
    draw_numbers,
    finite,
    one_of,
    whole,
)
from conjure_lib.machine import check_memory
from conjure_lib.process import GenerativeProcess, as_process, check_sound
from conjure_lib.reading import SAME, Reading, quoted, read, same, warn_alike, warn_same
from conjure_lib.sde import WEIGHTINGS, FlowSchedule, Schedule, Weighting, term_weights

Pairing = Literal["same", "crossed"]
PAIRINGS: tuple[str, ...] = get_args(Pairing)
HELD = 400  # numbers that a network holds at a time for each one of a latent; U-Nets more
NEAR = 10  # a distance below so many times the floor of rounding is not told from it


class RoundingWarning(UserWarning):
    """A distance is as small as what rounding alone makes."""


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate with its standard error.

    Attributes:
        value: the mean over draws. For weighting "sde" the Jeffreys divergence J of the two path
            measures in nats, J = T · d; for "score" and "noise" the mean over the visited timesteps
            of the weighted E‖Δε‖², which has no unit.
        stderr: standard error over draws; NaN for a single draw. It measures the noise of the
            draws, not the error of taking few steps.
        by_draw: (draws,), the value of each draw.
        by_step: (steps,), what each visited timestep adds to ``value`` (they sum to it).
        timesteps: (steps,), DDPM timesteps, noisiest first.
        floor: what rounding alone makes of a distance, measured where ``value`` is not far above
            it: a distance near its floor is not told from 0. None where it is far above.
        readings: what the model reads of either text, where it was asked.
    """

    value: float
    stderr: float
    by_draw: np.ndarray = field(repr=False)
    by_step: np.ndarray = field(repr=False)
    timesteps: np.ndarray = field(repr=False)
    floor: float | None = None
    readings: tuple[Reading, ...] = field(default=(), repr=False)

    @classmethod
    def from_terms(
        cls,
        terms: np.ndarray,
        timesteps: Tensor,
        schedule: Schedule | FlowSchedule,
        weighting: Weighting,
    ) -> Estimate:
        """From ‖Δε‖² of shape (draws, steps, 2): at x̂_t of y1 and at x̃_t of y2.

        Raises:
            ValueError: a term is not finite, with its timestep.
        """
        weights = term_weights(schedule, timesteps, weighting).numpy()
        per_step = terms.mean(axis=2) * weights  # (draws, steps): the mixture is the mean of halves
        check_sound(np.isfinite(per_step), timesteps.tolist())
        by_draw = per_step.sum(axis=1)
        draws = len(by_draw)
        stderr = float(by_draw.std(ddof=1) / math.sqrt(draws)) if draws > 1 else math.nan
        return cls(
            float(by_draw.mean()), stderr, by_draw, per_step.mean(axis=0), timesteps.cpu().numpy()
        )

    @property
    def same_tokens(self) -> bool:
        """Whether the two texts differ and the model cannot tell: zero says nothing of them."""
        return len(self.readings) == 2 and same(*self.readings)

    def __str__(self) -> str:
        if self.same_tokens:  # a zero that says nothing of the texts
            return f"not told apart: the texts differ, and {SAME}"
        return f"{self.value:.4g} ± {self.stderr:.2g}"


def pair_terms(
    process: GenerativeProcess,
    pairs: Any,
    *,
    steps: int = 10,
    draws: int | Sequence[int] = 5,
    guidance: float = 1.0,
    sampler: str = "ddim",
    pairing: Pairing = "same",
    seed: int = 0,
    noise: Tensor | None = None,
    batch_size: int = 64,
    memory: int = MEMORY,
    progress: bool | None = None,
) -> tuple[np.ndarray, Tensor]:
    """The raw material of every estimate: ‖Δε‖² before any weighting.

    Args:
        process: a loaded model.
        pairs: P pairs of prompts, as a list or in a table, see :func:`conjure_lib.inputs.as_pairs`;
            repeated prompts and pairs cost nothing.
        steps: S sampler steps, each of which visits one timestep.
        draws: k Monte Carlo draws of x_T (and of the sampler's noise): 0 … k-1, or the numbers
            of the wanted ones.
        guidance: w; the terms carry its factor w².
        pairing: "same": both predictions at the same x, as Girsanov's theorem asks; "crossed":
            ε(x̂_t|y1) - ε(x̃_t|y2), one printed form of the algorithm, kept for comparison.
        noise: x_T of every draw, (draws, *latent_shape); drawn from ``seed`` where not given.
        batch_size: rows a network call; changes the speed and not the numbers.
        memory: bytes that trajectories and text conditions may take. A pair set with more prompts
            than fit is worked off in groups, and a prompt of two groups is started twice.
        progress: a progress bar; by default where the work takes more than two seconds.

    Returns:
        Terms (P, draws, S, 2), float64, at the trajectory of the first and of the second prompt
        of each pair, and the visited timesteps (S,).

    Raises:
        TypeError, ValueError: a setting or a prompt is not usable; the message says which.
        ValueError: a number on the way is NaN, infinite or too large; the message says at which
            prompt and timestep that began.
    """
    check_settings(
        steps=steps,
        draws=draws,
        pairing=pairing,
        guidance=guidance,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    as_process(process)
    process.sampler(sampler, steps)  # raises where there is none, before any work
    numbers, pairs = draw_numbers(draws), as_pairs(pairs)
    prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in pair))
    ways = 2 + (guidance != 1)  # numbers that are kept of each number of a latent
    rows = min(batch_size, len(numbers) * len(prompts))  # of trajectories at a time
    size = math.prod(process.latent_shape) * 4.0 * (len(numbers) + rows * steps * ways)
    count = 2 * len(pairs) * len(numbers) * steps
    size += 16.0 * count + call_bytes(process, min(batch_size, max(rows, count)))
    what = (
        f"{len(pairs)} pairs with {len(numbers)} draws in {steps} steps (batch_size={batch_size})"
    )
    check_memory(what, size)
    noise = _start(process, numbers, seed, noise)
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
        numbers,
        noise,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        seed=seed,
        crossed=pairing == "crossed",
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    position = {pair: i for i, pair in enumerate(unique)}
    terms = np.zeros((len(wanted), len(numbers), steps, 2))
    for row, (i, j) in enumerate(wanted):
        if told[i] != told[j]:  # of equal tokens both predictions are one: exactly zero
            both = found[position[min(i, j), max(i, j)]]
            terms[row] = both if i < j else both[..., ::-1]
    return terms, timesteps


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
    **settings: Any,
) -> list[Estimate]:
    """The distance of each pair; ``settings`` are those of :func:`pair_terms`.

    A pair whose distance rounding alone could have made is named in a :class:`RoundingWarning`.

    Raises:
        TypeError, ValueError: as :func:`pair_terms`; so few steps that none of them sees noise.
    """
    check_known(settings)
    check_settings(weighting=weighting, **settings)
    as_process(process)
    check_reach(process, **{k: settings[k] for k in ("sampler", "steps") if k in settings})
    pairs = as_pairs(pairs)
    terms, timesteps = pair_terms(process, pairs, **settings)
    told = iter(read(process.readers, [text for pair in pairs for text in pair]))
    found = [
        replace(
            Estimate.from_terms(t, timesteps, process.schedule, weighting),
            readings=(next(told), next(told)),
        )
        for t in terms
    ]
    return _beside_floor(process, pairs, found, terms, weighting, settings)


def _beside_floor(
    process: GenerativeProcess,
    pairs: Sequence[tuple[str, str]],
    found: list[Estimate],
    terms: np.ndarray,
    weighting: Weighting,
    settings: dict[str, Any],
) -> list[Estimate]:
    """The estimates; those that are not far above the floor of rounding with that floor, warned of.

    Measuring it costs as much as a pair, so it is done only where a term is small beside ‖ε‖²,
    which is about the number of latent dimensions.
    """
    guidance, precision = settings.get("guidance", 1.0), _precision(process)
    size = guidance**2 * math.prod(process.latent_shape)
    least = terms.mean(axis=(1, 3)).min(axis=1) / size  # (P,)
    small = np.flatnonzero(least < (50 * precision) ** 2)
    rows = [i for i in small.tolist() if len(set(pairs[i])) > 1 and not found[i].same_tokens]
    if not rows:
        return found
    way = {k: settings[k] for k in ("steps", "guidance", "sampler", "seed") if k in settings}
    rounding, timesteps = floor(process, pairs[rows[0]][0], **way)
    # where both batches happen to be rounded alike, predictions have no more digits for it
    rounding = np.maximum(rounding, size * precision**2)
    least_value = Estimate.from_terms(rounding[0], timesteps, process.schedule, weighting).value
    near = [i for i in rows if found[i].value < NEAR * least_value]
    for i in rows:
        found[i] = replace(found[i], floor=least_value)
    if near:
        first, second = map(quoted, pairs[near[0]])
        more = f" and of {len(near) - 1} more" if near[1:] else ""
        warnings.warn(
            f"the distance of {first} and {second}{more} is {found[near[0]].value:.2g}, "
            f"and rounding alone makes {least_value:.2g}: it is not told from 0",
            RoundingWarning,
            stacklevel=4,
        )
    return found


def _precision(process: GenerativeProcess) -> float:
    """The relative precision of a noise prediction's numbers."""
    dtype = getattr(torch, process.dtype, torch.float32)
    return torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps


def distance(
    process: GenerativeProcess,
    y1: str,
    y2: str,
    *,
    weighting: Weighting = "sde",
    **settings: Any,
) -> Estimate:
    """d(y1, y2) by Algorithm 1: an :class:`Estimate`, in nats for the default weighting.

    The default weighting "sde" is the one that the theory names: the Jeffreys divergence between
    the two path measures. "score" and "noise" leave out g² and also the factor from noise to
    score. ``settings`` (steps, draws, guidance, sampler, pairing, seed, noise, batch_size,
    progress) are those of :func:`pair_terms`.
    """
    check_known(settings)
    return distances(
        process, [(as_text("y1", y1), as_text("y2", y2))], weighting=weighting, **settings
    )[0]


@dataclass(frozen=True)
class DistanceMatrix:
    """Distances of n prompts: ``value`` and ``stderr`` (n, n), symmetric with zero diagonals.

    ``same_tokens`` (n, n) holds where two prompts differ and the model cannot tell them apart, and
    ``readings`` what it reads of each prompt.
    """

    prompts: list[str]
    value: np.ndarray
    stderr: np.ndarray
    same_tokens: np.ndarray
    readings: list[Reading]


def distance_matrix(process: GenerativeProcess, prompts: Any, **settings: Any) -> DistanceMatrix:
    """All pairwise distances of ``prompts``; ``settings`` are those of :func:`distances`.

    Raises:
        TypeError, ValueError: as :func:`distances`; fewer than two prompts.
    """
    check_known(settings.keys() - {"weighting"})
    prompts = as_prompts(prompts)
    if len(prompts) < 2:
        raise ValueError(
            f"a matrix of distances needs 2 prompts or more, not only {quoted(prompts[0])}"
        )
    rows, columns = np.triu_indices(len(prompts), 1)
    pairs = [(prompts[i], prompts[j]) for i, j in zip(rows, columns, strict=True)]
    estimates = distances(process, pairs, **settings)
    both = np.zeros((2, len(prompts), len(prompts)))  # values, standard errors
    both[:, rows, columns] = [[e.value for e in estimates], [e.stderr for e in estimates]]
    both += both.transpose(0, 2, 1)
    alike = np.zeros((len(prompts), len(prompts)), bool)
    alike[rows, columns] = alike[columns, rows] = [e.same_tokens for e in estimates]
    return DistanceMatrix(prompts, both[0], both[1], alike, read(process.readers, prompts))


@dataclass(frozen=True)
class Trace:
    """One draw of Algorithm 1 laid open, for looking at.

    Attributes:
        prompts: (y1, y2).
        timesteps: (S,).
        states: (2, S, *latent_shape); [i] is the trajectory of prompt i.
        eps: (2, 2, S, *latent_shape); [i, j] is the prediction of prompt j on trajectory i.
        guidance: what the trajectories were drawn with.
    """

    prompts: tuple[str, str]
    timesteps: Tensor
    states: Tensor
    eps: Tensor
    guidance: float

    def terms(self) -> np.ndarray:
        """‖Δε‖² times w², (1, S, 2): one draw, as :func:`pair_terms` gives it."""
        square = norms(self.eps[:, 0] - self.eps[:, 1])  # (2, S)
        return self.guidance**2 * square.T[None]


def trace(
    process: GenerativeProcess,
    y1: str,
    y2: str,
    *,
    steps: int = 10,
    guidance: float = 1.0,
    sampler: str = "ddim",
    seed: int = 0,
    draw: int = 0,
) -> Trace:
    """Both trajectories of one draw, with both prompts' predictions along each."""
    check_settings(steps=steps, draws=[draw], guidance=guidance, seed=seed)
    as_process(process)
    process.sampler(sampler, steps)
    check_memory(f"steps={steps}", 32.0 * steps * math.prod(process.latent_shape))
    prompts = (as_text("y1", y1), as_text("y2", y2))
    warn_alike(process.readers, prompts)
    condition = process.encode(prompts)
    x_T = process.noise([draw], seed).expand(2, *process.latent_shape)
    path = process.trajectories(
        condition,
        x_T,
        [draw] * 2,
        steps=steps,
        guidance=guidance,
        sampler=sampler,
        seed=seed,
        texts=prompts,
    )
    t = path.timesteps.to(process.device)
    other = torch.stack(
        [process.eps(path.states[i], t, condition[[1 - i] * steps]) for i in range(2)]
    )
    check_sound(other.isfinite().flatten(2).all(2), t.tolist(), prompts[::-1])
    eps = torch.stack([torch.stack([path.eps[0], other[0]]), torch.stack([other[1], path.eps[1]])])
    return Trace(prompts, path.timesteps, path.states, eps, guidance)


@torch.no_grad()
def floor(
    process: GenerativeProcess,
    prompt: str,
    *,
    steps: int = 10,
    guidance: float = 1.0,
    sampler: str = "ddim",
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[np.ndarray, Tensor]:
    """The distance of a prompt from itself that rounding alone makes, as :func:`pair_terms`.

    Every prediction of one trajectory is made twice, in a batch of ``batch_size`` equal rows and
    alone: other sums are rounded otherwise; guidance multiplies by w². Terms (1, 1, S, 2) and
    timesteps (S,). A distance near this floor is rounding. A floor of zero says that this machine
    rounds both batches alike, and not that it does not round.
    """
    check_settings(steps=steps, guidance=guidance, seed=seed, batch_size=batch_size)
    as_process(process)
    process.sampler(sampler, steps)
    kept = 8.0 * batch_size * steps * math.prod(process.latent_shape)
    check_memory(f"batch_size={batch_size}", kept + call_bytes(process, batch_size))
    condition, before = process.encode([as_text("prompt", prompt)]), process.evaluations
    x_T = process.noise([0], seed)
    path = process.trajectories(
        condition[[0] * batch_size],
        x_T.expand(batch_size, *process.latent_shape),
        [0] * batch_size,
        steps=steps,
        sampler=sampler,
        seed=seed,
        texts=[prompt] * batch_size,
    )
    x, t = path.states[:1], path.timesteps.to(process.device)
    alone = [process.eps(x[:, s], t[s : s + 1], condition) for s in range(steps)]
    square = norms(path.eps[:1] - torch.stack(alone, dim=1))  # (1, S)
    process.evaluations = before  # a measurement of the machine, not of a pair
    return guidance**2 * np.stack([square, square], axis=2)[None], path.timesteps


def check_known(settings: Iterable[str]) -> None:
    """Raise TypeError where one of the names is no setting of :func:`pair_terms`."""
    parameters = inspect.signature(pair_terms).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(settings) - set(known)):
        raise TypeError(f"there is no setting {', '.join(unknown)}: there are {', '.join(known)}")


def check_settings(**settings: Any) -> None:
    """Check those of the settings of :func:`pair_terms`, and a weighting, that ask for no model.

    Raises:
        TypeError, ValueError: one is not usable; the message says which and what would be.
    """
    for name, least in (("steps", 1), ("batch_size", 1), ("memory", 1), ("seed", 0)):
        if name in settings:
            whole(name, settings[name], least)
    for name, known in (("weighting", WEIGHTINGS), ("pairing", PAIRINGS)):
        if name in settings:
            one_of(name, settings[name], known)
    draw_numbers(settings.get("draws", 1))
    if not isinstance(settings.get("progress"), bool | None):
        raise TypeError(f"progress must be True, False or None, not {settings['progress']!r}")
    w = finite("guidance", settings.get("guidance", 1.0))
    if w == 0:
        raise ValueError(
            "guidance=0 follows no prompt and makes every distance 0: for no guidance take 1"
        )
    if not sys.float_info.min <= w * w <= sys.float_info.max:
        raise ValueError(f"guidance must have a square that float64 holds, not {w:g}")


def call_bytes(process: GenerativeProcess, rows: int) -> float:
    """Bytes that a network call of so many rows takes, roughly; 0 without a known network."""
    return 4.0 * HELD * rows * math.prod(process.latent_shape) * (process.network is not None)


def check_reach(process: GenerativeProcess, sampler: str = "ddim", steps: int = 10) -> None:
    """Raise ValueError where a single step takes x_T, which is noise, for a picture."""
    first = float(process.sampler(sampler, steps).timesteps.max())
    if steps == 1 and first < 0.9 * process.schedule.T:
        raise ValueError(
            f"steps=1 visits timestep {first:g} of {process.schedule.T} alone, and starts from "
            "nothing but noise: take 2 steps or more"
        )
