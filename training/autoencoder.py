"""The autoencoder: 64×64 pictures to 16×8×8 latents and back, in diffusers' own class.

The layers at full resolution are thin (16 channels), because that is where a convolutional
autoencoder spends its time at this size; the capacity sits at 16×16 and 8×8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from conjure_tools.hardware import autocast
from training.loop import train
from training.pictures import Emoji, Picture, compose, drawn, singles

WIDTHS = (16, 32, 96, 160)
CHANNELS = 16  # as Stable Diffusion 3 has: four do not carry a leopard's spots
ALONE = 0.8  # share of single emoji in a batch
KL_WEIGHT = 5e-4  # per latent dimension: latents stay near unit scale and smooth


def build() -> AutoencoderKL:
    """A fresh autoencoder, untrained."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
    )


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, 64, 64, 3) to float in [-1, 1], (n, 3, 64, 64)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encoded(model: Any, pictures: Sequence[Picture], emoji: Sequence[Emoji]) -> Tensor:
    """Latents (n, 16, 8, 8) of pictures, float32 on the CPU; a bar is shown of what takes long."""
    parts = []
    for first in tqdm(range(0, len(pictures), 64), desc="latents", mininterval=5, delay=60):
        x = to_tensor(drawn(pictures[first : first + 64], emoji)).to(model.device, model.dtype)
        parts.append(model.encode(x).latent_dist.mode().float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def reconstructions(model: AutoencoderKL, x: Tensor) -> Tensor:
    """Decoded latents of pictures x (n, 3, 64, 64), in [-1, 1]."""
    parts = [model.decode(model.encode(part).latent_dist.mode()).sample for part in x.split(64)]
    return torch.cat(parts).clamp(-1, 1)


def reconstruction_psnr(model: AutoencoderKL, emoji: Sequence[Emoji]) -> float:
    """PSNR in dB of the mean squared error over all emoji, each drawn alone; values in [0, 1]."""
    x = to_tensor(drawn(singles(emoji), emoji))
    return float(-10 * ((x - reconstructions(model, x)) / 2).square().mean().log10())


def train_autoencoder(
    emoji: Sequence[Emoji], folder: Path, steps: int, batch: int = 32
) -> AutoencoderKL:
    """Train (or resume) on freshly drawn pictures; squared and absolute error plus a small KL."""
    torch.manual_seed(1)
    model = build()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        x = _drawings(emoji, batch, generator)
        with autocast():
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample(generator)).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return _difference(y, x) + KL_WEIGHT * kl

    train(
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=2e-3,
        seed=1,
        ema=0.99,
        evaluate=lambda step: {"psnr": reconstruction_psnr(model, emoji)},
    )
    return model


def train_decoder(
    model: AutoencoderKL, emoji: Sequence[Emoji], folder: Path, steps: int, batch: int = 32
) -> None:
    """Train the decoder alone, in place: latents stay what the U-Net has learned, pictures gain."""
    model.requires_grad_(False)
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(True)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        x = _drawings(emoji, batch, generator)
        with autocast():
            with torch.no_grad():
                z = model.encode(x).latent_dist.sample(generator)
            y = model.decode(z).sample
        return _difference(y, x)

    train(
        model,
        loss,
        folder,
        steps=steps,
        learning_rate=1e-3,
        seed=8,
        ema=0.99,
        evaluate=lambda step: {"psnr": reconstruction_psnr(model, emoji)},
    )


def _drawings(emoji: Sequence[Emoji], batch: int, generator: torch.Generator) -> Tensor:
    """``batch`` pictures, (batch, 3, 64, 64): four in five single emoji, the rest scenes."""
    rng = np.random.default_rng(generator.initial_seed())
    alone = round(ALONE * batch)
    pictures = [Picture((int(k),), "single") for k in rng.integers(len(emoji), size=alone)]
    pictures += compose(batch - alone, len(emoji), rng)
    return to_tensor(drawn(pictures, emoji))


def _difference(y: Tensor, x: Tensor) -> Tensor:
    """Squared and a little absolute error: the second keeps edges sharp."""
    return F.mse_loss(y.float(), x) + 0.2 * F.l1_loss(y.float(), x)
