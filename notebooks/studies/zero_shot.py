"""Reading a picture with a text: a hundred emoji under twenty templates, for chapter 12.

A diffusion model classifies: the text that explains a noised picture best is the one under which
its noise is predicted with the least error (Li et al. 2023). Beside it, CLIP, where it is at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

import conjure_lib as cj
from conjure_lib.process import generator
from conjure_tools.encoders import encoder_folder
from conjure_tools.fingerprints import weights_hash
from conjure_tools.loading import shipped
from conjure_tools.weights import pretrained, reader
from studies.records import ROOT, kept_table
from training import pictures

SOURCES = ROOT / "_training" / "sources"
SAMPLE = shipped("emoji-sample")

# -- classes and templates ----------------------------------------------------------------------

SHIPPED = (
    "red heart", "grinning face", "crying face", "angry face", "brain", "woman", "man", "baby",
    "prince", "mage", "cat", "dog", "horse", "tiger", "leopard", "elephant", "mouse", "bird",
    "fish", "butterfly", "snake", "rose", "sunflower", "evergreen tree", "cactus", "banana",
    "red apple", "strawberry", "carrot", "bread", "pizza", "hamburger", "ice cream", "house",
    "castle", "church", "tent", "volcano", "rainbow", "sun", "crescent moon", "star", "snowflake",
    "fire", "automobile", "bus", "bicycle", "airplane", "sailboat", "rocket", "soccer ball",
    "guitar", "trumpet", "open book", "key", "headstone",
)  # fmt: skip
"""Emoji, by their names in the Unicode CLDR, whose pictures are in data/emoji-sample."""
OTHERS = (
    "skull", "ghost", "robot", "fox", "lion", "zebra", "cow", "pig", "rabbit", "bear", "panda",
    "kangaroo", "penguin", "owl", "duck", "frog", "turtle", "whale", "shark", "octopus", "crab",
    "ant", "spider", "tulip", "mushroom", "lemon", "pear", "watermelon", "potato", "broccoli",
    "egg", "cookie", "mountain", "train", "tractor", "motorcycle", "helicopter", "umbrella",
    "basketball", "dress", "crown", "bell", "violin", "drum",
)  # fmt: skip
CLASSES = SHIPPED + OTHERS
"""A hundred, fixed before the first run."""

NEGATED = ("not {a}", "no {}", "anything but {a}", "a picture without {a}")
TEMPLATES = (
    "{}",
    "{a}",
    "the {}",
    "a picture of {a}",
    "a photo of {a}",
    "an emoji of {a}",
    "a small {}",
    "a blurry picture of {a}",
    "a black and white picture of {a}",
    "{a} on a white background",
    "{a} in the dark",
    "{a} seen from far away",
    "{a} next to a tree",
    "a tree next to {a}",
    "many people are looking at {a}",
    "yesterday we bought a toy that looks like {a}",
    *NEGATED,
)
"""Of our own, fixed before the first run; {a} is the class with its article."""
TIMES = (600,)
"""Timesteps at which a picture is judged; of 300, 450 and 600 the best on 25 of the classes."""
VIEWS = 8  # drawings behind the mean of a class


def filled(template: str, names: Sequence[str] = CLASSES) -> list[str]:
    """The template with each class in it."""
    return [template.replace("{}", n).replace("{a}", pictures.article(n)) for n in names]


# -- pictures ---------------------------------------------------------------------------------


def emoji_of(names: Sequence[str], everything: bool) -> list[pictures.Emoji]:
    """The emoji of those names that the repository carries or, with ``everything``, all of them.

    Bitmaps are scaled to a cell of the repository's sheet, so that both give the same pixels.
    """
    known = pictures.fetched_emoji(SOURCES) if everything else pictures.load_sample(SAMPLE)
    by_name = {e.name: e for e in known}
    return [_in_cell(by_name[name]) for name in names if name in by_name]


def _in_cell(emoji: pictures.Emoji) -> pictures.Emoji:
    cell = Image.new("RGBA", (pictures.CELL, pictures.CELL))
    cell.paste(ImageOps.contain(emoji.bitmap, cell.size, Image.Resampling.LANCZOS))
    return pictures.Emoji(emoji.text, emoji.name, emoji.keywords, cell)


def drawings(emoji: pictures.Emoji) -> np.ndarray:
    """One emoji drawn as in training, then ``VIEWS`` times otherwise: (1 + VIEWS, 64, 64, 3).

    The others are mirrored or not, of 44 to 62 pixels, and shifted within the frame.
    """
    rng = np.random.default_rng(CLASSES.index(emoji.name))
    drawn = [pictures.draw(pictures.Picture((0,), "single"), [emoji])]
    for _ in range(VIEWS):
        canvas = Image.new("RGBA", (pictures.SIZE, pictures.SIZE), "white")
        bitmap = ImageOps.mirror(emoji.bitmap) if rng.random() < 0.5 else emoji.bitmap
        size = int(rng.integers(44, 63))
        slack = (pictures.SIZE - size) // 2
        x, y = pictures.SIZE // 2 + rng.integers(-slack, slack + 1, 2)
        pictures.paste(canvas, bitmap, size, (int(x), int(y)))
        drawn.append(np.array(canvas.convert("RGB")))
    return np.stack(drawn)


@torch.no_grad()
def as_latents(process: cj.GenerativeProcess, drawn: np.ndarray) -> Tensor:
    """Pictures (n, height, width, 3) of 0 … 255 as the autoencoder's latents (n, *latent_shape)."""
    vae: Any = process.modules["vae"]
    x = torch.from_numpy(drawn).permute(0, 3, 1, 2).to(process.device, vae.dtype) / 127.5 - 1
    return (vae.encode(x).latent_dist.mean * vae.config.scaling_factor).float()


@torch.no_grad()
def features(process: cj.GenerativeProcess, clean: Tensor) -> np.ndarray:
    """The U-Net's middle features of latents (n, *latent_shape), averaged over places: (n, width).

    Noised to each of ``TIMES``, under the empty prompt; the means over the timesteps.
    """
    unet: Any = process.modules["unet"]
    kept: list[Tensor] = []
    hook = unet.mid_block.register_forward_hook(lambda *call: kept.append(call[-1].mean((2, 3))))
    empty = process.encode([""])[[0] * len(clean)]
    try:
        for i, t in enumerate(TIMES):
            x = noised(process, clean, process.noise([i], 0), t)
            process.eps(x, torch.full((len(clean),), t, device=process.device), empty)
    finally:
        hook.remove()
    return torch.stack(kept).mean(0).double().cpu().numpy()


def noised(process: cj.GenerativeProcess, clean: Tensor, noise: Tensor, t: int) -> Tensor:
    """x_t = α_t x_0 + σ_t ε."""
    alpha, sigma = (float(c) for c in process.schedule.coefficients(torch.tensor(t)))
    return alpha * clean + sigma * noise


# -- reading a picture with a text --------------------------------------------------


def errors(
    process: cj.GenerativeProcess,
    clean: Tensor,
    keys: Sequence[int],
    texts: Sequence[str],
    batch_size: int = 128,
) -> np.ndarray:
    """‖ε - ε_θ(x_t, t|y)‖² of pictures under texts, summed over ``TIMES``: (n, len(texts)).

    The less, the better the text explains the picture: the classifier that a diffusion model is
    (Li et al. 2023). Picture i takes the noise of (seed 0, draw keys[i]), whatever the text.
    """
    condition, total = process.encode(list(texts)), np.zeros((len(clean), len(texts)))
    for i, t in np.ndindex(len(clean), len(TIMES)):
        noise = torch.randn(process.latent_shape, generator=generator(0, keys[i], t))
        noise = noise.to(process.device)
        x = noised(process, clean[i], noise, TIMES[t])
        for start in range(0, len(texts), batch_size):
            part = condition[start : start + batch_size]
            time_rows = torch.full((len(part),), TIMES[t], device=process.device)
            eps = process.eps(x.expand(len(part), *x.shape), time_rows, part)
            square = (eps - noise).double().square().flatten(1).sum(1)
            total[i, start : start + batch_size] += square.cpu().numpy()
    return total


def predictions(found: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Errors (n, n) of n classes' pictures under their texts: class, error, rank, predicted.

    rank is that of the class's own text among all of them, 1 where it explains the picture best.
    """
    own = np.diag(found)
    return pd.DataFrame(
        {
            "class": list(names),
            "error": own.astype(np.float32),
            "rank": (found < own[:, None]).sum(axis=1) + 1,
            "predicted": np.asarray(names)[found.argmin(axis=1)],
        }
    )


def class_means(process: cj.GenerativeProcess, emoji: Sequence[pictures.Emoji]) -> pd.DataFrame:
    """Means over ``VIEWS`` drawings of each emoji: class, latents, unet (vectors of float32)."""
    rows = []
    for one in emoji:
        clean = as_latents(process, drawings(one)[1:])
        both = {"latents": clean.flatten(1).cpu().numpy(), "unet": features(process, clean)}
        rows.append({"class": one.name} | {k: v.mean(0).astype("f4") for k, v in both.items()})
    return pd.DataFrame(rows)


def judge_all(
    process: cj.GenerativeProcess,
    emoji: Sequence[pictures.Emoji],
    templates: Sequence[str],
    folder: Path | None = None,
) -> pd.DataFrame:
    """`predictions` by template, kept in ``folder`` template by template where there is one.

    The attributes of the table, and of each that is kept, say what it took, resumed or not:
    evaluations and seconds.
    """
    names = [e.name for e in emoji]
    keys = [CLASSES.index(name) for name in names]
    clean = as_latents(process, np.stack([drawings(e)[0] for e in emoji]))
    of = [names, TIMES, weights_hash(process)]
    parts = []
    for template in tqdm(templates, desc="templates", delay=2):
        file = folder / f"{TEMPLATES.index(template):02d}.parquet" if folder else None

        def judge(template: str = template) -> pd.DataFrame:
            before, began = process.evaluations, time.perf_counter()
            table = predictions(errors(process, clean, keys, filled(template, names)), names)
            table.attrs["evaluations"] = process.evaluations - before
            table.attrs["seconds"] = time.perf_counter() - began
            return table

        table = kept_table(file, [template, *of], judge) if file else judge()
        parts.append(table.assign(template=template))
    every = pd.concat(parts, ignore_index=True)
    every.attrs |= {name: sum(part.attrs[name] for part in parts) for name in parts[0].attrs}
    return every


# -- CLIP, where the hub is at hand --------------------------------------------------

_KINDS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
_PHOTOS = [(f"{kind}photo", "") for kind in _KINDS] + [("photo", "small "), ("photo", "big ")]
CLIP_TEMPLATES = tuple(
    f"a {photo} of {article} {size}{{}}." for article in ("a", "the") for photo, size in _PHOTOS
)
"""The eighteen of the published study: those that CLIP's authors use for CIFAR-100."""


@torch.no_grad()
def clip_embeddings(
    source: str | Path, images: Sequence[Any], texts: Sequence[str], batch_size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Projected embeddings of images (n, d) and of texts (m, d) by a CLIP of the Hub, or a folder.

    Raises:
        FileNotFoundError, ValueError: it cannot be had, or is not complete.
    """
    from transformers import AutoProcessor, CLIPModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = encoder_folder(source)
    model = pretrained(CLIPModel, folder).to(device)
    prepare = reader(AutoProcessor, folder)

    def embedded(of: Callable[..., Any], rows: Sequence[Any], ready: Callable[..., Any]) -> Any:
        parts = []
        for start in range(0, len(rows), batch_size):
            inputs = ready(list(rows[start : start + batch_size])).to(device)
            found = of(**inputs)
            parts.append(getattr(found, "pooler_output", found).double().cpu().numpy())
        return np.concatenate(parts)

    def pixels(batch: list[Any]) -> Any:
        return prepare(images=batch, return_tensors="pt")

    def tokens(batch: list[str]) -> Any:
        return prepare(text=batch, padding=True, truncation=True, return_tensors="pt")

    return (
        embedded(model.get_image_features, images, pixels),
        embedded(model.get_text_features, texts, tokens),
    )


def cifar100() -> tuple[list[Any], np.ndarray, list[str]]:
    """The 10,000 test pictures of CIFAR-100, their labels (n,) and the names of the classes."""
    from datasets import load_dataset

    table = load_dataset(
        "uoft-cs/cifar100", split="test", revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5"
    )
    names = [name.replace("_", " ") for name in table.features["fine_label"].names]
    return list(table["img"]), np.array(table["fine_label"]), names


def clip_study(
    source: str | Path,
    images: Sequence[Any],
    labels: np.ndarray,
    names: Sequence[str],
    templates: Sequence[str] = CLIP_TEMPLATES,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """Class means of the images (c, d), texts (c, d) by template, and accuracy by template.

    A picture is of the class whose text is nearest by cosine.
    """
    texts = [text for template in templates for text in filled(template, names)]
    image, text = clip_embeddings(source, images, texts)
    means = np.stack([image[labels == c].mean(axis=0) for c in range(len(names))])
    spaces = dict(zip(templates, text.reshape(len(templates), len(names), -1), strict=True))
    accuracy = {}
    for template, space in spaces.items():
        unit = space / np.linalg.norm(space, axis=1, keepdims=True)
        accuracy[template] = float(((image @ unit.T).argmax(axis=1) == labels).mean())
    return means, spaces, accuracy
