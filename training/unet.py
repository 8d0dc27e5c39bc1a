"""The U-Net: noise prediction on 4×8×8 latents under a text, in diffusers' own class.

Every picture is drawn and encoded once, before training; captions are drawn anew each time a
picture is seen, and are empty one time in ten, for classifier-free guidance. Noise schedule and
target are those of Stable Diffusion 1.x (scaled_linear 0.00085 to 0.012, 1000 steps, epsilon).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel

from conjure_tools.hardware import autocast
from training.autoencoder import to_tensor
from training.loop import save_atomically, train
from training.pictures import Emoji, Picture, caption, compose, draw
from training.text_encoder import LENGTH, WIDTH

WIDTHS = (96, 160)
HELD_OUT = 512  # pictures at the end of the set that are only measured on
DROPPED = 0.1  # share of empty captions
GAMMA = 5.0  # where the loss of low noise is held down, see train_unet


def build() -> UNet2DConditionModel:
    """A fresh U-Net of 7.4 million parameters, untrained."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=[width // 32 for width in WIDTHS],  # diffusers: the number of heads
        norm_num_groups=16,
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
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_pictures(
    autoencoder: AutoencoderKL,
    emoji: Sequence[Emoji],
    pictures: Sequence[Picture],
    cache: Path,
    seed: int = 4,
) -> Tensor:
    """Latents (n, 4, 8, 8) of ``pictures``, drawn once each; kept in ``cache``."""
    if cache.exists():
        latents = load_file(cache)["latents"].float()
        if len(latents) != len(pictures):
            raise ValueError(f"{cache} was made for other pictures: delete it")
        return latents
    rng = np.random.default_rng(seed)
    chunks = []
    for first in tqdm(range(0, len(pictures), 64), desc="latents", mininterval=5):
        x = np.stack([draw(p, emoji, rng) for p in pictures[first : first + 64]])
        chunks.append(autoencoder.encode(to_tensor(x)).latent_dist.mode())
    latents = torch.cat(chunks)
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
    batch: int = 64,
    learning_rate: float = 1e-3,
    start: UNet2DConditionModel | None = None,
    min_snr: bool = False,
) -> UNet2DConditionModel:
    """Train (or resume): mean squared error of the predicted noise, uniform in the timestep.

    Args:
        start: a trained U-Net to go on from; a fresh one by default.
        min_snr: weigh the error by min(SNR, 5)/SNR (Hang et al. 2023). At low noise the noise
            cannot be told from the picture's own detail, its error is large whatever is learnt,
            and unweighted it outweighs the timesteps in which a picture takes its shape.
        latents: (n, 4, 8, 8), already multiplied by the scaling factor (unit variance).
    """
    torch.manual_seed(5)
    model = (start or build()).requires_grad_(True)
    scheduler = build_scheduler()

    def embed(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(texts),
            padding="max_length",
            max_length=LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            return text_encoder(input_ids=tokens.input_ids).last_hidden_state  # (n, 32, 192)

    alpha_bar = scheduler.alphas_cumprod
    snr = alpha_bar / (1 - alpha_bar)
    weight = (GAMMA / snr).clamp(max=1.0) if min_snr else torch.ones_like(snr)

    def error(rows: Tensor, generator: torch.Generator, weight: Tensor) -> Tensor:
        rng = np.random.default_rng(generator.initial_seed())
        texts = [
            "" if rng.random() < DROPPED else caption(pictures[i], emoji, rng)
            for i in rows.tolist()
        ]
        x0 = latents[rows]
        eps = torch.randn(x0.shape, generator=generator)
        t = torch.randint(0, 1000, (len(rows),), generator=generator)
        x_t = scheduler.add_noise(x0, eps, t)
        with autocast():
            prediction = model(x_t, t, embed(texts)).sample
        return ((prediction.float() - eps).square().mean((1, 2, 3)) * weight[t]).mean()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents) - HELD_OUT, (batch,), generator=generator)
        return error(rows, generator, weight)

    def evaluate(step: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(99)
        rows = torch.arange(len(latents) - HELD_OUT, len(latents))
        return {"held_out": float(error(rows, generator, torch.ones_like(snr)))}

    train(
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=learning_rate,
        seed=5,
        warmup=300,
        ema=0.999,
        evaluate=evaluate,
    )
    return model.requires_grad_(False)


def picture_set(count: int, n_emoji: int) -> list[Picture]:
    """The pictures of the training set; the same for the same count."""
    return compose(count, n_emoji, np.random.default_rng(6))
