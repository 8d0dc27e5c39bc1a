"""Can one tell what a picture shows? Its nearest emoji among all of them.

A picture and every emoji are cropped to what is not white, padded to a square and reduced to
32×32; two are compared by the correlation of their colour values, the mirror image allowed. The
measure knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from conjure_lib import GenerativeProcess
from training.pictures import Emoji, drawn, singles

SIDE = 32  # pixels that are compared
WHITE = 230  # of 255: what is lighter in all three channels is background
SETTINGS = {"steps": 20, "guidance": 3.0, "seed": 0}
NAMES = 200  # random names that are conjured


def essence(picture: np.ndarray) -> np.ndarray:
    """What is compared of a picture, uint8 (height, width, 3): (32·32·3,) of unit length."""
    ink = np.any(picture < WHITE, axis=2)
    if np.any(ink):
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(picture.shape[:2])
    square = Image.new("RGB", (side, side), "white")
    height, width = picture.shape[:2]
    square.paste(Image.fromarray(picture), ((side - width) // 2, (side - height) // 2))
    small = square.resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float64).ravel()
    values = values - values.mean()
    return values / max(np.linalg.norm(values), 1e-12)


def ranks(
    pictures: Sequence[np.ndarray], emoji: Sequence[Emoji], shown: Sequence[int]
) -> np.ndarray:
    """Rank (1 is nearest) of emoji ``shown[i]`` among all by likeness to picture i; (n,)."""
    alone = drawn(singles(emoji), emoji)
    known = np.stack([essence(one) for one in alone])
    mirrored = np.stack([essence(one[:, ::-1]) for one in alone])
    looks = np.stack([essence(one) for one in pictures])
    likeness = np.maximum(looks @ known.T, looks @ mirrored.T)  # (n, emoji)
    own = likeness[np.arange(len(shown)), list(shown)]
    return (likeness > own[:, None]).sum(axis=1) + 1


def chosen(count: int, names: int = NAMES, seed: int = 0) -> list[int]:
    """The emoji whose names are conjured: ``names`` random ones of ``count``."""
    return np.random.default_rng(seed).choice(count, names, replace=False).tolist()


def conjured_ranks(process: GenerativeProcess, emoji: Sequence[Emoji]) -> np.ndarray:
    """Ranks of the pictures that the names of the :func:`chosen` emoji conjure, (200,)."""
    shown = chosen(len(emoji))
    pictures = process.generate([emoji[k].name for k in shown], **SETTINGS)  # type: ignore[arg-type]
    return ranks(list((pictures * 255).round().astype(np.uint8)), emoji, shown)
