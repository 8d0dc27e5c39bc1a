"""The explorer of recorded results: two figures, their numbers, and what their texts conjure.

The figures are pictures that can be read alone. Beside them lie the same numbers and the place of
each in its picture, from which web/src/explorer.js tells what is under the pointer.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from execute import ROOT, fingerprint
from live import BUILT, NODE, WEIGHTS, refresh
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from strict import copy_into, embedded

import conjure_lib as cj
from conjure_lib.reading import UnreadWarning
from conjure_tools import benchmarks, plots, runs
from studies.people import with_ratings
from studies.records import RESULTS, results_of_record

MATRIX, SCATTER = "sde", "noise"  # the weightings of the figures: those that chapters 8 and 5 show
# Sentences whose licences let them be passed on, and how many pairs of them are shown: captions of
# pictures (CC BY-SA) and corrected machine translations (CC BY 4.0).
QUOTED = {("sts14", "images"): 30, ("sts15", "images"): 30, ("sts16", "postediting"): 15}
RATED = ("sts12", "sts13", "sts14", "sts15", "sts16")  # 0 to 5
PICTURES: dict[str, Any] = {
    "steps": 10,
    "guidance": 3.0,
    "seed": 0,
}  # clearer than without guidance
SCRIPTS = """\
```{raw} html
<link rel="stylesheet" href="../_static/live/explorer.css">
<script src="../_static/live/explorer.js" defer></script>
```
"""
WITHOUT = "This copy of the book was built without Node.js, and the figures are pictures alone."
COLUMNS = 16  # pictures in a row of their sheet
ENCODER = "text_encoder_last"


# -- what both figures share -----------------------------------------------------------------


def with_error(value: float, error: float) -> str:
    """A value with its standard error, which is given in two digits."""
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 2
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def scores_of(row: Any) -> list[str]:
    """The distances and the text encoder's cosine of a row of a record, in words."""
    found = [with_error(getattr(row, w), getattr(row, f"{w}_stderr")) for w in cj.WEIGHTINGS]
    return [*found, f"{getattr(row, ENCODER):.2f}"]


SCORES = [
    *(f"distance, {w}" + (" (nats)" if w == "sde" else "") for w in cj.WEIGHTINGS),
    "text encoder's cosine",
]
SCATTER_PAGE = """\
```{figure} images/explorer-scatter.png
:name: fig-explorer-scatter
:alt: Scatter of people's ratings against distances, grey points with some coloured ones among them

**Ratings against distances.** Grey: every pair of STS12 to STS16. Coloured: the pairs that can be
explored. Agreement would show as a cloud that falls to the right.
```

```{include} explorer-scatter.txt
```
"""


def places(axis: Axes, points: np.ndarray) -> np.ndarray:
    """Where points (n, 2) of the data lie in the picture: (n, 2), from its upper left corner."""
    figure = axis.figure
    found = figure.transFigure.inverted().transform(axis.transData.transform(points))
    return np.stack([found[:, 0], 1 - found[:, 1]], axis=1).round(4)


@cache
def model() -> cj.GenerativeProcess:
    """The embedded model."""
    return cj.load(device="cpu")


def draw_sheet(texts: Sequence[str], file: Path) -> None:
    """One picture of each text, from the same noise, in rows of `COLUMNS`."""
    parts = [texts[i : i + COLUMNS] for i in range(0, len(texts), COLUMNS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadWarning)  # the page says that long sentences are cut
        rows = [model().generate(part, **PICTURES) for part in parts]  # (n, side, side, 3) each
    side = rows[0].shape[1]
    sheet = np.ones((len(rows) * side, COLUMNS * side, 3))
    for i, row in enumerate(rows):
        strip = np.concatenate(list(row), axis=1)
        sheet[i * side : (i + 1) * side, : strip.shape[1]] = strip
    Image.fromarray((255 * sheet).round().astype(np.uint8)).save(file, quality=85)


def write_part(
    folder: Path, name: str, figure: Figure, pairs: pd.DataFrame, place: np.ndarray, **more: Any
) -> None:
    """A picture, the pictures of its texts, and the numbers that the page includes.

    Args:
        pairs: columns text1, text2 and scores (a list of strings), in the order of distance.
        place: (pairs, 2), from :func:`places`.
        more: score names, the side of a mark as a share of the picture, choice of texts.
    """
    figure.savefig(folder / f"{name}.png", dpi=200)
    texts = list(dict.fromkeys(pairs[["text1", "text2"]].to_numpy().ravel()))
    number = {text: i for i, text in enumerate(texts)}
    draw_sheet(texts, folder / f"{name}.webp")
    marks = [
        [number[row.text1], number[row.text2], *spot, *row.scores]
        for row, spot in zip(pairs.itertuples(), place.tolist(), strict=True)
    ]
    sheet = f"{name}.webp?{fingerprint([folder / f'{name}.webp'])[:8]}"
    content = {"sheet": sheet, "columns": COLUMNS, "texts": texts, "marks": marks, **more}
    (folder / f"{name}.txt").write_text(
        f"```{{raw}} html\n"
        f'<div class="explorer" data-figure="fig-{name}" hidden>\n'
        f'<script type="application/json">{embedded(content)}</script>\n</div>\n```\n',
        encoding="utf-8",
    )


# -- the figures -----------------------------------------------------------------------------


def draw_matrix(folder: Path) -> None:
    """Half of the distance matrix of chapter 8, its words in the order of their clusters."""
    record, weighting = results_of_record("matrix"), MATRIX
    table, members_of = record.table, record.notes["groups"]
    groups = {word: i for i, members in enumerate(members_of.values()) for word in members}
    at = {word: i for i, word in enumerate(groups)}
    whole = np.zeros((len(at), len(at)))
    rows, columns = table["text1"].map(at), table["text2"].map(at)
    whole[rows, columns] = whole[columns, rows] = table[weighting]
    tree = linkage(squareform(whole), "average", optimal_ordering=True)
    words = [list(at)[i] for i in leaves_list(tree)]
    order = {word: i for i, word in enumerate(words)}
    first, second = table["text1"].map(order), table["text2"].map(order)
    upper, lower = np.minimum(first, second), np.maximum(first, second)
    shown = np.full(whole.shape, np.nan)
    shown[lower, upper] = table[weighting]
    figure = Figure(figsize=(8, 8))
    figure.set_layout_engine("none")  # places are fixed
    axis = figure.add_axes((0.13, 0.125, 0.865, 0.865))
    limits = dict(zip(("vmin", "vmax"), np.quantile(table[weighting], [0.02, 0.98]), strict=True))
    image = axis.imshow(shown, cmap=plots.SEQUENTIAL, interpolation="nearest", **limits)
    palette = sns.color_palette("colorblind", len(members_of))
    colours = [palette[groups[word]] for word in words]
    label_words(axis, words, colours)
    colour_legend(figure, axis, image, members_of, weighting)
    pairs = table.assign(
        text1=[words[i] for i in lower],
        text2=[words[i] for i in upper],
        scores=[scores_of(row) for row in table.itertuples()],
    ).sort_values(weighting)
    spots = np.stack([upper, lower], axis=1)[pairs.index]
    side = 0.865 / len(words)
    write_part(
        folder, "explorer-matrix", figure, pairs, places(axis, spots),
        scores=SCORES, side=side, choose=True,
    )  # fmt: skip


def label_words(axis: Axes, words: Sequence[str], colours: Sequence[Any]) -> None:
    """The words at both margins, each with a square in the colour of its group."""
    n = len(words)
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(n), words, fontsize=min(9.0, 480 / n))
    axis.tick_params(length=0, pad=12)
    axis.tick_params(axis="x", rotation=90)
    axis.spines[:].set_visible(False)
    look: dict[str, Any] = {"marker": "s", "s": min(30.0, 1500 / n), "c": colours, "clip_on": False}
    for x, y, blend in (
        (np.full(n, -0.012), np.arange(n), axis.get_yaxis_transform()),
        (np.arange(n), np.full(n, -0.012), axis.get_xaxis_transform()),
    ):
        axis.scatter(x, y, transform=blend, **look)


def colour_legend(
    figure: Figure, axis: Axes, image: Any, groups: dict[str, list[str]], weighting: str
) -> None:
    """What colours mean, in the empty half of the matrix."""
    colours = sns.color_palette("colorblind", len(groups))
    handles = [axis.scatter([], [], marker="s", color=colour) for colour in colours]
    axis.legend(handles, groups, loc="upper right", frameon=False, fontsize=9)
    unit = "nats" if weighting == "sde" else f"distance, {weighting}"
    place = figure.add_axes((0.55, 0.95, 0.2, 0.015))
    bar = figure.colorbar(image, cax=place, orientation="horizontal")
    bar.set_label(unit, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def rated_pairs() -> pd.DataFrame:
    """The record of the sentence sets with texts and ratings.

    Raises:
        FileNotFoundError: a set cannot be had.
    """
    rated = {name: benchmarks.load_pairs(name) for name in RATED}
    parts = with_ratings(results_of_record("sts").table, rated)
    return pd.concat(parts.values(), ignore_index=True)


def draw_scatter(folder: Path, table: pd.DataFrame) -> None:
    """Ratings against distances of all pairs; those that may be quoted can be explored."""
    weighting = SCATTER
    parts = [
        runs.stratified(table[(table["benchmark"] == name) & (table["subset"] == subset)], count)
        for (name, subset), count in QUOTED.items()
    ]
    pairs = pd.concat(parts)
    pairs = pairs.assign(
        scores=[[f"{row.people:.1f}", *scores_of(row)] for row in pairs.itertuples()]
    ).sort_values(weighting)
    figure = Figure(figsize=(8, 5.2))
    figure.set_layout_engine("none")  # places are fixed
    axis = figure.add_axes((0.075, 0.11, 0.915, 0.8))
    axis.plot(
        table[weighting], table["people"], ".", ms=2, alpha=0.25, color="0.6", rasterized=True
    )
    for (name, subset), part, colour in zip(QUOTED, parts, plots.PALETTE, strict=False):
        label = f"{name.upper()}, {subset}"
        axis.plot(
            part[weighting], part["people"], "o", ms=6, mec="white", color=colour, label=label
        )
    low = table.loc[table[weighting] > 0, weighting].quantile(0.001)
    axis.set(xscale="log", xlim=(low, 1.1 * table[weighting].max()), ylim=(-0.15, 5.15))
    axis.set_xlabel(f"distance, weighting {weighting}")
    axis.set_ylabel("people's rating")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    pairs = pairs[pairs[weighting] > low]
    spots = pairs[[weighting, "people"]].to_numpy()
    write_part(
        folder, "explorer-scatter", figure, pairs, places(axis, spots),
        scores=["people's rating (0 to 5)", *SCORES], side=0, choose=False,
    )  # fmt: skip


# -- the page --------------------------------------------------------------------------------


def draw(folder: Path) -> None:
    """Everything of the page, with a sentence in the place of a figure that cannot be drawn."""
    print("drawing the explorer", flush=True)
    plots.use_style()
    draw_matrix(folder)
    figure = SCATTER_PAGE
    try:
        draw_scatter(folder, rated_pairs())
    except FileNotFoundError as error:
        print(f"the explorer has no sentences: {error}", file=sys.stderr)
        figure = (
            "This copy of the book was built without the data sets, so the figure is missing.\n"
        )
    (folder / "explorer_figure.txt").write_text(figure, encoding="utf-8")


def files() -> Path:
    """The folder of the explorer's figures and numbers."""
    # places of the sentences: a figure that was left out for want of them is drawn when they come
    data = [os.environ.get("CONJURE_DATA"), os.environ.get("CONJURE_CACHE")]
    data.append(str(Path.home() / ".cache" / "conjure_lib"))
    sources = [ROOT / "conjure_lib", ROOT / "conjure_tools", WEIGHTS, Path(__file__)]
    sources += [ROOT / "notebooks" / "studies" / f"{name}.py" for name in ("people", "records")]
    sources += [
        *RESULTS.glob("matrix.*"),
        RESULTS / "sts.parquet",
        *(Path(one) / "sts" for one in data if one),
    ]
    return refresh(BUILT / "explorer", sources, draw)


def put_beside(page: Path) -> None:
    """What book/explorer.md includes."""
    for file in files().iterdir():
        if file.suffix in (".txt", ".png"):
            shutil.copy(file, page / "images" if file.suffix == ".png" else page)
    (page / "explorer_scripts.txt").write_text(SCRIPTS if NODE else f"{WITHOUT}\n")


def publish(html: Path) -> None:
    """Put the pictures of the texts among the static files of the built book."""
    copy_into(html / "_static" / "live", files().glob("*.webp"))
