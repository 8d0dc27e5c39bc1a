"""A distance as a loss or a reward, and prompts that are embeddings and no texts.

The quadrature in log-SNR is homogeneous of degree one in the terms D, so that with its weights
w = ∂F/∂D, taken as constants, Σ w D has both the value and the gradient of the estimate F.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from conjure_lib.capture import Conditioning
from conjure_lib.inputs import as_text
from conjure_lib.integrity import raw
from conjure_lib.process import GenerativeProcess, as_process, walking
from conjure_lib.sampling import Sampling, Single
from conjure_lib.terms import Terms

Prompt = str | Tensor | Conditioning


def distance_loss(
    process: GenerativeProcess,
    y1: Prompt,
    y2: Prompt,
    *,
    weighting: Any = "sde",
    quadrature: Any = "log-snr",
    sampling: Sampling | None = None,
    **single: Unpack[Single],
) -> Tensor:
    """d(y1, y2) as :func:`conjure_lib.distance` has it, a tensor () that has gradients.

    They flow through the trajectories too: into prompts that are embeddings, and into weights of
    the network that want them. Everything stays in memory: 4 evaluations a step and draw, 6 with
    guidance; take few steps. Sums are float32, or float64 where the network computes in it; there
    a sampler that draws noise draws other numbers than :func:`conjure_lib.distance` sees.

    Args:
        y1, y2: texts, or one row of what ``process.encode`` gives for one, a leaf or not.

    Raises:
        TypeError, ValueError: a prompt or a setting is not usable.

    >>> import conjure_lib as cj
    >>> from conjure_tools.gradients import distance_loss
    >>> process = cj.load()
    >>> cat = process.encode(["a cat"]).requires_grad_()
    >>> distance_loss(process, cat, "a dog", steps=2, draws=1).backward()
    >>> bool(cat.grad.abs().sum() > 0)
    True
    """
    sampling = as_process(process).settled(sampling, **single)
    process.sampler(sampling)  # raises where there is none, before any work
    told = [_row(process, name, y) for name, y in (("y1", y1), ("y2", y2))]
    empty = None if sampling.guidance == 1 else _row(process, "", "")
    draws = [_squares(process, told, empty, sampling, draw) for draw in sampling.numbers]
    squares = sampling.guidance**2 * torch.stack(draws)  # (draws, S, 2)
    times = process.sampler(sampling).timesteps
    known = squares.detach().double().cpu().numpy()[None]
    terms = Terms(known, times, process.schedule, sampling)
    weights = torch.tensor(terms.weights(weighting, quadrature)[0]).to(squares)
    return (weights * squares.mean((0, 2))).sum()


def _row(process: GenerativeProcess, name: str, y: Prompt) -> Tensor | Conditioning:
    """What the network is told of a prompt, one row."""
    if not isinstance(y, Tensor | Conditioning):
        return process.encode([as_text(name, y) if name else y])
    if len(y) != 1:
        raise ValueError(f"{name} must be the embedding of one prompt, one row, not {len(y)}")
    return y


def _parts(one: Tensor | Conditioning) -> list[Tensor]:
    """The tensors of an embedding of one row."""
    return list(one.rows[0].parts.values()) if isinstance(one, Conditioning) else [one]


def _squares(
    process: GenerativeProcess,
    told: Sequence[Tensor | Conditioning],
    empty: Tensor | Conditioning | None,
    sampling: Sampling,
    draw: int,
) -> Tensor:
    """‖Δε‖² on the trajectory of either prompt in one draw, (S, 2)."""
    return torch.stack(
        [_along(process, told[i], told[1 - i], empty, sampling, draw) for i in range(2)], dim=1
    )


def _along(
    process: GenerativeProcess,
    own: Tensor | Conditioning,
    other: Tensor | Conditioning,
    empty: Tensor | Conditioning | None,
    sampling: Sampling,
    draw: int,
) -> Tensor:
    """‖ε(x, t|own) - ε(x, t|other)‖² along the trajectory of ``own``, (S,)."""
    scheduler = process.sampler(sampling)
    size, seen, advance = walking(scheduler, sampling.seed, [draw])
    doubly = any(part.dtype == torch.float64 for part in _parts(own))
    x = process.noise([draw], sampling.seed).to(torch.float64 if doubly else torch.float32) * size
    found = []
    for step, t in enumerate(scheduler.timesteps):
        x_in, t_row = seen(x, t), t.to(process.device).expand(1)
        output = _output(process, x_in, t_row, own)
        process.evaluations += 2 + (empty is not None)
        eps = [
            process.to_eps(one, x_in, t_row)
            for one in (output, _output(process, x_in, t_row, other))
        ]
        found.append((eps[0] - eps[1]).square().sum())
        if empty is not None:
            without = _output(process, x_in, t_row, empty)
            output = without + sampling.guidance * (output - without)
        x = advance(output, step, x)
    return torch.stack(found)


def _output(
    process: GenerativeProcess, x: Tensor, t: Tensor, condition: Tensor | Conditioning
) -> Tensor:
    """The network's output with its gradients, in float32 or in float64 where it computes in it."""
    predict = getattr(process.predict, "__wrapped__", process.predict)
    output: Tensor = predict(x, t, condition)
    return output.to(torch.promote_types(output.dtype, torch.float32))


def with_embeddings(
    process: GenerativeProcess, embeddings: Mapping[str, Tensor | Conditioning]
) -> GenerativeProcess:
    """The same process that knows some prompts by name: what it is told of them is given.

    So all that takes texts takes embeddings: a name that is in ``embeddings`` stands for its
    embedding, one row of what ``process.encode`` gives, and any other text for itself.

    Raises:
        ValueError: an embedding is not one row.

    >>> import conjure_lib as cj
    >>> from conjure_tools.gradients import with_embeddings
    >>> process = cj.load()
    >>> between = (process.encode(["a cat"]) + process.encode(["a dog"])) / 2
    >>> more = with_embeddings(process, {"between": between})
    >>> near = cj.distance(more, "a cat", "between", steps=2, draws=1)
    >>> near < cj.distance(more, "a cat", "a dog", steps=2, draws=1)
    True
    """
    known = {as_text("a name", name): _row(process, name, one) for name, one in embeddings.items()}

    def encode(texts: Sequence[str]) -> Tensor | Conditioning:
        rows = [known[text] if text in known else process.encode([text]) for text in texts]
        if all(isinstance(row, Tensor) for row in rows):
            return torch.cat(rows)  # type: ignore[arg-type]
        return Conditioning.cat(rows)  # type: ignore[arg-type]

    digest = hashlib.sha256()
    for name, one in sorted(known.items()):
        digest.update(name.encode())
        for part in _parts(one):
            digest.update(raw(part))
    name = f"{process.name} with embeddings {digest.hexdigest()[:16]}"
    # the tokenizers know nothing of these names; what `encode` is left to read, it warns of itself
    return dataclasses.replace(process, encode=encode, name=name, readers=(), source=None)
