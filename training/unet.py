"""The U-Net: denoising of 16×8×8 latents under a text, in diffusers' own class.

Every picture is drawn and encoded once, before training; captions are drawn anew each time a
picture is seen, and are empty one time in ten, for classifier-free guidance. The noise schedule is
that of Stable Diffusion 1.x (scaled_linear 0.00085 to 0.012, 1000 steps); the target is v, as in
Stable Diffusion 2 (v_prediction), for the reason that :func:`train_unet` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel

from conjure_tools.hardware import autocast
from training.autoencoder import CHANNELS, encoded
from training.exact import KnownPictures, at_ends
from training.loop import save_atomically, train
from training.pictures import Emoji, Picture, caption, compose
from training.text_encoder import LENGTH, WIDTH

WIDTHS = (96, 160)
HELD_OUT = 256  # scenes at the end of the set that are only measured on
ALONE = 0.8  # share of single emoji in a batch
DROPPED = 0.1  # share of empty captions
GAMMA = 5.0  # where the loss of low noise is held down, see train_unet


@dataclass(frozen=True)
class Taught:
    """Texts of single emoji beside their captions, and the model that knows what they mean.

    Attributes:
        known: the pictures, with a standard deviation of 0.
        words: common ones.
        sentences: glosses, examples, rare words.
    """

    known: KnownPictures
    words: Sequence[str]
    sentences: Sequence[str]

    def replace(self, texts: list[str], alone: Tensor, rng: np.random.Generator) -> None:
        """Put a word or a sentence in the place of two in five captions, but of no empty one."""
        for i in np.flatnonzero(alone.numpy() & (rng.random(len(texts)) < 0.4)):
            if texts[i]:
                pool = self.sentences if rng.random() < 0.3 else self.words
                texts[i] = pool[int(rng.integers(len(pool)))]

    def pictures(self, log_weights: Tensor, generator: torch.Generator) -> Tensor:
        """A picture that each text of a batch means or, three in ten times, its neighbour's."""
        own = torch.arange(len(log_weights))
        other = torch.rand(len(own), generator=generator) < 0.3
        weights = log_weights[torch.where(other, own.roll(1), own)].exp()
        return self.known.centres[torch.multinomial(weights, 1, generator=generator)[:, 0]]


@torch.no_grad()
def taught(
    text_encoder: CLIPTextModel,
    tokenizer: Any,
    names: Sequence[str],
    latents: Tensor,
    words: Sequence[str],
    sentences: Sequence[str],
) -> Taught:
    """What is known of pictures ``latents`` (K, …) with these ``names``; words are of one token."""
    parts = [names[first : first + 256] for first in range(0, len(names), 256)]
    ends = torch.cat([at_ends(*encode_texts(text_encoder, tokenizer, part)) for part in parts])
    ids = tokenizer(list(words))["input_ids"]
    common = [word for word, its in zip(words, ids, strict=True) if len(its) == 3]  # with two signs
    return Taught(KnownPictures(latents.flatten(1), ends, std=0.0), common, sentences)


@torch.no_grad()
def encode_texts(
    text_encoder: CLIPTextModel, tokenizer: Any, texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Hidden states (n, 32, 192), and the places of the ends of the texts, (n,)."""
    tokens = tokenizer(
        list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    hidden = text_encoder(input_ids=tokens.input_ids).last_hidden_state
    return hidden, tokens.attention_mask.sum(1) - 1


def build() -> UNet2DConditionModel:
    """A fresh U-Net of 7.6 million parameters, untrained.

    A text reaches it twice: token by token through cross-attention, and pooled, added to the
    embedding of the timestep (``addition_embed_type="text"``).
    """
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=[width // 32 for width in WIDTHS],  # diffusers: the number of heads
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=6,
    )


def build_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.x, read by DDIM."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


@torch.no_grad()
def encode_pictures(
    autoencoder: AutoencoderKL,
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    cache: Path,
) -> Tensor:
    """Latents (n, 16, 8, 8) of ``pictures``, drawn once each; kept in ``cache``."""
    if cache.exists():
        latents = load_file(cache)["latents"].float()
        if len(latents) != len(pictures):
            raise ValueError(f"{cache} was made for other pictures: delete it")
        return latents
    latents = encoded(autoencoder, pictures, emoji)
    save_atomically({"latents": latents.half()}, cache)
    return latents.half().float()


def train_unet(
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    latents: Tensor,
    text_encoder: CLIPTextModel,
    tokenizer: Any,
    folder: Path,
    steps: int,
    *,
    batch: int = 32,
    learning_rate: float = 1e-3,
    start: UNet2DConditionModel | None = None,
    gamma: float = GAMMA,
    swapped: float = 0.0,
    taught: Taught | None = None,
) -> UNet2DConditionModel:
    """Train (or resume): squared error of v = α ε - σ x_0, weighted by min(1, ``gamma``/SNR).

    The error of x_0 is σ² that of v, and σ²/α² that of ε. Where the noise is high and the text has
    all to say, ε is nearly x_t itself, and its squared error weighs the picture with its SNR, 0.005
    at the last timestep: a picture is learned from its text many times faster through v (Salimans
    and Ho 2022). Where the noise is low it cannot be told from the picture's own detail, its error
    is large whatever is learned, and the weight holds it down (Hang et al. 2023). The timesteps of
    a batch are stratified.

    A distance asks for more than pictures do: what a text predicts at low noise for the picture of
    *another* text. There the picture is told by x_t alone, and were one caption in a thousand
    wrong, the best prediction would not depend on the text any more. A network that has met only
    its own captions does not know that, and answers at random. So a second stage weights all noise
    alike (``gamma`` infinite) and gives a share of the pictures above an SNR of 1 a caption of
    their neighbours in the batch.

    Args:
        start: a U-Net to go on from; a fresh one by default.
        pictures: those of :func:`picture_set`: every single emoji once, then scenes.
        latents: of ``pictures``, (n, 16, 8, 8), already multiplied by the scaling factor.
        gamma: the SNR above which the loss is held down.
        swapped: share of wrong captions among pictures of an SNR above 1.
        taught: texts of every kind, whose predictions of single emoji are known: of these the
            target is the expectation of v, not a sample of it, and three in ten have an x_t of
            another text's picture.
    """
    torch.manual_seed(5)
    model = (start or build()).requires_grad_(True)
    for part in model.modules():
        if isinstance(part, UNet2DConditionModel):  # alone, or behind a reader
            part.set_attn_processor(AttnProcessor())  # faster backward than SDPA's on a CPU
    alpha_bar = build_scheduler().alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    weight = (gamma / snr).clamp(max=1.0)  # of the squared error of v
    singles, seen = len(emoji), len(pictures) - HELD_OUT

    def captions(rows: Tensor, rng: np.random.Generator) -> list[str]:
        return [
            "" if rng.random() < DROPPED else caption(pictures[i], emoji, rng)
            for i in rows.tolist()
        ]

    def errors(
        rows: Tensor, generator: torch.Generator, *, learning: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of each row, and the timestep it was measured at."""
        rng = np.random.default_rng(generator.initial_seed())
        texts, alone, x0 = captions(rows, rng), rows < singles, latents[rows]
        strata = torch.randperm(len(rows), generator=generator)
        t = (strata + torch.rand(len(rows), generator=generator)) * (1000 / len(rows))
        t = t.long().clamp(max=999)
        if learning and taught is not None:
            taught.replace(texts, alone, rng)
        if learning and swapped:
            others = rng.permutation(len(texts))
            wrong = (snr[t] > 1).numpy() & (rng.random(len(texts)) < swapped)
            if taught is not None:
                wrong &= ~alone.numpy()
            for i in np.flatnonzero(wrong):
                texts[i] = texts[others[i]]
        hidden, ends = encode_texts(text_encoder, tokenizer, texts)
        alpha = alpha_bar[t, None].sqrt()
        sigma, eps = (1 - alpha**2).sqrt(), torch.randn(x0.shape, generator=generator)
        x0, eps = x0.flatten(1), eps.flatten(1)
        if learning and taught is not None:
            log_weights = taught.known.log_weights(
                at_ends(hidden, ends), torch.tensor([not x for x in texts])
            )
            x0 = torch.where(alone[:, None], taught.pictures(log_weights, generator), x0)
        x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
        if learning and taught is not None:
            expected = taught.known.expected(x_t, log_weights, alpha, sigma)
            v = torch.where(alone[:, None], (alpha * x_t - expected) / sigma, v)
        with autocast():
            prediction = model(x_t.view(len(rows), *latents.shape[1:]), t, hidden).sample
        return (prediction.float().flatten(1) - v).square().mean(1), t

    def loss(step: int, generator: torch.Generator) -> Tensor:
        alone = torch.rand(batch, generator=generator) < ALONE
        rows = torch.where(
            alone,
            torch.randint(singles, (batch,), generator=generator),
            torch.randint(singles, seen, (batch,), generator=generator),
        )
        error, t = errors(rows, generator, learning=True)
        return (error * weight[t]).mean()

    def evaluate(step: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(99)
        single = errors(torch.arange(0, singles, 3), generator)[0].mean()
        scene = errors(torch.arange(seen, len(pictures)), generator)[0].mean()
        return {"singles": float(single), "held_out_scenes": float(scene)}

    train(
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=learning_rate,
        seed=5,
        warmup=300,
        evaluate_every=2000,
        ema=0.9995,
        evaluate=evaluate,
    )
    return model.requires_grad_(False)


@torch.no_grad()
def average(model: UNet2DConditionModel, other: UNet2DConditionModel) -> None:
    """Put the weights of ``model`` halfway between its own and those of ``other``.

    Between a network and what it became by further training lie networks that keep much of what
    either is better at (Wortsman et al. 2022): here names that can be recognised, and words.
    """
    for own, its in zip(model.parameters(), other.parameters(), strict=True):
        own.lerp_(its, 0.5)


def picture_set(n_emoji: int, scenes: int) -> list[Picture]:
    """Every emoji alone, then ``scenes`` scenes; the same for the same numbers."""
    alone = [Picture((k,), "single") for k in range(n_emoji)]
    return alone + compose(scenes, n_emoji, np.random.default_rng(6))


def load_fitting(model: UNet2DConditionModel, file: Path) -> int:
    """Start ``model`` from the weights of another one, where names and shapes agree.

    Returns:
        The number of tensors that were taken over; the others stay as they were.
    """
    own = model.state_dict()
    fitting = {
        name: weight.float()
        for name, weight in load_file(file).items()
        if name in own and own[name].shape == weight.shape
    }
    model.load_state_dict(own | fitting)
    return len(fitting)
