"""Emoji bitmaps, the pictures composed from them, and their captions.

The bitmaps come from the font Noto Color Emoji (SIL OFL 1.1), names and keywords from the
English annotations of the Unicode CLDR (Unicode License v3). A *picture* is one emoji, or a
scene of two to four, drawn on white in one way only; it can be described in many ways, and
:func:`caption` draws one of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from training.sources import ANNOTATIONS, FONT, fetch

SIZE = 64  # pixels on a side
SINGLE = 60  # pixels of the longer side of an emoji that stands alone
CELL_SIZE = 30  # and of one in a scene
CELL = 96  # pixels of a bitmap in the sample sheet
SKIN_TONES = range(0x1F3FB, 0x1F400)
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
VARIATION_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Emoji:
    """One emoji: its text, its CLDR name, its CLDR keywords and its bitmap (RGBA).

    ``near`` holds words of nearly the same meaning as the name (see ``text_encoder.near_words``).
    """

    text: str
    name: str
    keywords: tuple[str, ...]
    bitmap: Image.Image
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """What a picture shows: emoji by their index, and how they are arranged.

    ``layout`` is one of "single", "row", "column", "three" (different emoji) or "many"
    (``len(parts)`` copies of the same one).
    """

    parts: tuple[int, ...]
    layout: str


def load_emoji(font_file: Path, annotations_file: Path) -> list[Emoji]:
    """Every emoji that the font can draw and the annotations name; no skin tones, no flags."""
    from fontTools.ttLib import TTFont

    font = TTFont(font_file)
    strike = font["CBDT"].strikeData[0]
    character_map = font.getBestCmap()
    ligatures: dict[tuple[str, ...], str] = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, rules in getattr(table, "ligatures", {}).items():
                ligatures |= {(first, *rule.Component): rule.LigGlyph for rule in rules}

    annotations = json.loads(Path(annotations_file).read_text(encoding="utf-8"))
    emoji = []
    for text, entry in annotations["annotations"]["annotations"].items():
        points = [ord(c) for c in text if c != VARIATION_SELECTOR]
        if any(p in SKIN_TONES or p in REGIONAL_INDICATORS for p in points):
            continue
        glyphs = tuple(character_map.get(p, "") for p in points)
        glyph = glyphs[0] if len(glyphs) == 1 else ligatures.get(glyphs)
        if not glyph or glyph not in strike or "tts" not in entry:
            continue
        bitmap = Image.open(io.BytesIO(strike[glyph].imageData)).convert("RGBA")
        if bitmap.getchannel("A").getextrema()[1] == 0:  # control characters draw nothing
            continue
        name = entry["tts"][0].replace(":", "")
        keywords = tuple(k for k in entry.get("default", ()) if k != name and "|" not in k)
        emoji.append(Emoji(text, name, keywords, bitmap))
    return emoji


SAMPLE = (
    "red heart", "grinning face", "crying face", "angry face", "smiling face with sunglasses",
    "thumbs up", "eyes", "brain", "woman", "man", "baby", "prince", "mage", "woman dancing",
    "cat", "dog", "horse", "tiger", "leopard", "elephant", "mouse", "bird", "fish", "butterfly",
    "snake", "rose", "sunflower", "evergreen tree", "cactus", "grapes", "banana", "red apple",
    "strawberry", "carrot", "bread", "pizza", "hamburger", "ice cream", "hot beverage", "house",
    "castle", "church", "tent", "volcano", "beach with umbrella", "sunrise", "rainbow", "sun",
    "crescent moon", "star", "snowflake", "fire", "automobile", "bus", "bicycle", "airplane",
    "sailboat", "rocket", "soccer ball", "guitar", "trumpet", "open book", "key", "headstone",
)  # fmt: skip
"""Names of the sixty-four emoji that come with the repository."""


def fetched_emoji(sources: Path) -> list[Emoji]:
    """All emoji, of files that are brought into ``sources`` first, if need be."""
    fetch(sources)
    return load_emoji(sources / FONT, sources / ANNOTATIONS)


def save_sample(emoji: Sequence[Emoji], folder: Path) -> None:
    """Keep the emoji of ``SAMPLE`` as one sheet (8×8 bitmaps) and their words as JSON."""
    by_name = {e.name: e for e in emoji}
    chosen = [by_name[name] for name in SAMPLE]
    sheet = Image.new("RGBA", (8 * CELL, 8 * CELL))
    for i, one in enumerate(chosen):
        bitmap = ImageOps.contain(one.bitmap, (CELL, CELL), Image.Resampling.LANCZOS)
        sheet.paste(bitmap, (i % 8 * CELL, i // 8 * CELL))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / "sheet.png", optimize=True)
    words = [{"text": e.text, "name": e.name, "keywords": e.keywords} for e in chosen]
    (folder / "words.json").write_text(json.dumps(words, ensure_ascii=False, indent=0) + "\n")


def load_sample(folder: Path) -> list[Emoji]:
    """The emoji that :func:`save_sample` has kept: enough to run the recipe at a small scale."""
    sheet = Image.open(folder / "sheet.png").convert("RGBA")
    words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    cells = [(i % 8 * CELL, i // 8 * CELL) for i in range(len(words))]
    return [
        Emoji(w["text"], w["name"], tuple(w["keywords"]), sheet.crop((x, y, x + CELL, y + CELL)))
        for w, (x, y) in zip(words, cells, strict=True)
    ]


def paste(canvas: Image.Image, bitmap: Image.Image, size: int, centre: tuple[int, int]) -> None:
    """Draw ``bitmap`` with ``size`` pixels on its longer side around ``centre``."""
    width, height = bitmap.size
    scale = size / max(width, height)
    small = bitmap.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    corner = (centre[0] - small.width // 2, centre[1] - small.height // 2)
    canvas.alpha_composite(small, (max(corner[0], 0), max(corner[1], 0)))


def draw(picture: Picture, emoji: Sequence[Emoji]) -> np.ndarray:
    """The drawing of ``picture``: uint8 (64, 64, 3).

    Always the same one: a single emoji has 60 pixels and stands in the middle, those of a scene
    have 30 and stand in cells of 32. An autoencoder that divides sides by eight turns a shift by
    one pixel into quite other latents, and a small U-Net has no capacity to spend on that.
    """
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    size = SINGLE if picture.layout == "single" else CELL_SIZE
    for part, centre in zip(picture.parts, _centres(picture), strict=True):
        paste(canvas, emoji[part].bitmap, size, centre)
    return np.array(canvas.convert("RGB"))


def drawn(pictures: Sequence[Picture], emoji: Sequence[Emoji]) -> np.ndarray:
    """Pictures as uint8 (n, 64, 64, 3)."""
    return np.stack([draw(picture, emoji) for picture in pictures])


def singles(emoji: Sequence[Emoji]) -> list[Picture]:
    """Every emoji alone."""
    return [Picture((k,), "single") for k in range(len(emoji))]


def _centres(picture: Picture) -> list[tuple[int, int]]:
    """Where the parts of a picture stand: cells of 32 pixels, that is of four latents."""
    pair = [(16, 32), (48, 32)]
    return {
        "single": [(32, 32)],
        "row": pair,
        "column": [(32, 16), (32, 48)],
        "three": [(16, 16), (48, 16), (32, 48)],
        "many": pair if len(picture.parts) == 2 else [(16, 16), (48, 48), (48, 16), (16, 48)],
    }[picture.layout][: len(picture.parts)]


def compose(count: int, n_emoji: int, rng: np.random.Generator) -> list[Picture]:
    """``count`` scenes of two to four emoji."""
    pictures = []
    for _ in range(count):
        layout = str(rng.choice(["row", "column", "three", "many"], p=[0.5, 0.2, 0.2, 0.1]))
        if layout == "many":
            parts = (int(rng.integers(n_emoji)),) * int(rng.integers(2, 5))
        else:
            size = 3 if layout == "three" else 2
            parts = tuple(int(k) for k in rng.choice(n_emoji, size, replace=False))
        pictures.append(Picture(parts, layout))
    return pictures


def article(noun: str) -> str:
    """``noun`` with its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def describe(emoji: Emoji, rng: np.random.Generator, keyword: float = 0.5) -> str:
    """One way to say what an emoji shows: its name or, with chance ``keyword``, another word."""
    if rng.random() < keyword:
        words = emoji.near if emoji.near and rng.random() < 0.6 else emoji.keywords
        if words:
            return words[int(rng.integers(len(words)))]
    return emoji.name


def caption(picture: Picture, emoji: Sequence[Emoji], rng: np.random.Generator) -> str:
    """One of the many captions of ``picture``, lower case, without punctuation at the end."""
    parts = [emoji[k] for k in picture.parts]
    if picture.layout == "single":
        return _caption_single(parts[0], rng)
    if picture.layout == "many":
        number = {2: "two", 3: "three", 4: "four"}[len(parts)]
        return f"{rng.choice([number, number, 'many', 'some'])} {plural(describe(parts[0], rng))}"
    words = [describe(part, rng, 0.4) for part in parts]
    if rng.random() < 0.6:
        words = [article(word) for word in words]
    if picture.layout == "three":
        return f"{words[0]}, {words[1]} and {words[2]}"
    near = ["and", "and", "with", "next to", "beside", "near", "together with"]
    if picture.layout == "column":
        first, second = (0, 1) if rng.random() < 0.5 else (1, 0)
        above = ["above", "over", "on top of", "on"] if first == 0 else ["below", "under"]
        return f"{words[first]} {rng.choice([*near, *above * 2])} {words[second]}"
    if rng.random() < 0.5:  # the order of the words follows the picture half of the time
        words = words[::-1]
    return f"{words[0]} {rng.choice(near)} {words[1]}"


def plural(noun: str) -> str:
    """A regular English plural: enough for captions."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _caption_single(emoji: Emoji, rng: np.random.Generator) -> str:
    kind = rng.random()
    name = emoji.name
    if kind < 0.2 or not emoji.keywords:
        return name
    if kind < 0.75:
        words = describe(emoji, rng, 0.65)
        return article(words) if rng.random() < 0.4 else words
    count = min(len(emoji.keywords), int(rng.integers(2, 5)))
    some = [str(k) for k in rng.choice(emoji.keywords, count, replace=False)]
    if kind < 0.85:
        return f"{name}, {', '.join(some)}"
    if kind < 0.93:
        return " ".join(some)
    frame = rng.choice(["a picture of", "an image of", "a photo of", "there is", "this is"])
    return f"{frame} {article(describe(emoji, rng, 0.4))}"
