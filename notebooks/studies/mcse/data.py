"""Texts and images for `study`: emoji and what the model conjures, or photographs.

The embedded setting takes definitions and examples of WordNet as texts, and pictures of emoji with
captions from their Unicode names and keywords as pairs (training/sources.py fetches all of it);
images are the latents that the model's autoencoder makes of the pictures. The full setting takes a
file of texts, captions of photographs, and features of a ResNet-50.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

import conjure_lib as cj
from conjure_lib.process import generator
from studies import other_models
from studies.records import ROOT, in_place
from training.autoencoder import encoded
from training.pictures import Picture, caption, compose, fetched_emoji
from training.sources import WORDNET
from training.text_encoder import sample_texts, wordnet_texts

SOURCES = ROOT / "_training" / "sources"
RESNET = "microsoft/resnet-50"
REAL, SHUFFLED, RANDOM = "real", "shuffled", "random"
PICTURES, EMBEDDINGS, EVERY = "conjured pictures", "conjured embeddings", "conjured, every text"
WEIGHTING: Any = "noise"  # of the conjured embeddings, and of the distance that is distilled
Images = dict[str, tuple[Tensor | None, Tensor]]
"""By kind, the vectors of the texts, where they have any, and of the captions."""


@dataclass(frozen=True)
class Data:
    """Texts, captions with images of every kind, and texts that are held out."""

    texts: list[str]
    captions: list[str]
    images: Images = field(repr=False)
    held_out: list[str] = field(default_factory=list)


def standardised(vectors: Tensor) -> Tensor:
    """Rows less their mean, in units of the standard deviation of what is left."""
    centred = vectors - vectors.mean(0)
    return centred / centred.std()


def control_data(images: Tensor) -> Images:
    """Images of other captions, and vectors that belong to no picture.

    In the second every coordinate is shuffled by itself: each keeps its values, no row makes sense.
    """
    keys = generator(0, 1)
    order = torch.randperm(len(images), generator=keys)
    columns = torch.rand(images.shape, generator=keys).argsort(0)
    return {SHUFFLED: (None, images[order]), RANDOM: (None, images.gather(0, columns))}


# -- emoji, and what is conjured --------------------------------------------------------------


def emoji_pairs(
    emoji: Sequence[Any], count: int, vae: Any, seed: int = 10
) -> tuple[list[str], Tensor]:
    """``count`` pictures of emoji: one random caption of each, and their latents (count, d)."""
    rng = np.random.default_rng(seed)
    alone = count * 3 // 5  # every emoji about equally often, the rest are scenes
    pictures = [Picture((k % len(emoji),), "single") for k in range(alone)]
    pictures += compose(count - alone, len(emoji), rng)
    captions = [caption(picture, emoji, rng) for picture in pictures]
    return captions, encoded(vae, pictures, emoji).flatten(1)


def glosses(count: int) -> list[str]:
    """``count`` definitions and examples of WordNet of 4 to 12 words, chosen once."""
    found = wordnet_texts(SOURCES / WORDNET)
    return sample_texts([text for text in found if 4 <= len(text.split()) <= 12], count)


def conjured_pictures(process: cj.GenerativeProcess, texts: Sequence[str], steps: int) -> Tensor:
    """The latents that the model makes of each text, all from one x_T, (n, d)."""
    parts = []
    for first in range(0, len(texts), 128):
        condition = process.encode(texts[first : first + 128])
        rows = [0] * len(condition)
        x_T = process.noise([0], 0).expand(len(rows), *process.latent_shape)
        found = process.trajectories(condition, x_T, rows, steps=steps).final
        parts.append(found.flatten(1).float().cpu())
    return torch.cat(parts)


def conjured_embeddings(
    process: cj.GenerativeProcess, texts: Sequence[str], steps: int, batch_size: int = 128
) -> Tensor:
    """Noise predictions for each text at the same x, one for each of ``steps``, (n, steps · d)."""
    scorer = cj.Scorer(process, weighting=WEIGHTING, steps=steps, draws=1)
    return scorer.encode(texts, batch_size=batch_size, convert_to_tensor=True)


def images_of(
    process: cj.GenerativeProcess,
    texts: Sequence[str],
    captions: Sequence[str],
    latents: Tensor,
    *,
    anchors: int,
    steps: int,
) -> dict[str, Tensor]:
    """The three that all kinds are made of: latents and conjured pictures of the captions, and
    conjured embeddings of texts and captions."""
    both = [*texts, *captions]
    return {
        "latents": latents,
        "pictures": conjured_pictures(process, captions, steps),
        "embeddings": conjured_embeddings(process, both, anchors),
    }


def kinds_of(made: dict[str, Tensor], texts: int) -> Images:
    """Every kind of images from what :func:`images_of` makes of ``texts`` texts and captions."""
    latents, embeddings = standardised(made["latents"]), standardised(made["embeddings"])
    of_texts, of_captions = embeddings[:texts], embeddings[texts:]
    return {
        REAL: (None, latents),
        **control_data(latents),
        PICTURES: (None, standardised(made["pictures"])),
        EMBEDDINGS: (None, of_captions),
        EVERY: (of_texts, of_captions),
    }


def emoji_data(plan: Any, process: cj.GenerativeProcess, folder: Path) -> Data:
    """The corpora of the record; kept in ``folder``. Held out are as many captions as glosses."""
    file, words = folder / "images.safetensors", folder / "texts.json"
    if not file.is_file():
        emoji = fetched_emoji(SOURCES)
        vae = process.modules["vae"]
        captions, latents = emoji_pairs(emoji, plan.pairs, vae)
        others, _ = emoji_pairs(emoji, 4 * plan.held_out, vae, seed=11)
        found = glosses(plan.texts + plan.held_out // 2)
        texts = found[: plan.texts]
        fresh = [c for c in dict.fromkeys(others) if c not in set(captions)][: plan.held_out // 2]
        made = images_of(process, texts, captions, latents, anchors=plan.anchors, steps=plan.steps)
        said = json.dumps([texts, captions, found[plan.texts :] + fresh])
        in_place(words, lambda part: part.write_text(said, "utf-8"))
        in_place(file, partial(save_file, made))
    texts, captions, held_out = json.loads(words.read_text("utf-8"))
    return Data(texts, captions, kinds_of(load_file(file), len(texts)), held_out)


# -- photographs ------------------------------------------------------------------------------


def photo_data(
    texts: Path | None,
    captions: Path,
    photos: Path,
    names: Path | None,
    folder: Path,
    model: str = RESNET,
) -> Data:
    """The corpora of the paper; the features of the photographs are kept in ``folder``.

    Args:
        texts: one a line, such as wiki1m_for_simcse.txt; None to train on the pairs only.
        captions: Flickr30k's results_20130124.token, or COCO's captions_train2014.json.
        photos: the folder with the files that the captions name.
        names: the photographs to take, one a line, with or without ".jpg"; all by default.
        model: of the image vectors.
    """
    wanted = {Path(n).stem for n in names.read_text().split()} if names else None
    chosen = one_caption_each(captions, wanted)
    files = [photos / name for name, _ in chosen]
    features = photo_features(files, folder / "photos.safetensors", model)
    lines = texts.read_text("utf-8").splitlines() if texts else []
    real: Images = {REAL: (None, features), **control_data(features)}
    return Data([t for t in lines if t.strip()], [c for _, c in chosen], real)


def one_caption_each(file: Path, wanted: set[str] | None, seed: int = 0) -> list[tuple[str, str]]:
    """(file name, caption) of every wanted photograph, one of its captions at random."""
    by_name: dict[str, list[str]] = {}
    for name, said in _captions(file):
        if wanted is None or Path(name).stem in wanted:
            by_name.setdefault(name, []).append(said)
    if not by_name:
        raise ValueError(f"{file} has no caption of the photographs that are wanted")
    rng = np.random.default_rng(seed)
    return [(n, several[int(rng.integers(len(several)))]) for n, several in by_name.items()]


def _captions(file: Path) -> Iterator[tuple[str, str]]:
    content = file.read_text("utf-8")
    if file.suffix == ".json":
        coco = json.loads(content)
        names = {image["id"]: image["file_name"] for image in coco["images"]}
        for one in coco["annotations"]:
            yield names[one["image_id"]], " ".join(one["caption"].split())
    else:
        for name, caption in re.findall(r"^(.+?)#\d+\t(.+)$", content, re.MULTILINE):
            yield name, caption.strip()


def photo_features(files: Sequence[Path], cache: Path, model: str) -> Tensor:
    """Pooled features of photographs, (n, 2048) for a ResNet-50; kept in ``cache``.

    Raises:
        ValueError: ``cache`` was made of other photographs.
    """
    names = [file.name for file in files]
    if not cache.is_file():
        features = other_models.clip_features(model)
        rows = []
        for file in tqdm(files, desc="photographs", unit="file"):
            with Image.open(file) as photo:
                pixels = np.asarray(photo.convert("RGB"))[None] / 255
            rows.append(torch.from_numpy(features(pixels)).flatten(1))
        in_place(cache.with_suffix(".json"), lambda part: part.write_text(json.dumps(names)))
        in_place(cache, partial(save_file, {"features": torch.cat(rows)}))
    if json.loads(cache.with_suffix(".json").read_text()) != names:
        raise ValueError(f"{cache} was made of other photographs: delete it")
    return load_file(cache)["features"]
