"""The work behind Algorithm 1: trajectories once a prompt, two predictions a pair and step.

Trajectories wait on the CPU, within a budget. A pair set with more prompts than it holds is worked
off in groups of pairs that share theirs, so that memory stays constant and batches stay full.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conjure_lib.integrity import check_sound
from conjure_lib.process import GenerativeProcess
from conjure_lib.reading import UnreadWarning
from conjure_lib.sampling import Sampling

MEMORY = 2 << 30  # bytes: some 1,300 prompts of Stable Diffusion 1.x in ten steps
Pair = tuple[int, int]


def pair_squares(
    process: GenerativeProcess,
    prompts: Sequence[str],
    pairs: Sequence[Pair],
    noise: Tensor,
    *,
    sampling: Sampling,
    crossed: bool,
    batch_size: int,
    memory: int,
    progress: bool | None,
) -> tuple[np.ndarray, Tensor]:
    """‖Δε‖² times w² of P pairs (i, j) of ``prompts``, i < j: (P, draws, S, 2) and timesteps (S,).

    Each pair stands once in ``pairs``; ``noise`` is x_T, (draws, *latent_shape).
    """
    timesteps, draws = process.sampler(sampling).timesteps, sampling.numbers
    room = len(prompts)
    if room > batch_size:
        room = _room(process, prompts[0], sampling, memory)
    groups = _groups(pairs, len(prompts), room)
    rows_a_step = sum((1 + (sampling.guidance != 1)) * len(members) for members, _ in groups)
    rows_a_step += 0 if crossed else 2 * len(pairs)
    told: dict[str, Any] = {} if progress is None else {"disable": not progress}  # or TQDM_DISABLE
    told |= {"total": sampling.steps * len(draws) * rows_a_step, "delay": 0 if progress else 2}
    found = np.zeros((len(pairs), len(draws), sampling.steps, 2))
    with tqdm(desc="noise predictions", unit="eval", **told) as bar:
        for members, rows in groups:
            condition = process.encode([prompts[i] for i in members])
            ends = np.searchsorted(members, [pairs[row] for row in rows]).reshape(-1, 2)
            for some in chunks(range(len(draws)), max(1, batch_size // len(members))):
                x_T = noise[list(some)].to(process.device)
                texts = [prompts[i] for i in members]
                some_draws = replace(sampling, draws=[draws[d] for d in some])
                paths = _trajectories(process, condition, texts, x_T, some_draws, batch_size, bar)
                if crossed:
                    squares = _crossed(paths, ends, batch_size)
                else:
                    squares = sampling.guidance**2 * _cross_evaluate(
                        process, condition, paths, timesteps, ends, batch_size, bar
                    )
                    whose = [texts[i] for i in ends[:, ::-1].ravel()]  # predicted just now
                    fine = np.isfinite(squares.swapaxes(2, 3)).all(0).reshape(-1, len(timesteps))
                    check_sound(fine, timesteps.tolist(), whose)
                found[np.ix_(rows, some)] = squares.swapaxes(0, 1)
                del paths  # before the next ones are made: two would not fit
            del condition
    return found, timesteps


# -- the schedule -----------------------------------------------------------------------------


def tiled(pairs: Sequence[Pair], tile: int) -> list[int]:
    """An order of pairs (i, j) of prompts in which neighbours share theirs, as positions.

    The matrix of all pairs is walked in squares of ``tile`` prompts a side, so that a square, which
    has up to tile² pairs, needs 2 · tile trajectories and not tile². Pairs that share nothing stay
    in the order of their prompts.
    """
    keys = [(min(p) // tile, max(p) // tile, min(p), max(p)) for p in pairs]
    return sorted(range(len(pairs)), key=keys.__getitem__)


def _groups(pairs: Sequence[Pair], prompts: int, room: int) -> list[tuple[list[int], list[int]]]:
    """Groups of pairs that have at most ``room`` prompts: (their prompts, positions of the pairs).

    Everything is one group where it fits.
    """
    if prompts <= room:
        return [(list(range(prompts)), list(range(len(pairs))))]
    groups: list[tuple[set[int], list[int]]] = [(set(), [])]
    for row in tiled(pairs, room // 2):
        members, rows = groups[-1]
        if len(members) + sum(i not in members for i in pairs[row]) > room:
            members, rows = set(), []
            groups.append((members, rows))
        members.update(pairs[row])
        rows.append(row)
    return [(sorted(members), rows) for members, rows in groups]


def _room(process: GenerativeProcess, prompt: str, sampling: Sampling, memory: int) -> int:
    """How many prompts ``memory`` bytes hold, two at least."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadWarning)  # the prompt will be encoded once more
        condition = process.encode([prompt])
    path = sampling.steps * math.prod(process.latent_shape) * 4 * (2 + (sampling.guidance != 1))
    return max(2, memory // (path + condition.nbytes))


def chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """``rows`` in pieces of ``size``."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


# -- the loops ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    """States, own and guided predictions of n prompts in some draws, (draws, n, S, …), on the CPU.

    They wait there because together they can be larger than the network; a batch of rows goes back
    to the device, which is nothing beside what the network does with it.
    """

    x: Tensor
    eps: Tensor
    guided: Tensor


def _trajectories(
    process: GenerativeProcess,
    condition: Any,
    texts: Sequence[str],
    x_T: Tensor,
    sampling: Sampling,
    batch_size: int,
    bar: Any,
) -> _Paths:
    """Trajectories of all prompts in the draws of ``sampling``, x_T (draws, …)."""
    n, plain, draws = len(condition), sampling.guidance == 1, sampling.numbers
    unconditional = None if plain else process.encode([""])
    shape = (len(draws) * n, sampling.steps, *process.latent_shape)
    x, eps = (torch.empty(shape, dtype=torch.float32) for _ in range(2))
    guided = eps if plain else torch.empty_like(eps)
    for rows in chunks(range(len(x)), batch_size):
        d, i = (side.tolist() for side in np.divmod(np.array(rows), n))
        before = process.evaluations
        path = process.trajectories(
            condition[i],
            x_T[d],
            [draws[k] for k in d],
            sampling=sampling,
            unconditional=unconditional,
            texts=[texts[k] for k in i],
        )
        part = slice(rows[0], rows[-1] + 1)
        x[part], eps[part] = path.states.cpu(), path.eps.cpu()
        if not plain:
            guided[part] = path.guided.cpu()
        bar.update(process.evaluations - before)
    return _Paths(*(kept.unflatten(0, (len(draws), n)) for kept in (x, eps, guided)))


def _cross_evaluate(
    process: GenerativeProcess,
    condition: Any,
    paths: _Paths,
    timesteps: Tensor,
    ends: np.ndarray,
    batch_size: int,
    bar: Any,
) -> np.ndarray:
    """‖Δε‖² of each pair (i, j) on the trajectory of i and on that of j: (draws, pairs, S, 2)."""
    shape = (len(paths.x), len(ends), len(timesteps), 2)
    parts = []
    for rows in chunks(range(math.prod(shape)), batch_size):
        d, p, s, side = np.unravel_index(np.array(rows), shape)
        draw, step = torch.from_numpy(d), torch.from_numpy(s)
        at = torch.from_numpy(ends[p, side])  # whose trajectory
        other = torch.from_numpy(ends[p, 1 - side])  # whose prediction
        x, own = (kept[draw, at, step].to(process.device) for kept in (paths.x, paths.eps))
        difference = own - process.eps(x, timesteps[step].to(process.device), condition[other])
        parts.append(_norms(difference[:, None])[:, 0])
        bar.update(len(rows))
    squares = torch.cat(parts) if parts else torch.zeros(0)  # fetched at the end, all at once
    return squares.cpu().numpy().reshape(shape)


def _crossed(paths: _Paths, ends: np.ndarray, batch_size: int) -> np.ndarray:
    """‖ε(x̂_t|y1) - ε(x̃_t|y2)‖², which has no two sides: (draws, pairs, S, 2)."""
    draws, _, steps = paths.guided.shape[:3]
    found = np.zeros((draws, len(ends), steps, 2))
    for draw, guided in enumerate(paths.guided):
        for part in chunks(range(len(ends)), batch_size):
            first, second = torch.from_numpy(ends[list(part)]).T
            found[draw, list(part)] = norms(guided[first] - guided[second])[..., None]
    return found


def norms(difference: Tensor) -> np.ndarray:
    """Squared norms over all latent dimensions, float64: (a, b, …) to (a, b)."""
    return _norms(difference).cpu().numpy()


def _norms(difference: Tensor) -> Tensor:
    """The same, where ``difference`` is."""
    if difference.device.type == "mps":  # it has no float64
        difference = difference.cpu()
    return difference.double().flatten(2).square().sum(-1)
