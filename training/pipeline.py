"""From trained parts to a diffusers pipeline folder, its checksums and its contact sheet."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from training.unet import build_scheduler

CONTACT_SHEET = (
    "leopard", "snow leopard", "a dog and a cat", "pizza", "graveyard", "a woman riding a horse",
    "a smiling face", "a crying face", "red heart", "a boat on the sea", "mountain", "sunrise",
    "car", "train", "airplane", "house", "an apple next to a banana", "two dogs",
    "tree", "flower", "king", "doctor", "guitar", "football",
)  # fmt: skip


def assemble(
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer,  # type: ignore[no-untyped-def]
    unet: UNet2DConditionModel,
    scaling_factor: float,
    folder: Path,
) -> None:
    """Write the pipeline in half precision, safetensors only, with SHA256SUMS beside it."""
    autoencoder.register_to_config(scaling_factor=scaling_factor)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    files = sorted(f for f in folder.glob("*/*") if f.suffix in (".safetensors", ".json"))
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}" for f in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
