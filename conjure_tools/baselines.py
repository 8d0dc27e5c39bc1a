"""What the distance is compared with: cheaper readings of the same model, and other models.

Every function gives the similarity of P pairs of prompts, (P,) in float64, larger is closer, and
raises a TypeError or ValueError that names the setting or prompt which is not usable. What belongs
to a prompt is computed once for it, however many pairs it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from conjure_lib import Spacing
from conjure_lib.engine import chunks
from conjure_lib.inputs import as_numbers, as_pairs, one_of, whole
from conjure_lib.integrity import check_sound, sound
from conjure_lib.process import GenerativeProcess
from conjure_lib.reading import TEXTS
from conjure_lib.sampling import DEFAULT, check_settings
from conjure_tools.distributions import (
    few_enough,
    fit_gaussians,
    gaussian_frechet,
    gaussian_jeffreys,
    principal_components,
    shrunk_covariance,
)

Pairs = Any  # of any shape that `inputs.as_pairs` takes
Output = Callable[[Sequence[str], int], Tensor]  # n prompts and a draw to (n, …), on the CPU
DRAWS = len(DEFAULT.numbers)


class Outputs(TypedDict, total=False):
    """How the outputs of a text are made: the fields of `Sampling` but the draws and the window."""

    steps: int
    guidance: float
    sampler: str | None
    seed: int
    spacing: Spacing


def initial_timestep(
    process: GenerativeProcess,
    pairs: Pairs,
    *,
    steps: int = DEFAULT.steps,
    draws: int = DRAWS,
    seed: int = DEFAULT.seed,
    guidance: float = DEFAULT.guidance,
    batch_size: int = 64,
) -> np.ndarray:
    """Minus the mean over draws of ‖ε(x_T, T|y1) - ε(x_T, T|y2)‖²: Algorithm 1's first term alone.

    T is the noisiest timestep that a sampler of ``steps`` visits: 901 of 1000 for ten steps of
    Stable Diffusion v1.4 and of the embedded model. One evaluation a unique prompt and draw;
    ``guidance`` w only multiplies by w², and a single timestep needs no weighting. A flow starts at
    T itself, where Δε = (1 - σ) Δv is 0 whatever its network says: there it is ‖Δv‖².

    Source: "initial timestep prediction" in Liu and Soatto (2026), known to us by name only. The
    difference of the two predictions at the initial timestep, at x_T, is our reading.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.baselines import initial_timestep
    >>> initial_timestep(process, [("cat", "dog")], draws=1).shape
    (1,)
    """
    _check({"guidance": guidance, "seed": seed, "steps": steps}, draws=draws, batch_size=batch_size)
    sampler = process.sampler(sampler=next(iter(process.samplers)), steps=steps)
    first = sampler.timesteps[0].to(process.device)
    ask = process.output if process.kind == "flow" else process.eps

    def output(prompts: Sequence[str], draw: int) -> Tensor:
        x_T = process.noise([draw], seed).expand(len(prompts), *process.latent_shape)
        found = ask(x_T, first.expand(len(prompts)), process.encode(prompts)).cpu()
        check_sound(sound(found)[:, None], [float(first)], prompts)
        return found

    return guidance**2 * _minus_squares(pairs, output, draws, batch_size, "initial timestep")


def direct_output(
    process: GenerativeProcess,
    pairs: Pairs,
    *,
    space: Literal["latents", "pixels"] = "latents",
    draws: int = DRAWS,
    batch_size: int = 64,
    **sampling: Unpack[Outputs],
) -> np.ndarray:
    """Minus the mean over draws of ‖o(y1) - o(y2)‖², o(y) being what y makes of the same x_T.

    o is the final latent or, for "pixels", the picture decoded from it, values in [0, 1];
    ``sampling`` is what :class:`Outputs` names, by default as in `Sampling`. One trajectory a
    unique prompt and draw. An output is held from the first pair that needs it to the last, of one
    draw at a time: little more than a batch for sentence pairs, all n for all pairs of n prompts.

    Source: "direct output comparison" in Liu and Soatto (2026), known to us by name only. The
    squared distance between the final outputs is our reading.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.baselines import direct_output
    >>> direct_output(process, [("cat", "dog")], draws=1, steps=2).shape
    (1,)
    """
    _check(sampling, draws=draws, batch_size=batch_size)
    one_of("space", space, ("latents", "pixels"))
    made = final_latents if space == "latents" else _pictures
    output: Output = partial(made, process, **sampling)
    return _minus_squares(pairs, output, draws, batch_size, "direct output")


def has_lengths(process: GenerativeProcess) -> bool:
    """Whether texts are read by one encoder alone, which says where they end."""
    parts = process.modules
    return bool(process.readers) and "unet" in parts and "text_encoder_2" not in parts


def lengths(process: GenerativeProcess, texts: Sequence[str]) -> Tensor:
    """Numbers of tokens up to the end-of-text token, (n,).

    Raises:
        ValueError: the model does not say where its texts end.
    """
    if not has_lengths(process):
        raise ValueError(f"{process.name} gives no lengths: it does not say where its texts end")
    tokenizer = process.readers[0].tokenizer
    with TEXTS:
        tokens = tokenizer(list(texts), truncation=True, max_length=tokenizer.model_max_length)
    return torch.tensor([len(ids) for ids in tokens["input_ids"]])


def text_encoder_cosine(
    process: GenerativeProcess, pairs: Pairs, *, pooling: Literal["last", "mean"] = "last"
) -> np.ndarray:
    """Cosine of the model's own text encoder: what the images have to add to.

    "last" takes the hidden state of the end-of-text token, as CLIP does (Radford et al. 2021) but
    before CLIP's projection, which a diffusion model lacks: in a causal encoder it is the first to
    have read the whole text, and padding follows it. "mean" takes the mean from the first token of
    the text to that one; the begin-of-text token is blind to the text, hence the same for all.

    >>> import conjure_lib as cj
    >>> process = cj.load()
    >>> from conjure_tools.baselines import text_encoder_cosine
    >>> bool(text_encoder_cosine(process, [("cat", "dog")])[0] < 1)
    True
    """
    one_of("pooling", pooling, ("last", "mean"))
    prompts, index = unique(pairs)
    pooled = []
    for texts in chunks(prompts, 64):
        hidden = process.encode(texts).cpu().double()  # (n, tokens, width)
        at, end = torch.arange(hidden.shape[1]), lengths(process, texts)[:, None] - 1
        taken = at == end if pooling == "last" else (at > 0) & (at <= end)  # (n, tokens)
        pooled.append(torch.einsum("nt,ntw->nw", taken.double(), hidden))
    return cosines(torch.cat(pooled), index, prompts)  # to which a sum is as good as a mean


def image_gaussian(
    process: GenerativeProcess,
    pairs: Pairs,
    *,
    divergence: Literal["frechet", "jeffreys"] = "frechet",
    images: int = 16,
    components: int = 8,
    batch_size: int = 64,
    **sampling: Unpack[Outputs],
) -> np.ndarray:
    """Minus a divergence between Gaussians fitted to the generated images of either prompt.

    Each of U unique prompts makes ``images`` samples, from the same x_T as every other, with the
    ``sampling`` of :func:`direct_output`. Their latents, flattened, are projected on the
    ``components`` principal components of all samples (a value depends on the other pairs too;
    memory is U · images · width) and covariances are shrunk (Ledoit and Wolf 2004). "frechet": the
    squared distance of Dowson and Landau (1982), FID's; "jeffreys": KL(1‖2) + KL(2‖1) in nats,
    which asks for three images or more: two have no covariance that could be shrunk.
    """
    one_of("divergence", divergence, ("frechet", "jeffreys"))
    shrunk_covariance()  # whose library may be missing: before the images are made
    _check(sampling, components=components, batch_size=batch_size)
    whole("images", images, 3 if divergence == "jeffreys" else 1)
    prompts, index = unique(pairs)
    few_enough(components, len(prompts) * images)
    output: Output = partial(final_latents, process, **sampling)
    bar = tqdm(range(images), desc="images", unit="draw", delay=2)
    drawn = [torch.cat([output(c, d).flatten(1) for c in chunks(prompts, batch_size)]) for d in bar]
    samples = torch.stack(drawn, dim=1).double().numpy()  # (U, images, width)
    means, covariances = fit_gaussians(principal_components(samples, components))
    compare = gaussian_frechet if divergence == "frechet" else gaussian_jeffreys
    return -compare(means, covariances, *index)


# -- what several share ----------------------------------------------------------------------


def final_latents(
    process: GenerativeProcess, prompts: Sequence[str], draw: int, **sampling: Unpack[Outputs]
) -> Tensor:
    """The final latents of prompts, all from the x_T of a draw: (n, *latent_shape), on the CPU."""
    seed = sampling.get("seed", DEFAULT.seed)
    x_T = process.noise([draw], seed).expand(len(prompts), *process.latent_shape)
    draws, condition = [draw] * len(prompts), process.encode(prompts)
    return process.trajectories(condition, x_T, draws, texts=prompts, **sampling).final.cpu()


def _pictures(
    process: GenerativeProcess, prompts: Sequence[str], draw: int, **sampling: Unpack[Outputs]
) -> Tensor:
    """What :func:`final_latents` are pictures of."""
    if process.decode is None:
        raise ValueError(f"{process.name} has no decoder: it makes no pictures")
    latents = final_latents(process, prompts, draw, **sampling).to(process.device)
    return torch.as_tensor(as_numbers("a picture", process.decode(latents)))


def _minus_squares(
    pairs: Pairs, output: Output, draws: int, batch_size: int, label: str
) -> np.ndarray:
    """Minus the mean over draws of the squared distance between a pair's outputs, (P,)."""
    prompts, index = unique(pairs)
    ready, last = index.max(axis=0), np.zeros(len(prompts), int)  # by position among the prompts
    for side in index:
        np.maximum.at(last, side, ready)
    total, held = np.zeros(len(ready)), dict[int, Tensor]()
    work = [(d, start) for d in range(draws) for start in range(0, len(prompts), batch_size)]
    for draw, start in tqdm(work, desc=label, unit="batch", delay=2):
        stop = min(start + batch_size, len(prompts))
        rows = output(prompts[start:stop], draw)
        held |= {i: rows[i - start].clone() for i in range(start, stop)}  # no view of the batch
        for p in np.flatnonzero((ready >= start) & (ready < stop)):
            first, second = (held[int(i)].double() for i in index[:, p])
            total[p] -= float((first - second).square().sum())
        held = {i: row for i, row in held.items() if last[i] >= stop}
    return total / draws


def unique(pairs: Pairs) -> tuple[list[str], np.ndarray]:
    """The U unique prompts in order of appearance, and each pair's two among them, (2, P)."""
    flat = [prompt for pair in as_pairs(pairs) for prompt in pair]
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(flat))}
    return list(place), np.array([place[prompt] for prompt in flat]).reshape(-1, 2).T


def cosines(vectors: Tensor, index: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Cosine of the rows of vectors (U, width) that each column of index (2, P) names, (P,)."""
    lengths = vectors.norm(dim=1)
    for prompt, length in zip(prompts, lengths.tolist(), strict=True):
        if not 0 < length < math.inf:
            raise ValueError(f"the vector of {prompt!r} has length {length}, and no cosine")
    unit = F.normalize(vectors, dim=1).numpy()
    return np.einsum("pw,pw->p", unit[index[0]], unit[index[1]])


def _check(sampling: Outputs, *, batch_size: int, draws: int = 1, **counts: int) -> None:
    """Raise TypeError or ValueError where a setting is not usable; the model knows its samplers."""
    known: Any = {k: v for k, v in sampling.items() if k != "sampler"}
    check_settings(**known, batch_size=batch_size, draws=draws)
    for name, count in (counts | {"draws": draws}).items():
        whole(name, count)
