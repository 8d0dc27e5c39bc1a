"""From trained parts to a diffusers pipeline folder, its checksums and its contact sheet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from conjure_lib import load
from conjure_lib.weights import LOADED, loaded_hash
from conjure_tools.plots import picture_grid, use_style
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
    tokenizer: Any,
    unet: UNet2DConditionModel,
    scaling_factor: float,
    folder: Path,
) -> None:
    """Write the pipeline in half precision, safetensors only, and hashes of files and weights."""
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
    write_checksums(folder)
    (folder / LOADED).write_text(loaded_hash(pipeline.components) + "\n")


def write_checksums(folder: Path) -> None:
    """``SHA256SUMS`` of every weight and setting of a pipeline folder."""
    files = sorted([folder / "model_index.json", *folder.glob("*/*")])
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder)}" for f in files
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def write_log(work: Path, folder: Path, table_variance: float) -> None:
    """``training_log.json``: the loss curves and measurements of every stage."""
    stages = {}
    for file in sorted(work.glob("*/log.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        stages[file.parent.name] = {
            record["step"]: record for record in records
        }  # resumed steps once
    log = {
        "token_table_variance_kept": table_variance,
        "stages": {name: list(by_step.values()) for name, by_step in stages.items()},
    }
    (folder / "training_log.json").write_text(json.dumps(log, indent=0) + "\n")


def contact_sheet(folder: Path, file: Path, *, guidance: float = 5.0, seed: int = 0) -> None:
    """Pictures of the prompts of ``CONTACT_SHEET`` by the finished pipeline, as one PNG."""
    process = load(folder)
    use_style()
    pictures = process.generate(CONTACT_SHEET, steps=50, guidance=guidance, seed=seed)
    picture_grid(pictures, CONTACT_SHEET, columns=6).savefig(file, dpi=130)
