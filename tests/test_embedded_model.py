"""The shipped weights: what the model card promises of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

import conjure_lib as cj
from conjure_tools.benchmarks import load_pairs
from conjure_tools.correlation import agreement
from training.autoencoder import reconstruction_psnr, to_tensor
from training.pictures import Picture, draw, load_sample
from training.recognise import ranks

FOLDER = Path(__file__).parent.parent / "data/emoji-diffusion"


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(FOLDER, local_files_only=True).to(torch.float32)


def test_layout_size_and_precision() -> None:
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 45e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(k).get_dtype() for k in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_every_weight_and_setting_has_its_checksum() -> None:
    listed = dict(
        reversed(line.split(maxsplit=1))
        for line in (FOLDER / "SHA256SUMS").read_text().splitlines()
    )
    parts = {str(f.relative_to(FOLDER)) for f in FOLDER.glob("*/*") if f.is_file()}
    parts.add("model_index.json")
    assert parts <= listed.keys()
    for name, expected in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected


def test_the_autoencoder_keeps_the_pictures(pipeline: DiffusionPipeline) -> None:
    emoji = load_sample(FOLDER.parent / "emoji-sample")
    assert reconstruction_psnr(pipeline.vae, emoji) >= 25


@torch.no_grad()
def test_the_unet_listens_to_the_text(pipeline: DiffusionPipeline) -> None:
    """The right name tells picture from noise better than another emoji's name."""
    emoji = load_sample(FOLDER.parent / "emoji-sample")
    generator = torch.Generator().manual_seed(0)
    x = to_tensor(np.stack([draw(Picture((k,), "single"), emoji) for k in range(64)]))
    x0 = pipeline.vae.encode(x).latent_dist.mode() * pipeline.vae.config.scaling_factor
    assert float(x0.std()) == pytest.approx(1, abs=0.2)
    condition = pipeline.encode_prompt([e.name for e in emoji], "cpu", 1, False)[0]
    eps = torch.randn(x0.shape, generator=generator)
    error = {}
    for label, texts in (("right", condition), ("wrong", condition.roll(13, 0))):
        total = 0.0
        for timestep in (300, 500, 700):
            t = torch.full((64,), timestep)
            x_t = pipeline.scheduler.add_noise(x0, eps, t)
            v = pipeline.scheduler.get_velocity(x0, eps, t)
            total += float((pipeline.unet(x_t, t, texts).sample - v).square().mean())
        error[label] = total / 3
    assert error["right"] < 0.9 * error["wrong"]
    assert error["right"] < 0.4  # predicting nothing gives 1


def test_most_names_conjure_their_own_emoji() -> None:
    emoji = load_sample(FOLDER.parent / "emoji-sample")
    pictures = cj.load().generate([e.name for e in emoji], steps=20, guidance=3.0, seed=0)
    found = ranks(list((pictures * 255).round().astype(np.uint8)), emoji, range(len(emoji)))
    assert (found == 1).mean() > 0.7  # by chance 1 in 64


def test_a_browser_is_spared_what_no_weight_needs() -> None:
    for part in ("text_encoder", "unet", "vae"):
        for file in (FOLDER / part).glob("*.safetensors"):
            for weight in (w for w in load_file(file).values() if w.is_floating_point()):
                small = weight[weight.abs() > 1e-4].view(torch.int16)
                on_grid = torch.equal(weight.float() * 16, (weight.float() * 16).round())
                assert on_grid or not (small & 0b1111).any()


def test_pictures_follow_the_prompt() -> None:
    """A red heart is redder than a sunflower, and an evergreen tree greener than either."""
    process = cj.load()
    heart, flower, tree = process.generate(
        ["red heart", "sunflower", "evergreen tree"], steps=25, guidance=3.0
    ).mean(axis=(1, 2))
    assert heart[0] - heart[1] > max(flower[0] - flower[1], tree[0] - tree[1])
    assert tree[1] - tree[0] > max(heart[1] - heart[0], flower[1] - flower[0])


@pytest.mark.skipif(not os.environ.get("CONJURE_DATA"), reason="CONJURE_DATA is not set")
def test_agreement_with_people_on_rg65() -> None:
    table = load_pairs("rg65")
    pairs = list(zip(table["text1"], table["text2"], strict=True))
    found = cj.distances(cj.load(), pairs, draws=10, weighting="noise")
    assert agreement(table, [-e.value for e in found])[0]["spearman"] >= 0.4
