"""From trained parts to a diffusers pipeline folder, its checksums and its contact sheet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from matplotlib.figure import Figure
from torch import nn
from transformers import CLIPTextModel

from conjure_lib import GenerativeProcess, load, trace
from conjure_tools.plots import picture_grid, use_style
from conjure_tools.weights import LOADED, loaded_hash
from training.unet import build_scheduler

BITS = 7  # significant bits of a weight that ships
GRID = 1 / 16  # of the token table's entries, whose standard deviation is about one

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
    for part in (autoencoder, text_encoder, unet):
        round_weights(part)
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    write_checksums(folder)
    (folder / LOADED).write_text(loaded_hash(pipeline.components) + "\n")


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Keep of every weight what survives compression, in place: a browser has to fetch them all.

    Weights keep `BITS` significant bits, and those of a token table become multiples of `GRID`: two
    per cent of their norm. Half precision holds both exactly.
    """
    for module in network.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) and weight.numel() > 1e6:
                weight.copy_((weight / GRID).round() * GRID)
            else:
                mantissa, exponent = torch.frexp(weight.float())
                weight.copy_(torch.ldexp((mantissa * 2**BITS).round() / 2**BITS, exponent))


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


def halfway(process: GenerativeProcess, first: str, second: str, columns: int = 8) -> Figure:
    """What each of two texts expects of the same unfinished pictures, 20 steps at guidance 3.

    Rows: the path of ``first`` as it and as ``second`` would finish it in one step; then the path
    of ``second``, likewise.
    """
    if process.decode is None:
        raise ValueError(f"{process.name} has no decoder: it makes no pictures")
    paths = trace(process, first, second, steps=20, guidance=3.0)
    every = np.linspace(0, len(paths.timesteps) - 1, columns).round().astype(int)
    rows, titles = [], []
    for own in (0, 1):
        for seen in (own, 1 - own):
            views = process.clean(
                paths.states[own][every], paths.timesteps[every], paths.eps[own, seen][every]
            )
            rows.append(process.decode(views))
            label = f"{paths.prompts[own]}, seen by {paths.prompts[seen]}"
            titles += [label, *([""] * (columns - 1))]
    return picture_grid(np.concatenate(rows), titles, columns=columns)


def halfway_sheet(folder: Path, file: Path) -> None:
    """:func:`halfway` of a leopard and a tiger by the finished pipeline, as one PNG."""
    use_style()
    halfway(load(folder), "leopard", "tiger").savefig(file, dpi=130)
