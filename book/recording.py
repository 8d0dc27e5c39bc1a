"""The recorded run that plays on the start page, on the live page and in the README.

    python book/recording.py        # make start: a minute on two cores

Two prompts are conjured by the embedded model. What a player needs goes beside the pages and into
the repository: a sheet of pictures, a still of the end for browsers without JavaScript, the same
run as one animated picture, and the numbers with their settings and provenance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from execute import ROOT, fingerprint
from live import WEIGHTS
from PIL import Image, ImageDraw, ImageFont
from strict import copy_into, embedded

PROMPTS = ("a red heart", "a blue heart")
SETTINGS: dict[str, Any] = {
    "steps": 20,
    "guidance": 1.0,
    "sampler": "ddim",
    "seed": 0,
    "quadrature": "linear",  # as on the live page: each step adds a part that is not negative
}
DRAWS = 20
PAGES = ROOT / "book"
NUMBERS = PAGES / "recording.json"
SHEET, STILL, ANIMATED = (
    PAGES / "images" / name for name in ("recording.webp", "recording.png", "recording_moving.webp")
)
PARTS = (*(ROOT / "web" / "src" / f"recording.{kind}" for kind in ("js", "css")), SHEET, STILL)
LIMIT = 1_500_000  # bytes of the animated picture
COLUMNS = ("unfinished", "expected, if {0}", "expected, if {1}", "where they differ")
COLOURS = ("#0072B2", "#D55E00")  # of the first and the second prompt, as in the figures
INK, PALE, BAR = "#222222", "#666666", "#0072B2"


# -- recording -------------------------------------------------------------------------------


def record() -> dict[str, Any]:
    """Conjure the prompts, write the sheet of pictures, and return the numbers."""
    import conjure_lib as cj
    from conjure_tools.runs import provenance

    process = cj.load(device="cpu")
    estimate = cj.distance(process, *PROMPTS, draws=DRAWS, **SETTINGS)
    first = cj.distance(process, *PROMPTS, draws=1, **SETTINGS)
    trace = cj.trace(process, *PROMPTS, **{k: SETTINGS[k] for k in SETTINGS if k != "quadrature"})
    pictures = tiles(process, trace)
    steps, side = pictures.shape[2:4]
    rows = pictures.reshape(-1, *pictures.shape[2:]).transpose(0, 2, 1, 3, 4)
    sheet = rows.reshape(-1, steps * side, 3)
    Image.fromarray((255 * sheet).round().astype(np.uint8)).save(SHEET, quality=82, method=6)
    return {
        "prompts": PROMPTS,
        "settings": SETTINGS | {"draws": DRAWS, "weighting": "sde"},
        "unit": "nats",
        "side": side,
        "timesteps": first.timesteps.tolist(),
        "by_step": digits(first.by_step),  # of the first draw, whose pictures are shown
        "telling": telling(pictures),
        "by_draw": digits(estimate.by_draw),
        "intervals": [digits(student(estimate.by_draw[: n + 1])) for n in range(1, DRAWS)],
        "model": fingerprint_of_model(),
        "provenance": provenance(process),
    }


def tiles(process: Any, trace: Any) -> np.ndarray:
    """Pictures (2, 4, steps, side, side, 3) in 0 … 1: for either path what `COLUMNS` names."""
    from matplotlib import colormaps

    from conjure_tools.plots import difference_maps

    maps = difference_maps(trace)
    scale = np.quantile(maps, 0.995)  # one for all steps, so that it lights up
    both = []
    for half in (0, 1):
        x, t = trace.states[half], trace.timesteps
        views = [x, *(process.clean(x, t, trace.eps[half, j]) for j in (0, 1))]
        decoded = np.stack([process.decode(latents) for latents in views])
        side = decoded.shape[2]
        lit = [
            Image.fromarray(np.sqrt(one / scale).clip(0, 1).astype(np.float32)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
            for one in maps[half]
        ]
        heat = colormaps["inferno"](np.stack([np.asarray(one) for one in lit]).clip(0, 1))
        both.append(np.concatenate([decoded, heat[None, ..., :3]]))
    return np.stack(both)


def telling(pictures: np.ndarray) -> int:
    """The last step at which the pictures that either text expects differ half as much as ever."""
    apart = ((pictures[:, 1] - pictures[:, 2]) ** 2).mean((0, 2, 3, 4))
    return int(np.flatnonzero(apart >= apart.max() / 2).max())


def student(values: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean of two values or more."""
    from scipy.stats import sem, t

    half = t.ppf(0.975, len(values) - 1) * sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def digits(values: Any) -> list[float]:
    """Numbers in five significant digits."""
    return [float(f"{value:.5g}") for value in values]


def fingerprint_of_model() -> str:
    """What the recording says it was made with."""
    import hashlib

    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


# -- the animated picture --------------------------------------------------------------------


def moments(run: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    """What is shown one after another: (steps, draws done, milliseconds)."""
    steps, draws = len(run["timesteps"]), len(run["by_draw"])
    for step in range(steps):
        yield step + 1, 0, 220
    for draw in range(1, draws + 1):
        yield steps, draw, 4000 if draw == draws else 1000 if draw == 1 else 130


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def frame(
    run: dict[str, Any], sheet: Image.Image, steps: int, draws: int, pictured: int
) -> Image.Image:
    """One moment: two rows of pictures, and beside them what the steps add and the number."""
    picture = Image.new("RGB", (860, 372), "white")
    draw = ImageDraw.Draw(picture)
    tile, gap, left, top, side = 128, 12, 12, 66, run["side"]
    quoted = [f"“{prompt}”" for prompt in run["prompts"]]
    for row in (0, 1):
        y = top + row * (tile + 38)
        draw.text((left, y - 21), f"the path of {quoted[row]}", COLOURS[row], font(13, bold=True))
        for column in range(4):
            box = (pictured, 4 * row + column)
            cut = sheet.crop((box[0] * side, box[1] * side, *((b + 1) * side for b in box)))
            picture.paste(
                cut.resize((tile, tile), Image.Resampling.NEAREST),
                (left + column * (tile + gap), y),
            )
    for column, words in enumerate(COLUMNS):
        text = words.format(*quoted).replace(", ", ",\n").split("\n")
        for line, part in enumerate(text):
            x = left + column * (tile + gap)
            draw.text((x, 6 + 15 * line), part, INK, font(11))
    draw_numbers(draw, run, steps, draws, (left + 4 * (tile + gap) + 16, 844))
    return picture


def draw_numbers(
    draw: ImageDraw.ImageDraw, run: dict[str, Any], steps: int, draws: int, span: tuple[int, int]
) -> None:
    """What each step adds, and the number so far."""
    left, right = span
    adds = np.array(run["by_step"])
    draw.text((left, 6), "what each step adds", INK, font(12))
    wide = (right - left) / len(adds)
    for i, height in enumerate(110 * adds.clip(min=0) / adds.max()):
        box = (left + i * wide + 1, 136 - height, left + (i + 1) * wide - 1, 137)
        draw.rectangle(box, fill=BAR if i < steps else "#dddddd")
    title, number, below = spoken(run, steps, draws)
    draw.text((left, 152), title, INK, font(12))
    draw.text((left, 168), number, INK, font(30, bold=True))
    draw.text((left, 206), below, PALE, font(12))
    draw_settling(draw, run, draws, span)


def draw_settling(
    draw: ImageDraw.ImageDraw, run: dict[str, Any], draws: int, span: tuple[int, int]
) -> None:
    """The draws so far: dots, their mean as a line, its interval as a band."""
    values, intervals = np.array(run["by_draw"]), run["intervals"]
    settled = [end for interval in intervals[2:] for end in interval]  # the first are very wide
    low, high = min(*values, *settled), max(*values, *settled)
    wide = (span[1] - span[0]) / len(values)

    def y(value: float) -> float:
        return 362 - 118 * (min(max(value, low), high) - low) / (high - low)

    for i in range(1, draws):
        x, (a, b) = span[0] + i * wide, intervals[i - 1]
        draw.rectangle((x, y(b), x + wide, y(a)), fill="#cfe3f0")
    for i in range(draws):
        x, mean, dot = span[0] + i * wide, y(values[: i + 1].mean()), y(values[i])
        draw.line((x, mean, x + wide, mean), BAR, 2)
        draw.ellipse((x + wide / 2 - 2.5, dot - 2.5, x + wide / 2 + 2.5, dot + 2.5), fill=PALE)


def spoken(run: dict[str, Any], steps: int, draws: int) -> tuple[str, str, str]:
    """What stands above, in and below the number."""
    unit, of = run["unit"], len(run["by_draw"])
    if not draws:
        so_far = sum(run["by_step"][:steps])
        return f"step {steps} of {len(run['by_step'])}", f"{so_far:.0f} {unit}", "so far"
    mean = float(np.mean(run["by_draw"][:draws]))
    if draws == 1:
        return f"draw 1 of {of}", f"{mean:.0f} {unit}", "other noise gives others"
    a, b = run["intervals"][draws - 2]
    return f"the mean of {draws} draws", f"{mean:.0f} {unit}", f"95 % interval {a:.0f} to {b:.0f}"


def draw_pictures(run: dict[str, Any]) -> None:
    """The animated picture, and a still: the end, with the pictures that differ most.

    Raises:
        ValueError: the animated picture is larger than a README should load.
    """
    with Image.open(SHEET) as file:
        sheet = file.convert("RGB")
    shown = list(moments(run))
    frames = [frame(run, sheet, steps, draws, steps - 1) for steps, draws, _ in shown]
    times = [milliseconds for *_, milliseconds in shown]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": times}
    frames[0].save(ANIMATED, loop=0, quality=70, method=4, **more)
    still = frame(run, sheet, *shown[-1][:2], run["telling"])
    still.quantize(128).save(STILL, optimize=True)
    if (size := ANIMATED.stat().st_size) > LIMIT:
        raise ValueError(f"{ANIMATED.name} has {size:,} bytes, more than {LIMIT:,}")


# -- the pages -------------------------------------------------------------------------------


def player(run: dict[str, Any]) -> str:
    """The player of the recording as HTML; without JavaScript it is a still."""
    needed = ("prompts", "unit", "side", "by_step", "telling", "by_draw", "intervals")
    content = {name: run[name] for name in needed} | {"columns": COLUMNS, "colours": COLOURS}
    with Image.open(STILL) as still:
        size = still.size
    first, second = run["prompts"]
    place, version = "../_static/recording", fingerprint(PARTS)[:8]
    return (
        f'<link rel="stylesheet" href="{place}/recording.css?{version}">\n'
        f'<conjure-recording data-sheet="{place}/recording.webp?{version}">\n'
        f'<img src="{place}/recording.png" width="{size[0]}" height="{size[1]}" '
        f'alt="Pictures on the way from noise to “{first}” and to “{second}”, what the model '
        'expects of each under either text, and where that differs">\n'
        f'<script type="application/json">{embedded(content)}</script>\n</conjure-recording>\n'
        f'<script src="{place}/recording.js?{version}" defer></script>\n'
    )


def read() -> dict[str, Any]:
    """The numbers of the recording in the repository."""
    found: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))
    return found


def in_words(run: dict[str, Any]) -> str:
    """The recording in a paragraph of Markdown."""
    first, second = run["prompts"]
    settings, (low, high) = run["settings"], run["intervals"][-1]
    mean = float(np.mean(run["by_draw"]))
    return (
        f"A recorded run of the embedded model. From the same noise, one path goes to “{first}” "
        f"and one to “{second}”. At each of {settings['steps']} steps the model is asked what it "
        "expects of the unfinished picture under either text. Where the two answers differ, the "
        "right column lights up, and the differences add up to the distance: "
        f"{mean:.0f} nats, with a 95 % interval of {low:.0f} to {high:.0f} after "
        f"{settings['draws']} draws of noise.\n"
    )


def put_beside(page: Path) -> None:
    """What pages include."""
    run = read()
    (page / "recording.txt").write_text(f"```{{raw}} html\n{player(run)}```\n", encoding="utf-8")
    (page / "recording_words.txt").write_text(in_words(run), encoding="utf-8")


def publish(html: Path) -> None:
    """Put what the player loads among the static files of the built book."""
    copy_into(html / "_static" / "recording", PARTS)


def main() -> None:
    """Record anew."""
    run = record()
    NUMBERS.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_pictures(run)
    for file in (SHEET, STILL, ANIMATED, NUMBERS):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"\nFAILED: {error}")
